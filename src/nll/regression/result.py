"""The result of a regression: what it has beyond a fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nll._torch import on_processor
from nll.estimation.result import Fit
from nll.regression.separated import Separation


@on_processor
@dataclass(frozen=True, eq=False)
class RegressionFit(Fit):
    """A regression's maximum likelihood estimate: a `Fit` with predictions and contrasts."""

    null_log_likelihood: float | None = None  # of the model with constants only
    baseline: str | None = None  # the class that the others are compared with
    classes: tuple[str, ...] | None = None  # of the response, in order
    separation: Separation | None = None  # of classes, where that leaves no finite estimate
    predictor: Callable[[Any, float], Any] | None = field(default=None, repr=False)  # of (X, level)

    @property
    def pseudo_r_squared(self) -> float | None:
        """McFadden's 1 - log L / log L0, where there is a null model with log L0 < 0."""
        null = self.null_log_likelihood
        return None if not null else 1 - self.log_likelihood / null

    def predict(self, X: Any, level: float = 0.95) -> Any:
        """Predict for new rows; of a softmax regression the probability of each class, with errors
        and intervals.

        Args:
            X: (n, columns), without the constant: a table that has the columns of the fit, or an
                array of them.
            level: of the intervals, in (0, 1).

        Returns: `Predictions`, with `probabilities`, `standard_errors` (n, K) and `interval` (n, K,
            2); classes in the order of `classes`.

        Raises: ValueError for a model that predicts nothing, or columns that are not those of the
            fit.
        """
        if self.predictor is None:
            raise ValueError(
                f"expected the fit of a softmax regression to predict from, got {self.model}"
            )
        return self.predictor(X, level)

    def with_baseline(self, baseline: Any) -> RegressionFit:
        """The same softmax regression with another class as the baseline, the covariance carried
        over exactly.

        It can neither be profiled nor drawn from: that is done with the fit as it was found. Raises
        ValueError for a class that is not there, or a model without a baseline.
        """
        return _against(self, baseline)

    def sum_to_zero(self) -> RegressionFit:
        """The same in the symmetric form: a coefficient for every class, which add up to 0 for each
        column.
        """
        return _sum_to_zero(self)

    def to_dict(self, level: float = 0.95) -> dict[str, Any]:
        """Everything that is a number or a text, as plain Python values."""
        return {
            **super().to_dict(level),
            "baseline": self.baseline,
            "null_log_likelihood": self.null_log_likelihood,
            "pseudo_r_squared": self.pseudo_r_squared,
        }


# ---- Other baselines ---------------------------------------------------------------
# Both forms are linear in the coefficients, b' = T b, and so the covariance is exactly T V T'.


def _against(fit: RegressionFit, baseline: Any) -> RegressionFit:
    """The fit with another baseline; ValueError for a class that is not there."""
    before, columns = _classes(fit)
    classes = list(fit.classes or before)
    name = str(baseline)
    if name not in classes:
        raise ValueError(f"expected baseline to be one of {', '.join(classes)}, got {baseline}")
    others = [own for own in classes if own != name]
    rows = torch.eye(len(before), dtype=torch.float64)
    between = torch.stack([rows[before.index(own)] - rows[before.index(name)] for own in others])
    found = _moved(fit, between[:, 1:], others, columns, name)
    return _with_contrasts(found, name, others)


def _sum_to_zero(fit: RegressionFit) -> RegressionFit:
    """The fit in the form in which the coefficients of each column add up to 0 over all classes."""
    before, columns = _classes(fit)
    classes = list(fit.classes or before)
    between = torch.eye(len(before), dtype=torch.float64) - 1 / len(before)
    order = [before.index(own) for own in classes]
    return _moved(fit, between[order][:, 1:], classes, columns, None)


def _classes(fit: RegressionFit) -> tuple[list[str], tuple[str, ...]]:
    """The classes, the baseline's first, and the columns."""
    labels = fit.labels.get("coef", ())
    if fit.baseline is None or len(labels) != 2:
        raise ValueError(f"expected a softmax regression with a baseline, got {fit.model}")
    return [fit.baseline, *labels[0]], labels[1]


def _moved(
    fit: RegressionFit,
    between: Tensor,
    classes: list[str],
    columns: tuple[str, ...],
    baseline: str | None,
) -> RegressionFit:
    coef = fit.params["coef"]
    across = torch.kron(between, torch.eye(len(columns), dtype=torch.float64))
    unknown = fit.covariance.diagonal().isnan()
    covariance = across @ fit.covariance.nan_to_num() @ across.T
    lost = (across[:, unknown] != 0).any(1)
    return replace(
        fit,
        params={"coef": between @ coef},
        covariance=covariance.masked_fill(lost | lost[:, None], torch.nan),
        labels={"coef": (tuple(classes), columns)},
        baseline=baseline,
        search=None,
        log_likelihood_at=None,
    )


def _with_contrasts(fit: RegressionFit, baseline: str, others: list[str]) -> RegressionFit:
    """Differences of separated classes that have a limit, with its error."""
    coef, covariance = fit.params["coef"].clone(), fit.covariance.clone()
    p = coef.shape[1]
    for found in () if fit.separation is None else fit.separation.contrasts:
        if baseline not in (found.of, found.against):
            continue
        sign = 1.0 if found.against == baseline else -1.0
        k = others.index(found.of if sign > 0 else found.against)
        known = found.estimate.isfinite()
        coef[k] = torch.where(known, sign * found.estimate, coef[k])
        diagonal = covariance.diagonal()[k * p : (k + 1) * p]
        diagonal.copy_(torch.where(known, found.standard_errors.square(), diagonal))
    return replace(fit, params={"coef": coef}, covariance=covariance)
