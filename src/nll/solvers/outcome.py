"""Where a maximisation ended, as values that code reads."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor

MAX_STEPS = 200
MAX_SHRINKS = 20  # reductions of the radius, by 4, without a step that raises the value

Progress = Callable[[int, float, float], None]  # (step, log-likelihood, decrement)


class Status(Enum):
    """How a fit ended."""

    CONVERGED = "converged"
    CLOSED_FORM = "closed form"
    BOUNDARY = "at the boundary"  # the maximum lies at the end of the parameter space
    NOT_REGULAR = "not regular"  # a maximum, but the usual standard errors do not apply
    NOT_IDENTIFIED = "not identified"  # a flat direction: the data do not identify some combination
    SEPARATED = "separated"  # no finite estimate: classes are separated along a direction
    UNBOUNDED = "no maximum"
    MAX_STEPS = "out of steps"  # or no step raised the value: the search ended early
    OUTSIDE = "outside of the parameter space"  # a parameter tied to others has an invalid value
    NOT_FINITE = "not finite"

    @property
    def ok(self) -> bool:
        """Whether there is a maximum, and it was reached."""
        return self in _MAXIMA


_MAXIMA = frozenset({Status.CONVERGED, Status.CLOSED_FORM, Status.BOUNDARY, Status.NOT_REGULAR})


class Sums(NamedTuple):
    """Sums over the rows at one value of the parameters, or at several along a first dimension."""

    log_likelihood: Tensor  # scalar
    score: Tensor  # (P)
    information: Tensor  # (P, P), minus the second derivative


class Optimum(NamedTuple):
    """Where a search ended."""

    theta: Tensor
    sums: Sums
    decrement: float
    steps: int
    reached: bool  # whether the decrement fell below the tolerance
    status: str
    proved: bool = False  # whether the decrements fell as they do only near a maximum
    shrunk: int = 0  # reductions of the radius since the last step
    # the least curvature along the last step's directions, in units of the diagonal
    weakest: float = float("nan")

    @property
    def verdict(self) -> Status:
        if self.decrement != self.decrement:
            return Status.NOT_FINITE
        return Status.CONVERGED if self.reached else Status.MAX_STEPS

    def batched(self) -> Optima:
        sums = Sums(*(part[None] for part in self.sums))
        numbers = (self.steps, self.reached, self.shrunk, self.proved)
        decrement = torch.tensor([self.decrement], dtype=torch.float64)
        return Optima(self.theta[None], sums, decrement, *(torch.tensor([n]) for n in numbers))


class Optima(NamedTuple):
    """Where each of several searches ended."""

    theta: Tensor  # (B, P)
    sums: Sums
    decrement: Tensor  # (B)
    steps: Tensor  # (B)
    reached: Tensor  # (B)
    shrunk: Tensor  # (B)
    proved: Tensor  # (B)

    def one(self, index: int) -> Optimum:
        sums = Sums(*(part[index] for part in self.sums))
        reached, proved = bool(self.reached[index]), bool(self.proved[index])
        decrement, steps = float(self.decrement[index]), int(self.steps[index])
        shrunk = int(self.shrunk[index])
        status = "converged" if reached else stopped(decrement, shrunk)
        return Optimum(self.theta[index], sums, decrement, steps, reached, status, proved, shrunk)


def stopped(decrement: float, shrunk: int) -> str:
    """Say why a search ended before the maximum."""
    if decrement != decrement:
        return "not finite: the likelihood at the starting values"
    if shrunk < MAX_SHRINKS:
        return f"out of steps: {MAX_STEPS} Newton steps"
    return (
        f"stopped: no step along the ascent direction raises the likelihood (expected gain "
        f"{decrement:.3g})"
    )
