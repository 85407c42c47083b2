"""Functions of the parameters, with errors by the delta method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nll.estimation.inference import covariance as cov
from nll.estimation.inference import tests, wald
from nll.estimation.inference.tests import Test
from nll.solvers.parameters import Params

# name -> the bounds
SCALES = {"identity": (-math.inf, math.inf), "log": (0.0, math.inf), "logit": (0.0, 1.0)}


@dataclass(frozen=True, eq=False)
class Derived:
    """An estimate that follows from the parameters: their covariance carried over to first
    order.
    """

    value: Tensor
    covariance: Tensor  # (M, M), of the flattened value
    scale: str = "identity"  # on which an interval is symmetric: or "log", "logit"

    @property
    def standard_error(self) -> Tensor:
        """Shaped as the value."""
        return self.covariance.diagonal().clamp(min=0).sqrt().reshape(self.value.shape)

    def interval(self, level: float = 0.95) -> Tensor:
        """Wald's interval, (low, high) last, symmetric on the scale."""
        if not 0.0 < level < 1.0:
            raise ValueError(f"expected level in (0, 1), got {level}")
        return wald.wald(self.value, self.standard_error, level, *SCALES[self.scale])

    @property
    def p_value(self) -> Tensor:
        """Wald's test of the value 0, for each number."""
        return wald.p_value(self.value / self.standard_error)

    def test(self, value: Any = 0.0) -> Test:
        """Wald's test that all numbers have these values."""
        wanted = torch.as_tensor(value, dtype=torch.float64).expand(self.value.shape).reshape(-1)
        return tests.wald(self.value.reshape(-1), self.covariance, dict(enumerate(wanted.tolist())))

    def __str__(self) -> str:
        """A line for each number."""
        rows = zip(
            self.value.reshape(-1).tolist(), self.standard_error.reshape(-1).tolist(), strict=True
        )
        return "\n".join(f"{value:.8g} ({error:.5g})" for value, error in rows)


def derived(
    what: Any, names: list[str], params: Params, covariance: Tensor, scale: str = "identity"
) -> Derived:
    """A function of the parameters, or the sum of numbers of them times weights; see
    `Fit.derived`.
    """
    if scale not in SCALES:
        raise ValueError(f"expected scale to be one of {', '.join(SCALES)}, got {scale!r}")
    result = replace(_derived(what, names, params, covariance), scale=scale)
    low, high = SCALES[scale]
    outside = ~((result.value > low) & (result.value < high))
    if scale != "identity" and bool(outside.any()):
        got = f"{float(result.value[outside].reshape(-1)[0]):g}"
        raise ValueError(
            f"expected a value above {low:g} and below {high:g} for scale={scale!r}, got {got}"
        )
    return result


def _derived(what: Any, names: list[str], params: Params, covariance: Tensor) -> Derived:
    if isinstance(what, Mapping):
        weights = _weights(what, names)
        return _carried(lambda flat: weights @ flat, params, covariance)
    if not callable(what):
        raise TypeError(
            f"expected a function of the parameters, or a dict of number -> weight, got {what!r}"
        )
    shapes = {name: value.shape for name, value in params.items()}

    def function(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes.values()])
        own = {
            name: part.reshape(shape)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }
        found = what(own)
        if not isinstance(found, Tensor):
            raise TypeError(
                f"expected a tensor computed from the parameters, got {type(found).__name__}"
            )
        return found

    return _carried(function, params, covariance)


def _carried(function: Callable[[Tensor], Tensor], params: Params, covariance: Tensor) -> Derived:
    flat = torch.cat([value.reshape(-1) for value in params.values()]).double()
    value: Any = function(flat)
    jacobian: Any = torch.autograd.functional.jacobian(function, flat)
    jacobian = jacobian.reshape(value.numel(), len(flat))
    # what a parameter that does not matter has for an error does not matter either
    used = (jacobian != 0).any(0)
    return Derived(value.detach(), cov.transformed(covariance[used][:, used], jacobian[:, used]))


def _weights(given: Mapping[str, Any], names: list[str]) -> Tensor:
    weights = torch.zeros(len(names), dtype=torch.float64)
    for name, weight in given.items():
        if name not in names:
            raise ValueError(f"expected one of {', '.join(names)}, got {name!r}")
        weights[names.index(name)] = float(weight)
    return weights
