"""The log-likelihood of labels under a softmax of linear predictors: its sums over the rows."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nll.data.prefetch import blocks
from nll.kernels.multinomial import Rows, RowSums, Square
from nll.regression import existence
from nll.regression.design_matrix import Response, SolverColumns, StoredColumns
from nll.regression.objective import (
    InDataUnits,
    RegressionLikelihood,
    in_data_units,
)
from nll.solvers.outcome import Optimum, Sums

if TYPE_CHECKING:
    from typing_extensions import Self

# So many of the rows are searched first; where all are fewer than so many times as many, that saves
# nothing.
_SHARE, _WORTH = 16, 8

Vector = Callable[[Tensor], Tensor]
# the solver's columns (n, p), labels (n) -> which classes (n, K)
Allowed = Callable[[Tensor, Any], Tensor]


class SoftmaxLikelihood(RegressionLikelihood):
    """The log-likelihood of labels under linear predictors; class 0 is the baseline.

    The parameters are the (K - 1, p) coefficients of the solver's columns, flattened by class.

    Args:
        columns: of the solver.
        classes: their number, K.
        length: number of rows.
        alpha: the ridge penalty of `SoftmaxRegression`.
    """

    counts: Tensor  # (K), the weights of the rows of each class
    concave = True
    exact_information = True  # whether `sums` has the second derivative itself
    dropped = 0  # rows with missing values that were left out

    def __init__(
        self, columns: SolverColumns, classes: int, length: int, alpha: float = 0.0
    ) -> None:
        self.columns, self.classes, self.length, self.alpha = columns, classes, length, alpha

    @cached_property
    def unit(self) -> float:
        """The unit of the log-likelihood: weights may be shares."""
        return min(1.0, float(self.counts.sum()) / self.length)

    @abstractmethod
    def row_sums(
        self, theta: Tensor, square: Square | None = None, direction: Tensor | None = None
    ) -> RowSums:
        """Add up the rows (see the kernel), at parameters and along a direction of them."""

    def parts(self) -> Iterator[Rows]:
        """Yield the rows with the solver's columns, some at a time."""
        raise NotImplementedError

    def some(self, size: int) -> tuple[Tensor, Tensor]:
        """Return columns and labels of about `size` rows, of each class some; all where there are
        no more.
        """
        raise NotImplementedError

    def thinned(self, least: int) -> SoftmaxLikelihood | None:
        """Return the likelihood of rows at even distances, at least `least`; None: that would be
        most of them.
        """
        return None

    def among(self, allowed: Allowed) -> SoftmaxLikelihood:
        """Return the likelihood of each row's label among the classes that are allowed it."""
        raise NotImplementedError

    def bounding(self) -> SoftmaxLikelihood | None:
        """Return a concave likelihood whose maximum, if it has one, bounds this one."""
        return self

    def in_data_units(self) -> InDataUnits | None:
        """Return the log-likelihood by the coefficients of the columns as given; None where the
        rows are not in memory.
        """
        shape = (self.classes - 1, self.columns.count)
        return in_data_units(self, shape, self.columns.to_data)

    @property
    def size(self) -> int:
        return (self.classes - 1) * self.columns.count

    @property
    def ridge(self) -> bool:
        return self.alpha > 0.0

    @property
    def penalised(self) -> bool:
        """Whether a penalty, of any kind, decides where the likelihood rises for ever."""
        return self.ridge

    @property
    def information_name(self) -> str:
        return f"penalised, alpha = {self.alpha:g}" if self.penalised else "observed"

    @property
    def n(self) -> float:
        return float(self.counts.sum())

    def coef(self, theta: Tensor) -> Tensor:
        return theta.reshape(self.classes - 1, self.columns.count)

    def start(self) -> Tensor:
        """Return the constants of the null model, log(n_k / n_0); slopes 0."""
        coef = torch.zeros(self.classes - 1, self.columns.count, dtype=torch.float64)
        if self.columns.intercept:
            coef[:, 0] = (self.counts[1:] / self.counts[0]).log()
        return coef.reshape(-1)

    def sums(self, theta: Tensor) -> Sums:
        """Return log-likelihood, score and information, penalty included."""
        rows = self.row_sums(theta, "information")
        assert rows.square is not None
        information = rows.square + self.penalty if self.alpha else rows.square
        return Sums(*self._with_penalty(theta, rows), information)

    def value(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-likelihood and score, penalty included."""
        return self._with_penalty(theta, self.row_sums(theta))

    def _with_penalty(self, theta: Tensor, rows: RowSums) -> tuple[Tensor, Tensor]:
        if not self.alpha:
            return rows.log_likelihood, rows.score.reshape(-1)
        shrinkage = self.shrinkage(theta)
        return rows.log_likelihood - theta @ shrinkage / 2, rows.score.reshape(-1) - shrinkage

    def product(self, theta: Tensor) -> Vector:
        """Return the information without the penalty as a product with coefficients."""
        return lambda direction: self.row_sums(theta, direction=direction).score

    def curvature(self, theta: Tensor) -> Vector:
        """Return the information, penalty included, as a product with a vector."""
        product = self.product(theta)
        return lambda vector: product(self.coef(vector)).reshape(-1) + self.shrinkage(vector)

    def log_likelihood(self, theta: Tensor) -> Tensor:
        return self.row_sums(theta).log_likelihood

    def null_log_likelihood(self) -> float | None:
        """Return the largest log-likelihood with constants only: sum_k n_k log(n_k / n)."""
        return float(torch.xlogy(self.counts, self.counts / self.counts.sum()).sum())

    def information(self, theta: Tensor) -> Tensor:
        return self._square(theta, "information")

    def meat(self, theta: Tensor, kind: str) -> Tensor:
        return self._square(theta, "scores" if kind == "frequency" else "weighted scores")

    def _square(self, theta: Tensor, square: Square) -> Tensor:
        sums = self.row_sums(theta, square)
        assert sums.square is not None
        return sums.square

    def certified(self, optimum: Optimum, inverse: Tensor | None, longest: float | None) -> bool:
        """Whether the optimum proves that a finite maximum exists, by the inverse information or a
        bound on its eigenvalues.
        """
        decrement, predictors = optimum.decrement, self.classes - 1
        if inverse is not None:
            return existence.certified(decrement, inverse, self.columns, predictors)
        assert longest is not None
        return existence.certified_by_bound(decrement, longest, self.columns, predictors)

    @property
    def penalty(self) -> Tensor:
        """The quadratic form of alpha * sum_k |b_k - mean b|^2 over the K classes, for the columns
        as given.
        """
        return self.alpha * self.quadratic

    @property
    def quadratic(self) -> Tensor:
        return torch.kron(*self._quadratic_factors)

    def shrinkage(self, theta: Tensor) -> Tensor:
        if not self.alpha:
            return torch.zeros_like(theta)
        between, along = self._quadratic_factors
        return self.alpha * (between @ self.coef(theta) @ along).reshape(-1)

    @cached_property
    def _quadratic_factors(self) -> tuple[Tensor, Tensor]:
        between = torch.eye(self.classes - 1, dtype=torch.float64) - 1 / self.classes
        slopes = torch.ones(self.columns.count, dtype=torch.float64)
        if self.columns.intercept:
            slopes[0] = 0.0
        to_data = self.columns.to_data
        return between, to_data.T @ (slopes[:, None] * to_data)


class InMemory(SoftmaxLikelihood):
    """The log-likelihood of rows in memory.

    Args:
        columns: of the solver.
        response: labels (n) int64 or target (n, K); weights (n) float64 frequencies; offset (n, K),
            added to the linear predictors.
        classes: number of classes.
        alpha: see `SoftmaxLikelihood`.
    """

    columns: StoredColumns

    def __init__(
        self, columns: StoredColumns, response: Response, classes: int, alpha: float = 0.0
    ) -> None:
        labels, weights, target, self.offset = response
        if weights is not None and bool((weights == 1.0).all()):
            weights = None
        self.response = response._replace(weights=weights)
        self.weights = torch.ones(columns.length).double() if weights is None else weights
        if target is None:
            assert labels is not None
            self.labels = labels
        super().__init__(columns, classes, columns.length, alpha)

    @cached_property
    def counts(self) -> Tensor:  # type: ignore[override]
        labels, weights, target, _ = self.response
        if target is not None:
            return self.weights @ target
        assert labels is not None
        return torch.bincount(labels, weights, self.classes).double()

    def row_sums(
        self, theta: Tensor, square: Square | None = None, direction: Tensor | None = None
    ) -> RowSums:
        return self.columns.row_sums(self.response, self.coef(theta), square)

    def product(self, theta: Tensor) -> Vector:
        return self.columns.curvature(self.response, self.coef(theta))

    def rows(self, rows: slice | Tensor) -> Rows:
        return Rows(self.columns.block(rows), *self.response.at(rows))

    def parts(self) -> Iterator[Rows]:
        return map(self.rows, blocks(self.length, self.columns.count + self.classes))

    def some(self, size: int) -> tuple[Tensor, Tensor]:
        rows = some_of_each(self.labels, size)
        return self.columns.block(rows), self.labels[rows]

    def thinned(self, least: int) -> SoftmaxLikelihood | None:
        some = max(least, self.length // _SHARE)
        if self.length < _WORTH * some:
            return None
        step = self.length // some
        return self.of(slice(None, None, step), self.alpha / step)

    def of(self, rows: slice | Tensor, alpha: float = 0.0) -> InMemory:
        return InMemory(self.columns.taken(rows), self.response.at(rows), self.classes, alpha)

    def among(self, allowed: Allowed) -> InMemory:
        masks = [mask_as_offset(allowed(rows.x, rows.labels)) for rows in self.parts()]
        offset = torch.cat(masks) + (0.0 if self.offset is None else self.offset)
        response = self.response._replace(offset=offset)
        return InMemory(self.columns, response, self.classes, self.alpha)

    def reweighted(self, weights: Tensor) -> Self:
        response = self.response._replace(weights=weights)
        return type(self)(self.columns, response, self.classes, self.alpha)

    def log_likelihood_each(self, theta: Tensor, weights: Tensor) -> Tensor:
        coef, total = theta.unflatten(1, (self.classes - 1, -1)), torch.zeros(len(theta)).double()
        for at in blocks(self.length, len(theta) * (self.columns.count + self.classes)):
            total += (weights[:, at] * log_probabilities(self.rows(at), coef)).sum(1)
        return total

    def score_blocks(self, theta: Tensor) -> Iterator[tuple[slice, Tensor]]:
        for at in blocks(self.length, self.size):
            yield at, scores_of(self.rows(at)._replace(weights=None), self.coef(theta))

    def null_log_likelihood(self) -> float | None:
        return super().null_log_likelihood() if self.offset is None else None


def logits(rows: Rows, coef: Tensor) -> Tensor:
    """Return the logits (..., n, K) of rows at (..., K - 1, p), 0 for the baseline but for an
    offset.
    """
    predictors = rows.x @ coef.mT
    z = torch.cat([torch.zeros_like(predictors[..., :1]), predictors], -1)
    return z if rows.offset is None else z + rows.offset


def log_probabilities(rows: Rows, coef: Tensor) -> Tensor:
    """Return the log-probability of each row's response, (..., n)."""
    z = logits(rows, coef)
    if rows.target is not None:
        log_p = z.log_softmax(-1)
        return torch.where(rows.target > 0, rows.target * log_p, 0.0).sum(-1)
    assert rows.labels is not None
    labels = rows.labels.expand(z.shape[:-1])[..., None]
    return z.gather(-1, labels)[..., 0] - z.logsumexp(-1)


def residuals(rows: Rows, coef: Tensor) -> Tensor:
    """Return the weighted residuals (n, K - 1) of all classes but the baseline."""
    p = logits(rows, coef).softmax(1)
    seen = rows.target
    if seen is None:
        assert rows.labels is not None
        seen = torch.nn.functional.one_hot(rows.labels, p.shape[1])
    residual = (seen - p)[:, 1:]
    return residual if rows.weights is None else rows.weights[:, None] * residual


def scores_of(rows: Rows, coef: Tensor) -> Tensor:
    """Return the weighted scores (n, (K - 1) p) of rows."""
    return (residuals(rows, coef)[:, :, None] * rows.x[:, None, :]).flatten(1)


def mask_as_offset(allowed: Tensor) -> Tensor:
    """Return the offset that takes classes that are not allowed out of the softmax."""
    return torch.zeros(allowed.shape, dtype=torch.float64).masked_fill(~allowed, -math.inf)


def some_of_each(labels: Tensor, size: int) -> Tensor:
    """Return about `size` row numbers, in order."""
    if len(labels) <= size:
        return torch.arange(len(labels))
    order = labels.argsort(stable=True)
    return order[:: -(-len(order) // max(size // 2, 1))].sort().values
