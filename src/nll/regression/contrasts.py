"""The classes of a response and their baseline, whose coefficients are 0."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def without(baseline: int | None, count: int) -> list[int]:
    return [k for k in range(count) if k != baseline]


class Classes(NamedTuple):
    """The classes in their own order; models number the baseline 0, and the others follow."""

    names: tuple[str, ...]  # (K)
    baseline: int = 0

    @property
    def others(self) -> list[int]:
        return without(self.baseline, len(self.names))

    @property
    def order(self) -> Tensor:
        """(K): the classes, the baseline first."""
        return torch.tensor([self.baseline, *self.others])

    @property
    def baseline_first(self) -> tuple[str, ...]:
        """(K): the names, the baseline's first."""
        return tuple(self.names[k] for k in self.order.tolist())

    def numbers(self, codes: Tensor) -> Tensor:
        """Number classes given by their places in `names` with the baseline as 0."""
        return self.order.argsort()[codes] if self.baseline else codes

    def to_full(self, coef: Tensor) -> Tensor:
        """Return the coefficients (K, p) of all classes from those of the others (K - 1, p)."""
        full = coef.new_zeros(len(self.names), *coef.shape[1:])
        full[self.others] = coef
        return full

    @property
    def of_all(self) -> Tensor:
        """(K, K - 1): the coefficients of all classes are this times those of the others."""
        return self.to_full(torch.eye(len(self.names) - 1, dtype=torch.float64))

    def differences(self, full: Tensor) -> Tensor:
        return full[self.others] - full[self.baseline]
