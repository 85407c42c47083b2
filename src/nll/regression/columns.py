"""The columns of a regression, standardised for the search and returned to their own units for the reader."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nll.regression import existence

INTERCEPT = "Intercept"


@dataclass(frozen=True)
class Columns:
    """Columns of a design in float64, centred (where there is an intercept) and scaled to unit spread.

    b = to_given @ b_standardised: coefficients of the standardised columns become those of the columns as given.
    """

    x: Tensor  # (n, p), the intercept's column of ones first
    names: list[str]
    intercept: bool
    to_given: Tensor  # (p, p)

    @property
    def count(self) -> int:
        """How many coefficients a linear score has."""
        return len(self.names)

    def given(self, column: int | None = None) -> Tensor:
        """One column in its own units, (n), or all of them, (n, p); the intercept's is the first."""
        back = torch.linalg.inv(self.to_given)
        return self.x @ (back if column is None else back[:, column])

    @classmethod
    def of(cls, given: Tensor, names: list[str] | None, intercept: bool) -> Columns:
        """Standardise the columns `given` (n, p), to which the intercept is added."""
        names = names or [f"x{j}" for j in range(given.shape[1])]
        centre = given.mean(0) if intercept else torch.zeros(given.shape[1], dtype=torch.float64)
        x = given - centre
        spread = x.square().mean(0).sqrt()
        # A constant column is left with rounding errors of its mean: no spread at all.
        spread = torch.where(spread > 1e-13 * centre.abs(), spread, 0.0)
        _require_varying(names, spread, centre)
        scale = torch.where(spread > 0, 1 / spread, 1.0)
        x.mul_(scale)
        if not intercept:
            return cls(x, names, False, torch.diag(scale))
        ones = torch.ones(len(x), 1, dtype=torch.float64)
        to_given = torch.diag(torch.cat([torch.ones(1, dtype=torch.float64), scale]))
        to_given[0, 1:] = -centre * scale
        return cls(torch.cat([ones, x], 1), [INTERCEPT, *names], True, to_given)

    def require_rank(self) -> None:
        """Raise ValueError naming a column that the others determine, and how."""
        if len(self.x) < self.count:
            raise ValueError(f"expected at least as many rows as coefficients, got {len(self.x)} for {self.count}")
        direction = existence.null_direction(self.x)
        if direction is None:
            return
        weights = self.to_given @ direction
        slopes = weights[1:] if self.intercept else weights
        last = int(slopes.abs().argmax()) + self.intercept
        others = [
            f"{float(-weight / weights[last]):+.6g}" + ("" if name == INTERCEPT else f" {name}")
            for j, (name, weight) in enumerate(zip(self.names, weights, strict=True))
            if j != last and abs(float(weight / weights[last])) > 1e-9
        ]
        raise ValueError(
            f"expected linearly independent columns, got {self.names[last]!r} = {' '.join(others) or '0'} in every row"
        )


def _require_varying(names: list[str], spread: Tensor, centre: Tensor) -> None:
    constant = [name for name, size in zip(names, spread.tolist(), strict=True) if size == 0.0]
    if constant:
        raise ValueError(f"expected columns that vary, got constant column {', '.join(map(repr, constant))}")
