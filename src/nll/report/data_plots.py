"""The data of a family's fit and the fitted distribution, drawn into given axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nll.report.plots import BLUE, GREY, RED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nll.estimation.inference.curves import Scores, Survival
    from nll.estimation.result import Fit
    from nll.families.base import Sample

_COUNTS = 500  # a count above this is shown as a density
_BINS = 80
_TAIL = 0.01  # the plot extends half as far again as these quantiles


def distribution(axis: Axes, fit: Fit, sample: Sample) -> None:
    """Draw the data as shares or a density, and the fitted probabilities or density."""
    data, weights = sample.observed.values.numpy(), sample.observed.weights.numpy()
    share, discrete = weights / weights.sum(), sample.family.discrete
    if discrete and data.max() < _COUNTS:
        x = torch.arange(int(data.max()) + 1, dtype=torch.float64)
        axis.bar(x, np.bincount(data.astype(int), share), color=BLUE, alpha=0.35, label="data")
        axis.plot(x, _density(fit, sample, x), "o", color=RED, ms=4, label="fit")
        axis.set_ylabel("probability")
        axis.locator_params(axis="x", integer=True)
        if fit.labels:
            axis.set_xticks(x.numpy(), fit.labels["probs"][0], rotation=30, ha="right")
    else:
        edges = _edges(data, share)
        heights = np.histogram(data, edges, weights=share)[0] / np.diff(edges)
        axis.bar(
            edges[:-1], heights, np.diff(edges), align="edge", color=BLUE, alpha=0.35, label="data"
        )
        x = torch.linspace(edges[0], edges[-1], 400, dtype=torch.float64)
        x = x.round().unique() if discrete else x
        density = _density(fit, sample, x).nan_to_num(0.0)
        axis.plot(x, density, color=RED, lw=1.4, label="fit")
        axis.set_ylim(top=1.15 * max(float(density[density.isfinite()].max()), heights.max()))
        axis.set_ylabel("density")
        outside = float(weights[(data < edges[0]) | (data > edges[-1])].sum())
        if outside:
            verb = "lies" if outside == 1 else "lie"
            title = (
                f"{outside:g} of {weights.sum():g} observations {verb} outside the plotted range"
            )
            axis.set_title(title, fontsize=8, color=GREY)
    axis.set_xlabel(fit.response or "x")
    axis.legend(frameon=False)


def _density(fit: Fit, sample: Sample, x: Tensor) -> Tensor:
    return sample.family.log_probs(x, fit.params, sample.given).exp()


def _edges(data: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Choose the bins: two quartile ranges by the cube root of n wide (Freedman and Diaconis 1981),
    but at least twice that root in number, which shows several peaks; between 5 and 80.

    They span all data or, if these reach far out, the range around nearly all of them.
    """
    order = data.argsort()
    places = share[order].cumsum().searchsorted([_TAIL, 0.25, 0.5, 0.75, 1 - _TAIL])
    least, lower, median, upper, most = data[order][places.clip(max=len(data) - 1)]
    low = float(max(data.min(), median - 1.5 * (median - least)))
    high = float(min(data.max(), median + 1.5 * (most - median)))
    if low >= high:
        low, high = low - 0.5, high + 0.5
    root = len(data) ** (1 / 3)
    count = math.ceil((high - low) * root / (2 * (upper - lower))) if upper > lower else _BINS
    return np.linspace(low, high, min(_BINS, max(5, count, math.ceil(2 * root))) + 1)


def rootogram(axis: Axes, fit: Fit, sample: Sample) -> None:
    """Draw square roots of observed counts, hanging from those of the expected ones.

    Their ends vary by about 1/2, whatever the count (Tukey 1977; Kleiber and Zeileis 2016).
    """
    data, weights = sample.observed.values, sample.observed.weights
    x = torch.arange(min(int(data.max()), _COUNTS) + 1, dtype=torch.float64)
    counts = torch.bincount(data.clamp(max=_COUNTS).long(), weights, minlength=len(x))[: len(x)]
    observed, expected = counts.sqrt(), (weights.sum() * _density(fit, sample, x)).sqrt()
    axis.bar(x, observed, bottom=expected - observed, color=BLUE, alpha=0.35, label="data")
    axis.plot(x, expected, "o-", color=RED, ms=3, lw=1.0, label="fit")
    for y, style in ((0.0, "-"), (-1.0, ":"), (1.0, ":")):
        axis.axhline(y, color=GREY, lw=0.8, ls=style)
    axis.set_xlabel(fit.response or "x")
    axis.set_ylabel("square root of the count")
    axis.locator_params(axis="x", integer=True)
    axis.legend(frameon=False)


def scores(axis: Axes, scores: Scores) -> None:
    """Draw normal scores of the data under the fit vs. those of their ranks, with a 95 % band."""
    axis.fill_between(scores.expected, scores.low, scores.high, color=GREY, alpha=0.25, lw=0)
    axis.plot(scores.expected, scores.expected, color=GREY, lw=1.0, ls="--")
    axis.plot(scores.expected, scores.observed, "o", color=BLUE, ms=2.5)
    axis.set_xlabel("normal quantile of the rank")
    axis.set_ylabel("normal quantile under the fit")


def survival(axis: Axes, fit: Fit, steps: Survival, times: Tensor, curve: Tensor) -> None:
    """Draw the survival curve of Kaplan and Meier and that of the fitted distribution."""
    first = torch.minimum(times[:1].double(), steps.time[:1])
    time = torch.cat([first, steps.time])
    share = torch.cat([torch.ones(1, dtype=torch.float64), steps.share])
    axis.step(time, share, where="post", color=BLUE, lw=1.4, label="data (Kaplan-Meier)")
    axis.plot(times, curve, color=RED, lw=1.4, label="fit")
    axis.set_ylim(0, 1.05)
    axis.set_xlabel(fit.response or "x")
    axis.set_ylabel("survival probability")
    axis.legend(frameon=False)
