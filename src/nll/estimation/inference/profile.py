"""The likelihood with some free numbers held: its maximum, and the interval in which it stays high
enough.

A number held at t leaves the profile l_p(t), the largest log-likelihood over the others. Its slope
is the score of that number there. The interval of a level has l_p above l - z^2 / 2; the signed
root of 2 (l - l_p) is nearly linear in t, so that Newton's method on it ends in a few steps (Venzon
and Moolgavkar 1988 solve for both at once).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nll.estimation.diagnostics import higher
from nll.estimation.inference import covariance as cov
from nll.estimation.maximise import Solution, boundary, inward, runaways

_MOST_STEPS = 60
_FINITE = 700.0  # whose exponential is
_FAR = 60.0  # of the logarithm of a parameter, or the like: there it is at its boundary


class Ends(NamedTuple):
    """Where the profile of each free number crosses a level, below and above the estimate;
    infinite: nowhere.
    """

    low: Tensor  # (P)
    high: Tensor


def ends(found: Solution, z: float) -> Ends:
    """The profile interval of each free number, all of them side by side; of one at a boundary, as
    far as that.
    """
    problem, best = found.problem, float(found.optimum.sums.log_likelihood)
    theta, size = found.optimum.theta, len(found.optimum.theta)
    gone = {away.number: away.limit.side for away in runaways(found)}
    error, along = tangents(found)
    index = torch.arange(size).repeat(2)
    side = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat_interleave(size)
    fixed = torch.arange(size) == index[:, None]
    # how the others move with it, at first
    error, along = error[index], side[:, None] * along[index]
    at = (
        theta
        + torch.where(torch.tensor([p in gone for p in index.tolist()]), 1.0, z)[:, None] * along
    )
    near, far = theta[index].clone(), torch.full_like(error, torch.inf) * side
    reach = torch.full_like(error, torch.nan)
    farthest = torch.where(problem.layout.unbounded[index], 1e3 * error, _FAR + theta[index].abs())
    outwards = torch.tensor(
        [gone.get(p) == s for p, s in zip(index.tolist(), side.tolist(), strict=True)]
    )
    reach[outwards] = side[outwards] * torch.inf
    open_, last = (~outwards).nonzero()[:, 0], theta.expand(2 * size, size).clone()
    inside, free = inward(found), torch.tensor([p in gone for p in range(size)])
    for _ in range(_MOST_STEPS):
        # from a boundary there is no way back
        moved = torch.where(free & ~fixed[open_], inside, at[open_])
        at[open_] = higher(problem, moved, at[open_])
        top = problem.maximise_held(at[open_], fixed[open_])
        at[open_] = top.theta
        t = at[open_, index[open_]]
        slope = problem.sums(top.theta).score.gather(1, index[open_, None])[:, 0]
        root = (2 * (best - top.sums.log_likelihood)).clamp(min=0.0).sqrt()
        # where the others have no maximum it is too far
        root = torch.where(top.reached, root, torch.inf)
        done = (root - z).abs() < 1e-9
        reach[open_] = torch.where(done, t, reach[open_])
        below = root < z
        near[open_], far[open_] = (
            torch.where(below, t, near[open_]),
            torch.where(below, far[open_], t),
        )
        ahead = t - (root - z) * root / (-slope)
        double = t + (t - theta[index[open_]])
        middle = torch.where(far[open_].isfinite(), (near[open_] + far[open_]) / 2, double)
        between = (ahead - near[open_]) * (far[open_] - ahead) > 0
        between &= (ahead - theta[index[open_]]).abs() <= 3 * (t - theta[index[open_]]).abs()
        aim = torch.where(between & ahead.isfinite(), ahead, middle)
        endless = (t - theta[index[open_]]).abs() > farthest[open_]
        reach[open_] = torch.where(endless & ~done & below, side[open_] * torch.inf, reach[open_])
        last[open_] = torch.where(top.reached[:, None], at[open_], last[open_])
        step = aim - last[open_, index[open_]]
        at[open_] = last[open_] + step[:, None] * along[open_] / along[open_, index[open_]][:, None]
        stuck = (near[open_] - far[open_]).abs() <= 1e-12 * (1 + near[open_].abs())
        open_ = open_[~(done | (endless & below) | stuck)]
        if not len(open_):
            break
    return Ends(reach[:size], reach[size:])


def tangents(found: Solution) -> tuple[Tensor, Tensor]:
    """The error of each free number (P), and how all move with it by one error (P, P), row by row.

    A number at a boundary has no error: it is moved alone, by 1, and the others as if it were
        known.
    """
    information, gone = found.optimum.sums.information, {away.number for away in runaways(found)}
    kept = torch.tensor([p for p in range(len(information)) if p not in gone], dtype=torch.int64)
    error, along = (
        torch.ones(len(information), dtype=torch.float64),
        torch.eye(len(information), dtype=torch.float64),
    )
    covariance = cov.inverse(information[kept[:, None], kept])
    error[kept] = covariance.diagonal().sqrt()
    along[kept[:, None], kept] = covariance / error[kept, None]
    return error, along


def intervals(found: Solution, z: float) -> dict[str, Tensor]:
    """Profile intervals of the parameters, (*shape, 2), those that are not free or not numbers of
    their own NaN.
    """
    layout = found.problem.layout
    both = [end[None] for end in ends(found, z)]
    bounds = [found.units.given(layout.natural(end.clamp(-_FINITE, _FINITE))) for end in both]
    result, at = {}, 0
    for name, parameter in layout.parameters.items():
        own = torch.stack([bound[name][0] for bound in bounds], -1).detach()
        free, count = name in layout.free, parameter.free_shape.numel()
        if not free or parameter.free_shape != parameter.shape:
            own = torch.full((*parameter.shape, 2), torch.nan, dtype=torch.float64)
        else:
            numbers = torch.stack(
                [end[0, at : at + count].reshape(parameter.shape) for end in both], -1
            )
            for side in (-1.0, 1.0):
                own = torch.where(
                    numbers == side * torch.inf, boundary(parameter.constraint, side), own
                )
            own = torch.where(own[..., :1] > own[..., 1:], own.flip(-1), own)
        at += count if free else 0
        result[name] = own
    return result
