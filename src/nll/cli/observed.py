"""One column of a table as the data of a distribution."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nll.cli.tables import name_of, read_table
from nll.data.csv_dialect import Dialect
from nll.data.observations import Censored, censored
from nll.regression.formula import design as designs

if TYPE_CHECKING:
    import pandas as pd


class Source(NamedTuple):
    """A file, a folder or the standard input."""

    path: Path
    dialect: Dialect

    @property
    def name(self) -> str:
        """The name for titles."""
        return name_of(self.path)


class Observed(NamedTuple):
    """The values in their places in the table, so that errors name its rows."""

    table: pd.DataFrame
    data: Any  # (n) numbers, categories or censored values; missing in incomplete rows
    complete: np.ndarray  # the values of the complete rows
    weights: np.ndarray  # (n), 0 for incomplete rows
    dropped: int


def read_observed(
    source: Source,
    column: str,
    *,
    weights: str | None,
    censored_right: str | None,
    event: str | None,
    missing: str,
    by: str | None = None,
    categories: bool = False,
) -> Observed:
    """Read a column with its frequencies and its marks of censored rows."""
    names = dict.fromkeys([column, weights, censored_right, event, by])
    wanted = [name for name in names if name is not None]
    table = read_table(source.path, wanted, source.dialect)
    designs.require_columns(wanted, [str(name) for name in table.columns])
    frame, dropped = designs.complete_rows(table, wanted, missing)
    if categories:
        data: Any = np.full(len(table), None, dtype=object)
        data[frame.index] = frame[column].astype(object)
    else:
        data = in_place(frame, column, len(table))
    complete = data[frame.index]
    frequencies = np.zeros(len(table))
    counted = 1.0 if weights is None else designs.numbers(frame[weights], weights)
    frequencies[frame.index] = counted
    if censored_right is not None or event is not None:
        data = right_censored(frame, data, censored_right, event)
    return Observed(table, data, complete, frequencies, dropped)


def in_place(complete: pd.DataFrame, column: str, rows: int) -> np.ndarray:
    """Return a column of numbers, NaN in the rows that are not complete."""
    data = np.full(rows, np.nan)
    data[complete.index] = designs.numbers(complete[column], column)
    return data


def right_censored(
    complete: pd.DataFrame, data: np.ndarray, censored_right: str | None, event: str | None
) -> Censored:
    """Return right-censored values: those with 1 in `censored_right`, or with 0 in `event`.

    Raises: ValueError for both columns, or another mark.
    """
    if censored_right is not None and event is not None:
        raise ValueError("expected either --censored-right or --event, got both")
    column = censored_right if event is None else event
    assert column is not None
    marks = in_place(complete, column, len(data))
    wrong = complete.index[~np.isin(marks[complete.index], (0.0, 1.0))]
    if len(wrong):
        got = f"{marks[wrong[0]]:g} at row {wrong[0]}"
        raise ValueError(f"expected 0 or 1 in column {column!r}, got {got}")
    return censored(data, right=marks == (1.0 if event is None else 0.0))
