"""Finite mixtures of a family."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from nll.families.base import Family, Tails, tails_of
from nll.families.compound import Compound, start_of
from nll.families.log_cdf import log_sum
from nll.families.numerics import quantile
from nll.families.registry import family_of
from nll.solvers.parameters import Parameter, Params

_TRIES = 8  # random starts
_LEAST_SHARE = 1e-6  # of a component that means something
# Shares of the values that a narrow component may hold, and how many places are tried for each.
_NARROW_SHARES, _PLACES = (0.03, 0.1, 0.2, 0.4), 3
_FEW = 0.05  # the share of a component at an end of the data, where a search starts


def mixture(family: type[td.Distribution], components: int = 2) -> Mixture:
    """Return a mixture of members of a family; `probs` are their shares, and every other parameter
    has one number per component.

    The components are ordered by the family's first parameter. The search has several starts:
    slices of the sorted data, and neighbourhoods of values drawn at random (with the `seed` of
    `fit`).

    Args:
        family: a family of single numbers.
        components: how many, at least 2.

    Example:
        >>> from torch.distributions import Normal
        >>> fit = nll.fit(nll.mixture(Normal, 2), [1.0, 1.2, 0.8, 1.1, 5.0, 5.3, 4.9, 5.1])
        >>> [round(loc, 2) for loc in fit.params["loc"].tolist()]
        [1.02, 5.08]
    """
    if isinstance(components, bool) or not isinstance(components, int) or components < 2:
        raise ValueError(f"expected components as an integer of at least 2, got {components!r}")
    if not _can_be_mixed(family):
        got = getattr(family, "__name__", family)
        raise ValueError(f"expected a family of plain numbers to mix, got {got!r}")
    return Mixture(family, components)


def _can_be_mixed(family: Any) -> bool:
    is_class = isinstance(family, type) and issubclass(family, td.Distribution)
    if not (is_class or isinstance(family, Family)):
        return False
    inner = family_of(family)
    special = inner.columns or inner.given or inner.simplex or inner.not_regular
    searchable = inner.start is not None or inner.estimate is not None
    return searchable and not special and "probs" not in inner.parameters


class Mixture(Compound):
    """`components` members of the inner family, with shares `probs`."""

    def __init__(self, base: type[td.Distribution], components: int) -> None:
        super().__init__(base)
        self.components = components
        self.units = self.inner.units
        if self.inner.tails is not None:
            self.tails = self._tails
        if not self.inner.discrete and len(self.inner.parameters) > 1:
            self.unbounded = (
                "the likelihood is unbounded as a component narrows onto a value: this is its "
                "largest maximum inside"
            )

    def __reduce__(self) -> tuple:
        return Mixture, (self.base, self.components)

    @property
    def name(self) -> str:
        return f"{self.base.__name__}Mixture"

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        return {"probs": constraints.simplex, **self.inner.arg_constraints}

    def constraints(self, columns: int) -> dict[str, Parameter]:
        known = super().constraints(columns)
        return {name: Parameter(p.constraint, (self.components,)) for name, p in known.items()}

    def ordered(self, params: Params) -> Params:
        """The same mixture, its components in the order of the first parameter, (B, components)."""
        order = params[self.parameters[1]].argsort(-1)
        return {name: value.gather(-1, order) for name, value in params.items()}

    def log_prob(self, values: Tensor, probs: Tensor, **params: Tensor) -> Tensor:
        return torch.logsumexp(
            probs.log() + self.inner.log_probs(values[..., None], params, {}), -1
        )

    def _tails(self, x: Tensor, probs: Tensor, **params: Tensor) -> Tails:
        each = tails_of(self.inner)(x[..., None], **params)
        return Tails(*(log_sum(probs.log() + tail, -1) for tail in each))

    def draw(self, shape: torch.Size, probs: Tensor, **params: Tensor) -> Tensor:
        every = self.inner(**params, validate_args=False).sample(shape)
        which = td.Categorical(probs, validate_args=False).sample(shape)
        return every.gather(-1, which[..., None])[..., 0]

    def verdict(self, params: Params) -> str | None:
        share, k = params["probs"].min(0)
        if share > _LEAST_SHARE:
            return None
        return (
            f"stopped: component {int(k)} has lost all observations; start it elsewhere, or "
            f"use fewer components"
        )

    def among(self, values: Tensor, weights: Tensor, slots: Tensor) -> Params:
        """The start at which the values in slot k come from component k."""
        parts = [torch.where(slots == k, weights, 1e-3 * weights) for k in range(self.components)]
        starts = [start_of(self.inner, values, part) for part in parts]
        shares = torch.stack([part.sum(-1) for part in parts], -1)
        return {"probs": shares / shares.sum(-1, keepdim=True)} | {
            name: torch.stack([s[name] for s in starts], -1) for name in starts[0]
        }

    def start(self, values: Tensor, weights: Tensor) -> Params:
        cuts = [quantile(values, weights, k / self.components) for k in range(1, self.components)]
        return self.among(values, weights, sum((values > cut[..., None]).long() for cut in cuts))  # type: ignore[arg-type]

    def more_starts(self, values: Tensor, weights: Tensor) -> list[Params]:
        # the middle, and what is around it
        away = (values - quantile(values, weights, 0.5)[..., None]).abs()
        rings = [quantile(away, weights, 1 - 0.4**k) for k in range(1, self.components)]
        starts = [
            self.among(values, weights, sum((away > ring[..., None]).long() for ring in rings))  # type: ignore[arg-type]
        ]
        starts += [self.among(values, weights, slots) for slots in self._clusters(values)]
        starts += [self._few_at(values, weights, end) for end in (0.02, 0.98)]
        for _ in range(_TRIES):
            drawn = torch.rand(self.components, dtype=torch.float64).tolist()
            seeds = torch.stack([quantile(values, weights, q) for q in drawn], -1)
            nearest = (values[..., None] - seeds[..., None, :]).abs().argmin(-1)
            starts.append(self.among(values, weights, nearest))
        return starts

    def _few_at(self, values: Tensor, weights: Tensor, end: float) -> Params:
        """The start with a small share of a component at one end of the data, the others as for all
        values.
        """
        at = quantile(values, weights, end)[..., None]
        side = values <= at if end < 0.5 else values >= at
        start = self.among(values, weights, side.long())
        probs = torch.full_like(start["probs"], _FEW / (self.components - 1))
        probs[..., 1] = 1 - _FEW
        order = [1, 0, *range(2, self.components)]
        return {"probs": probs[..., order]} | {
            name: value[..., order] for name, value in start.items() if name != "probs"
        }

    def _clusters(self, values: Tensor) -> list[Tensor]:
        """The values that lie closest together vs. the rest: a component may be narrow."""
        ordered, count = values.sort(-1).values, values.shape[-1]
        slots = []
        sizes = {max(3, round(share * count)) for share in _NARROW_SHARES}
        for size in sorted(size for size in sizes if size < count):
            begin = torch.arange(count - size + 1)
            low, high = (begin - size).clamp(min=0), (begin + 2 * size - 1).clamp(max=count - 1)
            width = ordered[..., begin + size - 1] - ordered[..., begin]
            share = width / (ordered[..., high] - ordered[..., low])  # of the width around
            for first in _apart(share[0], size):
                low, high = ordered[..., first, None], ordered[..., first + size - 1, None]
                near = (values >= low) & (values <= high)
                others = 1 + (values > high).long() % (self.components - 1)
                slots.append(torch.where(near, 0, others))
        return slots


def _apart(width: Tensor, size: int) -> list[int]:
    """Where the narrowest windows of `size` sorted values begin that do not overlap."""
    starts: list[int] = []
    for first in width.argsort().tolist():
        if all(abs(first - other) >= size for other in starts):
            starts.append(first)
            if len(starts) == _PLACES:
                break
    return starts
