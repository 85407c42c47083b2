"""Profile likelihood: the log-likelihood maximised with some free numbers fixed, and the interval
in which it stays high enough.

A number fixed at t leaves the profile l_p(t), the largest log-likelihood over the others. Its slope
is the score of that number there. The interval of a level has l_p above l - z^2 / 2; the signed
root of 2 (l - l_p) is nearly linear in t, so that Newton's method on it ends in a few steps (Venzon
and Moolgavkar 1988 solve for both at once).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nll.estimation.inference import covariance as cov
from nll.estimation.objective import maximise_fixed
from nll.estimation.search.profiles import higher
from nll.estimation.search.solution import Solution, boundary, inward, runaways

_MOST_STEPS = 60
_FINITE = 700.0  # its exponential is finite
_FAR = 60.0  # of the logarithm of a parameter, or the like: there it is at its boundary


class Ends(NamedTuple):
    """Where the profile of each free number crosses a level, below and above the estimate;
    infinite: nowhere.
    """

    low: Tensor  # (P)
    high: Tensor


def ends(solution: Solution, z: float) -> Ends:
    """Return the profile interval of each free number, all of them side by side; at a boundary it
    reaches as far as that.
    """
    search = _EndSearch(solution, z)
    for _ in range(_MOST_STEPS):
        if not len(search.open):
            break
        search.step()
    size = len(solution.optimum.theta)
    return Ends(search.end[:size], search.end[size:])


class _EndSearch:
    """The search for 2 P ends, the lower ones first: t, bracketed by `near` and `far`."""

    def __init__(self, solution: Solution, z: float) -> None:
        self.objective, self.z = solution.objective, z
        self.best = float(solution.optimum.sums.log_likelihood)
        theta, size = solution.optimum.theta, len(solution.optimum.theta)
        sides = {away.number: away.limit.side for away in runaways(solution)}
        standard_errors, directions = tangents(solution)
        self.index = torch.arange(size).repeat(2)
        self.side = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat_interleave(size)
        self.fixed = torch.arange(size) == self.index[:, None]
        self.error = standard_errors[self.index]
        # how the others move with it, at first
        self.along = self.side[:, None] * directions[self.index]
        self.estimate = theta[self.index]
        at_boundary = torch.tensor([p in sides for p in range(size)])
        self.inside, self.runaway = inward(solution), at_boundary
        first = torch.where(at_boundary[self.index], 1.0, z)
        self.at = theta + first[:, None] * self.along
        self.near = self.estimate.clone()
        self.far = torch.full_like(self.error, torch.inf) * self.side
        distant = _FAR + self.estimate.abs()
        real = self.objective.layout.unbounded[self.index]
        self.farthest = torch.where(real, 1e3 * self.error, distant)
        self.end = torch.full_like(self.error, torch.nan)
        pairs = zip(self.index.tolist(), self.side.tolist(), strict=True)
        outwards = torch.tensor([sides.get(p) == side for p, side in pairs])
        self.end[outwards] = self.side[outwards] * torch.inf
        self.open = (~outwards).nonzero()[:, 0]
        self.last = theta.expand(2 * size, size).clone()

    def step(self) -> None:
        """Move every open end, and close those that are found or infinite."""
        open_ = self.open
        index, estimate = self.index[open_], self.estimate[open_]
        fixed = self.fixed[open_]
        # there is no way back from a boundary
        moved = torch.where(self.runaway & ~fixed, self.inside, self.at[open_])
        self.at[open_] = higher(self.objective, moved, self.at[open_])
        top = maximise_fixed(self.objective, self.at[open_], fixed)
        self.at[open_] = top.theta
        t = self.at[open_, index]
        slope = self.objective.sums(top.theta).score.gather(1, index[:, None])[:, 0]
        root = (2 * (self.best - top.sums.log_likelihood)).clamp(min=0.0).sqrt()
        # too far if the others have no maximum
        root = torch.where(top.reached, root, torch.inf)
        reached, below = (root - self.z).abs() < 1e-9, root < self.z
        self.near[open_] = torch.where(below, t, self.near[open_])
        self.far[open_] = torch.where(below, self.far[open_], t)
        aim = self._aim(t, t - (root - self.z) * root / (-slope))
        endless = ((t - estimate).abs() > self.farthest[open_]) & below
        self.end[open_] = torch.where(endless, self.side[open_] * torch.inf, self.end[open_])
        self.end[open_] = torch.where(reached, t, self.end[open_])
        self.last[open_] = torch.where(top.reached[:, None], self.at[open_], self.last[open_])
        step = aim - self.last[open_, index]
        along = self.along[open_] / self.along[open_, index][:, None]
        self.at[open_] = self.last[open_] + step[:, None] * along
        near = self.near[open_]
        stuck = (near - self.far[open_]).abs() <= 1e-12 * (1 + near.abs())
        self.open = open_[~(reached | endless | stuck)]

    def _aim(self, t: Tensor, newton: Tensor) -> Tensor:
        """Newton's point if it lies within the bracket and not too far, otherwise the middle."""
        near, far = self.near[self.open], self.far[self.open]
        estimate = self.estimate[self.open]
        between = (newton - near) * (far - newton) > 0
        between &= (newton - estimate).abs() <= 3 * (t - estimate).abs()
        double = t + (t - estimate)
        middle = torch.where(far.isfinite(), (near + far) / 2, double)
        return torch.where(between & newton.isfinite(), newton, middle)


def tangents(solution: Solution) -> tuple[Tensor, Tensor]:
    """Return the standard error of each free number (P), and how all move with it by one standard
    error (P, P), row by row.

    A number at a boundary has none: it moves alone, by 1, and the others as if it were fixed.
    """
    information = solution.optimum.sums.information
    size, away = len(information), {away.number for away in runaways(solution)}
    retained = torch.tensor([p for p in range(size) if p not in away], dtype=torch.int64)
    standard_errors = torch.ones(size, dtype=torch.float64)
    directions = torch.eye(size, dtype=torch.float64)
    covariance = cov.inverse(information[retained[:, None], retained])
    standard_errors[retained] = covariance.diagonal().sqrt()
    directions[retained[:, None], retained] = covariance / standard_errors[retained, None]
    return standard_errors, directions


def intervals(solution: Solution, z: float) -> dict[str, Tensor]:
    """Return profile intervals of the parameters, (*shape, 2); NaN for parameters that are not
    free, or not plain numbers.
    """
    layout = solution.objective.layout
    free = torch.stack(ends(solution, z))
    params = solution.units.given(layout.natural(free.clamp(-_FINITE, _FINITE)))
    result = {}
    for name, parameter, _, place in layout.entries():
        bounds = params[name].movedim(0, -1).detach()
        if place.start == place.stop or parameter.free_shape != parameter.shape:
            result[name] = torch.full_like(bounds, torch.nan)
            continue
        numbers = free[:, place].T.reshape(bounds.shape)
        for side in (-1.0, 1.0):
            limit = boundary(parameter.constraint, side)
            bounds = torch.where(numbers == side * torch.inf, limit, bounds)
        reverse = bounds[..., :1] > bounds[..., 1:]
        result[name] = torch.where(reverse, bounds.flip(-1), bounds)
    return result
