"""The terms of a fitted formula, kept to build the same columns from other tables."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from formulaic import ModelSpec, SimpleFormula
from formulaic.errors import DataMismatchWarning
from formulaic.parser.types import Factor
from torch import Tensor

from nll.regression.design_matrix import INTERCEPT
from nll.regression.formula.design import (
    numbers,
    require_columns,
    require_finite,
    with_columns,
)
from nll.regression.formula.expression import expression
from nll.regression.formula.names import quoted, right_side
from nll.regression.formula.parser import (
    as_categories,
    columns_in,
    columns_of,
    computed,
    factors_of,
    matrices,
    read,
)
from nll.regression.formula.slopes import zeros_like


@dataclass(frozen=True)
class Terms:
    """What a formula's columns depend on besides the rows: categories, and the state of transforms
    such as center().
    """

    formula: str  # its right side
    columns: tuple[str, ...]  # as the coefficients have them, the constant's first
    categories: dict[str, list[Any]]  # of each factor that has some
    state: dict[str, Any]  # of each transform
    parsed: SimpleFormula = field(compare=False, repr=False)

    @classmethod
    def of(cls, spec: Any, formula: str) -> Terms:
        """Return the terms of the columns that a formula, such as "y ~ a + b", gave.

        Args:
            spec: formulaic's specification of them.
            formula: both sides.

        Raises: ValueError for a state that is not of numbers and texts.
        """
        categories = {
            name: _plain(state["categories"])
            for name, (kind, state) in spec.encoder_state.items()
            if kind is Factor.Kind.CATEGORICAL and "categories" in state
        }
        columns = tuple(map(str, spec.column_names))
        state = _plain(spec.transform_state)
        return cls(right_side(formula), columns, categories, state, spec.formula)

    @classmethod
    def of_columns(cls, names: list[str], intercept: bool) -> Terms:
        formula = " + ".join(["1" if intercept else "0", *map(quoted, names)])
        columns = (*([INTERCEPT] if intercept else []), *names)
        return cls(formula, columns, {}, {}, _right_side(formula))

    @property
    def variables(self) -> list[str]:
        return columns_in(self.parsed)

    @property
    def intercept(self) -> bool:
        return INTERCEPT in self.columns

    @property
    def factors(self) -> dict[str, Factor]:
        return {factor.expr: factor for factor in factors_of(self.parsed)}

    @property
    def categorical(self) -> set[str]:
        factors = self.factors
        texts = {name for one in computed(self.parsed) for name in one.texts}
        of_factors = {name for one in self.categories for name in columns_of(factors[one])}
        return of_factors | as_categories(self.parsed) | texts

    def design(self, table: pd.DataFrame, replaced: Mapping[str, Any] | None = None) -> Tensor:
        """Return the columns (n, p) float64 of rows without missing values, in the order of the
        coefficients.

        Args:
            table: the rows.
            replaced: values of factors, to be taken instead of those that the table gives.

        Raises: ValueError for a category that the fit has not seen, a text among numbers, or what
            is not finite.
        """
        table = self._with_numbers(table)
        for factor, levels in self.categories.items():
            self._require_seen(table, factor, levels)
        values = self._built(table, replaced)
        for name, column in zip(self.columns, values.T, strict=True):
            require_finite(column, name, table.index)
        return torch.from_numpy(values)

    def slope(self, table: pd.DataFrame, column: str) -> Tensor | None:
        """Return the derivative (n, p) of the columns with respect to a column of the table; None
        where they do not vary, or jump only.

        The product rule: the columns are linear in each factor that holds the column.
        """
        table, total = self._with_numbers(table), None
        for name, factor in self.factors.items():
            if column not in columns_of(factor) or name in self.categories:
                continue
            rate: Any = np.ones(len(table))
            if factor.eval_method is Factor.EvalMethod.PYTHON:
                rate = expression(name).slope(table, self.state, column)
            if rate is not None:
                moved = self._built(table, {name: rate})
                moved = moved - self._built(table, {name: zeros_like(rate)})
                total = moved if total is None else total + moved
        return None if total is None else torch.from_numpy(total)

    def _with_numbers(self, table: pd.DataFrame) -> pd.DataFrame:
        require_columns(self.variables, [str(name) for name in table.columns])
        categorical = self.categorical
        numeric = [name for name in self.variables if name not in categorical]
        return with_columns(table, {name: numbers(table[name], name) for name in numeric})

    def _built(self, table: pd.DataFrame, replaced: Mapping[str, Any] | None) -> np.ndarray:
        states = {
            factor: (Factor.Kind.CATEGORICAL, {"categories": levels})
            for factor, levels in self.categories.items()
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

    def variable_of(self, factor: str) -> str | None:
        """Return the column whose categories a factor has; None where these are computed."""
        one = self.factors[factor]
        if one.eval_method is Factor.EvalMethod.PYTHON:
            return expression(factor).category
        return columns_of(one)[0]

    def _require_seen(self, table: pd.DataFrame, factor: str, levels: list[Any]) -> None:
        """Name a category that the fit has not seen; formulaic finds those that are computed."""
        variable = self.variable_of(factor)
        if variable not in self.variables:
            return
        values = table[variable].astype(object)
        wrong = values[~values.isin(levels)]
        if len(wrong):
            seen = ", ".join(map(str, levels[:10])) + (", ..." if len(levels) > 10 else "")
            raise ValueError(
                f"expected a category of {variable!r} that the fit has seen ({seen}), got "
                f"{wrong.iloc[0]!r} at row {wrong.index[0]}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON: keys that are numbers are marked."""
        return {
            "formula": self.formula,
            "columns": list(self.columns),
            "categories": self.categories,
            "state": _marked(self.state),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Terms:
        """Return the terms that `to_dict` has written; ValueError for other values, KeyError for
        missing ones.
        """
        formula, columns, categories = values["formula"], values["columns"], values["categories"]
        if not (isinstance(formula, str) and isinstance(categories, dict) and _all(columns, str)):
            raise ValueError("expected terms of a formula, columns and categories")
        plain = (str, int, float, bool, type(None))
        if not all(_all(levels, plain) for levels in categories.values()):
            raise ValueError("expected categories that are texts and numbers")
        parsed = _right_side(formula)
        terms = cls(formula, tuple(columns), categories, _unmarked(values["state"]), parsed)
        states = {name for one in computed(parsed) for name in one.states}
        whole = isinstance(terms.state, dict) and states <= terms.state.keys()
        if not (whole and categories.keys() <= terms.factors.keys()):
            raise ValueError("expected the categories and the state of its formula's terms")
        return terms


def _right_side(formula: str) -> SimpleFormula:
    parsed = read(formula)
    if not isinstance(parsed, SimpleFormula):
        raise ValueError(f"expected the right side of a formula, like 'a + b', got {formula!r}")
    return parsed


def _all(values: Any, kind: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _plain(value: Any) -> Any:
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
