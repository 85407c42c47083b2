"""The columns of a regression, standardised for the search and returned to their own units for the
reader.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from nll.data.prefetch import blocks
from nll.kernels.multinomial import Rows, Standard, row_sums
from nll.regression.collinear import dependencies, dependent

if TYPE_CHECKING:
    from typing_extensions import Self

INTERCEPT = "Intercept"
_ROUNDED = 1e-13
# the least eigenvalue of the correlations at which products of the columns still have their digits
_APART = 1e-8


@dataclass(frozen=True)
class Frame:
    """Columns for a search: those given, centred (where there is an intercept) and scaled to unit
    spread.

    b = to_given @ b_of_the_search: coefficients of the search's columns become those of the columns
    as given.
    """

    names: list[str]  # (p), the intercept's first
    standard: Standard
    to_given: Tensor  # (p, p)
    gram: Tensor  # (p, p), the means of the products of the search's columns
    reach: float  # no row of them is longer
    length: int  # how many rows there are

    @property
    def intercept(self) -> bool:
        """Whether the first column is the constant."""
        return self.standard.intercept

    @property
    def count(self) -> int:
        """How many coefficients a linear score has."""
        return len(self.names)

    def parts(self) -> Iterator[Tensor]:
        """The search's columns, some rows at a time."""
        raise NotImplementedError

    def turned_by(self, factor: Tensor) -> Self:
        """The columns x factor^-1, of the same span, with an upper triangular factor."""
        raise NotImplementedError

    def independent(self) -> Self:
        """Columns that the search can tell apart: these, or orthogonal ones where some are nearly
        each other.

        Raises ValueError naming a column that the others determine, and how.
        """
        if self.length >= self.count and float(torch.linalg.eigvalsh(self.gram)[0]) > _APART:
            return self
        return self.orthogonal()

    def orthogonal(self) -> Self:
        """The same columns as x = Q R, with Q for the search: columns that are nearly each other
        cost no digits.

        Raises ValueError naming a column that the others determine, and how.
        """
        if self.length < self.count:
            raise ValueError(
                f"expected at least as many rows as coefficients, got {self.length} "
                f"for {self.count}"
            )
        r = self._triangle()
        self._require_rank(r)
        unit = r.diagonal().sign() * self.length**0.5  # so that the intercept's column stays 1
        return self.turned_by(r / unit[:, None])

    def _triangle(self) -> Tensor:
        """R of the columns' QR factors, a part of the rows after the other (Demmel et al. 2012,
        "TSQR").
        """
        r = torch.zeros(0, self.count, dtype=torch.float64)
        for x in self.parts():
            r = torch.linalg.qr(torch.cat([r, x]), mode="r").R
        return r

    def _turned(self, factor: Tensor) -> dict[str, Any]:
        """What changes with x factor^-1, but for the longest row."""
        eye = torch.eye(self.count, dtype=torch.float64)
        back = torch.linalg.solve_triangular(factor, eye, upper=True)
        return {"to_given": self.to_given @ back, "gram": eye}

    def _require_rank(self, r: Tensor) -> None:
        if null_direction(r) is None:
            return
        found = dependencies(r, self.to_given, self.intercept)
        if found:
            raise dependent(found, self.names, self.intercept)


class Survey(NamedTuple):
    """What one look at all rows tells of the columns given (n, q)."""

    rows: int
    low: Tensor  # (q)
    high: Tensor
    about: Standard  # with the intercept, if there is one
    gram: Tensor  # (p, p), the means of the products of the columns about it

    @property
    def spread(self) -> Tensor:
        """(p): the root of the mean squares."""
        return self.gram.diagonal().sqrt()

    def about_mean(self) -> Survey:
        """The same products about the columns' means: those of x - d are G - m d' - d m' + d d',
        with m = d.
        """
        if not self.about.intercept:
            return self
        mean = self.gram[0].clone()
        mean[0] = 0.0
        gram = self.gram - torch.outer(mean, mean)
        gram[0, 1:] = gram[1:, 0] = 0.0
        centre = self.about.centre + mean[1:] / self.about.scale
        return self._replace(about=self.about._replace(centre=centre), gram=gram)

    def frame(self, names: list[str] | None, constant: bool = False) -> dict[str, Any]:
        """The fields of a `Frame`; ValueError for columns that do not vary, unless `constant` ones
        are usable.
        """
        (centre, unit, intercept), q = self.about, len(self.low)
        names = names or [f"x{j}" for j in range(q)]
        varies = self.high > self.low if intercept else (self.high != 0) | (self.low != 0)
        if not constant:
            _require_varying(names, varies)
        spread = self.spread.clone()
        spread[int(intercept) :][~varies] = 1.0
        scale = unit / spread[int(intercept) :]
        reach = (
            float(
                (torch.maximum(self.high - centre, centre - self.low) * scale).square().sum()
                + intercept
            )
            ** 0.5
        )
        to_given = torch.diag(scale)
        if intercept:
            names = [INTERCEPT, *names]
            to_given = torch.block_diag(torch.ones(1, dtype=torch.float64), to_given)
            to_given[0, 1:] = -centre * scale
        return {
            "names": names,
            "standard": Standard(centre, scale, intercept),
            "to_given": to_given,
            "gram": self.gram / spread[:, None] / spread,
            "reach": reach,
            "length": self.rows,
        }


class Held(Frame):
    """Those of a design in memory, dense or sparse."""

    def block(self, rows: slice | Tensor) -> Tensor:
        """Some rows of the search's columns."""
        raise NotImplementedError

    def parts(self) -> Iterator[Tensor]:
        """The search's columns, some rows at a time."""
        return (self.block(rows) for rows in blocks(self.length, self.count))

    def given(self, column: int | None = None) -> Tensor:
        """One column in its own units, (n), or all of them, (n, p); the intercept's is the
        first.
        """
        raise NotImplementedError

    def taken(self, rows: slice | Tensor) -> Self:
        """Some rows only; the search's columns are the same."""
        raise NotImplementedError

    def rows(self, labels: Tensor, weights: Tensor | None) -> tuple[Rows, Standard]:
        """The rows with their labels, and what makes the search's columns of theirs."""
        raise NotImplementedError


@dataclass(frozen=True)
class Columns(Held):
    """Those of a dense design."""

    source: Tensor  # (n, q) as given, without the intercept
    # (n, p), the search's columns where these are no longer the standardised ones
    turned: Tensor | None = None

    @cached_property
    def x(self) -> Tensor:
        """All of the search's columns, (n, p); they take memory."""
        return self.block(slice(None))

    def block(self, rows: slice | Tensor) -> Tensor:
        """Some rows of the search's columns."""
        return (
            self.standard.applied(self.source[rows]) if self.turned is None else self.turned[rows]
        )

    def given(self, column: int | None = None) -> Tensor:
        """One column in its own units, (n), or all of them, (n, p); the intercept's is the
        first.
        """
        ones = torch.ones(self.length, dtype=torch.float64)
        if column is not None:
            return (
                ones
                if self.intercept and column == 0
                else self.source[:, column - self.intercept].double()
            )
        return (
            torch.cat([ones[:, None], self.source], 1) if self.intercept else self.source.double()
        )

    @classmethod
    def of(
        cls, given: Tensor, names: list[str] | None, intercept: bool, constant: bool = False
    ) -> Columns:
        """Standardise the columns `given` (n, q), to which the intercept is added; see
        `Survey.frame`.
        """
        low, high, centre = _extent(given)
        centre = centre if intercept else torch.zeros_like(centre)
        unit = torch.maximum(high - centre, centre - low)  # squares overflow above 1e154
        about = Standard(centre, torch.where(unit > 0, 1 / unit, 1.0), intercept)
        found = Survey(len(given), low, high, about, gram_of(given, about))
        if intercept and bool((found.gram[0, 1:].abs() > _ROUNDED).any()):  # the mean was
            about = found.about_mean().about
            found = found._replace(about=about, gram=gram_of(given, about))
        return cls(**found.frame(names, constant), source=given)

    def turned_by(self, factor: Tensor) -> Columns:
        """The columns x factor^-1, of the same span, with an upper triangular factor."""
        turned = torch.linalg.solve_triangular(factor, self.x, upper=True, left=False)
        reach = float(turned.square().sum(1).amax()) ** 0.5
        return replace(self, turned=turned, reach=reach, **self._turned(factor))

    def taken(self, rows: slice | Tensor) -> Columns:
        """Some rows only; the search's columns are the same."""
        source, turned = self.source[rows], None if self.turned is None else self.turned[rows]
        return replace(self, source=source, turned=turned, length=len(source))

    def rows(self, labels: Tensor, weights: Tensor | None) -> tuple[Rows, Standard]:
        """The rows with their labels, and what makes the search's columns of theirs."""
        if self.turned is None:
            return Rows(self.source, labels, weights), self.standard
        return Rows(self.turned, labels, weights), plain(self.count)


def plain(count: int) -> Standard:
    """Columns as they are."""
    zero = torch.zeros(count, dtype=torch.float64)
    return Standard(zero, torch.ones_like(zero), False)


def _require_varying(names: list[str], varies: Tensor) -> None:
    constant = [name for name, varied in zip(names, varies.tolist(), strict=True) if not varied]
    if constant:
        raise ValueError(
            f"expected columns that vary, got constant column {', '.join(map(repr, constant))}"
        )


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


def gram_of(given: Tensor, about: Standard, threads: int | None = None) -> Tensor:
    """The means of the products of the columns: four times the information of two classes that are
    equally likely.
    """
    none = torch.zeros(1, given.shape[1] + about.intercept, dtype=torch.float64)
    square = row_sums(Rows(given), about, none, square="information", threads=threads).square
    assert square is not None
    return square * (4 / len(given))


def null_direction(r: Tensor) -> Tensor | None:
    """Return weights of the columns that add to zero in every row, if there are any; the largest is
    near 1.

    r: upper triangular, of the columns' QR factors.
    """
    lengths = r.square().sum(0).sqrt()
    _, sizes, directions = torch.linalg.svd(r / lengths)
    if len(sizes) == r.shape[1] and float(sizes[-1]) > 1e-10 * float(sizes[0]):
        return None
    direction = directions[-1] / lengths
    return torch.where(directions[-1].abs() < 1e-6, 0.0, direction)
