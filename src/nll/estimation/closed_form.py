"""The result of a family whose estimate is a formula: the estimate judged, at boundaries and where
there is none.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Exponential, constraints
from torch.distributions.constraints import Constraint

from nll.data.observations import Observations, total
from nll.estimation.likelihood import LogLikelihood
from nll.estimation.result import Fit, Labels
from nll.families.base import Family
from nll.solvers.parameters import Parameter, Params


def closed_fit(family: Family, observed: Observations, given: dict[str, Tensor]) -> Fit:
    """The estimate, its covariance and its status."""
    assert family.estimate is not None
    assert family.covariance is not None
    values, weights = observed.values, observed.weights
    size = total(weights) if family.size is None else family.size(values, weights, **given)
    if float(size) == 0.0:
        raise ValueError(f"expected at least one trial for {family.name}, got none")
    params = family.estimate(values, weights, **given)
    covariance, status, attained = _judge(
        family, params, family.covariance(params, float(size)), observed
    )
    log_likelihood = _FamilyLogLikelihood(
        family, observed, given, {name: value.shape for name, value in params.items()}
    )
    flat = torch.cat([value.reshape(-1) for value in params.values()])
    maximum, redundant = math.inf, int(family.simplex)
    if "covariance_matrix" in params:  # symmetric
        columns = len(params["covariance_matrix"])
        redundant = columns * (columns - 1) // 2
    said = None if family.verdict is None else family.verdict(params)
    if said is not None:
        covariance, status, attained = torch.full_like(covariance, torch.nan), said, False
    if attained:
        known = family.maximum
        maximum = log_likelihood(flat) if known is None else float(known(params, observed.n))
    variances = covariance.diagonal()
    # NaN where there is a boundary
    lost = variances.isinf() | (variances < torch.finfo(torch.float64).tiny)
    if attained and not (
        math.isfinite(maximum) and not bool(lost.any()) and bool(torch.isfinite(flat).all())
    ):
        status = "not finite: the likelihood or its curvature overflows float64; rescale the data"
        covariance, attained = torch.full_like(covariance, torch.nan), False
    interval = None if family.interval is None else partial(family.interval, params, observed.n)
    return Fit(
        model=family.name,
        params=params,
        covariance=covariance,
        log_likelihood=maximum,
        n=observed.n,
        df=flat.numel() - redundant,
        status=status,
        converged=attained,
        labels=labels_of(params, observed),
        information=family.information,
        dropped=observed.dropped,
        exact_interval=interval,
        log_likelihood_at=log_likelihood,
        supports=supports_of(family, params),
    )


def _judge(
    family: Family, params: Params, covariance: Tensor, observed: Observations
) -> tuple[Tensor, str, bool]:
    """Return the covariance with NaN where there is none, the status, and whether the maximum is
    attained.
    """
    closed, open_ = _boundaries(family, params)
    single = family.distribution is Exponential and float(observed.values[0]) != 0.0
    # and not a number too large or too small for float64
    if open_ and not single and observed.equal:
        return torch.full_like(covariance, torch.nan), _unbounded(open_), False
    if family.not_regular:
        return covariance, f"not regular: {family.not_regular}", True
    if not closed:
        return covariance, f"converged: {family.solution}", True
    covariance = covariance.clone()
    for index, _ in closed:
        covariance[index, :] = covariance[:, index] = torch.nan
    where = ", ".join(name for _, name in closed)
    return (
        covariance,
        f"at the boundary of the parameter space: {where}; no standard error there",
        True,
    )


def _unbounded(boundaries: list[tuple[int, str]]) -> str:
    where = ", ".join(name for _, name in boundaries)
    return (
        f"no maximum: the data are all equal, and the likelihood grows without bound towards "
        f"{where}"
    )


def _boundaries(
    family: Family, params: Params
) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """The flat parameters (index, "name = value") at a boundary that belongs to the space, and at
    one that does not.
    """
    closed, open_, index = [], [], 0
    if family.distribution is torch.distributions.Uniform:
        return [], [(0, "high = low")] if bool(params["low"] == params["high"]) else []
    for name, value in params.items():
        constraint = family.distribution.arg_constraints[name]  # type: ignore[index]
        for at, number in enumerate(value.reshape(-1).tolist()):
            label = f"{name}{f'[{at}]' if value.dim() else ''} = {number:g}"
            probability = constraint in (constraints.unit_interval, constraints.simplex)
            if (probability and number in (0.0, 1.0)) or (
                constraint is constraints.nonnegative and number == 0.0
            ):
                closed.append((index, label))
            elif constraint is constraints.positive and number in (0.0, torch.inf):
                open_.append((index, label))
            index += 1
    return closed, open_


def supports_of(family: Family, params: Params) -> dict[str, Constraint]:
    """The constraints of a family's parameters."""
    if family.distribution is torch.distributions.Uniform:  # has intervals of its own
        return {}
    known: Any = family.distribution.arg_constraints
    return {name: known[name] for name in params}


def labels_of(params: Params, observed: Observations) -> dict[str, Labels]:
    """The names along each parameter."""
    if observed.categories is None:
        return {}
    return dict.fromkeys(params, (observed.categories,))


class _FamilyLogLikelihood(LogLikelihood):
    """The log-likelihood of the data as a function of the flattened parameters."""

    def __init__(
        self,
        family: Family,
        observed: Observations,
        given: dict[str, Tensor],
        shapes: dict[str, Any],
    ):
        self.family, self.observed, self.given, self.shapes = family, observed, given, shapes

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters that the vector holds."""
        known: dict[str, Parameter] = {}
        for name, shape in self.shapes.items():
            constraint = constraints.simplex if self.family.simplex else constraints.real
            known[name] = Parameter(
                constraints.positive_definite if len(shape) == 2 else constraint, tuple(shape)
            )
        return known

    def __call__(self, vector: Tensor) -> float:
        parts = vector.split([shape.numel() for shape in self.shapes.values()])
        params = {
            name: part.reshape(shape)
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
        rows = self.family.log_probs(self.observed.values, params, self.given)
        return float((self.observed.weights * rows).sum())
