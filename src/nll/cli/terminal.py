"""A fit and its progress on a terminal."""

from __future__ import annotations

from collections.abc import Collection
from threading import Timer

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from nll.data.classes import label
from nll.estimation.grouped import GroupedFit
from nll.estimation.result import Fit
from nll.report import table as tables

_DELAY = 1.0  # seconds before progress is shown
_GROUPS = 40  # lines of groups


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise the error, to be reported like those of other files."""
        raise


def console(stderr: bool) -> Console:
    """Return the terminal; a file or a pipe is wide enough for a table."""
    terminal = _Console(stderr=stderr)
    return terminal if terminal.is_terminal else _Console(stderr=stderr, width=120)


def seconds(value: float) -> str:
    """Return a time with three digits."""
    unit, scale = next(((u, k) for u, k in (("s", 1.0), ("ms", 1e-3)) if value >= k), ("us", 1e-6))
    return f"{value / scale:.3g} {unit}"


def show(console: Console, fit: Fit, level: float) -> None:
    """Print the header and the estimates."""
    header = Table(show_header=False, box=None, pad_edge=False)
    header.add_column(style="bold", no_wrap=True)
    header.add_column(overflow="fold")
    for name, value in tables.header(fit):
        alarm = name in ("Converged", "Status") and not fit.converged
        header.add_row(name, Text(value, style="bold red" if alarm else ""))
    console.print(header)
    console.print()
    show_tables(console, tables.groups(fit, level))


def show_tables(console: Console, groups: list[tables.Group]) -> None:
    """Print tables with columns of the same widths."""
    widths = tables.widths(groups)
    for group in groups:
        shown = grid(group.columns, group.rows, widths)
        shown.title, shown.title_justify, shown.title_style = group.title or None, "left", "bold"
        console.print(shown)


def show_groups(console: Console, fit: GroupedFit) -> None:
    """Print a line for each group: the first ones, if there are many."""
    columns = fit.to_dict()
    names = [name.replace("log_likelihood", "log-likelihood") for name in columns]
    rows = [
        [_cell(column[i]) for column in columns.values()] for i in range(min(len(fit), _GROUPS))
    ]
    text = {names.index("group"), names.index("converged")}
    console.print(grid(names, rows, left=text))
    if len(fit) > _GROUPS:
        more = f"... and {len(fit) - _GROUPS} more; --json has all"
        console.print(more, highlight=False, markup=False)
    dropped = f"; dropped {fit.dropped} rows with missing values" if fit.dropped else ""
    console.print(f"\n{fit}{dropped}", highlight=False, markup=False)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return tables.number(value, 7) if isinstance(value, float) else label(value)


def grid(
    headings: list[str],
    rows: list[list[str]],
    widths: list[int] | None = None,
    *,
    narrowest: int = 12,
    left: Collection[int] = (0,),
) -> Table:
    """Lay out a table whose numbers are never cut: if space is short, the first column and the
    headings fold.
    """
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 0), header_style="")
    for j, name in enumerate(headings):
        lines = [line for row in rows for line in row[j].split("\n")]
        width = widths[j] if widths else max(map(len, lines))
        shown.add_column(
            Text(name),
            justify="left" if j in left else "right",
            min_width=min(width, narrowest) if j == 0 else width,
            overflow="fold",
        )
    for row in rows:
        shown.add_row(*map(Text, row))
    return shown


class Stages:
    """A progress line for work that takes more than a second; silent without a terminal."""

    def __init__(self, console: Console) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
        )
        self._bar = Progress(*columns, console=console, transient=True)
        self._task = self._bar.add_task("", total=None)
        self._timer = Timer(_DELAY, self._bar.start)
        self._timer.daemon = True
        self._visible = console.is_terminal
        self._stage = ""

    def __enter__(self) -> Stages:
        if self._visible:
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._bar.live.is_started:  # or it would write an empty line
            self._bar.stop()

    def say(self, stage: str) -> None:
        """Name the current stage."""
        self._stage = stage
        self._bar.update(self._task, description=stage)

    def rows(self, count: int) -> None:
        """Report how many rows the current pass has read."""
        self._bar.update(self._task, description=f"{self._stage}; {count:,} rows")

    def step(self, step: int, log_likelihood: float, decrement: float) -> None:
        """Report a step of the solver; passed as its `progress`."""
        self.say(
            f"Newton step {step}: log-likelihood {log_likelihood:.6f}, expected gain "
            f"{decrement:.1e}"
        )
