"""A fit by search: where it starts, the units it works in, and what is to be said of where it ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nll.likelihood import covariance as cov
from nll.likelihood.model import LogLikelihood
from nll.likelihood.optimise import Optimum, Progress
from nll.likelihood.parameters import Layout, Parameter, Params
from nll.likelihood.problem import MOST_INFORMATION, Problem

# An error of a free number, which is the logarithm or the like of a parameter, at which its value is unknown.
_UNKNOWN = 30.0
_SAMPLE = 4096  # rows that the units are found from
_PEAKS = 2000  # rows that tell which of several peaks is the highest


@dataclass(frozen=True)
class Units:
    """Data less `centre`, in units of `scale`, and how each parameter moves with them."""

    centre: float = 0.0
    scale: float = 1.0
    roles: Any = None  # name -> "location", "scale" or "rate"

    def data(self, values: Tensor) -> Tensor:
        """The data in these units."""
        if self.centre == 0.0 and self.scale == 1.0:
            return values
        return (values - self.centre) / self.scale

    def given(self, params: Params) -> Params:
        """Parameters of the data as given."""
        return {name: value * self._factor(name) + self._shift(name) for name, value in params.items()}

    def own(self, params: Params) -> Params:
        """Parameters in these units."""
        return {name: (value - self._shift(name)) / self._factor(name) for name, value in params.items()}

    def factors(self, params: Params) -> Tensor:
        """What each number of the flattened parameters is multiplied with."""
        sizes = {name: value[0].numel() for name, value in params.items()}
        return torch.tensor([self._factor(n) for n, size in sizes.items() for _ in range(size)], dtype=torch.float64)

    def _factor(self, name: str) -> float:
        role = (self.roles or {}).get(name)
        return 1.0 if role is None else 1 / self.scale if role == "rate" else self.scale

    def _shift(self, name: str) -> float:
        return self.centre if (self.roles or {}).get(name) == "location" else 0.0


def units_of(values: Tensor, roles: dict[str, str] | None) -> Units:
    """The middle and a power of 2 near the spread of the data, for families whose parameters move with them."""
    if not roles:
        return Units()
    some = values[:: max(1, len(values) // _SAMPLE)]
    centre = float(some.median()) if "location" in roles.values() else 0.0
    away = (some - centre).abs()
    spread = float(away.median()) or float(away.max())
    if not (0.0 < spread < math.inf):
        return Units(centre, 1.0, roles)
    return Units(centre, 2.0 ** min(1023, max(-1022, math.frexp(spread)[1])), roles)


@dataclass(frozen=True)
class Found:
    """Where a search ended, in the parameters of the data as given."""

    problem: Problem
    optimum: Optimum
    units: Units
    density: float  # the total weight of rows whose probability is a density: it has the unit 1 / scale
    each: Problem  # the same with a row for each observation
    weighted: bool = False  # whether the weights are no frequencies

    @property
    def theta(self) -> Tensor:
        """(1, P)."""
        return self.optimum.theta[None]

    @property
    def params(self) -> Params:
        """The parameters, without the dimension of data sets."""
        found = self.units.given(self.problem.layout.natural(self.theta))
        return {name: value[0].detach() for name, value in found.items()}

    @property
    def jacobian(self) -> Tensor:
        """(N, P): the derivatives of the flattened parameters by the free numbers."""
        layout = self.problem.layout
        factors = self.units.factors(layout.natural(self.theta))
        return factors[:, None] * layout.jacobian(self.theta)[0]

    @property
    def log_likelihood(self) -> float:
        """The log-likelihood of the data as given."""
        return float(self.optimum.sums.log_likelihood) - self.density * math.log(self.units.scale)


def search(
    problem: Problem, starts: Tensor, units: Units, density: float, each: Problem, progress: Progress | None = None
) -> Found:
    """Search from each of the starts (S, P); the highest peak is taken. Of many rows some tell which start is best."""
    if len(starts) > 1 and problem.width > 2 * _PEAKS:
        some = problem.thinned(_PEAKS)
        tried = [some.maximise(start[None]).one(0) for start in starts]
        starts = max(tried, key=lambda found: (found.reached, _value(found))).theta[None]
    best = None
    for start in starts:
        found = problem.maximise(start[None], progress).one(0)
        if best is None or (found.reached, _value(found)) > (best.reached, _value(best)):
            best = found
    assert best is not None
    return Found(problem, best, units, density, each)


def _value(found: Optimum) -> float:
    value = float(found.sums.log_likelihood)
    return -math.inf if value != value else value


def judge(found: Found, numbers: Tensor | None = None) -> tuple[str, bool]:
    """A sentence on where the search ended, and whether it is a maximum to be trusted; `numbers`: of the rows."""
    optimum = found.optimum
    if optimum.decrement != optimum.decrement:
        return _not_finite(found, numbers), False
    gone = [f"{away.label} = {away.value:g}" for away in runaways(found)]
    if not optimum.reached:
        if gone:
            return f"no maximum: the likelihood still rises towards {', '.join(gone)}", False
        return optimum.status, False
    if gone:
        return f"at the border of the parameter space: {', '.join(gone)}; no standard error there", True
    size = found.problem.layout.size
    if size > MOST_INFORMATION:
        return f"converged: the Newton steps reached a maximum; no standard errors for {size} parameters", True
    flat = flat_direction(found)
    if flat is not None:
        return f"flat direction: the data do not tell {flat}; no standard errors", False
    how = f", by conjugate gradients for {size} parameters" if found.problem.by_products else ""
    return f"converged: the Newton steps reached a maximum{how}", True


def _not_finite(found: Found, numbers: Tensor | None) -> str:
    at = 0
    for segment in found.each.segments:
        rows = found.each.rows_of(segment, found.theta)
        wrong = (~rows.isfinite() & (segment.weights[0] != 0)).nonzero()
        if len(wrong):
            row = at + int(wrong[0])
            row = row if numbers is None else int(numbers[row])
            return (
                f"not finite: the log-probability of row {row} is {float(rows[int(wrong[0])]):g} at the starting values"
            )
        at += segment.width
    return "not finite: the score or the information at the starting values"


def flat_direction(found: Found) -> str | None:
    """The combination of free numbers along which the likelihood has no curvature, by name; None: there is none."""
    information = found.optimum.sums.information
    diagonal = information.diagonal()
    names = found.problem.layout.describe()
    unknown = [name for name, d in zip(names, diagonal.tolist(), strict=True) if not d > 0.0]
    if unknown:
        return " and ".join(unknown)
    unit = diagonal.rsqrt()
    values, vectors = torch.linalg.eigh(unit[:, None] * information * unit)
    if float(values[0]) > 4 * len(unit) * torch.finfo(torch.float64).eps:
        return None
    jacobian = found.jacobian
    moved = jacobian @ (vectors[:, 0] * unit)
    share = moved.abs() / (jacobian.abs() @ unit)  # of what one unit of information of each number would move it
    direction = moved / moved[share.argmax()]
    names = found.problem.layout.names
    terms = [(w, n) for w, s, n in zip(direction.tolist(), share.tolist(), names, strict=True) if s > 1e-3]
    return " ".join(_term(i, weight, name) for i, (weight, name) in enumerate(terms))


def _term(i: int, weight: float, name: str) -> str:
    sign = ("- " if weight < 0 else "+ ") if i else ("-" if weight < 0 else "")
    size = "" if abs(abs(weight) - 1) < 5e-4 else f"{abs(weight):.3g} "
    return f"{sign}{size}{name}"


class Runaway(NamedTuple):
    """A free number that ran off towards a border."""

    number: int  # among the free numbers
    name: str  # of its parameter
    place: int  # in it
    value: float  # of the parameter at the border
    label: str


def runaways(found: Found) -> list[Runaway]:
    """The free numbers that ran off towards a border."""
    layout, at = found.problem.layout, 0
    if layout.size > MOST_INFORMATION:
        return []
    natural = layout.natural(found.theta)
    inverse = cov.inverse(found.optimum.sums.information)
    away = ran_off(found.problem, found.theta, inverse.diagonal().sqrt()[None])[0]
    gone = []
    for name, parameter in layout.free.items():
        size = parameter.free_shape.numel()
        for place in range(size):
            if parameter.shape == parameter.free_shape and bool(away[at + place]):
                theta = float(found.theta[0, at + place])
                value = _border(parameter.constraint, theta, float(natural[name].reshape(-1)[place]))
                gone.append(Runaway(at + place, name, place, value, name + (f"[{place}]" if parameter.shape else "")))
        at += size
    return gone


def ran_off(problem: Problem, theta: Tensor, errors: Tensor) -> Tensor:
    """Which free numbers (B, P) are far out, where their value makes no difference.

    Of the logarithm of a parameter, or the like, its error tells. A parameter that is any real number has units of its
    own: it is gone where the likelihood stays as it is when it is a thousand times as large.
    """
    gone = (theta.abs() > 8.0) & ~(errors < _UNKNOWN)
    doubtful = gone & problem.layout.unbounded
    for p in doubtful.any(0).nonzero()[:, 0].tolist():
        far = theta.clone()
        far[:, p] *= 1e3
        fall = problem.value(problem.layout.natural(theta)) - problem.value(problem.layout.natural(far))
        gone[:, p] &= ~doubtful[:, p] | (fall.abs() < 1e-3)
    return gone


def _border(constraint: Any, theta: float, value: float) -> float:
    """The end of a constraint that a number far out stands for."""
    low = getattr(constraint, "lower_bound", -math.inf)
    high = getattr(constraint, "upper_bound", math.inf)
    if high < math.inf and low > -math.inf:
        return float(high if theta > 0 else low)
    if low > -math.inf:
        return math.inf if theta > 0 else float(low)
    if high < math.inf:
        return float(high) if value > high - 1 else -math.inf
    return math.inf if theta > 0 else -math.inf


class AtParameters(LogLikelihood):
    """The log-likelihood of the data as given, by all flattened parameters."""

    def __init__(self, found: Found) -> None:
        self.problem, self.units, self.density = found.problem, found.units, found.density
        self.layout: Layout = found.problem.layout

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters that the vector holds."""
        return self.layout.parameters

    def __call__(self, vector: Tensor) -> float:
        """Return it."""
        params, at = {}, 0
        for name, parameter in self.layout.parameters.items():
            size = math.prod(parameter.shape)
            params[name] = vector[at : at + size].reshape(1, *parameter.shape)
            at += size
        value = self.problem.value(self.units.own(params))
        return float(value[0]) - self.density * math.log(self.units.scale)
