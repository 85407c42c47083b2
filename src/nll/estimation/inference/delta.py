"""Functions of the parameters, with standard errors by the delta method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nll.estimation.inference import covariance as cov
from nll.estimation.inference import tests, wald
from nll.estimation.inference.tests import Test
from nll.solvers.parameters import Params, flatten, unflatten

# name -> the bounds
SCALES = {"identity": (-math.inf, math.inf), "log": (0.0, math.inf), "logit": (0.0, 1.0)}


@dataclass(frozen=True, eq=False)
class Derived:
    """A function of the parameters: its estimate, with their covariance carried over to first
    order.
    """

    value: Tensor
    covariance: Tensor  # (M, M), of the flattened value
    scale: str = "identity"  # on which an interval is symmetric: or "log", "logit"

    @property
    def standard_error(self) -> Tensor:
        """The standard error, shaped like the value."""
        return self.covariance.diagonal().clamp(min=0).sqrt().reshape(self.value.shape)

    def interval(self, level: float = 0.95) -> Tensor:
        """Return the Wald interval, (low, high) last, symmetric on the scale."""
        wald.require_level(level)
        return wald.wald(self.value, self.standard_error, level, *SCALES[self.scale])

    @property
    def p_value(self) -> Tensor:
        """The Wald test of the value 0, for each number."""
        return wald.p_value(self.value / self.standard_error)

    def test(self, value: Any = 0.0) -> Test:
        """Return the Wald test that all numbers have these values."""
        expected = torch.as_tensor(value, dtype=torch.float64).expand(self.value.shape).reshape(-1)
        values = dict(enumerate(expected.tolist()))
        return tests.wald(self.value.reshape(-1), self.covariance, values)

    def __str__(self) -> str:
        numbers = zip(
            self.value.reshape(-1).tolist(), self.standard_error.reshape(-1).tolist(), strict=True
        )
        return "\n".join(f"{value:.8g} ({error:.5g})" for value, error in numbers)


def derived(
    what: Any, names: list[str], params: Params, covariance: Tensor, scale: str = "identity"
) -> Derived:
    """Return a function of the parameters, or a weighted sum of them; see `Fit.derived`."""
    if scale not in SCALES:
        raise ValueError(f"expected scale to be one of {', '.join(SCALES)}, got {scale!r}")
    function = _function(what, names, params)
    flat = flatten(params).double()
    value = function(flat)
    low, high = SCALES[scale]
    outside = ~((value > low) & (value < high))
    if scale != "identity" and bool(outside.any()):
        got = f"{float(value[outside].reshape(-1)[0]):g}"
        raise ValueError(
            f"expected a value above {low:g} and below {high:g} for scale={scale!r}, got {got}"
        )
    jacobian: Any = torch.autograd.functional.jacobian(function, flat)
    jacobian = jacobian.reshape(value.numel(), len(flat))
    # the variance of a parameter that does not matter does not matter either
    used = (jacobian != 0).any(0)
    covariance = cov.transformed(covariance[used][:, used], jacobian[:, used])
    return Derived(value.detach(), covariance, scale)


def _function(what: Any, names: list[str], params: Params) -> Callable[[Tensor], Tensor]:
    if isinstance(what, Mapping):
        weights = torch.zeros(len(names), dtype=torch.float64)
        for name, weight in what.items():
            if name not in names:
                raise ValueError(f"expected one of {', '.join(names)}, got {name!r}")
            weights[names.index(name)] = float(weight)
        return lambda flat: weights @ flat
    if not callable(what):
        raise TypeError(
            f"expected a function of the parameters, or a dict of number -> weight, got {what!r}"
        )

    def function(flat: Tensor) -> Tensor:
        value = what(unflatten(flat, params))
        if not isinstance(value, Tensor):
            raise TypeError(
                f"expected a tensor computed from the parameters, got {type(value).__name__}"
            )
        return value

    return function
