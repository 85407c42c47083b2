"""A fit by search: from several starts, and on from whatever is higher around its end."""

from __future__ import annotations

import math

from torch import Tensor

from nll.estimation.objective import Objective, maximise, maximise_from
from nll.estimation.search.maximum import is_maximum, noise
from nll.estimation.search.profiles import RISE
from nll.estimation.search.solution import Solution
from nll.estimation.search.surroundings import Surroundings, look_around
from nll.solvers.outcome import Optimum, Progress, Sums
from nll.solvers.units import Units

_RESTARTS = 5  # from a higher place beyond
_SLOW = 2  # restarts that did not end: it goes along a ridge, and more of them end nowhere either
_FIRST_STEPS = 60  # after which it is looked whether there is anything to be reached
_PEAKS = 2000  # rows that tell which of several peaks is the highest


def search(
    objective: Objective,
    starts: Tensor,
    units: Units,
    density: float,
    progress: Progress | None = None,
    others: Tensor | None = None,
    unbounded: bool = False,
) -> Solution:
    """Search from each of the starts (S, P); the highest peak is taken. Of many rows some tell
    which start is best.

    `others`: (S', P), where to search too if the best of these is no maximum inside. `unbounded`:
    whether the likelihood is known to have no bound, and the highest maximum inside is wanted.
    """
    if not objective.layout.size:
        return Solution(objective, _settled(objective, starts), units, density)
    if len(starts) > 1 and objective.width > 2 * _PEAKS:
        some = objective.thinned(_PEAKS) or objective
        tried = maximise_from(some, starts, None, _FIRST_STEPS)
        starts = max(tried, key=_rank).theta[None]
    tops = maximise_from(objective, starts, progress, _FIRST_STEPS)
    best, rival = max(tops, key=_rank), max(tops, key=_value)
    if (
        not unbounded
        and best.reached
        and _value(rival) > _value(best) + noise(objective, _value(best))
    ):
        # on its way to a limit that is higher
        best = maximise(objective, rival.theta[None], progress).one(0)
    top, around = _followed(objective, best)
    lost = top.decrement != top.decrement
    if others is not None and (around is not None or lost):
        again = maximise_from(objective, others, progress, _FIRST_STEPS)
        tops += again
        best = max(again, key=_rank)
        if lost or better(objective, best, top, around or Surroundings(), unbounded):
            top, around = _followed(objective, best)
    several, shift = tops if len(tops) > 1 else [], density * math.log(units.scale)
    reached = tuple(sorted((_value(optimum) - shift for optimum in several), reverse=True))
    return Solution(objective, top, units, density, around=around, starts=reached)


def _rank(optimum: Optimum) -> tuple[bool, float]:
    return optimum.reached, _value(optimum)


def _value(optimum: Optimum) -> float:
    value = float(optimum.sums.log_likelihood)
    return -math.inf if value != value else value


def better(
    objective: Objective, other: Optimum, top: Optimum, around: Surroundings, unbounded: bool
) -> bool:
    """Whether another search ended higher, or at a maximum where this one has none; a lower maximum
    is none where the likelihood has a bound.
    """
    gain, least = _value(other) - _value(top), noise(objective, _value(top))
    endless = around.endless or any(limit.endless for limit in around.limits)
    endless |= not top.reached and (unbounded or around.rising or gain >= -least)
    return other.reached and (gain > least or (endless and is_maximum(objective, other)))


def _settled(objective: Objective, theta: Tensor) -> Optimum:
    """The only place, where no number is free."""
    value = objective.log_likelihood(theta)
    sums = Sums(value[0], theta.new_zeros(0), theta.new_zeros(0, 0))
    return Optimum(theta[0], sums, 0.0, 0, True, "converged", True)


def _followed(objective: Objective, top: Optimum) -> tuple[Optimum, Surroundings | None]:
    """The search carried on from whatever is higher around its end; what is around, unless it is a
    maximum.
    """
    around, rising, slow = Surroundings(), False, 0
    for _ in range(_RESTARTS):
        if top.decrement != top.decrement or is_maximum(objective, top):
            return top, None
        around = look_around(objective, top)
        if any(limit.endless for limit in around.limits):
            break
        if around.higher is None and (top.reached or top.steps != _FIRST_STEPS):
            break
        again = maximise(
            objective, (top.theta if around.higher is None else around.higher)[None]
        ).one(0)
        gain = _value(again) - _value(top)
        rising = not again.reached and (gain > RISE or again.decrement != again.decrement)
        if again.decrement != again.decrement or not gain > 0:
            break
        top = again._replace(steps=top.steps + again.steps)
        slow += not again.reached
        if rising or slow == _SLOW:
            break
    return top, around._replace(rising=rising)
