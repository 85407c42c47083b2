"""Where a regression has no estimate, or one at the boundary, and what it takes for data."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import statsmodels.api as sm
from glm_samples import fitted, same, sample
from scipy import optimize, stats

from nll.solvers.outcome import Status


def test_counts_that_vary_no_more_than_poisson():
    x, _ = sample("poisson")
    y = np.random.default_rng(0).binomial(6, 0.5, 300).astype(float)
    result, poisson = fitted("negative_binomial", x, y), fitted("poisson", x, y)
    assert result.status == (
        "at the boundary of the parameter space: total_count = inf, the counts vary no more than "
        "Poisson's do"
    )
    assert result.converged
    assert result.verdict is Status.BOUNDARY
    assert float(result.params["total_count"]) == math.inf
    assert math.isnan(float(result.standard_errors["total_count"]))
    same(result.params["coef"], poisson.params["coef"], 1e-12)
    same(result.standard_errors["coef"], poisson.standard_errors["coef"], 1e-12)
    assert result.log_likelihood == poisson.log_likelihood
    assert (result.df, result.model) == (4, "Negative binomial regression (log)")


def test_counts_that_vary_a_little_more_than_poisson():
    """A total_count in the hundreds is found, not taken for infinity; the mean is that of the
    data.
    """
    y = np.random.default_rng(1).poisson(3, 1000).astype(float)

    def nll(log_r: float) -> float:
        r = math.exp(log_r)
        return -stats.nbinom.logpmf(y, r, r / (r + y.mean())).sum()

    peer = optimize.minimize_scalar(nll, bounds=(0, 12), method="bounded", options={"xatol": 1e-8})
    result = fitted("negative_binomial", np.zeros((1000, 0)), y)
    assert result.converged
    # the peak is flat
    assert math.log(result.params["total_count"]) == pytest.approx(peer.x, abs=1e-2)
    assert result.nll == pytest.approx(peer.fun, abs=1e-8)


def test_the_null_model_of_a_boundary_is_of_the_same_family():
    """Both are negative binomial: the null model may be overdispersed where the columns explain
    it.
    """
    x = np.repeat([0.0, 3.0], 100)
    y = np.random.default_rng(0).binomial(40, np.where(x == 0, 0.05, 0.6)).astype(float)
    result = fitted("negative_binomial", x[:, None], y)
    null = fitted("negative_binomial", np.zeros((200, 0)), y)
    assert "total_count = inf" in result.status
    assert result.null_log_likelihood == pytest.approx(null.log_likelihood, rel=1e-12)


@pytest.mark.parametrize(("rows", "intercept"), [(3, True), (300, True), (300, False)])
def test_a_response_that_is_fitted_exactly(rows, intercept):
    x, _ = sample("normal", n=rows)
    result = fitted("normal", x, x @ [2.0, -1.0] + (3.0 if intercept else 0.0), intercept=intercept)
    assert result.status == (
        "no maximum: the response is fitted exactly, and the likelihood grows without bound "
        "towards scale = 0"
    )
    assert result.verdict is Status.UNBOUNDED
    assert not result.converged
    assert all(bool(error.isnan().all()) for error in result.standard_errors.values())


def test_a_response_that_is_nearly_fitted_exactly_is_not():
    """Noise of 1e-9 is noise, 1e6 times what rounding is."""
    x, _ = sample("normal")
    y = x @ [2.0, -1.0] + 1e-9 * np.random.default_rng(0).normal(size=300)
    peer = sm.OLS(y, sm.add_constant(x)).fit()
    result = fitted("normal", x, y)
    assert result.converged
    same(result.params["scale"], math.sqrt(peer.ssr / 300), 1e-5)


GROUPS = np.repeat([0.0, 1.0], 150)


@pytest.mark.parametrize(
    ("family", "x", "y"),
    [
        pytest.param("bernoulli", np.arange(300.0), np.arange(300.0) > 100, id="bernoulli: apart"),
        pytest.param(
            "bernoulli", GROUPS, GROUPS * sample("bernoulli")[1], id="bernoulli: a group of zeros"
        ),
        pytest.param(
            "poisson", GROUPS, GROUPS * sample("poisson")[1], id="poisson: a group of zeros"
        ),
        pytest.param(
            "negative_binomial",
            GROUPS,
            GROUPS * sample("negative_binomial")[1],
            id="negative binomial: a group of zeros",
        ),
    ],
)
def test_separation(family, x, y):
    result = fitted(family, x[:, None], y)
    assert result.status == (
        "no finite estimate: the likelihood keeps rising along a direction of the coefficients"
    )
    assert result.verdict is Status.SEPARATED
    assert not result.converged
    assert all(bool(error.isnan().all()) for error in result.standard_errors.values())


X = np.arange(3.0)[:, None]
OUTSIDE = "data outside the support of "


@pytest.mark.parametrize(
    ("family", "x", "y", "message"),
    [
        ("bernoulli", X, [0, 1, 2], OUTSIDE + "bernoulli: expected 0 or 1, got 2 at row 2"),
        ("poisson", X, [0, 1.5, 2], OUTSIDE + "poisson: expected a non-negative integer, got 1.5 "
                                              "at row 1"),
        ("normal", X, [0, math.inf, 2], OUTSIDE + "normal: expected a finite number, got inf at "
                                                  "row 1"),
        ("negative_binomial", X, [-1, 1, 2],
         OUTSIDE + "negative_binomial: expected a non-negative integer, got -1 at row 0"),
        ("bernoulli", X, [1, 1, 1], "expected a response that varies, got 1 in every row"),
        ("normal", X, [2, 2, 2], "expected a response that varies, got 2 in every row"),
        ("poisson", X, [0, 0, 0], "expected a response that varies, got 0 in every row"),
        ("poisson", np.c_[X, X], [0, 2, 1], "expected linearly independent columns, got 'x1' = +1 "
                                            "x0 in every row"),
        ("poisson", X[:2] * 0 + 7, [2, 1], "expected columns that vary, got constant column 'x0'"),
        ("poisson", np.eye(2), [2, 1], "expected at least as many rows as coefficients, got 2 for "
                                       "3"),
    ],
)  # fmt: skip
def test_bad_input(family, x, y, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        fitted(family, x, y)
