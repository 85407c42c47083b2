"""Predictions, effects and checks of a fitted softmax regression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from nll._torch import on_processor
from nll.data.classes import label
from nll.data.weights import frequencies, kind_of, scaled
from nll.losses import functional
from nll.regression.after.evaluation import Evaluation, evaluate
from nll.regression.after.influence import Influence
from nll.regression.after.margins import Margins, predictor_margins
from nll.regression.after.predictions import Predictions, Predictor
from nll.regression.columns import columns_given, length, shared
from nll.regression.contrasts import Classes
from nll.regression.design_matrix import Columns, Response
from nll.regression.result import RegressionFit
from nll.regression.softmax.fit import influence_on
from nll.regression.softmax.inputs import class_factors, classes_given, offset_of
from nll.regression.softmax.objective import InMemory

_MOST_DENSE = 1 << 27  # numbers of a sparse matrix that are written out


@on_processor
class FittedSoftmax(ClassifierMixin, BaseEstimator):
    """The methods of a softmax regression that follow its fit."""

    alpha: float
    penalty: str | None
    class_weight: Any
    weights: str
    result_: RegressionFit
    classes_: np.ndarray
    coef_: np.ndarray
    intercept_: np.ndarray

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the logits: (n, K) with zeros for the baseline; for two classes (n), second minus
        first.

        Example:
            >>> import nll
            >>> model = nll.SoftmaxRegression().fit([[0], [1], [2], [3]], ["a", "b", "a", "b"])
            >>> bool(model.decision_function([[3]])[0] > 0)
            True
        """
        z = self._logits(X)
        return z[:, 1] - z[:, 0] if z.shape[1] == 2 else z

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the log-probability of each class, (n, K).

        Example:
            >>> import nll
            >>> model = nll.SoftmaxRegression().fit([[0], [1], [2], [3]], ["a", "b", "a", "b"])
            >>> model.predict_log_proba([[1.5]]).round(4).tolist()
            [[-0.6931, -0.6931]]
        """
        return functional.log_softmax(torch.from_numpy(self._logits(X)), dim=1).numpy()

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, (n, K).

        Example:
            >>> import nll
            >>> model = nll.SoftmaxRegression().fit([[0], [1], [2], [3]], ["a", "b", "a", "b"])
            >>> model.predict_proba([[1.5]]).round(4).tolist()
            [[0.5, 0.5]]
        """
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable class of each row, (n).

        Example:
            >>> import nll
            >>> model = nll.SoftmaxRegression().fit([[0], [1], [2], [3]], ["a", "b", "a", "b"])
            >>> model.predict([[-5.0], [5.0]]).tolist()
            ['a', 'b']
        """
        best = self._logits(X).argmax(1)
        return self.classes_[best]

    def predictions(self, X: Any, level: float = 0.95) -> Predictions:
        """Return the probability of each class with its standard error and interval, by the delta
        method.

        Args:
            X: (n, p) columns, as `fit` was given them.
            level: of the intervals, in (0, 1).

        Returns: tensors `probabilities` (n, K), `standard_errors` (n, K), `interval` (n, K, 2); NaN
            standard errors where the coefficients have none.

        Example:
            >>> import nll
            >>> model = nll.SoftmaxRegression().fit([[0], [1], [2], [3]], ["a", "b", "a", "b"])
            >>> model.predictions([[1.5]]).standard_errors.shape
            torch.Size([1, 2])
        """
        return self._predictor.at(self._design(X), level)

    def evaluate(self, X: Any, y: Any, sample_weight: Any = None) -> Evaluation:
        """Compare predicted probabilities with outcomes of new rows: proper scores with standard
        errors, and calibration.

        Args:
            X: (n, p) columns, as `fit` was given them.
            y: (n) classes.
            sample_weight: (n) weights, of the kind that `weights` says.

        Raises: ValueError for a class that the fit has not seen, naming it and its row.

        Example:
            >>> import nll
            >>> model = nll.SoftmaxRegression().fit([[0], [1], [2], [3]], ["a", "b", "a", "b"])
            >>> model.evaluate([[1], [2], [3]], ["a", "b", "b"]).accuracy.value
            1.0
        """
        log_p = torch.from_numpy(self.predict_log_proba(X))
        codes = torch.from_numpy(self._codes(y, length(X)))
        kind = kind_of(sample_weight, self.weights)
        weights = scaled(frequencies(sample_weight, len(codes)), kind)
        fit = self.result_
        return evaluate(
            log_p,
            codes,
            weights,
            sampling=kind != "frequency",
            classes=self._predictor.classes,
            fitted=None if fit.n == 0 else fit.nll / fit.n,
        )

    def margins(
        self,
        X: Any,
        sample_weight: Any = None,
        *,
        at: str = "overall",
        discrete: Sequence[Any] | Mapping[Any, Any] = (),
    ) -> Margins:
        """Return the marginal effect of each column on the probability of each class, with standard
        errors by the delta method.

        Args:
            X: (n, p) columns, as `fit` was given them.
            sample_weight: (n) weights of the average.
            at: "overall", the mean of the rows' effects, or "mean", the effect at the mean of the
                columns.
            discrete: names, or numbers, of 0/1 columns: their effect is the change from 0 to 1.
                The dummies of one variable go in a list of their own, such as [["north", "south"],
                "female"], or in a mapping of lists by the variables' names: then the others of them
                are 0 when one is 1.

        Raises: ValueError for a discrete column that is unknown or has other values, for a row with
        two dummies of one variable, or another `at`.

        Example:
            >>> import nll
            >>> model = nll.SoftmaxRegression().fit([[0], [1], [2], [3]], ["a", "b", "a", "b"])
            >>> model.margins([[0], [1], [2], [3]]).effects.sum().abs().item() < 1e-12
            True
        """
        if at not in ("overall", "mean"):
            raise ValueError(f"expected at to be overall or mean, got {at!r}")
        predictor, x = self._predictor, self._design(X)
        weights = frequencies(sample_weight, len(x))
        return predictor_margins(predictor, x, weights, at, discrete)

    def influence(
        self, X: Any, y: Any, sample_weight: Any = None, *, offset: Any = None
    ) -> Influence:
        """Return how much each row moves the fit: leverage, Cook's distance, and the coefficients
        without it.

        Args:
            X: (n, p) columns of the rows that were fitted.
            y: (n) their classes.
            sample_weight: (n) their weights; a row is removed with all of its weight.
            offset: (n, K), as `fit` was given it.

        Raises: ValueError for a fit without a finite maximum, or with Firth's penalty, whose change
        is not followed; for rows that are not those of the fit.

        Example:
            >>> import nll
            >>> model = nll.SoftmaxRegression().fit([[0], [1], [2], [3]], ["a", "b", "a", "b"])
            >>> round(model.influence([[0], [1], [2], [3]], list("abab")).leverage.sum().item(), 6)
            2.0
        """
        check_is_fitted(self)
        if not self.result_.converged or self.penalty is not None:
            raise ValueError(
                f"expected a fit by maximum likelihood that converged, got {self.result_.status}"
            )
        predictor = self._predictor
        names = list(predictor.columns[predictor.intercept :])
        columns = Columns.of(shared(self._dense(X)), names, predictor.intercept, self.alpha > 0)
        kind = kind_of(sample_weight, self.weights)
        weights = scaled(frequencies(sample_weight, columns.length), kind)
        codes = self._codes(y, columns.length)
        if self.class_weight is not None:
            factors = class_factors(self.class_weight, self.classes_[codes], weights.numpy())
            weights = scaled(weights * torch.from_numpy(factors), kind)
        classes = Classes(predictor.classes, predictor.baseline)
        if offset is not None:
            offset = offset_of(offset, columns.length, len(self.classes_))
            offset = offset[:, classes.order].contiguous()
        rows = Response(classes.numbers(torch.from_numpy(codes)), weights, offset=offset)
        objective = InMemory(columns, rows, len(self.classes_), float(self.alpha))
        return influence_on(objective, predictor.coef, tuple(self.result_.names))

    def _codes(self, y: Any, rows: int) -> np.ndarray:
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
        return self._predictor.design(self._dense(X))

    def _dense(self, X: Any) -> np.ndarray:
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
        check_is_fitted(self)
        X = columns_given(X)
        return validate_data(self, X, dtype=np.float64, accept_sparse="csr", reset=False)

    def _logits(self, X: Any) -> np.ndarray:
        return self._given(X) @ self.coef_.T + self.intercept_
