"""Conditional logit: each case chooses among its own alternatives, by their attributes (McFadden
1974).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from nll._torch import on_processor
from nll.data.arrays import absent, array_of, categories_of, first_level, floats
from nll.data.observations import kind_of, label
from nll.regression.choice.data import Choices, columns_of, from_long, from_wide
from nll.regression.choice.objective import ConditionalLikelihood, fit_choices
from nll.regression.design_matrix import Columns
from nll.regression.softmax.fit import code_of
from nll.regression.softmax.robust import KINDS
from nll.regression.tables import plain, require_finite
from nll.solvers.trust_region import Progress


@on_processor
class ConditionalLogit(BaseEstimator):
    """Conditional logit by maximum likelihood, with standard errors.

    P(a) = exp(v_a) / sum of exp(v_b) over the alternatives b of the case, with v linear in
    attributes of the alternatives and covariates of the individual. Newton's method in float64
    maximises the likelihood; `result_` is the `Fit`.

    Args:
        constants: whether each alternative but the baseline has a constant.
        specific: names or numbers of attributes with a coefficient for each alternative; the others
            have one for all.
        individual: those of covariates that are the same in all rows of a case; they have a
            coefficient for each alternative but the baseline.
        baseline: the alternative without these; None: the first category of a Categorical, else the
            first in sorted order.
        alpha: ridge penalty alpha / 2 * (sum of squares of all coefficients but the constants), on
            the summed negative log-likelihood.
        covariance: "observed" (inverse information), "sandwich" (HC0) or "hc1"; `fit(clusters=...)`
            clusters it.

    Attributes: `classes_` (J alternatives), `feature_names_in_`, `coef_` (P), in the order of
    `result_.labels["coef"]`; `n_iter_`; `result_`; `constants_log_likelihood_`, the largest with
    constants alone.
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
            available: wide: (n, J), whether a case has an alternative; None: all have all.
            sample_weight: (rows), the same within a case, or wide (n): how often a case was seen;
                or `nll.sampling(w)` or `nll.importance(w)`, of which only the ratios count, and the
                covariance is the sandwich.
            offset: (rows), or wide (n, J): added to the scores.
            clusters: (rows), or wide (n): labels of groups of cases that are not independent of
                each other.
            progress: called before each step with (step, log-likelihood, Newton decrement).

        Raises: ValueError for data that do not fit, naming the case, row or column. Where no finite
        estimate exists it warns (ConvergenceWarning); `result_.status` says what is wrong.
        """
        self._check_options()
        choices, chosen = self._choices(X, y, case, alternative, available)
        self.classes_ = np.array(choices.alternatives)
        self.feature_names_in_ = np.array(choices.names, dtype=object)
        self.n_features_in_ = len(choices.names)
        if len(self.classes_) < 2:
            raise ValueError(
                f"expected at least two alternatives, got one: {label(choices.alternatives[0])}"
            )
        levels = None if alternative is None else categories_of(_values(X, alternative))
        first = first_level(levels, choices.alternatives)
        base = code_of(first if self.baseline is None else self.baseline, choices.alternatives)
        self.baseline_ = choices.alternatives[base]
        x, names, constant = columns_of(
            choices, self.constants, self.specific, self.individual, base
        )
        if not names:
            raise ValueError("expected attributes or constants, got no columns")
        weights, groups = choices.weights(sample_weight), choices.clusters(clusters)
        added = None if offset is None else _offset(choices, offset)
        likelihood = _likelihood(choices, x, names, chosen, weights, added, self.alpha > 0.0)
        if self.alpha > 0.0:
            slopes = torch.diag(1.0 - torch.tensor(constant, dtype=torch.float64))
            to_given = likelihood.columns.to_given
            likelihood.penalty = self.alpha * to_given.T @ slopes @ to_given
        self.result_ = fit_choices(
            likelihood,
            covariance=self.covariance,
            weights=kind_of(sample_weight),
            clusters=groups,
            response=str(y) if isinstance(y, str) else None,
            baseline=label(choices.alternatives[base])
            if self.constants or len(self.individual)
            else None,
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
        """Return log-probabilities: long (rows) in the order given; wide (n, J), -inf where not
        available.

        Raises: ValueError for an alternative that the fit has not seen.
        """
        check_is_fitted(self)
        choices = self._read(X, case, alternative, available)
        if len(choices.names) != self.n_features_in_:
            known = ", ".join(map(str, self.feature_names_in_))
            raise ValueError(f"expected the attributes {known}, got {len(choices.names)} columns")
        unseen = [value for value in choices.alternatives if value not in self.classes_]
        if unseen:
            raise ValueError(f"expected the alternatives of the fit, got {label(unseen[0])}")
        place = np.searchsorted(self.classes_, np.array(choices.alternatives))
        known = Choices(
            choices.x,
            choices.names,
            choices.case,
            place[choices.alternative],
            self.classes_.tolist(),
            choices.given,
            choices.labels,
        )
        base = code_of(self.baseline_, known.alternatives)
        x, _, _ = columns_of(known, self.constants, self.specific, self.individual, base)
        v = torch.from_numpy(x @ self.coef_)
        v = v if offset is None else v + _offset(known, offset)
        log_p = v - _log_sums(v, torch.from_numpy(known.case), known.cases)
        shape = np.shape(X)[:2] if np.ndim(X) == 3 else (len(known.given),)
        found = np.full(shape, -np.inf)
        found.reshape(-1)[known.given] = log_p.numpy()
        return found

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
        log_p = self.predict_log_proba(
            X, case=case, alternative=alternative, available=available, offset=offset
        )
        if log_p.ndim == 2:
            return self.classes_[log_p.argmax(1)]
        choices = self._read(X, case, alternative, available)
        own = log_p[choices.given]
        order = np.lexsort((-own, choices.case))
        return np.array(choices.alternatives)[choices.alternative[order[choices.first]]]

    def _choices(
        self, X: Any, y: Any, case: Any, alternative: Any, available: Any
    ) -> tuple[Choices, Tensor]:
        choices = self._read(
            X, case, alternative, available, y if isinstance(y, str) else None, fitted=False
        )
        if choices.labels is not None:
            return choices, choices.chosen(_column(X, y))
        y = array_of(y, "y")
        n, count = choices.cases, len(choices.alternatives)
        if y.shape != (n,):
            raise ValueError(f"expected y of {n} choices, got shape {y.shape}")
        wrong = np.flatnonzero(absent(y) if absent(y).any() else ~np.isin(y, np.arange(count)))
        if len(wrong):
            raise ValueError(
                f"expected choices from 0 to {count - 1}, got {y[wrong[0]]} in case {wrong[0]}"
            )
        chosen = np.searchsorted(choices.given, np.arange(n) * count + y.astype(np.int64))
        ends = np.minimum(chosen, len(choices.given) - 1)
        wrong = np.flatnonzero(choices.given[ends] != np.arange(n) * count + y)
        if len(wrong):
            raise ValueError(
                f"expected the choice of an available alternative, got {y[wrong[0]]} "
                f"in case {wrong[0]}"
            )
        return choices, torch.from_numpy(chosen)

    def _read(
        self,
        X: Any,
        case: Any,
        alternative: Any,
        available: Any,
        y: str | None = None,
        fitted: bool = True,
    ) -> Choices:
        X = plain(X, "X")
        if len(X.shape) == 3:
            if case is not None or alternative is not None:
                raise ValueError("expected no case and no alternative with X of three dimensions")
            array = floats(X, "X", exact=True)
            if not np.isfinite(array).all():
                at = np.argwhere(~np.isfinite(array))[0]
                got = f"{array[tuple(at)]:g} in case {at[0]}, alternative {at[1]}, column {at[2]}"
                raise ValueError(f"expected finite values in X, got {got}")
            names = [f"x{j}" for j in range(array.shape[2])]
            return from_wide(array, names, available, list(range(array.shape[1])))
        if case is None or alternative is None:
            raise ValueError(
                "expected case and alternative with rows of X, or X of three dimensions"
            )
        if available is not None:
            raise ValueError(
                "expected no available with rows of X: an alternative that is not "
                "available has no row"
            )
        used = {part for part in (case, alternative, y) if isinstance(part, str)}
        names = (
            self.feature_names_in_.tolist() if fitted and hasattr(X, "columns") else _names(X, used)
        )
        array = _array(X, names)
        return from_long(
            array,
            names or [f"x{j}" for j in range(array.shape[1])],
            _column(X, case),
            _column(X, alternative),
        )

    def _check_options(self) -> None:
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, (int, float, np.number)):
            raise TypeError(f"expected alpha to be a number, got {type(self.alpha).__name__}")
        if not 0.0 <= self.alpha < math.inf:
            raise ValueError(f"expected a finite alpha of at least 0, got {self.alpha}")
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
    offset: Tensor | None,
    penalised: bool = False,
) -> ConditionalLikelihood:
    """That of columns less their means within each case, which leaves the differences of the
    scores.
    """
    given, case = torch.from_numpy(x), torch.from_numpy(choices.case)
    count = torch.bincount(case).double()
    means = (
        torch.zeros(choices.cases, x.shape[1], dtype=torch.float64).index_add_(0, case, given)
        / count[:, None]
    )
    away = given - means[case]
    still = away.abs().amax(0) <= 1e-12 * given.abs().amax(0)
    if penalised:
        columns = Columns.of(away.masked_fill(still, 0.0), names, intercept=False, constant=True)
        return ConditionalLikelihood(columns, case, chosen, weights, offset)
    if bool(still.any()):
        name = names[int(still.nonzero()[0])]
        raise ValueError(
            f"expected columns that vary within a case, got {name!r}; `individual` names covariates"
        )
    try:
        columns = Columns.of(away, names, intercept=False).independent()
    except ValueError as error:
        raise ValueError(str(error).replace("in every row", "within every case")) from None
    return ConditionalLikelihood(columns, case, chosen, weights, offset)


def _constants_alone(choices: Choices, chosen: Tensor, weights: Tensor) -> float:
    """NaN where that has no finite maximum, as for an alternative that nobody chose."""
    x, names, _ = columns_of(Choices(choices.x[:, :0], [], *_rest(choices)), True, (), (), 0)
    try:
        fitted = fit_choices(_likelihood(choices, x, names, chosen, weights, None))
    except ValueError:
        return math.nan
    return fitted.log_likelihood if fitted.converged else math.nan


def _rest(choices: Choices) -> tuple[Any, ...]:
    return choices.case, choices.alternative, choices.alternatives, choices.given, choices.labels


def _log_sums(v: Tensor, case: Tensor, cases: int) -> Tensor:
    top = torch.full((cases,), -torch.inf, dtype=torch.float64).scatter_reduce(0, case, v, "amax")
    return (top + torch.zeros_like(top).index_add(0, case, (v - top[case]).exp()).log())[case]


def _offset(choices: Choices, offset: Any) -> Tensor:
    values = floats(array_of(plain(offset, "offset")), "offset")
    if choices.labels is None:
        values = values.reshape(-1)
    elif values.shape != (len(choices.given),):
        raise ValueError(
            f"expected {len(choices.given)} offsets, one for each row, got shape {values.shape}"
        )
    values = values[choices.given]
    if not np.isfinite(values).all():
        raise ValueError(f"expected finite offsets, got {values[~np.isfinite(values)][0]}")
    return torch.from_numpy(values)


def _names(X: Any, used: set[str]) -> list[str] | None:
    return [str(name) for name in X.columns if name not in used] if hasattr(X, "columns") else None


def _array(X: Any, names: list[str] | None) -> np.ndarray:
    """Attributes (rows, q): numbers, all of them finite."""
    if len(X.shape) != 2:
        got = f"shape {X.shape}" if X.shape else type(X).__name__
        raise ValueError(f"expected X of two dimensions (rows, columns) or three, got {got}")
    table = X if names is None else X[names]
    require_finite(table, names)
    return np.ascontiguousarray(np.asarray(table, dtype=np.float64))


def _values(X: Any, which: Any) -> Any:
    """Those given, or the column of that name."""
    if not isinstance(which, str):
        return which
    if not hasattr(X, "columns") or which not in (
        X.column_names if hasattr(X, "column_names") else X.columns
    ):
        raise ValueError(f"expected a column of X, got {which!r}")
    return X[which]


def _column(X: Any, which: Any) -> np.ndarray:
    return array_of(_values(X, which), "labels")
