"""The columns of a regression, standardised for the search and returned to their own units for the reader."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from nll.kernels.softmax_sums import Rows, Standard, row_sums
from nll.likelihood.blocks import blocks
from nll.regression import existence

INTERCEPT = "Intercept"
_ROUNDED = 1e-13
_APART = 1e-8  # the least eigenvalue of the correlations at which products of the columns still have their digits


@dataclass(frozen=True)
class Columns:
    """The columns of a design for a search: centred (where there is an intercept) and scaled to unit spread.

    b = to_given @ b_of_the_search: coefficients of the search's columns become those of the columns as given.
    """

    source: Tensor  # (n, q) as given, without the intercept
    names: list[str]  # (p), the intercept's first
    standard: Standard
    to_given: Tensor  # (p, p)
    gram: Tensor  # (p, p), the means of the products of the search's columns
    reach: float  # no row of them is longer
    turned: Tensor | None = None  # (n, p), the search's columns where these are no longer the standardised ones

    @property
    def intercept(self) -> bool:
        """Whether the first column is the constant."""
        return self.standard.intercept

    @property
    def count(self) -> int:
        """How many coefficients a linear score has."""
        return len(self.names)

    @cached_property
    def x(self) -> Tensor:
        """All of the search's columns, (n, p); they take memory."""
        return self.block(slice(None))

    def block(self, rows: slice) -> Tensor:
        """Some rows of the search's columns."""
        return self.standard.applied(self.source[rows]) if self.turned is None else self.turned[rows]

    def given(self, column: int | None = None) -> Tensor:
        """One column in its own units, (n), or all of them, (n, p); the intercept's is the first."""
        ones = torch.ones(len(self.source), dtype=torch.float64)
        if column is not None:
            return ones if self.intercept and column == 0 else self.source[:, column - self.intercept].double()
        return torch.cat([ones[:, None], self.source], 1) if self.intercept else self.source.double()

    @classmethod
    def of(cls, given: Tensor, names: list[str] | None, intercept: bool) -> Columns:
        """Standardise the columns `given` (n, q), to which the intercept is added."""
        names = names or [f"x{j}" for j in range(given.shape[1])]
        low, high, centre = _extent(given)
        _require_varying(names, high > low if intercept else (high != 0) | (low != 0))
        centre = centre if intercept else torch.zeros_like(centre)
        unit = torch.maximum(high - centre, centre - low)  # squares overflow above 1e154
        gram = _gram(given, Standard(centre, 1 / unit, intercept))
        if intercept and bool((gram[0, 1:].abs() > _ROUNDED).any()):  # the mean was
            centre = centre + gram[0, 1:] * unit
            gram = _gram(given, Standard(centre, 1 / unit, intercept))
        spread = gram.diagonal().sqrt()
        scale = 1 / (unit * spread[int(intercept) :])
        reach = float((torch.maximum(high - centre, centre - low) * scale).square().sum() + intercept) ** 0.5
        to_given = torch.diag(scale)
        if intercept:
            names = [INTERCEPT, *names]
            to_given = torch.block_diag(torch.ones(1, dtype=torch.float64), to_given)
            to_given[0, 1:] = -centre * scale
        gram = gram / spread[:, None] / spread
        return cls(given, names, Standard(centre, scale, intercept), to_given, gram, reach)

    def independent(self) -> Columns:
        """Columns that the search can tell apart: these, or orthogonal ones where some are nearly each other.

        Raises ValueError naming a column that the others determine, and how.
        """
        if len(self.source) >= self.count and float(torch.linalg.eigvalsh(self.gram)[0]) > _APART:
            return self
        return self.orthogonal()

    def orthogonal(self) -> Columns:
        """The same columns as x = Q R, with Q for the search: columns that are nearly each other cost no digits.

        Raises ValueError naming a column that the others determine, and how.
        """
        self._require_rank()
        q, r = torch.linalg.qr(self.x)
        unit = r.diagonal().sign() * len(self.x) ** 0.5  # so that the intercept's column stays 1
        back = torch.linalg.solve_triangular(r, torch.diag(unit), upper=True)
        turned, eye = q * unit, torch.eye(self.count, dtype=torch.float64)
        reach = float(turned.square().sum(1).amax()) ** 0.5
        return replace(self, turned=turned, to_given=self.to_given @ back, gram=eye, reach=reach)

    def rows(self, labels: Tensor, weights: Tensor | None) -> tuple[Rows, Standard]:
        """The rows with their labels, and what makes the search's columns of theirs."""
        if self.turned is None:
            return Rows(self.source, labels, weights), self.standard
        zero = torch.zeros(self.count, dtype=torch.float64)
        return Rows(self.turned, labels, weights), Standard(zero, torch.ones_like(zero), False)

    def _require_rank(self) -> None:
        if len(self.source) < self.count:
            raise ValueError(f"expected at least as many rows as coefficients, got {len(self.source)} for {self.count}")
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


def _extent(given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The least, the largest and the mean value of each column."""
    parts = [given[rows] for rows in blocks(len(given), given.shape[1])]
    ends = [torch.aminmax(part, dim=0) for part in parts]
    mean = sum((part.double() / len(given)).sum(0) for part in parts)
    assert isinstance(mean, Tensor)
    return (
        torch.stack([e.min for e in ends]).amin(0).double(),
        torch.stack([e.max for e in ends]).amax(0).double(),
        mean,
    )


def _gram(given: Tensor, standard: Standard) -> Tensor:
    """The means of the products of the columns: four times the information of two classes that are equally likely."""
    none = torch.zeros(1, given.shape[1] + standard.intercept, dtype=torch.float64)
    square = row_sums(Rows(given), standard, none, square="information").square
    assert square is not None
    return square * (4 / len(given))
