"""The rows of a result's table, as text ready to be laid out by a terminal, a text or a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nll.regression.result import RegressionFit

if TYPE_CHECKING:
    from nll.estimation.result import Fit
    from nll.regression.after.margins import Margins
    from nll.regression.separation import Contrast


class Group(NamedTuple):
    """Rows under one title: a class, or a parameter."""

    title: str
    columns: list[str]  # the headings, the first empty
    rows: list[list[str]]


def header(fit: Fit) -> list[tuple[str, str]]:
    """What a reader asks first: the model, the data, the fit, and whether to trust it."""
    regression = fit if isinstance(fit, RegressionFit) else None
    entries: list[tuple[str, str | None]] = [
        ("Model", fit.model),
        ("Response", fit.response),
        ("Baseline", regression and regression.baseline),
        ("Observations", f"{fit.n:.12g}"),
        ("Events", None if fit.censoring is None else f"{fit.censoring.events:.12g}"),
        ("Censored", None if fit.censoring is None else str(fit.censoring) or "0"),
        ("Left out", f"{fit.dropped} with missing values" if fit.dropped else None),
        ("Parameters (df)", str(fit.df)),
        ("Log-likelihood", number(fit.log_likelihood, 12)),
        ("Null log-likelihood", _optional(regression and regression.null_log_likelihood, 12)),
        ("Pseudo R-squared", _optional(regression and regression.pseudo_r_squared, 6)),
        ("AIC", number(fit.aic, 10)),
        ("BIC", number(fit.bic, 10)),
        ("Information", fit.information),
        ("Intervals", fit.interval_method),
        ("Solver", fit.solver),
        ("Converged", "yes" if fit.converged else "NO"),
        (
            "Newton decrement",
            None if fit.decrement is None else f"{fit.decrement:.3g} ({fit.steps} steps)",
        ),
        ("Status", fit.status),
    ]
    return [(name, value) for name, value in entries if value is not None]


def groups(fit: Fit, level: float = 0.95) -> list[Group]:
    """The estimates: a group for each class of a softmax regression, else one for all
    parameters.
    """
    low, high = f"[{(1 - level) / 2:.4g}", f"{(1 + level) / 2:.4g}]"
    rows = _rows(fit, level)
    if not isinstance(fit, RegressionFit) or len(fit.labels.get("coef", ())) < 2:
        tested = any(row[3] for row in rows)
        keep = range(7) if tested else (0, 1, 2, 5, 6)
        headings = ["", "estimate", "std err", "z", "P>|z|", low, high]
        return [Group("", [headings[j] for j in keep], [[row[j] for j in keep] for row in rows])]
    classes, columns = fit.labels["coef"]
    found = []
    for k, name in enumerate(classes):
        part = rows[k * len(columns) : (k + 1) * len(columns)]
        named = [[column, *row[1:]] for column, row in zip(columns, part, strict=True)]
        title = f"{fit.response or 'y'} = {name} (against {fit.baseline or 'the mean of all'})"
        found.append(Group(title, ["", "coef", "std err", "z", "P>|z|", low, high], named))
    for name, contrast in _contrasts(fit):
        named = _tested(columns, contrast, level)
        headings = ["", "coef", "std err", "z", "P>|z|", low, high]
        found.append(Group(f"{fit.response or 'y'} = {name}", headings, named))
    return found


def margins(found: Margins, level: float = 0.95) -> list[Group]:
    """Marginal effects: a group for each class, or one for a mean."""
    mean = len(found.classes) == 1
    ends = [f"[{(1 - level) / 2:.4g}", f"{(1 + level) / 2:.4g}]"]
    columns = ["", "dy/dx" if mean else "dP/dx", "std err", "z", "P>|z|", *ends]
    names = [f"{name} (0 to 1)" if name in found.discrete else name for name in found.columns]
    parts = (found.effects, found.standard_errors, found.z, found.p_values, found.interval(level))
    return [
        Group(
            name if mean else f"P({name})", columns, _formatted(names, [part[k] for part in parts])
        )
        for k, name in enumerate(found.classes)
    ]


def _contrasts(fit: RegressionFit) -> Iterator[tuple[str, Contrast]]:
    """The contrasts with a limit of separated classes that the estimates do not show, titled."""
    for contrast in () if fit.separation is None else fit.separation.contrasts:
        if contrast.against != fit.baseline:
            yield f"{contrast.of} (against {contrast.against}, in the limit)", contrast


def _tested(names: Iterable[str], contrast: Contrast, level: float) -> list[list[str]]:
    """Rows of coefficients."""
    numbers = (
        contrast.estimate,
        contrast.standard_errors,
        contrast.z,
        contrast.p_values,
        contrast.interval(level),
    )
    return _formatted(names, numbers)


def _formatted(names: Iterable[str], numbers: Iterable[Tensor]) -> list[list[str]]:
    return [
        [
            name,
            number(b, 8),
            number(se, 8),
            f"{z:.3f}",
            _probability(p),
            number(low, 6),
            number(high, 6),
        ]
        for name, b, se, z, p, (low, high) in zip(
            names, *(part.tolist() for part in numbers), strict=True
        )
    ]


def number(value: float, digits: int) -> str:
    """A number with so many significant digits."""
    return f"{value:.{digits}g}"


def _optional(value: float | None, digits: int) -> str | None:
    return None if value is None else number(value, digits)


def _rows(fit: Fit, level: float) -> list[list[str]]:
    """Name, estimate, standard error, z, p, low, high; only coefficients are tested against 0."""
    errors = torch.cat([value.reshape(-1) for value in fit.standard_errors.values()])
    bounds = torch.cat([value.reshape(-1, 2) for value in fit.interval(level).values()])
    z = fit.vector / errors
    p = torch.cat([value.reshape(-1) for value in fit.p_values.values()])
    rows = []
    for i, name in enumerate(fit.names):
        tested = name.startswith("coef[")
        rows.append(
            [
                name.removeprefix("coef[").removesuffix("]") if tested else name,
                number(float(fit.vector[i]), 8),
                number(float(errors[i]), 8),
                f"{float(z[i]):.3f}" if tested else "",
                _probability(float(p[i])) if tested else "",
                number(float(bounds[i, 0]), 6),
                number(float(bounds[i, 1]), 6),
            ]
        )
    return rows


def _probability(p: float) -> str:
    return f"{p:.4f}" if p >= 1e-4 or p != p else f"{p:.1e}"
