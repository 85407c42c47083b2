"""Regressions searched again: likelihood ratios, scores, profiles and the bootstrap."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from scipy.sparse import csr_array
from scipy.special import log_softmax
from truth import anes96, spector

from nll import SoftmaxRegression
from nll.data.observations import observe
from nll.regression.design_matrix import Columns
from nll.regression.glm.fit import fit_linear


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


@pytest.mark.parametrize("sparse", [False, True])
def test_offsets_and_sparse_columns(sparse):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 2)) * (rng.random((300, 2)) < 0.5)
    y, offset = rng.integers(0, 3, 300), rng.normal(size=(300, 3))
    columns = [csr_array(part) if sparse else part for part in (x, x[:, 1:])]
    whole, part = (SoftmaxRegression().fit(each, y, offset=offset).result_ for each in columns)
    found = whole.test({"coef[1, x0]": 0.0, "coef[2, x0]": 0.0}, method="lr")
    expected = 2 * (whole.log_likelihood - part.log_likelihood)
    assert found.statistic == pytest.approx(expected, rel=1e-8)
    vector = whole.vector + 0.1
    logits = np.column_stack([np.ones(300), x]) @ vector.reshape(2, 3).numpy().T
    log_p = log_softmax(np.column_stack([np.zeros(300), logits]) + offset, 1)
    assert whole.log_likelihood_at(vector) == pytest.approx(log_p[np.arange(300), y].sum())


@pytest.mark.parametrize("family", ["bernoulli", "normal", "negative_binomial"])
def test_derivatives_in_the_units_of_the_data(family):
    """Scores and information by automatic differentiation of the value, with several weights."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(40, 2)) * [1.0, 50.0] + [3.0, 100.0])
    y = rng.random(40) < 0.5 if family == "bernoulli" else rng.negative_binomial(1, 0.2, 40)
    y = observe(y.astype(float))
    objective = fit_linear(family, Columns.of(x, ["a", "b"], True), y).search().objective
    weights = torch.from_numpy(rng.integers(0, 3, (2, 40))).double()
    several = objective.reweighted(weights)
    theta = torch.randn(2, objective.layout.size, dtype=torch.float64) * 0.01
    sums = several.sums(theta)
    torch.testing.assert_close(several.log_likelihood(theta), sums.log_likelihood)
    scores = torch.stack([objective.scores(one[None]) for one in theta])
    torch.testing.assert_close((weights[:, :, None] * scores).sum(1), sums.score)
    step = 1e-5
    for p in range(theta.shape[1]):
        move = step * (torch.arange(theta.shape[1]) == p)
        up, down = several.sums(theta + move), several.sums(theta - move)
        slope = (up.log_likelihood - down.log_likelihood) / (2 * step)
        torch.testing.assert_close(slope, sums.score[:, p], rtol=1e-5, atol=1e-3)
        curvature = (down.score - up.score) / (2 * step)
        torch.testing.assert_close(curvature, sums.information[:, p], rtol=1e-4, atol=1e-2)


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
