"""Figures of a fit: its data under the fitted distribution, and its likelihood."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.distributions import Bernoulli, Categorical

from nll.estimation.inference import curves
from nll.report import data_plots, plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nll.estimation.inference.curves import ProfileCurve
    from nll.estimation.result import Fit
    from nll.families.base import Sample

KINDS = ("distribution", "qq", "likelihood", "profile")
_PANELS = 60  # likelihood curves
_PROFILES = 12
_EXPENSIVE = 5_000_000  # panels x points x parameters x rows


def available(fit: Fit) -> list[str]:
    """Return the kinds of figures that this fit has."""
    kinds = [] if fit.sample is None or not fit.converged else _data_kinds(fit.sample)
    estimated = bool((fit.covariance.diagonal() > 0).any())
    if fit.log_likelihood_at is not None and estimated:
        kinds.append("likelihood")
    if fit.search is not None and fit.converged and estimated:
        kinds.append("profile")
    return kinds


def _data_kinds(sample: Sample) -> list[str]:
    family, observed = sample.family, sample.observed
    if family.columns:
        return []
    kinds = []
    complete = not observed.incomplete
    constant = all(value.dim() == 0 for value in sample.given.values())
    if (complete and constant) or curves.right_censored(sample):
        kinds.append("distribution")
    saturated = family.distribution in (Bernoulli, Categorical)  # fit any data exactly
    counts = family.discrete and not saturated
    if complete and not sample.given and (counts or curves.can_score(sample)):
        kinds.append("qq")
    return kinds


def figure(fit: Fit, what: str | None = None, level: float = 0.95) -> Figure:
    """Draw one kind of figure, or by default the data above the likelihood; see `Fit.plot`."""
    kinds = available(fit)
    if what is not None and what not in KINDS:
        raise ValueError(f"expected what to be one of {', '.join(KINDS)}, or None, got {what!r}")
    if not kinds or (what is not None and what not in kinds):
        listed = ", ".join(kinds) or "there are none"
        raise ValueError(f"expected a figure of {fit.model} ({listed}), got {what!r}")
    if what == "profile":
        assert fit.search is not None
        return plots.profiles(curves.profile_curves(fit.search(), level, _PROFILES), level)
    if what == "likelihood":
        return plots.likelihoods(fit, level, _PANELS, profiles_of(fit, level))
    if what is not None:
        return plots.sheet([_data_plot(fit, what)])
    likelihood = (fit, level, profiles_of(fit, level)) if "likelihood" in kinds else None
    return plots.sheet(_data_plots(fit), likelihood)


def of_data(fit: Fit) -> Figure | None:
    """Draw the figures of the data alone, if there are any."""
    drawn = _data_plots(fit)
    return plots.sheet(drawn) if drawn else None


def profiles_of(fit: Fit, level: float) -> list[ProfileCurve]:
    """Return the profiles of a fit; none where they would take more than some seconds."""
    if fit.search is None or "profile" not in available(fit):
        return []
    solution = fit.search()
    size = solution.objective.layout.size
    points = min(size, _PROFILES) * curves.POINTS
    if points * size * solution.objective.width > _EXPENSIVE:
        return []
    return curves.profile_curves(solution, level, _PROFILES)


def _data_plots(fit: Fit) -> list[Callable[[Axes], None]]:
    kinds = available(fit)
    return [_data_plot(fit, kind) for kind in ("distribution", "qq") if kind in kinds]


def _data_plot(fit: Fit, what: str) -> Callable[[Axes], None]:
    """Return what draws the plot into given axes."""
    sample = fit.sample
    assert sample is not None
    if what == "qq" and sample.family.discrete:
        return lambda axis: data_plots.rootogram(axis, fit, sample)
    if what == "qq":
        scores = curves.normal_scores(sample, fit.params)
        return lambda axis: data_plots.scores(axis, scores)
    if sample.observed.ends is None:
        return lambda axis: data_plots.distribution(axis, fit, sample)
    low, high = sample.observed.ends
    first, last = float(low.min()), float(low.max())
    times = torch.linspace(first * 0.5 if first > 0 else first, last * 1.05, 300)
    steps = curves.kaplan_meier(low, high, sample.observed.weights)
    fitted = curves.survival(sample, fit.params, times.double())
    return lambda axis: data_plots.survival(axis, fit, steps, times, fitted)
