"""Draws and comparisons for the tests of softmax regression."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

import nll


def sample(
    n: int = 200, classes: int = 3, columns: int = 2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Classes that overlap."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, columns))
    scores = x @ draw.normal(size=(columns, classes)) + draw.gumbel(size=(n, classes))
    return x, scores.argmax(1)


def same(found: Tensor, expected, rel: float = 1e-10) -> None:
    torch.testing.assert_close(
        found, torch.as_tensor(expected, dtype=torch.float64), rtol=rel, atol=1e-13
    )


def cross_entropy_of(x: Tensor, labels: Tensor):
    """The summed loss of a network's last layer, as a function of the coefficients of all classes
    but the first.
    """

    def loss(flat: Tensor) -> Tensor:
        coef = torch.cat(
            [torch.zeros(1, x.shape[1], dtype=torch.float64), flat.reshape(-1, x.shape[1])]
        )
        return nll.cross_entropy(x @ coef.T, labels, reduction="sum")

    return loss
