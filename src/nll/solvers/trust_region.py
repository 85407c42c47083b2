"""Newton's method in a trust region, for one likelihood or for many at once, until the Newton
decrement is small.

With score g and information I (minus the Hessian), a step d maximises the quadratic model g'd -
d'Id / 2 within a radius, in units in which I's diagonal is 1 (Nocedal and Wright 2006, chapter 4).
Inside of it d = I^-1 g, and the decrement g'd / 2 is the gain in log-likelihood that the model
expects (Boyd and Vandenberghe 2004, section 9.5): a distance to the maximum that does not depend on
the parameters' units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nll.solvers.outcome import MAX_SHRINKS, MAX_STEPS, Optima, Optimum, Progress, Sums

# At this decrement one more full step ends at rounding error: the steps converge quadratically.
TOLERANCE = 1e-10
_FEW = 64  # parameters: above, a factorisation is tried before the eigenvalues are
_SECULAR_STEPS = 60
# Curvatures, in units of the diagonal's: one that proves nothing, one that may be rounding, and one
# that is; a gain, twice, for which a step is taken along one that may be.
_WEAK, _FLAT, _ROUNDING, _GAIN = 1e-11, 1e-13, 1e-14, 1e-8
# Near a maximum the decrements fall quadratically. Towards a limit at infinity they fall for ever
# too, but each only by a factor of about e (2.7) or less: there Newton's step gains a fixed share
# of the remaining rise.
NEAR, CONTRACTION = 1e-3, 1e-2


def maximise(
    sums: Callable[[Tensor], Sums],
    start: Tensor,
    progress: Progress | None = None,
    unit: float = 1.0,
    enough: float | None = None,
) -> Optimum:
    """Maximise a smooth function, given its value, score and information in one call.

    Args:
        sums: called with the parameters (P).
        start: (P).
        progress: called before each step with (step, value, decrement).
        unit: of the value.
        enough: the decrement, in units, at which the search stops at once; None: one step beyond
            the tolerance.
    """

    def batched(theta: Tensor, _: Tensor) -> Sums:
        return Sums(*(part[None] for part in sums(theta[0])))

    return maximise_each(batched, start[None], start.new_tensor([unit]), progress, enough).one(0)


def decrement_of(sums: Sums) -> float:
    """Return the gain expected of one more Newton step."""
    one = Sums(*(part[None] for part in sums))
    return float(_scaled(one).first_look()[0]) if bool(_finite(one)) else 0.0


def maximise_each(
    sums: Callable[[Tensor, Tensor], Sums],
    start: Tensor,
    unit: Tensor,
    progress: Progress | None = None,
    enough: float | None = None,
    most_steps: int = MAX_STEPS,
) -> Optima:
    """Maximise several functions at once.

    Args:
        sums: values, scores and informations of the functions with the numbers (b) at (b, P).
        start: (B, P).
        unit: (B), of each function's value: the tolerances are in it.
        progress: called before each step with the sum of the values and the largest decrement.
        enough: as in `maximise`.
        most_steps: of each search.
    """
    count = len(start)
    nothing = torch.full((count,), torch.nan, dtype=start.dtype)
    zero, no = torch.zeros(count, dtype=torch.int64), torch.zeros(count, dtype=torch.bool)
    here = sums(start, torch.arange(count))
    state = Optima(start.clone(), here, nothing, zero, no, zero.clone(), no.clone())
    radius = nothing.clone()
    active = _finite(here).nonzero()[:, 0]
    model = _scaled(_of(here, active))
    if len(active):
        state.decrement[active], newton = model.first_look()
        # at least one standard error of a single observation
        radius[active] = torch.maximum(newton, unit[active].sqrt())
        if enough is not None:
            state.reached[active] = state.decrement[active] <= enough * unit[active]
            ongoing = ~state.reached[active]
            active, model = active[ongoing], model.of(ongoing)
    while len(active):
        if progress is not None:
            value = float(state.sums.log_likelihood.sum())
            progress(int(state.steps.max()), value, float(state.decrement.max()))
        tolerance = TOLERANCE * unit[active]
        small = state.decrement[active] <= tolerance  # before this step
        taken, model = _step(state, radius, sums, active, unit, model)
        if enough is None:
            state.reached[active] = small & (~taken | (state.decrement[active] <= tolerance))
        else:
            state.reached[active] = state.decrement[active] <= enough * unit[active]
        ongoing = ~state.reached[active] & (state.shrunk[active] < MAX_SHRINKS)
        ongoing &= state.steps[active] < most_steps
        active, model = active[ongoing], model.of(ongoing)
    return state._replace(proved=state.proved & state.reached)


def _step(
    state: Optima,
    radius: Tensor,
    sums: Callable[[Tensor, Tensor], Sums],
    active: Tensor,
    unit: Tensor,
    model: _Scaled,
) -> tuple[Tensor, _Scaled]:
    """Try a step of each active search, in place, by its quadratic model; return which were taken,
    and the models then.
    """
    at = _of(state.sums, active)
    step, expected, inside = model.step(radius[active])
    there = sums(state.theta[active] + step, active)
    gain = there.log_likelihood - at.log_likelihood
    slack = 1e-12 * (unit[active] + at.log_likelihood.abs())
    ratio = torch.where(expected > slack, gain / expected, torch.where(gain >= -slack, 1.0, -1.0))
    taken = _finite(there) & ((ratio > 1e-4) | ((expected <= 1e4 * slack) & (gain >= -slack)))
    length = model.length(step)
    larger = torch.where((ratio > 0.75) & ~inside, 2 * radius[active], radius[active])
    smaller = torch.where(taken, length / 2, length / 4)
    radius[active] = torch.where(taken & (ratio > 0.25), larger, smaller)
    state.shrunk[active] = torch.where(taken, 0, state.shrunk[active] + 1)
    moved = active[taken]
    state.theta[moved] += step[taken]
    state.steps[moved] += 1
    for part, new in zip(state.sums, there, strict=True):
        part[moved] = new[taken]
    if len(moved):
        before = state.decrement[moved]
        model = _scaled(_of(state.sums, active))
        ahead = model if len(moved) == len(active) else model.of(taken)
        state.decrement[moved], _ = ahead.first_look()
        near = before <= NEAR * unit[moved].clamp(max=1.0)
        proved = state.proved[moved] | near & (state.decrement[moved] <= CONTRACTION * before)
        # on the way to a ridge the decrements fall as quickly
        state.proved[moved] = proved if ahead.level is None else proved & ~ahead.level
    return taken, model


def _of(sums: Sums, which: Tensor) -> Sums:
    return Sums(*(part[which] for part in sums))


def _finite(sums: Sums) -> Tensor:
    finite = [part[..., None].isfinite().flatten(1).all(1) for part in sums]
    return torch.stack(finite).all(0)


class _Scaled(NamedTuple):
    """Quadratic models in units in which the information has a unit diagonal.

    Directions with neither curvature nor slope are left alone: to the steps they look like a
    maximum.
    """

    unit: Tensor  # (B, P)
    score: Tensor  # (B, P)
    information: Tensor  # (B, P, P)
    # (B, P, P), the Cholesky factor where every information is positive definite
    factor: Tensor | None
    # otherwise its eigenvalues (B, P), ascending, the eigenvectors, and the score along them
    eigen: tuple[Tensor, ...]
    level: Tensor | None = None  # (B), whether some direction is level, or nearly

    def of(self, which: Tensor) -> _Scaled:
        """The models of some, by a mask."""
        if bool(which.all()):
            return self
        factor, level = (None if t is None else t[which] for t in (self.factor, self.level))
        eigen = tuple(part[which] for part in self.eigen)
        each = self.unit[which], self.score[which], self.information[which]
        return _Scaled(*each, factor, eigen, level)

    def length(self, step: Tensor) -> Tensor:
        return (step / self.unit).square().sum(1).sqrt()

    def first_look(self) -> tuple[Tensor, Tensor]:
        """The decrement, from absolute curvatures and a step along a negative one, and the length
        of Newton's step, 0 where there is none.
        """
        if self.factor is not None:
            d = torch.cholesky_solve(self.score[..., None], self.factor)[..., 0]
            return (self.score * d).sum(1) / 2, d.square().sum(1).sqrt()
        values, _, g = self.eigen
        size, lowest = values.abs().clamp(min=torch.finfo(g.dtype).eps), values.amin(1)
        newton = torch.where(lowest > 0, (g / size).square().sum(1).sqrt(), 0.0)
        return (g.square() / size).sum(1) / 2 + (-lowest - _FLAT).clamp(min=0.0) / 2, newton

    def step(self, radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best step within the radius, its expected gain, and whether it is Newton's."""
        if self.factor is not None:
            d = torch.cholesky_solve(self.score[..., None], self.factor)[..., 0]
            inside = d.square().sum(1).sqrt() <= radius * (1 + 1e-10)
            if not bool(inside.all()):
                return _with_eigenvalues(self).step(radius)
        else:
            values, vectors, g = self.eigen
            d, inside = step_within(g, values, radius)
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
    # unless a small curvature is more than rounding, and promises a gain
    promising = (values > _ROUNDING) & (g.square() > _GAIN * values)
    flat = (values.abs() < _FLAT) & (g.abs() < _FLAT**0.5) & ~promising
    eigen = torch.where(flat, 1.0, values), vectors, torch.where(flat, 0.0, g)
    return scaled._replace(factor=None, eigen=eigen, level=(values < _WEAK).any(1))


def step_within(g: Tensor, values: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Maximise g'd - sum values d^2 / 2 for |d| <= radius; also return whether the maximum lies
    inside.

    On the boundary d = g / (values + m), with the m that makes |d| the radius: 1 / |d| is nearly
    linear in m, so that Newton's method finds it (More and Sorensen 1983), kept between bounds.
    If the score has no component along the lowest curvature, the rest of the radius goes along it.
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
