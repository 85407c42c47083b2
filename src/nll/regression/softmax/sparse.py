"""Softmax regression of sparse columns: values and slopes by products with the numbers that are not
0.

The columns are standardised for the search as others are, but not in memory: with centre c and
    scale s,

    scores = X (s b) + b_0 - sum(c s b)        score = s (X' r - c sum(r))

Products of columns are sparse too, and centred afterwards; where rows have many numbers, or digits
would cancel, they are formed of dense rows by the kernel, some at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from nll.data.prefetch import blocks
from nll.kernels.multinomial import Rows, RowSums, Square, Standard, row_sums
from nll.regression.design_matrix import Held, Survey, gram_of, plain
from nll.regression.softmax.objective import InMemory

_MOST_COLUMNS = 8192  # their products, (p, p), are held in memory
# of the mean square, to the variance: products of centred columns have lost so many digits
_CANCELLED = 1e6
_WIDE = 1 << 20  # numbers of a block of scores
_KEPT = 1 << 25  # probabilities
_TALL = 1 << 13  # rows of a dense block
_DENSE_RATE = 50  # products of dense columns, in the time of one of sparse ones


@dataclass(frozen=True)
class SparseColumns(Held):
    """Those of a sparse design."""

    source: Any  # scipy's csr_array, (n, q) as given, without the intercept
    # (p, p): the search's columns are the standardised ones times its inverse
    factor: Tensor | None = None

    @classmethod
    def of(
        cls, given: Any, names: list[str] | None, intercept: bool, constant: bool = False
    ) -> SparseColumns:
        """Standardise the columns `given` (n, q); ValueError for too many of them, or constant ones
        (see `Columns`).
        """
        given = csr_array(given)  # not a matrix, whose * is another
        n, q = given.shape
        if q > _MOST_COLUMNS:
            raise ValueError(f"expected at most {_MOST_COLUMNS} columns of a sparse X, got {q}")
        low, high = (
            torch.from_numpy(end.toarray().reshape(-1)).double()
            for end in (given.min(0), given.max(0))
        )
        mean = torch.from_numpy(np.asarray(given.mean(0), dtype=np.float64).reshape(-1))
        mean = torch.where(high > low, mean, low)
        centre = mean if intercept else torch.zeros(q, dtype=torch.float64)
        unit = torch.maximum(high - centre, centre - low)
        about = Standard(centre, torch.where(unit > 0, 1 / unit, 1.0), intercept)
        return cls(
            **Survey(n, low, high, about, _gram(given, about)).frame(names, constant), source=given
        )

    @cached_property
    def dense_products(self) -> bool:
        """Whether products of the columns are better formed of dense rows: few zeros, or digits
        that would cancel.
        """
        rows = torch.from_numpy(np.diff(self.source.indptr).astype(np.float64))
        if float(rows.square().sum()) * _DENSE_RATE > self.length * self.source.shape[1] ** 2:
            return True
        spread = (self.gram.diagonal() if self.factor is None else torch.ones(self.count))[
            int(self.intercept) :
        ]
        return bool(
            (
                self.standard.centre.square() * self.standard.scale.square() > _CANCELLED * spread
            ).any()
        )

    def dense(self, rows: slice | Tensor) -> Tensor:
        """Some rows as given."""
        at = rows if isinstance(rows, slice) else rows.numpy()
        return torch.from_numpy(self.source[at].toarray())

    def block(self, rows: slice | Tensor) -> Tensor:
        """Some rows of the search's columns."""
        x = self.standard.applied(self.dense(rows))
        return (
            x
            if self.factor is None
            else torch.linalg.solve_triangular(self.factor, x, upper=True, left=False)
        )

    def given(self, column: int | None = None) -> Tensor:
        """One column in its own units, (n), or all of them, (n, p); the intercept's is the
        first.
        """
        ones = torch.ones(self.length, 1, dtype=torch.float64)
        if column is not None:
            one = (
                self.source[:, [column - self.intercept]].toarray()
                if column or not self.intercept
                else ones
            )
            return torch.as_tensor(one, dtype=torch.float64)[:, 0]
        x = self.dense(slice(None)).double()
        return torch.cat([ones, x], 1) if self.intercept else x

    def turned_by(self, factor: Tensor) -> SparseColumns:
        """The columns x factor^-1, of the same span, with an upper triangular factor."""
        turned = replace(self, factor=factor, **self._turned(factor))
        return replace(
            turned, reach=max(float(x.square().sum(1).amax()) for x in turned.parts()) ** 0.5
        )

    def taken(self, rows: slice | Tensor) -> SparseColumns:
        """Some rows only; the search's columns are the same."""
        source = self.source[rows if isinstance(rows, slice) else rows.numpy()]
        return replace(self, source=source, length=source.shape[0])

    def rows(self, labels: Tensor, weights: Tensor | None) -> tuple[Rows, Standard]:
        """The labels and weights alone."""
        return Rows(torch.empty(0, self.count), labels, weights), self.standard

    def of_source(self, coef: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The search's coefficients (k, p) as those of the columns given (q, k), and constants
        (k).
        """
        if self.factor is not None:
            coef = torch.linalg.solve_triangular(self.factor, coef.T, upper=True).T
        slopes = coef[:, int(self.intercept) :] * self.standard.scale
        constants = -slopes @ self.standard.centre + (coef[:, 0] if self.intercept else 0.0)
        return slopes.T.contiguous().numpy(), constants.numpy()

    def to_search(self, products: Tensor, total: Tensor) -> Tensor:
        """The derivative by the search's coefficients (k, p), of residuals' products (k, q) and
        totals (k).
        """
        slopes = (products - total[:, None] * self.standard.centre) * self.standard.scale
        found = torch.cat([total[:, None], slopes], 1) if self.intercept else slopes
        return (
            found
            if self.factor is None
            else torch.linalg.solve_triangular(self.factor.T, found.T, upper=False).T
        )


def _gram(given: Any, about: Standard) -> Tensor:
    """The means of the products of the columns about their centre."""
    n, centre = given.shape[0], about.centre
    squares = torch.from_numpy((given.T @ given).toarray()).double() / n
    variance = squares.diagonal() - centre.square()
    if bool((squares.diagonal() > _CANCELLED * variance).any()):
        parts = [given[rows].toarray() for rows in blocks(n, given.shape[1])] if n else []
        return sum(
            (gram_of(torch.from_numpy(part), about) * (len(part) / n) for part in parts),
            torch.zeros(()),
        )
    gram = (squares - torch.outer(centre, centre)) * about.scale * about.scale[:, None]
    return torch.block_diag(torch.ones(1, dtype=torch.float64), gram) if about.intercept else gram


class SparseLikelihood(InMemory):
    """The likelihood of sparse rows in memory."""

    columns: SparseColumns  # type: ignore[assignment]

    def __init__(self, columns: Any, *rest: Any) -> None:
        super().__init__(columns, *rest)
        self._keeps = False
        step = max(1, _WIDE // self.classes)
        starts = range(0, self.length, step)
        self._parts = [(slice(at, at + step), columns.source[at : at + step]) for at in starts]

    def row_sums(self, theta: Tensor, direction: Tensor | None = None, **more: Any) -> RowSums:
        """What the rows add up to."""
        square: Square | None = more.get("square")
        if direction is not None:
            return self._product(self._probabilities(theta), direction)
        if square is not None and self.columns.dense_products:
            return self._by_dense_rows(theta, square)
        value, sums = torch.zeros((), dtype=torch.float64), _Slopes(self.columns, self.classes - 1)
        pairs = None if square is None else _Pairs(self.columns, self.classes - 1)
        for (rows, x), log_p in zip(self._parts, self._log_probabilities(theta), strict=True):
            p, w = log_p[:, 1:].exp(), self.weights[rows]
            value += w @ log_p.gather(1, self.labels[rows, None])[:, 0]
            residual = w[:, None] * (
                torch.nn.functional.one_hot(self.labels[rows], self.classes)[:, 1:] - p
            )
            sums.add(x, residual)
            if pairs is not None and square is not None:
                pairs.add(x, p, residual, w, square)
        return RowSums(value, sums.found(), None if pairs is None else pairs.found())

    def curvature(self, theta: Tensor) -> Callable[[Tensor], Tensor]:
        """The information as a product; the probabilities are kept where they do not take much
        memory.
        """
        kept = list(self._probabilities(theta)) if self.length * self.classes <= _KEPT else None

        def times(vector: Tensor) -> Tensor:
            found = self._product(kept or self._probabilities(theta), vector).score.reshape(-1)
            return found if self.alpha == 0.0 else found + self.shrink(vector)

        return times

    def _log_probabilities(self, theta: Tensor) -> Iterator[Tensor]:
        slopes, constants = self.columns.of_source(theta.reshape(self.classes - 1, -1))
        for rows, x in self._parts:
            scores = torch.from_numpy(x @ slopes + constants)
            scores = torch.cat([torch.zeros_like(scores[:, :1]), scores], 1)
            yield (scores if self.offset is None else scores + self.offset[rows]).log_softmax(1)

    def _probabilities(self, theta: Tensor) -> Iterator[Tensor]:
        return (log_p[:, 1:].exp() for log_p in self._log_probabilities(theta))

    def _product(self, probabilities: Iterable[Tensor], direction: Tensor) -> RowSums:
        """The information times a direction."""
        slopes, constants = self.columns.of_source(direction.reshape(self.classes - 1, -1))
        sums = _Slopes(self.columns, self.classes - 1)
        for (rows, x), p in zip(self._parts, probabilities, strict=True):
            moved = torch.from_numpy(x @ slopes + constants)
            moved -= torch.linalg.vecdot(p, moved)[:, None]
            sums.add(x, moved.mul_(p).mul_(self.weights[rows, None]))
        return RowSums(torch.full((), torch.nan, dtype=torch.float64), sums.found(), None)

    def _by_dense_rows(self, theta: Tensor, square: Square) -> RowSums:
        """With products of the columns, by the kernel."""
        turned, found = self.columns.factor is not None, None
        for rows in (slice(at, at + _TALL) for at in range(0, self.length, _TALL)):
            x = self.columns.block(rows) if turned else self.columns.dense(rows)
            offset = None if self.offset is None else self.offset[rows]
            part = Rows(x, self.labels[rows], self.weights[rows], offset=offset)
            standard = plain(self.columns.count) if turned else self.standard
            own = row_sums(part, standard, theta.reshape(self.classes - 1, -1), square=square)
            if found is None:
                found = own
            else:
                pairs = zip(found, own, strict=True)
                found = RowSums(*(a + b for a, b in pairs))  # type: ignore[operator]
        assert found is not None
        return found


class _Slopes:
    """The sums of r x over rows, for each class."""

    def __init__(self, columns: SparseColumns, scores: int) -> None:
        self.columns = columns
        self.products = np.zeros((columns.source.shape[1], scores))
        self.total = torch.zeros(scores, dtype=torch.float64)

    def add(self, x: Any, residual: Tensor) -> None:
        """Add rows."""
        self.products += x.T @ residual.numpy()
        self.total += residual.sum(0)

    def found(self) -> Tensor:
        """By the search's coefficients, (scores, p)."""
        return self.columns.to_search(torch.from_numpy(self.products).T, self.total)


class _Pairs:
    """The sums of d_kl x x' over rows, for each pair of classes, and what centres them."""

    def __init__(self, columns: SparseColumns, scores: int) -> None:
        self.columns, self.scores = columns, scores
        q = columns.source.shape[1]
        self.each = [(k, m) for k in range(scores) for m in range(k + 1)]
        self.products = torch.zeros(len(self.each), q, q, dtype=torch.float64)
        self.sums = torch.zeros(len(self.each), q, dtype=torch.float64)
        self.total = torch.zeros(len(self.each), dtype=torch.float64)

    def add(self, x: Any, p: Tensor, residual: Tensor, weights: Tensor, square: Square) -> None:
        """Add rows (see `Square` for d)."""
        again = (
            torch.where(weights > 0, 1 / weights, 0.0)
            if square == "scores"
            else torch.ones_like(weights)
        )
        for at, (k, m) in enumerate(self.each):
            if square == "information":
                d = weights * p[:, k] * (float(k == m) - p[:, m])
            else:
                d = again * residual[:, k] * residual[:, m]
            self.products[at] += torch.from_numpy(
                (x.T @ (x * d.numpy()[:, None]).tocsr()).toarray()
            )
            self.sums[at] += torch.from_numpy(x.T @ d.numpy())
            self.total[at] += d.sum()

    def found(self) -> Tensor:
        """The matrix of the search's columns, (scores p, scores p)."""
        p, (centre, scale, intercept) = self.columns.count, self.columns.standard
        square = torch.empty(self.scores, p, self.scores, p, dtype=torch.float64)
        for (k, m), products, sums, total in zip(
            self.each, self.products, self.sums, self.total, strict=True
        ):
            own = (
                products
                - torch.outer(sums, centre)
                - torch.outer(centre, sums)
                + total * torch.outer(centre, centre)
            )
            own = own * scale * scale[:, None]
            if intercept:
                edge = (sums - total * centre) * scale
                own = torch.cat(
                    [torch.cat([total[None], edge])[None], torch.cat([edge[:, None], own], 1)]
                )
            if self.columns.factor is not None:
                half = torch.linalg.solve_triangular(self.columns.factor.T, own, upper=False)
                own = torch.linalg.solve_triangular(self.columns.factor.T, half.T, upper=False)
            square[k, :, m] = square[m, :, k] = own
        return square.reshape(self.scores * p, -1)
