"""Newton's method for many parameters: each step by conjugate gradients in a trust region, from
products alone.

The information is never formed: a step needs its products with some vectors (Steihaug 1983; Nocedal
and Wright 2006, algorithm 7.2), in units in which its diagonal, estimated from a few random vectors
(Bekas, Kokiopoulou and Saad 2007), is 1. It stops where `optimise` does, on the Newton decrement.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nll.solvers.trust_region import CONTRACTION, MAX_SHRINKS, MAX_STEPS, NEAR, TOLERANCE, Progress

_PROBES = 12  # random vectors for the diagonal
_ROUGH, _FINE = 0.1, 1e-6  # of the score, what a step leaves of it far from the maximum and near it

Value = Callable[[Tensor], tuple[Tensor, Tensor]]  # theta (P) -> log-likelihood, score (P)
Product = Callable[[Tensor], Tensor]  # the information times a vector (P)


class Reached(NamedTuple):
    """Where a search ended."""

    theta: Tensor
    decrement: float
    steps: int
    reached: bool
    shrunk: int
    # the least curvature that the last step met, in units of the diagonal
    weakest: float = float("nan")
    proved: bool = False  # as `optimise` has it


class _Step(NamedTuple):
    step: Tensor
    expected: float  # gain
    length: float  # in units of the diagonal
    newton: bool  # whether it lies inside of the region
    weakest: float  # the least curvature along its directions


def maximise_by_products(
    value: Value,
    curvature: Callable[[Tensor], Product],
    start: Tensor,
    unit: float,
    progress: Progress | None = None,
    diagonal: Tensor | None = None,
    enough: float | None = None,
) -> Reached:
    """Maximise a function given its value and score, and the information at a place as a product.

    `diagonal`: the information's, if it is known near enough. `enough`: the decrement, in units,
    from which one more step, of which the value is not asked, is the last; None: far beyond the
    tolerance.
    """
    theta, (here, score) = start.clone(), value(start)
    if not bool(here.isfinite() & score.isfinite().all()):
        return Reached(theta, float("nan"), 0, False, 0)
    steps = shrunk = 0
    proved = False
    times = curvature(theta)
    scale = _diagonal(times, len(theta)) if diagonal is None else diagonal
    radius = max(float((score.square() / scale).sum().sqrt()), unit**0.5)
    found = _conjugate_gradients(score, times, scale, radius, _ROUGH)
    decrement = found.expected
    while True:
        if progress is not None:
            progress(steps, float(here), decrement)
        there, slope = value(theta + found.step)
        gain, slack = float(there - here), 1e-12 * (unit + abs(float(here)))
        ratio = (
            gain / found.expected if found.expected > slack else (1.0 if gain >= -slack else -1.0)
        )
        fine = bool(there.isfinite() & slope.isfinite().all())
        taken = fine and (ratio > 1e-4 or (found.expected <= 1e4 * slack and gain >= -slack))
        small = decrement <= TOLERANCE * unit and found.newton
        if taken:
            theta, here, score, shrunk, steps = theta + found.step, there, slope, 0, steps + 1
            times = curvature(theta)
            radius = (
                2 * radius
                if ratio > 0.75 and not found.newton
                else radius
                if ratio > 0.25
                else found.length / 2
            )
        else:
            radius, shrunk = found.length / 4, shrunk + 1
        if small and not taken:
            return Reached(theta, decrement, steps, True, shrunk, proved=proved)
        # The square root leaves the convergence faster than linear (Nocedal and Wright 2006,
        # section 7.1).
        rest = min(_ROUGH, max(_FINE, (decrement / unit) ** 0.5)) if enough is None else _ROUGH
        found = _conjugate_gradients(score, times, scale, radius, rest)
        proved |= (
            taken
            and decrement <= NEAR * min(unit, 1.0)
            and found.expected <= CONTRACTION * decrement
        )
        decrement = found.expected
        if enough is not None and decrement <= enough * unit and found.newton:
            return Reached(theta + found.step, decrement, steps + 1, True, shrunk, found.weakest)
        if small and decrement <= TOLERANCE * unit:
            return Reached(theta, decrement, steps, True, shrunk, proved=proved)
        if shrunk >= MAX_SHRINKS or steps >= MAX_STEPS:
            return Reached(theta, decrement, steps, False, shrunk)


def _diagonal(times: Product, size: int) -> Tensor:
    """E[v * I v] over random signs v is the diagonal; a few of them give its size, which is all
    that is needed.
    """
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
    """Maximise g'd - d'Id / 2 within the radius: follow conjugate directions to its boundary or to
    the maximum.
    """
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
