"""The columns of a regression, standardised for the search and returned to their own units for the reader."""

from __future__ import annotations

from dataclasses import dataclass, replace

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
        varies = given.amax(0) > given.amin(0) if intercept else given.any(0)
        _require_varying(names, varies)
        centre = given.mean(0) if intercept else torch.zeros(len(names), dtype=torch.float64)
        x = given - centre
        unit = x.abs().amax(0)  # squares overflow above 1e154
        x.div_(unit)
        if intercept:  # once more: the mean was rounded
            left = x.mean(0)
            x, centre = x - left, centre + left * unit
        spread = x.square().mean(0).sqrt()
        x.div_(spread)
        scale = 1 / (unit * spread)
        if not intercept:
            return cls(x, names, False, torch.diag(scale))
        ones = torch.ones(len(x), 1, dtype=torch.float64)
        to_given = torch.diag(torch.cat([torch.ones(1, dtype=torch.float64), scale]))
        to_given[0, 1:] = -centre * scale
        return cls(torch.cat([ones, x], 1), [INTERCEPT, *names], True, to_given)

    def orthogonal(self) -> Columns:
        """The same columns as x = Q R, with Q for the search: columns that are nearly each other cost no digits.

        Raises ValueError naming a column that the others determine, and how.
        """
        self._require_rank()
        q, r = torch.linalg.qr(self.x)
        unit = r.diagonal().sign() * len(self.x) ** 0.5  # so that the intercept's column stays 1
        back = torch.linalg.solve_triangular(r, torch.diag(unit), upper=True)
        return replace(self, x=q * unit, to_given=self.to_given @ back)

    def _require_rank(self) -> None:
        if len(self.x) < self.count:
            raise ValueError(f"expected at least as many rows as coefficients, got {len(self.x)} for {self.count}")
        direction = existence.null_direction(self.x)
        if direction is None:
            return
        weights = self.to_given @ direction
        slopes = weights[1:] if self.intercept else weights
        # The largest; of equal ones the last, whatever the rounding.
        last = int((slopes.abs() > (1 - 1e-6) * slopes.abs().max()).nonzero()[-1]) + self.intercept
        # A coefficient may be small in its units; the constant is what the others do not cancel, up to rounding.
        if self.intercept:
            cancelled = (self.to_given[0, 1:] * direction[1:]).abs().max()
            direction[0] = weights[0] * (weights[0].abs() > 1e-9 * cancelled)
        others = [
            f"{float(-weight / weights[last]):+.6g}" + ("" if name == INTERCEPT else f" {name}")
            for j, (name, weight, used) in enumerate(zip(self.names, weights, direction, strict=True))
            if j != last and used
        ]
        raise ValueError(
            f"expected linearly independent columns, got {self.names[last]!r} = {' '.join(others) or '0'} in every row"
        )


def _require_varying(names: list[str], varies: Tensor) -> None:
    constant = [name for name, varied in zip(names, varies.tolist(), strict=True) if not varied]
    if constant:
        raise ValueError(f"expected columns that vary, got constant column {', '.join(map(repr, constant))}")
