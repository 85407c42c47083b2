"""The columns of a regression, standardised for the solver, and the way back to their own units."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from nll.data.prefetch import blocks
from nll.kernels.multinomial import (
    Rows,
    RowSums,
    Square,
    Standard,
    probability_buffer,
    row_sums,
)
from nll.regression.collinear import dependencies, dependent, is_singular

if TYPE_CHECKING:
    from typing_extensions import Self

INTERCEPT = "Intercept"
_ROUNDED = 1e-13
# the least eigenvalue of the correlations at which products of the columns still have their digits
_WELL_CONDITIONED = 1e-8


@dataclass(frozen=True)
class SolverColumns:
    """The solver's columns: centred (where there is an intercept), scaled to unit variance.

    to_data @ b are the coefficients of the columns as given, for coefficients b of the solver's.
    """

    names: list[str]  # (p), the intercept's first
    standard: Standard
    to_data: Tensor  # (p, p)
    gram: Tensor  # (p, p), the means of the products of the solver's columns
    max_norm: float  # the largest norm of a row
    length: int  # number of rows
    # (p, p) upper triangular: the solver's columns are the standardised ones times its inverse
    factor: Tensor | None = field(default=None, kw_only=True)

    @property
    def intercept(self) -> bool:
        return self.standard.intercept

    @property
    def count(self) -> int:
        return len(self.names)

    def parts(self) -> Iterator[Tensor]:
        """Yield the solver's columns, a block of rows at a time."""
        raise NotImplementedError

    def applied(self, x: Tensor) -> Tensor:
        """Return the solver's columns of rows (n, q) as given."""
        x = self.standard.applied(x)
        if self.factor is None:
            return x
        return torch.linalg.solve_triangular(self.factor, x, upper=True, left=False)

    def rotated_by(self, factor: Tensor) -> Self:
        """Return the columns x factor^-1, of the same span, for an upper triangular factor."""
        eye = torch.eye(self.count, dtype=torch.float64)
        back = torch.linalg.solve_triangular(factor, eye, upper=True)
        rotated = replace(self, factor=factor, to_data=self.to_data @ back, gram=eye)
        max_norm = max(float(x.square().sum(1).amax()) for x in rotated.parts()) ** 0.5
        return replace(rotated, max_norm=max_norm)

    def independent(self) -> Self:
        """Return columns that the solver can distinguish: orthogonal ones if some are near others.

        Raises: ValueError naming a column that the others determine, and how.
        """
        if self.length >= self.count:
            smallest = float(torch.linalg.eigvalsh(self.gram)[0])
            if smallest > _WELL_CONDITIONED:
                return self
        return self.orthogonal()

    def orthogonal(self) -> Self:
        """Return Q of x = Q R as the solver's columns: near-collinear columns cost no digits.

        Raises: ValueError naming a column that the others determine, and how.
        """
        if self.length < self.count:
            raise ValueError(
                f"expected at least as many rows as coefficients, got {self.length} "
                f"for {self.count}"
            )
        r = torch.zeros(0, self.count, dtype=torch.float64)
        for x in self.parts():  # a block after the other (Demmel et al. 2012, "TSQR")
            r = torch.linalg.qr(torch.cat([r, x]), mode="r").R
        if is_singular(r):
            combinations = dependencies(r, self.to_data, self.intercept)
            if combinations:
                raise dependent(combinations, self.names, self.intercept)
        unit = r.diagonal().sign() * self.length**0.5  # so that the intercept's column stays 1
        return self.rotated_by(r / unit[:, None])


class Survey(NamedTuple):
    """Extents and products of the columns given (n, q), from one pass over all rows."""

    rows: int
    low: Tensor  # (q)
    high: Tensor
    about: Standard  # with the intercept, if there is one
    gram: Tensor  # (p, p), the means of the products of the columns about it

    def about_mean(self) -> Survey:
        """Centre the products at the columns' means: those of x - d are G - m d' - d m' + d d',
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
        """Return the fields of `SolverColumns`; ValueError for constant columns, unless
        `constant`.
        """
        (centre, unit, intercept), q = self.about, len(self.low)
        names = names or [f"x{j}" for j in range(q)]
        varies = self.high > self.low if intercept else (self.high != 0) | (self.low != 0)
        if not (constant or bool(varies.all())):
            still = ", ".join(repr(names[j]) for j in (~varies).nonzero()[:, 0].tolist())
            raise ValueError(f"expected columns that vary, got constant column {still}")
        std = self.gram.diagonal().sqrt()
        std[int(intercept) :][~varies] = 1.0
        scale = unit / std[int(intercept) :]
        extent = torch.maximum(self.high - centre, centre - self.low) * scale
        to_data = torch.diag(scale)
        if intercept:
            names = [INTERCEPT, *names]
            to_data = torch.block_diag(torch.ones(1, dtype=torch.float64), to_data)
            to_data[0, 1:] = -centre * scale
        return {
            "names": names,
            "standard": Standard(centre, scale, intercept),
            "to_data": to_data,
            "gram": self.gram / std[:, None] / std,
            "max_norm": float(extent.square().sum() + intercept) ** 0.5,
            "length": self.rows,
        }


class Response(NamedTuple):
    """What rows have beside their columns; the fields are those of the kernel's `Rows`."""

    labels: Tensor | None
    weights: Tensor | None = None
    target: Tensor | None = None
    offset: Tensor | None = None

    def at(self, rows: slice | Tensor) -> Response:
        return Response(*(None if part is None else part[rows] for part in self))


Product = Callable[[Tensor], Tensor]  # the information times coefficients (K - 1, p)


@dataclass(frozen=True)
class StoredColumns(SolverColumns):
    """The columns of a design in memory, dense or sparse."""

    source: Any  # (n, q) as given, without the intercept

    def raw(self, rows: Any) -> Tensor:
        """Return some rows of the columns as given, dense."""
        raise NotImplementedError

    def block(self, rows: slice | Tensor) -> Tensor:
        """Return some rows of the solver's columns."""
        return self.applied(self.raw(rows))

    def parts(self) -> Iterator[Tensor]:
        return map(self.block, blocks(self.length, self.count))

    def given(self) -> Tensor:
        """Return all columns in their own units, (n, p); the intercept's is the first."""
        ones = torch.ones(self.length, int(self.intercept), dtype=torch.float64)
        return torch.cat([ones, self.raw(slice(None)).double()], 1)

    def taken(self, rows: slice | Tensor) -> Self:
        """Return some rows only; the solver's columns stay the same."""
        source = self.source[rows if isinstance(rows, slice) else rows.numpy()]
        return replace(self, source=source, length=source.shape[0])

    def row_sums(self, response: Response, theta: Tensor, square: Square | None = None) -> RowSums:
        """Add up the rows at coefficients (K - 1, p)."""
        raise NotImplementedError

    def curvature(self, response: Response, theta: Tensor) -> Product:
        """Return the information at coefficients (K - 1, p) as a product."""
        raise NotImplementedError


class Columns(StoredColumns):
    """The columns of a dense design, a tensor."""

    @classmethod
    def of(
        cls, given: Tensor, names: list[str] | None, intercept: bool, constant: bool = False
    ) -> Columns:
        """Standardise the columns `given` (n, q), to which the intercept is added; see
        `Survey.frame`.
        """
        low, high, centre = _extent(given)
        about = about_centre(low, high, centre, intercept)
        survey = Survey(len(given), low, high, about, gram_of(given, about))
        if intercept and bool((survey.gram[0, 1:].abs() > _ROUNDED).any()):  # the mean was
            about = survey.about_mean().about
            survey = survey._replace(about=about, gram=gram_of(given, about))
        return cls(**survey.frame(names, constant), source=given)

    @cached_property
    def x(self) -> Tensor:
        """All of the solver's columns, (n, p); they take memory."""
        return self.applied(self.source)

    def raw(self, rows: Any) -> Tensor:
        return self.source[rows]

    def block(self, rows: slice | Tensor) -> Tensor:
        return super().block(rows) if self.factor is None else self.x[rows]

    def _sums(self, response: Response, theta: Tensor, **options: Any) -> RowSums:
        if self.factor is None:
            return row_sums(Rows(self.source, *response), self.standard, theta, **options)
        return row_sums(Rows(self.x, *response), unchanged(self.count), theta, **options)

    def row_sums(self, response: Response, theta: Tensor, square: Square | None = None) -> RowSums:
        return self._sums(response, theta, square=square)

    def curvature(self, response: Response, theta: Tensor) -> Product:
        """Keep the probabilities of the first product for the next ones, where they take less
        memory than the columns.
        """
        classes = len(theta) + 1
        probabilities: Tensor | None = None

        def times(direction: Tensor) -> Tensor:
            nonlocal probabilities
            cached = probabilities is not None
            if not cached and classes <= self.count:
                probabilities = probability_buffer(classes, self.length)
            options = {"direction": direction, "probabilities": probabilities, "cached": cached}
            return self._sums(response, theta, **options).score

        return times


def about_centre(low: Tensor, high: Tensor, centre: Tensor, intercept: bool) -> Standard:
    """Scale columns between such ends to at most 1: squares overflow above 1e154."""
    centre = centre if intercept else torch.zeros_like(centre)
    extent = torch.maximum(high - centre, centre - low)
    return Standard(centre, torch.where(extent > 0, 1 / extent, 1.0), intercept)


def unchanged(count: int) -> Standard:
    zero = torch.zeros(count, dtype=torch.float64)
    return Standard(zero, torch.ones_like(zero), False)


def _extent(given: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    parts = [given[rows] for rows in blocks(len(given), given.shape[1])]
    ends = [torch.aminmax(part, dim=0) for part in parts]
    shares = ((part.double() / len(given)).sum(0) for part in parts)
    mean = sum(shares, torch.zeros(given.shape[1], dtype=torch.float64))
    low = torch.stack([end.min for end in ends]).amin(0).double()
    return low, torch.stack([end.max for end in ends]).amax(0).double(), mean


def gram_of(given: Tensor, about: Standard, threads: int | None = None) -> Tensor:
    """Return the means of the products of the columns: four times the information of two classes
    that are equally likely.
    """
    none = torch.zeros(1, given.shape[1] + about.intercept, dtype=torch.float64)
    sums = row_sums(Rows(given), about, none, square="information", threads=threads)
    assert sums.square is not None
    return sums.square * (4 / len(given))
