"""A result as one self-contained HTML page."""

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
    """Render a fit: header, table, the likelihood along each parameter, and how it fits the data.

    Args:
        fit: the result.
        title: the page's title.
        level: the confidence level.
        classes: (K) names, for the confusion matrix.
        confusion: (K, K) counts: observed, predicted.
        calibration: a curve for each class, or one for the mean.
        distribution: a figure of the data and the fitted distribution.
        profiles: profile likelihoods.
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
    """Format the counts of each class; their share of the row shades the cell."""
    totals = counts.sum(1)
    shares = counts / np.where(totals > 0, totals, 1.0)[:, None]
    rows = [
        {
            "name": name,
            "cells": [
                {"count": f"{counts[k, j]:g}", "share": shares[k, j]} for j in range(len(counts))
            ],
            "total": f"{totals[k]:g}",
            "recall": f"{shares[k, k]:.1%}",
        }
        for k, name in enumerate(classes)
    ]
    return {
        "classes": list(classes),
        "rows": rows,
        "accuracy": f"{np.trace(counts) / counts.sum():.1%}",
    }
