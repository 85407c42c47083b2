"""A fit and its progress on a terminal."""

from __future__ import annotations

from threading import Timer

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from nll.data.observations import label
from nll.estimation.grouped import GroupedFit
from nll.estimation.result import Fit
from nll.report import table

_PATIENCE = 1.0  # seconds without a word
_GROUPS = 40  # lines of groups


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let the error be reported like those of other files."""
        raise


def console(stderr: bool) -> Console:
    """Return the terminal, or what stands for it: wide enough for a table where the output is a
    file or a pipe.
    """
    found = _Console(stderr=stderr)
    return found if found.is_terminal else _Console(stderr=stderr, width=120)


def seconds(value: float) -> str:
    """Return a time with three digits."""
    unit, scale = next(((u, k) for u, k in (("s", 1.0), ("ms", 1e-3)) if value >= k), ("us", 1e-6))
    return f"{value / scale:.3g} {unit}"


def show(console: Console, fit: Fit, level: float) -> None:
    """Print the header and the estimates."""
    header = Table(show_header=False, box=None, pad_edge=False)
    header.add_column(style="bold", no_wrap=True)
    header.add_column(overflow="fold")
    for name, value in table.header(fit):
        alarm = name in ("Converged", "Status") and not fit.converged
        header.add_row(name, Text(value, style="bold red" if alarm else ""))
    console.print(header)
    console.print()
    show_tables(console, table.groups(fit, level))


def show_tables(console: Console, groups: list[table.Group]) -> None:
    """Print tables with columns of the same widths."""
    lines = [line for group in groups for line in (group.columns, *group.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for group in groups:
        console.print(_estimates(group, widths))


def show_groups(console: Console, fit: GroupedFit) -> None:
    """Print a line for each group, estimates with their errors below the names; of many the
    first.
    """
    columns = fit.to_dict()
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), header_style="")
    for name in columns:
        side = "left" if name in ("group", "converged") else "right"
        shown.add_column(
            Text(name.replace("log_likelihood", "log-likelihood")), justify=side, overflow="fold"
        )  # headings take several lines before numbers do
    for i in range(min(len(fit), _GROUPS)):
        shown.add_row(*(Text(_cell(column[i])) for column in columns.values()))
    console.print(shown)
    if len(fit) > _GROUPS:
        console.print(
            f"... and {len(fit) - _GROUPS} more; --json has all", highlight=False, markup=False
        )
    left = f"; {fit.dropped} rows with missing values left out" if fit.dropped else ""
    console.print(f"\n{fit}{left}", highlight=False, markup=False)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return table.number(value, 7) if isinstance(value, float) else label(value)


def _estimates(group: table.Group, widths: list[int]) -> Table:
    """Numbers are never cut short; on a narrow terminal the names fold."""
    shown = Table(
        title=group.title or None, title_justify="left", title_style="bold", header_style=""
    )
    shown.box, shown.show_edge, shown.padding = box.SIMPLE_HEAD, False, (0, 0)
    for j, name in enumerate(group.columns):
        if j == 0:
            shown.add_column(
                Text(name), min_width=min(widths[0], 12), max_width=widths[0], overflow="fold"
            )
        else:
            shown.add_column(Text(name), justify="right", min_width=widths[j], no_wrap=True)
    for row in group.rows:
        shown.add_row(*map(Text, row))
    return shown


class Stages:
    """A line with a moving bar for work that takes more than a second; nothing where no terminal
    listens.
    """

    def __init__(self, console: Console) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
        )
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task("", total=None)
        self._timer = Timer(_PATIENCE, self._bar.start)
        self._timer.daemon = True
        self._listened, self._what = console.is_terminal, ""

    def __enter__(self) -> Stages:
        """Start waiting for a second to pass."""
        if self._listened:
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the line away."""
        self._timer.cancel()
        if self._bar.live.is_started:  # or it would write an empty line
            self._bar.stop()

    def say(self, what: str) -> None:
        """Name the work at hand."""
        self._what = what
        self._bar.update(self._task, description=what)

    def rows(self, count: int) -> None:
        """Report how many rows of a stream the pass at hand has read."""
        self._bar.update(self._task, description=f"{self._what}; {count:,} rows")

    def step(self, step: int, log_likelihood: float, decrement: float) -> None:
        """Report a step of the search: what `maximise` calls."""
        self.say(
            f"Newton step {step}: log-likelihood {log_likelihood:.6f}, expected gain "
            f"{decrement:.1e}"
        )
