"""What lies around the place where a search ended: a maximum falls off on all sides, a limit at a
boundary does not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nll.estimation.objective import Objective, maximise_fixed
from nll.estimation.search.maximum import DOUBTFUL, MOST_PROFILED, noise
from nll.estimation.search.profiles import RISE, Profiles, last_step
from nll.solvers.matrices import inverse as inverse_of
from nll.solvers.outcome import Optimum

_TREND = 2.0  # times larger, or smaller, errors far out: they have no limit
# times the noise: what a profile may fall by on the way to a boundary, where digits are lost
_LEVEL = 1e3
_GRADUAL = 0.4  # of the whole fall in its last step


class Limit(NamedTuple):
    """A free number along which the profile does not fall on the way to its boundary."""

    number: int
    side: float  # -1 or 1
    endless: bool  # whether the likelihood grows without bound
    alone: bool  # whether it need not fall either where the other numbers stay
    place: float | None = None  # where the way ends, unless that is far out


class Surroundings(NamedTuple):
    """What was seen around the end of a search."""

    limits: tuple[Limit, ...] = ()
    flat: tuple[int, ...] = ()  # numbers whose profile is level on both sides
    higher: Tensor | None = None  # (P), the highest place, if it is higher
    # numbers that the data identify less and less on the way to the limit
    unidentified: tuple[int, ...] = ()
    # numbers whose information grows without bound there: their errors are not normal
    sharp: tuple[int, ...] = ()
    endless: bool = False  # whether the likelihood rises for ever along the last step
    rising: bool = False  # whether it still rose when the search was given up


def look_around(objective: Objective, top: Optimum) -> Surroundings:
    """Follow the profile of each free number away from the end of a search."""
    if len(top.theta) > MOST_PROFILED:
        return _along_the_last_step(objective, top)
    profiles = Profiles(objective, top)
    profiles.follow()
    least = _LEVEL * noise(objective, profiles.best)
    level = torch.minimum(profiles.lowest, profiles.value) >= profiles.best - least
    endless = level & (profiles.value > profiles.best + least) & (profiles.gain > RISE)
    endless |= level & _singular(profiles)
    flat = _flat(profiles, level, least)
    lanes = [i for i in level.nonzero()[:, 0].tolist() if int(profiles.number[i]) not in flat]
    limits = tuple(_limit(objective, top, profiles, i, bool(endless[i])) for i in lanes)
    highest = _higher(profiles, endless, profiles.best + noise(objective, profiles.best))
    if not limits:
        return Surroundings(flat=flat, higher=highest, unidentified=flat)
    gone = {limit.number for limit in limits}
    kept = [p for p in range(len(top.theta)) if p not in gone]
    lost, sharp = _trend(objective, top, profiles.early[lanes[0]], kept)
    steep = {p for p in lost if bool(profiles.gradual[profiles.number == p].any())}
    unidentified = tuple(p for p in kept if (p in lost and p not in steep) or p in flat)
    return Surroundings(limits, flat, highest, unidentified, (*sharp, *steep))


def _singular(profiles: Profiles) -> Tensor:
    """Whether the way ends near a place where the likelihood is infinite: away from it, the steps 4
    times as long each, the likelihood falls like a logarithm, step by step. From a finite limit it
    falls in the last steps.
    """
    half = len(profiles.side) // 2  # the other side of each number
    fall, last = (profiles.best - profiles.value).roll(half), -profiles.gain.roll(half)
    return profiles.near & (last > RISE) & (last < _GRADUAL * fall)


def _flat(profiles: Profiles, level: Tensor, least: float) -> tuple[int, ...]:
    """The numbers whose profile is level, and no higher, on both sides."""
    same = level & ((profiles.value - profiles.best).abs() <= least)
    numbers = profiles.number[same].tolist()
    return tuple(dict.fromkeys(n for n in numbers if numbers.count(n) == 2))


def _limit(
    objective: Objective, top: Optimum, profiles: Profiles, lane: int, endless: bool
) -> Limit:
    far, number, end = top.theta.clone(), int(profiles.number[lane]), float(profiles.end[lane])
    far[number] = end
    value = float(objective.log_likelihood(far[None])[0])
    alone = value >= profiles.best - noise(objective, profiles.best)
    near = bool(profiles.near[lane])
    return Limit(number, float(profiles.side[lane]), endless, alone, end if near else None)


def _higher(profiles: Profiles, endless: Tensor, enough: float) -> Tensor | None:
    """The highest place of all that is higher than `enough`, rather one on no endless way."""
    for values in (torch.where(endless, -torch.inf, profiles.highest), profiles.highest):
        if float(values.max()) > enough:
            return profiles.place[values.argmax()]
    return None


def _along_the_last_step(objective: Objective, top: Optimum) -> Surroundings:
    """Of many numbers: whether the likelihood falls at all on the way that the search was going."""
    if not bool(top.sums.information.isfinite().all()):
        return Surroundings()
    step, best = last_step(top), float(top.sums.log_likelihood)
    values = [
        float(objective.log_likelihood((top.theta + 2.0**k * step)[None])[0])
        for k in range(0, 24, 2)
    ]
    return Surroundings(
        endless=bool(step.any()) and all(v >= best - noise(objective, best) for v in values)
    )


def _trend(
    objective: Objective, top: Optimum, far: Tensor, kept: list[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which of the numbers without a limit lose, and which gain, their information on the way to a
    limit.
    """
    if not kept:
        return (), ()
    index = torch.tensor(kept)
    fixed = torch.ones(1, len(far), dtype=torch.bool).index_fill(1, index, False)
    there = maximise_fixed(objective, far[None], fixed).sums.information[0]
    errors = [
        inverse_of(information[index[:, None], index]).diagonal().sqrt().nan_to_num(torch.inf)
        for information in (top.sums.information, there)
    ]
    ratio = errors[1] / errors[0]
    doubtful = ~objective.layout.unbounded[index] & (errors[0] > DOUBTFUL)
    lost = (ratio > _TREND) | errors[0].isinf() | doubtful
    return tuple(index[lost].tolist()), tuple(index[ratio < 1 / _TREND].tolist())
