"""Families made of others: shifted, zero-inflated and finite mixtures."""

from __future__ import annotations

import copyreg
import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from nll._torch import transforming
from nll.estimation.diagnostics import look_around
from nll.estimation.maximise import Solution
from nll.families.base import Family, parameter_of
from nll.families.closed_forms import log1mexp, quantile
from nll.families.distributions import InverseGaussian
from nll.families.log_cdf import TAILS, Tails, log_sum, tails_of
from nll.families.registry import FAMILIES, family_of
from nll.families.searched_forms import moments
from nll.solvers.parameters import Parameter, Params
from nll.solvers.trust_region import Sums

_TRIES = 8  # random starts of a mixture
# Shares of the values that a narrow component may hold, and how many places are tried for each
_NARROW_SHARES, _PLACES = (0.1, 0.2, 0.4), 3
_FEW = 0.05  # the share of a component at an end of the data, where a search starts
_LEAST_SHARE = 1e-6  # of a component that means something


class _Made(type):
    """The class of classes that a function here has made, which pickle makes again."""


def _remake(made: Any) -> tuple:
    return made.maker, made.parts


copyreg.pickle(_Made, _remake)  # type: ignore[arg-type]


class Compound(td.Distribution, metaclass=_Made):
    """A distribution made of another, whose log-probability its family knows."""

    maker: Any
    parts: tuple
    arg_constraints: Any = {}  # noqa: RUF012
    base: type[td.Distribution]

    def __init__(self, *values: Any, validate_args: bool | None = None, **named: Any) -> None:
        given = dict(zip(self.arg_constraints, values, strict=False)) | named
        if set(given) != set(self.arg_constraints) or len(given) != len(values) + len(named):
            raise TypeError(f"expected {', '.join(self.arg_constraints)}, got {', '.join(given)}")
        for name, value in given.items():
            setattr(self, name, torch.as_tensor(value))
        shapes = [
            getattr(self, n).shape[: -1 if c.event_dim else None]
            for n, c in self.arg_constraints.items()
        ]
        super().__init__(torch.broadcast_shapes(*shapes), validate_args=validate_args)

    @property
    def params(self) -> Params:
        """The parameters by name."""
        return {name: getattr(self, name) for name in self.arg_constraints}

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-probability or log-density."""
        return family_of(type(self)).log_probs(value, self.params, {})

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= value)."""
        return tails_of(type(self))(value, **self.params).below.exp()


def _make(
    maker: Any, parts: tuple, name: str, known: dict[str, Any], support: Any, **methods: Any
) -> type[Compound]:
    said = {
        "maker": maker,
        "parts": parts,
        "base": parts[0],
        "arg_constraints": known,
        "support": support,
    }
    return _Made(
        name,
        (Compound,),
        {**said, **methods, "__doc__": f"{name}: {maker.__doc__.splitlines()[0]}"},
    )  # type: ignore[return-value]


@dataclass(frozen=True)
class CompoundFamily(Family):
    """A family whose parameters are those that its class names."""

    components: int | None = None  # every parameter has so many numbers

    @property
    def parameters(self) -> tuple[str, ...]:
        """Their names."""
        known: Any = self.distribution.arg_constraints
        return tuple(name for name in known if name not in self.given)

    def constraints(self, columns: int) -> dict[str, Parameter]:
        """Where each parameter lives, and its shape."""
        known = super().constraints(columns)
        if self.components is None:
            return known
        own = {
            name: getattr(p.constraint, "base_constraint", p.constraint)
            for name, p in known.items()
        }
        return {
            name: Parameter(parameter_of(c, 1).constraint, (self.components,))
            for name, c in own.items()
        }


def ordered(found: Solution, family: CompoundFamily) -> Solution:
    """The same maximum of a mixture, its components in the order of the family's first
    parameter.
    """
    own, problem = found.problem.layout, found.problem
    params = own.natural(found.theta)
    order = params[family.parameters[1]][0].argsort()
    theta = own.numbers({name: value[:, order] for name, value in params.items()}).detach()
    sums = Sums(*(part[0] for part in problem.sums(theta)))
    optimum = found.optimum._replace(theta=theta[0], sums=sums)
    # the numbers have other places
    around = None if found.around is None else look_around(problem, optimum)
    return replace(found, optimum=optimum, around=around)


def _arguments(family: Family) -> dict[str, Any]:
    known: Any = family.distribution.arg_constraints
    return {name: known[name] for name in family.parameters}


def start_of(family: Family, values: Tensor, weights: Tensor) -> Params:
    """Where a search of a family starts, for values (..., n)."""
    first = family.start or family.estimate
    assert first is not None
    return first(values, weights)


# ---- Shifted -------------------------------------------------------------------------------------


SHIFTED = (td.Gamma, td.Weibull, td.LogNormal, InverseGaussian, td.InverseGamma)


@cache
def shifted(family: type[td.Distribution]) -> type[Compound]:
    """A family of positive numbers, moved by `loc`: X - loc has the family's distribution.

    Of Gamma, Weibull, LogNormal, InverseGaussian and InverseGamma. Where the density may be
    infinite at `loc`, or
    narrow onto the smallest observation, the likelihood is unbounded: the fit is its largest
        maximum inside.
    """
    if family not in SHIFTED:
        names = ", ".join(f.__name__ for f in SHIFTED)
        raise ValueError(
            f"expected a family to shift ({names}), got {getattr(family, '__name__', family)!r}"
        )
    inner = family_of(family)
    own = "location" if "loc" in inner.parameters else "loc"
    known = {own: constraints.real} | _arguments(inner)

    def log_prob(values: Tensor, **params: Tensor) -> Tensor:
        rest = {name: value for name, value in params.items() if name != own}
        above = values - params[own]
        if not transforming() and bool((above > 0).all()):
            return inner.log_probs(above, rest, {})
        found = inner.log_probs(torch.where(above > 0, above, 1.0), rest, {})
        return torch.where(above > 0, found, -math.inf)

    def mean_log_prob(values: Tensor, **params: Tensor) -> Tensor:
        """NaN where a value lies below loc: a search steps back."""
        assert inner.statistics is not None
        assert inner.of_statistics is not None
        rest = {name: value for name, value in params.items() if name != own}
        # The division comes after the sum: its derivative is then one number for each data set.
        means = tuple(
            s.sum(-1, keepdim=True) / values.shape[-1]
            for s in inner.statistics(values - params[own])
        )
        return inner.of_statistics(means, **rest)

    def tails(x: Tensor, **params: Tensor) -> Tails:
        rest = {name: value for name, value in params.items() if name != own}
        above = x - params[own]
        found = tails_of(family)(torch.where(above > 0, above, 1.0), **rest)
        return Tails(
            torch.where(above > 0, found.below, -math.inf), torch.where(above > 0, found.above, 0.0)
        )

    def start(values: Tensor, weights: Tensor, room: float = 0.5) -> Params:
        low, spread = (
            torch.where(weights > 0, values, math.inf).amin(-1),
            moments(values, weights).spread,
        )
        loc = low - room * spread
        return {own: loc} | start_of(inner, values - loc[..., None], weights)

    def sample(self: Any, sample_shape: Any = ()) -> Tensor:
        rest = {name: value for name, value in self.params.items() if name != own}
        made: Any = family
        return self.params[own] + made(**rest, validate_args=False).sample(torch.Size(sample_shape))

    name = f"Shifted{family.__name__}"
    made = _make(shifted, (family,), name, known, constraints.real, sample=sample)
    TAILS[made] = tails
    roles = inner.units or (
        {"loc": "scale", "concentration": "scale"} if family is InverseGaussian else None
    )
    FAMILIES[made] = CompoundFamily(
        made,
        "a finite number",
        torch.isfinite,
        log_prob=log_prob,
        start=start,
        more_starts=lambda x, w: [start(x, w, room) for room in (0.02, 0.1, 2.0)],
        units=roles and {own: "location", **roles},
        mean_log_prob=mean_log_prob if inner.of_statistics else None,
        unbounded="the likelihood is unbounded as loc nears the smallest value: this is its "
        "largest maximum inside",
    )
    return made


# ---- Zero-inflated -------------------------------------------------------------------------------


INFLATED = (td.Poisson, td.NegativeBinomial, td.Geometric)


@cache
def zero_inflated(family: type[td.Distribution]) -> type[Compound]:
    """Counts that are 0 with probability `gate`, and else have the family's distribution (Lambert
    1992).

    Of Poisson, NegativeBinomial and Geometric.
    """
    if family not in INFLATED:
        names = ", ".join(f.__name__ for f in INFLATED)
        raise ValueError(
            f"expected a family of counts ({names}), got {getattr(family, '__name__', family)!r}"
        )
    inner = family_of(family)

    def log_prob(values: Tensor, gate: Tensor, **params: Tensor) -> Tensor:
        counts = torch.log1p(-gate) + inner.log_probs(values, params, {})
        at_zero = torch.logsumexp(torch.stack(torch.broadcast_tensors(gate.log(), counts)), 0)
        return torch.where(values == 0, at_zero, counts)

    def tails(x: Tensor, gate: Tensor, **params: Tensor) -> Tails:
        above = torch.log1p(-gate) + tails_of(family)(x, **params).above
        return Tails(log1mexp(-above), above)

    def start(values: Tensor, weights: Tensor, share: float = 0.5) -> Params:
        zeros = (weights * (values == 0)).sum(-1) / weights.sum(-1)
        # so that something is left of zeros alone
        positive = torch.where(values > 0, weights, 1e-3 * weights)
        return {"gate": (share * zeros).clamp(1e-3, 0.99)} | start_of(inner, values, positive)

    def sample(self: Any, sample_shape: Any = ()) -> Tensor:
        made: Any = family
        rest = {name: value for name, value in self.params.items() if name != "gate"}
        counts = made(**rest, validate_args=False).sample(torch.Size(sample_shape))
        return torch.where(torch.rand_like(counts) < self.params["gate"], 0.0, counts)

    known = {"gate": constraints.unit_interval} | _arguments(inner)
    name = f"ZeroInflated{family.__name__}"
    made = _make(
        zero_inflated, (family,), name, known, constraints.nonnegative_integer, sample=sample
    )
    TAILS[made] = tails
    FAMILIES[made] = CompoundFamily(
        made,
        inner.support,
        inner.inside,
        log_prob=log_prob,
        start=start,
        more_starts=lambda x, w: [start(x, w, 0.05)],
    )
    return made


def _apart(width: Tensor, size: int) -> list[int]:
    """Where the narrowest windows begin that do not overlap, of so many sorted values each."""
    found: list[int] = []
    for first in width.argsort().tolist():
        if all(abs(first - other) >= size for other in found):
            found.append(first)
            if len(found) == _PLACES:
                break
    return found


# ---- Mixtures ------------------------------------------------------------------------------------


def mixture(family: type[td.Distribution], components: int = 2) -> type[Compound]:
    """A mixture of so many members of a family, with shares `probs`; its parameters have a number
    for each.

    The components come in the order of the family's first parameter. The search starts from several
    places: slices of the sorted data, and the neighbourhoods of values drawn at random (with the
        `seed` of `fit`).
    """
    if isinstance(components, bool) or not isinstance(components, int) or components < 2:
        raise ValueError(f"expected components as an integer of at least 2, got {components!r}")
    inner = (
        family_of(family)
        if isinstance(family, type) and issubclass(family, td.Distribution)
        else None
    )
    usable = inner is not None and not (
        inner.columns or inner.given or inner.simplex or inner.not_regular
    )
    if (
        inner is None
        or not usable
        or (inner.start or inner.estimate) is None
        or "probs" in inner.parameters
    ):
        raise ValueError(
            f"expected a family of plain numbers to mix, got "
            f"{getattr(family, '__name__', family)!r}"
        )
    return _mixture(family, components)


@cache
def _mixture(family: type[td.Distribution], components: int) -> type[Compound]:
    inner = family_of(family)

    def log_prob(values: Tensor, probs: Tensor, **params: Tensor) -> Tensor:
        return torch.logsumexp(probs.log() + inner.log_probs(values[..., None], params, {}), -1)

    def tails(x: Tensor, probs: Tensor, **params: Tensor) -> Tails:
        each = tails_of(family)(x[..., None], **params)
        return Tails(*(log_sum(probs.log() + tail, -1) for tail in each))

    def among(values: Tensor, weights: Tensor, slots: Tensor) -> Params:
        """From which component, by its number, each value is supposed to come."""
        parts = [torch.where(slots == k, weights, 1e-3 * weights) for k in range(components)]
        starts = [start_of(inner, values, part) for part in parts]
        shares = torch.stack([part.sum(-1) for part in parts], -1)
        probs = shares / shares.sum(-1, keepdim=True)
        return {"probs": probs} | {
            name: torch.stack([s[name] for s in starts], -1) for name in starts[0]
        }

    def sliced(values: Tensor, weights: Tensor) -> Params:
        cuts = [quantile(values, weights, k / components) for k in range(1, components)]
        return among(values, weights, sum((values > cut[..., None]).long() for cut in cuts))  # type: ignore[arg-type]

    def others(values: Tensor, weights: Tensor) -> list[Params]:
        # the middle, and what is around it
        away = (values - quantile(values, weights, 0.5)[..., None]).abs()
        rings = [quantile(away, weights, 1 - 0.4**k) for k in range(1, components)]
        found = [among(values, weights, sum((away > ring[..., None]).long() for ring in rings))]  # type: ignore[arg-type]
        found += [among(values, weights, slots) for slots in clusters(values)]
        found += [few_at(values, weights, end) for end in (0.02, 0.98)]
        for _ in range(_TRIES):
            drawn = torch.rand(components, dtype=torch.float64).tolist()
            seeds = torch.stack([quantile(values, weights, q) for q in drawn], -1)
            nearest = (values[..., None] - seeds[..., None, :]).abs().argmin(-1)
            found.append(among(values, weights, nearest))
        return found

    def few_at(values: Tensor, weights: Tensor, end: float) -> Params:
        """A small share of a component at one end of the data; the others as all values have it."""
        at = quantile(values, weights, end)[..., None]
        side = values <= at if end < 0.5 else values >= at
        start = among(values, weights, side.long())
        probs = torch.full_like(start["probs"], _FEW / (components - 1))
        probs[..., 1] = 1 - _FEW
        order = [1, 0, *range(2, components)]
        return {"probs": probs[..., order]} | {
            name: value[..., order] for name, value in start.items() if name != "probs"
        }

    def clusters(values: Tensor) -> list[Tensor]:
        """The values that lie closest together, against the rest: a component may be narrow."""
        order = values.sort(-1).values
        count, found = values.shape[-1], []
        for size in sorted({max(3, round(share * count)) for share in _NARROW_SHARES}):
            if size < count:
                width = order[..., size - 1 :] - order[..., : count - size + 1]
                for first in _apart(width[0], size):
                    low, high = order[..., first, None], order[..., first + size - 1, None]
                    near = (values >= low) & (values <= high)
                    found.append(
                        torch.where(near, 0, 1 + (values > high).long() % (components - 1))
                    )
        return found

    def sample(self: Any, sample_shape: Any = ()) -> Tensor:
        made: Any = family
        rest = {name: value for name, value in self.params.items() if name != "probs"}
        every = made(**rest, validate_args=False).sample(torch.Size(sample_shape))
        which = td.Categorical(self.params["probs"], validate_args=False).sample(
            torch.Size(sample_shape)
        )
        return every.gather(-1, which[..., None])[..., 0]

    known = {"probs": constraints.simplex} | {
        name: constraints.independent(constraint, 1)
        for name, constraint in _arguments(inner).items()
    }
    support: Any = family.support
    made = _make(
        mixture, (family, components), f"{family.__name__}Mixture", known, support, sample=sample
    )
    if family in TAILS:
        TAILS[made] = tails

    def verdict(params: Params) -> str | None:
        share, k = params["probs"].min(0)
        if share > _LEAST_SHARE:
            return None
        return (
            f"stopped: component {int(k)} has lost all observations; start it elsewhere, or "
            f"use fewer components"
        )

    narrow = not inner.discrete and len(inner.parameters) > 1
    FAMILIES[made] = CompoundFamily(
        made,
        inner.support,
        inner.inside,
        log_prob=log_prob,
        start=sliced,
        more_starts=others,
        units=inner.units,
        verdict=verdict,
        unbounded="the likelihood is unbounded as a component narrows onto a value: this is its "
        "largest maximum inside"
        if narrow
        else None,
        components=components,
    )
    return made
