"""Named, constrained parameters, and the free numbers that a search moves.

Each parameter has a constraint of torch.distributions. `biject_to` maps unbounded numbers onto it,
so that a search needs no bounds; parameters that are fixed, bounded or tied to another one are
handled here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import Constraint

Params = dict[str, Tensor]


class _Cholesky:
    """Map d (d + 1) / 2 numbers onto lower triangles L with a positive diagonal, or onto L L'.
    PyTorch's own transform takes d^2 numbers and ignores some of them: a search would see flat
    directions.
    """

    def __init__(self, size: int, square: bool) -> None:
        self.size, self.square = size, square
        self.rows, self.columns = torch.tril_indices(size, size)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        return torch.Size([*shape[:-2], self.size * (self.size + 1) // 2])

    def __call__(self, numbers: Tensor) -> Tensor:
        entries = torch.where(self.rows == self.columns, numbers.exp(), numbers)
        flat = numbers.new_zeros(*numbers.shape[:-1], self.size**2)
        lower = flat.index_add(-1, self.rows * self.size + self.columns, entries)
        lower = lower.reshape(*numbers.shape[:-1], self.size, self.size)
        return lower @ lower.mT if self.square else lower

    def inv(self, value: Tensor) -> Tensor:
        lower = torch.linalg.cholesky(value) if self.square else value
        entries = lower[..., self.rows, self.columns]
        return torch.where(self.rows == self.columns, entries.log(), entries)


@dataclass(frozen=True)
class Parameter:
    """The constraint and the shape of a parameter."""

    constraint: Constraint = constraints.real
    shape: tuple[int, ...] = ()

    @property
    def transform(self) -> Any:
        """From unbounded numbers onto the constraint."""
        if self.constraint in (constraints.positive_definite, constraints.lower_cholesky):
            return _Cholesky(self.shape[-1], self.constraint is constraints.positive_definite)
        return biject_to(self.constraint)

    @property
    def free_shape(self) -> torch.Size:
        return self.transform.inverse_shape(torch.Size(self.shape))


class Entry(NamedTuple):
    """A parameter's place in the vectors of a layout."""

    name: str
    parameter: Parameter
    flat: slice  # among all parameters, flattened
    free: slice  # among the free numbers; empty if the parameter is not free

    @property
    def is_plain(self) -> bool:
        """Whether each free number stands for one number of the parameter."""
        size = self.free.stop - self.free.start
        return size > 0 and self.parameter.free_shape == self.parameter.shape


@dataclass(frozen=True)
class Layout:
    """All parameters of a model; the free ones one after another in a vector."""

    parameters: dict[str, Parameter]
    fixed: dict[str, Tensor] = field(default_factory=dict)
    tied: dict[str, str | Callable[[Params], Tensor]] = field(default_factory=dict)

    @property
    def free(self) -> dict[str, Parameter]:
        return {
            n: p for n, p in self.parameters.items() if n not in self.fixed and n not in self.tied
        }

    def entries(self) -> Iterator[Entry]:
        """Each parameter with its place in the flattened and in the free vector."""
        flat = free = 0
        for name, parameter in self.parameters.items():
            size = math.prod(parameter.shape)
            moved = 0 if name in self.fixed or name in self.tied else parameter.free_shape.numel()
            yield Entry(name, parameter, slice(flat, flat + size), slice(free, free + moved))
            flat += size
            free += moved

    @property
    def size(self) -> int:
        return sum(p.free_shape.numel() for p in self.free.values())

    @property
    def unbounded(self) -> Tensor:
        """Which free numbers are parameters themselves, not their logarithms or the like."""
        plain = [
            p.constraint is constraints.real
            for p in self.free.values()
            for _ in range(p.free_shape.numel())
        ]
        return torch.tensor(plain, dtype=torch.bool)

    def natural(self, theta: Tensor) -> Params:
        """Return the parameters, (B, *shape) each, at the free numbers (B, P)."""
        params: Params = {}
        at = 0
        for name, parameter in self.free.items():
            shape = parameter.free_shape
            numbers = theta[:, at : at + shape.numel()].reshape(len(theta), *shape)
            params[name] = parameter.transform(numbers)
            at += shape.numel()
        for name, value in self.fixed.items():
            params[name] = value.expand(len(theta), *self.parameters[name].shape)
        for name, source in self.tied.items():
            params[name] = params[source] if isinstance(source, str) else source(params)
        return {name: params[name] for name in self.parameters}

    def numbers(self, params: Mapping[str, Tensor]) -> Tensor:
        """Return the free numbers (B, P) of parameters (B, *shape)."""
        count = len(next(iter(params.values())))
        numbers = [torch.empty(count, 0, dtype=torch.float64)]
        for name, parameter in self.free.items():
            value = _inside(params[name], parameter.constraint)
            numbers.append(parameter.transform.inv(value).reshape(count, -1))
        return torch.cat(numbers, 1)

    def jacobian(self, theta: Tensor) -> Tensor:
        """Return the derivatives (B, N, P) of the flattened parameters."""
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            flat = torch.cat(
                [value.reshape(len(theta), -1) for value in self.natural(theta).values()], 1
            )
            rows = [
                torch.autograd.grad(
                    column.sum(),
                    theta,
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
                if column.requires_grad
                else (torch.zeros_like(theta),)
                for column in flat.unbind(1)
            ]
        return torch.stack([row for (row,) in rows], 1)

    @property
    def names(self) -> list[str]:
        return [
            name + (f"[{', '.join(map(str, at))}]" if at else "")
            for name, parameter in self.parameters.items()
            for at in product(*map(range, parameter.shape))
        ]

    def describe(self) -> list[str]:
        return [
            name + (f"[{index}]" if p.free_shape else "")
            for name, p in self.free.items()
            for index in range(p.free_shape.numel())
        ]


def flatten(params: Mapping[str, Tensor]) -> Tensor:
    """Return all numbers in one vector (N)."""
    return torch.cat([value.reshape(-1) for value in params.values()])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> Params:
    """Cut (N, ...) into tensors (*shape, ...), with the names and shapes of `like`."""
    pieces = vector.split([value.numel() for value in like.values()])
    return {
        name: piece.reshape((*value.shape, *vector.shape[1:]))
        for (name, value), piece in zip(like.items(), pieces, strict=True)
    }


def _inside(value: Tensor, constraint: Constraint) -> Tensor:
    """Move a value off the boundary of its constraint, where the free numbers would be infinite."""
    if isinstance(constraint, type(constraints.simplex)):
        value = value.clamp(min=1e-6)
        return value / value.sum(-1, keepdim=True)
    tiny = torch.finfo(torch.float64).tiny
    low, high = _limits(constraint)
    if low is not None and high is not None:
        room = 1e-6 * (high - low)
        return value.clamp(low + room, high - room)
    if low is not None:
        return value.clamp(min=low + max(tiny, 1e-9 * abs(low)))
    if high is not None:
        return value.clamp(max=high - max(tiny, 1e-9 * abs(high)))
    return value


def _limits(constraint: Constraint) -> tuple[Any, Any]:
    """The lower and the upper bound; None where there is none."""
    return getattr(constraint, "lower_bound", None), getattr(constraint, "upper_bound", None)


def layout(
    parameters: Mapping[str, Parameter],
    fixed: Mapping[str, Any] | None = None,
    bounds: Mapping[str, Any] | None = None,
) -> Layout:
    """Lay out parameters of which some are fixed to a value, tied to another by its name or by a
    function of the others, or bounded.

    Raises: TypeError and ValueError naming an unknown parameter or a value outside its constraint.
    """
    known = dict(parameters)
    for name, limits in _mapping(bounds, "bounds").items():
        known[name] = _bounded(name, _known(known, name, "bounds"), limits)
    constants: dict[str, Tensor] = {}
    tied: dict[str, str | Callable[[Params], Tensor]] = {}
    for name, value in _mapping(fixed, "fixed").items():
        parameter = _known(known, name, "fixed")
        if callable(value):
            tied[name] = value  # type: ignore[assignment]
        elif isinstance(value, str):
            source = _known(known, value, f"fixed[{name!r}]")
            if value == name or source.shape != parameter.shape:
                raise ValueError(
                    f"expected fixed[{name!r}] to name another parameter of its "
                    f"shape, got {value!r}"
                )
            tied[name] = value
        else:
            constants[name] = value_of(name, value, parameter)
    chained = [name for name, source in tied.items() if isinstance(source, str) and source in tied]
    if chained:
        raise ValueError(
            f"expected fixed[{chained[0]!r}] to name a parameter that is free or fixed to a value"
        )
    return Layout(known, constants, tied)


def value_of(name: str, value: Any, parameter: Parameter) -> Tensor:
    """Check a value that the user gave for a parameter."""
    try:
        number = torch.as_tensor(value, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"expected a number for {name}, got {value!r}") from None
    if number.shape != parameter.shape:
        raise ValueError(
            f"expected {name} of shape {tuple(parameter.shape)}, got {tuple(number.shape)}"
        )
    if not bool(parameter.constraint.check(number).all()):
        raise ValueError(
            f"expected {name} to be {said(parameter.constraint)}, got {number.tolist()}"
        )
    return number


def said(constraint: Constraint) -> str:
    """Return a constraint in words."""
    low, high = _limits(constraint)
    if low is not None and high is not None:
        return f"in [{float(low):g}, {float(high):g}]"
    if low is not None:
        return "positive" if low == 0 else f"above {float(low):g}"
    if high is not None:
        return f"below {float(high):g}"
    return str(constraint).removesuffix("()").lower()


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"expected {what} as a dict of name -> value, got {type(value).__name__}")
    return value


def _known(parameters: Mapping[str, Parameter], name: Any, where: str) -> Parameter:
    if name not in parameters:
        raise ValueError(f"expected one of {', '.join(parameters)} in {where}, got {name!r}")
    return parameters[name]


def _bounded(name: str, parameter: Parameter, limits: Any) -> Parameter:
    try:
        low, high = (
            default if it is None else float(it)
            for it, default in zip(limits, (-math.inf, math.inf), strict=True)
        )
    except (TypeError, ValueError):
        raise TypeError(
            f"expected bounds[{name!r}] as a pair (low, high), got {limits!r}"
        ) from None
    constraint = parameter.constraint
    least, most = _limits(constraint)
    if constraint is not constraints.real and least is None and most is None:
        raise ValueError(
            f"expected bounds for a parameter of real numbers, got {name}, which is "
            f"{said(constraint)}"
        )
    low = low if least is None else max(low, float(least))
    high = high if most is None else min(high, float(most))
    if not low < high:
        raise ValueError(
            f"expected bounds[{name!r}] with room for {name}, which is {said(constraint)}, "
            f"got {limits!r}"
        )
    if low > -math.inf and high < math.inf:
        return Parameter(constraints.interval(low, high), parameter.shape)
    if low > -math.inf:
        return Parameter(constraints.greater_than(low), parameter.shape)
    return Parameter(
        constraints.less_than(high) if high < math.inf else constraints.real, parameter.shape
    )
