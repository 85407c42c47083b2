"""Fits of censored and truncated rows."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from searched_families import FAMILIES, close, drawn, given
from torch import distributions as td

from nll import (
    censored,
    fit,
    truncated,
)

# NIST/SEMATECH e-Handbook of Statistical Methods, section 8.4.1.3; estimates computed with 40
# digits.
HOURS = [54, 187, 216, 240, 244, 335, 361, 373, 375, 386] + [500] * 10
NIST = [
    (
        td.Weibull,
        {
            "concentration": (1.7207972608013569, 0.5021506034947794),
            "scale": (606.527558003572, 124.91065620403559),
        },
        -75.13461816447487,
    ),
    (
        td.LogNormal,
        {
            "loc": (6.226015068561739, 0.2504395164769047),
            "scale": (0.9089140394328975, 0.2257941858972348),
        },
        -75.19627077888438,
    ),
]


@pytest.mark.parametrize(("family", "truth", "log_likelihood"), NIST, ids=["Weibull", "LogNormal"])
def test_a_life_test_that_ended_early(family, truth, log_likelihood):
    found = fit(family, censored(HOURS, right=np.array(HOURS) == 500))
    assert found.log_likelihood == close(log_likelihood, rel=1e-12)
    for name, (value, error) in truth.items():
        assert float(found.params[name]) == close(value, rel=1e-10)
        assert float(found.standard_errors[name]) == close(error, rel=1e-10)


KNOWN_TAILS = [
    (f, p) for f, p, _ in FAMILIES if f not in (td.VonMises, td.ContinuousBernoulli, td.Dirichlet)
]
KNOWN_TAILS += [
    (td.Normal, {"loc": 0.0, "scale": 2.0}),
    (td.Exponential, {"rate": 2.0}),
    (td.Poisson, {"rate": 3.0}),
    (td.Geometric, {"probs": 0.3}),
    (td.LogNormal, {"loc": 0.0, "scale": 1.0}),
    (td.Laplace, {"loc": 0.0, "scale": 1.0}),
]


@pytest.mark.parametrize(("family", "truth"), KNOWN_TAILS, ids=lambda v: getattr(v, "__name__", ""))
@pytest.mark.parametrize("how", ["right", "left", "interval", "truncated"])
def test_what_is_not_seen_exactly_is_accounted_for(family, truth, how):
    if family is td.Laplace:
        with pytest.raises(ValueError, match="closed form only"):
            fit(family, censored([1.0, 2.0, 3.0], right=[0, 0, 1]))
        return
    x = drawn(family, truth, 1000, seed=3).contiguous()
    low, high = (float(x.quantile(q)) for q in (0.1, 0.7))
    if how == "right":
        data = censored(x.clamp(max=high), right=x >= high)
    elif how == "left":
        data = censored(x.clamp(min=low), left=x <= low)
    elif how == "interval":
        edges = torch.tensor(
            sorted({math.ceil(float(x.quantile(q)) * 8) / 8 for q in (0.2, 0.4, 0.6, 0.8)})
        ).double()
        step = 1.0 if family in (td.Poisson, td.Geometric, td.NegativeBinomial) else 0.0
        at = torch.searchsorted(edges.contiguous(), x, right=True)
        lows = torch.cat([torch.tensor([-math.inf]).double(), edges])[at]
        highs = torch.cat([edges - step, torch.tensor([math.inf]).double()])[at]
        data = censored(lows, highs)
    else:
        data = truncated(x[(x >= low) & (x <= high)], low, high)
    found = fit(family, data, fixed=given(family, truth))
    assert found.converged, found.status
    for name, value in found.params.items():
        error = found.standard_errors[name]
        if not math.isnan(float(error)):  # at a boundary, as a truncated sample may tell
            assert float(((value - torch.tensor(truth[name])) / error).abs()) < 4.5, name


def test_counts_that_are_capped_hold_the_cap():
    """P(X >= 2) = 1 - P(0) - P(1), and an interval of counts holds both ends."""
    found = fit(td.Poisson, censored([0, 1, 2, 2], right=[0, 0, 1, 1]))
    rate = float(found.params["rate"])
    expected = -2 * rate + math.log(rate) + 2 * math.log(1 - math.exp(-rate) * (1 + rate))
    assert found.log_likelihood == close(expected, rel=1e-12)
    assert found.log_likelihood_at(found.vector) == close(expected, rel=1e-12)
    interval = fit(td.Poisson, censored([0, 1], [1, 1]))
    rate = float(interval.params["rate"])
    assert interval.log_likelihood == close(
        math.log(1 + rate) + math.log(rate) - 2 * rate, rel=1e-12
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: censored([1.0, 2.0], [0.5, 3.0]),
            "at least the lower ones, got 1.0 and 0.5 at row 0",
        ),
        (lambda: censored([1.0, 2.0], [2.0]), r"upper ends of shape \(2,\), got \(1,\)"),
        (lambda: censored([1.0], [2.0], right=[True]), "either upper, or left and right, got both"),
        (lambda: censored([1.0], left=[True], right=[True]), "on one side, got both at row 0"),
        (lambda: censored([1.0], right=[2.0]), "right as a mask"),
        (lambda: fit(td.Normal, censored([1.0, -math.inf], [1.0, math.inf])), "got none at row 1"),
        (lambda: fit(td.Gamma, censored([1.0, -2.0], [1.0, -1.0])), r"got \[-2, -1\] at row 1"),
        (
            lambda: fit(td.VonMises, censored([1.0, 2.0], right=[0, 1])),
            "censored or truncated rows, got VonMises",
        ),
        (
            lambda: fit(td.Normal, truncated([1.0, 5.0], 0.0, 3.0)),
            r"inside the window \[0, 3\], "
            r"got 5 at row 1",
        ),
        (
            lambda: fit(td.Normal, truncated([1.0, 2.0], [0.0, 0.0, 0.0])),
            "a number, or one for each row",
        ),
    ],
)
def test_wrong_intervals_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_fit_by_search_pickles():
    found = fit(td.Weibull, censored(HOURS, right=np.array(HOURS) == 500))
    again = pickle.loads(pickle.dumps(found))
    assert again.log_likelihood_at(again.vector) == found.log_likelihood_at(found.vector)
    assert again.summary() == found.summary()
