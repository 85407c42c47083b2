"""A result as a piece of HTML for a notebook, without further packages."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

from nll.report import table

if TYPE_CHECKING:
    from nll.estimation.result import Fit

_RULE = "border-bottom: 1px solid currentColor"
_CELL = "text-align: {side}; padding: 0.1em 0.7em"


def fragment(fit: Fit, level: float = 0.95) -> str:
    """Return the header and the table of a fit, in the colours of the page around it."""
    header = "".join(
        f"<tr>{_cell(name, 'left', 'th')}"
        f"{_cell(value, 'left', bold=name == 'Converged' and not fit.converged)}</tr>"
        for name, value in table.header(fit)
    )
    tables = [f"<table>{header}</table>"]
    for group in table.groups(fit, level):
        head = _row(group.columns, "th", _RULE)
        rows = "".join(_row(row, "td") for row in group.rows)
        title = f"<caption>{escape(group.title)}</caption>" if group.title else ""
        tables.append(f"<table>{title}<thead>{head}</thead><tbody>{rows}</tbody></table>")
    return f"<div>{''.join(tables)}</div>"


def _row(cells: Iterable[str], tag: str, style: str = "") -> str:
    row = (_cell(text, "right" if j else "left", tag, style) for j, text in enumerate(cells))
    return f"<tr>{''.join(row)}</tr>"


def _cell(text: str, side: str, tag: str = "td", style: str = "", bold: bool = False) -> str:
    shown = f"<b>{escape(text)}</b>" if bold else escape(text)
    return f'<{tag} style="{_CELL.format(side=side)}; {style}">{shown}</{tag}>'
