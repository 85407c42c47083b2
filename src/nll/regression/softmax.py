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

from nll import functional
from nll.likelihood.observations import cluster_codes, label
from nll.likelihood.optimise import Progress
from nll.regression.columns import Columns
from nll.regression.robust import KINDS, Wish
from nll.regression.softmax_likelihood import code_of, fit_softmax

_MANY = 1 << 16  # rows that tell whether whole numbers are classes


class SoftmaxRegression(ClassifierMixin, BaseEstimator):
    """Softmax regression by maximum likelihood, with standard errors.

    P(y = k | x) = exp(z_k) / sum_l exp(z_l), z_k = intercept_k + x' coef_k, and z = 0 for the baseline class.
    Newton's method in float64 maximises the likelihood; `result_` is the `Fit`.

    Args:
        alpha: ridge penalty alpha / 2 * (sum of squares of the coefficients in their sum-to-zero form), on the
            summed negative log-likelihood; intercepts are free. 0: maximum likelihood.
        baseline: the class that the others are compared with; None: the first in sorted order.
        fit_intercept: whether every score has a constant.
        covariance: "observed" (inverse information), "sandwich" (HC0: holds where the model is wrong) or "hc1" (the
            same with the factor n / (n - number of coefficients)); `fit(clusters=...)` clusters it.
        weights: what `sample_weight` is: "frequency", how often a row was seen, or "sampling", how many others it
            stands for; the covariance is the sandwich then.
        standard_errors: False leaves out the information of more than 256 coefficients, which costs far more than
            their estimate then.

    Attributes: `classes_` (K), `coef_` (K, p) and `intercept_` (K) with zeros for the baseline, for two classes
    too; `n_iter_`; `result_`, whose `params["coef"]` is (K - 1, columns) with the intercept first.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.0,
        baseline: Any = None,
        fit_intercept: bool = True,
        covariance: str = "observed",
        weights: str = "frequency",
        standard_errors: bool = True,
    ) -> None:
        self.alpha = alpha
        self.baseline = baseline
        self.fit_intercept = fit_intercept
        self.covariance = covariance
        self.weights = weights
        self.standard_errors = standard_errors

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, clusters: Any = None, progress: Progress | None = None):
        """Fit the model.

        Args:
            X: (n, p) columns: an array or a table.
            y: (n) classes, of any type that sorts.
            sample_weight: (n) weights, of the kind that `weights` says.
            clusters: (n) labels of groups of rows that are not independent of each other.
            progress: called before each step with (step, log-likelihood, Newton decrement).

        Raises: ValueError for data that do not fit, naming the column, row or class; collinear columns are named
        with their combination, unless `alpha` is above 0. Where no finite estimate exists or the search ends early
        it warns (ConvergenceWarning); `result_.status` says what is wrong.
        """
        self._check_options()
        X, y = _detached(X), _detached(y)
        names, response = _column_names(X), getattr(y, "name", None)
        _require_finite(X, names)
        _require_one_type(y)
        types = [np.float64, np.float32]
        X, y = validate_data(self, X, y, dtype=types, ensure_min_samples=2, ensure_all_finite=not _known_finite(X))
        check_classification_targets(y[:_MANY] if y.dtype.kind in "iu" else y)
        weights = np.asarray(_check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True))
        seen = weights > 0
        groups = None if clusters is None else cluster_codes(clusters, len(seen), seen)
        if not seen.all():
            X, y, weights = X[seen], y[seen], weights[seen]
        self.classes_, codes = _encoded(y)
        base = code_of(self.baseline, self.classes_.tolist())
        columns = Columns.of(_tensor(X), names, self.fit_intercept)
        self.result_ = fit_softmax(
            columns,
            torch.from_numpy(codes),
            torch.from_numpy(weights),
            [label(value) for value in self.classes_.tolist()],
            baseline=base,
            alpha=float(self.alpha),
            standard_errors=bool(self.standard_errors),
            wish=Wish(self.covariance, self.weights, groups),
            response=response,
            progress=progress,
        )
        if not self.result_.converged:
            warnings.warn(self.result_.status, ConvergenceWarning, stacklevel=2)
        self._set_coefficients(base, columns.intercept)
        self.n_iter_ = self.result_.steps
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
        X = validate_data(self, _detached(X), dtype=np.float64, reset=False)
        return X @ self.coef_.T + self.intercept_

    def _check_options(self) -> None:
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, (int, float, np.number)):
            raise TypeError(f"expected alpha to be a number, got {type(self.alpha).__name__}")
        if not 0.0 <= self.alpha < math.inf:
            raise ValueError(f"expected a finite alpha of at least 0, got {self.alpha}")
        for name, known in (("covariance", KINDS), ("weights", ("frequency", "sampling"))):
            if getattr(self, name) not in known:
                raise ValueError(f"expected {name} to be one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("fit_intercept", "standard_errors"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise TypeError(f"expected {name} to be True or False, got {getattr(self, name)!r}")

    def _set_coefficients(self, base: int, intercept: bool) -> None:
        """Spread the estimate over all classes in the order of `classes_`, with zeros for the baseline."""
        full = np.insert(self.result_.params["coef"].numpy(), base, 0.0, axis=0)
        self.coef_ = full[:, 1:] if intercept else full
        self.intercept_ = full[:, 0] if intercept else np.zeros(len(full))


def _tensor(array: np.ndarray) -> torch.Tensor:
    """The array's own memory, which is only read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyTorch has no tensors that are not to be written
        return torch.from_numpy(array)


def _detached(data: Any) -> Any:
    return data.detach().cpu() if isinstance(data, torch.Tensor) else data


def _require_one_type(y: Any) -> None:
    """Classes are sorted: those of several types have no order."""
    array = np.asarray(y)
    types = sorted({type(value).__name__ for value in array.reshape(-1).tolist()}) if array.dtype.kind == "O" else []
    if len(types) > 1:
        raise TypeError(f"expected classes of one type, got {' and '.join(types)}")


def _require_numbers(array: np.ndarray, names: list[str] | None) -> None:
    """Name the first text that is no number."""
    for row, column in np.ndindex(array.shape) if array.ndim == 2 else ():
        if _is_text(array[row, column]):
            name = repr(names[column]) if names else column
            raise ValueError(f"expected numbers in X, got {str(array[row, column])!r} at row {row} of column {name}")


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and math.isnan(float(value))
    except ValueError:
        return True


def _encoded(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The classes, sorted, and each row's; whole numbers near each other are counted, not sorted."""
    if y.dtype.kind in "iu" and len(y):
        low, high = int(y.min()), int(y.max())
        if high - low < len(y) and abs(low) < 1 << 62:
            place = y.astype(np.int64) - low  # in a type of its own an int8 may overflow
            seen = np.bincount(place) > 0
            return (np.flatnonzero(seen) + low).astype(y.dtype), (np.cumsum(seen) - 1)[place]
    classes, codes = np.unique(y, return_inverse=True)
    return classes, codes.reshape(-1)


def _column_names(X: Any) -> list[str] | None:
    return [str(name) for name in X.columns] if hasattr(X, "columns") else None


def _known_finite(X: Any) -> bool:
    """Whether an array's sum tells that all of its numbers are finite: a look of milliseconds."""
    if not isinstance(X, np.ndarray) or X.dtype.kind != "f":
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(X.sum(dtype=np.float64)))


def _require_finite(X: Any, names: list[str] | None) -> None:
    """Name the first row and column that is NaN or infinite; leave other complaints to scikit-learn."""
    if _known_finite(X):
        return
    try:
        array = np.asarray(X)
        array = array.astype(np.float64) if array.dtype.kind != "c" else np.empty(0)
    except (TypeError, ValueError):
        return _require_numbers(np.asarray(X), names)
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
