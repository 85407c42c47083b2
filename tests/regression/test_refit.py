"""Regressions searched again: likelihood ratios, scores, profiles and the bootstrap."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from truth import anes96, spector

from nll import SoftmaxRegression
from nll.data.observations import observe
from nll.regression.design_matrix import Columns
from nll.regression.glm import fit_linear


def softmax(table, names, response):
    return SoftmaxRegression().fit(table[names], table[response]).result_


def test_a_likelihood_ratio_is_that_of_two_fits():
    table = anes96()
    whole, part = softmax(table, ["age", "educ"], "PID"), softmax(table, ["educ"], "PID")
    found = whole.test({f"coef[{k}, age]": 0.0 for k in range(1, 7)}, method="lr")
    assert found.df == 6
    assert found.statistic == pytest.approx(
        2 * (whole.log_likelihood - part.log_likelihood), rel=1e-8
    )


def test_the_score_test_is_that_of_statsmodels():
    table = spector()
    found = softmax(table, ["GPA", "TUCE", "PSI"], "GRADE").test(
        {"coef[1, PSI]": 0.0}, method="score"
    )
    small = sm.GLM(
        table.GRADE, sm.add_constant(table[["GPA", "TUCE"]]), family=sm.families.Binomial()
    ).fit(tol=1e-12)
    theirs = small.score_test(exog_extra=table[["PSI"]].to_numpy())
    assert found.statistic == pytest.approx(float(np.squeeze(theirs[0])), rel=1e-6)


def test_profile_ends_have_the_likelihood_of_the_level():
    table = spector()
    found = softmax(table, ["GPA", "TUCE", "PSI"], "GRADE")
    ends = found.interval(method="profile")["coef"][0]
    assert ends.shape == (4, 2)
    for end in ends[1].tolist():
        assert found.test({"coef[1, GPA]": end}, method="lr").statistic == pytest.approx(
            3.841458820694124, abs=1e-6
        )


@pytest.mark.parametrize("family", ["bernoulli", "poisson", "normal", "negative_binomial"])
def test_every_response(family):
    torch.manual_seed(0)
    x = torch.randn(300, 2, dtype=torch.float64) * torch.tensor([1.0, 100.0])
    score = 0.5 + x @ torch.tensor([0.4, -0.003], dtype=torch.float64)
    rng = np.random.default_rng(0)
    draws = {
        "bernoulli": lambda: rng.random(300) < torch.sigmoid(score).numpy(),
        "poisson": lambda: rng.poisson(score.exp().numpy()),
        "normal": lambda: 50 + 10 * rng.normal(score.numpy()),
        "negative_binomial": lambda: rng.negative_binomial(3, 3 / (3 + score.exp().numpy())),
    }
    y = observe(draws[family]().astype(float))
    whole = fit_linear(family, Columns.of(x, ["a", "b"], True), y)
    part = fit_linear(family, Columns.of(x[:, 1:], ["b"], True), y)
    again = whole.search()
    assert again.log_likelihood == pytest.approx(whole.log_likelihood, rel=1e-12)
    assert float(again.optimum.decrement) < 1e-12
    found = whole.test({"coef[a]": 0.0}, method="lr")
    assert found.statistic == pytest.approx(
        2 * (whole.log_likelihood - part.log_likelihood), rel=1e-7
    )
    wald, profile = whole.interval(), whole.interval(method="profile")
    error = whole.standard_errors["coef"][..., None]
    torch.testing.assert_close(profile["coef"] / error, wald["coef"] / error, rtol=0, atol=0.3)
    drawn = whole.bootstrap(100)
    assert len(drawn) > 95
    torch.testing.assert_close(
        drawn.standard_errors["coef"], whole.standard_errors["coef"], rtol=0.4, atol=0
    )
    assert (
        pickle.loads(pickle.dumps(whole)).test({"coef[a]": 0.0}, method="lr").statistic
        == found.statistic
    )


def test_a_penalised_fit_has_walds_only():
    table = spector()
    found = SoftmaxRegression(alpha=1.0).fit(table[["GPA"]], table.GRADE).result_
    with pytest.raises(
        ValueError, match="expected method 'wald' for Softmax regression, got 'profile'"
    ):
        found.interval(method="profile")
    with pytest.raises(
        ValueError, match="a converged fit without a penalty to draw from, got Softmax regression"
    ):
        found.bootstrap()
