"""A fit and its progress on a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from nll.likelihood.optimise import Progress
from nll.likelihood.result import Fit
from nll.report import table

_PATIENCE = 1.0  # seconds without a word


def console(stderr: bool) -> Console:
    """Return the terminal, or what stands for it: wide enough for a table where the output is a file or a pipe."""
    found = Console(stderr=stderr)
    return found if found.is_terminal else Console(stderr=stderr, width=120)


def show(console: Console, fit: Fit, level: float) -> None:
    """Print the header and the estimates."""
    header = Table(show_header=False, box=None, pad_edge=False)
    header.add_column(style="bold", no_wrap=True)
    header.add_column(overflow="fold")
    for name, value in table.header(fit):
        alarm = name in ("Converged", "Status") and not fit.converged
        header.add_row(name, Text(value, style="bold red" if alarm else ""))
    console.print(header)
    groups = table.groups(fit, level)
    lines = [line for group in groups for line in (group.columns, *group.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for group in groups:
        console.print(_estimates(group, widths))


def _estimates(group: table.Group, widths: list[int]) -> Table:
    """Numbers are never cut short; on a narrow terminal the names fold."""
    shown = Table(title=group.title or None, title_justify="left", title_style="bold", header_style="")
    shown.box, shown.show_edge, shown.padding = box.SIMPLE_HEAD, False, (0, 0)
    for j, name in enumerate(group.columns):
        if j == 0:
            shown.add_column(Text(name), min_width=min(widths[0], 12), max_width=widths[0], overflow="fold")
        else:
            shown.add_column(Text(name), justify="right", min_width=widths[j], no_wrap=True)
    for row in group.rows:
        shown.add_row(*map(Text, row))
    return shown


@contextmanager
def progress(console: Console) -> Iterator[Progress]:
    """Yield a callback for the search; a line appears once the search has taken a second."""
    spinner = Spinner("dots", text="")
    live = Live(spinner, console=console, transient=True, refresh_per_second=8)
    begin = time.monotonic()
    shown = False

    def report(step: int, log_likelihood: float, decrement: float) -> None:
        nonlocal shown
        spinner.update(
            text=f"Newton step {step}: log-likelihood {log_likelihood:.6f}, to gain {decrement:.2e}, "
            f"{time.monotonic() - begin:.0f} s"
        )
        if not shown and time.monotonic() - begin > _PATIENCE and console.is_terminal:
            live.start()
            shown = True

    try:
        yield report
    finally:
        if shown:
            live.stop()
