"""Newton's method in a trust region, for one likelihood or for many at once; it stops on the Newton
decrement.

With score g and information I (minus the Hessian), a step d maximises the quadratic model g'd -
d'Id / 2 within a radius, in units in which I's diagonal is 1 (Nocedal and Wright 2006, chapter 4).
Inside of it d = I^-1 g, and the decrement g'd / 2 is the gain in log-likelihood that the model
expects (Boyd and Vandenberghe 2004, section 9.5): a distance to the maximum in units that do not
    depend on the parameters' scales.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# Where the decrement is this small, one more full step ends at rounding error: the steps converge
# quadratically.
TOLERANCE = 1e-10
MAX_STEPS = 200
MAX_SHRINKS = 20  # of the radius, by 4, without a step that raises the value
_FEW = 64  # parameters: above, a factorisation is tried before the eigenvalues are
_SECULAR_STEPS = 60
_FLAT = 1e-13  # a curvature, in units of the diagonal's, that is rounding
# Near a maximum the decrements fall quadratically. Towards a limit at infinity they fall for ever
# too, but each only by a factor of about e (2.7) or less: Newton's step there gains a fixed share
# of what is left.
NEAR, CONTRACTION = 1e-3, 1e-2


class Sums(NamedTuple):
    """What the rows add up to at one value of the parameters, or at several: then with a first
    dimension for each.
    """

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
    proved: bool = False  # whether the decrements fell as they do near a maximum alone


class Optima(NamedTuple):
    """Where each of several searches ended."""

    theta: Tensor  # (B, P)
    sums: Sums
    decrement: Tensor  # (B)
    steps: Tensor  # (B)
    reached: Tensor  # (B)
    shrunk: Tensor  # (B): how often the radius shrank since the last step
    proved: Tensor  # (B): whether the decrements fell as they do near a maximum alone

    def one(self, index: int) -> Optimum:
        """The search of one of them."""
        sums = Sums(*(part[index] for part in self.sums))
        decrement, steps = float(self.decrement[index]), int(self.steps[index])
        status = "converged"
        if not self.reached[index]:
            status = stopped(decrement, int(self.shrunk[index]))
        reached, proved = bool(self.reached[index]), bool(self.proved[index])
        return Optimum(self.theta[index], sums, decrement, steps, reached, status, proved)


Progress = Callable[[int, float, float], None]  # (step, log-likelihood, decrement)


def maximise(
    sums: Callable[[Tensor], Sums],
    start: Tensor,
    progress: Progress | None = None,
    unit: float = 1.0,
    enough: float | None = None,
) -> Optimum:
    """Maximise a smooth function, given its value, score and information as one call.

    Args:
        sums: of the parameters (P).
        start: (P).
        progress: called before each step with (step, value, decrement).
        unit: of the value.
        enough: the decrement, in units, at which the search stops at once; None: a step beyond the
            tolerance.
    """

    def batched(theta: Tensor, _: Tensor) -> Sums:
        return Sums(*(part[None] for part in sums(theta[0])))

    return maximise_each(
        batched, start[None], torch.tensor([unit], dtype=start.dtype), progress, enough
    ).one(0)


def decrement_of(sums: Sums) -> float:
    """The gain that one more Newton step would be expected to bring."""
    one = Sums(*(part[None] for part in sums))
    return float(_scaled(one).first_look()[0]) if bool(_finite(one)) else 0.0


def maximise_each(
    sums: Callable[[Tensor, Tensor], Sums],
    start: Tensor,
    unit: Tensor,
    progress: Progress | None = None,
    enough: float | None = None,
    most_steps: int = MAX_STEPS,
    most_shrinks: int = MAX_SHRINKS,
) -> Optima:
    """Maximise several functions at once.

    Args:
        sums: values, scores and informations at (b, P) parameters, of the functions with the given
            numbers (b).
        start: (B, P).
        unit: (B), of each function's value: the tolerances are in it.
        progress: called before each step with the sum of the values and the largest decrement.
        enough: as `maximise` takes it.
        most_steps, most_shrinks: of each.
    """
    theta, count = start.clone(), len(start)
    here = sums(theta, torch.arange(count))
    decrement = torch.full((count,), torch.nan, dtype=start.dtype)
    steps, shrunk = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
    reached, radius = torch.zeros(count, dtype=torch.bool), torch.full_like(decrement, torch.nan)
    proved = torch.zeros(count, dtype=torch.bool)
    active = _finite(here).nonzero()[:, 0]
    if len(active):
        decrement[active], first = _scaled(_of(here, active)).first_look()
        # at least as far as one observation tells
        radius[active] = torch.maximum(first, unit[active].sqrt())
        if enough is not None:
            reached[active] = decrement[active] <= enough * unit[active]
            active = active[~reached[active]]
    while len(active):
        at = _of(here, active)
        newton = _scaled(at)
        step, expected, inside = newton.step(radius[active])
        if progress is not None:
            progress(int(steps.max()), float(here.log_likelihood.sum()), float(decrement.max()))
        there = sums(theta[active] + step, active)
        scale = unit[active]
        gain, slack = (
            there.log_likelihood - at.log_likelihood,
            1e-12 * (scale + at.log_likelihood.abs()),
        )
        ratio = torch.where(
            expected > slack, gain / expected, torch.where(gain >= -slack, 1.0, -1.0)
        )
        taken = _finite(there) & ((ratio > 1e-4) | ((expected <= 1e4 * slack) & (gain >= -slack)))
        length = newton.length(step)
        grow = (ratio > 0.75) & ~inside
        radius[active] = torch.where(
            taken & (ratio > 0.25),
            torch.where(grow, 2 * radius[active], radius[active]),
            torch.where(taken, length / 2, length / 4),
        )
        shrunk[active] = torch.where(taken, 0, shrunk[active] + 1)
        moved = active[taken]
        theta[moved] += step[taken]
        steps[moved] += 1
        for part, new in zip(here, there, strict=True):
            part[moved] = new[taken]
        small = decrement[active] <= TOLERANCE * scale  # before this step
        if len(moved):
            before = decrement[moved]
            model = _scaled(_of(here, moved))
            decrement[moved], _ = model.first_look()
            near = before <= NEAR * unit[moved].clamp(max=1.0)
            near = near if model.level is None else near & ~model.level
            proved[moved] |= near & (decrement[moved] <= CONTRACTION * before)
        if enough is None:
            reached[active] = small & (~taken | (decrement[active] <= TOLERANCE * scale))
        else:
            reached[active] = decrement[active] <= enough * scale
        active = active[
            ~reached[active] & (shrunk[active] < most_shrinks) & (steps[active] < most_steps)
        ]
    return Optima(theta, here, decrement, steps, reached, shrunk, proved & reached)


def _of(sums: Sums, which: Tensor) -> Sums:
    return Sums(*(part[which] for part in sums))


def _finite(sums: Sums) -> Tensor:
    return torch.stack(
        [part.isfinite().flatten(1).all(1) for part in (part[..., None] for part in sums)]
    ).all(0)


class _Scaled(NamedTuple):
    """Quadratic models in units in which the information has a unit diagonal.

    Directions that have neither curvature nor slope are left alone: to the steps they look like a
        maximum.
    """

    unit: Tensor  # (B, P)
    score: Tensor  # (B, P)
    information: Tensor  # (B, P, P)
    # (B, P, P), the Cholesky factor where every information is positive definite
    factor: Tensor | None
    # else its eigenvalues (B, P), ascending, eigenvectors, and the score along these
    eigen: tuple[Tensor, ...]
    level: Tensor | None = None  # (B), whether a direction was left alone

    def length(self, step: Tensor) -> Tensor:
        return (step / self.unit).square().sum(1).sqrt()

    def first_look(self) -> tuple[Tensor, Tensor]:
        """The decrement, of absolute curvatures and a step along a negative one; the length of
        Newton's step, or 0.
        """
        if self.factor is not None:
            d = torch.cholesky_solve(self.score[..., None], self.factor)[..., 0]
            return (self.score * d).sum(1) / 2, d.square().sum(1).sqrt()
        values, _, g = self.eigen
        size = values.abs().clamp(min=torch.finfo(g.dtype).eps)
        lowest = values.amin(1)
        newton = torch.where(lowest > 0, (g / size).square().sum(1).sqrt(), 0.0)
        return (g.square() / size).sum(1) / 2 + (-lowest - _FLAT).clamp(min=0.0) / 2, newton

    def step(self, radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best step within the radius, the gain expected of it, and whether it is Newton's
        own.
        """
        if self.factor is not None:
            d = torch.cholesky_solve(self.score[..., None], self.factor)[..., 0]
            inside = d.square().sum(1).sqrt() <= radius * (1 + 1e-10)
            if not bool(inside.all()):
                return _with_eigenvalues(self).step(radius)
        else:
            values, vectors, g = self.eigen
            d, inside = _within(g, values, radius)
            d = (vectors @ d[..., None])[..., 0]
        expected = (self.score * d).sum(1) - (d * (self.information @ d[..., None])[..., 0]).sum(
            1
        ) / 2
        return self.unit * d, expected, inside


def _scaled(sums: Sums) -> _Scaled:
    diagonal = sums.information.diagonal(dim1=-2, dim2=-1).abs()
    unit = torch.where(
        diagonal > 0, diagonal.clamp(min=torch.finfo(diagonal.dtype).tiny).rsqrt(), 1.0
    )
    information = (sums.information * unit[..., None]).mul_(unit[..., None, :])
    scaled = _Scaled(unit, unit * sums.score, information, None, (unit, information))
    if unit.shape[1] > _FEW:
        factor, failed = torch.linalg.cholesky_ex(information)
        if not bool(failed.any()):
            return scaled._replace(factor=factor)
    return _with_eigenvalues(scaled)


def _with_eigenvalues(scaled: _Scaled) -> _Scaled:
    values, vectors = torch.linalg.eigh(scaled.information)
    g = (vectors.mT @ scaled.score[..., None])[..., 0]
    flat = (values.abs() < _FLAT) & (g.abs() < _FLAT**0.5)
    eigen = torch.where(flat, 1.0, values), vectors, torch.where(flat, 0.0, g)
    return scaled._replace(factor=None, eigen=eigen, level=flat.any(1))


def _within(g: Tensor, values: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Maximise g'd - sum values d^2 / 2 for |d| <= radius, and whether the maximum lies inside.

    On the boundary d = g / (values + m), with the m that makes |d| the radius: 1 / |d| is nearly
    linear in m, so that Newton's method finds it (More and Sorensen 1983), kept between bounds.
    Where the score has no part along the lowest curvature, the rest of the radius is gone along it.
    """
    lowest, size = values.amin(1), g.square().sum(1).sqrt()
    convex = lowest > _FLAT
    newton = g / torch.where(convex[:, None], values, 1.0)
    inside = convex & (newton.square().sum(1).sqrt() <= radius * (1 + 1e-10))
    low = (-lowest).clamp(min=0.0) + 1e-14
    high = torch.maximum(low, size / radius - lowest) + 1e-14
    m = torch.maximum(low, torch.minimum(high, (size / radius - values.amax(1)).clamp(min=0.0)))
    for _ in range(_SECULAR_STEPS):
        shifted = values + m[:, None]
        d = g / shifted
        length = d.square().sum(1).sqrt()
        low, high = torch.where(length > radius, m, low), torch.where(length < radius, m, high)
        slope = (d.square() / shifted).sum(1) / length.square().clamp(min=torch.finfo(g.dtype).tiny)
        ahead = m + (length / radius - 1) / slope.clamp(min=torch.finfo(g.dtype).tiny)
        if bool((((length / radius - 1).abs() < 1e-6) | inside).all()):
            break
        m = torch.where((ahead > low) & (ahead < high), ahead, (low + high) / 2)
    d = g / (values + m[:, None])
    rest = torch.where(
        lowest < -_FLAT, (radius.square() - d.square().sum(1)).clamp(min=0.0).sqrt(), 0.0
    )
    d[:, 0] += torch.where(d[:, 0] < 0, -rest, rest)
    return torch.where(inside[:, None], newton, d), inside


def stopped(decrement: float, shrunk: int) -> str:
    """Why a search ended before the maximum; `shrunk`: how often in a row the radius shrank."""
    if decrement != decrement:
        return "not finite: the likelihood at the starting values"
    if shrunk < MAX_SHRINKS:
        return f"out of steps: {MAX_STEPS} Newton steps"
    return (
        f"stopped: no step along the ascent direction raises the likelihood (expected gain "
        f"{decrement:.3g})"
    )
