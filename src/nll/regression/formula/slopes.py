"""Derivatives of the computed parts of a formula with respect to a column, carried along with the
values (forward mode).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from formulaic.materializers.types import FactorValues
from numpy.polynomial import chebyshev

from nll.regression.formula.names import FormulaError

# NumPy's functions that PyTorch, which differentiates them, has under another name.
_TORCH = {
    "power": torch.pow,
    "fabs": torch.abs,
    "rint": torch.round,
    "degrees": torch.rad2deg,
    "radians": torch.deg2rad,
    "cbrt": lambda x: x.sign() * x.abs() ** (1 / 3),
}


class Dual(NamedTuple):
    """Values, and their derivatives with respect to one column; those of a transform have its
    columns.
    """

    value: Any
    slope: Any


def value_of(one: Any) -> Any:
    return one.value if isinstance(one, Dual) else one


def slope_of(one: Any) -> Any:
    return one.slope if isinstance(one, Dual) else 0.0


def elementwise(function: Callable[..., Any], given: Sequence[Any]) -> Any:
    name = function.__name__
    twin = _TORCH.get(name) or getattr(torch, name, None)
    values = [np.asarray(value_of(one), dtype=np.float64) for one in given]
    with np.errstate(all="ignore"):
        value = function(*values)
    if twin is None:
        raise FormulaError(f"expected terms with a derivative, got np.{name}")
    with torch.inference_mode(False), torch.enable_grad():
        tensors = [torch.tensor(np.broadcast_to(one, np.shape(value)).copy()) for one in values]
        inputs = [
            t.requires_grad_()
            for t, one in zip(tensors, given, strict=True)
            if isinstance(one, Dual)
        ]
        out = twin(*tensors)
        if not out.requires_grad:  # truth values
            return value
        rates = torch.autograd.grad(out.sum(), inputs, allow_unused=True, materialize_grads=True)
    moving = [one.slope for one in given if isinstance(one, Dual)]
    return Dual(value, sum(rate.numpy() * slope for rate, slope in zip(rates, moving, strict=True)))


def piecewise(
    function: Callable[[np.ndarray], Any], x: Dual, knots: Sequence[float], degree: int
) -> Dual:
    """A function that is a polynomial between knots: exact from its values at degree + 1 points of
    each row's piece.

    At a knot where the derivative jumps, that to the right.
    """
    value = function(x.value)
    breaks = np.unique([*knots, x.value.min(), x.value.max()])
    breaks = breaks if len(breaks) > 1 else breaks[0] + np.array([0.0, 1.0])
    piece = np.clip(np.searchsorted(breaks, x.value, side="right") - 1, 0, len(breaks) - 2)
    low, width = breaks[piece], np.diff(breaks)[piece]
    nodes = np.cos(np.pi * (np.arange(degree + 1) + 0.5) / (degree + 1))
    points = low[:, None] + width[:, None] * ((nodes + 1) / 2)
    parts = _columns(function(points.ravel())).reshape(len(low), degree + 1, -1)
    series = np.einsum("jd,ndc->jnc", np.linalg.inv(chebyshev.chebvander(nodes, degree)), parts)
    basis = chebyshev.chebvander(2 * (x.value - low) / width - 1, max(degree - 1, 0))
    rates = (
        np.einsum("nj,jnc->nc", basis, chebyshev.chebder(series)) * (2 / width * x.slope)[:, None]
    )
    return Dual(value, like(value, rates))


def like(value: Any, columns: np.ndarray) -> Any:
    """Columns (n, c) in the form of a transform's values."""
    if isinstance(value, dict):
        of_each = dict(zip(value, columns.T, strict=True))
        return FactorValues(of_each, metadata=value.__formulaic_metadata__)  # type: ignore[attr-defined]
    if hasattr(value, "__formulaic_metadata__"):
        return FactorValues(columns, metadata=value.__formulaic_metadata__)
    return columns if np.ndim(value) == 2 else columns[:, 0]


def _columns(value: Any) -> np.ndarray:
    plain = getattr(value, "__wrapped__", value)
    if isinstance(plain, dict):
        return np.stack(list(plain.values()), 1)
    return np.asarray(plain, dtype=np.float64).reshape(len(plain), -1)


def zeros_like(value: Any) -> Any:
    """No change of a transform's columns."""
    return like(value, np.zeros_like(_columns(value)))
