"""Newton's method for a log-likelihood, with a line search; it stops on the Newton decrement.

With score g and information I (minus the Hessian) the step is d = I^-1 g, and the decrement g'd / 2 is the gain
in log-likelihood that the quadratic model expects of it (Boyd and Vandenberghe 2004, section 9.5): a distance to
the maximum in units that do not depend on the parameters' scales.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# Where the decrement is this small, one more full step ends at rounding error: the steps converge quadratically.
_TOLERANCE = 1e-10
_MAX_STEPS = 200
_MAX_HALVINGS = 40


class Sums(NamedTuple):
    """What the rows add up to at one value of the parameters."""

    log_likelihood: Tensor  # scalar
    score: Tensor  # (P)
    information: Tensor  # (P, P), minus the second derivative


class Optimum(NamedTuple):
    """Where the search ended."""

    theta: Tensor
    sums: Sums
    decrement: float
    steps: int
    reached: bool  # whether the decrement fell below the tolerance
    status: str


Progress = Callable[[int, float, float], None]  # (step, log-likelihood, decrement)


def maximise(
    sums: Callable[[Tensor], Sums], start: Tensor, progress: Progress | None = None, unit: float = 1.0
) -> Optimum:
    """Maximise a smooth function, given its value, score and information as one call; `unit`: of its value."""
    theta, here, decrement = start, sums(start), torch.nan
    if not _finite(here):
        return Optimum(theta, here, torch.nan, 0, False, "not finite: the likelihood at the starting values")
    for step in range(_MAX_STEPS):
        direction = ascent(here)
        decrement = float(here.score @ direction) / 2
        if progress is not None:
            progress(step, float(here.log_likelihood), decrement)
        found = _line_search(sums, theta, here, direction, decrement, unit)
        if found is None:
            return Optimum(theta, here, decrement, step, decrement <= _TOLERANCE * unit, _stuck(decrement))
        theta, here = found
        if decrement <= _TOLERANCE * unit:
            last = max(float(here.score @ ascent(here)) / 2, 0.0)
            if last <= _TOLERANCE * unit:
                return Optimum(theta, here, last, step + 1, True, "converged")
            decrement = last
    return Optimum(theta, here, decrement, _MAX_STEPS, False, f"out of steps: {_MAX_STEPS} Newton steps")


def _finite(sums: Sums) -> bool:
    return all(bool(torch.isfinite(part).all()) for part in sums)


def ascent(sums: Sums) -> Tensor:
    """Solve I d = g in units that make I's diagonal 1; where I is not positive definite, raise its diagonal."""
    diagonal = sums.information.diagonal().abs()
    unit = diagonal.clamp(min=torch.finfo(diagonal.dtype).tiny).rsqrt()
    unit = torch.where(diagonal > 0, unit, 1.0)
    scaled = unit[:, None] * sums.information * unit
    damping = 0.0
    while True:
        factor, failed = torch.linalg.cholesky_ex(scaled + damping * torch.eye(len(unit), dtype=scaled.dtype))
        if not int(failed):
            return unit * torch.cholesky_solve((unit * sums.score)[:, None], factor)[:, 0]
        damping = max(4 * damping, 1e-8)


def _line_search(
    sums: Callable[[Tensor], Sums], theta: Tensor, here: Sums, direction: Tensor, decrement: float, unit: float
) -> tuple[Tensor, Sums] | None:
    """Halve the step until the value rises by a ten-thousandth of what is expected (Armijo), or to rounding."""
    value = float(here.log_likelihood)
    slack = 1e-12 * (unit + abs(value))
    length = 1.0
    for _ in range(_MAX_HALVINGS):
        ahead = theta + length * direction
        there = sums(ahead)
        if _finite(there) and float(there.log_likelihood) >= value + 2e-4 * length * decrement - slack:
            return ahead, there
        length /= 2
    return None


def _stuck(decrement: float) -> str:
    return f"stopped: no step along the ascent direction raises the likelihood (expected gain {decrement:.3g})"
