"""What a formula may compute: the allow-list of operators, functions and constants.

Each function has the value of a row from that row alone, or is a transform of formulaic's that
keeps what it needs of the rows of the fit.
"""

from __future__ import annotations

import ast
import inspect
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from formulaic.transforms import TRANSFORMS

from nll.regression.formula.names import FormulaError
from nll.regression.formula.slopes import Dual, elementwise, piecewise, slope_of, value_of

_MOST = 1000  # of degrees, degrees of freedom and levels: what they allocate grows with them


def numbers_of(value: Any) -> np.ndarray:
    if isinstance(value, pd.Series) and not pd.api.types.is_numeric_dtype(value.dtype):
        raise FormulaError(
            f"expected numbers in column {value.name!r}, got values of type {value.dtype}"
        )
    values = np.asarray(value)
    kind = values.dtype.kind
    if kind == "b":
        return values
    too_large = kind == "u" and values.size and values.max() > np.iinfo(np.int64).max
    return values.astype(np.int64 if kind in "iu" and not too_large else np.float64)


def _exact(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of numbers; those of whole numbers that would overflow, or have no whole result,
    are of float64.
    """
    logical = function in (np.bitwise_and, np.bitwise_or, np.bitwise_xor, np.invert)

    def applied(*arguments: Any) -> Any:
        values = [one if isinstance(one, Dual) else numbers_of(one) for one in arguments]
        if any(isinstance(one, Dual) for one in values):
            return elementwise(function, values)
        if not logical:  # 1 + 1 = 2
            values = [one + 0 if one.dtype == bool else one for one in values]
        with np.errstate(all="ignore"):
            if any(one.dtype.kind not in "iu" for one in values):
                return function(*values)
            floats = [one.astype(np.float64) for one in values]
            try:
                rounded = np.asarray(function(*floats))
                return function(*values) if (np.abs(rounded) < 2.0**62).all() else rounded
            except TypeError:  # operations on bits
                return function(*values)
            except ValueError:  # an integer to a negative power
                return function(*floats)

    return applied


def _compared(function: Callable[..., Any]) -> Callable[..., Any]:
    def applied(left: Any, right: Any) -> np.ndarray:
        return np.asarray(function(value_of(left), value_of(right)), dtype=bool)

    return applied


OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.UAdd: _exact(np.positive),
    ast.USub: _exact(np.negative),
    ast.Invert: _exact(np.invert),
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
    ast.Eq: _compared(operator.eq),
    ast.NotEq: _compared(operator.ne),
    ast.Lt: _compared(operator.lt),
    ast.LtE: _compared(operator.le),
    ast.Gt: _compared(operator.gt),
    ast.GtE: _compared(operator.ge),
}
CONSTANTS = {f"np.{name}": getattr(np, name) for name in ("pi", "e", "inf", "nan", "euler_gamma")}


class Function(NamedTuple):
    """A function on the allow-list."""

    call: Callable[..., Any]
    parameters: inspect.Signature | int  # or the number of arguments, all of them numbers
    stateful: bool = False


def _public(function: Callable[..., Any], *hidden: str) -> Function:
    parameters = [
        one.replace(annotation=one.empty)
        for one in inspect.signature(function).parameters.values()
        if not one.name.startswith("_") and one.name not in hidden
    ]
    stateful = hasattr(function, "__is_stateful_transform__")
    return Function(function, inspect.Signature(parameters), stateful)


def _where(condition: Any, x: Any, y: Any) -> Any:
    value = np.where(value_of(condition), value_of(x), value_of(y))
    if not (isinstance(x, Dual) or isinstance(y, Dual)):
        return value
    return Dual(value, np.where(value_of(condition), slope_of(x), slope_of(y)))


# Each value from those in its place alone: a function of all rows has another value among the rows
# of another table.
_ELEMENTWISE = {
    f"np.{name}": Function(_exact(function), function.nin)
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
    "np.round": _public(lambda a, decimals=0: np.round(numbers_of(value_of(a)), decimals)),
    "np.isin": _public(lambda element, test_elements: np.isin(value_of(element), test_elements)),
    "np.digitize": _public(
        lambda x, bins, right=False: np.digitize(numbers_of(value_of(x)), bins, right)
    ),
    "np.sinc": Function(_exact(np.sinc), 1),
}
_SHORT = ("log", "log2", "log10", "exp", "exp2", "abs", "round")
_BASES = ("bs", "cc", "cr", "cs", "center", "poly", "scale", "standardize", "I")
CATEGORICAL = {"C": _public(TRANSFORMS["C"]), "hashed": _public(TRANSFORMS["hashed"], "hash_func")}
_CONTRASTS = ("treatment", "SAS", "sum", "helmert", "diff", "poly")
CONTRASTS = {
    **{name: _public(TRANSFORMS[name]) for name in ("Treatment", "Poly", "Sum", "Helmert", "Diff")},
    **{f"contr.{name}": _public(getattr(TRANSFORMS["contr"], name)) for name in _CONTRASTS},
}
FUNCTIONS = {
    **_ELEMENTWISE,
    **{name: _ELEMENTWISE[f"np.{name}"] for name in _SHORT},
    **{name: _public(TRANSFORMS[name]) for name in _BASES},
    **CATEGORICAL,
}
HINTS = {"factor": "C(...)", "sqrt": "np.sqrt(...)", "ns": "cr(...)", "offset": "a column"}


def require_small(values: dict[str, Any], name: str) -> None:
    """Raise for an argument of a function that would make it fill the memory."""
    for parameter in ("df", "degree", *(["levels"] if name == "hashed" else [])):
        if isinstance(values.get(parameter), (int, np.integer)) and values[parameter] > _MOST:
            raise FormulaError(
                f"expected {parameter} of at most {_MOST} in {name}, got {values[parameter]}"
            )


def transformed(
    function: Callable[..., Any], name: str, values: dict[str, Any], state: dict[str, Any]
) -> Any:
    (_, data), *others = values.items()
    options = dict(others)

    def call(x: Any) -> Any:
        return function(x, _state=state, **options)

    if not isinstance(data, Dual):
        return call(data if isinstance(data, dict) else numbers_of(data).astype(np.float64))
    if isinstance(data.value, dict):
        raise FormulaError(
            f"expected terms with a derivative, got {name}() of a transform's columns"
        )
    degree = options.get("degree", 1 if name == "poly" else 3)
    if name in ("center", "scale", "standardize"):
        degree = 1
    return piecewise(call, data, state.get("knots", ()), degree)
