"""Plots of a result, as matplotlib figures."""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nll.estimation.inference.wald import quantile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nll.estimation.inference.curves import ProfileCurve
    from nll.estimation.result import Fit
    from nll.regression.after.calibration import Calibration

BLUE, GREY, RED, GREEN = "#1f5fa8", "#9a9a9a", "#b3261e", "#2e7d32"
_COLUMNS = 5  # panels in a row of the grid
_MOST = 60  # panels
_TITLE = 28  # characters


def likelihood_curves(
    fit: Fit, level: float = 0.95, most: int = _MOST, profiles: Sequence[ProfileCurve] = ()
) -> Figure | None:
    """Draw the log-likelihood along each parameter, the others fixed at their estimates.

    Dashed: the parabola that the standard errors assume. Shaded: the Wald interval. Green: the
    profile, where there is one, and its interval. At most `most` parameters that have a standard
    error are drawn; None if there is none.
    """
    drawn = _drawn(fit, most)
    if not drawn:
        return None
    figure, axes = _grid(len(drawn), 2.6, 2.1)
    _likelihoods(axes, fit, drawn, level, profiles)
    return figure


def likelihoods(fit: Fit, level: float, most: int, profiles: Sequence[ProfileCurve]) -> Figure:
    """Draw `likelihood_curves` of a fit that has standard errors."""
    figure = likelihood_curves(fit, level, most, profiles)
    assert figure is not None
    return figure


def _drawn(fit: Fit, most: int) -> list[int]:
    """Return the numbers of the parameters that have a standard error."""
    if fit.log_likelihood_at is None:
        return []
    variances = fit.covariance.diagonal()
    return (variances.isfinite() & (variances > 0)).nonzero().squeeze(1).tolist()[:most]


def _likelihoods(
    axes: list[Axes], fit: Fit, drawn: list[int], level: float, profiles: Sequence[ProfileCurve]
) -> None:
    standard_errors = fit.covariance.diagonal().sqrt().tolist()
    by_name = {curve.name: curve for curve in profiles}
    for axis, i in zip(axes, drawn, strict=True):
        _likelihood_curve(axis, fit, i, standard_errors[i], quantile(level))
        profile = by_name.get(fit.names[i])
        if profile is not None:
            bottom = axis.get_ylim()[0]
            _profile(axis, profile)
            axis.set_ylim(bottom=bottom)


def _likelihood_curve(axis: Axes, fit: Fit, index: int, error: float, z: float) -> None:
    assert fit.log_likelihood_at is not None
    steps = np.linspace(-1.5, 1.5, 17) * max(2.0, z) * error
    along = fit.log_likelihood_at.along(fit.vector, index, torch.from_numpy(steps))
    gain = along.numpy() - fit.log_likelihood
    gain[~np.isfinite(gain)] = np.nan
    middle = len(steps) // 2  # the parabola goes through the points next to the maximum
    near = (gain[middle - 1] + gain[middle + 1]) / 2
    parabola = near * (steps / steps[middle + 1]) ** 2
    estimate = float(fit.vector[index])
    axis.axvspan(estimate - z * error, estimate + z * error, color=BLUE, alpha=0.10, lw=0)
    axis.plot(estimate + steps, gain, color=BLUE, lw=1.4)
    axis.plot(estimate + steps, parabola, color=GREY, lw=1.0, ls="--")
    axis.axvline(estimate, color=RED, lw=0.8)
    _label(axis, fit.names[index])


def profiles(curves: Sequence[ProfileCurve], level: float) -> Figure:
    """Draw the profile of each parameter, its interval where it crosses the dotted line, and the
    Wald interval shaded.
    """
    figure, axes = _grid(len(curves), 3.0, 2.4)
    z = quantile(level)
    for axis, curve in zip(axes, curves, strict=True):
        low, high = curve.estimate - z * curve.error, curve.estimate + z * curve.error
        parabola = -0.5 * ((curve.at - curve.estimate) / curve.error) ** 2
        axis.axvspan(low, high, color=BLUE, alpha=0.1, lw=0)
        _profile(axis, curve)
        axis.plot(curve.at, parabola, color=GREY, lw=1.0, ls="--")
        axis.axhline(-0.5 * z**2, color=GREY, lw=0.8, ls=":")
        axis.axvline(curve.estimate, color=RED, lw=0.8)
        axis.set_ylim(-1.1 * z**2, 0.1 * z**2)
        _label(axis, curve.name)
    return figure


def _profile(axis: Axes, curve: ProfileCurve) -> None:
    axis.plot(curve.at, curve.gain, color=GREEN, lw=1.4)
    for end in filter(math.isfinite, curve.interval):
        axis.axvline(end, color=GREEN, lw=0.8, ls=":")


def sheet(
    data: list[Callable[[Axes], None]],
    curves: tuple[Fit, float, Sequence[ProfileCurve]] | None = None,
) -> Figure:
    """Draw plots of the data side by side, and below them the likelihood along each parameter."""
    drawn = [] if curves is None else _drawn(curves[0], _MOST)
    columns = min(_COLUMNS, len(drawn))
    top = 3.6 if data else 0.0
    below = 2.1 * math.ceil(len(drawn) / columns) if drawn else 0.0
    figure = _figure(max(5.4 * len(data), 2.6 * columns), top + below)
    upper = lower = figure
    if data and drawn:
        upper, lower = figure.subfigures(2, 1, height_ratios=[top, below])  # type: ignore[arg-type]
    if data:
        for draw, axis in zip(data, upper.subplots(1, len(data), squeeze=False)[0], strict=True):
            draw(axis)
    if drawn and curves is not None:
        _likelihoods(_panels(lower, len(drawn)), curves[0], drawn, *curves[1:])
    return figure


def _figure(width: float, height: float) -> Figure:
    """Return an empty figure.

    It is written, not shown, and so needs no backend: MPLBACKEND may name one that does not exist.
    """
    backend = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
        from matplotlib.figure import Figure
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend is not None:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend  # as the import would have
    return Figure(figsize=(width, height), layout="constrained")


def _grid(panels: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many axes of one size, five in a row."""
    columns = min(_COLUMNS, panels)
    figure = _figure(width * columns, height * math.ceil(panels / columns))
    return figure, _panels(figure, panels)


def _panels(figure: Any, panels: int) -> list[Axes]:
    columns = min(_COLUMNS, panels)
    axes = list(figure.subplots(math.ceil(panels / columns), columns, squeeze=False).reshape(-1))
    for axis in axes[panels:]:
        figure.delaxes(axis)
    return axes[:panels]


def _label(axis: Axes, name: str) -> None:
    _title(axis, name)
    axis.ticklabel_format(axis="x", useOffset=False)
    axis.locator_params(axis="x", nbins=4)


def _title(axis: Axes, name: str, size: float = 6.5) -> None:
    if name.startswith("coef["):
        name = name[5:-1]
    axis.set_title(name if len(name) <= _TITLE else name[: _TITLE - 1] + "…", fontsize=8)
    axis.tick_params(labelsize=size)


def calibration(curves: list[Calibration], level: float = 0.95) -> Figure:
    """Draw observed vs. predicted means in bins, a panel for each class; a perfect model is on the
    diagonal.
    """
    single = len(curves) == 1
    figure, axes = _grid(1, 4.4, 4.0) if single else _grid(len(curves), 2.6, 2.6)
    for axis, curve in zip(axes, curves, strict=True):
        low = min(curve.predicted.min(), curve.observed.min())
        high = max(curve.predicted.max(), curve.observed.max())
        axis.plot([low, high], [low, high], color=GREY, lw=1.0, ls="--")
        axis.errorbar(
            curve.predicted,
            curve.observed,
            quantile(level) * curve.error,
            color=BLUE,
            marker="o",
            ms=3.5,
            lw=1.2,
            elinewidth=0.7,
        )
        _title(axis, curve.name, 8 if single else 6.5)
    figure.supxlabel("predicted", fontsize=9)
    figure.supylabel("observed", fontsize=9)
    return figure


def svg(figure: Figure) -> str:
    """Return a figure as an <svg> element for a page."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "nll", "svg.fonttype": "path"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
