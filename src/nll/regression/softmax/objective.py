"""The likelihood of labels under a softmax of linear scores: its sums over the rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nll.data.prefetch import blocks
from nll.kernels import cpu, memory
from nll.kernels.multinomial import RowSums, row_sums
from nll.regression.design_matrix import Frame, Held
from nll.solvers.outcome import Sums

# So many of the rows are searched first; where all are fewer than so many times as many, that saves
# nothing.
_SHARE, _WORTH = 16, 8

# the search's columns (n, p), labels (n) -> which classes (n, K)
Allowed = Callable[[Tensor, Tensor], Tensor]


class Part(NamedTuple):
    """Some rows, by the search's columns."""

    x: Tensor  # (n, p)
    labels: Tensor  # (n)


class SoftmaxLikelihood:
    """The log-likelihood of labels under linear scores; class 0 is the baseline.

    The parameters are the (K - 1, p) coefficients of the search's columns, flattened by class.

    Args:
        columns: of the search.
        counts: (K), the weights of the rows of each class.
        length: how many rows there are.
        alpha: the ridge penalty of `SoftmaxRegression`.
    """

    def __init__(self, columns: Frame, counts: Tensor, length: int, alpha: float = 0.0) -> None:
        self.columns, self.counts, self.length, self.alpha = columns, counts, length, alpha
        self.classes = len(counts)
        # of the log-likelihood, where weights are shares
        self.unit = min(1.0, float(counts.sum()) / length)

    def row_sums(self, theta: Tensor, direction: Tensor | None = None, **more: Any) -> RowSums:
        """What the rows add up to (see the kernel), at parameters and along a direction of them."""
        raise NotImplementedError

    def parts(self) -> Iterator[Part]:
        """The rows, some at a time."""
        raise NotImplementedError

    def some(self, size: int) -> Part:
        """About so many rows, of each class some; all where there are no more."""
        raise NotImplementedError

    def thinned(self, least: int) -> SoftmaxLikelihood | None:
        """The likelihood of rows at even distances, at least so many; None: that would be most of
        them.
        """
        raise NotImplementedError

    def among(self, allowed: Allowed) -> SoftmaxLikelihood:
        """The likelihood of each row's label among the classes that are allowed it."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """How many parameters there are."""
        return (self.classes - 1) * self.columns.count

    def start(self) -> Tensor:
        """The constants of the null model, log(n_k / n_0); slopes 0."""
        coef = torch.zeros(self.classes - 1, self.columns.count, dtype=torch.float64)
        if self.columns.intercept:
            coef[:, 0] = (self.counts[1:] / self.counts[0]).log()
        return coef.reshape(-1)

    def sums(self, theta: Tensor) -> Sums:
        """Log-likelihood, score and information, penalty included."""
        found = self.row_sums(theta, square="information")
        assert found.square is not None
        value, score, information = found.log_likelihood, found.score.reshape(-1), found.square
        if self.alpha > 0.0:
            shrink = self.shrink(theta)
            value, score, information = (
                value - theta @ shrink / 2,
                score - shrink,
                information + self.penalty,
            )
        return Sums(value, score, information)

    def value(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Log-likelihood and score, penalty included."""
        found = self.row_sums(theta)
        if self.alpha == 0.0:
            return found.log_likelihood, found.score.reshape(-1)
        shrink = self.shrink(theta)
        return found.log_likelihood - theta @ shrink / 2, found.score.reshape(-1) - shrink

    def curvature(self, theta: Tensor) -> Callable[[Tensor], Tensor]:
        """The information, penalty included, as a product with a vector."""

        def times(vector: Tensor) -> Tensor:
            found = self.row_sums(theta, vector).score.reshape(-1)
            return found if self.alpha == 0.0 else found + self.shrink(vector)

        return times

    def forget(self) -> None:
        """Give back what the products keep."""

    def log_likelihood(self, theta: Tensor) -> Tensor:
        """The log-likelihood alone, without the penalty."""
        return self.row_sums(theta).log_likelihood

    def null_log_likelihood(self) -> float:
        """The largest log-likelihood with constants only: sum_k n_k log(n_k / n)."""
        return float(torch.xlogy(self.counts, self.counts / self.counts.sum()).sum())

    def information(self, theta: Tensor) -> Tensor:
        """The information without the penalty."""
        square = self.row_sums(theta, square="information").square
        assert square is not None
        return square

    def outer_product(self, theta: Tensor, weighted: bool) -> Tensor:
        """That of the rows' scores; `weighted`: a weight is a factor of its score, not how often
        the row was seen.
        """
        square = self.row_sums(theta, square="weighted scores" if weighted else "scores").square
        assert square is not None
        return square

    def by_cluster(self, theta: Tensor, clusters: Any) -> Tensor:
        """The sum of the scores in each cluster, (G, (K - 1) p)."""
        raise NotImplementedError

    @property
    def penalty(self) -> Tensor:
        """The quadratic form of alpha * sum_k |b_k - mean b|^2 over the K classes, for the columns
        as given.
        """
        return self.alpha * self.quadratic

    @property
    def quadratic(self) -> Tensor:
        """The penalty's, of alpha = 1."""
        return torch.kron(*self._shrunk)

    def shrink(self, theta: Tensor) -> Tensor:
        """The penalty's product with a vector."""
        between, along = self._shrunk
        return self.alpha * (between @ theta.reshape(self.classes - 1, -1) @ along).reshape(-1)

    @cached_property
    def _shrunk(self) -> tuple[Tensor, Tensor]:
        between = torch.eye(self.classes - 1, dtype=torch.float64) - 1 / self.classes
        slopes = torch.ones(self.columns.count, dtype=torch.float64)
        if self.columns.intercept:
            slopes[0] = 0.0
        to_given = self.columns.to_given
        return between, to_given.T @ (slopes[:, None] * to_given)


class InMemory(SoftmaxLikelihood):
    """That of rows in memory.

    Args:
        columns: of the search.
        labels: (n) int64.
        weights: (n) float64 frequencies.
        classes: how many there are.
        alpha: see `SoftmaxLikelihood`.
        offset: (n, K), added to the scores.
    """

    columns: Held

    def __init__(
        self,
        columns: Held,
        labels: Tensor,
        weights: Tensor,
        classes: int,
        alpha: float = 0.0,
        offset: Tensor | None = None,
    ) -> None:
        once = bool((weights == 1.0).all())
        counts = torch.bincount(
            labels, weights=None if once else weights, minlength=classes
        ).double()
        super().__init__(columns, counts, len(labels), alpha)
        self.labels, self.weights, self.offset = labels, weights, offset
        rows, self.standard = columns.rows(labels, None if once else weights)
        self.rows = rows._replace(offset=offset)
        # probabilities: where they take less memory than the columns
        self._keeps = classes <= columns.count
        self._kept: Tensor | None = None
        self._kept_at: Tensor | None = None  # the parameters that they belong to

    def row_sums(self, theta: Tensor, direction: Tensor | None = None, **more: Any) -> RowSums:
        """What the rows add up to, by the kernel in one call."""
        shape = (self.classes - 1, self.columns.count)
        direction = None if direction is None else direction.reshape(shape)
        return row_sums(self.rows, self.standard, theta.reshape(shape), direction=direction, **more)

    def curvature(self, theta: Tensor) -> Callable[[Tensor], Tensor]:
        """The information as a product; the probabilities are kept from the first to the next."""
        if self._kept is None and self._keeps and not cpu.MISSING:
            self._kept = cpu.empty((self.classes, self.length), torch.float64)

        def times(vector: Tensor) -> Tensor:
            known = self._kept_at is theta
            found = self.row_sums(
                theta, vector, probabilities=self._kept, known=known
            ).score.reshape(-1)
            self._kept_at = None if self._kept is None else theta
            return found if self.alpha == 0.0 else found + self.shrink(vector)

        return times

    def forget(self) -> None:
        """Give the memory of the probabilities back."""
        if self._kept is not None:
            self._kept = self._kept_at = None
            memory.release()

    def parts(self) -> Iterator[Part]:
        """The rows, some at a time."""
        for rows in blocks(self.length, self.columns.count + self.classes):
            yield Part(self.columns.block(rows), self.labels[rows])

    def some(self, size: int) -> Part:
        """About so many rows, of each class some; all where there are no more."""
        rows = some_of_each(self.labels, size)
        return Part(self.columns.block(rows), self.labels[rows])

    def thinned(self, least: int) -> InMemory | None:
        """The likelihood of every so many-th row, at least `least` and a sixteenth of all."""
        some = max(least, self.length // _SHARE)
        if self.length < _WORTH * some:
            return None
        step = self.length // some
        labels, weights = self.labels[::step].contiguous(), self.weights[::step].contiguous()
        offset = None if self.offset is None else self.offset[::step]
        return type(self)(
            self.columns.taken(slice(None, None, step)),
            labels,
            weights,
            self.classes,
            self.alpha / step,
            offset,
        )

    def among(self, allowed: Allowed) -> InMemory:
        """The likelihood of each row's label among the classes that are allowed it."""
        offset = torch.cat([lost_offset(allowed(*part)) for part in self.parts()])
        offset = offset if self.offset is None else offset + self.offset
        return type(self)(self.columns, self.labels, self.weights, self.classes, self.alpha, offset)

    def by_cluster(self, theta: Tensor, clusters: Tensor) -> Tensor:
        """The sum of the scores in each cluster, (G, (K - 1) p); `clusters` has the number of each
        row's, from 0.
        """
        total = torch.zeros(int(clusters.max()) + 1, self.size, dtype=torch.float64)
        for rows in blocks(len(clusters), self.size):
            residual = self.weights[rows, None] * (
                self.seen(rows, theta) - self.scores(rows, theta).softmax(1)
            )
            add_by_cluster(total, clusters[rows], residual[:, 1:], self.columns.block(rows))
        return total

    def seen(self, rows: slice, theta: Tensor) -> Tensor:
        """(rows, K), how often each class was seen in a row."""
        return torch.nn.functional.one_hot(self.labels[rows], self.classes).double()

    def scores(self, rows: slice, theta: Tensor) -> Tensor:
        """The scores of some rows, (rows, K), with zeros for the baseline."""
        x = self.columns.block(rows)
        scores = x @ theta.reshape(self.classes - 1, -1).T
        scores = torch.cat([torch.zeros(len(x), 1, dtype=torch.float64), scores], dim=1)
        return scores if self.offset is None else scores + self.offset[rows]


def add_by_cluster(total: Tensor, clusters: Tensor, residual: Tensor, x: Tensor) -> None:
    """Add the scores of rows to those of their clusters (G, (K - 1) p)."""
    total.index_add_(0, clusters, (residual[:, :, None] * x[:, None, :]).reshape(len(x), -1))


def lost_offset(allowed: Tensor) -> Tensor:
    """What takes the classes that are not allowed out of the scores."""
    return torch.zeros(allowed.shape, dtype=torch.float64).masked_fill(~allowed, -math.inf)


def some_of_each(labels: Tensor, size: int) -> Tensor:
    """The numbers of about so many rows, in their order."""
    if len(labels) <= size:
        return torch.arange(len(labels))
    order = labels.argsort(stable=True)
    return order[:: -(-len(order) // max(size // 2, 1))].sort().values
