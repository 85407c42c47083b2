"""The computed parts of a formula, such as np.log(a + 1) or C(b): an allow-list, read and evaluated
without `eval`.

A formula may come from somebody else, in the file of a saved model. Columns, numbers, arithmetic,
comparisons and the functions listed here are all that a part may hold; everything else is refused
before any of it is evaluated.
"""

from __future__ import annotations

import ast
import inspect
import operator
from collections.abc import Callable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from formulaic.transforms import TRANSFORMS

from nll.regression.formula.names import aliased, name_of, unaliased
from nll.regression.formula.slopes import Dual, elementwise, piecewise, slope_of, value_of

_MOST = 1000  # of degrees, degrees of freedom and levels: what they allocate grows with them
_DEEPEST = 100

Value = Callable[[Any, MutableMapping[str, Any]], Any]  # of (table, state of the transforms)


def _integers(value: Any) -> bool:
    return np.asarray(value).dtype.kind in "iu"


def _numbers(value: Any) -> Any:
    """A column or a number as float64, int64 or truth values; ValueError for texts."""
    if isinstance(value, pd.Series) and not pd.api.types.is_numeric_dtype(value.dtype):
        raise ValueError(
            f"expected numbers in column {value.name!r}, got values of type {value.dtype}"
        )
    values = np.asarray(value)
    if values.dtype.kind == "u" and values.size and values.max() > np.iinfo(np.int64).max:
        return values.astype(np.float64)
    return (
        values
        if values.dtype.kind == "b"
        else values.astype(np.int64 if _integers(values) else np.float64)
    )


def _exact(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of numbers; those of whole numbers that would overflow, or have no whole result,
    are of float64.
    """
    logical = function in (np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.invert)

    def applied(*given: Any) -> Any:
        if any(isinstance(value, Dual) for value in given):
            return elementwise(
                function, [one if isinstance(one, Dual) else _numbers(one) for one in given]
            )
        values = [_numbers(value) for value in given]
        # 1 + 1 = 2
        values = (
            values if logical else [value + 0 if value.dtype == bool else value for value in values]
        )
        with np.errstate(all="ignore"):
            if not all(map(_integers, values)):
                return function(*values)
            try:
                rounded = np.asarray(function(*(value.astype(np.float64) for value in values)))
                if not bool((np.abs(rounded) < 2.0**62).all()):
                    return rounded
                return function(*values)
            except TypeError:  # operations on bits
                return function(*values)
            except ValueError:  # an integer to a negative power
                return function(*(value.astype(np.float64) for value in values))

    return applied


def _compared(function: Callable[..., Any]) -> Callable[..., Any]:
    def applied(left: Any, right: Any) -> np.ndarray:
        return np.asarray(function(value_of(left), value_of(right)), dtype=bool)

    return applied


_UNARY = {
    ast.UAdd: _exact(np.positive),
    ast.USub: _exact(np.negative),
    ast.Invert: _exact(np.invert),
}
_BINARY = {
    ast.Add: _exact(np.add),
    ast.Sub: _exact(np.subtract),
    ast.Mult: _exact(np.multiply),
    ast.Div: _exact(np.true_divide),
    ast.FloorDiv: _exact(np.floor_divide),
    ast.Mod: _exact(np.remainder),
    ast.Pow: _exact(np.power),
    ast.BitAnd: _exact(np.bitwise_and),
    ast.BitOr: _exact(np.bitwise_or),
    ast.BitXor: _exact(np.bitwise_xor),
}
_COMPARE = {
    ast.Eq: _compared(operator.eq),
    ast.NotEq: _compared(operator.ne),
    ast.Lt: _compared(operator.lt),
    ast.LtE: _compared(operator.le),
    ast.Gt: _compared(operator.gt),
    ast.GtE: _compared(operator.ge),
}
_CONSTANTS = {f"np.{name}": getattr(np, name) for name in ("pi", "e", "inf", "nan", "euler_gamma")}


class _Function(NamedTuple):
    call: Callable[..., Any]
    parameters: inspect.Signature | int  # or the number of arguments, all of them numbers
    stateful: bool = False


def _public(function: Callable[..., Any], *hidden: str) -> _Function:
    every = inspect.signature(function).parameters.values()
    kept = [one for one in every if not one.name.startswith("_") and one.name not in hidden]
    kept = [one.replace(annotation=one.empty) for one in kept]
    return _Function(
        function, inspect.Signature(kept), hasattr(function, "__is_stateful_transform__")
    )


def _where(condition: Any, x: Any, y: Any) -> Any:
    value = np.where(value_of(condition), value_of(x), value_of(y))
    moves = isinstance(x, Dual) or isinstance(y, Dual)
    return Dual(value, np.where(value_of(condition), slope_of(x), slope_of(y))) if moves else value


# Each value from those in its place alone: a function of all rows has another value among the rows
# of another table.
_ELEMENTWISE = {
    f"np.{name}": _Function(_exact(function), function.nin)
    for name, function in vars(np).items()
    if isinstance(function, np.ufunc)
    and function.nout == 1
    and function.nin <= 2
    and function.signature is None
} | {
    "np.where": _public(_where),
    "np.clip": _public(
        lambda a, a_min, a_max: _exact(np.minimum)(_exact(np.maximum)(a, a_min), a_max)
    ),
    "np.round": _public(lambda a, decimals=0: np.round(_numbers(value_of(a)), decimals)),
    "np.isin": _public(lambda element, test_elements: np.isin(value_of(element), test_elements)),
    "np.digitize": _public(
        lambda x, bins, right=False: np.digitize(_numbers(value_of(x)), bins, right)
    ),
    "np.sinc": _Function(_exact(np.sinc), 1),
}
_SHORT = {
    name: _ELEMENTWISE[f"np.{name}"]
    for name in ("log", "log2", "log10", "exp", "exp2", "abs", "round")
}
_CATEGORICAL = {"C": _public(TRANSFORMS["C"]), "hashed": _public(TRANSFORMS["hashed"], "hash_func")}
_BASES = ("bs", "cc", "cr", "cs", "center", "poly", "scale", "standardize", "I")
_CONTRASTS = {
    **{name: _public(TRANSFORMS[name]) for name in ("Treatment", "Poly", "Sum", "Helmert", "Diff")},
    **{
        f"contr.{name}": _public(getattr(TRANSFORMS["contr"], name))
        for name in ("treatment", "SAS", "sum", "helmert", "diff", "poly")
    },
}
FUNCTIONS = (
    _ELEMENTWISE | _SHORT | {name: _public(TRANSFORMS[name]) for name in _BASES} | _CATEGORICAL
)
_HINTS = {"factor": "C(...)", "sqrt": "np.sqrt(...)", "ns": "cr(...)", "offset": "a column"}


class Expression:
    """A computed part of a formula.

    Raises: ValueError naming what is not allowed in it.
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
            raise ValueError(
                f"expected a whole expression of at most {_DEEPEST} levels, got {_short(text)}"
            ) from None
        self._value = self._compiled(tree, _DEEPEST)
        self.text = unaliased(ast.unparse(tree).replace("\n", " "))
        # where it is nothing but one
        self.column = name_of(tree.id) if isinstance(tree, ast.Name) else None
        self.category: str | None = None  # the column of which it is the categories
        if isinstance(tree, ast.Call) and _dotted(tree.func) == "C":
            self.category = _dotted(_arguments(tree, FUNCTIONS["C"], "C")["data"])

    def __call__(self, table: pd.DataFrame, state: MutableMapping[str, Any]) -> Any:
        """The values of the rows of a table; `state` is filled, or used where it has something of a
        transform.
        """
        value = self._value(table, state)
        if isinstance(value, (pd.Series, dict)) or hasattr(value, "__formulaic_metadata__"):
            return value
        values = np.asarray(value)
        values = np.full(len(table), values) if values.ndim == 0 else values
        return values if values.dtype.kind in "iufb" else pd.Series(values, index=table.index)

    def slope(self, table: pd.DataFrame, state: MutableMapping[str, Any], column: str) -> Any:
        """The derivative by a column, in the form of the values; None where it has none or is 0 but
        for jumps.
        """
        lifted = {name: table[name] for name in self.columns}
        lifted[column] = Dual(_numbers(table[column]).astype(np.float64), np.ones(len(table)))
        value = self._value(lifted, state)
        return value.slope if isinstance(value, Dual) else None

    def _compiled(self, node: ast.AST, depth: int) -> Value:
        """What evaluates a node; ValueError for one that is not on the list."""
        if depth <= 0:
            raise ValueError(
                f"expected an expression of at most {_DEEPEST} levels, got {_short(self.text)}"
            )
        match node:
            case ast.Constant(value=bool() | int() | float() | None as value):
                return lambda table, state: value
            case ast.Name() | ast.Attribute():
                return self._named(node)
            case ast.UnaryOp(op=op, operand=one) if type(op) in _UNARY:
                return _combined(_UNARY[type(op)], [self._compiled(one, depth - 1)])
            case ast.BinOp(op=op, left=left, right=right) if type(op) in _BINARY:
                return _combined(
                    _BINARY[type(op)], [self._compiled(one, depth - 1) for one in (left, right)]
                )
            case ast.Compare(ops=[op], left=left, comparators=[right]) if type(op) in _COMPARE:
                self._note_texts(left, right)
                return _combined(
                    _COMPARE[type(op)], [self._argument(one, depth - 1) for one in (left, right)]
                )
            case ast.Call():
                return self._called(node, depth)
        raise _refused(node)

    def _note_texts(self, *nodes: ast.AST) -> None:
        constants = [
            one for node in nodes for one in ast.walk(node) if isinstance(one, ast.Constant)
        ]
        if any(isinstance(one.value, str) for one in constants):
            self.texts |= {name for node in nodes if (name := _dotted(node)) is not None}

    def _named(self, node: ast.Name | ast.Attribute) -> Value:
        """A column, whose name may have dots, or a constant of NumPy."""
        name = _dotted(node)
        dotted = isinstance(node, ast.Attribute)
        if dotted and name in _CONSTANTS:
            return lambda table, state: _CONSTANTS[name]
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
        name = _dotted(node.func)
        function = FUNCTIONS.get(name or "")
        if function is None:
            raise _refused(node)
        given = _arguments(node, function, str(name))
        if isinstance(function.parameters, int):
            return _combined(
                function.call, [self._compiled(one, depth - 1) for one in given.values()]
            )
        self._note_texts(*given.values() if name == "np.isin" else ())
        outside, self.columns = self.columns, {}
        parts = {
            key: (self._contrasts if key == "contrasts" else self._argument)(one, depth - 1)
            for key, one in given.items()
        }
        self.categories |= self.columns.keys() if name in _CATEGORICAL else set()
        self.columns = outside | self.columns
        key = unaliased(ast.unparse(node).replace("\n", " "))
        if function.stateful:
            self.states.append(key)

        def value(table: Any, state: MutableMapping[str, Any]) -> Any:
            values = {parameter: part(table, state) for parameter, part in parts.items()}
            _require_small(values, str(name))
            if function.stateful:
                return _transformed(function.call, str(name), values, state.setdefault(key, {}))
            if name in _CATEGORICAL:
                values["data"] = value_of(values["data"])
            return function.call(**values)

        return value

    def _contrasts(self, node: ast.AST, depth: int) -> Value:
        """How categories become columns: contr.sum, contr.treatment("a") and such, or a matrix of
        numbers.
        """
        called = isinstance(node, ast.Call)
        function = _CONTRASTS.get(_dotted(node.func if called else node) or "")
        if function is None:
            return self._argument(node, depth)
        given = _arguments(node, function, str(_dotted(node.func))) if called else {}
        parts = {key: self._argument(one, depth - 1) for key, one in given.items()}
        return lambda table, state: function.call(
            **{key: part(table, state) for key, part in parts.items()}
        )


@lru_cache(maxsize=1024)
def expression(text: str) -> Expression:
    """Read a computed part of a formula once."""
    return Expression(text)


def _transformed(
    function: Callable[..., Any], name: str, values: dict[str, Any], state: dict[str, Any]
) -> Any:
    """A transform that keeps something of the rows of the fit, in `state`."""
    first = next(iter(values))
    data, others = values[first], {key: value for key, value in values.items() if key != first}

    def call(x: Any) -> Any:
        return function(x, _state=state, **others)

    if isinstance(value_of(data), dict):
        if isinstance(data, Dual):
            raise ValueError(
                f"expected terms with a derivative, got {name}() of a transform's columns"
            )
        return call(data)
    if not isinstance(data, Dual):
        return call(_numbers(data).astype(np.float64))
    linear = name in ("center", "scale", "standardize")
    degree = 1 if linear else others.get("degree", 1 if name == "poly" else 3)
    return piecewise(call, data, state.get("knots", ()), degree)


def _combined(function: Callable[..., Any], parts: list[Value]) -> Value:
    return lambda table, state: function(*(part(table, state) for part in parts))


def _arguments(node: ast.Call, function: _Function, name: str) -> dict[str, ast.AST]:
    """The arguments of a call by the parameters' names."""
    named = {keyword.arg: keyword.value for keyword in node.keywords}
    if any(isinstance(one, ast.Starred) for one in node.args) or None in named:
        raise _refused(node)
    wanted = function.parameters
    if isinstance(wanted, int):
        if named or len(node.args) != wanted:
            raise ValueError(
                f"expected {name} with {wanted} argument{'s' * (wanted > 1)}, got {_source(node)}"
            )
        return {str(at): one for at, one in enumerate(node.args)}
    try:
        return dict(wanted.bind(*node.args, **named).arguments)  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(f"expected {name}{wanted}, got {_source(node)}: {error}") from None


def _require_small(values: Mapping[str, Any], name: str) -> None:
    for parameter in ("df", "degree", *(["levels"] if name == "hashed" else [])):
        if isinstance(values.get(parameter), (int, np.integer)) and values[parameter] > _MOST:
            raise ValueError(
                f"expected {parameter} of at most {_MOST} in {name}, got {values[parameter]}"
            )


def _dotted(node: ast.AST) -> str | None:
    """The name that Names and attributes spell."""
    if isinstance(node, ast.Name):
        return name_of(node.id)
    if isinstance(node, ast.Attribute):
        before = _dotted(node.value)
        return None if before is None else f"{before}.{node.attr}"
    return None


def _refused(node: ast.AST) -> ValueError:
    name = _dotted(node.func if isinstance(node, ast.Call) else node) or ""
    hint = (
        f"; write {_HINTS[name]}"
        if name in _HINTS
        else f"; write np.{name}"
        if f"np.{name}" in FUNCTIONS
        else ""
    )
    short = ", ".join(name for name in FUNCTIONS if not name.startswith("np."))
    allowed = (
        f"columns, numbers, arithmetic, comparisons, NumPy's elementwise functions as "
        f"np.<name>, {short}"
    )
    return ValueError(f"expected {allowed} in a formula, got {_source(node)}{hint}")


def _source(node: ast.AST) -> str:
    return _short(unaliased(ast.unparse(node)))


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
