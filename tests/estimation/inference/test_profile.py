"""Profile intervals and tests of hypotheses."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import scipy.stats as st
import torch
from statsmodels.datasets import spector
from torch import distributions as td
from torch.distributions import constraints

import nll
from nll import Likelihood, censored, fit

QUANTILE = st.chi2.ppf(0.95, 1)


def spector_logit():
    data = spector.load_pandas().data
    x = torch.tensor(np.column_stack([np.ones(len(data)), data[["GPA", "TUCE", "PSI"]]]))

    def log_prob(x, y, coef):
        score = x @ coef
        return y * score - torch.nn.functional.softplus(score)

    return fit(
        Likelihood(log_prob, {"coef": (constraints.real, 4)}),
        (x, torch.tensor(data["GRADE"].to_numpy())),
    )


def sample(family, n=100, **params):
    torch.manual_seed(3)
    return (
        family(**{name: torch.tensor(value) for name, value in params.items()})
        .sample((n,))
        .double()
    )


def test_the_ends_are_where_the_profile_has_fallen_by_half_the_quantile():
    x = sample(td.Weibull, scale=2.0, concentration=1.5)
    found = fit(td.Weibull, x)
    for name, ends in found.interval(method="profile").items():
        for end in ends:
            held = fit(td.Weibull, x, fixed={name: float(end)})
            assert 2 * (found.log_likelihood - held.log_likelihood) == pytest.approx(
                QUANTILE, rel=1e-7
            )
        assert ends[0] < found.params[name] < ends[1]


def test_published_intervals():
    """By R's confint of MASS, which interpolates the profile: good to some 1e-4."""
    published = [
        (-25.168164771, -4.902353187),
        (0.63936653, 5.757253162),
        (-0.170205425, 0.405044334),
        (0.478609017, 4.81026035),
    ]
    found = spector_logit().interval(method="profile")["coef"]
    assert found.flatten().tolist() == pytest.approx(np.ravel(published).tolist(), rel=6e-4)


def test_published_tests():
    found = spector_logit()
    for method, statistic, p in (
        ("lr", 6.203698, 0.012748),
        ("score", 6.023498, 0.014117),
        ("wald", 4.99265, 0.025455),
    ):
        test = found.test({"coef[3]": 0.0}, method)
        assert (test.method, test.df) == (method, 1)
        assert test.statistic == pytest.approx(statistic, rel=1e-6)
        assert test.p_value == pytest.approx(p, rel=1e-4)
    assert str(found.test({"coef[3]": 0.0}, "lr")) == "lr: chi-squared(1) = 6.2037, p = 0.01275"


def test_the_mean_of_a_normal_sample_has_a_formula():
    """n log(1 + (mean - loc)^2 / variance) for the likelihood ratio."""
    x = sample(td.Normal, loc=0.2, scale=1.0)
    found = fit(td.Normal, x)
    reach = math.sqrt(math.expm1(QUANTILE / 100)) * float(found.params["scale"])
    mean = float(found.params["loc"])
    assert found.interval(method="profile")["loc"].tolist() == pytest.approx(
        [mean - reach, mean + reach], rel=1e-8
    )
    ratio = mean**2 / float(found.params["scale"]) ** 2
    assert found.test({"loc": 0.0}, "lr").statistic == pytest.approx(
        100 * math.log1p(ratio), rel=1e-9
    )
    assert found.test({"loc": 0.0}).statistic == pytest.approx(100 * ratio, rel=1e-9)
    # of the mean square; the observed information has 2 n mean / scale^2 beside it
    share = ratio / (1 + ratio)
    assert found.test({"loc": 0.0}, "score").statistic == pytest.approx(
        100 * share / (1 - 2 * share), rel=1e-9
    )


def test_several_numbers_at_once():
    found = spector_logit()
    tests = {
        method: found.test({"coef[1]": 0.0, "coef[2]": 0.0, "coef[3]": 0.0}, method)
        for method in ("lr", "score")
    }
    assert {test.df for test in tests.values()} == {3}
    assert tests["lr"].statistic == pytest.approx(
        2 * (20.591729696617293 - 12.889634222131415), rel=1e-9
    )
    every = found.test({"coef": [0.0, 0.0, 0.0, 0.0]}, "lr")
    assert every.statistic == pytest.approx(2 * (32 * math.log(2) - 12.889634222131415), rel=1e-9)


def test_an_end_at_infinity():
    """Twenty degrees of freedom are not told from a normal distribution by 100 rows."""
    x = sample(td.StudentT, df=8.0)
    found = fit(td.StudentT, x)
    low, high = found.interval(method="profile")["df"].tolist()
    assert 2 * (found.log_likelihood - fit(td.Normal, x).log_likelihood) < QUANTILE
    assert high == math.inf
    held = fit(td.StudentT, x, fixed={"df": low})
    assert 2 * (found.log_likelihood - held.log_likelihood) == pytest.approx(QUANTILE, rel=1e-7)


def test_censored_rows_and_other_units():
    x = 1e6 * sample(td.Gumbel, loc=1.0, scale=2.0)
    rows = censored(x.clamp(max=5e6), right=x > 5e6)
    found = fit(td.Gumbel, rows)
    for name, ends in found.interval(0.9, method="profile").items():
        for end in ends:
            held = fit(
                td.Gumbel,
                rows,
                fixed={name: float(end)},
                start={n: float(v) for n, v in found.params.items()},
            )
            lost = 2 * (found.log_likelihood - held.log_likelihood)
            assert lost == pytest.approx(st.chi2.ppf(0.9, 1), rel=1e-6)


def test_parameters_that_are_held_have_no_profile():
    found = fit(td.Normal, sample(td.Normal, loc=0.2, scale=1.0), fixed={"loc": 0.0})
    ends = found.interval(method="profile")
    assert bool(ends["loc"].isnan().all())
    assert bool(ends["scale"].isfinite().all())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda f: f.interval(method="bayes"),
            ValueError,
            "expected method 'wald' or 'profile' or 'bootstrap' for Normal, got 'bayes'",
        ),
        (
            lambda f: f.test({"mean": 0.0}),
            ValueError,
            r"expected a parameter \(loc, scale\), got "
            r"'mean'",
        ),
        (lambda f: f.test({}), TypeError, "expected a hypothesis as a dict"),
        (
            lambda f: f.test({"loc": [1.0, 2.0]}),
            ValueError,
            r"expected a value of shape \(\) for "
            r"loc",
        ),
        (
            lambda f: f.test({"loc": 0.0}, "f"),
            ValueError,
            "expected method 'wald' or 'lr' or 'score'",
        ),
        (
            lambda f: f.test({"scale": -1.0}, "lr"),
            ValueError,
            "expected a possible value of scale, got -1.0",
        ),
    ],
)
def test_wrong_questions_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(fit(td.Normal, [1.0, 2.0, 4.0]))


def test_without_a_maximum_there_is_no_profile():
    with pytest.raises(ValueError, match="expected method 'wald' for Normal, got 'profile'"):
        fit(td.Normal, [1.0, 1.0]).interval(method="profile")
    with pytest.raises(ValueError, match="expected method 'wald' for Categorical"):
        fit(td.Categorical, [0, 1, 1]).test({"probs[0]": 0.5}, "lr")


def test_a_fit_of_a_lambda_pickles_without_its_likelihood():
    again = pickle.loads(pickle.dumps(spector_logit()))
    assert again.search is None
    assert again.test({"coef[3]": 0.0}).statistic == pytest.approx(4.99265, rel=1e-6)
    kept = pickle.loads(pickle.dumps(fit(td.Normal, [1.0, 2.0, 4.0])))
    assert kept.interval(method="profile").keys() == {"loc", "scale"}


# of the log-likelihood
DROP = float(torch.special.ndtri(torch.tensor(0.975, dtype=torch.float64))) ** 2 / 2


@pytest.mark.parametrize(
    ("make", "name", "ends"),
    [
        (lambda: fit(td.Bernoulli, [1] * 1000), "probs", (math.exp(-DROP / 1000), 1)),
        (lambda: fit(td.Bernoulli, [0] * 10), "probs", (0, 1 - math.exp(-DROP / 10))),
        (
            lambda: fit(td.Binomial, [0] * 10, fixed={"total_count": 5}),
            "probs",
            (0, 1 - math.exp(-DROP / 50)),
        ),
        (lambda: fit(td.Geometric, [0] * 10), "probs", (math.exp(-DROP / 10), 1)),
        # "the rule of three" at its own level
        (lambda: fit(td.Poisson, [0] * 10), "rate", (0, DROP / 10)),
        (
            lambda: fit(td.Exponential, nll.censored([1.0] * 10, right=[1] * 10)),
            "rate",
            (0, DROP / 10),
        ),
        (
            lambda: fit(td.Exponential, nll.censored([1.0], left=[1])),
            "rate",
            (-math.log1p(-math.exp(-DROP)), math.inf),
        ),
    ],
)
def test_at_a_boundary_the_interval_is_one_sided(make, name, ends):
    found = make()
    assert found.status.startswith("at the boundary")
    assert found.interval(method="profile")[name].tolist() == pytest.approx(list(ends), abs=1e-8)


def test_at_a_bound_that_was_asked_for():
    y = np.array([-0.3, 0.2, 0.9, -1.1, 0.4, 1.3])
    found = fit(td.Normal, y, bounds={"loc": (0.5, None)})
    drop = lambda m: len(y) / 2 * math.log(np.square(y - m).mean() / np.square(y - 0.5).mean())  # noqa: E731
    low, high = found.interval(method="profile")["loc"].tolist()
    assert (low, drop(high)) == pytest.approx((0.5, DROP), abs=1e-8)


@pytest.mark.parametrize(
    ("family", "data", "name", "other", "hypothesis"),
    [
        (td.StudentT, np.linspace(-1, 1, 30), "df", td.Normal, {"loc": 0.2}),
        (
            td.NegativeBinomial,
            [3, 3, 4, 3, 3, 4, 2, 3],
            "total_count",
            td.Poisson,
            {"total_count": 5.0},
        ),
    ],
)
def test_at_the_limit_of_a_family_profiles_and_tests_start_there(
    family, data, name, other, hypothesis
):
    found = fit(family, data)
    low, high = found.interval(method="profile")[name].tolist()
    assert high == math.inf
    held = fit(family, data, fixed={name: low})
    assert found.log_likelihood - held.log_likelihood == pytest.approx(DROP, abs=1e-6)
    test = found.test(hypothesis, method="lr")
    there = fit(family, data, fixed=hypothesis)
    assert test.statistic == pytest.approx(
        2 * (fit(other, data).log_likelihood - there.log_likelihood), abs=1e-6
    )
    with pytest.raises(
        ValueError, match="at least 2 replicates with a maximum inside the parameter space"
    ):
        found.bootstrap(5)
