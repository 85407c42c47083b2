"""Pictures of a result, as matplotlib figures."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

if TYPE_CHECKING:
    from nll.likelihood.family import Family
    from nll.likelihood.result import Fit
    from nll.report.assess import Calibration

_BLUE, _GREY, _RED = "#1f5fa8", "#9a9a9a", "#b3261e"
_BARS = 500  # more numbers than this are shown as a density
_PANELS = 5  # in a row of the grid


def likelihood_curves(fit: Fit, level: float = 0.95, most: int = 60) -> Figure | None:
    """The log-likelihood along each parameter, the others held at the estimate.

    Dashed: the quadratic that the standard errors assume. Shaded: the Wald interval of the level. At most `most`
    parameters that have a standard error are drawn; None when there is none.
    """
    errors = fit.covariance.diagonal().sqrt()
    drawn = [i for i in range(len(errors)) if bool(torch.isfinite(errors[i]) & (errors[i] > 0))][:most]
    if fit.log_likelihood_at is None or not drawn:
        return None
    figure, axes = _grid(len(drawn), 2.6, 2.1)
    for axis, i in zip(axes, drawn, strict=True):
        _likelihood_curve(axis, fit, i, float(errors[i]), _reach(level))
    return figure


def _grid(panels: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with so many axes of one size, five in a row."""
    columns = min(_PANELS, panels)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).reshape(-1))
    for axis in axes[panels:]:
        figure.delaxes(axis)
    return figure, axes[:panels]


def _likelihood_curve(axis: Axes, fit: Fit, index: int, error: float, reach: float) -> None:
    assert fit.log_likelihood_at is not None
    steps = np.linspace(-1.5, 1.5, 17) * max(2.0, reach) * error
    gain = fit.log_likelihood_at.along(fit.vector, index, torch.from_numpy(steps)).numpy() - fit.log_likelihood
    gain[~np.isfinite(gain)] = np.nan
    at = float(fit.vector[index])
    axis.axvspan(at - reach * error, at + reach * error, color=_BLUE, alpha=0.10, lw=0)
    axis.plot(at + steps, gain, color=_BLUE, lw=1.4)
    axis.plot(at + steps, _quadratic(steps, gain), color=_GREY, lw=1.0, ls="--")
    axis.axvline(at, color=_RED, lw=0.8)
    axis.set_title(_short(fit.names[index]), fontsize=8)
    axis.tick_params(labelsize=6.5)
    axis.ticklabel_format(axis="x", useOffset=False)
    axis.locator_params(axis="x", nbins=4)


def _reach(level: float) -> float:
    """How many standard errors an interval of this level reaches."""
    return -float(torch.special.ndtri(torch.tensor((1 - level) / 2, dtype=torch.float64)))


def _quadratic(steps: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """The parabola through the two points beside the maximum."""
    middle = len(steps) // 2
    near = (gain[middle - 1] + gain[middle + 1]) / 2
    return near * (steps / steps[middle + 1]) ** 2


def calibration(curves: list[Calibration], level: float = 0.95) -> Figure:
    """Observed against predicted means in bins, a panel for each class; the diagonal is a perfect model."""
    figure, axes = _grid(len(curves), 2.6, 2.6) if len(curves) > 1 else _grid(1, 4.4, 4.0)
    for axis, curve in zip(axes, curves, strict=True):
        low = min(curve.predicted.min(), curve.observed.min())
        high = max(curve.predicted.max(), curve.observed.max())
        axis.plot([low, high], [low, high], color=_GREY, lw=1.0, ls="--")
        bars = _reach(level) * curve.error
        axis.errorbar(curve.predicted, curve.observed, bars, color=_BLUE, marker="o", ms=3.5, lw=1.2, elinewidth=0.7)
        axis.set_title(_short(curve.name), fontsize=8)
        axis.tick_params(labelsize=6.5 if len(curves) > 1 else 8)
    figure.supxlabel("predicted", fontsize=9)
    figure.supylabel("observed", fontsize=9)
    return figure


def distribution(fit: Fit, family: Family, values: Tensor, weights: Tensor) -> Figure:
    """The data as shares or a density, and the fitted probabilities or density over them."""
    data, share = values.numpy(), (weights / weights.sum()).numpy()
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    axis = figure.subplots()
    if family.discrete and data.max() < _BARS:
        at = torch.arange(int(data.max()) + 1, dtype=torch.float64)
        axis.bar(at, np.bincount(data.astype(int), share), color=_BLUE, alpha=0.35, label="data")
        axis.plot(at, family.log_probs(at, fit.params, {}).exp(), "o", color=_RED, ms=4, label="fit")
        axis.set_ylabel("probability")
        if fit.labels:
            axis.set_xticks(at.numpy(), fit.labels["probs"][0], rotation=30, ha="right")
    else:
        bins = min(80, max(5, math.ceil(2 * len(data) ** (1 / 3))))
        axis.hist(data, bins=bins, weights=share, density=True, color=_BLUE, alpha=0.35, label="data")
        at = torch.linspace(float(data.min()), float(data.max()), 400, dtype=torch.float64)
        at = at.round().unique() if family.discrete else at
        axis.plot(at, family.log_probs(at, fit.params, {}).exp(), color=_RED, lw=1.4, label="fit")
        axis.set_ylabel("density")
    axis.set_xlabel(fit.response or "x")
    axis.legend(frameon=False)
    return figure


def svg(figure: Figure) -> str:
    """Return a figure as an <svg> element for a page."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "nll", "svg.fonttype": "path"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _short(name: str) -> str:
    if name.startswith("coef["):
        name = name[5:-1]
    return name if len(name) <= 28 else name[:27] + "…"
