"""P-values of the goodness of fit: those of others, their level, and what they see."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.diagnostic import lilliefors
from torch import distributions as td

from nll import goodness_of_fit

KS, CVM, AD = NAMES = ("kolmogorov_smirnov", "cramer_von_mises", "anderson_darling")
POSITIVE = np.random.default_rng(0).gamma(2.0, 3.0, size=80)
REAL = np.random.default_rng(1).normal(2.0, 3.0, size=80)
COUNTS = np.random.default_rng(2).negative_binomial(2.0, 0.3, size=80)


def test_p_values_are_scipys():
    x = np.random.default_rng(3).standard_t(4, size=60)
    ours = goodness_of_fit(td.Normal, x, replicates=999).p_values
    for name, short in zip(NAMES, ("ks", "cvm", "ad"), strict=True):
        theirs = stats.goodness_of_fit(
            stats.norm, x, statistic=short, n_mc_samples=999, rng=0
        ).pvalue
        error = math.sqrt(2 * max(theirs * (1 - theirs), 0.01) / 1000)
        assert abs(ours[name] - theirs) < 4 * error, name


@pytest.mark.parametrize(
    ("family", "dist", "x"),
    [
        (td.Normal, "norm", np.random.default_rng(8).gamma(3.0, size=50)),
        (td.Exponential, "exp", np.random.default_rng(1).weibull(1.4, 50)),
    ],
    ids=["Normal", "Exponential"],
)
def test_p_values_are_those_of_lilliefors(family, dist, x):
    _, expected = lilliefors(x, dist, pvalmethod="table")
    assert 0.001 < expected < 0.2  # where the table has an answer
    assert goodness_of_fit(family, x, replicates=999).p_values[KS] == pytest.approx(
        expected, abs=0.03
    )


@pytest.mark.parametrize(
    ("family", "draw"),
    [
        (td.Normal, lambda r: r.normal(5.0, 2.0, 30)),
        (td.Exponential, lambda r: r.exponential(3.0, 30)),
        pytest.param(td.Gumbel, lambda r: r.gumbel(5.0, 2.0, 30), marks=pytest.mark.slow),
        pytest.param(td.StudentT, lambda r: r.standard_t(8, 30), marks=pytest.mark.slow),
    ],
    ids=["Normal", "Exponential", "Gumbel", "StudentT"],
)
def test_p_values_are_uniform_where_the_family_is_true(family, draw):
    """A p-value of 99 replicates is one of 1 / 100, ..., 1; less a uniform hundredth it is uniform
    on (0, 1).
    """
    rng = np.random.default_rng(0)
    p = np.array(
        [
            list(goodness_of_fit(family, draw(rng), replicates=99, seed=i).p_values.values())
            for i in range(200)
        ]
    )
    p = p - rng.random((200, 1)) / 100
    for column in p.T:
        assert stats.kstest(column, "uniform").pvalue > 0.001


def test_p_values_of_counts_keep_their_level():
    rng = np.random.default_rng(0)
    found = [
        goodness_of_fit(td.Poisson, rng.poisson(2.0, 30), replicates=99, seed=i) for i in range(200)
    ]
    for name in NAMES:
        rejected = sum(of.p_values[name] <= 0.05 for of in found)
        assert rejected <= 10 + 3 * math.sqrt(200 * 0.05 * 0.95)


@pytest.mark.parametrize(
    ("family", "x"),
    [
        (td.Normal, POSITIVE**2),
        (td.Exponential, REAL + 10),
        (td.Poisson, COUNTS),
        (td.Uniform, POSITIVE),
    ],
    ids=["Normal", "Exponential", "Poisson", "Uniform"],
)
def test_a_wrong_family_is_rejected(family, x):
    found = goodness_of_fit(family, x, replicates=199)
    assert found.p_values[KS] <= 0.01
    assert found.p_values[CVM] <= 0.01
