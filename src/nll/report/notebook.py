"""A result as a piece of HTML for a notebook; it needs no other package."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from nll.report import table

if TYPE_CHECKING:
    from nll.estimation.result import Fit

_RULE = "border-bottom: 1px solid currentColor"
_CELL = "text-align: {side}; padding: 0.1em 0.7em"


def fragment(fit: Fit, level: float = 0.95) -> str:
    """The header and the table of a fit; its colours are those of the page around it."""
    header = "".join(
        f"<tr>{_cell(name, 'left', 'th')}"
        f"{_cell(value, 'left', bold=name == 'Converged' and value != 'yes')}</tr>"
        for name, value in table.header(fit)
    )
    parts = [f"<table>{header}</table>"]
    for group in table.groups(fit, level):
        head = "".join(
            _cell(name, "right" if j else "left", "th", _RULE)
            for j, name in enumerate(group.columns)
        )
        rows = "".join(
            "<tr>"
            + "".join(_cell(value, "right" if j else "left") for j, value in enumerate(row))
            + "</tr>"
            for row in group.rows
        )
        title = f"<caption>{escape(group.title)}</caption>" if group.title else ""
        parts.append(f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")
    return f"<div>{''.join(parts)}</div>"


def _cell(text: str, side: str, tag: str = "td", style: str = "", bold: bool = False) -> str:
    shown = f"<b>{escape(text)}</b>" if bold else escape(text)
    return f'<{tag} style="{_CELL.format(side=side)}; {style}">{shown}</{tag}>'
