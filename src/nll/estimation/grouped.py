"""Fits of a family to each group of the rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from nll.data.classes import label_codes
from nll.estimation.inference.wald import require_level, wald_within
from nll.estimation.models import fit_each
from nll.families.base import Sample
from nll.solvers.parameters import unflatten

if TYPE_CHECKING:
    from nll.estimation.result import Fit

_ROWS = 1 << 22  # rows, with the padding of short groups, that are fitted at once


@dataclass(frozen=True, eq=False)
class GroupedFit:
    """The maximum likelihood estimates of one family for each group; NaN standard errors where
    there is no maximum.
    """

    model: str
    groups: list[Any]  # the labels, sorted
    params: dict[str, Tensor]  # (G, *shape)
    covariance: Tensor  # (G, P, P), from the observed information
    log_likelihood: Tensor  # (G)
    n: Tensor  # (G)
    converged: Tensor  # (G)
    dropped: int = 0
    events: Tensor | None = None  # (G), how many of censored observations are exact
    # of parameters that have bounds
    supports: Mapping[str, Constraint] = field(default_factory=dict, repr=False)

    @property
    def standard_errors(self) -> dict[str, Tensor]:
        """The standard errors, (G, *shape) for each parameter."""
        roots = self.covariance.diagonal(dim1=1, dim2=2).sqrt()
        shaped = unflatten(roots.T, {name: value[0] for name, value in self.params.items()})
        return {name: value.movedim(-1, 0) for name, value in shaped.items()}

    def interval(self, level: float = 0.95) -> dict[str, Tensor]:
        """Return Wald intervals (G, *shape, 2), on the scale where the parameter has no bounds."""
        require_level(level)
        standard_errors = self.standard_errors
        return {
            name: wald_within(value, standard_errors[name], level, self.supports.get(name))
            for name, value in self.params.items()
        }

    def to_dict(self) -> dict[str, list[Any]]:
        columns: dict[str, list[Any]] = {"group": self.groups, "n": self.n.tolist()}
        if self.events is not None:
            columns["events"] = self.events.tolist()
            columns["censored"] = (self.n - self.events).tolist()
        for name, standard_error in self.standard_errors.items():
            columns[name] = self.params[name].tolist()
            columns[f"{name} std err"] = standard_error.tolist()
        columns["log_likelihood"] = self.log_likelihood.tolist()
        columns["converged"] = self.converged.tolist()
        return columns

    def to_pandas(self) -> Any:
        """Return a DataFrame with a row for each group."""
        import pandas as pd

        return pd.DataFrame(self.to_dict()).set_index("group")

    def __len__(self) -> int:
        return len(self.groups)

    def __str__(self) -> str:
        missed = len(self) - int(self.converged.sum())
        rest = f"; {missed} without a maximum" if missed else ""
        events = "" if self.events is None else f", {float(self.events.sum()):.12g} events"
        n = f"{float(self.n.sum()):.12g}"
        return f"{self.model}: {len(self)} groups, {n} observations{events}{rest}"


def fit_groups(sample: Sample, labels: Any, fit_sample: Callable[[Sample], Fit]) -> GroupedFit:
    """Fit a family to each group of the rows: side by side, or with `fit_sample` one after the
    other if the rows are censored or truncated.

    Raises: ValueError for labels that are not one for each row.
    """
    observed = sample.observed
    names, codes = label_codes(labels, observed.given, observed.rows.numpy(), "group")
    fit_all = _one_by_one if observed.incomplete else _side_by_side
    return fit_all(sample, names.tolist(), codes, fit_sample)


def _side_by_side(
    sample: Sample, names: list[Any], codes: np.ndarray, _: Callable[[Sample], Fit]
) -> GroupedFit:
    family, observed = sample.family, sample.observed
    order = torch.from_numpy(np.argsort(codes, kind="stable"))
    sizes = torch.from_numpy(np.bincount(codes, minlength=len(names)))
    values, weights = observed.values[order], observed.weights[order]
    nothing = torch.full((len(names),), torch.nan, dtype=torch.float64)
    params = {name: nothing.clone() for name in family.parameters}
    covariance = nothing[:, None, None].repeat(1, len(params), len(params))
    log_likelihood, n = nothing.clone(), nothing.clone()
    converged = torch.zeros(len(names), dtype=torch.bool)
    for which, x, w in _batches(values, weights, sizes):
        each = fit_each(family, x, w)
        for name in params:
            params[name][which] = each.params[name]
        covariance[which] = each.covariance
        log_likelihood[which] = each.log_likelihood
        converged[which] = each.reached
        n[which] = w.sum(1)
    return _grouped(sample, names, params, covariance, log_likelihood, n, converged)


def _one_by_one(
    sample: Sample, names: list[Any], codes: np.ndarray, fit_sample: Callable[[Sample], Fit]
) -> GroupedFit:
    fits = []
    for code, name in enumerate(names):
        rows = sample.observed.of(torch.from_numpy(codes == code))
        try:
            fits.append(fit_sample(replace(sample, observed=rows)))
        except ValueError as error:
            raise ValueError(f"{error} (in group {name!r})") from None
    params = {name: torch.stack([fit.params[name] for fit in fits]) for name in fits[0].params}
    covariance = torch.stack([fit.covariance for fit in fits])
    log_likelihood = torch.tensor([fit.log_likelihood for fit in fits], dtype=torch.float64)
    n = torch.tensor([fit.n for fit in fits], dtype=torch.float64)
    converged = torch.tensor([fit.converged for fit in fits])
    grouped = _grouped(sample, names, params, covariance, log_likelihood, n, converged)
    if sample.observed.ends is None:
        return grouped
    counts = [fit.censoring for fit in fits]
    events = [math.nan if count is None else count.events for count in counts]
    return replace(grouped, events=torch.tensor(events, dtype=torch.float64))


def _grouped(sample: Sample, names: list[Any], *estimates: Any) -> GroupedFit:
    supports = {name: p.constraint for name, p in sample.family.constraints(1).items()}
    dropped = sample.observed.dropped
    return GroupedFit(sample.family.name, names, *estimates, dropped=dropped, supports=supports)


def _batches(
    values: Tensor, weights: Tensor, sizes: Tensor
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield groups of similar size together, padded with their first value at weight 0."""
    starts = sizes.cumsum(0) - sizes
    lengths = 2 ** sizes.double().log2().ceil().long()
    for length in lengths.unique().tolist():
        for which in (lengths == length).nonzero()[:, 0].split(max(1, _ROWS // length)):
            place = torch.arange(length) + starts[which, None]
            inside = torch.arange(length) < sizes[which, None]
            place = torch.where(inside, place, starts[which, None])
            yield which, values[place], torch.where(inside, weights[place], 0.0)
