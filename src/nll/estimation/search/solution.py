"""Where a search ended, in the parameters of the data as given."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from torch import Tensor

from nll.estimation.likelihood import LogLikelihood
from nll.estimation.objective import Objective
from nll.estimation.search.surroundings import Limit, Surroundings, look_around
from nll.solvers.outcome import Optimum, Sums
from nll.solvers.parameters import Entry, Layout, Parameter, Params
from nll.solvers.units import Units

_INSIDE = 3.0  # a free number that is well inside


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
        return self.params_at(self.theta)

    def params_at(self, theta: Tensor) -> Params:
        """The parameters at other free numbers (1, P)."""
        natural = self.units.given(self.objective.layout.natural(theta))
        return {name: v[0].detach() for name, v in natural.items()}

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


def ordered(solution: Solution, order: Callable[[Params], Params]) -> Solution:
    """Return the same maximum with its exchangeable parameters in a defined order."""
    objective, layout = solution.objective, solution.objective.layout
    theta = layout.numbers(order(layout.natural(solution.theta))).detach()
    sums = Sums(*(part[0] for part in objective.sums(theta)))
    optimum = solution.optimum._replace(theta=theta[0], sums=sums)
    # The free numbers have other places.
    around = None if solution.around is None else look_around(objective, optimum)
    return replace(solution, optimum=optimum, around=around)


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


def runaways(solution: Solution) -> list[Runaway]:
    """The free numbers that ran off towards a boundary."""
    around = solution.around or Surroundings()
    limits = {limit.number: limit for limit in around.limits}
    return [
        _runaway(solution, entry, place, limits[number])
        for entry in solution.objective.layout.entries()
        for place, number in enumerate(range(entry.free.start, entry.free.stop))
        if number in limits
    ]


def _runaway(solution: Solution, entry: Entry, place: int, limit: Limit) -> Runaway:
    label = entry.name + (f"[{place}]" if entry.parameter.free_shape else "")
    if not entry.is_plain:
        return Runaway(limit, entry.name, place, math.nan, label)
    value = boundary(entry.parameter.constraint, limit.side)
    if limit.place is not None:
        theta = solution.theta.clone()
        theta[0, limit.number] = limit.place
        value = float(solution.params_at(theta)[entry.name].reshape(-1)[place])
    return Runaway(limit, entry.name, place, value, f"{label} = {value:g}")


def boundary(constraint: Any, side: float) -> float:
    """The end of a constraint that its free number stands for at -inf (side -1) or inf (side 1)."""
    low = float(getattr(constraint, "lower_bound", -math.inf))
    high = float(getattr(constraint, "upper_bound", math.inf))
    if low == -math.inf and high < math.inf:  # high - exp(number)
        return high if side < 0 else -math.inf
    return low if side < 0 else high


def inward(solution: Solution) -> Tensor:
    """(1, P): where the search ended, the numbers that ran off to a boundary moved back inside; one
    that came to a wall stays.
    """
    theta = solution.theta.clone()
    for away in runaways(solution):
        if away.limit.place is not None:
            continue
        theta[0, away.number] = away.limit.side * float(
            theta[0, away.number].abs().clamp(max=_INSIDE)
        )
    return theta


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
