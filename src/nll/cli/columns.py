"""Columns of a table as the data of a fit, at their own rows: errors then name the table's rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nll.data.observations import Censored, censored
from nll.regression.formula import design as designs

if TYPE_CHECKING:
    import pandas as pd


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
