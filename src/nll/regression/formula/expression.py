"""The computed parts of a formula, such as np.log(a + 1) or C(b): read and evaluated without
`eval`.

A formula may come from somebody else, in the file of a saved model. Columns, numbers, and what
`functions` lists are all that a part may hold; everything else is refused before any of it is
evaluated.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, MutableMapping
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from nll.regression.formula.functions import (
    CATEGORICAL,
    CONSTANTS,
    CONTRASTS,
    FUNCTIONS,
    HINTS,
    OPERATORS,
    Function,
    numbers_of,
    require_small,
    transformed,
)
from nll.regression.formula.names import FormulaError, aliased, name_of, short, unaliased
from nll.regression.formula.slopes import Dual, value_of

_DEEPEST = 100

State = MutableMapping[str, Any]
Value = Callable[[Any, State], Any]  # of (table, state of the transforms)


class Expression:
    """A computed part of a formula.

    Raises: FormulaError naming what is not allowed in it.
    """

    def __init__(self, text: str) -> None:
        self.columns: dict[str, None] = {}  # that it reads, in their order
        self.categories: set[str] = set()  # of these: those that stand in C()
        self.texts: set[str] = set()  # that are compared with texts
        self.states: list[str] = []  # the calls that keep something of the rows of the fit
        self.text = text
        try:
            tree = ast.parse(aliased(text), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            raise FormulaError(
                f"expected a whole expression of at most {_DEEPEST} levels, got {short(text)}"
            ) from None
        self._value = self._compiled(tree, _DEEPEST)
        self.text = _written(tree)
        # where it is nothing but one
        self.column = name_of(tree.id) if isinstance(tree, ast.Name) else None
        self.category: str | None = None  # the column of which it is the categories
        if isinstance(tree, ast.Call) and _dotted(tree.func) == "C":
            self.category = _dotted(_arguments(tree, FUNCTIONS["C"], "C")["data"])

    def __call__(self, table: pd.DataFrame, state: State) -> Any:
        """Return the values of the rows of a table.

        `state` is filled, or used where it has something of a transform.
        """
        value = self._value(table, state)
        if isinstance(value, (pd.Series, dict)) or hasattr(value, "__formulaic_metadata__"):
            return value
        values = np.asarray(value)
        values = np.full(len(table), values) if values.ndim == 0 else values
        return values if values.dtype.kind in "iufb" else pd.Series(values, index=table.index)

    def slope(self, table: pd.DataFrame, state: State, column: str) -> Any:
        """Return the derivative with respect to a column, in the form of the values; None where it
        has none, or is 0 but for jumps.
        """
        lifted = {name: table[name] for name in self.columns}
        lifted[column] = Dual(numbers_of(table[column]).astype(np.float64), np.ones(len(table)))
        value = self._value(lifted, state)
        return value.slope if isinstance(value, Dual) else None

    def _compiled(self, node: ast.AST, depth: int) -> Value:
        if depth <= 0:
            raise FormulaError(
                f"expected an expression of at most {_DEEPEST} levels, got {short(self.text)}"
            )
        match node:
            case ast.Constant(value=bool() | int() | float() | None as value):
                return lambda table, state: value
            case ast.Name() | ast.Attribute():
                return self._named(node)
            case ast.UnaryOp(op=op, operand=one) if type(op) in OPERATORS:
                return _combined(OPERATORS[type(op)], [self._compiled(one, depth - 1)])
            case ast.BinOp(op=op, left=left, right=right) if type(op) in OPERATORS:
                both = [self._compiled(one, depth - 1) for one in (left, right)]
                return _combined(OPERATORS[type(op)], both)
            case ast.Compare(ops=[op], left=left, comparators=[right]) if type(op) in OPERATORS:
                self._note_texts(left, right)
                both = [self._argument(one, depth - 1) for one in (left, right)]
                return _combined(OPERATORS[type(op)], both)
            case ast.Call():
                return self._called(node, depth)
        raise _refused(node)

    def _note_texts(self, *nodes: ast.AST) -> None:
        inner = [one for node in nodes for one in ast.walk(node)]
        if any(isinstance(one, ast.Constant) and isinstance(one.value, str) for one in inner):
            self.texts |= {name for node in nodes if (name := _dotted(node)) is not None}

    def _named(self, node: ast.Name | ast.Attribute) -> Value:
        """A column, whose name may have dots, or a constant of NumPy."""
        name = _dotted(node)
        dotted = isinstance(node, ast.Attribute)
        if dotted and name in CONSTANTS:
            return lambda table, state: CONSTANTS[name]
        if name is None or (dotted and (name.startswith(("np.", "contr.")) or "._" in name)):
            raise _refused(node)
        self.columns[name] = None
        return lambda table, state: table[name]

    def _argument(self, node: ast.AST, depth: int) -> Value:
        """What may stand in a call besides: texts, and lists of constants."""
        match node:
            case ast.Constant(value=str() as value):
                return lambda table, state: value
            case ast.List() | ast.Tuple() | ast.Dict():
                try:
                    literal = ast.literal_eval(node)
                except ValueError:
                    raise _refused(node) from None
                return lambda table, state: literal
        return self._compiled(node, depth - 1)

    def _called(self, node: ast.Call, depth: int) -> Value:
        name = _dotted(node.func) or ""
        function = FUNCTIONS.get(name)
        if function is None:
            raise _refused(node)
        arguments = _arguments(node, function, name)
        if isinstance(function.parameters, int):
            values = [self._compiled(one, depth - 1) for one in arguments.values()]
            return _combined(function.call, values)
        if name == "np.isin":
            self._note_texts(*arguments.values())
        outside, self.columns = self.columns, {}
        parts = {
            key: (self._contrasts if key == "contrasts" else self._argument)(one, depth - 1)
            for key, one in arguments.items()
        }
        if name in CATEGORICAL:
            self.categories |= self.columns.keys()
        self.columns = outside | self.columns
        key = _written(node)
        if function.stateful:
            self.states.append(key)

        def value(table: Any, state: State) -> Any:
            values = {parameter: part(table, state) for parameter, part in parts.items()}
            require_small(values, name)
            if function.stateful:
                return transformed(function.call, name, values, state.setdefault(key, {}))
            if name in CATEGORICAL:
                values["data"] = value_of(values["data"])
            return function.call(**values)

        return value

    def _contrasts(self, node: ast.AST, depth: int) -> Value:
        """How categories become columns: contr.sum, contr.treatment("a") and such, or a matrix of
        numbers.
        """
        called = isinstance(node, ast.Call)
        name = _dotted(node.func if called else node) or ""
        function = CONTRASTS.get(name)
        if function is None:
            return self._argument(node, depth)
        arguments = _arguments(node, function, name) if called else {}
        parts = {key: self._argument(one, depth - 1) for key, one in arguments.items()}
        return lambda table, state: function.call(
            **{key: part(table, state) for key, part in parts.items()}
        )


@lru_cache(maxsize=1024)
def expression(text: str) -> Expression:
    return Expression(text)


def _combined(function: Callable[..., Any], parts: list[Value]) -> Value:
    return lambda table, state: function(*(part(table, state) for part in parts))


def _arguments(node: ast.Call, function: Function, name: str) -> dict[str, ast.AST]:
    named = {keyword.arg: keyword.value for keyword in node.keywords}
    if any(isinstance(one, ast.Starred) for one in node.args) or None in named:
        raise _refused(node)
    parameters = function.parameters
    if isinstance(parameters, int):
        if named or len(node.args) != parameters:
            plural = "s" * (parameters > 1)
            raise FormulaError(
                f"expected {name} with {parameters} argument{plural}, got {short(_written(node))}"
            )
        return {str(at): one for at, one in enumerate(node.args)}
    try:
        return dict(parameters.bind(*node.args, **named).arguments)  # type: ignore[arg-type]
    except TypeError as error:
        raise FormulaError(
            f"expected {name}{parameters}, got {short(_written(node))}: {error}"
        ) from None


def _dotted(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return name_of(node.id)
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return None if before is None else f"{before}.{node.attr}"
    return None


def _refused(node: ast.AST) -> FormulaError:
    name = _dotted(node.func if isinstance(node, ast.Call) else node) or ""
    instead = HINTS.get(name, f"np.{name}" if f"np.{name}" in FUNCTIONS else "")
    hint = f"; write {instead}" if instead else ""
    others = ", ".join(name for name in FUNCTIONS if not name.startswith("np."))
    return FormulaError(
        "expected columns, numbers, arithmetic, comparisons, NumPy's elementwise functions as "
        f"np.<name>, {others} in a formula, got {short(_written(node))}{hint}"
    )


def _written(node: ast.AST) -> str:
    return unaliased(ast.unparse(node).replace("\n", " "))
