"""Families made of others: shifted and zero-inflated ones, and what mixtures share with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from nll._torch import transforming
from nll.families.base import Family, Tails, tails_of
from nll.families.distributions import InverseGaussian
from nll.families.numerics import log1mexp, moments, smallest
from nll.families.registry import family_of
from nll.solvers.parameters import Params


class Compound(Family):
    """A family made of another, `inner`. Call it with parameters to make a distribution."""

    prefix: ClassVar[str] = ""  # of the name
    draw: Callable[..., Tensor]  # (shape, **parameters): numbers (*shape, ...)

    def __init__(self, base: type[td.Distribution]) -> None:
        super().__init__(base)
        self.inner = family_of(base)
        self.support = self.inner.support
        self.inside = self.inner.inside

    def __call__(self, *args: Any, validate_args: bool | None = None, **named: Any) -> Any:
        params = dict(zip(self.parameters, args, strict=False)) | named
        if set(params) != set(self.parameters) or len(params) != len(args) + len(named):
            raise TypeError(f"expected {', '.join(self.parameters)}, got {', '.join(params)}")
        return CompoundDistribution(self, params, validate_args)

    @property
    def distribution(self) -> Compound:
        return self

    @property
    def domain(self) -> Any:
        return self.inner.domain

    @property
    def name(self) -> str:
        return f"{self.prefix}{self.base.__name__}"


class CompoundDistribution(td.Distribution):
    """A member of a compound family, which knows its log-probability."""

    def __init__(self, family: Compound, params: dict[str, Any], validate_args: bool | None):
        self.family = family
        self.params = {name: torch.as_tensor(value) for name, value in params.items()}
        vars(self).update(self.params)
        shapes = [
            self.params[name].shape[: -len(parameter.shape) or None]
            for name, parameter in family.constraints(1).items()
        ]
        super().__init__(torch.broadcast_shapes(*shapes), validate_args=validate_args)

    def __repr__(self) -> str:
        return f"{self.family.name}({', '.join(f'{n}: {v}' for n, v in self.params.items())})"

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return self.family.arg_constraints

    @property
    def support(self) -> constraints.Constraint:
        return self.family.domain

    def log_prob(self, value: Tensor) -> Tensor:
        return self.family.log_probs(value, self.params, {})

    def cdf(self, value: Tensor) -> Tensor:
        return tails_of(self.family)(value, **self.params).below.exp()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        with torch.no_grad():
            return self.family.draw(torch.Size(sample_shape), **self.params)


def start_of(family: Family, values: Tensor, weights: Tensor) -> Params:
    """Where a search of a family starts, for values (..., n)."""
    start = family.start or family.estimate
    assert start is not None
    return start(values, weights)


def _require_one_of(families: tuple[type, ...], family: Any, what: str) -> None:
    if family not in families:
        names = ", ".join(f.__name__ for f in families)
        got = getattr(family, "__name__", family)
        raise ValueError(f"expected {what} ({names}), got {got!r}")


# ---- Shifted -------------------------------------------------------------------------------------


SHIFTED = (td.Gamma, td.Weibull, td.LogNormal, InverseGaussian, td.InverseGamma)


def shifted(family: type[td.Distribution]) -> Shifted:
    """Return a family of positive numbers with a free location: X - loc has the family's
    distribution.

    Where the density may be infinite at `loc`, or narrow onto the smallest observation, the
    likelihood is unbounded: the fit is its largest maximum inside.

    Args:
        family: Gamma, Weibull, LogNormal (whose location is called `location`), InverseGaussian or
            InverseGamma.

    Example:
        >>> from torch.distributions import Weibull
        >>> fit = nll.fit(nll.shifted(Weibull), [5.3, 6.1, 5.9, 7.4, 6.6, 5.7, 6.3, 8.0])
        >>> 4.5 < float(fit.params["loc"]) < 5.3
        True
    """
    _require_one_of(SHIFTED, family, "a family to shift")
    return Shifted(family)


class Shifted(Compound):
    """X - loc has the inner distribution."""

    prefix = "Shifted"
    unbounded = (
        "the likelihood is unbounded as loc nears the smallest value: this is its "
        "largest maximum inside"
    )

    def __init__(self, base: type[td.Distribution]) -> None:
        super().__init__(base)
        self.loc = "location" if "loc" in self.inner.parameters else "loc"
        self.support = "a finite number"
        self.inside = torch.isfinite
        self.units = self.inner.units and {self.loc: "location", **self.inner.units}
        self.mean_log_prob = self._mean_log_prob if self.inner.of_statistics else None

    @property
    def domain(self) -> constraints.Constraint:
        return constraints.real

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {self.loc: constraints.real, **self.inner.arg_constraints}

    def log_prob(self, values: Tensor, **params: Tensor) -> Tensor:
        above = values - params.pop(self.loc)
        if not transforming() and bool((above > 0).all()):
            return self.inner.log_probs(above, params, {})
        inside = self.inner.log_probs(torch.where(above > 0, above, 1.0), params, {})
        return torch.where(above > 0, inside, -math.inf)

    def _mean_log_prob(self, values: Tensor, **params: Tensor) -> Tensor:
        """NaN where a value lies below loc: a search steps back."""
        assert self.inner.statistics is not None
        assert self.inner.of_statistics is not None
        statistics = self.inner.statistics(values - params.pop(self.loc))
        # The division comes after the sum: its derivative is then one number for each data set.
        means = tuple(s.sum(-1, keepdim=True) / values.shape[-1] for s in statistics)
        return self.inner.of_statistics(means, **params)

    def tails(self, x: Tensor, **params: Tensor) -> Tails:
        above = x - params.pop(self.loc)
        inner = tails_of(self.inner)(torch.where(above > 0, above, 1.0), **params)
        below = torch.where(above > 0, inner.below, -math.inf)
        return Tails(below, torch.where(above > 0, inner.above, 0.0))

    def start(self, values: Tensor, weights: Tensor, room: float = 0.5) -> Params:
        loc = smallest(values, weights) - room * moments(values, weights).std
        return {self.loc: loc} | start_of(self.inner, values - loc[..., None], weights)

    def more_starts(self, values: Tensor, weights: Tensor) -> list[Params]:
        return [self.start(values, weights, room) for room in (0.02, 0.1, 2.0)]

    def draw(self, shape: torch.Size, **params: Tensor) -> Tensor:
        return params.pop(self.loc) + self.inner(**params, validate_args=False).sample(shape)


# ---- Zero-inflated -------------------------------------------------------------------------------


INFLATED = (td.Poisson, td.NegativeBinomial, td.Geometric)


def zero_inflated(family: type[td.Distribution]) -> ZeroInflated:
    """Return a family of counts that are 0 with probability `gate`, and otherwise have the family's
    distribution (Lambert 1992).

    Args:
        family: Poisson, NegativeBinomial or Geometric.

    Example:
        >>> from torch.distributions import Poisson
        >>> fit = nll.fit(nll.zero_inflated(Poisson), [0, 0, 0, 0, 0, 3, 4, 2, 5, 3])
        >>> round(float(fit.params["gate"]), 2)
        0.48
    """
    _require_one_of(INFLATED, family, "a family of counts")
    return ZeroInflated(family)


class ZeroInflated(Compound):
    """0 with probability `gate`, otherwise the inner distribution."""

    prefix = "ZeroInflated"

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {"gate": constraints.unit_interval, **self.inner.arg_constraints}

    def log_prob(self, values: Tensor, gate: Tensor, **params: Tensor) -> Tensor:
        counts = torch.log1p(-gate) + self.inner.log_probs(values, params, {})
        at_zero = torch.logsumexp(torch.stack(torch.broadcast_tensors(gate.log(), counts)), 0)
        return torch.where(values == 0, at_zero, counts)

    def tails(self, x: Tensor, gate: Tensor, **params: Tensor) -> Tails:
        above = torch.log1p(-gate) + tails_of(self.inner)(x, **params).above
        return Tails(log1mexp(-above), above)

    def start(self, values: Tensor, weights: Tensor, share: float = 0.5) -> Params:
        zeros = (weights * (values == 0)).sum(-1) / weights.sum(-1)
        # The small weight leaves something of data that are all zeros.
        positive = torch.where(values > 0, weights, 1e-3 * weights)
        gate = (share * zeros).clamp(1e-3, 0.99)
        return {"gate": gate} | start_of(self.inner, values, positive)

    def more_starts(self, values: Tensor, weights: Tensor) -> list[Params]:
        return [self.start(values, weights, 0.05)]

    def draw(self, shape: torch.Size, gate: Tensor, **params: Tensor) -> Tensor:
        counts = self.inner(**params, validate_args=False).sample(shape)
        return torch.where(torch.rand_like(counts) < gate, 0.0, counts)
