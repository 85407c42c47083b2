"""Where a search ended: boundaries by name and value."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Gamma, Weibull, constraints

import nll
from nll.estimation.search.solution import boundary


@pytest.mark.parametrize(
    ("constraint", "low", "high"),
    [
        (constraints.real, -math.inf, math.inf),
        (constraints.positive, 0.0, math.inf),
        (constraints.unit_interval, 0.0, 1.0),
        (constraints.greater_than(-2.0), -2.0, math.inf),
        (constraints.interval(-1.0, 4.0), -1.0, 4.0),
    ],
)
def test_each_side_of_a_constraint(constraint, low, high):
    assert (boundary(constraint, -1.0), boundary(constraint, 1.0)) == (low, high)


def test_the_free_number_of_an_upper_bound_is_mirrored():
    constraint = constraints.less_than(3.0)
    assert (boundary(constraint, -1.0), boundary(constraint, 1.0)) == (3.0, -math.inf)


@pytest.mark.parametrize(("family", "shape"), [(Gamma, 0.4), (Weibull, 0.5)])
@pytest.mark.parametrize(("at", "scale"), [(0.0, 1.0), (1000.0, 1.0), (-3.0, 1e-3)])
def test_a_rise_towards_the_smallest_value_is_named_by_it(family, shape, at, scale):
    """The density is infinite at the location, which nears the smallest value, not infinity."""
    torch.manual_seed(0)
    ones = torch.ones(60, dtype=torch.float64)
    x = at + scale * (Gamma(shape * ones, ones).sample())
    fit = nll.fit(nll.shifted(family), x)
    assert fit.verdict.name == "UNBOUNDED"
    assert f"loc = {float(x.min()):.6g}" in fit.status
    assert "inf" not in fit.status
