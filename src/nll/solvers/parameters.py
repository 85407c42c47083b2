"""Named, constrained parameters, and the free numbers that a search moves.

Each parameter lives in a constraint of torch.distributions. `biject_to` maps numbers without bounds
onto it, so that a search needs none; what is fixed, bounded or tied to another parameter is settled
here.
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
    """d (d + 1) / 2 numbers onto lower triangles with a positive diagonal, or their squares L L'.

    PyTorch's own transform takes d^2 numbers, of which it ignores some: a search would see
    directions that are flat.
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
    """Where a parameter lives, and its shape."""

    constraint: Constraint = constraints.real
    shape: tuple[int, ...] = ()

    @property
    def transform(self) -> Any:
        """From numbers without bounds onto the constraint."""
        if self.constraint in (constraints.positive_definite, constraints.lower_cholesky):
            return _Cholesky(self.shape[-1], self.constraint is constraints.positive_definite)
        return biject_to(self.constraint)

    @property
    def free_shape(self) -> torch.Size:
        """The shape of those numbers."""
        return self.transform.inverse_shape(torch.Size(self.shape))


class Entry(NamedTuple):
    """A parameter's place in the vectors of a layout."""

    name: str
    parameter: Parameter
    flat: slice  # among all parameters, flattened
    free: slice  # among the free numbers; empty if the parameter is not free

    @property
    def is_plain(self) -> bool:
        """Whether each of its free numbers stands for one number of the parameter."""
        size = self.free.stop - self.free.start
        return size > 0 and self.parameter.free_shape == self.parameter.shape


@dataclass(frozen=True)
class Layout:
    """All parameters of a model; those that are free one after another in a vector."""

    parameters: dict[str, Parameter]
    fixed: dict[str, Tensor] = field(default_factory=dict)
    tied: dict[str, str | Callable[[Params], Tensor]] = field(default_factory=dict)

    @property
    def free(self) -> dict[str, Parameter]:
        """The parameters that a search moves."""
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
        """How many numbers are free."""
        return sum(p.free_shape.numel() for p in self.free.values())

    @property
    def unbounded(self) -> Tensor:
        """Which of the numbers are parameters themselves, not their logarithms or the like."""
        whole = [
            p.constraint is constraints.real
            for p in self.free.values()
            for _ in range(p.free_shape.numel())
        ]
        return torch.tensor(whole, dtype=torch.bool)

    def natural(self, theta: Tensor) -> Params:
        """The parameters, (B, *shape) each, at the numbers (B, P)."""
        found: Params = {}
        at = 0
        for name, parameter in self.free.items():
            shape = parameter.free_shape
            part = theta[:, at : at + shape.numel()].reshape(len(theta), *shape)
            found[name], at = parameter.transform(part), at + shape.numel()
        for name, value in self.fixed.items():
            found[name] = value.expand(len(theta), *self.parameters[name].shape)
        for name, source in self.tied.items():
            found[name] = found[source] if isinstance(source, str) else source(found)
        return {name: found[name] for name in self.parameters}

    def numbers(self, params: Mapping[str, Tensor]) -> Tensor:
        """The numbers (B, P) of parameters (B, *shape)."""
        parts = [
            p.transform.inv(_inside(params[name], p.constraint)) for name, p in self.free.items()
        ]
        count = len(next(iter(params.values())))
        return (
            torch.cat([part.reshape(count, -1) for part in parts], 1)
            if parts
            else torch.empty(count, 0, dtype=torch.float64)
        )

    def jacobian(self, theta: Tensor) -> Tensor:
        """(B, N, P): the derivatives of all parameters, flattened, by the free numbers."""
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
        """One name for each number of all parameters."""
        return [
            name + (f"[{', '.join(map(str, at))}]" if at else "")
            for name, parameter in self.parameters.items()
            for at in product(*map(range, parameter.shape))
        ]

    def describe(self) -> list[str]:
        """One name for each free number."""
        return [
            name + (f"[{index}]" if parameter.free_shape else "")
            for name, parameter in self.free.items()
            for index in range(parameter.free_shape.numel())
        ]


def moved(parameters: Mapping[str, Parameter], vector: Tensor, index: int, step: float) -> Tensor:
    """Flattened parameters with one number moved, and with it what its constraint ties to it: the
    other shares of a simplex keep their ratios, and a symmetric matrix stays symmetric.
    """
    found, at = vector.clone(), 0
    if not parameters:
        found[index] += step
    for parameter in parameters.values():
        size = math.prod(parameter.shape)
        own, place = found[at : at + size], index - at
        at += size
        if not 0 <= place < size:
            continue
        if isinstance(parameter.constraint, type(constraints.simplex)):
            own *= (1 - own[place] - step) / (1 - own[place])
            own[place] = vector[index] + step
        else:
            own[place] += step
            row, column = divmod(place, parameter.shape[-1] if parameter.shape else 1)
            if parameter.constraint is constraints.positive_definite and row != column:
                own[column * parameter.shape[-1] + row] += step
    return found


def _inside(value: Tensor, constraint: Constraint) -> Tensor:
    """The value, moved off the boundary of its constraint, where the numbers would be infinite."""
    tiny = torch.finfo(torch.float64).tiny
    low, high = (getattr(constraint, name, None) for name in ("lower_bound", "upper_bound"))
    if isinstance(constraint, type(constraints.simplex)):
        value = value.clamp(min=1e-6)
        return value / value.sum(-1, keepdim=True)
    if low is not None and high is not None:
        room = 1e-6 * (high - low)
        return value.clamp(low + room, high - room)
    if low is not None:
        return torch.maximum(
            value, torch.as_tensor(low + max(tiny, 1e-9 * abs(low)), dtype=value.dtype)
        )
    if high is not None:
        return torch.minimum(
            value, torch.as_tensor(high - max(tiny, 1e-9 * abs(high)), dtype=value.dtype)
        )
    return value


def layout(
    parameters: Mapping[str, Parameter],
    fixed: Mapping[str, Any] | None = None,
    bounds: Mapping[str, Any] | None = None,
) -> Layout:
    """The layout of parameters of which some are fixed to a value, tied to another by its name, or
    bounded.

    Raises: TypeError and ValueError naming the parameter that is unknown, or a value outside its
        constraint.
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
    """A value given by the user for a parameter, checked."""
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
    """A constraint as a reader would say it."""
    low, high = (getattr(constraint, name, None) for name in ("lower_bound", "upper_bound"))
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
    own = parameter.constraint
    if not (own is constraints.real or hasattr(own, "lower_bound") or hasattr(own, "upper_bound")):
        raise ValueError(
            f"expected bounds for a parameter of real numbers, got {name}, which is {said(own)}"
        )
    low = max(low, float(getattr(own, "lower_bound", -math.inf)))
    high = min(high, float(getattr(own, "upper_bound", math.inf)))
    if not low < high:
        raise ValueError(
            f"expected bounds[{name!r}] with room for {name}, which is {said(own)}, got {limits!r}"
        )
    if low > -math.inf and high < math.inf:
        return Parameter(constraints.interval(low, high), parameter.shape)
    if low > -math.inf:
        return Parameter(constraints.greater_than(low), parameter.shape)
    return Parameter(
        constraints.less_than(high) if high < math.inf else constraints.real, parameter.shape
    )
