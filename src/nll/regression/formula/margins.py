"""Average marginal effects of the variables of a formula, through all of its terms that hold
them.
"""

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

# complete rows, a part of them after the other: weights (n)
Rows = Callable[[], Iterable[tuple[pd.DataFrame, Tensor]]]


class Change(NamedTuple):
    """What is compared: a column's level with the reference, or how a column moves (no levels)."""

    name: str
    part: str  # the column, or the computed part of the formula
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
        rows: gives the table, in parts; it is read twice.
        terms: the right side of the formula as it was fitted.
        response: means of the linear scores, with their derivatives.
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
        for part in blocks(len(table), 8 * coef.shape[1] + 2 * len(coef) ** 2):
            _add(sums, changes, terms, table.iloc[part], weights[part])
    effects, of_effects = sums.result(covariance, baseline)
    discrete = tuple(change.name for change in changes if change.high is not None)
    return Margins(
        classes, tuple(change.name for change in changes), effects, of_effects, discrete=discrete
    )


def _add(
    sums: Effects, changes: list[Change], terms: Terms, table: pd.DataFrame, weights: Tensor
) -> None:
    x = terms.design(table)
    for at, change in enumerate(changes):
        if change.high is None:
            d = terms.slope(table, change.part)
            sums.moves(at, x, torch.zeros_like(x) if d is None else d, weights)
        else:
            high, low = (
                _design_at(terms, table, change.part, level) for level in (change.high, change.low)
            )
            sums.differs(at, high, low, weights)


def _design_at(terms: Terms, table: pd.DataFrame, part: str, level: Any) -> Tensor:
    """The columns of the rows with one value of a column, or of a computed part, in all of them."""
    values = pd.Series([level] * len(table), index=table.index)
    if part in terms.variables:
        return terms.design(with_columns(table, {part: values}))
    value = expression(part)(table, terms.state)
    metadata = getattr(value, "__formulaic_metadata__", None)
    return terms.design(
        table, {part: values if metadata is None else FactorValues(values, metadata=metadata)}
    )


def _changes(terms: Terms, rows: Rows) -> list[Change]:
    """Those of all variables, in the order of the formula."""
    changes, switched = _categories(terms)
    first = next(iter(rows()))[0]
    numeric = [name for name in terms.variables if name not in {*switched, *terms.categorical}]
    binary = set(numeric)
    for table, _ in rows():
        binary = {
            name for name in binary if bool(np.isin(numbers(table[name], name), (0.0, 1.0)).all())
        }
    for name in numeric:
        if name in binary:
            changes.append(Change(name, name, 1.0, 0.0))
        elif terms.slope(first.iloc[:1], name) is not None:
            changes.append(Change(name, name))
    changes += _conditions(terms, first, switched | binary)
    place: dict[str, int] = {}
    for part, factor in terms.factors.items():
        place |= {
            name: len(place) + at
            for at, name in enumerate((*columns_of(factor), part))
            if name not in place
        }
    return sorted(changes, key=lambda change: place[change.part])


def _categories(terms: Terms) -> tuple[list[Change], set[str]]:
    """Each level against the reference, and the columns whose levels these are."""
    changes: list[Change] = []
    switched: set[str] = set()
    for part, levels in terms.categories.items():
        column = terms.variable_of(part)
        if column is None or column in switched:
            continue
        switched.add(column)
        named = {level: _level_name(terms, part, column, level) for level in levels}
        absent = [level for level in levels if not _has(terms, f"{part}[T.{level}]")]
        reference = absent[0] if len(absent) == 1 else levels[0]
        changes += [
            Change(named[level], column, level, reference) for level in levels if level != reference
        ]
    return changes, switched


def _conditions(terms: Terms, table: pd.DataFrame, switched: set[str]) -> list[Change]:
    """Computed parts that are true or false, or categories: their derivative by a column is 0 but
    for jumps.
    """
    changes: list[Change] = []
    for part in terms.factors:
        if not _is_computed(terms, part) or expression(part).columns.keys() <= switched:
            continue
        if part in terms.categories:
            levels = terms.categories[part]
            changes += [
                Change(f"{part}[T.{level}]", part, level, levels[0]) for level in levels[1:]
            ]
            continue
        value = expression(part)(table, terms.state)
        if isinstance(value, np.ndarray) and bool(np.isin(value, (0, 1)).all()):
            changes.append(Change(part, part, 1.0, 0.0))
    return changes


def _is_computed(terms: Terms, part: str) -> bool:
    return terms.factors[part].eval_method is Factor.EvalMethod.PYTHON


def _level_name(terms: Terms, part: str, column: str, level: Any) -> str:
    """The level's column where it has one of its own, else the like."""
    return f"{part if _has(terms, f'{part}[T.{level}]') else column}[T.{level}]"


def _has(terms: Terms, name: str) -> bool:
    """Whether a column of the fit is, or has as a factor, the column of a level."""
    return any(f":{name}:" in f":{column}:" for column in terms.columns)
