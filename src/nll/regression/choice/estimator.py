"""Conditional logit: each case chooses among its own alternatives, by their attributes (McFadden
1974).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from nll._torch import on_processor
from nll.data.arrays import categories_of, first_level
from nll.data.classes import label
from nll.data.weights import kind_of
from nll.regression.choice.conclude import fit_choices
from nll.regression.choice.data import Choices, column, columns_of, read_long, read_wide
from nll.regression.choice.objective import ConditionalLikelihood, log_softmax_by_case
from nll.regression.collinear import DependentColumnsError
from nll.regression.columns import plain
from nll.regression.covariance import KINDS, CovarianceOptions
from nll.regression.design_matrix import Columns
from nll.regression.ridge import require_alpha
from nll.regression.softmax.fit import code_of
from nll.solvers.outcome import Progress


@on_processor
class ConditionalLogit(BaseEstimator):
    """Conditional logit by maximum likelihood, with standard errors.

    P(a) = exp(v_a) / sum of exp(v_b) over the alternatives b of the case, with utilities v that are
    linear in attributes of the alternatives and covariates of the individual. Newton's method in
    float64 maximises the likelihood; `result_` is the `Fit`.

    Args:
        constants: whether each alternative except the baseline has a constant.
        specific: names or numbers of attributes with a coefficient for each alternative; the others
            have one coefficient for all.
        individual: names or numbers of covariates that are the same in all rows of a case; they
            have a coefficient for each alternative except the baseline.
        baseline: the alternative without constants and covariates; None: the first category of a
            Categorical, otherwise the first in sorted order.
        alpha: ridge penalty alpha / 2 * (sum of squares of all coefficients except the constants),
            added to the summed negative log-likelihood.
        covariance: "observed" (inverse information), "sandwich" (HC0) or "hc1"; `fit(clusters=...)`
            clusters it.

    Attributes: `classes_` (J alternatives), `feature_names_in_`, `coef_` (P) in the order of
    `result_.labels["coef"]`, `n_iter_`, `result_`, and `constants_log_likelihood_`, the largest
    log-likelihood with constants alone.

    Example:
        >>> import nll
        >>> x = [[[1.0], [2.0]], [[3.0], [1.0]], [[2.0], [2.5]], [[1.0], [1.5]]]
        >>> model = nll.ConditionalLogit(constants=False).fit(x, [0, 1, 0, 1])
        >>> model.coef_.round(2).tolist()
        [-1.75]
        >>> model.predict_proba([[[1.0], [2.0]]]).round(2).tolist()
        [[0.85, 0.15]]
    """

    def __init__(
        self,
        *,
        constants: bool = True,
        specific: Sequence[Any] = (),
        individual: Sequence[Any] = (),
        baseline: Any = None,
        alpha: float = 0.0,
        covariance: str = "observed",
    ) -> None:
        self.constants = constants
        self.specific = specific
        self.individual = individual
        self.baseline = baseline
        self.alpha = alpha
        self.covariance = covariance

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        case: Any = None,
        alternative: Any = None,
        available: Any = None,
        sample_weight: Any = None,
        offset: Any = None,
        clusters: Any = None,
        progress: Progress | None = None,
    ):
        """Fit the model.

        Args:
            X: long: (rows, q) attributes, a row for each case and alternative that it has, in any
                order; or wide: an array (n, J, q).
            y: long: (rows), 1 for the chosen alternative and 0 for the others, or the name of such
                a column of X;
                wide: (n) the chosen alternatives, numbers from 0 to J - 1.
            case: long: (rows) labels of the cases, or the name of a column of X.
            alternative: long: (rows) labels of the alternatives, or the name of a column of X.
            available: wide: (n, J), whether a case has an alternative; None: each has all.
            sample_weight: (rows), the same within a case, or wide (n): the frequency of each case;
                or `nll.sampling(w)` or `nll.importance(w)`, of which only the ratios count, with
                the sandwich as the covariance.
            offset: (rows), or wide (n, J): added to the utilities.
            clusters: (rows), or wide (n): cluster labels; cases of a cluster may depend on each
                other.
            progress: called before each step with (step, log-likelihood, Newton decrement).

        Raises: ValueError for invalid data, naming the case, row or column. If no finite estimate
        exists it warns (ConvergenceWarning), and `result_.status` explains why.
        """
        self._require_options()
        choices = self._read(X, case, alternative, available, response=y)
        chosen, weights = choices.chosen(column(X, y)), choices.weights(sample_weight)
        self._learn(choices, None if alternative is None else column(X, alternative))
        x, names = self._columns(choices)
        if not names:
            raise ValueError("expected attributes or constants, got no columns")
        likelihood = _likelihood(
            choices,
            x,
            names,
            chosen,
            weights,
            choices.offset(offset),
            self.alpha,
            (len(choices.alternatives) - 1) * self.constants,
        )
        has_baseline = self.constants or len(self.individual) > 0
        self.result_ = fit_choices(
            likelihood,
            CovarianceOptions(self.covariance, kind_of(sample_weight), choices.clusters(clusters)),
            response=str(y) if isinstance(y, str) else None,
            baseline=label(self.baseline_) if has_baseline else None,
            progress=progress,
        )
        if not self.result_.converged:
            warnings.warn(self.result_.status, ConvergenceWarning, stacklevel=3)
        self.coef_, self.n_iter_ = self.result_.params["coef"].numpy(), self.result_.steps
        self.constants_log_likelihood_ = _constants_alone(choices, chosen, weights)
        return self

    def predict_log_proba(
        self,
        X: Any,
        *,
        case: Any = None,
        alternative: Any = None,
        available: Any = None,
        offset: Any = None,
    ) -> np.ndarray:
        """Return log-probabilities: long (rows), in the order of X; wide (n, J), with -inf where an
        alternative is not available.

        Raises: ValueError for an alternative that the fit has not seen.
        """
        choices, log_p = self._predicted(X, case, alternative, available, offset)
        padded = np.full(choices.shape, -np.inf)
        padded.reshape(-1)[choices.order] = log_p
        return padded

    def predict_proba(self, X: Any, **more: Any) -> np.ndarray:
        """Return probabilities, as `predict_log_proba` does their logarithms."""
        return np.exp(self.predict_log_proba(X, **more))

    def predict(
        self,
        X: Any,
        *,
        case: Any = None,
        alternative: Any = None,
        available: Any = None,
        offset: Any = None,
    ) -> np.ndarray:
        """Return the most probable alternative of each case: long, in the sorted order of the
        cases; wide (n).
        """
        choices, log_p = self._predicted(X, case, alternative, available, offset)
        best_first = np.lexsort((-log_p, choices.case))
        return self.classes_[choices.alternative[best_first[choices.first]]]

    def _predicted(
        self, X: Any, case: Any, alternative: Any, available: Any, offset: Any
    ) -> tuple[Choices, np.ndarray]:
        """Return the choices, with the alternatives' numbers in the fit, and the log-probability of
        each row.
        """
        check_is_fitted(self)
        choices = self._read(X, case, alternative, available, names=self.feature_names_in_.tolist())
        if len(choices.names) != self.n_features_in_:
            expected = ", ".join(map(str, self.feature_names_in_))
            raise ValueError(
                f"expected the attributes {expected}, got {len(choices.names)} columns"
            )
        unseen = [value for value in choices.alternatives if value not in self.classes_]
        if unseen:
            raise ValueError(f"expected the alternatives of the fit, got {label(unseen[0])}")
        number = np.searchsorted(self.classes_, np.array(choices.alternatives))
        choices = replace(
            choices, alternative=number[choices.alternative], alternatives=self.classes_.tolist()
        )
        x, _ = self._columns(choices)
        v, added = torch.from_numpy(x @ self.coef_), choices.offset(offset)
        v = v if added is None else v + added
        log_p = log_softmax_by_case(v, torch.from_numpy(choices.case), choices.cases)
        return choices, log_p.numpy()

    def _read(
        self,
        X: Any,
        case: Any,
        alternative: Any,
        available: Any,
        *,
        response: Any = None,
        names: list[str] | None = None,
    ) -> Choices:
        """Read the choices; of a table the attributes are `names`, by default all other columns."""
        X = plain(X, "X")
        if len(X.shape) == 3:
            if case is not None or alternative is not None:
                raise ValueError("expected no case and no alternative with X of three dimensions")
            return read_wide(X, available)
        if case is None or alternative is None:
            raise ValueError(
                "expected case and alternative with rows of X, or X of three dimensions"
            )
        if available is not None:
            raise ValueError(
                "expected no available with rows of X: an alternative that is not "
                "available has no row"
            )
        if not hasattr(X, "columns"):
            names = None
        elif names is None:
            others = {name for name in (case, alternative, response) if isinstance(name, str)}
            names = [str(name) for name in X.columns if name not in others]
        return read_long(X, case, alternative, names)

    def _learn(self, choices: Choices, alternative: Any) -> None:
        self.classes_ = np.array(choices.alternatives)
        self.feature_names_in_ = np.array(choices.names, dtype=object)
        self.n_features_in_ = len(choices.names)
        if len(self.classes_) < 2:
            raise ValueError(
                f"expected at least two alternatives, got one: {label(choices.alternatives[0])}"
            )
        levels = None if alternative is None else categories_of(alternative)
        first = first_level(levels, choices.alternatives)
        baseline = first if self.baseline is None else self.baseline
        self.baseline_ = choices.alternatives[code_of(baseline, choices.alternatives)]

    def _columns(self, choices: Choices) -> tuple[np.ndarray, list[str]]:
        baseline = code_of(self.baseline_, choices.alternatives)
        return columns_of(choices, self.constants, self.specific, self.individual, baseline)

    def _require_options(self) -> None:
        require_alpha(self.alpha)
        if self.covariance not in KINDS:
            raise ValueError(
                f"expected covariance to be one of {', '.join(KINDS)}, got {self.covariance!r}"
            )
        for name in ("specific", "individual"):
            if isinstance(getattr(self, name), str):
                raise TypeError(
                    f"expected {name} as a list of columns, got the text {getattr(self, name)!r}"
                )


def _likelihood(
    choices: Choices,
    x: np.ndarray,
    names: list[str],
    chosen: Tensor,
    weights: Tensor,
    offset: Tensor | None = None,
    alpha: float = 0.0,
    constants: int = 0,
) -> ConditionalLikelihood:
    """Return the likelihood in columns less their means within each case: only differences count.

    The first `constants` columns are not penalised.
    """
    columns, case = torch.from_numpy(x), torch.from_numpy(choices.case)
    zero = torch.zeros(choices.cases, x.shape[1], dtype=torch.float64)
    means = zero.index_add_(0, case, columns) / torch.bincount(case).double()[:, None]
    deviation = columns - means[case]
    constant = deviation.abs().amax(0) <= 1e-12 * columns.abs().amax(0)
    if alpha > 0.0:
        deviation = deviation.masked_fill(constant, 0.0)
        usable = Columns.of(deviation, names, intercept=False, constant=True)
        penalised = torch.ones(len(names), dtype=torch.float64)
        penalised[:constants] = 0.0
        penalty = alpha * usable.to_data.T @ torch.diag(penalised) @ usable.to_data
        return ConditionalLikelihood(usable, case, chosen, weights, offset, penalty)
    if bool(constant.any()):
        name = names[int(constant.nonzero()[0])]
        raise ValueError(
            f"expected columns that vary within a case, got {name!r}; `individual` names covariates"
        )
    try:
        usable = Columns.of(deviation, names, intercept=False).independent()
    except DependentColumnsError as error:
        raise DependentColumnsError(error.combinations, error.hint, "within every case") from None
    return ConditionalLikelihood(usable, case, chosen, weights, offset)


def _constants_alone(choices: Choices, chosen: Tensor, weights: Tensor) -> float:
    """Return the largest log-likelihood with constants alone; NaN where it has no finite maximum,
    as for an alternative that nobody chose.
    """
    x, names = columns_of(replace(choices, x=choices.x[:, :0], names=[]), True, (), (), 0)
    try:
        likelihood = _likelihood(choices, x, names, chosen, weights)
        fitted = fit_choices(likelihood, CovarianceOptions())
    except ValueError:
        return math.nan
    return fitted.log_likelihood if fitted.converged else math.nan
