"""Average marginal effects of the variables of a formula, through all terms that contain them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from formulaic.materializers.types import FactorValues
from formulaic.parser.types import Factor
from torch import Tensor

from nll.data.prefetch import blocks
from nll.regression.after.margins import Effects, Margins, Response
from nll.regression.formula.design import numbers, with_columns
from nll.regression.formula.expression import expression
from nll.regression.formula.parser import columns_of
from nll.regression.formula.terms import Terms

# complete rows, a block after the other, with their weights (n)
Rows = Callable[[], Iterable[tuple[pd.DataFrame, Tensor]]]


class Change(NamedTuple):
    """An effect: of a level relative to the reference, or a derivative (no levels)."""

    name: str
    part: str  # the column, or the computed factor of the formula
    high: Any = None
    low: Any = None


def formula_margins(
    rows: Rows,
    terms: Terms,
    response: Response,
    coef: Tensor,
    covariance: Tensor,
    classes: tuple[str, ...],
    baseline: int | None = None,
) -> Margins:
    """Return the average effect of each variable of a formula.

    Args:
        rows: gives the table, in blocks; it is read twice.
        terms: the right side of the formula as it was fitted.
        response: means of the linear predictors, with their derivatives.
        coef: (K, p) coefficients, zeros for the baseline.
        covariance: of the coefficients but the baseline's.
        classes: (K) their names.
        baseline: the class without coefficients.

    Numbers move by a derivative, at a knot to the right; columns of 0 and 1 change from 0 to 1, and
    categories from the reference to each other level. A computed condition, such as I(a > 5),
    changes by itself: its derivative is 0.
    """
    changes = _changes(terms, rows)
    sums = Effects(response, coef, len(changes))
    for table, weights in rows():
        sums.weight += float(weights.sum())
        for block in blocks(len(table), 8 * coef.shape[1] + 2 * len(coef) ** 2):
            _add(sums, changes, terms, table.iloc[block], weights[block])
    effects, of_effects = sums.result(covariance, baseline)
    names = tuple(change.name for change in changes)
    discrete = tuple(change.name for change in changes if change.high is not None)
    return Margins(classes, names, effects, of_effects, discrete=discrete)


def _add(
    sums: Effects, changes: list[Change], terms: Terms, table: pd.DataFrame, weights: Tensor
) -> None:
    x = terms.design(table)
    for at, change in enumerate(changes):
        if change.high is None:
            slope = terms.slope(table, change.part)
            sums.moves(at, x, torch.zeros_like(x) if slope is None else slope, weights)
        else:
            high = _design_at(terms, table, change.part, change.high)
            low = _design_at(terms, table, change.part, change.low)
            sums.differs(at, high, low, weights)


def _design_at(terms: Terms, table: pd.DataFrame, part: str, level: Any) -> Tensor:
    """Return the columns of the rows with one value of a column, or of a computed factor, in all
    rows.
    """
    values: Any = pd.Series([level] * len(table), index=table.index)
    if part in terms.variables:
        return terms.design(with_columns(table, {part: values}))
    computed = expression(part)(table, terms.state)
    if hasattr(computed, "__formulaic_metadata__"):
        values = FactorValues(values, metadata=computed.__formulaic_metadata__)
    return terms.design(table, {part: values})


def _changes(terms: Terms, rows: Rows) -> list[Change]:
    changes = _of_categories(terms)
    switched = {change.part for change in changes}
    first = next(iter(rows()))[0]
    numeric = [name for name in terms.variables if name not in {*switched, *terms.categorical}]
    binary = set(numeric)
    for table, _ in rows():
        binary = {name for name in binary if _is_binary(numbers(table[name], name))}
    changes += [Change(name, name, 1.0, 0.0) for name in numeric if name in binary]
    changes += [
        Change(name, name)
        for name in numeric
        if name not in binary and terms.slope(first.iloc[:1], name) is not None
    ]
    changes += _of_conditions(terms, first, switched | binary)
    factors = terms.factors.items()
    order = [name for part, factor in factors for name in (*columns_of(factor), part)]
    return sorted(changes, key=lambda change: order.index(change.part))


def _is_binary(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0, 1)).all())


def _of_categories(terms: Terms) -> list[Change]:
    """Return the change from the reference to each other level of the columns with categories."""
    changes: dict[str, list[Change]] = {}
    for factor, levels in terms.categories.items():
        column = terms.variable_of(factor)
        if column is None or column in changes:
            continue
        # A level has the name of its column in the fit, if it has one, or else a similar name.
        names = {level: f"{factor}[T.{level}]" for level in levels}
        # a column of the fit is, or has as a factor, the column of a level
        fitted = {k for k in levels if any(f":{names[k]}:" in f":{c}:" for c in terms.columns)}
        absent = [level for level in levels if level not in fitted]
        reference = absent[0] if len(absent) == 1 else levels[0]
        changes[column] = [
            Change(
                names[level] if level in fitted else f"{column}[T.{level}]",
                column,
                level,
                reference,
            )
            for level in levels
            if level != reference
        ]
    return [change for of_column in changes.values() for change in of_column]


def _of_conditions(terms: Terms, table: pd.DataFrame, switched: set[str]) -> list[Change]:
    """Return the changes of computed factors that are true or false, or categories: their
    derivative with respect to a column is 0 but for jumps.
    """
    changes: list[Change] = []
    for name, factor in terms.factors.items():
        computed = factor.eval_method is Factor.EvalMethod.PYTHON
        if not computed or expression(name).columns.keys() <= switched:
            continue
        if name in terms.categories:
            reference, *others = terms.categories[name]
            changes += [Change(f"{name}[T.{one}]", name, one, reference) for one in others]
            continue
        value = expression(name)(table, terms.state)
        if isinstance(value, np.ndarray) and _is_binary(value):
            changes.append(Change(name, name, 1.0, 0.0))
    return changes


def _has(terms: Terms, name: str) -> bool:
    """Return whether a column of the fit is, or has as a factor, the column of a level."""
    return any(f":{name}:" in f":{column}:" for column in terms.columns)
