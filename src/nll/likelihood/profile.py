"""The likelihood with some free numbers held: its maximum, and the interval in which it stays high enough.

A number held at t leaves the profile l_p(t), the largest log-likelihood over the others. Its slope is the score of that
number there. The interval of a level has l_p above l - z^2 / 2; the signed root of 2 (l - l_p) is nearly linear in t,
so that Newton's method on it ends in a few steps (Venzon and Moolgavkar 1988 solve for both at once).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nll.likelihood import covariance as cov
from nll.likelihood.optimise import Optima, Sums, maximise_each
from nll.likelihood.problem import Problem
from nll.likelihood.search import Found

_MOST_STEPS = 60
_FAR = 60.0  # of the logarithm of a parameter, or the like: there it is at its border


def held(problem: Problem, start: Tensor, fixed: Tensor) -> Optima:
    """Maximise from each of (B, P) starts over the numbers that are not `fixed` (B, P), which stay."""

    def sums(theta: Tensor, which: Tensor) -> Sums:
        found, still = problem.sums(theta), fixed[which]
        either = still[:, :, None] | still[:, None, :]
        information = found.information.masked_fill(either, 0.0) + torch.diag_embed(still.double())
        return Sums(found.log_likelihood, found.score.masked_fill(still, 0.0), information)

    return maximise_each(sums, start, problem.unit.expand(len(start)))


class Ends(NamedTuple):
    """Where the profile of each free number crosses a level, below and above the estimate; infinite: nowhere."""

    low: Tensor  # (P)
    high: Tensor


def ends(found: Found, z: float) -> Ends:
    """The profile interval of each free number, all of them side by side."""
    problem, best = found.problem, float(found.optimum.sums.log_likelihood)
    theta, size = found.optimum.theta, len(found.optimum.theta)
    covariance = cov.inverse(found.optimum.sums.information)
    index = torch.arange(size).repeat(2)
    side = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat_interleave(size)
    error = covariance.diagonal().sqrt()[index]
    along = side[:, None] * covariance[:, index].T / error[:, None]  # how the others move with it, at first
    fixed = torch.arange(size) == index[:, None]
    at = theta + z * along
    near, far = theta[index].clone(), torch.full_like(error, torch.inf) * side
    reach = torch.full_like(error, torch.nan)
    farthest = torch.where(problem.layout.unbounded[index], 1e3 * error, _FAR)
    open_ = torch.arange(2 * size)
    for _ in range(_MOST_STEPS):
        top = held(problem, at[open_], fixed[open_])
        at[open_] = top.theta
        t = at[open_, index[open_]]
        slope = problem.sums(top.theta).score.gather(1, index[open_, None])[:, 0]
        root = (2 * (best - top.sums.log_likelihood)).clamp(min=0.0).sqrt()
        done = ((root - z).abs() < 1e-9) | ~top.reached
        reach[open_] = torch.where(done & top.reached, t, reach[open_])
        below = root < z
        near[open_], far[open_] = torch.where(below, t, near[open_]), torch.where(below, far[open_], t)
        ahead = t - (root - z) * root / (-slope)
        double = t + (t - theta[index[open_]])
        middle = torch.where(far[open_].isfinite(), (near[open_] + far[open_]) / 2, double)
        inside = (ahead - near[open_]) * (far[open_] - ahead) > 0
        inside &= (ahead - theta[index[open_]]).abs() <= 3 * (t - theta[index[open_]]).abs()
        step = torch.where(inside & ahead.isfinite(), ahead, middle) - t
        endless = (t - theta[index[open_]]).abs() > farthest[open_]
        reach[open_] = torch.where(endless & ~done, side[open_] * torch.inf, reach[open_])
        at[open_] = at[open_] + torch.where(
            (done | endless)[:, None], 0.0, step[:, None] * along[open_] / along[open_, index[open_]][:, None]
        )
        open_ = open_[~(done | endless)]
        if not len(open_):
            break
    return Ends(reach[:size], reach[size:])


def intervals(found: Found, z: float) -> dict[str, Tensor]:
    """Profile intervals of the parameters, (*shape, 2), those that are not free or not numbers of their own NaN."""
    layout = found.problem.layout
    low, high = (end[None] for end in ends(found, z))
    bounds = [found.units.given(layout.natural(end)) for end in (low, high)]
    result, at = {}, 0
    for name, parameter in layout.parameters.items():
        own = torch.stack([bound[name][0] for bound in bounds], -1).detach()
        if name not in layout.free or parameter.free_shape != parameter.shape:
            own = torch.full((*parameter.shape, 2), torch.nan, dtype=torch.float64)
        else:
            own = torch.where(own[..., :1] > own[..., 1:], own.flip(-1), own)
        at += parameter.free_shape.numel() if name in layout.free else 0
        result[name] = own
    return result
