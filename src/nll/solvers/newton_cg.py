"""Newton's method for many parameters: each step by conjugate gradients in a trust region.

The information is never formed: a step needs its products with some vectors (Steihaug 1983; Nocedal
and Wright 2006, algorithm 7.2), in units in which its diagonal, estimated from a few random vectors
(Bekas, Kokiopoulou and Saad 2007), is 1. It stops as `trust_region` does, on the Newton decrement.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nll.solvers.outcome import MAX_SHRINKS, MAX_STEPS, Optimum, Progress, Sums, stopped
from nll.solvers.trust_region import CONTRACTION, NEAR, TOLERANCE

_PROBES = 12  # random vectors for the diagonal
# the share of the score that a step leaves, far from the maximum and near it
_ROUGH, _FINE = 0.1, 1e-6

Value = Callable[[Tensor], tuple[Tensor, Tensor]]  # theta (P) -> log-likelihood, score (P)
Product = Callable[[Tensor], Tensor]  # the information times a vector (P)


class _Step(NamedTuple):
    step: Tensor
    expected: float  # gain
    length: float  # in units of the diagonal
    newton: bool  # whether it lies inside the region
    weakest: float  # the least curvature along its directions


def maximise_by_products(
    value: Value,
    curvature: Callable[[Tensor], Product],
    start: Tensor,
    unit: float,
    progress: Progress | None = None,
    diagonal: Tensor | None = None,
    enough: float | None = None,
) -> Optimum:
    """Maximise a function given its value and score, and its information as a product.

    Args:
        value: called with (P).
        curvature: called with (P); returns the product of the information there with a vector.
        start: (P).
        unit: of the value.
        progress: called before each step with (step, value, decrement).
        diagonal: the information's, if it is known well enough.
        enough: the decrement, in units, from which the next step is the last, its value not asked;
            None: far beyond the tolerance.

    Returns: the optimum; its `sums` have no information (NaN), and are those before the last step
        if its value was not asked.
    """
    theta, (here, score) = start.clone(), value(start)
    steps = shrunk = 0
    proved = False
    if not bool(here.isfinite() & score.isfinite().all()):
        return _optimum(theta, here, score, float("nan"), steps, shrunk, reached=False)
    times = curvature(theta)
    scale = _diagonal(times, len(theta)) if diagonal is None else diagonal
    radius = max(float((score.square() / scale).sum().sqrt()), unit**0.5)
    move = _conjugate_gradients(score, times, scale, radius, _ROUGH)
    decrement = move.expected
    while True:
        if progress is not None:
            progress(steps, float(here), decrement)
        there, score_there = value(theta + move.step)
        taken, radius = _trial(move, here, there, score_there, radius, unit)
        small = decrement <= TOLERANCE * unit and move.newton
        if taken:
            theta, here, score = theta + move.step, there, score_there
            shrunk, steps = 0, steps + 1
            times = curvature(theta)
        elif small:
            return _optimum(theta, here, score, decrement, steps, shrunk + 1, proved=proved)
        else:
            shrunk += 1
        # The square root leaves the convergence faster than linear (Nocedal and Wright 2006,
        # section 7.1).
        rest = min(_ROUGH, max(_FINE, (decrement / unit) ** 0.5)) if enough is None else _ROUGH
        move = _conjugate_gradients(score, times, scale, radius, rest)
        near = taken and decrement <= NEAR * min(unit, 1.0)
        proved |= near and move.expected <= CONTRACTION * decrement
        decrement = move.expected
        if enough is not None and decrement <= enough * unit and move.newton:
            last = _optimum(theta + move.step, here, score, decrement, steps + 1, shrunk)
            return last._replace(weakest=move.weakest)
        if small and decrement <= TOLERANCE * unit:
            return _optimum(theta, here, score, decrement, steps, shrunk, proved=proved)
        if shrunk >= MAX_SHRINKS or steps >= MAX_STEPS:
            return _optimum(theta, here, score, decrement, steps, shrunk, reached=False)


def _trial(
    move: _Step, here: Tensor, there: Tensor, score: Tensor, radius: float, unit: float
) -> tuple[bool, float]:
    """Whether a step raises the value, and the radius for the next."""
    gain, slack = float(there - here), 1e-12 * (unit + abs(float(here)))
    ratio = 1.0 if gain >= -slack else -1.0
    if move.expected > slack:
        ratio = gain / move.expected
    finite = bool(there.isfinite() & score.isfinite().all())
    taken = finite and (ratio > 1e-4 or (move.expected <= 1e4 * slack and gain >= -slack))
    if not taken:
        return False, move.length / 4
    if ratio <= 0.25:
        return True, move.length / 2
    return True, 2 * radius if ratio > 0.75 and not move.newton else radius


def _optimum(
    theta: Tensor,
    value: Tensor,
    score: Tensor,
    decrement: float,
    steps: int,
    shrunk: int,
    reached: bool = True,
    proved: bool = False,
) -> Optimum:
    size = len(theta)
    unknown = torch.full((1, 1), torch.nan, dtype=torch.float64).expand(size, size)
    status = "converged" if reached else stopped(decrement, shrunk)
    sums = Sums(value, score, unknown)
    return Optimum(theta, sums, decrement, steps, reached, status, proved, shrunk)


def _diagonal(times: Product, size: int) -> Tensor:
    """E[v * I v] over random signs v is the diagonal; a few of them give its size."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(size, dtype=torch.float64)
    for _ in range(_PROBES):
        v = 2.0 * torch.randint(0, 2, (size,), generator=generator, dtype=torch.float64) - 1
        total += v * times(v)
    total = (total / _PROBES).abs()
    return total.clamp(min=float(total.max()) * 1e-12 or 1.0)


def _conjugate_gradients(
    score: Tensor, times: Product, scale: Tensor, radius: float, residual: float
) -> _Step:
    """Maximise g'd - d'Id / 2 within the radius, along conjugate directions."""
    d, rest = torch.zeros_like(score), score.clone()
    moved = torch.zeros_like(score)  # I d
    z = rest / scale
    direction, rz = z.clone(), float(rest @ z)
    weakest = float("inf")
    enough = rz * residual**2
    for _ in range(2 * len(score)):
        if rz <= enough or rz == 0.0:
            break
        product = times(direction)
        bend = float(direction @ product)
        weakest = min(weakest, bend / float(scale @ direction.square()))
        far = _to_boundary(d, direction, scale, radius)
        ahead = rz / bend if bend > 0 else float("inf")
        if ahead >= far:
            d, moved = d + far * direction, moved + far * product
            return _Step(d, float(score @ d - d @ moved / 2), radius, False, weakest)
        d, moved, rest = d + ahead * direction, moved + ahead * product, rest - ahead * product
        z = rest / scale
        before, rz = rz, float(rest @ z)
        direction = z + rz / before * direction
    return _Step(
        d, float(score @ d - d @ moved / 2), float((scale * d.square()).sum().sqrt()), True, weakest
    )


def _to_boundary(d: Tensor, direction: Tensor, scale: Tensor, radius: float) -> float:
    """The t > 0 with |d + t direction| = radius."""
    a, b = float(scale @ direction.square()), float((scale * d) @ direction)
    c = radius**2 - float(scale @ d.square())
    return max(c, 0.0) / (b + (b * b + a * max(c, 0.0)) ** 0.5) if c > 0 else 0.0
