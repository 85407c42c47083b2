"""Coefficients of classes against another class, or against the mean of all: the same fit in other
words.

Both are linear in the coefficients, b' = T b, and the covariance goes along exactly: T V T'.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from nll.estimation.result import Fit


def against(fit: Fit, baseline: Any) -> Fit:
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


def sum_to_zero(fit: Fit) -> Fit:
    """The fit in the form in which the coefficients of each column add up to 0 over all classes."""
    before, columns = _classes(fit)
    classes = list(fit.classes or before)
    between = torch.eye(len(before), dtype=torch.float64) - 1 / len(before)
    order = [before.index(own) for own in classes]
    return _moved(fit, between[order][:, 1:], classes, columns, None)


def _classes(fit: Fit) -> tuple[list[str], tuple[str, ...]]:
    """The classes, the baseline's first, and the columns."""
    labels = fit.labels.get("coef", ())
    if fit.baseline is None or len(labels) != 2:
        raise ValueError(f"expected a softmax regression with a baseline, got {fit.model}")
    return [fit.baseline, *labels[0]], labels[1]


def _moved(
    fit: Fit, between: Tensor, classes: list[str], columns: tuple[str, ...], baseline: str | None
) -> Fit:
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


def _with_contrasts(fit: Fit, baseline: str, others: list[str]) -> Fit:
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
