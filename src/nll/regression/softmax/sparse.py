"""Softmax regression on sparse columns: values and gradients by products with the numbers that are
not 0.

The columns are standardised for the solver as others are, but not in memory: with centre c and
scale s,

    predictors = X (s b) + b_0 - sum(c s b)        score = s (X' r - c sum(r))

Products of columns are sparse too, and centred afterwards; where rows have many numbers, or digits
would cancel, they are formed of dense rows by the kernel, some at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from nll.data.prefetch import blocks
from nll.kernels.multinomial import (
    SPARSE,
    Coefficients,
    Rows,
    RowSums,
    SparseRows,
    Square,
    Standard,
    row_sums,
    sparse_sums,
)
from nll.regression.design_matrix import (
    Product,
    Response,
    StoredColumns,
    Survey,
    about_centre,
    gram_of,
    unchanged,
)

_MOST_COLUMNS = 8192  # their products, (p, p), are held in memory
# of the mean square, to the variance: products of centred columns have lost so many digits
_CANCELLED = 1e6
_KEPT = 1 << 25  # probabilities
_WIDE = 1 << 20  # numbers of a block of logits
_TALL = 1 << 13  # rows of a dense block
_DENSE_RATE = 50  # products of dense columns, in the time of one of sparse ones


class SparseColumns(StoredColumns):
    """The columns of a sparse design, a csr_array of SciPy's."""

    @classmethod
    def of(
        cls, given: Any, names: list[str] | None, intercept: bool, constant: bool = False
    ) -> SparseColumns:
        given = csr_array(given)  # not a matrix, whose * is another
        n, q = given.shape
        if q > _MOST_COLUMNS:
            raise ValueError(f"expected at most {_MOST_COLUMNS} columns of a sparse X, got {q}")
        low, high = (
            torch.from_numpy(end.toarray().reshape(-1)).double()
            for end in (given.min(0), given.max(0))
        )
        mean = torch.from_numpy(np.asarray(given.mean(0), dtype=np.float64).reshape(-1))
        about = about_centre(low, high, torch.where(high > low, mean, low), intercept)
        survey = Survey(n, low, high, about, _gram(given, about))
        return cls(**survey.frame(names, constant), source=given)

    @cached_property
    def dense_products(self) -> bool:
        """Whether products of the columns are better formed of dense rows: few zeros, or digits
        that would cancel.
        """
        rows = torch.from_numpy(np.diff(self.source.indptr).astype(np.float64))
        if float(rows.square().sum()) * _DENSE_RATE > self.length * self.source.shape[1] ** 2:
            return True
        variance = self.gram.diagonal()[int(self.intercept) :]  # 1 after a rotation
        centre = self.standard.centre * self.standard.scale
        return bool((centre.square() > _CANCELLED * variance).any())

    @cached_property
    def _blocks(self) -> dict[int, list[tuple[slice, Any]]]:
        return {}

    def row_blocks(self, classes: int) -> list[tuple[slice, Any]]:
        """Return blocks of rows as given, for logits of so many classes; they are kept."""
        step = max(1, _WIDE // classes)
        if step not in self._blocks:
            rows = [slice(at, at + step) for at in range(0, self.length, step)]
            self._blocks[step] = [(at, self.source[at]) for at in rows]
        return self._blocks[step]

    def raw(self, rows: Any) -> Tensor:
        at = rows if isinstance(rows, slice) else rows.numpy()
        return torch.from_numpy(self.source[at].toarray())

    def row_sums(self, response: Response, theta: Tensor, square: Square | None = None) -> RowSums:
        if square is not None and self.dense_products:
            return self._by_dense_rows(response, theta, square)
        if square is None and SPARSE:
            return RowSums(*self._sums(response, theta), None)
        value, score = torch.zeros((), dtype=torch.float64), _Score(self, len(theta))
        pairs = None if square is None else _Pairs(self, len(theta))
        for x, rows, log_p in self._log_probabilities(response, theta):
            p, labels = log_p[:, 1:].exp(), _labels(rows)
            w = torch.ones(len(p), dtype=torch.float64) if rows.weights is None else rows.weights
            value += w @ log_p.gather(1, labels[:, None])[:, 0]
            seen = torch.nn.functional.one_hot(labels, log_p.shape[1])[:, 1:]
            residual = w[:, None] * (seen - p)
            score.add(x, residual)
            if pairs is not None and square is not None:
                pairs.add(x, p, residual, w, square)
        return RowSums(value, score.total(), None if pairs is None else pairs.total())

    def curvature(self, response: Response, theta: Tensor) -> Product:
        """Keep the probabilities where they do not take much memory."""
        few = self.length * (len(theta) + 1) <= _KEPT
        if SPARSE:
            p = torch.empty(self.length, len(theta), dtype=torch.float64) if few else None
            if p is not None:
                self._sums(response, theta, None, p)
            return lambda direction: self._sums(response, theta, direction, p)[1]

        def probabilities() -> Iterator[tuple[Any, Response, Tensor]]:
            for x, rows, log_p in self._log_probabilities(response, theta):
                yield x, rows, log_p[:, 1:].exp()

        kept = list(probabilities()) if few else None

        def times(direction: Tensor) -> Tensor:
            slopes, constants = (part.numpy() for part in self._of_source(direction))
            score = _Score(self, len(direction))
            for x, rows, p in kept or probabilities():
                moved = torch.from_numpy(x @ slopes + constants)
                moved -= torch.linalg.vecdot(p, moved)[:, None]
                moved *= p
                score.add(x, moved if rows.weights is None else moved * rows.weights[:, None])
            return score.total()

        return times

    @cached_property
    def _numbers(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where the numbers of each row begin, their columns, and themselves."""
        parts = (self.source.indptr, np.int64), (self.source.indices, np.int32)
        every = *parts, (self.source.data, np.float64)
        start, column, number = (torch.from_numpy(part.astype(dtype)) for part, dtype in every)
        return start, column, number

    def _sums(
        self,
        response: Response,
        theta: Tensor,
        direction: Tensor | None = None,
        probabilities: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The log-likelihood and the score, or the information times a direction."""
        rows = SparseRows(*self._numbers, _labels(response), response.weights, response.offset)
        along = None if direction is None else self._of_source(direction)
        value, sums = sparse_sums(rows, self._of_source(theta), along, probabilities)
        score = _Score(self, len(theta))
        score.products, score.residuals = sums[:-1].numpy(), sums[-1]
        return value, score.total()

    def _log_probabilities(
        self, response: Response, theta: Tensor
    ) -> Iterator[tuple[Any, Response, Tensor]]:
        """Yield blocks of rows: as given, their response and log-probabilities."""
        slopes, constants = (part.numpy() for part in self._of_source(theta))
        for at, x in self.row_blocks(len(theta) + 1):
            rows, z = response.at(at), torch.from_numpy(x @ slopes + constants)
            z = torch.cat([torch.zeros_like(z[:, :1]), z], 1)
            yield x, rows, (z if rows.offset is None else z + rows.offset).log_softmax(1)

    def _by_dense_rows(self, response: Response, theta: Tensor, square: Square) -> RowSums:
        each = []
        for start in range(0, self.length, _TALL):
            at = slice(start, start + _TALL)
            x, standard = self.raw(at), self.standard
            if self.factor is not None:
                x, standard = self.applied(x), unchanged(self.count)
            each.append(row_sums(Rows(x, *response.at(at)), standard, theta, square=square))
        return RowSums(*(sum(parts[1:], parts[0]) for parts in zip(*each, strict=True)))  # type: ignore[type-var]

    def _of_source(self, coef: Tensor) -> Coefficients:
        """Return the solver's coefficients (k, p) as those of the columns given (q, k), and
        constants (k).
        """
        if self.factor is not None:
            coef = torch.linalg.solve_triangular(self.factor, coef.T, upper=True).T
        slopes = coef[:, int(self.intercept) :] * self.standard.scale
        constants = -slopes @ self.standard.centre + (coef[:, 0] if self.intercept else 0.0)
        return slopes.T.contiguous(), constants


def _labels(rows: Response) -> Tensor:
    assert rows.labels is not None
    return rows.labels


def _gram(given: Any, about: Standard) -> Tensor:
    n, centre = given.shape[0], about.centre
    squares = torch.from_numpy((given.T @ given).toarray()).double() / n
    variance = squares.diagonal() - centre.square()
    if bool((squares.diagonal() > _CANCELLED * variance).any()):
        parts = (torch.from_numpy(given[rows].toarray()) for rows in blocks(n, given.shape[1]))
        return sum((gram_of(x, about) * (len(x) / n) for x in parts), torch.zeros(()))
    gram = (squares - torch.outer(centre, centre)) * about.scale * about.scale[:, None]
    return torch.block_diag(torch.ones(1, dtype=torch.float64), gram) if about.intercept else gram


class _Score:
    """The sums of r x over rows, for each class."""

    def __init__(self, columns: SparseColumns, predictors: int) -> None:
        self.columns = columns
        self.products = np.zeros((columns.source.shape[1], predictors))
        self.residuals = torch.zeros(predictors, dtype=torch.float64)

    def add(self, x: Any, residual: Tensor) -> None:
        self.products += x.T @ residual.numpy()
        self.residuals += residual.sum(0)

    def total(self) -> Tensor:
        centre, scale, intercept = self.columns.standard
        products = torch.from_numpy(self.products).T
        score = (products - self.residuals[:, None] * centre) * scale
        score = torch.cat([self.residuals[:, None], score], 1) if intercept else score
        if self.columns.factor is None:
            return score
        return torch.linalg.solve_triangular(self.columns.factor.T, score.T, upper=False).T


class _Pairs:
    """The sums of d_kl x x' over rows, for each pair of classes, and what centres them."""

    def __init__(self, columns: SparseColumns, predictors: int) -> None:
        self.columns, self.predictors = columns, predictors
        self.each = [(k, m) for k in range(predictors) for m in range(k + 1)]
        q = columns.source.shape[1]
        self.products = torch.zeros(len(self.each), q, q, dtype=torch.float64)
        self.sums = torch.zeros(len(self.each), q, dtype=torch.float64)
        self.weights = torch.zeros(len(self.each), dtype=torch.float64)

    def add(self, x: Any, p: Tensor, residual: Tensor, weights: Tensor, square: Square) -> None:
        power = 1.0 if square == "weighted scores" else torch.where(weights > 0, 1 / weights, 0.0)
        for at, (k, m) in enumerate(self.each):
            if square == "information":
                d = weights * p[:, k] * (float(k == m) - p[:, m])
            else:
                d = power * residual[:, k] * residual[:, m]
            weighted = (x * d.numpy()[:, None]).tocsr()
            self.products[at] += torch.from_numpy((x.T @ weighted).toarray())
            self.sums[at] += torch.from_numpy(x.T @ d.numpy())
            self.weights[at] += d.sum()

    def total(self) -> Tensor:
        p, (centre, scale, intercept) = self.columns.count, self.columns.standard
        square = torch.empty(self.predictors, p, self.predictors, p, dtype=torch.float64)
        factor = self.columns.factor
        moments = zip(self.each, self.products, self.sums, self.weights, strict=True)
        for (k, m), products, sums, total in moments:
            centred = products - torch.outer(sums, centre) - torch.outer(centre, sums)
            centred = (centred + total * torch.outer(centre, centre)) * scale * scale[:, None]
            if intercept:
                edge = (sums - total * centre) * scale
                first = torch.cat([total[None], edge])[None]
                centred = torch.cat([first, torch.cat([edge[:, None], centred], 1)])
            if factor is not None:
                half = torch.linalg.solve_triangular(factor.T, centred, upper=False)
                centred = torch.linalg.solve_triangular(factor.T, half.T, upper=False)
            square[k, :, m] = square[m, :, k] = centred
        return square.reshape(self.predictors * p, -1)
