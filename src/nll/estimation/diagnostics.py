"""What lies beyond the place where a search ended: a maximum falls off on all sides, a limit at a
boundary does not.

A decrement below the tolerance is no proof of a maximum: towards a limit at infinity it falls for
ever. Where the last steps do not tell the two apart, each free number is moved away on both sides,
the others following (its profile). The profile of a maximum falls on both sides; towards a boundary
it stays as high, or rises; where it comes upon something higher inside, the search ended too soon.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nll.estimation.objective import Objective, maximise_fixed
from nll.solvers.matrices import inverse as inverse_of
from nll.solvers.outcome import Optima, Optimum

_FAR = 60.0  # of the logarithm of a parameter, or the like: there it is at its boundary
_OVERFLOW = 350.0  # beyond which the square of its exponential leaves float64
_UNKNOWN = 30.0  # an error of such a number at which its value is unknown
_DOUBTFUL = 3.0  # an error of the logarithm of a parameter, or of a parameter in units of its size
# A number is told, whatever its information, if the log-likelihood has fallen by the first, and by
# this share of it where the way was a fourth as long: it is not level in between.
_STEEP, _SHARE = 0.05, 1e-3
_REMOTE = 25.0  # of the logarithm of a parameter: what lies beyond may be computed without digits
_TREND = 2.0  # times larger, or smaller, errors far out: they have no limit
_LIKE = 2.0  # times as much, or as little, as a parabola falls
_NOISE = 1e-9  # of the log-likelihood, for each observation and unit of it
# times the noise: what a profile may fall by on the way to a boundary, where digits are lost
_LEVEL = 1e3
_FALLEN = 4.0  # what a profile falls by where it need not be followed further
_ROUNDS, _INNER_STEPS = 24, 12  # along a profile, and Newton steps of the other numbers in each
# times the way to what a number's size or information tells: beyond, digits of the data are lost
_VAST = 1e6
_LONGEST = 5.0  # step of the logarithm of a parameter, or the like
_ENOUGH = 1e-8  # a decrement at which a profile is told
_DISTANT = 15.0  # how far such a number is followed outwards where nothing changes
_EARLY = 3  # rounds after which the information is compared with that at the start
_MOST_LANES, _MOST_PROFILED = 32, 64  # profiles followed at once; free numbers beyond which none is
# of the log-likelihood in a round: more at the end of the way is no approach to a limit
RISE = 1e-2


class Limit(NamedTuple):
    """A free number along which the profile does not fall on the way to its boundary."""

    number: int
    side: float  # -1 or 1
    endless: bool  # whether the likelihood grows without bound
    alone: bool  # whether it need not fall either where the other numbers stay


class Surroundings(NamedTuple):
    """What was seen around the end of a search."""

    limits: tuple[Limit, ...] = ()
    flat: tuple[int, ...] = ()  # numbers whose profile is level on both sides
    higher: Tensor | None = None  # (P), the highest place, if it is higher
    # numbers that the data tell less and less about on the way to the limit
    unidentified: tuple[int, ...] = ()
    # numbers that they tell more and more about: these have no normal error
    sharp: tuple[int, ...] = ()
    endless: bool = False  # whether the likelihood rises for ever along the last step
    rising: bool = False  # whether it still rose when the search was given up


def noise(objective: Objective, value: float) -> float:
    """A difference between two log-likelihoods that tells nothing."""
    return _NOISE * (float(objective.unit[0]) + abs(value))


def curved(objective: Objective, theta: Tensor, inverse: Tensor) -> Tensor:
    """Whether the likelihoods of (B) data sets fall like parabolas along each column of the
    covariance.

    One standard error away a parabola has fallen by 1/2, half of it away by 1/8.

    Args:
        objective: of one data set or of B.
        theta: (B, P), where the score is nearly 0.
        inverse: (B, P, P), the inverse information there.
    """
    errors = inverse.diagonal(dim1=1, dim2=2).sqrt()
    fine = (errors.isfinite() & ((errors < _UNKNOWN) | objective.layout.unbounded)).all(1)
    here = objective.log_likelihood(theta)
    for p in range(theta.shape[1]):
        step = torch.where(fine[:, None], inverse[:, :, p] / errors[:, p, None], 0.0)
        for size in (-1.0, 1.0, -0.5, 0.5):
            fall = (here - objective.log_likelihood(theta + size * step)) / (size * size / 2)
            fine &= (fall > 1 / _LIKE) & (fall < _LIKE)
    return fine


def falls(objective: Objective, theta: Tensor, inverse: Tensor) -> Tensor:
    """Whether the likelihoods of (B) data sets fall at all on both sides, along each column of the
    covariance.

    Only doubtful numbers are checked: those with a large standard error, and those so far out that
    their curvature may be rounding. In the other directions the steps have proved a maximum; a
    number that diverged before has hardly any curvature, but neither does the likelihood fall on
    the way to its limit.
    """
    errors = inverse.diagonal(dim1=1, dim2=2).sqrt()
    most = torch.where(objective.layout.unbounded, _DOUBTFUL * theta.abs(), _DOUBTFUL)
    remote = ~objective.layout.unbounded & (theta.abs() > _REMOTE)
    fine, doubtful = errors.isfinite().all(1), ~(errors < most) | remote
    if not bool(doubtful.any()):
        return fine
    here = objective.log_likelihood(theta)
    least = 10 * _NOISE * (objective.unit + here.abs())
    share = torch.where(objective.layout.unbounded, 1.0, (_DOUBTFUL / errors).clamp(max=1.0))
    for p in doubtful.any(0).nonzero()[:, 0].tolist():
        along = inverse[:, :, p] / errors[:, p, None]
        alone = errors[:, p, None] * (torch.arange(theta.shape[1]) == p)
        step = torch.where(remote[:, p, None], alone, along) * share[:, p, None]
        step = torch.where(fine[:, None], step, 0.0)
        for side in (-1.0, 1.0):
            fall = here - objective.log_likelihood(theta + side * step)
            fine &= (fall > least) | ~doubtful[:, p]
    return fine


def is_maximum(objective: Objective, top: Optimum) -> bool:
    """Whether it is proved that a search ended at a maximum, by its last steps or by what lies one
    error away.
    """
    if not top.reached:
        return False
    if len(top.theta) > _MOST_PROFILED:
        return top.proved
    check, inverse = falls if top.proved else curved, inverse_of(top.sums.information)
    return bool(check(objective, top.theta[None], inverse[None])[0])


def look_around(objective: Objective, top: Optimum) -> Surroundings:
    """Follow the profile of each free number away from the end of a search."""
    if len(top.theta) > _MOST_PROFILED:
        return _along_the_last_step(objective, top)
    lanes = _follow(objective, top)
    best, least = (
        float(top.sums.log_likelihood),
        _LEVEL * noise(objective, float(top.sums.log_likelihood)),
    )
    level = (lanes.lowest >= best - least) & (lanes.value >= best - least)
    endless = level & (lanes.value > best + least) & (lanes.gain > RISE)
    numbers, limits, flat = lanes.number.tolist(), [], []
    for i in level.nonzero()[:, 0].tolist():
        both = [j for j, number in enumerate(numbers) if number == numbers[i] and bool(level[j])]
        same = bool((lanes.value[both] - best).abs().max() <= least)
        if len(both) == 2 and same:
            flat.append(numbers[i])
        else:
            limits.append(
                Limit(
                    numbers[i],
                    float(lanes.side[i]),
                    bool(endless[i]),
                    _alone(objective, top, lanes, i),
                )
            )
    kept = [p for p in range(len(top.theta)) if p not in {limit.number for limit in limits}]
    inside = torch.where(endless, -torch.inf, lanes.highest)
    least = noise(objective, best)
    inside = inside if float(inside.max()) > best + least else lanes.highest
    higher = lanes.place[inside.argmax()] if float(inside.max()) > best + least else None
    first = next(
        (i for i in level.nonzero()[:, 0].tolist() if limits and numbers[i] == limits[0].number), 0
    )
    unidentified, sharp = _trend(objective, top, lanes.early[first], kept) if limits else ((), ())
    steep = {p for p in unidentified if bool(lanes.gradual[lanes.number == p].any())}
    sharp = (*sharp, *steep)
    unidentified = tuple(p for p in kept if (p in unidentified and p not in steep) or p in flat)
    return Surroundings(tuple(limits), tuple(dict.fromkeys(flat)), higher, unidentified, sharp)


class _Lanes(NamedTuple):
    """One for each free number and side; what its profile was like."""

    number: Tensor
    side: Tensor
    value: Tensor  # at the end of the way
    lowest: Tensor
    highest: Tensor
    place: Tensor  # (lanes, P), where it was highest
    gain: Tensor  # in the last round
    last: Tensor  # (lanes, P), the end of the way
    early: Tensor  # (lanes, P), after a few rounds
    # (lanes), whether it began to fall at once, and not beyond a place where it is level
    gradual: Tensor

    @property
    def end(self) -> Tensor:
        """Of the number itself, (lanes)."""
        return self.last[torch.arange(len(self.number)), self.number]


def _follow(objective: Objective, top: Optimum) -> _Lanes:
    numbers = _suspects(top)
    count, size = 2 * len(numbers), len(top.theta)
    side = torch.tensor([-1.0, 1.0], dtype=torch.float64).repeat_interleave(len(numbers))
    number, fixed = numbers.repeat(2), torch.arange(size) == numbers.repeat(2)[:, None]
    best = float(top.sums.log_likelihood)
    at = top.theta.expand(count, size).clone()
    real = objective.layout.unbounded[number]
    way, near = at[torch.arange(count), number], at.clone()
    near[torch.arange(count), number] = torch.where(real, way, way.clamp(-_FAR, _FAR))
    # outwards from nearer the boundary, unless it has fallen on the way back there
    fallen = objective.log_likelihood(near) < best - noise(objective, best)
    distant = fallen & (side * way > 0) & (way.abs() < _OVERFLOW)
    at = torch.where(distant[:, None], at, near)
    value = torch.full((count,), best, dtype=torch.float64)
    lanes = _Lanes(
        number,
        side,
        value,
        value.clone(),
        value.clone(),
        at.clone(),
        torch.zeros_like(value),
        at,
        at.clone(),
        torch.zeros(count).bool(),
    )
    # what one unit of information tells
    tells = top.sums.information.diagonal().abs().clamp(min=1e-300).rsqrt()
    remote = torch.maximum(4 * top.theta.abs(), 2 * tells)[number]
    # of a number that is a parameter itself: a part of its size, or of what its information tells
    part = torch.maximum(torch.minimum(top.theta.abs(), tells) / 4, 1e-8 * tells)
    first = torch.where(real, part[number], 1.0)
    step = first.clone()
    move = torch.zeros_like(at)  # of all numbers in the last round, for a step of 1
    open_ = torch.arange(count)
    most_steps = _INNER_STEPS if top.reached else _INNER_STEPS // 2
    for round_ in range(_ROUNDS):
        aim = at[open_, number[open_]] + (side * step)[open_]
        start = higher(
            objective,
            torch.where(fixed[open_], aim[:, None], at[open_] + step[open_, None] * move[open_]),
            torch.where(fixed[open_], aim[:, None], at[open_]),
        )
        found = maximise_fixed(objective, start, fixed[open_], _ENOUGH, most_steps)
        there = found.sums.log_likelihood
        fine = there.isfinite() & (found.reached | (there >= lanes.value[open_] - RISE))
        moved = open_[fine]
        fall, before = best - there[fine], best - lanes.value[moved]
        lanes.gradual[moved] |= (fall > _STEEP) & (before <= _STEEP) & (before > _SHARE * fall)
        move[moved] = (found.theta[fine] - at[moved]) / step[moved, None]
        at[moved] = found.theta[fine]
        lanes.gain[moved] = there[fine] - lanes.value[moved]
        lanes.value[moved] = there[fine]
        if round_ < _EARLY:
            lanes.early[moved] = at[moved]
        lanes.lowest[moved] = torch.minimum(lanes.lowest[moved], there[fine])
        up = moved[there[fine] > lanes.highest[moved]]
        lanes.highest[up], lanes.place[up] = lanes.value[up], at[up]
        # A place where the likelihood cannot be computed, or is 0: nearer, and then the way ends in
        # a fall.
        step[open_] = torch.where(
            fine, step[open_] * torch.where(real[open_], 4.0, 1.5), step[open_] / 8
        )
        step[open_] = torch.where(real[open_], step[open_], step[open_].clamp(max=_LONGEST))
        move[open_[~fine]] = 0.0
        wall = ~fine & (step[open_] < 1e-3 * first[open_])
        lanes.value[open_[wall]] = -torch.inf
        way = at[open_, number[open_]]
        away, gain = (way - top.theta[number[open_]]).abs(), lanes.gain[open_]
        beyond = (away > remote[open_]) & (~(gain > RISE) | (away > _VAST * remote[open_]))
        outwards = side[open_] * top.theta[number[open_]] > 0
        still = (gain.abs() <= noise(objective, best)) & outwards & (away > _DISTANT)
        far = torch.where(real[open_], beyond, still | (side[open_] * way > _FAR))
        open_ = open_[~wall & ~far & ~(lanes.value[open_] < best - _FALLEN)]
        if not len(open_):
            break
    return lanes


def higher(objective: Objective, first: Tensor, second: Tensor) -> Tensor:
    """Of two places for each lane the one where the likelihood is higher."""
    values = [objective.log_likelihood(theta).nan_to_num(-torch.inf) for theta in (first, second)]
    return torch.where((values[0] >= values[1])[:, None], first, second)


def _suspects(top: Optimum) -> Tensor:
    """The free numbers, of many those that the last step would move most."""
    size = len(top.theta)
    if 2 * size <= _MOST_LANES:
        return torch.arange(size)
    step = _last_step(top).abs() / (1 + top.theta.abs())
    return step.argsort(descending=True)[: _MOST_LANES // 2].sort().values


def _last_step(top: Optimum) -> Tensor:
    """Newton's, in units in which the information has a unit diagonal."""
    unit = top.sums.information.diagonal().abs().clamp(min=1e-300).rsqrt()
    scaled = unit[:, None] * top.sums.information * unit
    return (
        unit * torch.linalg.lstsq(scaled, (unit * top.sums.score)[:, None]).solution[:, 0]
    ).nan_to_num(0.0)


def _along_the_last_step(objective: Objective, top: Optimum) -> Surroundings:
    """Of many numbers: whether the likelihood falls at all on the way that the search was going."""
    if not bool(top.sums.information.isfinite().all()):
        return Surroundings()
    step, best = _last_step(top), float(top.sums.log_likelihood)
    values = [
        float(objective.log_likelihood((top.theta + 2.0**k * step)[None])[0])
        for k in range(0, 24, 2)
    ]
    return Surroundings(
        endless=bool(step.any()) and all(v >= best - noise(objective, best) for v in values)
    )


def _alone(objective: Objective, top: Optimum, lanes: _Lanes, lane: int) -> bool:
    """Whether the likelihood does not fall either where this number goes to the end of its way and
    the others stay.
    """
    far = top.theta.clone()
    far[lanes.number[lane]] = lanes.end[lane]
    best = float(top.sums.log_likelihood)
    return float(objective.log_likelihood(far[None])[0]) >= best - noise(objective, best)


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
    doubtful = ~objective.layout.unbounded[index] & (errors[0] > _DOUBTFUL)
    lost = (ratio > _TREND) | errors[0].isinf() | doubtful
    return tuple(index[lost].tolist()), tuple(index[ratio < 1 / _TREND].tolist())


def ended(optima: Optima, objective: Objective) -> Tensor:
    """Which of several searches ended at a maximum inside: (B)."""
    factor, failed = torch.linalg.cholesky_ex(optima.sums.information)
    reached = optima.reached & (failed == 0)
    unknown = torch.eye(factor.shape[-1], dtype=factor.dtype).mul(torch.inf)
    factor[~reached] = torch.eye(factor.shape[-1], dtype=factor.dtype)
    inverse = torch.where(reached[:, None, None], torch.cholesky_inverse(factor), unknown)
    proved = reached & optima.proved
    if bool(proved.any()):
        proved &= falls(objective, optima.theta, inverse)
    doubtful = reached & ~optima.proved
    return (
        proved | (doubtful & curved(objective, optima.theta, inverse))
        if bool(doubtful.any())
        else proved
    )
