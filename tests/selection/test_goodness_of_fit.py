"""Goodness of fit: statistics against SciPy's and brute force, p-values that keep their level and
see what is wrong.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions as td

import nll
from nll import GeneralizedExtremeValue, GoodnessOfFit, InverseGaussian, SkewNormal, goodness_of_fit
from nll.families.registry import FAMILIES
from nll.selection.goodness_of_fit import distances

KS, CVM, AD = NAMES = ("kolmogorov_smirnov", "cramer_von_mises", "anderson_darling")
POSITIVE = np.random.default_rng(0).gamma(2.0, 3.0, size=80)
REAL = np.random.default_rng(1).normal(2.0, 3.0, size=80)
COUNTS = np.random.default_rng(2).negative_binomial(2.0, 0.3, size=80)


def numbers(fit: nll.Fit) -> dict[str, float]:
    return {name: float(value) for name, value in fit.params.items()}


SCIPY = [
    (td.Normal, REAL, stats.norm, lambda p: {"loc": p["loc"], "scale": p["scale"]}),
    (td.Gumbel, REAL, stats.gumbel_r, lambda p: {"loc": p["loc"], "scale": p["scale"]}),
    (td.Laplace, REAL, stats.laplace, lambda p: {"loc": p["loc"], "scale": p["scale"]}),
    (td.StudentT, stats.t.rvs(3, size=80, random_state=0), stats.t, lambda p: p),
    (td.Exponential, POSITIVE, stats.expon, lambda p: {"loc": 0, "scale": 1 / p["rate"]}),
    (
        td.Gamma,
        POSITIVE,
        stats.gamma,
        lambda p: {"a": p["concentration"], "loc": 0, "scale": 1 / p["rate"]},
    ),
    (
        td.Weibull,
        POSITIVE,
        stats.weibull_min,
        lambda p: {"c": p["concentration"], "loc": 0, "scale": p["scale"]},
    ),
    (
        td.Beta,
        POSITIVE / 40,
        stats.beta,
        lambda p: {"a": p["concentration1"], "b": p["concentration0"], "loc": 0, "scale": 1},
    ),
]


@pytest.mark.parametrize(
    ("family", "x", "theirs", "to_theirs"), SCIPY, ids=lambda v: getattr(v, "__name__", "")
)
def test_statistics_are_scipys(family, x, theirs, to_theirs):
    fit = nll.fit(family, x)
    found = goodness_of_fit(fit, replicates=0)
    known = to_theirs(numbers(fit))
    for name, short in zip(NAMES, ("ks", "cvm", "ad"), strict=True):
        expected = stats.goodness_of_fit(
            theirs, x, known_params=known, statistic=short, n_mc_samples=1
        ).statistic
        assert found.statistics[name] == pytest.approx(expected, rel=1e-10)
    assert all(math.isnan(p) for p in found.p_values.values())
    assert (found.replicates, found.note) == (0, "")


@pytest.mark.parametrize(
    ("family", "x"), [(td.Uniform, REAL), (td.Pareto, POSITIVE)], ids=["Uniform", "Pareto"]
)
def test_ends_that_are_estimated_by_the_extremes(family, x):
    fit = nll.fit(family, x)
    p = numbers(fit)
    law = (
        stats.uniform(p["low"], p["high"] - p["low"])
        if family is td.Uniform
        else stats.pareto(p["alpha"], 0, p["scale"])
    )
    found = goodness_of_fit(fit, replicates=99)
    assert found.statistics[KS] == pytest.approx(stats.kstest(x, law.cdf).statistic, rel=1e-10)
    assert found.statistics[CVM] == pytest.approx(
        stats.cramervonmises(x, law.cdf).statistic, rel=1e-10
    )
    assert found.statistics[AD] == math.inf
    assert 0 < found.p_values[KS] <= 1
    assert math.isnan(found.p_values[AD])
    assert "Anderson-Darling statistic is infinite" in found.note


@pytest.mark.parametrize("family", [td.Normal, td.Poisson], ids=lambda f: f.__name__)
def test_a_weight_is_as_many_copies(family):
    x, w = COUNTS, np.arange(80) % 4
    weighted = goodness_of_fit(nll.fit(family, x, weights=w), replicates=19)
    copied = goodness_of_fit(family, np.repeat(x, w), replicates=19)
    assert weighted.n == copied.n == w.sum()
    for name in NAMES:
        assert weighted.statistics[name] == pytest.approx(copied.statistics[name], rel=1e-10)
        assert weighted.p_values[name] == copied.p_values[name]


def test_distances_far_in_the_tails():
    """Where 1 - F is exp(-800)."""
    x = np.array([-1.0, 0.0, 0.5, 40.0])
    one = torch.ones(1, 4, dtype=torch.float64)
    params = {
        "loc": torch.zeros(1, dtype=torch.float64),
        "scale": torch.ones(1, dtype=torch.float64),
    }
    found = distances(FAMILIES[td.Normal], torch.from_numpy(x)[None], one, params)
    i = np.arange(1, 5)
    expected = -4 - np.mean((2 * i - 1) * (stats.norm.logcdf(x) + stats.norm.logsf(x[::-1])))
    assert float(found[2, 0]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("family", "law"),
    [
        (td.Poisson, lambda p: stats.poisson(p["rate"])),
        (td.Geometric, lambda p: stats.geom(p["probs"], loc=-1)),
        (td.NegativeBinomial, lambda p: stats.nbinom(p["total_count"], 1 - p["probs"])),
    ],
    ids=["Poisson", "Geometric", "NegativeBinomial"],
)
def test_counts_by_brute_force(family, law):
    fit = nll.fit(family, COUNTS)
    found = goodness_of_fit(fit, replicates=0).statistics
    grid = np.arange(COUNTS.max() + 50)
    own = law(numbers(fit)).cdf(grid)
    empirical = (COUNTS[:, None] <= grid).mean(0)
    share = (COUNTS[:, None] == grid).mean(0)
    square = len(COUNTS) * (empirical - own) ** 2 * share
    assert found[KS] == pytest.approx(np.abs(empirical - own).max(), rel=1e-10)
    assert found[CVM] == pytest.approx(square.sum(), rel=1e-10)
    seen = share > 0
    assert found[AD] == pytest.approx((square[seen] / (own * (1 - own))[seen]).sum(), rel=1e-9)


@pytest.mark.parametrize(
    ("family", "x"),
    [
        (td.StudentT, np.random.default_rng(0).normal(size=200)),
        (td.NegativeBinomial, np.random.default_rng(5).binomial(9, 0.4, 200)),
    ],
    ids=["StudentT", "NegativeBinomial"],
)
def test_at_the_boundary_it_is_the_family_there(family, x):
    """Half of the replicates have no maximum inside of the family either."""
    fit = nll.fit(family, x)
    assert fit.status.startswith("at the boundary")
    found = goodness_of_fit(fit, replicates=199)
    other = goodness_of_fit(FAMILIES[family].limit[2], x, replicates=0)
    assert found.statistics == pytest.approx(other.statistics, rel=1e-10)
    assert found.failed <= 5
    assert all(0 < p <= 1 for p in found.p_values.values())


@pytest.mark.parametrize(
    "family", [td.Gumbel, td.Cauchy, GeneralizedExtremeValue, SkewNormal], ids=lambda f: f.__name__
)
def test_units_change_nothing(family):
    x = np.random.default_rng(4).gumbel(size=50)
    plain, moved = (goodness_of_fit(family, of, replicates=49) for of in (x, 1e6 + 1e3 * x))
    assert moved.failed == plain.failed == 0
    assert moved.p_values == pytest.approx(plain.p_values, abs=0.021)
    assert moved.statistics == pytest.approx(plain.statistics, rel=1e-5)


def test_large_counts_are_not_laid_out_one_by_one():
    x = np.random.default_rng(0).poisson(1e9, size=40)
    assert goodness_of_fit(td.Poisson, x, replicates=99).p_values[AD] > 0.01
    assert goodness_of_fit(InverseGaussian, x, replicates=99).p_values[AD] > 0.01


def test_a_sample_that_is_always_the_same():
    found = goodness_of_fit(td.Poisson, [0, 0, 0], replicates=19)
    assert set(found.statistics.values()) == {0.0}
    assert set(found.p_values.values()) == {1.0}


# What is drawn.


def test_the_seed_decides_and_pytorchs_own_stays():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two, other = (
        goodness_of_fit(td.Gamma, POSITIVE, replicates=99, seed=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.rand(1), expected)
    assert one == two
    assert one.p_values != other.p_values
    assert one.statistics == other.statistics


def test_the_budget_is_kept_and_told():
    found = goodness_of_fit(td.Normal, REAL, replicates=999, budget=80 * 40)
    assert found.replicates == 40
    assert found.note == "40 replicates, not 999: at most 3200 numbers are drawn"
    none = goodness_of_fit(td.Normal, REAL, replicates=999, budget=80 * 10)
    assert (none.replicates, none.note) == (
        0,
        "no p-values: 19 replicates of 80 rows are more than 800 numbers",
    )
    assert math.isnan(none.p_values[KS])
    assert not math.isnan(none.statistics[KS])


class Wave(td.Distribution):
    """A family that only tells its log-density."""

    arg_constraints = {"rate": td.constraints.positive}  # noqa: RUF012
    support = td.constraints.positive

    def __init__(self, rate, validate_args=None):
        self.rate = rate
        super().__init__(rate.shape, validate_args=validate_args)

    def log_prob(self, value):
        return self.rate.log() - self.rate * value


LINE = nll.Likelihood(lambda x, m: td.Normal(m, torch.ones_like(m)), {"m": td.constraints.real})


@pytest.mark.parametrize(
    ("fit", "note"),
    [
        (
            lambda: nll.fit(td.Normal, nll.censored(REAL, right=REAL > 4)),
            "not for censored or truncated observations",
        ),
        (
            lambda: nll.fit(td.Gumbel, nll.truncated(REAL, low=-20.0)),
            "not for censored or truncated observations",
        ),
        (
            lambda: nll.fit(td.Gumbel, REAL, weights=nll.sampling(POSITIVE)),
            "not for sampling weights",
        ),
        (lambda: nll.fit(td.Dirichlet, [[0.6, 0.4], [0.5, 0.5], [0.3, 0.7]]), "of several columns"),
        (lambda: nll.fit(td.Bernoulli, [0, 1, 1]), "Bernoulli fits any sample exactly"),
        (lambda: nll.fit(td.Categorical, ["a", "b", "b"]), "Categorical fits any sample exactly"),
        (lambda: nll.fit(td.Normal, [1.0, 1.0]), "no maximum: the data are all equal"),
        (lambda: nll.fit(td.VonMises, REAL), "the distribution function of VonMises is not known"),
        (lambda: nll.fit(Wave, POSITIVE), "the distribution function of Wave is not known"),
        (lambda: nll.fit(LINE, REAL), "not for a model other than a family of distributions"),
        (
            lambda: nll.fit(td.Binomial, COUNTS, fixed={"total_count": 40 + COUNTS}),
            "not identically distributed",
        ),
    ],
)
def test_what_has_no_statistic_says_so(fit, note):
    found = goodness_of_fit(fit(), replicates=19)
    assert note in found.note
    assert found.replicates == 0
    assert all(
        math.isnan(value) for value in (*found.statistics.values(), *found.p_values.values())
    )


@pytest.mark.parametrize(
    "options",
    [
        {"fixed": {"rate": 0.4}},
        {"bounds": {"rate": (0.5, None)}},
        {"fixed": {"rate": "concentration"}},
    ],
    ids=str,
)
def test_parameters_that_are_not_free_have_statistics_only(options):
    fit = nll.fit(td.Gamma, POSITIVE, **options)
    found = goodness_of_fit(fit, replicates=19)
    assert found.note == "no p-values: parameters are given, fixed or bounded"
    p = numbers(fit)
    law = stats.gamma(p["concentration"], scale=1 / p["rate"])
    assert found.statistics[KS] == pytest.approx(
        stats.kstest(POSITIVE, law.cdf).statistic, rel=1e-10
    )
    assert math.isnan(found.p_values[KS])


def test_a_given_parameter_has_statistics_only():
    found = goodness_of_fit(nll.fit(td.Binomial, COUNTS, fixed={"total_count": 40}), replicates=19)
    assert found.statistics[KS] > 0.1
    assert "given" in found.note


def test_a_start_leaves_the_parameters_free():
    found = goodness_of_fit(nll.fit(td.Gamma, POSITIVE, start={"rate": 0.4}), replicates=19)
    assert found.note == ""
    assert found.p_values == goodness_of_fit(td.Gamma, POSITIVE, replicates=19).p_values


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: goodness_of_fit(td.Normal, REAL, replicates=-1),
            "replicates as an integer of at least 0, got -1",
        ),
        (
            lambda: goodness_of_fit(td.Normal, REAL, replicates=9.5),
            "replicates as an integer of at least 0, got 9.5",
        ),
        (
            lambda: goodness_of_fit(td.Normal, REAL, seed=True),
            "seed as an integer of at least 0, got True",
        ),
        (
            lambda: goodness_of_fit(nll.fit(td.Normal, REAL), REAL),
            "either data or a Fit, which has them, got both",
        ),
        (lambda: goodness_of_fit(td.Gamma, REAL), "data outside the support of Gamma"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_table():
    found = GoodnessOfFit(
        "Normal",
        30.0,
        dict(zip(NAMES, (0.1, 0.02, 0.3), strict=True)),
        dict.fromkeys(NAMES, 0.25),
        99,
        1,
        "a note",
    )
    assert str(found) == (
        "Normal, n = 30\n"
        "                       statistic        p\n"
        "kolmogorov smirnov           0.1   0.2500\n"
        "cramer von mises            0.02   0.2500\n"
        "anderson darling             0.3   0.2500\n"
        "99 replicates, 1 without a maximum\n"
        "a note"
    )
    assert found.to_dict()["statistics"] == {KS: 0.1, CVM: 0.02, AD: 0.3}


def test_a_mixture_has_statistics_only():
    x = np.concatenate([REAL, REAL + 30.0])
    found = goodness_of_fit(nll.mixture(td.Normal), x, replicates=19)
    assert found.statistics[KS] < 0.1
    assert found.note == f"no p-values: {found.model} is fitted to one data set at a time"
