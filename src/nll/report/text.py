"""A result as plain text."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from nll.report import table

if TYPE_CHECKING:
    from nll.estimation.result import Fit

_WIDTH = 96


def summary(fit: Fit, level: float = 0.95) -> str:
    """Lay out the header and the table of a fit."""
    found = table.groups(fit, level)
    return "\n".join(
        [*_header(fit), *(line for group in found for line in _group(group, _widths(found)))]
    )


def _header(fit: Fit) -> list[str]:
    entries = table.header(fit)
    margin = max(len(name) for name, _ in entries) + 2
    lines = []
    for name, value in entries:
        first, *rest = textwrap.wrap(value, _WIDTH - margin) or [""]
        lines += [f"{name:{margin}}{first}", *(" " * margin + line for line in rest)]
    return lines


def _widths(groups: list[table.Group]) -> list[int]:
    """One width for each column in all groups, so that they line up."""
    lines = [line for group in groups for line in (group.columns, *group.rows)]
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def _group(group: table.Group, widths: list[int]) -> list[str]:
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    title = [group.title] if group.title else []
    return [
        "",
        *title,
        _line(group.columns, widths),
        rule,
        *(_line(row, widths) for row in group.rows),
    ]


def _line(cells: list[str], widths: list[int]) -> str:
    first, *rest = (f"{cell:{'<' if j == 0 else '>'}{widths[j]}}" for j, cell in enumerate(cells))
    return "  ".join([first, *rest]).rstrip()
