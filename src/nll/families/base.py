"""What there is to know of a family of distributions: its support, its estimate, where a search
starts.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from nll.data.observations import Observations
from nll.solvers.parameters import Parameter, Params

_SAMPLE = 4096  # values that tell whether the data are nearly equal
_CONCENTRATED = 1e-2  # the spread of a statistic, in units of its mean
_SAME = ("logits", "precision_matrix", "scale_tril")  # as probs and covariance_matrix


@dataclass(frozen=True)
class Family:
    """One family. Functions of `values` and `weights` take (..., n) of them and answer for each of
    the leading ones.
    """

    distribution: type[td.Distribution]
    support: str  # as a reader would say it: "0 or 1"
    inside: Callable[..., Tensor]  # (values, **given) -> mask
    # (values, weights, **given) -> parameters, where it is a formula
    estimate: Callable[..., Params] | None = None
    # (parameters, size) -> that of the flat parameters
    covariance: Callable[[Params, float], Tensor] | None = None
    # (values, **parameters, **given), where PyTorch's is not exact
    log_prob: Callable[..., Tensor] | None = None
    # (parameters, n) -> the log-likelihood at the estimate
    maximum: Callable[[Params, float], Tensor] | None = None
    # (values, weights, **given): trials, where a row is several
    size: Callable[..., Tensor] | None = None
    given: tuple[str, ...] = ()  # what the data do not tell
    columns: bool = False  # an observation is a row of numbers
    simplex: bool = False  # the probabilities add to 1: one parameter fewer is free
    information: str = "observed"
    # (parameters, n, level), exact
    interval: Callable[[Params, float, float], dict[str, Tensor]] | None = None
    not_regular: str | None = None  # why the information means nothing here
    # the parameter in which the likelihood has corners: a search needs it fixed
    corner: str | None = None
    # (values, weights) -> where a search starts
    start: Callable[[Tensor, Tensor], Params] | None = None
    # where the likelihood may have several peaks
    more_starts: Callable[[Tensor, Tensor], list[Params]] | None = None
    # parameters that move with the data: "location", "scale" or "rate"
    units: dict[str, str] | None = None
    # of each value; their means tell all
    statistics: Callable[[Tensor], tuple[Tensor, ...]] | None = None
    # (means, **parameters) -> mean log-likelihood
    of_statistics: Callable[..., Tensor] | None = None
    # on parameters that are no estimate, a sentence
    verdict: Callable[[Params], str | None] | None = None
    unbounded: str | None = None  # what is to be said where the likelihood has no largest value
    # (values (..., m), **parameters) -> (..., 1)
    mean_log_prob: Callable[..., Tensor] | None = None
    solution: str = "closed form"  # how `estimate` finds it, for the status
    # parameter, value, family there
    limit: tuple[str, float, type[td.Distribution], tuple[str, ...]] | None = None
    # parameters of the family there -> of this one, far out
    near_limit: Callable[[Params], Params] | None = None

    @property
    def name(self) -> str:
        """The name of the distribution's class."""
        return self.distribution.__name__

    @property
    def discrete(self) -> bool:
        """Whether the distribution gives probability to single numbers."""
        return self.distribution.support.is_discrete  # type: ignore[union-attr]

    @property
    def by_formula_only(self) -> bool:
        """Whether a search cannot find the estimate, as not all derivatives mean something."""
        return self.simplex or (
            self.estimate is not None and (bool(self.not_regular) or self.information != "observed")
        )

    def means_tell_all(self, values: Tensor) -> bool:
        """Whether the means of the statistics keep the digits, as they do unless the data are
        nearly equal.
        """
        assert self.statistics is not None
        some = values[..., :: max(1, values.shape[-1] // _SAMPLE)]
        statistics = torch.stack([s.broadcast_to(some.shape) for s in self.statistics(some)])
        return bool(
            (statistics.std(-1, correction=0) > _CONCENTRATED * statistics.mean(-1).abs()).all()
        )

    def ends(self, given: Params) -> tuple[Any, Any]:
        """The ends of the support."""
        support: Any = self.distribution.support
        low = given.get("loc", getattr(support, "lower_bound", 0 if self.discrete else -math.inf))
        return low, given.get("total_count", getattr(support, "upper_bound", math.inf))

    def middle(self, given: Params) -> Any:
        """A point inside of the support."""
        low, high = self.ends(given)
        if not isinstance(high, Tensor) and high == math.inf:
            return 0.0 if not isinstance(low, Tensor) and low == -math.inf else low + 1.0
        return low + (high - low) / 2

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters that are estimated: of several that say the same, the
        first.
        """
        taken = list(inspect.signature(self.distribution).parameters)
        told: Any = self.distribution.arg_constraints
        # Uniform tells only of instances
        known = told if isinstance(told, dict) else set(taken) - {"validate_args"}
        return tuple(name for name in taken if name in known and name not in (*_SAME, *self.given))

    def __reduce__(self) -> tuple:
        """Pickle the name: the functions are found again in the table."""
        from nll.families.registry import family_of

        return family_of, (self.distribution,)

    def log_probs(self, values: Tensor, params: Params, given: dict[str, Any]) -> Tensor:
        """Log-probability or log-density of each row."""
        if self.log_prob is not None:
            return self.log_prob(values, **params, **given)
        return self.distribution(**params, **given, validate_args=False).log_prob(values)

    def constraints(self, columns: int) -> dict[str, Parameter]:
        """Where each parameter lives, and its shape for rows of so many columns."""
        known: Any = self.distribution.arg_constraints
        return {name: parameter_of(known[name], columns) for name in self.parameters}


@dataclass(frozen=True, eq=False)
class Sample:
    """The data that a family was fitted to."""

    family: Family
    observed: Observations
    given: dict[str, Tensor]  # what the data do not tell: a number, or one for each row
    by_formula: bool  # whether the estimate is the family's closed form


@dataclass(frozen=True)
class FamilyRows:
    """The log-probabilities of rows (b, m) of a family's values; then come the given numbers of
    each row.
    """

    family: Family

    def __call__(self, parts: tuple[Tensor, ...], params: Params) -> Tensor:
        """Return them."""
        values, *given = parts
        return self.family.log_probs(
            values, params, dict(zip(self.family.given, given, strict=True))
        )


@dataclass(frozen=True)
class FamilyMeans:
    """The mean log-probability of data whose statistics have the given means (b, 1)."""

    family: Family

    def __call__(self, parts: tuple[Tensor, ...], params: Params) -> Tensor:
        """Return it."""
        assert self.family.of_statistics is not None
        return self.family.of_statistics(parts, **params)


@dataclass(frozen=True)
class FamilyBlockMeans:
    """The mean log-probability of a block of rows (b, m) that count once each, in the place of each
    row's.
    """

    family: Family

    def __call__(self, parts: tuple[Tensor, ...], params: Params) -> Tensor:
        """Return it, (b, 1)."""
        assert self.family.mean_log_prob is not None
        return self.family.mean_log_prob(parts[0], **params)


def parameter_of(constraint: Any, columns: int) -> Parameter:
    """Where a search looks for a parameter: inside of its constraint."""
    if constraint is constraints.nonnegative:  # closed below: a search stays off the boundary
        constraint = constraints.positive
    if constraint in (constraints.positive_definite, constraints.lower_cholesky):
        return Parameter(constraint, (columns, columns))
    if isinstance(constraint, constraints.greater_than_eq):
        constraint = constraints.greater_than(constraint.lower_bound)
    if isinstance(constraint, constraints.half_open_interval):
        constraint = constraints.interval(constraint.lower_bound, constraint.upper_bound)
    return Parameter(constraint, (columns,) if constraint.event_dim == 1 else ())
