"""How a fit ended, as a value and as a sentence."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions as td
from torch.distributions import constraints

from nll import Likelihood, fit, sampling
from nll.solvers.outcome import Status

REAL = [1.0, 2.5, 4.0, 3.0, 2.0]
TWO = {"a": constraints.real, "b": constraints.real}

ENDINGS = {
    "closed form": (lambda: fit(td.Normal, REAL), Status.CLOSED_FORM, "converged"),
    "search": (lambda: fit(td.Weibull, REAL), Status.CONVERGED, "converged"),
    "boundary": (lambda: fit(td.Poisson, [0, 0]), Status.BOUNDARY, "at the boundary"),
    "limit": (
        lambda: fit(td.NegativeBinomial, [3, 3, 3, 4, 3, 3, 2, 3, 3, 3]),
        Status.BOUNDARY,
        "at the boundary",
    ),
    "not regular": (lambda: fit(td.Uniform, REAL), Status.NOT_REGULAR, "not regular"),
    "equal": (lambda: fit(td.Normal, [1.0, 1.0]), Status.UNBOUNDED, "no maximum"),
    "equal, searched": (lambda: fit(td.Weibull, [1.0, 1.0]), Status.UNBOUNDED, "no maximum"),
    "rising": (
        lambda: fit(Likelihood(lambda y, a: a * y, {"a": constraints.real}), REAL),
        Status.UNBOUNDED,
        "no maximum",
    ),
    "flat": (
        lambda: fit(Likelihood(lambda y, a, b: td.Normal(a + b, 1.0), TWO), REAL),
        Status.NOT_IDENTIFIED,
        "flat direction",
    ),
    "outside": (
        lambda: fit(td.Gamma, REAL, fixed={"rate": lambda p: p["concentration"] - 99}),
        Status.OUTSIDE,
        "outside of the parameter space",
    ),
    "not finite": (
        lambda: fit(Likelihood(lambda y, a: (a - 9).sqrt() * y, {"a": constraints.real}), REAL),
        Status.NOT_FINITE,
        "not finite",
    ),
}


@pytest.mark.parametrize(("make", "verdict", "status"), ENDINGS.values(), ids=list(ENDINGS))
def test_the_verdict_is_the_status_as_a_value(make, verdict, status):
    result = make()
    assert result.verdict is verdict
    assert result.status.startswith(status)
    assert result.converged == verdict.ok
    if not verdict.ok:
        assert bool(result.covariance.isnan().all())


def test_the_limit_of_a_family_is_no_closed_form():
    """It is searched again, though no decrement belongs to it."""
    result = ENDINGS["limit"][0]()
    assert not result.sample.by_formula
    few = r"^expected at least 2 replicates with a maximum inside"
    with pytest.raises(ValueError, match=few):
        result.bootstrap(8)
    with pytest.raises(ValueError, match=few):
        result.interval(method="bootstrap", replicates=8)


def test_the_sample_says_how_it_was_fitted():
    assert fit(td.Gamma, REAL).sample.by_formula
    assert not fit(td.Gamma, REAL, weights=sampling([1, 2, 3, 4, 5])).sample.by_formula


def test_data_and_conclusion_agree():
    result = fit(td.Weibull, [1.0, 2.0, math.nan, 4.0], missing="drop", weights=[1, 2, 9, 1])
    assert (result.n, result.dropped, result.df) == (4, 1, 2)
    assert list(result.supports) == list(result.params)
    again = result.search()
    assert torch.equal(again.params["scale"], result.params["scale"])
