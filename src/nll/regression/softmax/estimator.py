"""Softmax (multinomial logistic) regression: options and fit."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import validate_data

from nll._torch import on_processor
from nll.data.classes import as_array, label
from nll.data.stream import Stream
from nll.data.weights import kind_of
from nll.regression.columns import known_finite
from nll.regression.covariance import KINDS, CovarianceOptions
from nll.regression.ridge import require_alpha
from nll.regression.softmax.fit import code_of, fit_softmax
from nll.regression.softmax.fitted import FittedSoftmax
from nll.regression.softmax.inputs import Given, Training
from nll.regression.softmax.streamed import fit_streamed
from nll.solvers.outcome import Progress


@on_processor
class SoftmaxRegression(FittedSoftmax):
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
        baseline: the reference class; None: the first category of a
            Categorical, otherwise the first in sorted order.
        fit_intercept: whether every linear predictor has a constant.
        covariance: "observed" (inverse information), "sandwich" (HC0, robust to a misspecified
            model) or "hc1" (the same with the factor n / (n - number of coefficients));
            `fit(clusters=...)` clusters it.
        weights: the kind of `sample_weight`: "frequency", how often a row was seen; "sampling", how
            many others it stands for; or "importance", as in `nll.importance`. For the last two
            only the ratios count, and the covariance is the sandwich. `nll.sampling(w)` and
            `nll.importance(w)` declare the kind as well.
        standard_errors: False skips the information of more than 256 coefficients, which costs
            far more than their estimate then.

    Attributes: `classes_` (K), `coef_` (K, p) and `intercept_` (K) with zeros for the baseline, for
    two classes too; `n_iter_`; `result_`, whose `params["coef"]` is (K - 1, columns) with the
    intercept first.

    Example:
        >>> import nll
        >>> X, y = [[0.0], [1.0], [2.0], [3.0]], ["a", "b", "a", "b"]
        >>> model = nll.SoftmaxRegression().fit(X, y)
        >>> model.predict([[4.0]]).tolist()
        ['b']
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
            offset: (n, K), in the order of the classes: added to the linear predictors.
                Predictions are for an offset of 0.
            checkpoint: for a stream, a file that keeps the sums of its passes: the same call with
                the same file resumes where the one before was stopped.
            progress: called before each step with (step, log-likelihood, Newton decrement).

        Raises: ValueError for data that do not fit, naming the column, row or class; collinear
        columns are named with their combination, unless `alpha` is above 0. Where no finite
        estimate exists or the search ends early it warns (ConvergenceWarning); `result_.status`
        says what is wrong.

        Example:
            >>> import nll
            >>> model = nll.SoftmaxRegression().fit([[0], [1], [2]], [[5, 3], [2, 4], [1, 6]])
            >>> model.result_.converged
            True
        """
        self._check_options()
        if isinstance(X, Stream):
            more = y, sample_weight, clusters, offset, self.class_weight
            return self._fit_stream(X, more, checkpoint, progress)
        if checkpoint is not None:
            raise ValueError("expected checkpoint with a Stream only")
        kind = kind_of(sample_weight, self.weights)
        given = Given.of(X, y, sample_weight, clusters, offset, kind)
        data = Training.of(given, self._validated(given), self.class_weight, kind)
        self.classes_ = data.classes
        known = data.classes.tolist()
        base = code_of(given.first if self.baseline is None else self.baseline, known)
        self.result_ = fit_softmax(
            data.columns(self.fit_intercept, self.alpha > 0),
            data.codes,
            data.weights,
            [label(value) for value in known],
            baseline=base,
            alpha=float(self.alpha),
            firth=self.penalty == "firth",
            standard_errors=bool(self.standard_errors),
            covariance=CovarianceOptions(self.covariance, kind, data.clusters),
            offset=data.offset,
            allowed=data.allowed,
            response=getattr(y, "name", None),
            progress=progress,
        )
        self._set_coefficients()
        return self

    def _validated(self, given: Given) -> Any:
        """Return the columns to fit, an array or a sparse matrix, as scikit-learn accepts them."""
        single = given.sets is None
        if not single and (self.penalty is not None or self.class_weight is not None):
            raise ValueError(
                "expected single classes with penalty or class_weight, got sets of classes"
            )
        types = [np.float64, np.float32]
        options = {"accept_sparse": "csr", "ensure_all_finite": not known_finite(given.X)}
        codes: Any = given.codes
        X, _ = validate_data(self, given.X, codes, dtype=types, ensure_min_samples=2, **options)  # type: ignore[arg-type]
        if issparse(X) and not (single and self.penalty is None):
            raise ValueError("expected a dense X with penalty or sets of classes, got a sparse one")
        return X

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
            covariance=CovarianceOptions(self.covariance, self.weights, stream.clusters),
            checkpoint=checkpoint,
            progress=progress,
        )
        self.classes_, names = as_array(classes), stream.names or []
        self.n_features_in_ = len(names)
        if stream.response is not None:
            self.feature_names_in_ = np.array(names, dtype=object)
        self._set_coefficients()
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.penalty is None
        return tags

    def _check_options(self) -> None:
        require_alpha(self.alpha)
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

    def _set_coefficients(self) -> None:
        if not self.result_.converged:
            warnings.warn(self.result_.status, ConvergenceWarning, stacklevel=4)
        full = self._predictor.full.numpy()
        self.coef_ = full[:, 1:] if self.fit_intercept else full
        self.intercept_ = full[:, 0] if self.fit_intercept else np.zeros(len(full))
        self.n_iter_ = self.result_.steps
