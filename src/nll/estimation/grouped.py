"""Fits of many data sets at once: one search whose steps are taken side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from nll.data.observations import Observations, label_codes, total, totals
from nll.estimation.diagnostics import ended
from nll.estimation.inference.wald import wald_within
from nll.estimation.objective import Problem, Segment
from nll.families.base import Family, FamilyMeans, FamilyRows
from nll.solvers.parameters import layout

if TYPE_CHECKING:
    from nll.estimation.result import Fit

_ROWS = 1 << 22  # rows, with those that fill up short groups, that are searched at once


@dataclass(frozen=True, eq=False)
class GroupedFit:
    """The maximum likelihood estimates of one family for each group; NaN errors where there is no
    maximum.
    """

    model: str
    groups: list[Any]  # the labels, sorted
    params: dict[str, Tensor]  # (G, *shape)
    covariance: Tensor  # (G, P, P), from the observed information
    log_likelihood: Tensor  # (G)
    n: Tensor  # (G)
    converged: Tensor  # (G)
    dropped: int = 0
    events: Tensor | None = None  # (G), how many of censored observations were seen exactly
    # of parameters that have bounds
    supports: Mapping[str, Constraint] = field(default_factory=dict, repr=False)

    @property
    def standard_errors(self) -> dict[str, Tensor]:
        """(G, *shape) for each parameter."""
        errors = self.covariance.diagonal(dim1=1, dim2=2).sqrt()
        parts = errors.split([value[0].numel() for value in self.params.values()], 1)
        return {
            name: part.reshape(v.shape)
            for (name, v), part in zip(self.params.items(), parts, strict=True)
        }

    def interval(self, level: float = 0.95) -> dict[str, Tensor]:
        """Wald's intervals, (G, *shape, 2), on the scale on which the parameter has no bounds."""
        if not 0.0 < level < 1.0:
            raise ValueError(f"expected level in (0, 1), got {level}")
        errors = self.standard_errors
        return {
            name: wald_within(value, errors[name], level, self.supports.get(name))
            for name, value in self.params.items()
        }

    def to_dict(self) -> dict[str, list[Any]]:
        """Columns with a row for each group, as a table takes them."""
        columns: dict[str, list[Any]] = {"group": self.groups, "n": self.n.tolist()}
        if self.events is not None:
            columns |= {"events": self.events.tolist(), "censored": (self.n - self.events).tolist()}
        for name, value in self.params.items():
            columns[name] = value.tolist()
            columns[f"{name} std err"] = self.standard_errors[name].tolist()
        return columns | {
            "log_likelihood": self.log_likelihood.tolist(),
            "converged": self.converged.tolist(),
        }

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each group."""
        import pandas as pd

        return pd.DataFrame(self.to_dict()).set_index("group")

    def __len__(self) -> int:
        """How many groups there are."""
        return len(self.groups)

    def __str__(self) -> str:
        """A line on all of them."""
        missed = len(self) - int(self.converged.sum())
        rest = f"; {missed} without a maximum" if missed else ""
        events = "" if self.events is None else f", {float(self.events.sum()):.12g} events"
        return (
            f"{self.model}: {len(self)} groups, {float(self.n.sum()):.12g} "
            f"observations{events}{rest}"
        )


def fit_groups(
    family: Family,
    observed: Observations,
    labels: Any,
    alone: Callable[[Observations], Fit] | None = None,
) -> GroupedFit:
    """Fit a family to each group of the rows; `alone`: by this function, one after the other.

    Raises ValueError for labels that are not one for each row.
    """
    names, codes = label_codes(labels, observed.given, observed.rows.numpy(), "group")
    if alone is not None:
        return _in_turn(family, names.tolist(), torch.from_numpy(codes), observed, alone)
    order = torch.from_numpy(np.argsort(codes, kind="stable"))
    counts = torch.from_numpy(np.bincount(codes, minlength=len(names)))
    values, weights = observed.values[order], observed.weights[order]
    size, count = len(family.parameters), len(names)
    params = {
        name: torch.full((count,), torch.nan, dtype=torch.float64) for name in family.parameters
    }
    covariance = torch.full((count, size, size), torch.nan, dtype=torch.float64)
    value, total = (
        torch.full((count,), torch.nan, dtype=torch.float64),
        torch.zeros(count, dtype=torch.float64),
    )
    reached = torch.zeros(count, dtype=torch.bool)
    for which, x, w in _batches(values, weights, counts):
        found = fit_each(family, x, w)
        for name in params:
            params[name][which] = found.params[name]
        covariance[which], value[which], reached[which] = (
            found.covariance,
            found.log_likelihood,
            found.reached,
        )
        total[which] = w.sum(1)
    supports = {name: parameter.constraint for name, parameter in family.constraints(1).items()}
    return GroupedFit(
        family.name,
        names.tolist(),
        params,
        covariance,
        value,
        total,
        reached,
        observed.dropped,
        supports=supports,
    )


def _in_turn(
    family: Family,
    names: list[Any],
    codes: Tensor,
    observed: Observations,
    alone: Callable[[Observations], Fit],
) -> GroupedFit:
    """Rows that are censored or truncated: their kinds differ from group to group."""
    fits, parts = [], [observed.of(codes == k) for k in range(len(names))]
    for name, part in zip(names, parts, strict=True):
        try:
            fits.append(alone(part))
        except ValueError as error:
            raise ValueError(f"{error} (in group {name!r})") from None
    params = {name: torch.stack([fit.params[name] for fit in fits]) for name in family.parameters}
    numbers = {
        "log_likelihood": torch.tensor([fit.log_likelihood for fit in fits], dtype=torch.float64),
        "n": torch.tensor([fit.n for fit in fits], dtype=torch.float64),
        "converged": torch.tensor([fit.converged for fit in fits]),
    }
    counts = [part.censoring for part in parts]
    events = torch.tensor(
        [math.nan if count is None else count.events for count in counts], dtype=torch.float64
    )
    covariance = torch.stack([fit.covariance for fit in fits])
    kept = {"dropped": observed.dropped, "events": None if observed.ends is None else events}
    supports = {name: parameter.constraint for name, parameter in family.constraints(1).items()}
    return GroupedFit(family.name, names, params, covariance, **numbers, **kept, supports=supports)


@dataclass(frozen=True)
class Each:
    """What was found for each of (B) data sets."""

    params: dict[str, Tensor]  # (B)
    covariance: Tensor  # (B, P, P)
    log_likelihood: Tensor  # (B)
    reached: Tensor  # (B), whether it is a maximum inside
    settled: Tensor  # (B), or a limit, at which the parameters are as good as there


def fit_each(family: Family, values: Tensor, weights: Tensor) -> Each:
    """Fit each row of values (B, m), weighted (B, m); values of one row are weighted in several
    ways.
    """
    each = search_each if family.estimate is None else _formula_each
    return each(family, values, weights)


def search_each(family: Family, values: Tensor, weights: Tensor) -> Each:
    """Search the maximum for each row of values (B, m), weighted (B, m)."""
    own, count = layout(family.constraints(1)), len(weights)
    assert family.start is not None
    units = _units_of_each(values, family.units)
    values = values if units is None else (values - units.centre) / units.scale
    start = family.start(values, weights)
    if family.statistics is not None and family.means_tell_all(values):
        n = total(weights)
        means = tuple((sums / n)[:, None] for sums in totals(weights, values, family.statistics))
        segment = Segment(FamilyMeans(family), means, n[:, None])
    else:
        segment = Segment(FamilyRows(family), (values,), weights)
    problem = Problem((segment,), own, count)
    found = problem.maximise(own.numbers(start))
    factor, failed = torch.linalg.cholesky_ex(found.sums.information)
    settled = found.reached & ~_equal(values, weights)
    reached = settled & (failed == 0)
    inverse = torch.full_like(found.sums.information, torch.nan)
    inverse[reached] = torch.cholesky_inverse(factor[reached])
    reached &= ended(found, problem)
    jacobian, params = own.jacobian(found.theta), own.natural(found.theta)
    covariance = torch.full(
        (count, jacobian.shape[1], jacobian.shape[1]), torch.nan, dtype=torch.float64
    )
    value = found.sums.log_likelihood
    if units is not None:
        jacobian, params = units.factors(params).mT[..., None] * jacobian, units.given(params)
        value = value if family.discrete else value - total(weights) * units.scale[:, 0].log()
    covariance[reached] = jacobian[reached] @ inverse[reached] @ jacobian[reached].mT
    return Each(
        {name: v.detach() for name, v in params.items()}, covariance, value, reached, settled
    )


@dataclass(frozen=True)
class _UnitsOfEach:
    """The middle and the spread of each data set (B or 1, 1), and how parameters move with them."""

    centre: Tensor
    scale: Tensor
    roles: dict[str, str]

    def given(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        """Parameters (B) of the data as given."""
        centre = self.centre[:, 0]
        return {
            name: value * self._factor(name)
            + (centre if self.roles.get(name) == "location" else 0.0)
            for name, value in params.items()
        }

    def factors(self, params: dict[str, Tensor]) -> Tensor:
        """(P, B or 1): what each parameter is multiplied with."""
        return torch.stack([self._factor(name) for name in params])

    def _factor(self, name: str) -> Tensor:
        role, scale = self.roles.get(name), self.scale[:, 0]
        return torch.ones_like(scale) if role is None else 1 / scale if role == "rate" else scale


def _units_of_each(values: Tensor, roles: dict[str, str] | None) -> _UnitsOfEach | None:
    """Units in which the search for each is easy, as `units_of` has them for one."""
    if not roles:
        return None
    centre = (
        values.median(1, keepdim=True).values
        if "location" in roles.values()
        else torch.zeros_like(values[:, :1])
    )
    away = (values - centre).abs()
    spread = away.median(1, keepdim=True).values
    spread = torch.where(spread > 0, spread, away.amax(1, keepdim=True))
    fine = (spread > 0) & spread.isfinite()
    return _UnitsOfEach(centre, torch.where(fine, torch.exp2(spread.log2().round()), 1.0), roles)


def _formula_each(family: Family, values: Tensor, weights: Tensor) -> Each:
    assert family.estimate is not None
    assert family.covariance is not None
    params, n = family.estimate(values, weights), total(weights)
    rows = family.log_probs(values, {name: value[:, None] for name, value in params.items()}, {})
    likelihood = torch.where(weights > 0, weights * rows, 0.0).sum(1)
    of: Any = family.covariance
    covariance = torch.vmap(of)(params, n)
    reached = torch.stack([likelihood, *params.values()]).isfinite().all(0)
    if not family.discrete and len(params) > 1:
        reached &= ~_equal(values, weights)
    variances = covariance.diagonal(dim1=1, dim2=2)
    # at a boundary, or without a maximum
    lost = ~(variances >= torch.finfo(torch.float64).tiny) | ~reached[:, None]
    return Each(
        params,
        covariance.masked_fill(lost[:, :, None] | lost[:, None], torch.nan),
        likelihood,
        reached,
        reached,
    )


def _equal(values: Tensor, weights: Tensor) -> Tensor:
    """Which data sets are the same number throughout: a density has no maximum there."""
    low = torch.where(weights > 0, values, torch.inf).amin(1)
    return low == torch.where(weights > 0, values, -torch.inf).amax(1)


def _batches(
    values: Tensor, weights: Tensor, counts: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Groups of about one length together, filled up with their first value, which weighs
    nothing.
    """
    starts = counts.cumsum(0) - counts
    lengths = 2 ** counts.double().log2().ceil().long()
    for length in lengths.unique().tolist():
        for which in (lengths == length).nonzero()[:, 0].split(max(1, _ROWS // length)):
            place = torch.arange(length) + starts[which, None]
            there = torch.arange(length) < counts[which, None]
            place = torch.where(there, place, starts[which, None])
            yield which, values[place], torch.where(there, weights[place], 0.0)
