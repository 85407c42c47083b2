"""A fit by search: where it starts, the units it works in, and what is to be said of where it
ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nll.estimation import diagnostics
from nll.estimation.diagnostics import Limit, Surroundings, look_around
from nll.estimation.likelihood import LogLikelihood
from nll.estimation.objective import MOST_INFORMATION, Objective, maximise, maximise_from
from nll.solvers.outcome import Optimum, Progress, Status, Sums
from nll.solvers.parameters import Layout, Parameter, Params
from nll.solvers.units import Units

_RESTARTS = 5  # from a higher place beyond
_SLOW = 2  # restarts that did not end: it goes along a ridge, and more of them end nowhere either
_FIRST_STEPS = 60  # after which it is looked whether there is anything to be reached
_INSIDE = 3.0  # a free number that is well inside
# an eigenvalue of information of unit diagonal, for each parameter, that is rounding
_SINGULAR = 1e-14
_PEAKS = 2000  # rows that tell which of several peaks is the highest


@dataclass(frozen=True)
class Solution:
    """Where a search ended, in the parameters of the data as given."""

    objective: Objective
    optimum: Optimum
    units: Units
    # the total weight of rows whose probability is a density: it has the unit 1 / scale
    density: float
    weighted: bool = False  # whether the weights are no frequencies
    # what lies beyond, where the search did not end at a maximum
    around: Surroundings | None = None
    # the log-likelihood that the search reached from each of several starts
    starts: tuple[float, ...] = ()

    @property
    def theta(self) -> Tensor:
        return self.optimum.theta[None]

    @property
    def params(self) -> Params:
        """The parameters, without the dimension of data sets."""
        natural = self.objective.layout.natural(self.theta)
        return {name: v[0].detach() for name, v in self.units.given(natural).items()}

    @property
    def jacobian(self) -> Tensor:
        """(N, P): the derivatives of the flattened parameters by the free numbers."""
        layout = self.objective.layout
        factors = self.units.factors(layout.natural(self.theta))
        return factors[0, :, None] * layout.jacobian(self.theta)[0]

    @property
    def log_likelihood(self) -> float:
        """The log-likelihood of the data as given."""
        return float(self.optimum.sums.log_likelihood) - self.density * math.log(self.units.scale)


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
        and _value(rival) > _value(best) + diagnostics.noise(objective, _value(best))
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
    reached = tuple(sorted((_value(found) - shift for found in several), reverse=True))
    return Solution(objective, top, units, density, around=around, starts=reached)


def _rank(found: Optimum) -> tuple[bool, float]:
    return found.reached, _value(found)


def better(
    objective: Objective, other: Optimum, top: Optimum, around: Surroundings, unbounded: bool
) -> bool:
    """Whether another search ended higher, or at a maximum where this one has none; a lower maximum
    is none where the likelihood has a bound.
    """
    gain, noise = _value(other) - _value(top), diagnostics.noise(objective, _value(top))
    endless = around.endless or any(limit.endless for limit in around.limits)
    endless |= not top.reached and (unbounded or around.rising or gain >= -noise)
    return other.reached and (
        gain > noise or (endless and diagnostics.is_maximum(objective, other))
    )


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
        if top.decrement != top.decrement or diagnostics.is_maximum(objective, top):
            return top, None
        around = diagnostics.look_around(objective, top)
        if any(limit.endless for limit in around.limits):
            break
        if around.higher is None and (top.reached or top.steps != _FIRST_STEPS):
            break
        again = maximise(
            objective, (top.theta if around.higher is None else around.higher)[None]
        ).one(0)
        gain = _value(again) - _value(top)
        rising = not again.reached and (
            gain > diagnostics.RISE or again.decrement != again.decrement
        )
        if again.decrement != again.decrement or not gain > 0:
            break
        top = again._replace(steps=top.steps + again.steps)
        slow += not again.reached
        if rising or slow == _SLOW:
            break
    return top, around._replace(rising=rising)


def _value(found: Optimum) -> float:
    value = float(found.sums.log_likelihood)
    return -math.inf if value != value else value


def judge(found: Solution, numbers: Tensor | None = None) -> tuple[Status, str]:
    """How the search ended, and a sentence on it; `numbers`: of the rows."""
    optimum, size, around = found.optimum, found.objective.layout.size, found.around
    if optimum.decrement != optimum.decrement:
        return Status.NOT_FINITE, _not_finite(found, numbers)
    if not size:
        return Status.CONVERGED, "converged: all parameters are fixed"
    if around is not None and (around.limits or around.endless or around.flat or around.rising):
        return _beyond(found, around)
    if not optimum.reached:
        return optimum.verdict, optimum.status
    if size > MOST_INFORMATION:
        return Status.CONVERGED, (
            f"converged: the Newton steps reached a maximum; no standard errors for {size} "
            f"parameters"
        )
    flat = flat_direction(found)
    if flat is not None:
        return (
            Status.NOT_IDENTIFIED,
            f"flat direction: the data do not tell {flat}; no standard errors",
        )
    how = f", by conjugate gradients for {size} parameters" if found.objective.by_products else ""
    return Status.CONVERGED, f"converged: the Newton steps reached a maximum{how}"


def _beyond(found: Solution, around: Surroundings) -> tuple[Status, str]:
    """What is said where the likelihood does not fall on every side."""
    names = found.objective.layout.describe()
    endless = [away.label for away in runaways(found) if away.limit.endless]
    if endless:
        return (
            Status.UNBOUNDED,
            f"no maximum: the likelihood grows without bound towards {', '.join(endless)}",
        )
    if around.endless:
        return (
            Status.UNBOUNDED,
            "no maximum: the likelihood still rises far out along the last step",
        )
    gone = ", ".join(away.label for away in runaways(found))
    if around.rising:
        return Status.UNBOUNDED, (
            f"no maximum within {found.optimum.steps} Newton steps: the likelihood still "
            f"rises{f' towards {gone}' if gone else ''}"
        )
    flat = [names[p] for p in around.flat]
    if flat and not around.limits:
        told = flat_direction(found) or " and ".join(flat)
        return (
            Status.NOT_IDENTIFIED,
            f"flat direction: the data do not tell {told}; no standard errors",
        )
    if not around.limits:
        return Status.MAX_STEPS, found.optimum.status
    if not all(limit.alone for limit in around.limits):
        return Status.UNBOUNDED, f"no maximum: the likelihood still rises towards {gone}"
    if around.unidentified:
        rest = " and ".join(names[p] for p in around.unidentified)
        return Status.UNBOUNDED, (
            f"no maximum: the likelihood rises towards {gone}, where the data do not tell {rest}"
        )
    return (
        Status.BOUNDARY,
        f"at the boundary of the parameter space: {gone}; no standard error there",
    )


def _not_finite(found: Solution, numbers: Tensor | None) -> str:
    observations = found.objective.observations
    rows = observations.log_probabilities(found.theta)
    wrong = (~rows.isfinite() & (observations.weights != 0)).nonzero()
    if len(wrong):
        at = int(wrong[0])
        row = at if numbers is None else int(numbers[at])
        return (
            f"not finite: the log-probability of row {row} is {float(rows[at]):g} "
            f"at the starting values"
        )
    return "not finite: the score or the information at the starting values"


def flat_direction(found: Solution) -> str | None:
    """The combination of free numbers along which the likelihood has no curvature, by name; None:
    there is none.
    """
    information = found.optimum.sums.information
    diagonal = information.diagonal()
    names = found.objective.layout.describe()
    unknown = [name for name, d in zip(names, diagonal.tolist(), strict=True) if not d > 0.0]
    if unknown:
        return " and ".join(unknown)
    unit = diagonal.rsqrt()
    values, vectors = torch.linalg.eigh(unit[:, None] * information * unit)
    if float(values[0]) > _SINGULAR * len(unit):
        return None
    jacobian = found.jacobian
    moved = jacobian @ (vectors[:, 0] * unit)
    # of what one unit of information of each number would move it
    share = moved.abs() / (jacobian.abs() @ unit)
    direction = moved / moved[share.argmax()]
    names = found.objective.layout.names
    terms = [
        (w, n)
        for w, s, n in zip(direction.tolist(), share.tolist(), names, strict=True)
        if s > 1e-3
    ]
    return " ".join(_term(i, weight, name) for i, (weight, name) in enumerate(terms))


def _term(i: int, weight: float, name: str) -> str:
    sign = ("- " if weight < 0 else "+ ") if i else ("-" if weight < 0 else "")
    size = "" if abs(abs(weight) - 1) < 5e-4 else f"{abs(weight):.3g} "
    return f"{sign}{size}{name}"


class Runaway(NamedTuple):
    """A free number that ran off towards a boundary."""

    limit: Limit
    name: str  # of its parameter
    place: int  # in it
    value: float  # of the parameter at the boundary
    label: str

    @property
    def number(self) -> int:
        """Which of the free numbers it is."""
        return self.limit.number


def runaways(found: Solution) -> list[Runaway]:
    """The free numbers that ran off towards a boundary."""
    limits = {} if found.around is None else {limit.number: limit for limit in found.around.limits}
    natural = found.objective.layout.natural(found.theta) if limits else {}
    gone = []
    for name, parameter, _, free in found.objective.layout.entries():
        for place, number in enumerate(range(free.start, free.stop)):
            if number in limits:
                limit = limits[number]
                of = (
                    float(natural[name].reshape(-1)[place])
                    if parameter.shape == parameter.free_shape
                    else math.nan
                )
                value = boundary(parameter.constraint, limit.side) if of == of else math.nan
                label = name + (f"[{place}]" if parameter.free_shape else "")
                gone.append(
                    Runaway(
                        limit, name, place, value, f"{label} = {value:g}" if of == of else label
                    )
                )
    return gone


def inward(found: Solution) -> Tensor:
    """(1, P): where the search ended, the numbers that ran off to a boundary moved back inside."""
    theta = found.theta.clone()
    for away in runaways(found):
        theta[0, away.number] = away.limit.side * float(
            theta[0, away.number].abs().clamp(max=_INSIDE)
        )
    return theta


def boundary(constraint: Any, side: float) -> float:
    """The end of a constraint that its free number stands for at -inf (side -1) or inf (side 1)."""
    low = float(getattr(constraint, "lower_bound", -math.inf))
    high = float(getattr(constraint, "upper_bound", math.inf))
    if low == -math.inf and high < math.inf:  # high - exp(number)
        return high if side < 0 else -math.inf
    return low if side < 0 else high


class AtParameters(LogLikelihood):
    """The log-likelihood of the data as given, by all flattened parameters."""

    def __init__(
        self, objective: Objective, units: Units | None = None, density: float = 0.0
    ) -> None:
        self.objective, self.units, self.density = objective, units or Units(), density
        self.layout: Layout = objective.layout

    @property
    def parameters(self) -> dict[str, Parameter]:
        return self.layout.parameters

    def __call__(self, vector: Tensor) -> float:
        params = {
            entry.name: vector[entry.flat].reshape(1, *entry.parameter.shape)
            for entry in self.layout.entries()
        }
        value = float(self.objective.value(self.units.own(params))[0])
        return value - self.density * math.log(self.units.scale)


def ordered(solution: Solution, order: Callable[[Params], Params]) -> Solution:
    """Return the same maximum with its exchangeable parameters in a defined order."""
    objective, layout = solution.objective, solution.objective.layout
    theta = layout.numbers(order(layout.natural(solution.theta))).detach()
    sums = Sums(*(part[0] for part in objective.sums(theta)))
    optimum = solution.optimum._replace(theta=theta[0], sums=sums)
    # The free numbers have other places.
    around = None if solution.around is None else look_around(objective, optimum)
    return replace(solution, optimum=optimum, around=around)
