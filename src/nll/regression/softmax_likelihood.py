"""The likelihood of labels under a softmax of linear scores: its sums over the rows, its maximum, and the verdict."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nll import functional
from nll.likelihood import covariance as cov
from nll.likelihood.blocks import blocks
from nll.likelihood.model import LogLikelihood
from nll.likelihood.observations import label
from nll.likelihood.optimise import Optimum, Progress, Sums, maximise
from nll.likelihood.result import Fit
from nll.regression import existence
from nll.regression.columns import Columns
from nll.regression.search import SoftmaxRows, search_again


class SoftmaxLikelihood:
    """The log-likelihood of labels under linear scores; class 0 is the baseline.

    The parameters are the (K - 1, p) coefficients of the standardised columns, flattened by class.
    """

    def __init__(self, columns: Columns, labels: Tensor, weights: Tensor, classes: int, alpha: float) -> None:
        self.columns, self.labels, self.weights, self.classes = columns, labels, weights, classes
        self.counts = torch.bincount(labels, weights=weights, minlength=classes)
        self.unit = min(1.0, float(weights.mean()))  # of the log-likelihood, where weights are shares
        self.alpha = alpha
        self.penalty = self._penalty() if alpha > 0.0 else None

    def start(self) -> Tensor:
        """The constants of the null model, log(n_k / n_0); slopes 0."""
        coef = torch.zeros(self.classes - 1, self.columns.count, dtype=torch.float64)
        if self.columns.intercept:
            coef[:, 0] = (self.counts[1:] / self.counts[0]).log()
        return coef.reshape(-1)

    def sums(self, theta: Tensor) -> Sums:
        """Log-likelihood, score and information, penalty included.

        With residuals r_k = [y = k] - p_k: score_k = X' r_k; information_kl = X' diag(p_k ([k = l] - p_l)) X, which
        is a weighted product for each class, minus the square of the matrix whose rows are p_i (x) x_i.
        """
        value, score, information = self._sums(theta)
        if self.penalty is not None:
            shrink = self.penalty @ theta
            value, score, information = value - theta @ shrink / 2, score - shrink, information + self.penalty
        return Sums(value, score, information)

    def log_likelihood(self, theta: Tensor) -> Tensor:
        """The log-likelihood alone, without the penalty."""
        value = torch.zeros((), dtype=torch.float64)
        for rows in blocks(len(self.labels), self.classes + self.columns.count):
            log_p = functional.log_softmax(self.scores(self.columns.x[rows], theta), dim=1)
            value -= self.weights[rows] @ functional.nll_loss(log_p, self.labels[rows], reduction="none")
        return value

    def null_log_likelihood(self) -> float:
        """The largest log-likelihood with constants only: sum_k n_k log(n_k / n)."""
        return float(torch.xlogy(self.counts, self.counts / self.counts.sum()).sum())

    def information(self, theta: Tensor) -> Tensor:
        """The information without the penalty."""
        return self._sums(theta).information

    def _sums(self, theta: Tensor) -> Sums:
        k, p = self.classes - 1, self.columns.count
        value = torch.zeros((), dtype=torch.float64)
        score = torch.zeros(k, p, dtype=torch.float64)
        own = torch.zeros(k, p, p, dtype=torch.float64)
        square = torch.zeros(k * p, k * p, dtype=torch.float64)
        for rows in blocks(len(self.labels), k * p + self.classes):
            x, y, w = self.columns.x[rows], self.labels[rows], self.weights[rows]
            log_p = functional.log_softmax(self.scores(x, theta), dim=1)
            value -= w @ functional.nll_loss(log_p, y, reduction="none")
            prob = log_p[:, 1:].exp()
            residual = torch.nn.functional.one_hot(y, self.classes)[:, 1:] - prob
            score += (w[:, None] * residual).T @ x
            weighted = (w.sqrt()[:, None] * prob)[:, :, None] * x[:, None, :]  # (rows, k, p)
            flat = weighted.reshape(len(x), k * p)
            square.addmm_(flat.T, flat)
            own += ((w[:, None] * prob)[:, :, None] * x[:, None, :]).permute(1, 2, 0) @ x
        information = torch.block_diag(*own) - square
        return Sums(value, score.reshape(-1), information)

    def scores(self, x: Tensor, theta: Tensor) -> Tensor:
        """The scores of rows, (rows, K), with zeros for the baseline."""
        scores = x @ theta.reshape(self.classes - 1, -1).T
        return torch.cat([torch.zeros(len(x), 1, dtype=torch.float64), scores], dim=1)

    def _penalty(self) -> Tensor:
        """The quadratic form of alpha * sum_k |b_k - mean b|^2 over the K classes, for the columns as given."""
        k = self.classes - 1
        between = torch.eye(k, dtype=torch.float64) - 1 / self.classes
        slopes = torch.ones(self.columns.count, dtype=torch.float64)
        if self.columns.intercept:
            slopes[0] = 0.0
        to_given = self.columns.to_given
        return self.alpha * torch.kron(between, to_given.T @ (slopes[:, None] * to_given))


def fit_softmax(
    columns: Columns,
    codes: Tensor,
    weights: Tensor,
    classes: list[str],
    *,
    baseline: int = 0,
    alpha: float = 0.0,
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
        response: the name of the response, for the table.
        progress: called before each step with (step, log-likelihood, Newton decrement).

    Raises: ValueError for a single class, or, without a penalty, a column that the others determine.
    """
    if len(classes) < 2:
        raise ValueError(f"expected at least two classes, got one class: {', '.join(classes)}")
    if alpha == 0.0:
        columns = columns.orthogonal()
    order = torch.tensor([baseline, *(k for k in range(len(classes)) if k != baseline)])
    problem = SoftmaxLikelihood(columns, order.argsort()[codes], weights, len(classes), alpha)
    found = maximise(problem.sums, problem.start(), progress, problem.unit)
    return _result(problem, found, [classes[k] for k in order], response)


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


def _result(problem: SoftmaxLikelihood, found: Optimum, classes: list[str], response: Any) -> Fit:
    columns = problem.columns
    k = problem.classes - 1
    inverse = cov.inverse(found.sums.information)
    exists = problem.alpha > 0.0 and not bool(inverse.isnan().any())
    exists = exists or existence.certified(found.decrement, inverse, columns.x, k)
    converged = found.reached and exists
    if problem.penalty is not None:  # the spread of the penalised estimate: H^-1 I H^-1 with H = I + penalty
        inverse = cov.transformed(problem.information(found.theta), inverse)
    if not converged:
        inverse = torch.full_like(inverse, torch.nan)
    to_given = torch.block_diag(*[columns.to_given] * k)
    params = {"coef": (to_given @ found.theta).reshape(k, columns.count)}
    again = partial(search_again, SoftmaxRows(), columns, problem.labels, problem.weights, params, found.steps)
    return Fit(
        model="Softmax regression",
        discrete=True,
        params=params,
        covariance=cov.transformed(inverse, to_given),
        log_likelihood=float(problem.log_likelihood(found.theta)),
        n=float(problem.weights.sum()),
        df=k * columns.count,
        status=_status(problem, found, exists, classes),
        converged=converged,
        decrement=found.decrement,
        steps=found.steps,
        labels={"coef": (tuple(classes[1:]), tuple(columns.names))},
        information="observed" if problem.penalty is None else f"penalised, alpha = {problem.alpha:g}",
        null_log_likelihood=problem.null_log_likelihood(),
        response=None if response is None else str(response),
        baseline=classes[0],
        log_likelihood_at=_AtCoefficients(problem),
        search=again if converged and problem.penalty is None else None,
    )


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
            scores = problem.scores(problem.columns.x[rows], theta)
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


def _status(problem: SoftmaxLikelihood, found: Optimum, exists: bool, classes: list[str]) -> str:
    verdict = existence.verdict(found, exists, "that separates classes", problem.unit)
    certain = [] if exists else _fitted_surely(problem, found.theta)
    if not certain:
        return verdict
    who = ", ".join(classes[k] for k in certain[:5]) + (f" and {len(certain) - 5} more" if len(certain) > 5 else "")
    return f"{verdict}; every row of class {who} is fitted with a probability above 0.999"


def _fitted_surely(problem: SoftmaxLikelihood, theta: Tensor) -> list[int]:
    """The classes whose rows are all fitted with a probability near 1."""
    least = torch.zeros(problem.classes, dtype=torch.float64)
    for rows in blocks(len(problem.labels), problem.classes + problem.columns.count):
        log_p = functional.log_softmax(problem.scores(problem.columns.x[rows], theta), dim=1)
        own = log_p.gather(1, problem.labels[rows][:, None])[:, 0]
        least.scatter_reduce_(0, problem.labels[rows], own, "amin")
    return (least > math.log(0.999)).nonzero()[:, 0].tolist()
