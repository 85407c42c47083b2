"""A result as one self-contained page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape

from nll.report import plots, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nll.estimation.inference.curves import ProfileCurve
    from nll.estimation.result import Fit
    from nll.regression.after.calibration import Calibration


def page(
    fit: Fit,
    *,
    title: str,
    level: float = 0.95,
    classes: Sequence[str] = (),
    confusion: np.ndarray | None = None,
    calibration: Sequence[Calibration] = (),
    distribution: Figure | None = None,
    profiles: Sequence[ProfileCurve] = (),
    margins: Sequence[table.Group] = (),
) -> str:
    """Render a fit: header, table, the likelihood along each parameter, and how it meets the data.

    Args:
        fit: the result.
        title: the page's title.
        level: of the intervals in the table.
        classes: the names of the classes, for the confusion matrix.
        confusion: (K, K) counts, rows seen and columns predicted.
        calibration: a curve for each class, or one for the mean.
        distribution: a figure of the fitted distribution over the data.
        profiles: of the likelihood, where the other parameters are at their best.
        margins: tables of marginal effects.
    """
    environment = Environment(
        loader=PackageLoader("nll.report"), autoescape=select_autoescape(default=True)
    )
    curves = plots.likelihood_curves(fit, level, profiles=profiles)
    return environment.get_template("report.html.j2").render(
        title=title,
        fit=fit,
        level=f"{100 * level:g} %",
        header=table.header(fit),
        groups=table.groups(fit, level),
        margins=margins,
        curves=None if curves is None else plots.svg(curves),
        profiled=bool(profiles),
        drawn=0 if curves is None else len(curves.axes),
        confusion=None if confusion is None else _cells(classes, confusion),
        calibration=plots.svg(plots.calibration(list(calibration), level)) if calibration else None,
        distribution=None if distribution is None else plots.svg(distribution),
    )


def _cells(classes: Sequence[str], counts: np.ndarray) -> dict:
    """The counts of each class with their share of the row, which shades the cell."""
    totals = counts.sum(1)
    shares = counts / np.where(totals > 0, totals, 1.0)[:, None]
    rows = [
        {
            "name": name,
            "cells": [
                {"count": f"{count:g}", "share": share}
                for count, share in zip(row, part, strict=True)
            ],
            "total": f"{total:g}",
            "recall": f"{part[k]:.1%}",
        }
        for k, (name, row, part, total) in enumerate(
            zip(classes, counts, shares, totals, strict=True)
        )
    ]
    return {
        "classes": list(classes),
        "rows": rows,
        "accuracy": f"{np.trace(counts) / counts.sum():.1%}",
    }
