"""From a table and a formula to the response and the columns of a regression, with an error for
what cannot be.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nll.data.arrays import MissingValuesError
from nll.data.weights import frequencies
from nll.regression.design_matrix import INTERCEPT, Columns
from nll.regression.formula.parser import (
    Parsed,
    as_categories,
    matrices,
    parse,
    response_of,
    variables,
)

__all__ = [
    "Design",
    "Parsed",
    "complete_rows",
    "design",
    "numbers",
    "parse",
    "require_columns",
    "variables",
    "with_columns",
]

# So many texts without one that comes twice are names or dates, not categories.
_ALL_DIFFERENT = 20


@dataclass(frozen=True)
class Design:
    """The response and the columns of the rows that are complete."""

    response: str
    y: pd.Series
    x: pd.DataFrame  # without the intercept
    intercept: bool
    weights: Tensor  # (n), frequencies above 0
    rows: Tensor  # (n), the number of each row in the user's table
    dropped: int  # rows with missing values that were left out
    spec: Any  # formulaic's, of the columns, for other tables
    table: pd.DataFrame  # the columns of the table that are read

    def columns(self) -> Columns:
        x = torch.from_numpy(np.array(self.x, dtype=np.float64))
        return Columns.of(x, [str(name) for name in self.x.columns], self.intercept)


def design(
    table: pd.DataFrame,
    formula: Parsed,
    *,
    weights: str | None = None,
    missing: str = "raise",
) -> Design:
    """Build the response and the columns of a regression.

    Args:
        table: the data.
        formula: as `parse` returns it. Text columns become categories.
        weights: the column of frequencies.
        missing: "raise", or "drop" to leave out rows with a missing value in a column that is used.

    Raises: ValueError for an unknown column, missing values (counted by column), a text in a column
    of numbers, an infinite value, or a column of one category.
    """
    used: list[str] = list(dict.fromkeys(variables(formula) + ([weights] if weights else [])))
    if INTERCEPT in used:
        raise ValueError(
            f"expected columns with names other than {INTERCEPT!r}, which is the constant's, got "
            f"{INTERCEPT!r}"
        )
    require_columns(used, [str(name) for name in table.columns])
    table, dropped = complete_rows(table, used, missing)
    often = None if weights is None else numbers(table[weights], weights)
    counts = frequencies(often, len(table), table.index.tolist())
    table = table.loc[(counts > 0).numpy(), used]
    table = with_columns(table, {name: _plain(table[name]) for name in used})
    response = response_of(formula)
    _require_usable(table, formula, response)
    # Times are classes, which no formula computes.
    times = response in used and table[response].dtype.kind in "mM"
    built = matrices(with_columns(table, {response: 0.0}) if times else table, formula)
    for side in (built.lhs, built.rhs):
        for name in side.columns:
            require_finite(side[name], name, table.index)
    return Design(
        response=response,
        y=_response(table, response, built.lhs),
        x=built.rhs.drop(columns=INTERCEPT, errors="ignore"),
        intercept=INTERCEPT in built.rhs.columns,
        weights=counts[counts > 0],
        rows=torch.from_numpy(np.array(table.index)),
        dropped=dropped,
        spec=built.rhs.model_spec,
        table=table,
    )


def require_columns(wanted: list[str], present: list[str]) -> None:
    """Raise ValueError for the first column that the table lacks, with names that are similar."""
    for name in wanted:
        if name not in present:
            similar = difflib.get_close_matches(name, present, n=3)
            hint = f"; did you mean {' or '.join(similar)}?"
            if not similar:
                hint = f"; the table has {', '.join(present)}"
            raise ValueError(f"expected a column of the table, got {name!r}{hint}")


def with_columns(table: Any, columns: dict[str, Any]) -> pd.DataFrame:
    """Return the table with some columns replaced, whatever their names; `assign` takes no column
    named self.
    """
    table = table.copy(deep=False)
    for name, values in columns.items():
        table[name] = values
    return table


def complete_rows(table: pd.DataFrame, used: list[str], missing: str) -> tuple[pd.DataFrame, int]:
    """Return the rows in which every used column has a value, and the number of the others."""
    absent = table[used].isna()
    incomplete = absent.to_numpy().any(axis=1)
    count = int(incomplete.sum())
    if count and missing != "drop":
        by_column = ", ".join(f"{name}: {n}" for name, n in absent.sum().items() if n)
        rows = "row" if count == 1 else "rows"
        raise MissingValuesError(f"{count} incomplete {rows} ({by_column})")
    if count == len(table):
        raise ValueError("expected at least one complete row, got none")
    return table.loc[~incomplete], count


def numbers(column: pd.Series, name: str) -> np.ndarray:
    """Return a column as float64; ValueError names the first row and value that is no number."""
    if column.dtype.kind in "mM":  # which NumPy would count from 1970
        got = f"{column.iloc[0]} at row {column.index[0]}" if len(column) else "none"
        raise ValueError(
            f"expected numbers in column {name!r}, got the times of a {column.dtype} column: {got}"
        )
    try:
        return column.to_numpy(dtype=np.float64)
    except (TypeError, ValueError):
        row = next(row for row, value in column.items() if not _is_number(value))
        raise ValueError(
            f"expected numbers in column {name!r}, got {column[row]!r} at row {row}"
        ) from None


def computed_response(table: pd.DataFrame, formula: Parsed) -> pd.Series:
    return _response(table, response_of(formula), matrices(table, formula).lhs)


def _response(table: pd.DataFrame, response: str, evaluated: Any) -> pd.Series:
    """Return a column as it stands, classes of any type included; or the values of an
    expression.
    """
    if response in table.columns:
        return table[response]
    if evaluated.shape[1] != 1:
        raise ValueError(f"expected a response of one column, got {', '.join(evaluated.columns)}")
    return evaluated.iloc[:, 0]


def _plain(column: pd.Series) -> pd.Series:
    """Return truth values and decimal numbers, which a table holds as objects, as what they are."""
    if column.dtype.kind != "O":
        return column
    if (
        column.map(lambda value: isinstance(value, (Decimal, int, float))).all()
        and not column.map(lambda value: value is True or value is False).all()
    ):
        column = column.astype(np.float64)
    return column.infer_objects()


def _require_usable(table: pd.DataFrame, formula: Parsed, response: str) -> None:
    categories = as_categories([*formula.lhs, *formula.rhs])
    for name in table.columns:
        column = table[name]
        numeric = column.dtype.kind in "iufb"
        if name != response and (name in categories or not numeric) and column.nunique() == 1:
            raise ValueError(f"expected columns that vary, got constant column {name!r}")
        if numeric:
            require_finite(column, name, table.index)
        elif name != response and name not in categories:
            _require_texts(column, name)


def _require_texts(column: pd.Series, name: str) -> None:
    is_number = [_is_number(value) for value in column]
    if any(is_number) or not all(isinstance(value, (str, bytes, bool)) for value in column):
        row = column.index[is_number.index(False)] if not all(is_number) else None
        got = "texts" if row is None else f"{column[row]!r} at row {row}"
        raise ValueError(
            f"expected numbers in column {name!r}, got {got}; C({name}) takes its "
            f"values as categories"
        )
    if column.nunique() == len(column) >= _ALL_DIFFERENT:
        raise ValueError(
            f"expected categories in column {name!r}, got another text in every row; C({name}) "
            f"takes them all the same"
        )


def require_finite(column: Any, name: str, rows: Any) -> None:
    values = np.asarray(column, dtype=np.float64)
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong):
        raise ValueError(
            f"expected finite values in column {name!r}, got {values[wrong[0]]} at row "
            f"{rows[wrong[0]]}"
        )


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
