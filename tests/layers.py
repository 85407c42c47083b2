"""A layer on numbers that are drawn."""

from __future__ import annotations

import torch

FEATURES = 7


def layer_of(rows: int, classes: int, dtype=torch.float64, features: int = FEATURES):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, features, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    head = (
        torch.randn(classes, features, generator=draw, dtype=torch.float64)
        .to(dtype)
        .requires_grad_()
    )
    return x, head, torch.randint(0, classes, (rows,), generator=draw)
