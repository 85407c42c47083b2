"""From a table and a formula to the response and the columns of a regression, with an error for
what cannot be.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from formulaic import StructuredFormula
from torch import Tensor

from nll.data.missing import MissingValuesError
from nll.data.observations import frequencies
from nll.regression.design_matrix import INTERCEPT, Columns
from nll.regression.formula.parser import as_categories, matrices, parse, response_of, variables

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "Design",
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
    rows: Tensor  # (n), the number of each row in the table as given
    dropped: int  # rows with missing values that were left out
    spec: Any  # formulaic's, of the columns, for other tables
    table: pd.DataFrame  # the columns of the table that are read

    def columns(self) -> Columns:
        """Return the columns standardised for a search."""
        given = torch.from_numpy(np.array(self.x, dtype=np.float64))
        return Columns.of(given, [str(name) for name in self.x.columns], self.intercept)


def require_columns(wanted: list[str], present: list[str]) -> None:
    """Raise ValueError for the first column that the table has not, with the names that come
    near.
    """
    for name in wanted:
        if name in present:
            continue
        near = difflib.get_close_matches(name, present, n=3)
        hint = (
            f"; near to it: {', '.join(near)}"
            if near
            else (f"; the table has {', '.join(present)}")
        )
        raise ValueError(f"expected a column of the table, got {name!r}{hint}")


def design(
    table: pd.DataFrame,
    formula: StructuredFormula,
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
    given = None if weights is None else numbers(table[weights], weights)
    counted = frequencies(given, len(table), table.index.tolist())
    table, counted = table.loc[(counted > 0).numpy()], counted[counted > 0]
    response = response_of(formula)
    table = with_columns(table[used], {name: _plain(table[name]) for name in used})
    categories = as_categories([*formula.lhs, *formula.rhs])
    for name in used:
        _require_usable(table, name, name == response, name in categories)
    # classes, which no formula computes
    times = response in used and table[response].dtype.kind in "mM"
    built = matrices(with_columns(table, {response: 0.0}) if times else table, formula)
    x = built.rhs
    for part in (built.lhs, x):
        for name in part.columns:
            _require_finite(part[name])
    intercept = INTERCEPT in x.columns
    return Design(
        response=response,
        y=_response(table, response, built.lhs),
        x=x.drop(columns=INTERCEPT) if intercept else x,
        intercept=intercept,
        weights=counted,
        rows=torch.from_numpy(np.array(table.index)),
        dropped=dropped,
        spec=x.model_spec,
        table=table,
    )


def spec_of(table: pd.DataFrame, formula: StructuredFormula) -> Any:
    """formulaic's specification of a formula's columns; ValueError where the table cannot fill
    it.
    """
    return matrices(table, formula).rhs.model_spec


def with_columns(table: Any, columns: dict[str, Any]) -> pd.DataFrame:
    """The table with some columns replaced, whatever their names; `assign` takes no column named
    self.
    """
    table = table.copy(deep=False)
    for name, values in columns.items():
        table[name] = values
    return table


def complete_rows(table: pd.DataFrame, used: list[str], missing: str) -> tuple[pd.DataFrame, int]:
    """Return the rows in which every used column has a value, and how many have not."""
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


def computed_response(table: pd.DataFrame, formula: StructuredFormula) -> pd.Series:
    """The values of a formula's left side."""
    return _response(table, response_of(formula), matrices(table, formula).lhs)


def _response(table: pd.DataFrame, response: str, evaluated: Any) -> pd.Series:
    """A column as it stands, classes of any type included; or the values of an expression."""
    if response in table.columns:
        return table[response]
    if evaluated.shape[1] != 1:
        raise ValueError(f"expected a response of one column, got {', '.join(evaluated.columns)}")
    return evaluated.iloc[:, 0]


def _plain(column: pd.Series) -> pd.Series:
    """Truth values and decimal numbers, which a table holds as objects, as the numbers that they
    are.
    """
    if column.dtype.kind != "O":
        return column
    if column.map(lambda value: isinstance(value, (Decimal, int, float))).all():
        column = (
            column.astype(np.float64)
            if not column.map(lambda value: value is True or value is False).all()
            else column
        )
    return column.infer_objects()


def _require_usable(table: pd.DataFrame, name: str, response: bool, categories: bool) -> None:
    column = table[name]
    if column.dtype.kind in "iufb":
        if categories and not response and column.nunique() == 1:
            raise ValueError(f"expected columns that vary, got constant column {name!r}")
        return _require_finite(column)
    if response:
        return
    if column.nunique() == 1:
        raise ValueError(f"expected columns that vary, got constant column {name!r}")
    if categories:
        return
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


def _require_finite(column: pd.Series) -> None:
    wrong = ~np.isfinite(column.to_numpy(dtype=np.float64))
    if wrong.any():
        row = column.index[wrong][0]
        raise ValueError(
            f"expected finite values in column {column.name!r}, got {column[row]} at row {row}"
        )


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
