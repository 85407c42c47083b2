"""Rows that are there several times, counted: a likelihood of few different rows costs what those
cost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nll.data.prefetch import blocks

_LOOKED_AT = 1 << 13  # rows that tell whether a search for copies is worth its price
_WORTH = 2  # so many times fewer rows

Counted = tuple[Tensor, Tensor, Tensor]


def counted(x: Tensor, labels: Tensor, weights: Tensor) -> Counted | None:
    """Columns (m, q), labels and weights (m) of the different rows; None where most rows are
    different.

    Rows are sorted by a random sum of their numbers and then compared: copies may be missed, others
        never merged.
    """
    n = len(x)
    if n < 2 * x.shape[1] or not _may_repeat(x[:: -(-n // _LOOKED_AT)]):
        return None
    _, place = _sums(x, labels).unique(return_inverse=True)
    m = int(place.max()) + 1
    if m * _WORTH > n or m < 2 * x.shape[1]:
        return None
    first = torch.empty(m, dtype=torch.int64)
    first[place] = torch.arange(n)
    for rows in blocks(n, 2 * x.shape[1]):
        same = first[place[rows]]
        if not (torch.equal(x[rows], x[same]) and torch.equal(labels[rows], labels[same])):
            return None
    return (
        x[first],
        labels[first],
        torch.zeros(m, dtype=torch.float64).index_add_(0, place, weights),
    )


def _may_repeat(some: Tensor) -> bool:
    return len(_sums(some, torch.zeros(len(some))).unique()) * _WORTH <= len(some)


def _sums(x: Tensor, labels: Tensor) -> Tensor:
    """A number for each row, the same for copies."""
    factors = (
        torch.rand(x.shape[1] + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        + 0.5
    )
    found = torch.empty(len(x), dtype=torch.float64)
    for rows in blocks(len(x), x.shape[1]):
        found[rows] = x[rows].double() @ factors[1:] + labels[rows] * factors[0]
    return found
