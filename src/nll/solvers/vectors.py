"""Parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from nll.solvers.parameters import Params


def flatten(params: Mapping[str, Tensor]) -> Tensor:
    """Return all numbers in one vector (N)."""
    return torch.cat([value.reshape(-1) for value in params.values()])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> Params:
    """Cut (N, ...) into tensors (*shape, ...), with the names and shapes of `like`."""
    pieces = vector.split([value.numel() for value in like.values()])
    return {
        name: piece.reshape((*value.shape, *vector.shape[1:]))
        for (name, value), piece in zip(like.items(), pieces, strict=True)
    }
