"""The terms of a fitted formula, kept to build the same columns from other tables."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from formulaic import Formula, ModelSpec
from formulaic.errors import DataMismatchWarning, FormulaicError
from formulaic.parser.types import Factor
from torch import Tensor

from nll.regression.columns import INTERCEPT
from nll.regression.design import numbers, variables_of

if TYPE_CHECKING:
    import pandas as pd

Kept = dict[str, Any]


@dataclass(frozen=True)
class Terms:
    """What a formula's columns depend on besides the rows: categories, and the state of transforms such as center()."""

    formula: str  # its right side
    columns: tuple[str, ...]  # as the coefficients have them, the constant's first
    categories: dict[str, list[Any]]  # of each of its parts that has some
    state: Kept  # of each transform

    @classmethod
    def of(cls, spec: Any, formula: str) -> Terms:
        """Those of formulaic's specification of the columns that a formula, such as "y ~ a + b", gave.

        Raises: ValueError for a state that is not of numbers and texts.
        """
        states = {name: state for name, (kind, state) in spec.encoder_state.items() if kind is Factor.Kind.CATEGORICAL}
        categories = {name: _plain(state["categories"]) for name, state in states.items()}
        columns: tuple[str, ...] = tuple(map(str, spec.column_names))
        return cls(formula.partition("~")[2].strip(), columns, categories, _plain(spec.transform_state))

    @property
    def variables(self) -> list[str]:
        """The columns of a table that are read."""
        return _variables_of(self.formula)

    @property
    def intercept(self) -> bool:
        """Whether the first column is the constant."""
        return INTERCEPT in self.columns

    def design(self, table: pd.DataFrame) -> Tensor:
        """The columns (n, p) float64 of rows without missing values, in the order of the coefficients.

        Raises: ValueError for a category that the fit has not seen, a text among numbers, or what is not finite.
        """
        table = table.assign(**{name: numbers(table[name], name) for name in self.variables if self._counts(name)})
        for factor, known in self.categories.items():
            self._require_known(table, factor, known)
        states = {factor: (Factor.Kind.CATEGORICAL, {"categories": known}) for factor, known in self.categories.items()}
        formula: Any = _parsed(self.formula)
        spec: Any = ModelSpec(formula=formula, transform_state=self.state, encoder_state=states)
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):  # what is not finite is named below
                warnings.simplefilter("error", DataMismatchWarning)
                built: pd.DataFrame = spec.get_model_matrix(table, context={}, na_action="ignore")
        except Exception as error:  # the parts of a formula are Python, which can fail in any way
            raise ValueError(f"expected a table that the formula {self.formula!r} can take, got: {error}") from None
        if set(map(str, built.columns)) != set(self.columns):
            raise ValueError(
                f"expected a table that gives the columns {', '.join(self.columns)}, got {', '.join(built.columns)}"
            )
        values = np.array(built[list(self.columns)], dtype=np.float64)
        wrong = np.argwhere(~np.isfinite(values))
        if len(wrong):
            row, column = wrong[0]
            raise ValueError(
                f"expected finite values in column {self.columns[column]!r}, got {values[row, column]} "
                f"at row {table.index[row]}"
            )
        return torch.from_numpy(values)

    def _counts(self, variable: str) -> bool:
        """Whether a column of the table is of numbers alone."""
        return not any(variable in _variables_of(factor) for factor in self.categories)

    def _require_known(self, table: pd.DataFrame, factor: str, known: list[Any]) -> None:
        """Name a category that the fit has not seen; those that are computed are left to formulaic."""
        (variable, *others) = _variables_of(factor)
        if others or factor.replace("`", "").removeprefix("C(").partition(",")[0].rstrip(")").strip() != variable:
            return
        values = table[variable].astype(object)
        wrong = ~values.isin(known)
        if wrong.any():
            seen = ", ".join(map(str, known[:10])) + (", ..." if len(known) > 10 else "")
            raise ValueError(
                f"expected a category of {variable!r} that the fit has seen ({seen}), got {values[wrong].iloc[0]!r} "
                f"at row {values.index[wrong][0]}"
            )

    def to_dict(self) -> Kept:
        """Plain values, for JSON: keys that are numbers are marked."""
        columns, state = list(self.columns), _marked(self.state)
        return {"formula": self.formula, "columns": columns, "categories": self.categories, "state": state}

    @classmethod
    def from_dict(cls, kept: Kept) -> Terms:
        """The inverse of `to_dict`."""
        return cls(kept["formula"], tuple(kept["columns"]), kept["categories"], _unmarked(kept["state"]))


def _variables_of(formula: str) -> list[str]:
    try:
        factors = [factor for term in _parsed(formula) for factor in term.factors]
    except FormulaicError:  # a name that needs backticks, which formulaic has taken away
        return [formula]
    return variables_of(factors)


def _parsed(formula: str) -> Any:
    return Formula.from_spec(formula)


def _plain(value: Any) -> Any:
    """Numbers of NumPy and arrays as Python's own."""
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"expected terms of numbers and texts, got the {type(value).__name__} {value!r}")


def _marked(value: Any) -> Any:
    """JSON has no keys but texts: a dict becomes a list of pairs."""
    if isinstance(value, dict):
        return {"pairs": [[key, _marked(item)] for key, item in value.items()]}
    return [_marked(item) for item in value] if isinstance(value, list) else value


def _unmarked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unmarked(item) for key, item in value["pairs"]}
    return [_unmarked(item) for item in value] if isinstance(value, list) else value
