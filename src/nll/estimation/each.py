"""A family fitted to many data sets side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from nll.data.weights import total
from nll.estimation.closed_form import Each, all_equal, estimate_each
from nll.estimation.diagnostics import ended
from nll.estimation.models import mean_segment
from nll.estimation.objective import Problem, Segment
from nll.families.base import Family, FamilyRows
from nll.solvers.parameters import layout
from nll.solvers.units import units_of


def fit_each(family: Family, values: Tensor, weights: Tensor) -> Each:
    """Fit each row of values (B or 1, m), weighted (B, m)."""
    method = search_each if family.estimate is None else estimate_each
    return method(family, values, weights)


def search_each(family: Family, values: Tensor, weights: Tensor) -> Each:
    """Search for the maximum for each row of values (B or 1, m), weighted (B, m)."""
    space, count = layout(family.constraints(1)), len(weights)
    assert family.start is not None
    units = units_of(values, family.units)
    values = units.data(values)
    start = space.numbers(family.start(values, weights))
    segment = Segment(FamilyRows(family), (values,), weights)
    if family.statistics is not None and family.means_tell_all(values):
        segment = mean_segment(family, values, weights)
    problem = Problem((segment,), space, count)
    optima = problem.maximise(start)
    factor, failed = torch.linalg.cholesky_ex(optima.sums.information)
    settled = optima.reached & ~all_equal(values, weights)
    reached = settled & (failed == 0)
    inverse = torch.full_like(factor, torch.nan)
    inverse[reached] = torch.cholesky_inverse(factor[reached])
    reached &= ended(optima, problem)
    params = space.natural(optima.theta)
    jacobian = units.factors(params)[..., None] * space.jacobian(optima.theta)
    size = jacobian.shape[1]
    covariance = torch.full((count, size, size), torch.nan, dtype=torch.float64)
    covariance[reached] = jacobian[reached] @ inverse[reached] @ jacobian[reached].mT
    log_likelihood = optima.sums.log_likelihood
    if not family.discrete:
        log_likelihood = log_likelihood - total(weights) * units.scale.log()
    params = {name: value.detach() for name, value in units.given(params).items()}
    return Each(params, covariance, log_likelihood, reached, settled)
