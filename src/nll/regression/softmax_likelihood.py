"""The likelihood of labels under a softmax of linear scores: its sums over the rows, its maximum, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nll.kernels import cpu
from nll.kernels.softmax_sums import RowSums, row_sums
from nll.likelihood import covariance as cov
from nll.likelihood.blocks import blocks
from nll.likelihood.model import LogLikelihood
from nll.likelihood.observations import label
from nll.likelihood.optimise import Optimum, Progress, Sums, maximise
from nll.likelihood.problem import MANY_PARAMETERS, MOST_INFORMATION
from nll.likelihood.result import Fit
from nll.regression import existence, robust, separation
from nll.regression.columns import Columns
from nll.regression.search import SoftmaxRows, search_again
from nll.regression.softmax_search import Searched, search


class SoftmaxLikelihood:
    """The log-likelihood of labels under linear scores; class 0 is the baseline.

    The parameters are the (K - 1, p) coefficients of the search's columns, flattened by class.
    """

    def __init__(
        self,
        columns: Columns,
        labels: Tensor,
        weights: Tensor,
        classes: int,
        alpha: float = 0.0,
        offset: Tensor | None = None,
    ) -> None:
        self.columns, self.labels, self.weights, self.classes = columns, labels, weights, classes
        self.offset = offset  # (n, K), added to the scores
        once = bool((weights == 1.0).all())
        rows, self.standard = columns.rows(labels, None if once else weights)
        self.rows = rows._replace(offset=offset)
        self.counts = torch.bincount(labels, weights=None if once else weights, minlength=classes).double()
        self.unit = min(1.0, float(weights.mean()))  # of the log-likelihood, where weights are shares
        self.alpha = alpha
        self._keeps = classes <= columns.count  # probabilities: where they take less memory than the columns

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
        found = self._row_sums(theta, square="information")
        assert found.square is not None
        value, score, information = found.log_likelihood, found.score.reshape(-1), found.square
        if self.alpha > 0.0:
            shrink = self.shrink(theta)
            value, score, information = value - theta @ shrink / 2, score - shrink, information + self.penalty
        return Sums(value, score, information)

    def value(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Log-likelihood and score, penalty included."""
        found = self._row_sums(theta)
        if self.alpha == 0.0:
            return found.log_likelihood, found.score.reshape(-1)
        shrink = self.shrink(theta)
        return found.log_likelihood - theta @ shrink / 2, found.score.reshape(-1) - shrink

    def curvature(self, theta: Tensor) -> Callable[[Tensor], Tensor]:
        """The information, penalty included, as a product with a vector."""
        kept = None if cpu.MISSING or not self._keeps else cpu.empty((self.classes, len(self.labels)), torch.float64)
        known = False

        def times(vector: Tensor) -> Tensor:
            nonlocal known
            found = self._row_sums(theta, direction=vector, probabilities=kept, known=known).score.reshape(-1)
            known = kept is not None
            return found if self.alpha == 0.0 else found + self.shrink(vector)

        return times

    def log_likelihood(self, theta: Tensor) -> Tensor:
        """The log-likelihood alone, without the penalty."""
        return self._row_sums(theta).log_likelihood

    def null_log_likelihood(self) -> float:
        """The largest log-likelihood with constants only: sum_k n_k log(n_k / n)."""
        return float(torch.xlogy(self.counts, self.counts / self.counts.sum()).sum())

    def information(self, theta: Tensor) -> Tensor:
        """The information without the penalty."""
        square = self._row_sums(theta, square="information").square
        assert square is not None
        return square

    def outer_product(self, theta: Tensor, weighted: bool) -> Tensor:
        """That of the rows' scores; `weighted`: a weight is a factor of its score, not how often the row was seen."""
        square = self._row_sums(theta, square="weighted scores" if weighted else "scores").square
        assert square is not None
        return square

    def thinned(self, step: int) -> SoftmaxLikelihood:
        """The likelihood of every `step`-th row."""
        columns = replace(
            self.columns,
            source=self.columns.source[::step],
            turned=None if self.columns.turned is None else self.columns.turned[::step],
        )
        labels, weights = self.labels[::step].contiguous(), self.weights[::step].contiguous()
        offset = None if self.offset is None else self.offset[::step]
        return SoftmaxLikelihood(columns, labels, weights, self.classes, self.alpha / step, offset)

    def among(self, allowed: Tensor) -> SoftmaxLikelihood:
        """The likelihood of each row's label among the classes that are allowed it, (n, K)."""
        offset = torch.zeros(allowed.shape, dtype=torch.float64).masked_fill(~allowed, -math.inf)
        return SoftmaxLikelihood(self.columns, self.labels, self.weights, self.classes, self.alpha, offset)

    def _row_sums(self, theta: Tensor, direction: Tensor | None = None, **more: Any) -> RowSums:
        shape = (self.classes - 1, self.columns.count)
        direction = None if direction is None else direction.reshape(shape)
        return row_sums(self.rows, self.standard, theta.reshape(shape), direction=direction, **more)

    def scores(self, rows: slice, theta: Tensor) -> Tensor:
        """The scores of some rows, (rows, K), with zeros for the baseline."""
        x = self.columns.block(rows)
        scores = x @ theta.reshape(self.classes - 1, -1).T
        scores = torch.cat([torch.zeros(len(x), 1, dtype=torch.float64), scores], dim=1)
        return scores if self.offset is None else scores + self.offset[rows]

    @property
    def penalty(self) -> Tensor:
        """The quadratic form of alpha * sum_k |b_k - mean b|^2 over the K classes, for the columns as given."""
        return self.alpha * torch.kron(*self._shrunk())

    def shrink(self, theta: Tensor) -> Tensor:
        """The penalty's product with a vector."""
        between, along = self._shrunk()
        return self.alpha * (between @ theta.reshape(self.classes - 1, -1) @ along).reshape(-1)

    def _shrunk(self) -> tuple[Tensor, Tensor]:
        between = torch.eye(self.classes - 1, dtype=torch.float64) - 1 / self.classes
        slopes = torch.ones(self.columns.count, dtype=torch.float64)
        if self.columns.intercept:
            slopes[0] = 0.0
        to_given = self.columns.to_given
        return between, to_given.T @ (slopes[:, None] * to_given)


def fit_softmax(
    columns: Columns,
    codes: Tensor,
    weights: Tensor,
    classes: list[str],
    *,
    baseline: int = 0,
    alpha: float = 0.0,
    standard_errors: bool = True,
    wish: robust.Wish | None = None,
    response: Any = None,
    progress: Progress | None = None,
) -> Fit:
    """Fit the labels 0 .. K - 1 to columns by maximum likelihood.

    Args:
        columns: (n, p), as `Columns.of` prepares them.
        codes: (n) int64, the class of each row.
        weights: (n) float64 frequencies above 0.
        classes: the K names of the classes.
        baseline: the code of the class that the others are compared with.
        alpha: the ridge penalty of `SoftmaxRegression`.
        standard_errors: whether the information is formed where the steps do not need it.
        wish: which covariance; None: the inverse information.
        response: the name of the response, for the table.
        progress: called before each step with (step, log-likelihood, Newton decrement).

    Raises: ValueError for a single class, or, without a penalty, a column that the others determine.
    """
    if len(classes) < 2:
        raise ValueError(f"expected at least two classes, got one class: {', '.join(classes)}")
    if alpha == 0.0:
        columns = columns.independent()
    order = torch.tensor([baseline, *(k for k in range(len(classes)) if k != baseline)])
    problem = SoftmaxLikelihood(columns, order.argsort()[codes], weights, len(classes), alpha)
    found = search(problem, progress, standard_errors)
    return _result(problem, found, [classes[k] for k in order], response, wish or robust.Wish())


def code_of(baseline: Any, classes: list[Any]) -> int:
    """The code of a class given as its value or as a reader writes it; None: the first."""
    if baseline is None:
        return 0
    if np.ndim(baseline) > 0:
        raise ValueError(f"expected baseline to be one of {', '.join(map(label, classes))}, got {baseline}")
    for same in (lambda value: value == baseline, lambda value: label(value) == str(baseline)):
        found = [code for code, value in enumerate(classes) if same(value)]
        if found:
            return found[0]
    raise ValueError(f"expected baseline to be one of {', '.join(map(label, classes))}, got {baseline}")


def _result(
    problem: SoftmaxLikelihood, searched: Searched, classes: list[str], response: Any, wish: robust.Wish
) -> Fit:
    found, longest = searched
    columns, k = problem.columns, problem.classes - 1
    inverse = cov.inverse(found.sums.information) if longest is None else None
    exists, judged = _exists(problem, searched, inverse, classes)
    converged = found.reached and exists
    covariance = torch.full((1, 1), torch.nan, dtype=torch.float64).expand(problem.size, problem.size)
    information = "observed" if problem.alpha == 0.0 else f"penalised, alpha = {problem.alpha:g}"
    if converged and inverse is not None:
        if not wish.plain:
            inverse, information = robust.sandwich(problem, found.theta, inverse, wish)
        elif problem.alpha > 0.0:  # the spread of the penalised estimate: H^-1 I H^-1 with H = I + penalty
            inverse = cov.transformed(problem.information(found.theta), inverse)
        covariance = cov.transformed_by_block(inverse, columns.to_given)
    coef = found.theta.reshape(k, -1) @ columns.to_given.T
    if judged.limit is not None:
        coef, covariance = separation.with_limits(judged.limit, coef, columns.to_given)
    params = {"coef": coef}
    again = partial(search_again, SoftmaxRows(), columns, problem.labels, problem.weights, params, found.steps)
    return Fit(
        model="Softmax regression",
        discrete=True,
        params=params,
        covariance=covariance,
        log_likelihood=float(
            found.sums.log_likelihood if problem.alpha == 0.0 else problem.log_likelihood(found.theta)
        ),
        n=float(problem.weights.sum()),
        df=k * columns.count,
        status=_status(problem, found, exists, judged, inverse is not None),
        converged=converged,
        decrement=found.decrement,
        steps=found.steps,
        labels={"coef": (tuple(classes[1:]), tuple(columns.names))},
        information=information,
        null_log_likelihood=problem.null_log_likelihood(),
        response=None if response is None else str(response),
        baseline=classes[0],
        separation=judged.separation,
        log_likelihood_at=_AtCoefficients(problem),
        search=again if converged and problem.alpha == 0.0 else None,
    )


def _exists(
    problem: SoftmaxLikelihood, searched: Searched, inverse: Tensor | None, classes: list[str]
) -> tuple[bool, separation.Judged]:
    """Whether a finite maximum exists: by the penalty, by a certificate, or by a linear programme and what it found."""
    found, longest = searched
    known = inverse is None or not bool(inverse.isnan().any())
    if problem.alpha > 0.0:
        return known, separation.Judged()
    scores = problem.classes - 1
    if inverse is not None:
        exists = existence.certified(found.decrement, inverse, problem.columns, scores)
    else:
        assert longest is not None
        exists = existence.certified_by_bound(found.decrement, longest, problem.columns, scores)
    if exists or problem.size > MOST_INFORMATION:
        return exists, separation.Judged()
    judged = separation.judge(problem, classes, lambda left: maximise(left.sums, left.start(), None, left.unit))
    return judged.overlap and known, judged


class _AtCoefficients(LogLikelihood):
    """The log-likelihood as a function of the coefficients of the columns as given."""

    def __init__(self, problem: SoftmaxLikelihood) -> None:
        self.problem = problem

    def __call__(self, vector: Tensor) -> float:
        return float(self.problem.log_likelihood(self._standardised(vector)))

    def along(self, vector: Tensor, index: int, steps: Tensor) -> Tensor:
        """Move one class's score only: its log-sum-exp with that of the other classes, found once."""
        problem = self.problem
        k, column = divmod(index, problem.columns.count)
        theta, x = self._standardised(vector), problem.columns.given(column)
        total = torch.zeros(len(steps), dtype=torch.float64)
        for rows in blocks(len(x), len(steps) + problem.classes):
            scores = problem.scores(rows, theta)
            labels = problem.labels[rows]
            own = scores.gather(1, labels[:, None])
            rest = torch.cat([scores[:, : k + 1], scores[:, k + 2 :]], 1).logsumexp(1, keepdim=True)
            change = x[rows, None] * steps
            log_p = own + (labels == k + 1)[:, None] * change - torch.logaddexp(rest, scores[:, k + 1, None] + change)
            total += problem.weights[rows] @ log_p
        return total

    def _standardised(self, vector: Tensor) -> Tensor:
        coef = vector.reshape(self.problem.classes - 1, -1)
        return torch.linalg.solve(self.problem.columns.to_given, coef.T).T.reshape(-1)


def _status(problem: SoftmaxLikelihood, found: Optimum, exists: bool, judged: separation.Judged, informed: bool) -> str:
    if judged.separation is not None:
        return judged.separation.sentence()
    verdict = existence.verdict(found, exists, "that separates classes", problem.unit)
    if exists and found.reached and problem.size > MANY_PARAMETERS:
        verdict += f", by conjugate gradients for {problem.size} parameters"
        verdict += "" if informed else "; no standard errors"
    return verdict
