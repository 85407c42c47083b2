"""Softmax (multinomial logistic) regression: the cross entropy of linear scores, maximised and judged."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from nll import functional
from nll.likelihood import covariance as cov
from nll.likelihood.blocks import blocks
from nll.likelihood.optimise import Optimum, Progress, Sums, maximise
from nll.likelihood.result import Fit
from nll.regression import existence
from nll.regression.columns import Columns


class SoftmaxRegression(ClassifierMixin, BaseEstimator):
    """Softmax regression by maximum likelihood, with standard errors.

    P(y = k | x) = exp(z_k) / sum_l exp(z_l), z_k = intercept_k + x' coef_k, and z = 0 for the baseline class.
    Newton's method in float64 maximises the likelihood; `result_` is the `Fit`.

    Args:
        alpha: ridge penalty alpha / 2 * (sum of squares of the coefficients in their sum-to-zero form), on the
            summed negative log-likelihood; intercepts are free. 0: maximum likelihood.
        baseline: the class that the others are compared with; None: the first in sorted order.
        fit_intercept: whether every score has a constant.

    Attributes: `classes_` (K), `coef_` (K, p) and `intercept_` (K) with zeros for the baseline, for two classes
    too; `n_iter_`; `result_`, whose `params["coef"]` is (K - 1, columns) with the intercept first.
    """

    def __init__(self, *, alpha: float = 0.0, baseline: Any = None, fit_intercept: bool = True) -> None:
        self.alpha = alpha
        self.baseline = baseline
        self.fit_intercept = fit_intercept

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, progress: Progress | None = None):
        """Fit the model.

        Args:
            X: (n, p) columns: an array or a table.
            y: (n) classes, of any type that sorts.
            sample_weight: (n) frequencies, how often each row was seen.
            progress: called before each step with (step, log-likelihood, Newton decrement).

        Raises: ValueError for data that do not fit, naming the column, row or class; collinear columns are named
        with their combination, unless `alpha` is above 0. Where no finite estimate exists or the search ends early
        it warns (ConvergenceWarning); `result_.status` says what is wrong.
        """
        self._check_options()
        names = _column_names(X)
        _require_finite(X, names)
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        weights = np.asarray(
            _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        )
        seen = weights > 0
        X, y, weights = X[seen], y[seen], weights[seen]
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"expected at least two classes in y, got one class: {_text(self.classes_)}")
        base = self._baseline_code()
        columns = Columns.of(torch.from_numpy(np.ascontiguousarray(X)), names, self.fit_intercept)
        if self.alpha == 0.0:
            columns.require_rank()
        order = [base, *(k for k in range(len(self.classes_)) if k != base)]
        position = np.empty(len(order), dtype=np.int64)
        position[order] = np.arange(len(order))
        problem = SoftmaxLikelihood(
            columns,
            torch.from_numpy(position[codes.reshape(-1)]),
            torch.from_numpy(weights),
            len(order),
            self.alpha,
        )
        found = maximise(problem.sums, problem.start(), progress)
        self.result_ = _result(problem, found, [str(self.classes_[k]) for k in order])
        if not self.result_.converged:
            warnings.warn(self.result_.status, ConvergenceWarning, stacklevel=2)
        self._set_coefficients(order[1:], columns.intercept)
        self.n_iter_ = found.steps
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the scores: (n, K) with zeros for the baseline; for two classes (n), second minus first."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the log-probability of each class, (n, K)."""
        return functional.log_softmax(torch.from_numpy(self._scores(X)), dim=1).numpy()

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, (n, K)."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each row, (n)."""
        best = self._scores(X).argmax(1)
        return self.classes_[best]

    def _scores(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        return X @ self.coef_.T + self.intercept_

    def _check_options(self) -> None:
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, (int, float, np.number)):
            raise TypeError(f"expected alpha to be a number, got {type(self.alpha).__name__}")
        if not 0.0 <= self.alpha < math.inf:
            raise ValueError(f"expected a finite alpha of at least 0, got {self.alpha}")

    def _baseline_code(self) -> int:
        if self.baseline is None:
            return 0
        same = [k for k, label in enumerate(self.classes_.tolist()) if label == self.baseline]
        if not same:
            raise ValueError(f"expected baseline to be one of {_text(self.classes_)}, got {self.baseline!r}")
        return same[0]

    def _set_coefficients(self, codes: list[int], intercept: bool) -> None:
        estimate = self.result_.params["coef"].numpy()
        full = np.zeros((len(self.classes_), estimate.shape[1]))
        full[codes] = estimate
        self.coef_ = full[:, 1:] if intercept else full
        self.intercept_ = full[:, 0] if intercept else np.zeros(len(full))


class SoftmaxLikelihood:
    """The log-likelihood of labels under linear scores; class 0 is the baseline.

    The parameters are the (K - 1, p) coefficients of the standardised columns, flattened by class.
    """

    def __init__(self, columns: Columns, labels: Tensor, weights: Tensor, classes: int, alpha: float) -> None:
        self.columns, self.labels, self.weights, self.classes = columns, labels, weights, classes
        self.counts = torch.bincount(labels, weights=weights, minlength=classes)
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
            log_p = functional.log_softmax(self._scores(self.columns.x[rows], theta), dim=1)
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
            log_p = functional.log_softmax(self._scores(x, theta), dim=1)
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

    def _scores(self, x: Tensor, theta: Tensor) -> Tensor:
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


def _result(problem: SoftmaxLikelihood, found: Optimum, classes: list[str]) -> Fit:
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
    shape = (k, columns.count)
    return Fit(
        model="Softmax regression",
        params={"coef": (to_given @ found.theta).reshape(shape)},
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
        baseline=classes[0],
        log_likelihood_at=_AtCoefficients(problem),
    )


class _AtCoefficients:
    """The log-likelihood as a function of the coefficients of the columns as given."""

    def __init__(self, problem: SoftmaxLikelihood) -> None:
        self.problem = problem

    def __call__(self, vector: Tensor) -> float:
        coef = vector.reshape(self.problem.classes - 1, -1)
        standardised = torch.linalg.solve(self.problem.columns.to_given, coef.T).T
        return float(self.problem.log_likelihood(standardised.reshape(-1)))


def _status(problem: SoftmaxLikelihood, found: Optimum, exists: bool, classes: list[str]) -> str:
    if not found.reached:
        return found.status
    if exists:
        return "converged: a finite maximum exists, and the Newton steps reached it"
    certain = _fitted_surely(problem, found.theta)
    who = ", ".join(classes[k] for k in certain)
    where = f"; every row of class {who} is fitted with a probability above 0.999" if certain else ""
    return f"no finite estimate: the likelihood keeps rising along a direction that separates classes{where}"


def _fitted_surely(problem: SoftmaxLikelihood, theta: Tensor) -> list[int]:
    """The classes whose rows are all fitted with a probability near 1."""
    least = torch.zeros(problem.classes, dtype=torch.float64)
    for rows in blocks(len(problem.labels), problem.classes + problem.columns.count):
        log_p = functional.log_softmax(problem._scores(problem.columns.x[rows], theta), dim=1)
        own = log_p.gather(1, problem.labels[rows][:, None])[:, 0]
        least.scatter_reduce_(0, problem.labels[rows], own, "amin")
    return (least > math.log(0.999)).nonzero()[:, 0].tolist()


def _column_names(X: Any) -> list[str] | None:
    return [str(name) for name in X.columns] if hasattr(X, "columns") else None


def _require_finite(X: Any, names: list[str] | None) -> None:
    """Name the first row and column that is NaN or infinite; leave other complaints to scikit-learn."""
    try:
        array = np.asarray(X, dtype=np.float64)
    except (TypeError, ValueError):
        return
    if array.ndim != 2:
        return
    wrong = ~np.isfinite(array)
    if not wrong.any():
        return
    row, column = np.argwhere(wrong)[0]
    value = array[row, column]
    shown = "NaN" if np.isnan(value) else "infinity"
    name = repr(names[column]) if names else column
    raise ValueError(f"expected finite values in X, got {shown} at row {row} of column {name}")


def _text(classes: np.ndarray) -> str:
    return ", ".join(map(repr, classes.tolist()))
