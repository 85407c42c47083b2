"""The data of a family's fit beside the fitted distribution, drawn into given axes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nll.estimation.inference.curves import Scores, Survival
    from nll.estimation.result import Fit
    from nll.families.base import Sample

_BLUE, _GREY, _RED = "#1f5fa8", "#9a9a9a", "#b3261e"
_COUNTS = 500  # more numbers than this are shown as a density
_BINS = 80
_TAIL = 0.01  # the picture reaches half as far again as the quantiles of this share


def distribution(axis: Axes, fit: Fit, sample: Sample) -> None:
    """The data as shares or a density, and the fitted probabilities or density over them."""
    data, weights = sample.observed.values.numpy(), sample.observed.weights.numpy()
    share = weights / weights.sum()
    if sample.family.discrete and data.max() < _COUNTS:
        at = torch.arange(int(data.max()) + 1, dtype=torch.float64)
        axis.bar(at, np.bincount(data.astype(int), share), color=_BLUE, alpha=0.35, label="data")
        axis.plot(
            at,
            sample.family.log_probs(at, fit.params, sample.given).exp(),
            "o",
            color=_RED,
            ms=4,
            label="fit",
        )
        axis.set_ylabel("probability")
        axis.locator_params(axis="x", integer=True)
        if fit.labels:
            axis.set_xticks(at.numpy(), fit.labels["probs"][0], rotation=30, ha="right")
    else:
        low, high = _window(data, share)
        outside = float(weights[(data < low) | (data > high)].sum())
        axis.hist(
            data,
            bins=_bins(data, share, low, high),
            weights=share,
            density=False,
            color=_BLUE,
            alpha=0.35,
            label="data",
        )
        _as_density(axis)
        at = torch.linspace(low, high, 400, dtype=torch.float64)
        at = at.round().unique() if sample.family.discrete else at
        density = sample.family.log_probs(at, fit.params, sample.given).exp().nan_to_num(0.0)
        axis.plot(at, density, color=_RED, lw=1.4, label="fit")
        axis.set_ylim(top=1.15 * max(float(density[density.isfinite()].max()), *_heights(axis)))
        axis.set_ylabel("density")
        if outside:
            axis.set_title(
                f"{outside:g} of {weights.sum():g} observations lie outside",
                fontsize=8,
                color=_GREY,
            )
    axis.set_xlabel(fit.response or "x")
    axis.legend(frameon=False)


def _window(data: np.ndarray, share: np.ndarray) -> tuple[float, float]:
    """All data, or where they reach far out what is around nearly all of them."""
    order = data.argsort()
    below = share[order].cumsum()
    inner = [
        data[order][min(len(data) - 1, int(np.searchsorted(below, q)))]
        for q in (_TAIL, 0.5, 1 - _TAIL)
    ]
    low = max(data.min(), inner[1] - 1.5 * (inner[1] - inner[0]))
    high = min(data.max(), inner[1] + 1.5 * (inner[2] - inner[1]))
    return (float(low), float(high)) if low < high else (float(low) - 0.5, float(high) + 0.5)


def _bins(data: np.ndarray, share: np.ndarray, low: float, high: float) -> list[float]:
    """Of a width of two quartile ranges by the cube root of n (Freedman and Diaconis 1981), or as
    many as twice that root, which is more where the data have several peaks; between 5 and 80.
    """
    order = data.argsort()
    below = share[order].cumsum()
    quartiles = [
        data[order][min(len(data) - 1, int(np.searchsorted(below, q)))] for q in (0.25, 0.75)
    ]
    width = 2 * (quartiles[1] - quartiles[0]) / len(data) ** (1 / 3)
    count = _BINS if width <= 0 else math.ceil((high - low) / width)
    return np.linspace(
        low, high, min(_BINS, max(5, count, math.ceil(2 * len(data) ** (1 / 3)))) + 1
    ).tolist()


def _heights(axis: Axes) -> list[float]:
    return [bar.get_height() for bar in axis.patches]  # type: ignore[attr-defined]


def _as_density(axis: Axes) -> None:
    """Shares by width: of all data, also those that the picture leaves out."""
    for bar in axis.patches:
        bar.set_height(bar.get_height() / bar.get_width())  # type: ignore[attr-defined]


def rootogram(axis: Axes, fit: Fit, sample: Sample) -> None:
    """Square roots of observed counts, hanging from those of the expected ones: bars that miss 0
    are surprises.

    Their feet vary by about 1/2, whatever the count (Tukey 1977; Kleiber and Zeileis 2016).
    """
    data, weights = sample.observed.values, sample.observed.weights
    at = torch.arange(min(int(data.max()), _COUNTS) + 1, dtype=torch.float64)
    counts = torch.bincount(data.clamp(max=_COUNTS).long(), weights, minlength=len(at))[: len(at)]
    expected = (weights.sum() * sample.family.log_probs(at, fit.params, sample.given).exp()).sqrt()
    axis.bar(
        at, counts.sqrt(), bottom=expected - counts.sqrt(), color=_BLUE, alpha=0.35, label="data"
    )
    axis.plot(at, expected, "o-", color=_RED, ms=3, lw=1.0, label="fit")
    for y, style in ((0.0, "-"), (-1.0, ":"), (1.0, ":")):
        axis.axhline(y, color=_GREY, lw=0.8, ls=style)
    axis.set_xlabel(fit.response or "x")
    axis.set_ylabel("square root of the count")
    axis.locator_params(axis="x", integer=True)
    axis.legend(frameon=False)


def scores(axis: Axes, found: Scores) -> None:
    """Normal scores of the data in the fitted distribution against those of their order, with a 95
    % band for each.
    """
    axis.fill_between(found.expected, found.low, found.high, color=_GREY, alpha=0.25, lw=0)
    axis.plot(found.expected, found.expected, color=_GREY, lw=1.0, ls="--")
    axis.plot(found.expected, found.found, "o", color=_BLUE, ms=2.5)
    axis.set_xlabel("normal quantile of the rank")
    axis.set_ylabel("normal quantile in the fit")


def survival(axis: Axes, fit: Fit, steps: Survival, times: Tensor, curve: Tensor) -> None:
    """The share that outlives each time by Kaplan and Meier, and in the fitted distribution."""
    first = torch.minimum(times[:1].double(), steps.time[:1])
    time, share = (
        torch.cat([first, steps.time]),
        torch.cat([torch.ones(1, dtype=torch.float64), steps.share]),
    )
    axis.step(time, share, where="post", color=_BLUE, lw=1.4, label="data (Kaplan-Meier)")
    axis.plot(times, curve, color=_RED, lw=1.4, label="fit")
    axis.set_ylim(0, 1.05)
    axis.set_xlabel(fit.response or "x")
    axis.set_ylabel("share above x")
    axis.legend(frameon=False)
