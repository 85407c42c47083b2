"""Pictures of a result, as matplotlib figures."""

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

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nll.estimation.inference.curves import ProfileCurve
    from nll.estimation.result import Fit
    from nll.regression.after.calibration import Calibration

_BLUE, _GREY, _RED, _GREEN = "#1f5fa8", "#9a9a9a", "#b3261e", "#2e7d32"
_PANELS = 5  # in a row of the grid


def likelihood_curves(
    fit: Fit, level: float = 0.95, most: int = 60, profiles: Sequence[ProfileCurve] = ()
) -> Figure | None:
    """The log-likelihood along each parameter, the others held at the estimate.

    Dashed: the quadratic that the standard errors assume. Shaded: the Wald interval of the level.
    Green: the profile, with the others at their best, and its interval, where there is one. At most
    `most` parameters that have a standard error are drawn; None when there is none.
    """
    drawn = _drawn(fit, most)
    if not drawn:
        return None
    figure, axes = _grid(len(drawn), 2.6, 2.1)
    _likelihoods(axes, fit, drawn, level, profiles)
    return figure


def likelihoods(fit: Fit, level: float, most: int, profiles: Sequence[ProfileCurve]) -> Figure:
    """The same of a fit that has errors."""
    figure = likelihood_curves(fit, level, most, profiles)
    assert figure is not None
    return figure


def _drawn(fit: Fit, most: int) -> list[int]:
    if fit.log_likelihood_at is None:
        return []
    errors = fit.covariance.diagonal().sqrt()
    return [i for i in range(len(errors)) if bool(torch.isfinite(errors[i]) & (errors[i] > 0))][
        :most
    ]


def _likelihoods(
    axes: list[Axes], fit: Fit, drawn: list[int], level: float, profiles: Sequence[ProfileCurve]
) -> None:
    errors, known = fit.covariance.diagonal().sqrt(), {curve.name: curve for curve in profiles}
    for axis, i in zip(axes, drawn, strict=True):
        _likelihood_curve(axis, fit, i, float(errors[i]), _reach(level))
        if fit.names[i] in known:
            bottom = axis.get_ylim()[0]
            _profile(axis, known[fit.names[i]])
            axis.set_ylim(bottom=bottom)


def profiles(curves: Sequence[ProfileCurve], level: float) -> Figure:
    """The profile of each parameter, its interval where it crosses the dotted line, and Wald's
    interval shaded.
    """
    figure, axes = _grid(len(curves), 3.0, 2.4)
    for axis, curve in zip(axes, curves, strict=True):
        reach = _reach(level)
        axis.axvspan(
            curve.estimate - reach * curve.error,
            curve.estimate + reach * curve.error,
            color=_BLUE,
            alpha=0.1,
            lw=0,
        )
        _profile(axis, curve)
        axis.plot(
            curve.at,
            -0.5 * ((curve.at - curve.estimate) / curve.error) ** 2,
            color=_GREY,
            lw=1.0,
            ls="--",
        )
        axis.axhline(-0.5 * reach**2, color=_GREY, lw=0.8, ls=":")
        axis.axvline(curve.estimate, color=_RED, lw=0.8)
        axis.set_ylim(-1.1 * reach**2, 0.1 * reach**2)
        _label(axis, curve.name)
    return figure


def _profile(axis: Axes, curve: ProfileCurve) -> None:
    axis.plot(curve.at, curve.gain, color=_GREEN, lw=1.4)
    for end in curve.interval:
        if math.isfinite(end):
            axis.axvline(end, color=_GREEN, lw=0.8, ls=":")


def sheet(
    data: list[Callable[[Axes], None]],
    curves: tuple[Fit, float, Sequence[ProfileCurve]] | None = None,
) -> Figure:
    """Pictures of the data side by side, and below them the likelihood along each parameter."""
    drawn = [] if curves is None else _drawn(curves[0], 60)
    columns = min(_PANELS, len(drawn))
    rows = math.ceil(len(drawn) / columns) if drawn else 0
    top, below = (3.6 if data else 0.0), 2.1 * rows
    figure = _figure(
        figsize=(max(5.4 * len(data), 2.6 * columns), top + below), layout="constrained"
    )
    if data and drawn:
        upper, lower = list(figure.subfigures(2, 1, height_ratios=[top, below]))  # type: ignore[arg-type]
    else:
        upper = lower = figure
    if data:
        for draw, axis in zip(data, upper.subplots(1, len(data), squeeze=False)[0], strict=True):
            draw(axis)
    if drawn and curves is not None:
        _likelihoods(_panels(lower, len(drawn)), curves[0], drawn, *curves[1:])
    return figure


def _figure(**options: Any) -> Figure:
    """A figure that is written, not shown: it needs no backend, so that MPLBACKEND may name one
    that does not exist.
    """
    asked = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
        from matplotlib.figure import Figure
    finally:
        if asked is not None:
            os.environ["MPLBACKEND"] = asked
    if asked is not None:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = asked  # as the import would have
    return Figure(**options)


def _grid(panels: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with so many axes of one size, five in a row."""
    columns = min(_PANELS, panels)
    figure = _figure(
        figsize=(width * columns, height * math.ceil(panels / columns)), layout="constrained"
    )
    return figure, _panels(figure, panels)


def _panels(figure: Any, panels: int) -> list[Axes]:
    columns = min(_PANELS, panels)
    axes = list(figure.subplots(math.ceil(panels / columns), columns, squeeze=False).reshape(-1))
    for axis in axes[panels:]:
        figure.delaxes(axis)
    return axes[:panels]


def _likelihood_curve(axis: Axes, fit: Fit, index: int, error: float, reach: float) -> None:
    assert fit.log_likelihood_at is not None
    steps = np.linspace(-1.5, 1.5, 17) * max(2.0, reach) * error
    gain = (
        fit.log_likelihood_at.along(fit.vector, index, torch.from_numpy(steps)).numpy()
        - fit.log_likelihood
    )
    gain[~np.isfinite(gain)] = np.nan
    at = float(fit.vector[index])
    axis.axvspan(at - reach * error, at + reach * error, color=_BLUE, alpha=0.10, lw=0)
    axis.plot(at + steps, gain, color=_BLUE, lw=1.4)
    axis.plot(at + steps, _quadratic(steps, gain), color=_GREY, lw=1.0, ls="--")
    axis.axvline(at, color=_RED, lw=0.8)
    _label(axis, fit.names[index])


def _label(axis: Axes, name: str) -> None:
    axis.set_title(_short(name), fontsize=8)
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
    """Observed against predicted means in bins, a panel for each class; the diagonal is a perfect
    model.
    """
    figure, axes = _grid(len(curves), 2.6, 2.6) if len(curves) > 1 else _grid(1, 4.4, 4.0)
    for axis, curve in zip(axes, curves, strict=True):
        low = min(curve.predicted.min(), curve.observed.min())
        high = max(curve.predicted.max(), curve.observed.max())
        axis.plot([low, high], [low, high], color=_GREY, lw=1.0, ls="--")
        bars = _reach(level) * curve.error
        axis.errorbar(
            curve.predicted,
            curve.observed,
            bars,
            color=_BLUE,
            marker="o",
            ms=3.5,
            lw=1.2,
            elinewidth=0.7,
        )
        axis.set_title(_short(curve.name), fontsize=8)
        axis.tick_params(labelsize=6.5 if len(curves) > 1 else 8)
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


def _short(name: str) -> str:
    if name.startswith("coef["):
        name = name[5:-1]
    return name if len(name) <= 28 else name[:27] + "…"
