"""A result as plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nll.report import table

if TYPE_CHECKING:
    from nll.estimation.result import Fit

_WIDTH = 96


def summary(fit: Fit, level: float = 0.95) -> str:
    """Return the header and the table of a fit."""
    return "\n".join([*_header(fit), *tables(table.groups(fit, level))])


def tables(groups: Sequence[table.Group]) -> list[str]:
    """Return the lines of tables whose columns line up."""
    widths = table.widths(groups)
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = []
    for group in groups:
        head, *rows = table.aligned([group.columns, *group.rows], widths)
        title = [group.title] if group.title else []
        lines += ["", *title, head, rule, *rows]
    return lines


def _header(fit: Fit) -> list[str]:
    entries = table.header(fit)
    margin = max(len(name) for name, _ in entries) + 2
    lines = []
    for name, value in entries:
        first, *rest = textwrap.wrap(value, _WIDTH - margin) or [""]
        lines += [f"{name:{margin}}{first}", *(" " * margin + line for line in rest)]
    return lines
