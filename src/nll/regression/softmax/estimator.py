"""Softmax (multinomial logistic) regression: the cross entropy of linear scores, maximised and
judged.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from nll._torch import on_processor
from nll.data.arrays import array_of, categories_of, first_level
from nll.data.classes import as_array, cluster_codes, coded, label
from nll.data.stream import Stream
from nll.data.weights import frequencies, kind_of, scaled
from nll.losses import functional
from nll.regression.after.evaluation import Evaluation, evaluate
from nll.regression.after.influence import Influence, influence
from nll.regression.after.margins import Margins, margins
from nll.regression.after.predictions import Predictions, Predictor
from nll.regression.design_matrix import Columns
from nll.regression.softmax.duplicates import counted
from nll.regression.softmax.fit import code_of, fit_softmax
from nll.regression.softmax.inputs import (
    by_count,
    class_factors,
    classes_given,
    column_names,
    columns_given,
    discrete_columns,
    is_wide,
    known_finite,
    length,
    offset_of,
    plain,
    shared,
)
from nll.regression.softmax.objective import InMemory
from nll.regression.softmax.robust import KINDS, CovarianceOptions
from nll.regression.softmax.set_valued import sets_of
from nll.regression.softmax.sparse import SparseColumns
from nll.regression.softmax.streamed import fit_streamed
from nll.solvers.outcome import Progress

_MOST_DENSE = 1 << 27  # numbers of a sparse matrix that are written out


@on_processor
class SoftmaxRegression(ClassifierMixin, BaseEstimator):
    """Softmax regression by maximum likelihood, with standard errors.

    P(y = k | x) = exp(z_k) / sum_l exp(z_l), z_k = intercept_k + x' coef_k, and z = 0 for the
    baseline class. Newton's method in float64 maximises the likelihood; `result_` is the `Fit`.

    Args:
        alpha: ridge penalty alpha / 2 * (sum of squares of the coefficients in their sum-to-zero
            form), on the summed negative log-likelihood; intercepts are free. 0: maximum
            likelihood.
        penalty: "firth", the likelihood times the root of the information's determinant: finite
            where classes are separated too, and with less bias; intervals "profile" and tests "lr"
            are of the penalised likelihood.
        class_weight: class -> a factor of its rows' weights, or "balanced": n / (K * rows of the
            class), by weight.
        baseline: the class that the others are compared with; None: the first category of a
            Categorical, else the first in sorted order.
        fit_intercept: whether every score has a constant.
        covariance: "observed" (inverse information), "sandwich" (HC0: holds where the model is
            wrong) or "hc1" (the same with the factor n / (n - number of coefficients));
            `fit(clusters=...)` clusters it.
        weights: what `sample_weight` is: "frequency", how often a row was seen; "sampling", how
            many others it stands for; or "importance", as `nll.importance` has it. Of the last two
            only the ratios count, and the covariance is the sandwich. `nll.sampling(w)` and
            `nll.importance(w)` say it too.
        standard_errors: False leaves out the information of more than 256 coefficients, which costs
            far more than their estimate then.

    Attributes: `classes_` (K), `coef_` (K, p) and `intercept_` (K) with zeros for the baseline, for
    two classes too; `n_iter_`; `result_`, whose `params["coef"]` is (K - 1, columns) with the
    intercept first.
    """

    def __init__(
        self,
        *,
        alpha: float = 0.0,
        penalty: str | None = None,
        class_weight: Any = None,
        baseline: Any = None,
        fit_intercept: bool = True,
        covariance: str = "observed",
        weights: str = "frequency",
        standard_errors: bool = True,
    ) -> None:
        self.alpha = alpha
        self.penalty = penalty
        self.class_weight = class_weight
        self.baseline = baseline
        self.fit_intercept = fit_intercept
        self.covariance = covariance
        self.weights = weights
        self.standard_errors = standard_errors

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        clusters: Any = None,
        offset: Any = None,
        checkpoint: Any = None,
        progress: Progress | None = None,
    ):
        """Fit the model.

        Args:
            X: (n, p) columns: an array, a table or a sparse matrix; or a `nll.Stream`, whose rows
                are read again for each pass.
            y: (n) classes, of any type that sorts; or (n, K) counts, how often each class was seen:
                the columns of a table are the classes' names; or, where only sets of classes are
                known, (n, K) of True and False, or a sequence of sets.
            sample_weight: (n) weights, of the kind that `weights` says.
            clusters: (n) labels of groups of rows that are not independent of each other.
            offset: (n, K), in the order of the classes: added to the scores, with the coefficient
                1. Predictions are for an offset of 0.
            checkpoint: of a stream, a file that keeps what its passes have found: the same call
                with the same file goes on where the one before was stopped.
            progress: called before each step with (step, log-likelihood, Newton decrement).

        Raises: ValueError for data that do not fit, naming the column, row or class; collinear
        columns are named with their combination, unless `alpha` is above 0. Where no finite
        estimate exists or the search ends early it warns (ConvergenceWarning); `result_.status`
        says what is wrong.
        """
        self._check_options()
        if isinstance(X, Stream):
            return self._fit_stream(
                X, (y, sample_weight, clusters, offset, self.class_weight), checkpoint, progress
            )
        if checkpoint is not None:
            raise ValueError("expected checkpoint with a Stream only")
        kind = kind_of(sample_weight, self.weights)
        names, response = column_names(X := columns_given(X)), getattr(y, "name", None)
        y = plain(y, "y") if hasattr(y, "columns") else y
        sets = sets_of(y)
        if sets is not None:
            if self.penalty is not None or self.class_weight is not None:
                raise ValueError(
                    "expected single classes with penalty or class_weight, got sets of classes"
                )
            y = sets[1][sets[0].argmax(1)]
        elif is_wide(y):
            rows = sample_weight, clusters, offset
            X, y, sample_weight, clusters, offset = by_count(
                X, y, *rows, repeated=kind != "frequency"
            )
        given, y = y, classes_given(y)
        types = [np.float64, np.float32]
        options = {"accept_sparse": "csr", "ensure_all_finite": not known_finite(X)}
        classes, codes = coded(y)
        first = first_level(categories_of(given), classes)
        X, _ = validate_data(self, X, codes, dtype=types, ensure_min_samples=2, **options)  # type: ignore[arg-type]
        if issparse(X) and (self.penalty is not None or sets is not None):
            raise ValueError("expected a dense X with penalty or sets of classes, got a sparse one")
        weights = scaled(frequencies(sample_weight, X.shape[0]), kind).numpy()
        if self.class_weight is not None:
            weights = weights * class_factors(self.class_weight, y, weights)
        seen = weights > 0
        groups = None if clusters is None else cluster_codes(clusters, len(seen), seen)
        added = None if offset is None else array_of(plain(offset, "offset"))
        if not seen.all():
            X, y, weights = X[seen], y[seen], weights[seen]
            added = None if added is None else added[seen]
        weights = scaled(torch.from_numpy(weights), kind)
        classes, codes = coded(y)
        allowed = None
        if sets is not None:
            classes, allowed = sets[1].tolist(), torch.from_numpy(sets[0][seen])
            codes = allowed.int().argmax(1).numpy()
        self.classes_ = np.array(classes, dtype=y.dtype)
        base = code_of(first if self.baseline is None else self.baseline, self.classes_.tolist())
        data = (X if issparse(X) else shared(X)), torch.from_numpy(codes), weights
        if (
            not issparse(X)
            and groups is None
            and added is None
            and allowed is None
            and kind == "frequency"
        ):
            data = counted(*data) or data
        columns = (SparseColumns if issparse(X) else Columns).of(
            data[0], names, self.fit_intercept, self.alpha > 0
        )
        self.result_ = fit_softmax(
            columns,
            *data[1:],
            [label(value) for value in self.classes_.tolist()],
            baseline=base,
            alpha=float(self.alpha),
            firth=self.penalty == "firth",
            standard_errors=bool(self.standard_errors),
            wish=CovarianceOptions(self.covariance, kind, groups),
            offset=None if added is None else offset_of(added, X.shape[0], len(self.classes_)),
            allowed=allowed,
            response=response,
            progress=progress,
        )
        self._set_coefficients(base)
        return self

    def _fit_stream(
        self, stream: Stream, more: tuple[Any, ...], checkpoint: Any, progress: Progress | None
    ):
        if any(part is not None for part in more):
            raise ValueError(
                "expected a Stream alone, that has the classes, the weights and the clusters"
            )
        if self.penalty is not None:
            raise ValueError(f"expected no penalty with a Stream, got {self.penalty!r}")
        self.result_, classes = fit_streamed(
            stream,
            intercept=bool(self.fit_intercept),
            baseline=self.baseline,
            alpha=float(self.alpha),
            standard_errors=bool(self.standard_errors),
            wish=CovarianceOptions(self.covariance, self.weights, stream.clusters),
            checkpoint=checkpoint,
            progress=progress,
        )
        self.classes_, names = as_array(classes), stream.names or []
        self.n_features_in_ = len(names)
        if stream.response is not None:
            self.feature_names_in_ = np.array(names, dtype=object)
        self._set_coefficients(code_of(self.result_.baseline, classes))
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the scores: (n, K) with zeros for the baseline; for two classes (n), second minus
        first.
        """
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

    def predictions(self, X: Any, level: float = 0.95) -> Predictions:
        """Return the probability of each class with its standard error and interval, by the delta
        method.

        Args:
            X: (n, p) columns, as `fit` was given them.
            level: of the intervals, in (0, 1).

        Returns: tensors `probabilities` (n, K), `standard_errors` (n, K), `interval` (n, K, 2); NaN
            errors where the coefficients have none.
        """
        return self._predictor.at(self._design(X), level)

    def evaluate(self, X: Any, y: Any, sample_weight: Any = None) -> Evaluation:
        """Hold the predicted probabilities against rows that were not fitted: scores with errors,
        and calibration.

        Args:
            X: (n, p) columns, as `fit` was given them.
            y: (n) classes.
            sample_weight: (n) weights, of the kind that `weights` says.

        Raises: ValueError for a class that the fit has not seen, naming it and its row.
        """
        check_is_fitted(self)
        log_p, codes = (
            torch.from_numpy(self.predict_log_proba(X)),
            torch.from_numpy(self._codes(y, length(X))),
        )
        kind = kind_of(sample_weight, self.weights)
        given = scaled(frequencies(sample_weight, len(codes)), kind)
        names = tuple(label(value) for value in self.classes_.tolist())
        fitted = None if self.result_.n == 0 else self.result_.nll / self.result_.n
        sampling = kind != "frequency"
        return evaluate(log_p, codes, given, sampling=sampling, classes=names, fitted=fitted)

    def margins(
        self,
        X: Any,
        sample_weight: Any = None,
        *,
        at: str = "overall",
        discrete: Sequence[Any] | Mapping[Any, Any] = (),
    ) -> Margins:
        """Return the marginal effect of each column on the probability of each class, with errors
        by the delta method.

        Args:
            X: (n, p) columns, as `fit` was given them.
            sample_weight: (n) weights of the average.
            at: "overall", the mean of the rows' effects, or "mean", the effect at the mean of the
                columns.
            discrete: names, or numbers, of 0/1 columns: their effect is the difference that 1 makes
                against 0. Columns of one variable, its dummies, go in a list of their own, such as
                [["north", "south"], "female"], or in a
                mapping of lists by the variables' names: then the others of them are 0 when one is
                    1.

        Raises: ValueError for a discrete column that is not there or has other values, for a row
        with two dummies of one variable, or another `at`.
        """
        if at not in ("overall", "mean"):
            raise ValueError(f"expected at to be overall or mean, got {at!r}")
        predictor, x = self._predictor, self._design(X)
        weights = frequencies(sample_weight, len(x))
        names = predictor.columns[predictor.intercept :]
        chosen = discrete_columns(discrete, names, x[:, predictor.intercept :])
        effects, covariance = margins(
            x,
            weights,
            predictor.full,
            predictor.covariance,
            predictor.baseline,
            predictor.intercept,
            at=at,
            discrete=[[j + predictor.intercept for j in columns] for columns in chosen],
        )
        discrete = tuple(names[j] for columns in chosen for j in columns)
        return Margins(predictor.classes, names, effects, covariance, at, discrete)

    def influence(
        self, X: Any, y: Any, sample_weight: Any = None, *, offset: Any = None
    ) -> Influence:
        """Return how much each row moves the fit: leverage, Cook's distance, and the coefficients
        without it.

        Args:
            X: (n, p) columns of the rows that were fitted.
            y: (n) their classes.
            sample_weight: (n) their weights; a row is taken away with all of its weight.
            offset: (n, K), as `fit` was given it.

        Raises: ValueError for a fit without a finite maximum, or with Firth's penalty, whose change
        is not followed; for rows that are not those of the fit.
        """
        check_is_fitted(self)
        if not self.result_.converged or self.penalty is not None:
            raise ValueError(
                f"expected a fit by maximum likelihood that converged, got {self.result_.status}"
            )
        names = list(self._predictor.columns[self.fit_intercept :])
        columns = Columns.of(shared(self._dense(X)), names, self.fit_intercept, self.alpha > 0)
        kind = kind_of(sample_weight, self.weights)
        weights = scaled(frequencies(sample_weight, columns.length), kind)
        codes, added = self._codes(y, columns.length), None
        if self.class_weight is not None:
            factors = class_factors(self.class_weight, self.classes_[codes], weights.numpy())
            weights = scaled(weights * torch.from_numpy(factors), kind)
        base, k = self._predictor.baseline, len(self.classes_)
        order = torch.tensor([base, *(c for c in range(k) if c != base)])
        if offset is not None:
            added = offset_of(offset, columns.length, k)[:, order].contiguous()
        labels = order.argsort()[torch.from_numpy(codes)]
        problem = InMemory(columns, labels, weights, k, float(self.alpha), added)
        return influence(problem, self._predictor.coef, tuple(self.result_.names))

    def _codes(self, y: Any, rows: int) -> np.ndarray:
        """The place of each row's class in `classes_`."""
        y = classes_given(y)
        if len(y) != rows:
            raise ValueError(f"expected {rows} classes, one for each row, got {len(y)}")
        known = {value: code for code, value in enumerate(self.classes_.tolist())}
        codes = np.array([known.get(value, -1) for value in y.tolist()], dtype=np.int64)
        if (codes < 0).any():
            row = int(codes.argmin())
            raise ValueError(
                f"expected the classes of the fit, {', '.join(map(label, known))}, got "
                f"{label(y[row])} at row {row}"
            )
        return codes

    @property
    def _predictor(self) -> Predictor:
        check_is_fitted(self)
        return self.result_.predictor  # type: ignore[return-value]  # every softmax regression has one

    def _design(self, X: Any) -> torch.Tensor:
        """The columns of new rows, (n, p) with the constant."""
        predictor = self._predictor
        return predictor.design(self._dense(X))

    def _dense(self, X: Any) -> np.ndarray:
        """The columns of new rows, (n, p), with their zeros."""
        given = self._given(X)
        if not issparse(given):
            return np.asarray(given)
        if given.shape[0] * given.shape[1] > _MOST_DENSE:
            raise ValueError(
                f"expected rows of at most {_MOST_DENSE} numbers, zeros included, got a sparse "
                f"{given.shape}"
            )
        return given.toarray()

    def _given(self, X: Any) -> Any:
        """The columns of new rows, (n, p), dense or sparse."""
        return validate_data(
            self, columns_given(X), dtype=np.float64, accept_sparse="csr", reset=False
        )

    def _scores(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return self._given(X) @ self.coef_.T + self.intercept_

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn may expect."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.penalty is None
        return tags

    def _check_options(self) -> None:
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, (int, float, np.number)):
            raise TypeError(f"expected alpha to be a number, got {type(self.alpha).__name__}")
        if not 0.0 <= self.alpha < math.inf:
            raise ValueError(f"expected a finite alpha of at least 0, got {self.alpha}")
        options = {
            "covariance": KINDS,
            "weights": ("frequency", "sampling", "importance"),
            "penalty": (None, "firth"),
        }
        for name, known in options.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"expected {name} to be one of {', '.join(map(str, known))}, got "
                    f"{getattr(self, name)!r}"
                )
        if self.penalty is not None and self.alpha:
            raise ValueError(
                f"expected either alpha or penalty, got alpha={self.alpha:g} and {self.penalty!r}"
            )
        for name in ("fit_intercept", "standard_errors"):
            if not isinstance(getattr(self, name), (bool, np.bool_)):
                raise TypeError(f"expected {name} to be True or False, got {getattr(self, name)!r}")

    def _set_coefficients(self, base: int) -> None:
        """Spread the estimate over all classes in the order of `classes_`, with zeros for the
        baseline.
        """
        if not self.result_.converged:
            warnings.warn(self.result_.status, ConvergenceWarning, stacklevel=4)
        full = np.insert(self.result_.params["coef"].numpy(), base, 0.0, axis=0)
        self.coef_ = full[:, 1:] if self.fit_intercept else full
        self.intercept_ = full[:, 0] if self.fit_intercept else np.zeros(len(full))
        self.n_iter_ = self.result_.steps
