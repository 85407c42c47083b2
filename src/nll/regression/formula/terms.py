"""The terms of a fitted formula, kept to build the same columns from other tables."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from formulaic import ModelSpec, SimpleFormula
from formulaic.errors import DataMismatchWarning
from formulaic.parser.types import Factor
from torch import Tensor

from nll.regression.design_matrix import INTERCEPT
from nll.regression.formula.design import numbers, require_columns, with_columns
from nll.regression.formula.expression import expression
from nll.regression.formula.parser import (
    as_categories,
    columns_of,
    computed,
    matrices,
    read,
    right_side,
    variables_of,
)
from nll.regression.formula.slopes import zeros_like

if TYPE_CHECKING:
    import pandas as pd

Kept = dict[str, Any]


@dataclass(frozen=True)
class Terms:
    """What a formula's columns depend on besides the rows: categories, and the state of transforms
    such as center().
    """

    formula: str  # its right side
    columns: tuple[str, ...]  # as the coefficients have them, the constant's first
    categories: dict[str, list[Any]]  # of each of its parts that has some
    state: Kept  # of each transform

    @classmethod
    def of(cls, spec: Any, formula: str) -> Terms:
        """Those of formulaic's specification of the columns that a formula, such as "y ~ a + b",
        gave.

        Raises: ValueError for a state that is not of numbers and texts.
        """
        states = {
            name: state
            for name, (kind, state) in spec.encoder_state.items()
            if kind is Factor.Kind.CATEGORICAL
        }
        categories = {
            name: _plain(state["categories"])
            for name, state in states.items()
            if "categories" in state
        }
        columns: tuple[str, ...] = tuple(map(str, spec.column_names))
        return cls(right_side(formula), columns, categories, _plain(spec.transform_state))

    @property
    def variables(self) -> list[str]:
        """The columns of a table that are read."""
        return variables_of(factor for term in self.parsed for factor in term.factors)

    @cached_property
    def parsed(self) -> SimpleFormula:
        """formulaic's formula; ValueError for one that is more than a sum of terms, or computes
        what is not allowed.
        """
        parsed = read(self.formula)
        if not isinstance(parsed, SimpleFormula):
            raise ValueError(
                f"expected the right side of a formula, like 'a + b', got {self.formula!r}"
            )
        return parsed

    @property
    def intercept(self) -> bool:
        """Whether the first column is the constant."""
        return INTERCEPT in self.columns

    def design(self, table: pd.DataFrame, replaced: Mapping[str, Any] | None = None) -> Tensor:
        """The columns (n, p) float64 of rows without missing values, in the order of the
        coefficients.

        Args:
            table: the rows.
            replaced: values of parts of the formula, to be taken instead of those that the table
                gives.

        Raises: ValueError for a category that the fit has not seen, a text among numbers, or what
            is not finite.
        """
        table = self._counted(table)
        for factor, known in self.categories.items():
            self._require_known(table, factor, known)
        values = self._built(table, replaced)
        wrong = np.argwhere(~np.isfinite(values))
        if len(wrong):
            row, column = wrong[0]
            raise ValueError(
                f"expected finite values in column {self.columns[column]!r}, got "
                f"{values[row, column]} "
                f"at row {table.index[row]}"
            )
        return torch.from_numpy(values)

    def slope(self, table: pd.DataFrame, column: str) -> Tensor | None:
        """The derivative (n, p) of the columns by a column of the table; None where they do not
        vary, or jump only.

        The product rule: the columns are linear in each part of the formula that holds the column.
        """
        table, total = self._counted(table), None
        for name, factor in self.factors.items():
            if factor.eval_method is Factor.EvalMethod.PYTHON:
                holds = column in expression(name).columns
                rate = expression(name).slope(table, self.state, column) if holds else None
            else:
                rate = (
                    np.ones(len(table))
                    if columns_of(factor) == [column] and name not in self.categories
                    else None
                )
            if rate is None:
                continue
            moved = self._built(table, {name: rate}) - self._built(table, {name: zeros_like(rate)})
            total = moved if total is None else total + moved
        return None if total is None else torch.from_numpy(total)

    def _counted(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with its columns of numbers as such."""
        require_columns(self.variables, [str(name) for name in table.columns])
        categorical = self.categorical
        counted = [name for name in self.variables if name not in categorical]
        return with_columns(table, {name: numbers(table[name], name) for name in counted})

    def _built(self, table: pd.DataFrame, replaced: Mapping[str, Any] | None) -> np.ndarray:
        states = {
            factor: (Factor.Kind.CATEGORICAL, {"categories": known})
            for factor, known in self.categories.items()
        }
        spec: Any = ModelSpec(formula=self.parsed, transform_state=self.state, encoder_state=states)
        with warnings.catch_warnings():
            warnings.simplefilter("error", DataMismatchWarning)
            built: pd.DataFrame = matrices(table, spec, replaced)
        if set(map(str, built.columns)) != set(self.columns):
            raise ValueError(
                f"expected a table that gives the columns {', '.join(self.columns)}, got "
                f"{', '.join(built.columns)}"
            )
        return np.array(built[list(self.columns)], dtype=np.float64)

    @property
    def factors(self) -> dict[str, Factor]:
        """The parts of its terms, by their names."""
        return {factor.expr: factor for term in self.parsed for factor in term.factors}

    @property
    def categorical(self) -> set[str]:
        """The columns of the table that are not of numbers alone."""
        factors = self.factors
        texts = {name for one in computed(self.parsed) for name in one.texts}
        return (
            set(variables_of(factors[name] for name in self.categories))
            | as_categories(self.parsed)
            | texts
        )

    def variable_of(self, factor: str) -> str | None:
        """The column whose categories a part of the formula has; None where these are computed."""
        part = self.factors[factor]
        computed = part.eval_method is Factor.EvalMethod.PYTHON
        return expression(factor).category if computed else columns_of(part)[0]

    def _require_known(self, table: pd.DataFrame, factor: str, known: list[Any]) -> None:
        """Name a category that the fit has not seen; those that are computed are left to
        formulaic.
        """
        variable = self.variable_of(factor)
        if variable not in self.variables:
            return
        values = table[variable].astype(object)
        wrong = ~values.isin(known)
        if wrong.any():
            seen = ", ".join(map(str, known[:10])) + (", ..." if len(known) > 10 else "")
            raise ValueError(
                f"expected a category of {variable!r} that the fit has seen ({seen}), got "
                f"{values[wrong].iloc[0]!r} "
                f"at row {values.index[wrong][0]}"
            )

    def to_dict(self) -> Kept:
        """Plain values, for JSON: keys that are numbers are marked."""
        columns, state = list(self.columns), _marked(self.state)
        return {
            "formula": self.formula,
            "columns": columns,
            "categories": self.categories,
            "state": state,
        }

    @classmethod
    def from_dict(cls, kept: Kept) -> Terms:
        """The inverse of `to_dict`; ValueError for what it has not written, KeyError for what
        lacks.
        """
        formula, columns, categories = kept["formula"], kept["columns"], kept["categories"]
        plain = (str, int, float, bool, type(None))
        if (
            not isinstance(formula, str)
            or not _all(columns, str)
            or not isinstance(categories, dict)
        ):
            raise ValueError("expected terms of a formula, columns and categories")
        if not all(_all(levels, plain) for levels in categories.values()):
            raise ValueError("expected categories that are texts and numbers")
        terms = cls(formula, tuple(columns), categories, _unmarked(kept["state"]))
        wanted = {name for one in computed(terms.parsed) for name in one.states}
        if (
            not isinstance(terms.state, dict)
            or not wanted <= terms.state.keys()
            or not terms.factors.keys() >= categories.keys()
        ):
            raise ValueError("expected the categories and the state of its formula's terms")
        return terms


def _all(values: Any, kind: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


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
    raise ValueError(
        f"expected terms of numbers and texts, got the {type(value).__name__} {value!r}"
    )


def _marked(value: Any) -> Any:
    """JSON has no keys but texts: a dict becomes a list of pairs."""
    if isinstance(value, dict):
        return {"pairs": [[key, _marked(item)] for key, item in value.items()]}
    return [_marked(item) for item in value] if isinstance(value, list) else value


def _unmarked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unmarked(item) for key, item in value["pairs"]}
    return [_unmarked(item) for item in value] if isinstance(value, list) else value
