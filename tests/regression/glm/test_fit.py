"""Responses whose one parameter is linear in the columns: against statsmodels, and against their
own derivatives.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from glm_samples import fitted, same, sample
from scipy import optimize, stats
from statsmodels.datasets import cpunish
from statsmodels.discrete.discrete_model import NegativeBinomial
from torch import Tensor
from torch import distributions as td

from nll.regression.glm.responses import RESPONSES
from nll.solvers.outcome import Status

FAMILIES = list(RESPONSES)
families = pytest.mark.parametrize("family", FAMILIES)


def log_likelihood(family: str, x: Tensor, y: Tensor, theta: Tensor) -> Tensor:
    """By torch.distributions, as a function of the coefficients and the second parameter."""
    score = x @ theta[: x.shape[1]]
    distribution = {
        "bernoulli": lambda: td.Bernoulli(logits=score),
        "poisson": lambda: td.Poisson(score.exp()),
        "normal": lambda: td.Normal(score, theta[-1]),
        "negative_binomial": lambda: td.NegativeBinomial(theta[-1], logits=score - theta[-1].log()),
    }[family]()
    return distribution.log_prob(y).sum()


# Against statsmodels.


@pytest.mark.parametrize(
    ("family", "model"),
    [("bernoulli", sm.Logit), ("poisson", sm.Poisson)],
    ids=["bernoulli", "poisson"],
)
def test_one_parameter(family, model):
    x, y = sample(family)
    peer = model(y, sm.add_constant(x)).fit(disp=0, method="newton", tol=1e-12)
    result = fitted(family, x, y)
    same(result.params["coef"], peer.params, 1e-9)
    same(result.standard_errors["coef"], peer.bse, 1e-8)
    assert result.log_likelihood == pytest.approx(peer.llf, rel=1e-12)
    assert result.null_log_likelihood == pytest.approx(peer.llnull, rel=1e-9)
    assert (result.converged, result.df, result.n) == (True, 3, 300)
    assert result.verdict is Status.CONVERGED


def test_normal():
    """Least squares, with the maximum likelihood scale sqrt(SSR / n) and the errors that go with
    it.
    """
    x, y = sample("normal")
    peer = sm.OLS(y, sm.add_constant(x)).fit()
    result = fitted("normal", x, y)
    scale = math.sqrt(peer.ssr / 300)
    same(result.params["coef"], peer.params, 1e-11)
    same(result.params["scale"], scale, 1e-11)
    same(result.standard_errors["coef"], peer.bse * math.sqrt(297 / 300), 1e-10)
    same(result.standard_errors["scale"], scale / math.sqrt(600), 1e-10)
    assert result.log_likelihood == pytest.approx(peer.llf, rel=1e-12)
    assert result.null_log_likelihood == pytest.approx(sm.OLS(y, np.ones(300)).fit().llf, rel=1e-12)
    assert (result.converged, result.df) == (True, 4)


def test_negative_binomial():
    """statsmodels' alpha is 1 / total_count."""
    x, y = sample("negative_binomial")
    peer = NegativeBinomial(y, sm.add_constant(x)).fit(
        disp=0, method="newton", maxiter=200, tol=1e-12
    )
    result = fitted("negative_binomial", x, y)
    alpha, error = peer.params[-1], peer.bse[-1]
    same(result.params["coef"], peer.params[:-1], 1e-7)
    same(result.params["total_count"], 1 / alpha, 1e-7)
    same(result.standard_errors["coef"], peer.bse[:-1], 1e-6)
    same(result.standard_errors["total_count"], error / alpha**2, 1e-6)
    assert result.log_likelihood == pytest.approx(peer.llf, rel=1e-11)
    assert (result.converged, result.df) == (True, 4)


# Against automatic differentiation.


@families
@pytest.mark.parametrize("intercept", [True, False])
def test_score_and_information(family, intercept):
    """At the estimate the gradient of torch.distributions' log_prob is 0, and its Hessian the
    information.
    """
    x, y = sample(family)
    result = fitted(family, x, y, intercept=intercept)
    columns = torch.from_numpy(np.c_[np.ones(300), x] if intercept else x)
    theta = result.vector.clone()

    def value(vector: Tensor) -> Tensor:
        return log_likelihood(family, columns, torch.from_numpy(y), vector)

    assert result.log_likelihood == pytest.approx(float(value(theta)), rel=1e-12)
    errors = result.covariance.diagonal().sqrt()
    assert float((torch.func.grad(value)(theta) * errors).abs().max()) < 1e-9
    covariance = torch.linalg.inv(-torch.autograd.functional.hessian(value, theta))
    torch.testing.assert_close(result.covariance, covariance, rtol=1e-8, atol=1e-14)


# The same model, said differently.


@families
def test_weights_are_repeated_rows(family):
    x, y = sample(family)
    weights = np.random.default_rng(1).integers(1, 4, 300)
    weighted, repeated = (
        fitted(family, x, y, weights),
        fitted(family, np.repeat(x, weights, 0), np.repeat(y, weights)),
    )
    same(weighted.vector, repeated.vector, 1e-9)
    torch.testing.assert_close(weighted.covariance, repeated.covariance, rtol=1e-8, atol=1e-15)
    assert weighted.log_likelihood == pytest.approx(repeated.log_likelihood, rel=1e-12)
    assert weighted.null_log_likelihood == pytest.approx(repeated.null_log_likelihood, rel=1e-11)
    assert (weighted.n, weighted.df) == (repeated.n, repeated.df)


@families
@pytest.mark.parametrize(("centre", "spread"), [(5e4, 2e4), (1e6, 1.0), (0.0, 1e-8), (0.0, 1e100)])
def test_units_of_a_column_do_not_matter(family, centre, spread):
    x, y = sample(family)
    z = (x[:, 0] * spread + centre - centre) / spread  # with the digits that the offset leaves
    plain = fitted(family, np.c_[z, x[:, 1]], y)
    moved = fitted(family, np.c_[z * spread + centre, x[:, 1]], y)
    assert moved.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-12)
    for attribute in ("params", "standard_errors"):
        found, expected = getattr(moved, attribute)["coef"], getattr(plain, attribute)["coef"]
        same(found[1] * spread, expected[1], 1e-8)
        same(found[2], expected[2], 1e-8)


@pytest.mark.parametrize(
    ("centre", "spread"), [(1e9, 1.0), (1e13, 100.0), (0.0, 1e-140), (0.0, 1e140)]
)
def test_units_of_a_normal_response_do_not_matter(centre, spread):
    x, y = sample("normal")
    y = np.round(y, 2)
    plain = fitted("normal", x, y)
    moved = fitted("normal", x, y * spread + centre)
    assert moved.converged
    same(moved.params["coef"][1:] / spread, plain.params["coef"][1:], 1e-6)
    same(moved.params["scale"] / spread, plain.params["scale"], 1e-6)
    same(moved.standard_errors["coef"] / spread, plain.standard_errors["coef"], 1e-6)
    assert moved.log_likelihood == pytest.approx(
        plain.log_likelihood - 300 * math.log(spread), rel=1e-8
    )


@pytest.mark.parametrize("spread", [1e-200, 1e200])
def test_errors_beyond_float64_are_unknown(spread):
    """Where a variance is no number of float64, its error is NaN, and not 0 or infinite."""
    x, y = sample("normal")
    plain = fitted("normal", x, y)
    for moved in (fitted("normal", x, y * spread), fitted("normal", x / [1.0, spread], y)):
        for name, error in moved.standard_errors.items():
            assert bool((error.isnan() | (error > 0) & error.isfinite()).all()), name
    same(fitted("normal", x, y * spread).params["coef"] / spread, plain.params["coef"], 1e-9)


def test_one_constant_is_the_mean():
    """With no columns, the closed forms: mean, logit of the mean, log of the mean."""
    nothing = np.zeros((300, 0))
    for family, link in (
        ("bernoulli", lambda m: math.log(m / (1 - m))),
        ("poisson", math.log),
        ("normal", lambda m: m),
        ("negative_binomial", math.log),
    ):
        _, y = sample(family)
        result = fitted(family, nothing, y)
        same(result.params["coef"][0], link(y.mean()), 1e-10)
        assert result.null_log_likelihood == pytest.approx(result.log_likelihood, rel=1e-14)


def test_large_counts_and_a_steep_rate():
    """Means from 1e-6 to 1e12 in one table."""
    x = np.linspace(-1, 1, 50)
    y = np.random.default_rng(0).poisson(np.exp(np.minimum(21 * x + 7, 27.7)))
    result = fitted("poisson", x[:, None], y)
    peer = sm.GLM(y, sm.add_constant(x), family=sm.families.Poisson()).fit(tol=1e-14, maxiter=200)
    assert result.converged
    same(result.params["coef"], peer.params, 1e-9)


# Several peaks of the dispersion.


def test_the_highest_peak_of_the_dispersion():
    """At the Poisson limit the slope says boundary; inside there is a higher maximum, which Stata's
    nbreg has.
    """
    punished = cpunish.load()  # 17 states, executions - 1
    x, y = np.array(punished.exog), np.asarray(punished.endog) - 1
    x[:, 3] = np.log(x[:, 3])
    x /= x.max(0).round(3)
    result = fitted("negative_binomial", x, y)
    assert result.converged
    assert result.log_likelihood == pytest.approx(-27.58269, abs=1e-4)
    assert 1 / float(result.params["total_count"]) == pytest.approx(1.13999, abs=1e-4)
    assert result.starts[0] == pytest.approx(result.log_likelihood)
    assert len(result.starts) > 1
    assert list(result.starts) == sorted(result.starts, reverse=True)


def test_no_start_of_another_optimiser_is_higher():
    """SciPy's from many dispersions, on small samples."""
    draw = np.random.default_rng(5)
    for _ in range(6):
        x, y = draw.normal(size=(15, 2)), draw.negative_binomial(0.7, 0.3, 15)
        result = fitted("negative_binomial", x, y)
        design = np.c_[np.ones(15), x]

        def loss(theta, design=design, y=y):
            mean, r = (
                np.exp(np.clip(design @ theta[:3], -30, 30)),
                np.exp(np.clip(theta[3], -10, 10)),
            )  # SciPy loses digits above
            return -stats.nbinom.logpmf(y, r, r / (r + mean)).sum()

        best = min(
            optimize.minimize(loss, [0, 0, 0, log_r], method="BFGS").fun
            for log_r in (-2.0, 1.0, 5.0)
        )
        assert result.log_likelihood >= -best - 1e-5 * abs(best)


def test_a_group_of_zeros_that_varies_no_more_than_poisson():
    y = [1, 3, 2, 0, 4, 1, 2, 2, 3, 1] + [0] * 5
    result = fitted("negative_binomial", np.repeat([0.0, 1.0], [10, 5])[:, None], y)
    assert result.status.startswith(
        "no finite estimate: the likelihood keeps rising along a direction of the coef"
    )
    assert "total_count = inf" in result.status
    assert not result.converged


def test_the_last_digits_of_a_likely_row():
    for score in (15.0, 25.0, 40.0, 800.0):
        got = RESPONSES["bernoulli"].log_prob(
            torch.ones(1), torch.tensor([score]).double(), torch.zeros(1)
        )
        assert float(got) == pytest.approx(-math.log1p(math.exp(-score)), rel=1e-15, abs=0)
