"""Profiles followed away from the end of a search: one number is moved, the others follow.

The profile of a maximum falls on both sides; towards a boundary it stays as high, or rises; where
it comes upon something higher inside, the search ended too soon.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from nll.estimation.objective import Objective, maximise_fixed
from nll.estimation.search.maximum import noise
from nll.solvers.outcome import Optima, Optimum

_FAR = 60.0  # of the logarithm of a parameter, or the like: there it is at its boundary
_OVERFLOW = 350.0  # beyond which the square of its exponential leaves float64
# A number is identified, whatever its information, if the log-likelihood has fallen by the first,
# and by this share of it where the way was a fourth as long: it is not level in between.
_STEEP, _SHARE = 0.05, 1e-3
_FALLEN = 4.0  # what a profile falls by where it need not be followed further
_ROUNDS, _INNER_STEPS = 24, 12  # along a profile, and Newton steps of the other numbers in each
# times the distance that a number's size or information suggests: beyond, digits are lost
_VAST = 1e6
_LONGEST = 5.0  # step of the logarithm of a parameter, or the like
_ENOUGH = 1e-8  # a decrement at which a profile is known
_DISTANT = 15.0  # how far such a number is followed outwards where nothing changes
_EARLY = 3  # rounds after which the information is compared with that at the start
_BEYOND = 1e3  # times the size of a number: past the end of where it has a likelihood
_MOST_LANES = 32  # profiles followed at once
# of the log-likelihood in a round: more at the end of the way is no approach to a limit
RISE = 1e-2


class Profiles:
    """The profiles (L) of the suspected free numbers, followed to both sides of an optimum."""

    def __init__(self, objective: Objective, top: Optimum) -> None:
        self.objective, self.top, self.best = objective, top, float(top.sums.log_likelihood)
        numbers = _suspects(top)
        self.number = numbers.repeat(2)
        self.side = torch.tensor([-1.0, 1.0]).double().repeat_interleave(len(numbers))
        self.fixed = torch.arange(len(top.theta)) == self.number[:, None]
        self.real = objective.layout.unbounded[self.number]  # not the logarithm of a parameter
        self.last = self._start()  # (L, P), the end of the way
        self.value = torch.full_like(self.side, self.best)  # there
        self.lowest, self.highest = self.value.clone(), self.value.clone()
        self.place = self.last.clone()  # (L, P), where it was highest
        self.early = self.last.clone()  # (L, P), after a few rounds
        self.gain = torch.zeros_like(self.side)  # in the last round
        # whether it began to fall at once, and not beyond a place where it is level
        self.gradual = torch.zeros_like(self.real)
        # standard errors, if the others were fixed
        errors = top.sums.information.diagonal().abs().clamp(min=1e-300).rsqrt()
        self.remote = torch.maximum(4 * top.theta.abs(), 2 * errors)[self.number]
        # of a parameter itself: a share of its size or of its standard error
        share = torch.maximum(torch.minimum(top.theta.abs(), errors) / 4, 1e-8 * errors)
        self.first = torch.where(self.real, share[self.number], 1.0)
        self.step = self.first.clone()
        # (L, P), of all numbers in the last round, for a step of 1
        self.move = torch.zeros_like(self.last)

    def _start(self) -> Tensor:
        """Where the ways start: outwards from nearer the boundary, unless the likelihood has fallen
        on the way back there.
        """
        at = self.top.theta.expand(len(self.number), -1).clone()
        way, near = self._own(at), at.clone()
        near[self.fixed] = torch.where(self.real, way, way.clamp(-_FAR, _FAR))
        fallen = self.objective.log_likelihood(near) < self.best - noise(self.objective, self.best)
        distant = fallen & (self.side * way > 0) & (way.abs() < _OVERFLOW)
        return torch.where(distant[:, None], at, near)

    def _own(self, theta: Tensor) -> Tensor:
        """Of each row of (L, P) the number that is moved, (L)."""
        return theta[torch.arange(len(theta)), self.number]

    @property
    def end(self) -> Tensor:
        """The moved numbers at the end of their ways, (L)."""
        return self._own(self.last)

    @cached_property
    def near(self) -> Tensor:
        """Whether the way of a parameter itself leads to a wall, (L): there is no likelihood far
        beyond its end.
        """
        beyond = self.end + self.side * (self.remote + _BEYOND * (1 + self.end.abs()))
        place = torch.where(self.fixed, beyond[:, None], self.last)
        return self.real & ~self.objective.log_likelihood(place).isfinite()

    def follow(self) -> None:
        """Go on until each has fallen, come to a wall, or led far out."""
        on = torch.arange(len(self.number))
        for round_ in range(_ROUNDS):
            fine = self._advance(on)
            if round_ < _EARLY:
                self.early[on] = self.last[on]
            wall = self._resize(on, fine)
            on = on[~wall & ~self._is_far(on) & ~(self.value[on] < self.best - _FALLEN)]
            if not len(on):
                break

    def _advance(self, on: Tensor) -> Tensor:
        """Take a step of the profiles `on`; return which could be taken."""
        optima = self._maximised(on)
        there = optima.sums.log_likelihood
        fine = there.isfinite() & (optima.reached | (there >= self.value[on] - RISE))
        moved, there = on[fine], there[fine]
        fall, before = self.best - there, self.best - self.value[moved]
        self.gradual[moved] |= (fall > _STEEP) & (before <= _STEEP) & (before > _SHARE * fall)
        self.move[moved] = (optima.theta[fine] - self.last[moved]) / self.step[moved, None]
        self.last[moved] = optima.theta[fine]
        self.gain[moved] = there - self.value[moved]
        self.value[moved] = there
        self.lowest[moved] = torch.minimum(self.lowest[moved], there)
        up = moved[there > self.highest[moved]]
        self.highest[up], self.place[up] = self.value[up], self.last[up]
        return fine

    def _maximised(self, on: Tensor) -> Optima:
        """The other numbers follow, from where they were or from where they were going."""
        at, fixed, step = self.last[on], self.fixed[on], self.step[on]
        aim = (self.end[on] + self.side[on] * step)[:, None]
        going = torch.where(fixed, aim, at + step[:, None] * self.move[on])
        start = higher(self.objective, going, torch.where(fixed, aim, at))
        most_steps = _INNER_STEPS if self.top.reached else _INNER_STEPS // 2
        return maximise_fixed(self.objective, start, fixed, _ENOUGH, most_steps)

    def _resize(self, on: Tensor, fine: Tensor) -> Tensor:
        """Choose the next steps; return which profiles end at a wall: a place where the likelihood
        cannot be computed, or is 0, however short the step.
        """
        real, step = self.real[on], self.step[on]
        step = torch.where(fine, step * torch.where(real, 4.0, 1.5), step / 8)
        self.step[on] = step = torch.where(real, step, step.clamp(max=_LONGEST))
        self.move[on[~fine]] = 0.0
        wall = ~fine & (step < 1e-3 * self.first[on])
        self.value[on[wall]] = -torch.inf
        return wall

    def _is_far(self, on: Tensor) -> Tensor:
        """Whether there is nothing further out."""
        origin, way = self.top.theta[self.number[on]], self.end[on]
        away, gain, remote = (way - origin).abs(), self.gain[on], self.remote[on]
        beyond = (away > remote) & (~(gain > RISE) | (away > _VAST * remote))
        still = gain.abs() <= noise(self.objective, self.best)
        still &= (self.side[on] * origin > 0) & (away > _DISTANT)
        return torch.where(self.real[on], beyond, still | (self.side[on] * way > _FAR))


def higher(objective: Objective, first: Tensor, second: Tensor) -> Tensor:
    """Of two places for each lane the one where the likelihood is higher."""
    values = [objective.log_likelihood(theta).nan_to_num(-torch.inf) for theta in (first, second)]
    return torch.where((values[0] >= values[1])[:, None], first, second)


def _suspects(top: Optimum) -> Tensor:
    """The free numbers, of many those that the last step would move most."""
    size = len(top.theta)
    if 2 * size <= _MOST_LANES:
        return torch.arange(size)
    step = last_step(top).abs() / (1 + top.theta.abs())
    return step.argsort(descending=True)[: _MOST_LANES // 2].sort().values


def last_step(top: Optimum) -> Tensor:
    """Newton's, in units in which the information has a unit diagonal."""
    unit = top.sums.information.diagonal().abs().clamp(min=1e-300).rsqrt()
    scaled = unit[:, None] * top.sums.information * unit
    return (
        unit * torch.linalg.lstsq(scaled, (unit * top.sums.score)[:, None]).solution[:, 0]
    ).nan_to_num(0.0)
