"""The rows of a result's tables as text, and their layout in columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nll.regression.result import RegressionFit

if TYPE_CHECKING:
    from nll.estimation.result import Fit
    from nll.regression.after.margins import Margins


class Group(NamedTuple):
    """Rows under one title: a class, or all parameters."""

    title: str
    columns: list[str]  # the headings, the first one empty
    rows: list[list[str]]


def aligned(rows: Iterable[Sequence[str]], widths: Sequence[int] | None = None) -> list[str]:
    """Lay out rows of text in columns: the first one left-aligned, the others right-aligned."""
    rows = list(rows)
    widths = widths or [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if j else cell.ljust(width)
            for j, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def widths(groups: Iterable[Group]) -> list[int]:
    """Return one width for each column in all groups, so that they line up."""
    lines = [line for group in groups for line in (group.columns, *group.rows)]
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def header(fit: Fit) -> list[tuple[str, str]]:
    """Return what a reader asks first: the model, the data, the fit, and whether to trust it."""
    null, pseudo, baseline = None, None, None
    if isinstance(fit, RegressionFit):
        null, pseudo, baseline = fit.null_log_likelihood, fit.pseudo_r_squared, fit.baseline
    events, censored, decrement = None, None, None
    if fit.censoring is not None:
        events, censored = f"{fit.censoring.events:.12g}", str(fit.censoring) or "0"
    if fit.decrement is not None:
        decrement = f"{fit.decrement:.3g} ({fit.steps} steps)"
    rows = "row" if fit.dropped == 1 else "rows"
    entries: list[tuple[str, str | None]] = [
        ("Model", fit.model),
        ("Response", fit.response),
        ("Baseline", baseline),
        ("Observations", number(fit.n, 12)),
        ("Events", events),
        ("Censored", censored),
        ("Dropped", f"{fit.dropped} {rows} with missing values" if fit.dropped else None),
        ("Parameters (df)", str(fit.df)),
        ("Log-likelihood", number(fit.log_likelihood, 12)),
        ("Null log-likelihood", None if null is None else number(null, 12)),
        ("Pseudo R-squared", None if pseudo is None else number(pseudo, 6)),
        ("AIC", number(fit.aic, 10)),
        ("BIC", number(fit.bic, 10)),
        ("Information", fit.information),
        ("Intervals", fit.interval_method),
        ("Solver", fit.solver),
        ("Converged", "yes" if fit.converged else "NO"),
        ("Newton decrement", decrement),
        ("Status", fit.status),
    ]
    return [(name, value) for name, value in entries if value is not None]


def groups(fit: Fit, level: float = 0.95) -> list[Group]:
    """Return the estimates: a group for each class of a softmax regression, or one for all."""
    rows, tested = _estimates(fit, level)
    if not isinstance(fit, RegressionFit) or len(fit.labels.get("coef", ())) < 2:
        headings = ["", "estimate", *_headings(level)]
        columns = range(7) if tested else (0, 1, 2, 5, 6)
        return [Group("", [headings[j] for j in columns], [[r[j] for j in columns] for r in rows])]
    classes, columns = fit.labels["coef"]
    response, headings = fit.response or "y", ["", "coef", *_headings(level)]
    reference = "the mean of all" if fit.baseline is None else fit.baseline
    tables = []
    for k, name in enumerate(classes):
        block = rows[k * len(columns) : (k + 1) * len(columns)]
        named = [[column, *row[1:]] for column, row in zip(columns, block, strict=True)]
        tables.append(Group(f"{response} = {name} (vs. {reference})", headings, named))
    for limit in () if fit.separation is None else fit.separation.contrasts:
        if limit.against != fit.baseline:
            title = f"{response} = {limit.of} (vs. {limit.against}, limit)"
            numbers = limit.estimate, limit.standard_errors, limit.z, limit.p_values
            rows = _rows(columns, (*numbers, limit.interval(level)))
            tables.append(Group(title, headings, rows))
    return tables


def margins(margins: Margins, level: float = 0.95) -> list[Group]:
    """Return marginal effects: a group for each class, or one for a mean."""
    single = len(margins.classes) == 1
    headings = ["", "dy/dx" if single else "dP/dx", *_headings(level)]
    names = [f"{name} (0 to 1)" if name in margins.discrete else name for name in margins.columns]
    numbers = [margins.effects, margins.standard_errors, margins.z, margins.p_values]
    numbers.append(margins.interval(level))
    return [
        Group(
            name if single else f"P({name})",
            headings,
            _rows(names, [values[k] for values in numbers]),
        )
        for k, name in enumerate(margins.classes)
    ]


def number(value: float, digits: int) -> str:
    """Format a number with so many significant digits."""
    return f"{value:.{digits}g}"


def _headings(level: float) -> list[str]:
    ends = f"[{(1 - level) / 2:.4g}", f"{(1 + level) / 2:.4g}]"
    return ["std err", "z", "P>|z|", *ends]


def _estimates(fit: Fit, level: float) -> tuple[list[list[str]], bool]:
    """Return a row for each number, and whether any of them is tested: coefficients are, against
    0.
    """
    standard_errors = _flat(fit.standard_errors.values())
    interval = torch.cat([ends.reshape(-1, 2) for ends in fit.interval(level).values()])
    z, p = fit.vector / standard_errors, _flat(fit.p_values.values())
    rows = _rows(fit.names, (fit.vector, standard_errors, z, p, interval))
    coefficient = [
        name == "coef" and value.dim() > 0
        for name, value in fit.params.items()
        for _ in range(value.numel())
    ]
    for row, tested in zip(rows, coefficient, strict=True):
        if tested:
            row[0] = row[0].removeprefix("coef[").removesuffix("]")
        else:
            row[3:5] = "", ""
    return rows, any(coefficient)


def _flat(values: Iterable[Tensor]) -> Tensor:
    return torch.cat([value.reshape(-1) for value in values])


def _rows(names: Iterable[str], numbers: Sequence[Tensor]) -> list[list[str]]:
    """Format estimates, standard errors, z, p-values (n) and intervals (n, 2)."""
    *columns, interval = numbers
    columns += interval.unbind(-1)
    return [
        [
            name,
            number(estimate, 8),
            number(error, 8),
            f"{z:.3f}",
            f"{p:.4f}" if p >= 1e-4 or p != p else f"{p:.1e}",
            number(low, 6),
            number(high, 6),
        ]
        for name, estimate, error, z, p, low, high in zip(
            names, *(column.tolist() for column in columns), strict=True
        )
    ]
