"""The result of a regression: what it has beyond a fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nll._torch import on_processor
from nll.estimation.result import Fit
from nll.regression.contrasts import Classes
from nll.regression.separation import Separation


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
        """Predict the probability of each class for new rows, with standard errors and intervals.

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

    # Other baselines are linear in the coefficients, b' = T b: the covariance is exactly T V T'.

    def with_baseline(self, baseline: Any) -> RegressionFit:
        """Return the same softmax regression with another baseline class, and its exact covariance.

        It can neither be profiled nor drawn from: use the original fit for that. Raises ValueError
        for an unknown class, or a model without a baseline.
        """
        classes, columns = self._classes_and_columns()
        if str(baseline) not in classes.names:
            known = ", ".join(classes.names)
            raise ValueError(f"expected baseline to be one of {known}, got {baseline}")
        other = Classes(classes.names, classes.names.index(str(baseline)))
        between = other.differences(classes.of_all)
        fit = self._transformed(between, other.baseline_first[1:], columns, str(baseline))
        return fit if fit.separation is None else fit._with_contrasts(fit.separation, other)

    def sum_to_zero(self) -> RegressionFit:
        """Return the symmetric form: a coefficient for every class, which add up to 0 for each
        column.
        """
        classes, columns = self._classes_and_columns()
        between = classes.of_all - classes.of_all.mean(0)
        return self._transformed(between, classes.names, columns, None)

    def to_dict(self, level: float = 0.95) -> dict[str, Any]:
        """Everything that is a number or a text, as plain Python values."""
        return {
            **super().to_dict(level),
            "baseline": self.baseline,
            "null_log_likelihood": self.null_log_likelihood,
            "pseudo_r_squared": self.pseudo_r_squared,
        }

    def _classes_and_columns(self) -> tuple[Classes, tuple[str, ...]]:
        labels = self.labels.get("coef", ())
        if self.baseline is None or len(labels) != 2:
            raise ValueError(f"expected a softmax regression with a baseline, got {self.model}")
        names = self.classes or (self.baseline, *labels[0])
        return Classes(names, names.index(self.baseline)), labels[1]

    def _transformed(
        self,
        between: Tensor,
        classes: tuple[str, ...],
        columns: tuple[str, ...],
        baseline: str | None,
    ) -> RegressionFit:
        across = torch.kron(between, torch.eye(len(columns), dtype=torch.float64))
        unknown = self.covariance.diagonal().isnan()
        covariance = across @ self.covariance.nan_to_num() @ across.T
        lost = (across[:, unknown] != 0).any(1)
        return replace(
            self,
            params={"coef": between @ self.params["coef"]},
            covariance=covariance.masked_fill(lost | lost[:, None], torch.nan),
            labels={"coef": (classes, columns)},
            baseline=baseline,
            search=None,
            log_likelihood_at=None,
        )

    def _with_contrasts(self, separation: Separation, classes: Classes) -> RegressionFit:
        coef, covariance = self.params["coef"].clone(), self.covariance.clone()
        _, *others = classes.baseline_first
        variances = covariance.diagonal().unflatten(0, coef.shape)
        for contrast in separation.contrasts:
            if self.baseline not in (contrast.of, contrast.against):
                continue
            sign = 1.0 if contrast.against == self.baseline else -1.0
            k = others.index(contrast.of if sign > 0 else contrast.against)
            known = contrast.estimate.isfinite()
            coef[k] = torch.where(known, sign * contrast.estimate, coef[k])
            variance = contrast.standard_errors.square()
            variances[k] = torch.where(known, variance, variances[k])
        return replace(self, params={"coef": coef}, covariance=covariance)
