"""What the library knows about a family of distributions, and the data that it was fitted to."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from nll.data.observations import Observations
from nll.solvers.parameters import Parameter, Params

T = TypeVar("T")
_SAMPLE = 4096  # values that tell whether the data are nearly equal
_CONCENTRATED = 1e-2  # the standard deviation of a statistic, in units of its mean
_ALTERNATIVES = ("logits", "precision_matrix", "scale_tril")  # to probs and covariance_matrix

# How parameters change with the units of the data.
LOCATION_SCALE = {"loc": "location", "scale": "scale"}
SCALE, RATE, RATE_AS_SCALE, MEAN_AND_SHAPE = (
    {"scale": "scale"},
    {"rate": "rate"},
    {"rate": "scale"},
    {"loc": "scale", "concentration": "scale"},
)


class Tails(NamedTuple):
    """log P(X <= x) and log P(X > x)."""

    below: Tensor
    above: Tensor


class Family:
    """One family of distributions. A subclass overrides what it knows; None: there is no formula.

    `values` and `weights` are (..., n), and results keep the leading dimensions. Values of the
    `given` parameters follow as keywords.
    """

    support: str  # in words: "0 or 1"
    inside: Callable[..., Tensor]  # (values, **given) -> mask
    given: tuple[str, ...] = ()  # parameters that the data do not determine
    columns: bool = False  # an observation is a row of numbers
    simplex: bool = False  # the probabilities add to 1: one parameter fewer is free
    # The estimate as a formula.
    estimate: Callable[..., Params] | None = None  # (values, weights, **given)
    # (values, sums of their rows): for rows that count once, in less time; None: by `estimate`
    estimate_by_sums: Callable[..., Params | None] | None = None
    variances: Callable[
        ..., tuple[Tensor, ...]
    ]  # (**parameters), of independent errors, times size
    maximum: Callable[..., Tensor] | None = None  # (parameters, n): the log-likelihood
    size: Callable[..., Tensor] | None = None  # (values, weights, **given): the number of trials
    interval: Callable[..., dict[str, Tensor]] | None = None  # (parameters, n, level), exact
    information: str = "observed"
    solution: str = "closed form"  # how the status names `estimate`
    not_regular: str | None = None  # why the information means nothing
    corner: str | None = None  # the parameter in which the likelihood has corners
    # The search.
    start: Callable[..., Params] | None = None  # (values, weights)
    more_starts: Callable[..., list[Params]] | None = None  # where there may be several peaks
    units: dict[str, str] | None = None  # parameter -> "location", "scale" or "rate"
    statistics: Callable[..., tuple[Tensor, ...]] | None = None  # sufficient, of each value
    of_statistics: Callable[..., Tensor] | None = None  # (means, **parameters): mean log-likelihood
    mean_log_prob: Callable[..., Tensor] | None = None  # (values (..., m), **parameters): (..., 1)
    expected_information: Callable[..., Tensor] | None = None  # (**parameters), of one observation
    verdict: Callable[..., str | None] | None = None  # (parameters): why they are no estimate
    unbounded: str | None = None  # what to say where the likelihood has no upper bound
    # parameter, its infinite value, the family there, the parameters that both have
    limit: tuple[str, float, type[td.Distribution], tuple[str, ...]] | None = None
    near_limit: Callable[..., Params] | None = None  # parameters there -> of this, far out
    ordered: Callable[..., Params] | None = None  # exchangeable components in one order
    # Exact where PyTorch's are not.
    log_prob: Callable[..., Tensor] | None = None  # (values, **parameters, **given)
    tails: Callable[..., Tails] | None = None  # (values, **parameters, **given)

    def __init__(self, base: type[td.Distribution]) -> None:
        self.base = base

    def __reduce__(self) -> tuple:
        return type(self), (self.base,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Family) and self.__reduce__() == other.__reduce__()

    def __hash__(self) -> int:
        return hash(self.__reduce__())

    def __repr__(self) -> str:
        return self.name

    def __call__(self, *args: Any, **params: Any) -> td.Distribution:
        """Return the distribution with these parameters."""
        return self.base(*args, **params)

    @property
    def distribution(self) -> Any:
        """What makes a distribution of parameters, and what `fit` takes as the family."""
        return self.base

    @property
    def name(self) -> str:
        return self.base.__name__

    @property
    def __name__(self) -> str:  # what messages call a model, as of a class
        return self.name

    @property
    def domain(self) -> Any:
        """The support as a constraint."""
        return self.base.support

    @property
    def discrete(self) -> bool:
        return self.domain.is_discrete

    @property
    def by_formula_only(self) -> bool:
        """Whether a search cannot find the estimate, because not all derivatives mean something."""
        return self.simplex or (
            self.estimate is not None and (bool(self.not_regular) or self.information != "observed")
        )

    def covariance(self, params: Params, size: float) -> Tensor:
        """The covariance of the flattened estimate."""
        return torch.diag(torch.stack(self.variances(**params))) / size

    def means_tell_all(self, values: Tensor) -> bool:
        """Whether the means of the statistics keep the digits: the data are not nearly equal."""
        assert self.statistics is not None
        some = values[..., :: max(1, values.shape[-1] // _SAMPLE)]
        statistics = torch.stack([s.broadcast_to(some.shape) for s in self.statistics(some)])
        return bool(
            (statistics.std(-1, correction=0) > _CONCENTRATED * statistics.mean(-1).abs()).all()
        )

    def ends(self, given: Params) -> tuple[Any, Any]:
        """The ends of the support."""
        least = 0 if self.discrete else -math.inf
        low = given.get("loc", getattr(self.domain, "lower_bound", least))
        return low, given.get("total_count", getattr(self.domain, "upper_bound", math.inf))

    def middle(self, given: Params) -> Any:
        """A point inside the support."""
        low, high = self.ends(given)
        if not isinstance(high, Tensor) and high == math.inf:
            return 0.0 if not isinstance(low, Tensor) and low == -math.inf else low + 1.0
        return low + (high - low) / 2

    @property
    def arg_constraints(self) -> dict[str, Constraint]:
        """The constraints of the estimated parameters; of alternatives only the first."""
        known: Any = self.base.arg_constraints
        return {
            name: known[name]
            for name in _arguments(self.base)
            if name in known and name not in (*_ALTERNATIVES, *self.given)
        }

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the estimated parameters."""
        return tuple(self.arg_constraints)

    def constraints(self, columns: int) -> dict[str, Parameter]:
        """The constraint and shape of each parameter for rows of `columns` numbers."""
        return {name: parameter_of(c, columns) for name, c in self.arg_constraints.items()}

    def log_tails(self, x: Tensor, params: Params) -> Tails:
        """The tails, by PyTorch's cdf if there is no formula.

        Raises: NotImplementedError if the distribution function is not known.
        """
        if self.tails is not None:
            return self.tails(x, **params)
        below = self(**params, validate_args=False).cdf(x)
        return Tails(below.log(), torch.log1p(-below))

    def log_probs(self, values: Tensor, params: Params, given: dict[str, Any]) -> Tensor:
        """Log-probability or log-density of each row."""
        if self.log_prob is not None:
            return self.log_prob(values, **params, **given)
        return self(**params, **given, validate_args=False).log_prob(values)


@cache
def _arguments(distribution: type[td.Distribution]) -> tuple[str, ...]:
    return tuple(inspect.signature(distribution).parameters)


def parameter_of(constraint: Any, columns: int) -> Parameter:
    """Where a search looks for a parameter: inside its constraint, off closed boundaries."""
    if constraint is constraints.nonnegative:
        constraint = constraints.positive
    if constraint in (constraints.positive_definite, constraints.lower_cholesky):
        return Parameter(constraint, (columns, columns))
    if isinstance(constraint, constraints.greater_than_eq):
        constraint = constraints.greater_than(constraint.lower_bound)
    if isinstance(constraint, constraints.half_open_interval):
        constraint = constraints.interval(constraint.lower_bound, constraint.upper_bound)
    return Parameter(constraint, (columns,) if constraint.event_dim == 1 else ())


def tails_of(family: Family) -> Callable[..., Tails]:
    """The tails of a family. Raises ValueError for one that cannot be censored or truncated."""
    if family.tails is None:
        raise ValueError(
            f"expected a family that takes censored or truncated rows, got {family.name}"
        )
    return family.tails


def matrix(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row) for row in rows])


@dataclass(frozen=True, eq=False)
class Sample:
    """The data that a family was fitted to."""

    family: Family
    observed: Observations
    given: dict[str, Tensor]  # parameters that are no estimates: a number, or one for each row
    by_formula: bool  # whether the estimate is the family's closed form

    @property
    def given_each(self) -> Params:
        """The given parameters of each row, as often as the row was seen."""
        counts = self.observed.weights.round().long()
        return {
            name: value if value.dim() == 0 else value.repeat_interleave(counts)
            for name, value in self.given.items()
        }

    def simulated(self, params: Params, count: int, seed: int) -> Tensor:
        """Draw `count` data sets of as many numbers as were observed."""
        if self.family.columns:
            raise ValueError(f"expected parametric=False for {self.family.name}")
        shape = (count, round(self.observed.n))
        return simulate(self.family, {**params, **self.given_each}, shape, seed)


@dataclass(frozen=True)
class FamilyRows:
    """The log-probabilities of rows: blocks are the values (b, m), then each given parameter."""

    family: Family

    def __call__(self, parts: tuple[Tensor, ...], params: Params) -> Tensor:
        values, *given = parts
        return self.family.log_probs(
            values, params, dict(zip(self.family.given, given, strict=True))
        )


@dataclass(frozen=True)
class FamilyMeans:
    """The mean log-probability of data from the means (b, 1) of the sufficient statistics."""

    family: Family

    def __call__(self, parts: tuple[Tensor, ...], params: Params) -> Tensor:
        assert self.family.of_statistics is not None
        return self.family.of_statistics(parts, **params)


@dataclass(frozen=True)
class FamilyBlockMeans:
    """The mean log-probability (b, 1) of a block of rows (b, m) that count once each."""

    family: Family

    def __call__(self, parts: tuple[Tensor, ...], params: Params) -> Tensor:
        assert self.family.mean_log_prob is not None
        return self.family.mean_log_prob(parts[0], **params)


def simulate(family: Family, params: Params, shape: tuple[int, ...], seed: int) -> Tensor:
    """Draw (*shape) numbers of a family, in float64; a parameter may have a value for each row, the
    last dimension.
    """
    distribution = family(**params, validate_args=False)
    rows = len(distribution.batch_shape)
    sample_shape = torch.Size(shape[: len(shape) - rows])
    return seeded(lambda: distribution.sample(sample_shape), seed).double()


def seeded(draw: Callable[[], T], seed: int) -> T:
    """Draw with a seed; PyTorch's global generator stays as it is."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        return draw()
