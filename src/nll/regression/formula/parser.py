"""Formulas: read, checked before anything in them is evaluated, and turned into the columns of a
table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from formulaic import Formula, SimpleFormula, StructuredFormula
from formulaic.materializers import PandasMaterializer
from formulaic.parser import DefaultFormulaParser, DefaultOperatorResolver
from formulaic.parser.algos.tokenize import tokenize
from formulaic.parser.types import Factor, Operator, OrderedSet, Term, Token
from formulaic.utils.variables import Variable
from interface_meta import override

from nll.regression.formula.expression import expression
from nll.regression.formula.names import aliased, name_of, quoted, tilde, unaliased

if TYPE_CHECKING:
    import pandas as pd

_MOST_TERMS = 10_000
_NUMBER = re.compile(r"[\d.]+")


class _Operators(DefaultOperatorResolver):
    """formulaic's; those that multiply terms stop before these fill the memory."""

    @property
    def operators(self) -> list[Operator]:
        """Those of formulas, in the order of formulaic."""
        every = super().operators
        for one in every:
            if one.symbol in ("**", "^"):
                one._to_terms = _power
            elif one.symbol in ("*", ":"):
                one._to_terms = _counted(one._to_terms)
        return every


def _counted(to_terms: Any) -> Any:
    def terms(left: Any, right: Any) -> Any:
        if len(left) * len(right) > 10 * _MOST_TERMS:
            raise ValueError(
                f"expected at most {_MOST_TERMS} terms, got a product of {len(left)} "
                f"and {len(right)}"
            )
        found = to_terms(left, right)
        if len(found) > _MOST_TERMS:
            raise ValueError(f"expected at most {_MOST_TERMS} terms, got {len(found)}")
        return found

    return terms


def _power(terms: Any, power: Any) -> Any:
    """All products of so many terms; further ones are the same as soon as one product adds none."""
    exponent = str(next(iter(power)))
    if not exponent.isdecimal() or int(exponent) < 1:
        raise ValueError(
            f"expected a whole number of at least 1 after **, got {exponent}; I(a**b) is a power "
            f"of values"
        )
    multiply, found = (
        _counted(lambda left, right: OrderedSet(x * y for x in left for y in right)),
        terms,
    )
    for _ in range(int(exponent) - 1):
        more = multiply(found, terms)
        if set(more) == set(found):
            break
        found = more
    return found


_PARSER = DefaultFormulaParser(operator_resolver=_Operators())


def parse(formula: str) -> StructuredFormula:
    """Read a formula such as "y ~ a + b:c"; ValueError says what is wrong with it."""
    parsed = read(formula)
    if (
        not isinstance(parsed, StructuredFormula)
        or not hasattr(parsed, "lhs")
        or len(parsed.lhs) != 1
    ):
        raise ValueError(f"expected a formula with one response, like 'y ~ a + b', got {formula!r}")
    if not isinstance(parsed.rhs, SimpleFormula):
        raise ValueError(
            f"expected a formula with one set of columns, like 'y ~ a + b', got {formula!r}"
        )
    if len(parsed.rhs) == 0:
        raise ValueError(f"expected at least one column or an intercept, got {formula!r}")
    return parsed


def read(formula: str) -> Any:
    """formulaic's formula, of one side or two; what it computes is checked before anything else is
    done with it.
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
    except Exception as error:  # formulaic's parser can fail in any way
        message = unaliased(
            str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        )
        if message.startswith("expected"):
            raise ValueError(message) from None
        raise ValueError(
            f"expected a formula like 'y ~ a + b', got {_short(formula)}: {message}"
        ) from None
    if isinstance(parsed, SimpleFormula):
        return _named(parsed)
    parts: Any = parsed._to_dict()
    if not all(isinstance(part, SimpleFormula) for part in parts.values()):
        return parsed
    return StructuredFormula(**{key: _named(part) for key, part in parts.items()})


def _named(part: SimpleFormula) -> Any:
    """The terms with the columns' names as the table has them."""
    terms: Any = [Term([_factor(factor) for factor in term.factors]) for term in part]
    factors = {factor for term in terms for factor in term.factors}
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
    """The names of the columns that a part of a formula reads."""
    if factor.eval_method is Factor.EvalMethod.PYTHON:
        return list(expression(factor.expr).columns)
    if factor.eval_method is Factor.EvalMethod.LITERAL:
        return []
    return [factor.expr.strip("`") if _NUMBER.fullmatch(factor.expr.strip("`")) else factor.expr]


def spelled_out(formula: str, columns: Sequence[str], others: Iterable[str | None] = ()) -> str:
    """The formula with its `.` replaced by the other columns.

    Args:
        formula: such as "y ~ . - a".
        columns: all those of the table.
        others: columns that are neither the response nor its causes, such as weights.
    """
    text = aliased(formula)
    tokens = list(tokenize(text))
    dots = [token for token in tokens if token.token == "."]
    if not dots:
        return formula
    response: set[str] = set()
    for token in tokens:
        if token.token == "~":
            break
        response |= {name_of(token.token)} if token.kind is Token.Kind.NAME else set()
        response |= (
            set(expression(unaliased(token.token)).columns)
            if token.kind is Token.Kind.PYTHON
            else set()
        )
    left = [quoted(name) for name in columns if name not in response and name not in set(others)]
    if not left:
        raise ValueError(
            f"expected other columns than the response for the '.' in {formula!r}, got none"
        )
    for token in reversed(dots):
        assert token.source_start is not None
        text = f"{text[: token.source_start]}({' + '.join(left)}){text[token.source_start + 1 :]}"
    return unaliased(text)


def has_dot(formula: str) -> bool:
    """Whether a formula has a `.`, for the other columns of the table."""
    try:
        return any(token.token == "." for token in tokenize(aliased(formula)))
    except Exception:  # `read` says what is wrong with it
        return False


def right_side(formula: str) -> str:
    """What stands behind the ~."""
    return formula[tilde(formula) + 1 :].strip()


def response_of(formula: StructuredFormula) -> str:
    """The response: the name of its column, or what is computed."""
    factors = next(iter(formula.lhs)).factors
    lookup = len(factors) == 1 and factors[0].eval_method is Factor.EvalMethod.LOOKUP
    return columns_of(factors[0])[0] if lookup else ":".join(factor.expr for factor in factors)


def variables(formula: StructuredFormula) -> list[str]:
    """The names of the columns that a formula reads."""
    return sorted(
        {
            name
            for part in (formula.lhs, formula.rhs)
            for term in part
            for name in variables_of(term.factors)
        }
    )


def variables_of(factors: Iterable[Any]) -> list[str]:
    """The names of the columns that parts of a formula read."""
    return sorted({name for factor in factors for name in columns_of(factor)})


def plain_columns(formula: StructuredFormula) -> list[str] | None:
    """The columns of a formula whose right side is a sum of them, the constant aside; else None."""
    terms = [term.factors for term in formula.rhs if str(term) != "1"]
    plain = all(len(one) == 1 and columns_of(one[0]) == [one[0].expr] for one in terms)
    return [one[0].expr for one in terms] if plain else None


def computed(formula: Iterable[Any]) -> list[Any]:
    """The computed parts of a side of a formula, each once."""
    factors = dict.fromkeys(factor for term in formula for factor in term.factors)
    return [expression(one.expr) for one in factors if one.eval_method is Factor.EvalMethod.PYTHON]


def as_categories(formula: Iterable[Any]) -> set[str]:
    """The columns that stand in C() on a side of a formula."""
    return {name for one in computed(formula) for name in one.categories}


class _Columns(PandasMaterializer):
    """formulaic's builder of columns, which evaluates nothing but the allow-list."""

    REGISTER_NAME = None
    # values of parts of the formula to take instead of those of the table
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
    """formulaic's matrices of a formula or a `ModelSpec`.

    Args:
        table: the data.
        spec: the formula.
        replaced: values of parts of the formula, to be taken instead of those that the table gives.

    Raises: ValueError for a table that cannot fill it, or two columns that would have one name.
    """
    try:
        with np.errstate(all="ignore"):  # what is not finite is named later
            columns = _Columns(table)
            columns.replaced = replaced or {}
            built = columns.get_model_matrix(spec, na_action="ignore")
    except Exception as error:  # a transform can fail in any way
        message = str(error.__cause__ or error).strip().splitlines()[0]
        wanted = (
            ""
            if message.startswith("expected")
            else ("expected a table that the formula can take, got ")
        )
        raise ValueError(wanted + message) from None
    parts: Any = built._flatten() if hasattr(built, "_flatten") else [built]
    for part in parts:
        names = list(part.model_spec.column_names)
        twice = (
            next((name for name in names if names.count(name) > 1), None)
            if len(set(names)) < len(names)
            else None
        )
        if twice is not None:
            raise ValueError(f"expected terms of different names, got {twice!r} twice")
    return built


def _short(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:197]}...")
