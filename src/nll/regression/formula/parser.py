"""Formulas: read, checked before anything in them is evaluated, and turned into the columns of a
table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Any

import numpy as np
import pandas as pd
from formulaic import Formula, SimpleFormula, StructuredFormula
from formulaic.materializers import PandasMaterializer
from formulaic.parser import DefaultFormulaParser, DefaultOperatorResolver
from formulaic.parser.algos.tokenize import tokenize
from formulaic.parser.types import Factor, Operator, OrderedSet, Term, Token
from formulaic.utils.variables import Variable
from interface_meta import override

from nll.regression.formula.expression import expression
from nll.regression.formula.names import (
    FormulaError,
    aliased,
    name_of,
    quoted,
    short,
    unaliased,
)

_MOST_TERMS = 10_000
_NUMBER = re.compile(r"[\d.]+")

Parsed = StructuredFormula  # a formula with a left and a right side, as `parse` returns it


class _Operators(DefaultOperatorResolver):
    """formulaic's operators; those that multiply terms stop before these fill the memory."""

    @property
    def operators(self) -> list[Operator]:
        operators = super().operators
        for one in operators:
            if one.symbol in ("**", "^"):
                one._to_terms = _power
            elif one.symbol in ("*", ":"):
                one._to_terms = _limited(one._to_terms)
        return operators


def _limited(to_terms: Any) -> Any:
    def terms(left: Any, right: Any) -> Any:
        if len(left) * len(right) > 10 * _MOST_TERMS:
            raise FormulaError(
                f"expected at most {_MOST_TERMS} terms, got a product of {len(left)} "
                f"and {len(right)}"
            )
        product = to_terms(left, right)
        if len(product) > _MOST_TERMS:
            raise FormulaError(f"expected at most {_MOST_TERMS} terms, got {len(product)}")
        return product

    return terms


@_limited
def _multiplied(left: Any, right: Any) -> Any:
    return OrderedSet(x * y for x in left for y in right)


def _power(terms: Any, power: Any) -> Any:
    """All products of so many terms; further ones are the same as soon as one product adds none."""
    exponent = str(next(iter(power)))
    if not exponent.isdecimal() or int(exponent) < 1:
        raise FormulaError(
            f"expected a whole number of at least 1 after **, got {exponent}; I(a**b) is a power "
            f"of values"
        )
    products = terms
    for _ in range(int(exponent) - 1):
        more = _multiplied(products, terms)
        if set(more) == set(products):
            break
        products = more
    return products


_PARSER = DefaultFormulaParser(operator_resolver=_Operators())


@lru_cache(maxsize=64)
def parse(formula: str) -> Parsed:
    """Read a formula such as "y ~ a + b:c", once; ValueError says what is wrong with it."""
    parsed = read(formula)
    sides = parsed if isinstance(parsed, StructuredFormula) else None
    if sides is None or not hasattr(sides, "lhs") or len(sides.lhs) != 1:
        raise ValueError(f"expected a formula with one response, like 'y ~ a + b', got {formula!r}")
    if not isinstance(sides.rhs, SimpleFormula):
        raise ValueError(
            f"expected a formula with one set of columns, like 'y ~ a + b', got {formula!r}"
        )
    if len(sides.rhs) == 0:
        raise ValueError(f"expected at least one column or an intercept, got {formula!r}")
    return sides


def read(formula: str) -> Any:
    """Return formulaic's formula, of one side or two; what it computes is checked before anything
    else is done with it.
    """
    try:
        text = aliased(formula)
        for token in tokenize(text):
            if token.kind is Token.Kind.PYTHON:
                expression(unaliased(token.token))
            if token.token == ".":
                raise ValueError(
                    "'.', which stands for the other columns of a table, where no table is known"
                )
        parsed = Formula.from_spec(text, parser=_PARSER)
    except FormulaError:
        raise
    except Exception as error:  # formulaic's parser can fail in any way
        raise ValueError(
            f"expected a formula like 'y ~ a + b', got {short(formula, 200)}: "
            f"{unaliased(_first_line(error))}"
        ) from None
    if isinstance(parsed, SimpleFormula):
        return _named(parsed)
    sides: Any = parsed._to_dict()
    if not all(isinstance(side, SimpleFormula) for side in sides.values()):
        return parsed
    return StructuredFormula(**{key: _named(side) for key, side in sides.items()})


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _named(side: SimpleFormula) -> Any:
    terms: Any = [Term([_factor(factor) for factor in term.factors]) for term in side]
    factors = factors_of(terms)
    names = {factor.expr for factor in factors if factor.eval_method is Factor.EvalMethod.LOOKUP}
    for factor in factors:
        if factor.eval_method is Factor.EvalMethod.PYTHON and factor.expr in names:
            raise ValueError(
                f"expected terms of different names, got the column {factor.expr!r} "
                f"and a term like it"
            )
    return SimpleFormula(list(dict.fromkeys(terms)), _ordering="none")


def _factor(factor: Factor) -> Factor:
    if factor.eval_method is Factor.EvalMethod.LOOKUP:
        return _lookup(name_of(factor.expr))
    if factor.eval_method is Factor.EvalMethod.LITERAL:
        return factor
    computed = expression(unaliased(factor.expr))
    if computed.column is not None:
        return _lookup(computed.column)
    return Factor(computed.text, eval_method="python")


def _lookup(name: str) -> Factor:
    """A column; formulaic takes one whose name is a number for that number but for backticks."""
    return Factor(f"`{name}`" if _NUMBER.fullmatch(name) else name, eval_method="lookup")


def columns_of(factor: Factor) -> list[str]:
    if factor.eval_method is Factor.EvalMethod.PYTHON:
        return list(expression(factor.expr).columns)
    if factor.eval_method is Factor.EvalMethod.LITERAL:
        return []
    name = factor.expr.strip("`")
    return [name if _NUMBER.fullmatch(name) else factor.expr]


def factors_of(side: Iterable[Any]) -> list[Factor]:
    return list(dict.fromkeys(factor for term in side for factor in term.factors))


def columns_in(side: Iterable[Any]) -> list[str]:
    """Return the names of the columns that a side of a formula reads, sorted."""
    return sorted({name for factor in factors_of(side) for name in columns_of(factor)})


def variables(formula: Parsed) -> list[str]:
    return columns_in([*formula.lhs, *formula.rhs])


def computed(side: Iterable[Any]) -> list[Any]:
    factors = factors_of(side)
    return [expression(one.expr) for one in factors if one.eval_method is Factor.EvalMethod.PYTHON]


def as_categories(side: Iterable[Any]) -> set[str]:
    return {name for one in computed(side) for name in one.categories}


def response_of(formula: Parsed) -> str:
    factors = next(iter(formula.lhs)).factors
    if len(factors) == 1 and factors[0].eval_method is Factor.EvalMethod.LOOKUP:
        return columns_of(factors[0])[0]
    return ":".join(factor.expr for factor in factors)


def plain_columns(formula: Parsed) -> list[str] | None:
    """Return the columns of a formula whose right side is a sum of them, the constant aside."""
    terms = [term.factors for term in formula.rhs if str(term) != "1"]
    if all(len(one) == 1 and columns_of(one[0]) == [one[0].expr] for one in terms):
        return [one[0].expr for one in terms]
    return None


def has_dot(formula: str) -> bool:
    try:
        return any(token.token == "." for token in tokenize(aliased(formula)))
    except Exception:  # `read` says what is wrong with it
        return False


def spelled_out(formula: str, columns: Sequence[str], others: Iterable[str | None] = ()) -> str:
    """Return the formula with its `.` replaced by the other columns.

    Args:
        formula: such as "y ~ . - a".
        columns: all those of the table.
        others: columns that are neither the response nor its causes, such as weights.
    """
    text = aliased(formula)
    tokens = list(tokenize(text))
    dots = [token.source_start or 0 for token in tokens if token.token == "."]
    if not dots:
        return formula
    used = set(others)
    for token in takewhile(lambda token: token.token != "~", tokens):
        if token.kind is Token.Kind.NAME:
            used.add(name_of(token.token))
        elif token.kind is Token.Kind.PYTHON:
            used |= expression(unaliased(token.token)).columns.keys()
    left = " + ".join(quoted(name) for name in columns if name not in used)
    if not left:
        raise ValueError(
            f"expected other columns than the response for the '.' in {formula!r}, got none"
        )
    for start in reversed(dots):
        text = f"{text[:start]}({left}){text[start + 1 :]}"
    return unaliased(text)


class _Columns(PandasMaterializer):
    """formulaic's builder of columns, which evaluates nothing but the allow-list."""

    REGISTER_NAME = None
    # values of factors to take instead of those of the table
    replaced: Mapping[str, Any] = {}

    @override
    def _lookup(self, name: str) -> tuple[Any, set[Variable]]:
        column = self.replaced.get(name)
        if column is None:
            column = self.data[columns_of(Factor(name))[0]]
        # Products of whole numbers would overflow without a word.
        column = column.astype(np.float64) if column.dtype.kind in "iuf" else column
        return column, {Variable(name, roles={Variable.Role.VALUE})}

    @override
    def _evaluate(self, expr: str, metadata: Any, spec: Any) -> tuple[Any, set[Variable]]:
        one = expression(expr)
        used = {Variable(name, roles={Variable.Role.VALUE}) for name in one.columns}
        value = self.replaced.get(expr)
        return one(self.data, spec.transform_state) if value is None else value, used


def matrices(table: pd.DataFrame, spec: Any, replaced: Mapping[str, Any] | None = None) -> Any:
    """Return formulaic's matrices of a formula or a `ModelSpec`.

    Args:
        table: the data.
        spec: the formula.
        replaced: values of factors, to be taken instead of those that the table gives.

    Raises: ValueError for a table that cannot fill it, or two columns that would have one name.
    """
    try:
        with np.errstate(all="ignore"):  # what is not finite is named later
            columns = _Columns(table)
            columns.replaced = replaced or {}
            built = columns.get_model_matrix(spec, na_action="ignore")
    except Exception as error:  # a transform can fail in any way
        cause = error.__cause__ or error
        explained = isinstance(cause, FormulaError)
        introduction = "" if explained else "expected a table that the formula can take, got "
        raise ValueError(introduction + _first_line(cause)) from None
    sides: Any = built._flatten() if hasattr(built, "_flatten") else [built]
    for side in sides:
        names = list(side.model_spec.column_names)
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"expected terms of different names, got {twice!r} twice")
    return built
