"""Estimates by formula, of one sample or of many side by side; judged at boundaries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Exponential, Uniform, constraints
from torch.distributions.constraints import Constraint

from nll.data.weights import total
from nll.estimation.likelihood import LogLikelihood
from nll.families.base import Family, Sample
from nll.solvers.outcome import Status
from nll.solvers.parameters import Parameter, Params, flatten, unflatten

_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Estimate:
    """Where the likelihood is largest, and what is known of it."""

    params: Params
    covariance: Tensor  # (P, P); NaN where there is none
    log_likelihood: float
    verdict: Status
    status: str  # the verdict as a sentence


def estimate(sample: Sample) -> Estimate:
    """Return a family's estimate from its formula."""
    family, observed = sample.family, sample.observed
    assert family.estimate is not None
    assert family.covariance is not None
    values, weights = observed.values, observed.weights
    size = total(weights) if family.size is None else family.size(values, weights, **sample.given)
    if float(size) == 0.0:
        raise ValueError(f"expected at least one trial for {family.name}, got none")
    params = (
        observed.once
        and family.estimate_by_sums is not None
        and family.estimate_by_sums(values, observed.sums)
    ) or family.estimate(values, weights, **sample.given)
    covariance = family.covariance(params, float(size))
    verdict, status, unknown = _judge(sample, params)
    covariance = covariance.masked_fill(unknown | unknown[:, None], torch.nan)
    if not verdict.ok:
        return Estimate(params, covariance, math.inf, verdict, status)
    if family.maximum is None:
        maximum = FamilyLogLikelihood(sample, params)(flatten(params))
    else:
        maximum = float(family.maximum(params, observed.n))
    # NaN at a boundary
    variances = covariance.diagonal()
    overflow = variances.isinf() | (variances < _TINY) | ~flatten(params).isfinite()
    if not math.isfinite(maximum) or bool(overflow.any()):
        status = "not finite: the likelihood or its curvature overflows float64; rescale the data"
        nothing = torch.full_like(covariance, torch.nan)
        return Estimate(params, nothing, maximum, Status.NOT_FINITE, status)
    return Estimate(params, covariance, maximum, verdict, status)


def _judge(sample: Sample, params: Params) -> tuple[Status, str, Tensor]:
    """Return the verdict, the status, and which parameters have no variance."""
    family = sample.family
    invalid = None if family.verdict is None else family.verdict(params)
    attained, open_ends = _boundaries(family, params)
    index = torch.arange(flatten(params).numel())
    if invalid is not None:
        return Status.UNBOUNDED, invalid, index >= 0
    # a single rate may be infinite because of the data's unit
    rate = family.distribution is Exponential and float(sample.observed.values[0]) != 0.0
    if open_ends and not rate and sample.observed.equal:
        status = (
            f"no maximum: the data are all equal, and the likelihood grows without bound towards "
            f"{', '.join(open_ends)}"
        )
        return Status.UNBOUNDED, status, index >= 0
    if family.not_regular:
        return Status.NOT_REGULAR, f"not regular: {family.not_regular}", index < 0
    if not attained:
        return Status.CLOSED_FORM, f"converged: {family.solution}", index < 0
    where = ", ".join(attained.values())
    status = f"at the boundary of the parameter space: {where}; no standard error there"
    return Status.BOUNDARY, status, torch.isin(index, torch.tensor(list(attained)))


def _boundaries(family: Family, params: Params) -> tuple[dict[int, str], list[str]]:
    """Return the flat parameters at a boundary that belongs to the space, as index -> "name =
    value", and those at one that does not.
    """
    if family.distribution is Uniform:
        return {}, ["high = low"] if bool(params["low"] == params["high"]) else []
    attained, open_ends, index = {}, [], 0
    for name, value in params.items():
        constraint = family.arg_constraints[name]
        closed: tuple[float, ...] = ()
        if constraint in (constraints.unit_interval, constraints.simplex):
            closed = (0.0, 1.0)
        elif constraint is constraints.nonnegative:
            closed = (0.0,)
        for i, number in enumerate(value.reshape(-1).tolist()):
            label = f"{name}{f'[{i}]' if value.dim() else ''} = {number:g}"
            if number in closed:
                attained[index] = label
            elif constraint is constraints.positive and number in (0.0, math.inf):
                open_ends.append(label)
            index += 1
    return attained, open_ends


def supports_of(family: Family, params: Params) -> dict[str, Constraint]:
    if family.distribution is Uniform:  # has exact intervals
        return {}
    return {name: family.arg_constraints[name] for name in params}


class FamilyLogLikelihood(LogLikelihood):
    """The log-likelihood of a sample as a function of the flattened parameters."""

    def __init__(self, sample: Sample, like: Params) -> None:
        self.sample, self.like = sample, like

    @property
    def parameters(self) -> dict[str, Parameter]:
        constraint = constraints.simplex if self.sample.family.simplex else constraints.real
        return {
            name: Parameter(
                constraints.positive_definite if value.dim() == 2 else constraint,
                tuple(value.shape),
            )
            for name, value in self.like.items()
        }

    def __call__(self, vector: Tensor) -> float:
        family, observed = self.sample.family, self.sample.observed
        params = unflatten(vector, self.like)
        rows = family.log_probs(observed.values, params, self.sample.given)
        return float((observed.weights * rows).sum())


@dataclass(frozen=True)
class Each:
    """The estimates of (B) data sets."""

    params: dict[str, Tensor]  # (B)
    covariance: Tensor  # (B, P, P)
    log_likelihood: Tensor  # (B)
    reached: Tensor  # (B), whether it is a maximum inside
    settled: Tensor  # (B), or a limit, at which the parameters are as good


def estimate_each(family: Family, values: Tensor, weights: Tensor) -> Each:
    """Return the estimates of each row of values (B, m), weighted (B, m), from the formula."""
    assert family.estimate is not None
    assert family.covariance is not None
    params, n = family.estimate(values, weights), total(weights)
    rows = family.log_probs(values, {name: value[:, None] for name, value in params.items()}, {})
    log_likelihood = torch.where(weights > 0, weights * rows, 0.0).sum(1)
    formula: Any = family.covariance
    covariance = torch.vmap(formula)(params, n)
    reached = torch.stack([log_likelihood, *params.values()]).isfinite().all(0)
    if not family.discrete and len(params) > 1:
        reached &= ~all_equal(values, weights)
    # at a boundary, or without a maximum
    unknown = ~(covariance.diagonal(dim1=1, dim2=2) >= _TINY) | ~reached[:, None]
    covariance = covariance.masked_fill(unknown[:, :, None] | unknown[:, None], torch.nan)
    return Each(params, covariance, log_likelihood, reached, reached)


def all_equal(values: Tensor, weights: Tensor) -> Tensor:
    """Return which data sets (B) are one number throughout: a density has no maximum there."""
    low = torch.where(weights > 0, values, torch.inf).amin(1)
    return low == torch.where(weights > 0, values, -torch.inf).amax(1)
