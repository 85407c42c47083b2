"""Log-probabilities of intervals: narrow ones, far ones, and those of the whole support."""

from __future__ import annotations

import math

import pytest
import torch
from torch import distributions as td

from nll.families.distributions import GeneralizedExtremeValue, InverseGaussian
from nll.families.log_cdf import Interval
from nll.families.registry import FAMILIES

# The logarithm of the density's integral, by quadrature with 50 digits (mpmath).
NARROW = [
    (td.Normal, (1.0, 2.0), (60.0, 60 + 1e-6), -450.5526036492446),
    (td.Normal, (1e6, 1e-3), (1e6, 1000000.000000001), -14.68781563536469),
    (td.Gamma, (1e10, 1e4), (1000080.0, 1000080.001), -42.1280522337438),
    (td.Gamma, (1e10, 1e4), (999950.0, 999951.0), -15.46335887828566),
    (td.Beta, (3e9, 7e9), (0.29999, 0.30001), -0.0295280243915023),
    (td.Beta, (2.0, 3.0), (0.3, 0.3 + 1e-10), -22.45826688959168),
    (td.StudentT, (1e10, 1.0, 2.0), (30.0, 30.01), -111.3782898949176),
    (InverseGaussian, (1.0, 1e10), (1.0002, 1 + 2.1e-4), -203.8771641183281),
    (td.Weibull, (1.0, 1e7), (1.0, 1 + 1e-13), -14.81631015539469),
    (td.Kumaraswamy, (1e5, 30.0), (0.99996, 0.99996 + 1e-10), -12.64780038045015),
    (td.ContinuousBernoulli, (0.5000001,), (0.2, 0.9), -0.3566749239387358),
    (td.Pareto, (2.0, 3.0), (3.0, 3 + 1e-9), -21.9396610791972),
    (GeneralizedExtremeValue, (1.0, 2.0, 0.3), (1e5, 1.01e5), -35.47564399146374),
]


def interval(family, params, low, high):
    """Its log-probability, with first and second derivatives."""
    known = FAMILIES[family]
    at = {
        n: torch.tensor([[v]], dtype=torch.float64, requires_grad=True)
        for n, v in zip(known.parameters, params, strict=True)
    }
    given = [
        torch.tensor([[{"loc": 0.0, "total_count": 6.0}[n]]], dtype=torch.float64)
        for n in known.given
    ]
    ends = [torch.tensor([[end]], dtype=torch.float64) for end in (low, high)]
    found = Interval(known)((*ends, *given), at)
    first = torch.autograd.grad(
        found.sum(), list(at.values()), create_graph=True, allow_unused=True
    )
    first = [torch.zeros(1, 1) if slope is None else slope for slope in first]
    second = [
        part
        for slope in first
        if slope.requires_grad
        for part in torch.autograd.grad(
            slope.sum(), list(at.values()), retain_graph=True, allow_unused=True
        )
        if part is not None
    ]
    return float(found.detach()), [float(d.detach()) for d in (*first, *second)]


@pytest.mark.parametrize(
    ("family", "params", "ends", "truth"), NARROW, ids=lambda v: getattr(v, "__name__", "")
)
def test_narrow_and_far_intervals_keep_their_digits(family, params, ends, truth):
    found, derivatives = interval(family, params, *ends)
    assert found == pytest.approx(truth, abs=2e-9)
    assert all(map(math.isfinite, derivatives))


def test_a_narrow_interval_of_counts_is_a_sum_of_probabilities():
    """Of the mode of a Poisson variable with a mean of 1e12; log P = -log(2 pi mean) / 2, less 1 /
    12 mean and more.
    """
    found, _ = interval(td.Poisson, (1e12,), 1e12 - 0.5, 1e12 + 0.5)
    assert found == pytest.approx(-0.5 * math.log(2 * math.pi * 1e12), abs=1e-11)
    both, _ = interval(td.Poisson, (1e12,), 1e12 - 1, 1e12)  # as likely as each other
    assert both == pytest.approx(found + math.log(2), abs=1e-11)


PARAMS = {
    "loc": 1.5,
    "scale": 2.0,
    "concentration": 1.7,
    "rate": 0.6,
    "concentration1": 1.2,
    "concentration0": 2.1,
    "df": 3.0,
    "df1": 3.0,
    "df2": 5.0,
    "probs": 0.3,
    "total_count": 2.5,
    "alpha": 1.3,
    "skewness": 1.0,
}
PLAIN = [base for base, family in FAMILIES.items() if family.tails is not None]


@pytest.mark.parametrize("family", PLAIN, ids=lambda f: f.__name__)
def test_what_tells_nothing_adds_nothing_and_an_end_of_the_support_is_no_end(family):
    known = FAMILIES[family]
    params = [PARAMS[name] for name in known.parameters]
    given = {n: torch.tensor({"loc": 0.0, "total_count": 6.0}[n]) for n in known.given}
    first, last = (float(end) for end in known.ends(given))
    found, derivatives = interval(family, params, first, last)
    assert found == 0.0
    assert not any(derivatives)
    inner = 1.0 if known.discrete else float(known.middle(given))
    for ends, open_ends in (
        ((first, inner), (-math.inf, inner)),
        ((inner, last), (inner, math.inf)),
    ):
        found, derivatives = interval(family, params, *ends)
        assert (found, derivatives) == interval(family, params, *open_ends)
        assert all(map(math.isfinite, derivatives))


@pytest.mark.parametrize(
    ("family", "params", "end", "side"),
    [
        (GeneralizedExtremeValue, (3.0, 2.0, 0.5), -1.0, -1),
        (GeneralizedExtremeValue, (3.0, 2.0, -0.5), 7.0, 1),
        (td.GeneralizedPareto, (2.0, -0.5), 4.0, 1),
        (td.Pareto, (2.0, 1.5), 2.0, -1),
    ],
)
def test_a_support_that_ends_at_the_parameters_has_no_probability_beyond(family, params, end, side):
    """At the end, beyond it, and so near to it that the tail is below any float64."""
    for beyond in (end, end + side * 3.0, end - side * 1e-300):
        low, high = (-math.inf, beyond) if side < 0 else (beyond, math.inf)
        assert interval(family, params, low, high)[0] == -math.inf
        found, derivatives = interval(
            family, params, *((beyond, math.inf) if side < 0 else (-math.inf, beyond))
        )
        assert found == 0.0
        assert not any(derivatives)
        inner = end - side * 1.5
        through = (beyond, inner) if side < 0 else (inner, beyond)
        without = (-math.inf, inner) if side < 0 else (inner, math.inf)
        found, derivatives = interval(family, params, *through)
        assert found == pytest.approx(interval(family, params, *without)[0], rel=1e-14)
        assert derivatives == pytest.approx(interval(family, params, *without)[1], rel=1e-12)
