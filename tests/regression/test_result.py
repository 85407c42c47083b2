"""Another baseline and the symmetric form: what a fit that had them from the start would give."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris

import nll


def draw():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2)) * [1.0, 50.0]
    scores = x @ (rng.normal(size=(2, 4)) / [[1.0], [50.0]])
    return x, np.array(list("abcd"))[(scores + rng.gumbel(size=(400, 4))).argmax(1)]


@pytest.mark.parametrize("covariance", ["observed", "sandwich"])
@pytest.mark.parametrize("first", ["a", "c"])
@pytest.mark.parametrize("then", ["a", "b", "d"])
def test_another_baseline_is_the_refit(first, then, covariance):
    x, y = draw()
    moved = (
        nll.SoftmaxRegression(baseline=first, covariance=covariance)
        .fit(x, y)
        .result_.with_baseline(then)
    )
    expected = nll.SoftmaxRegression(baseline=then, covariance=covariance).fit(x, y).result_
    torch.testing.assert_close(moved.vector, expected.vector, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(moved.covariance, expected.covariance, rtol=1e-7, atol=1e-12)
    assert moved.labels == expected.labels
    assert moved.baseline == then
    assert moved.names == expected.names
    hypothesis = {f"coef[{moved.labels['coef'][0][0]}, x0]": 0.0}
    assert moved.test(hypothesis).statistic == pytest.approx(
        expected.test(hypothesis).statistic, rel=1e-7
    )
    assert f"(vs. {then})" in moved.summary()


def test_the_symmetric_form():
    x, y = draw()
    fit = nll.SoftmaxRegression().fit(x, y).result_
    moved = fit.sum_to_zero()
    coef = torch.cat([torch.zeros(1, 3, dtype=torch.float64), fit.params["coef"]])
    torch.testing.assert_close(moved.params["coef"], coef - coef.mean(0), rtol=1e-12, atol=1e-14)
    errors = fit.derived(lambda p: p["coef"][0] - p["coef"].sum(0) / 4).standard_error
    torch.testing.assert_close(moved.standard_errors["coef"][1], errors, rtol=1e-10, atol=0)
    other = fit.with_baseline("c").sum_to_zero()
    torch.testing.assert_close(moved.covariance, other.covariance, rtol=1e-8, atol=1e-14)
    assert moved.labels["coef"][0] == ("a", "b", "c", "d")
    assert moved.df == fit.df
    assert "y = a (vs. the mean of all)" in moved.summary()
    torch.testing.assert_close(moved.predict(x).probabilities, fit.predict(x).probabilities)


def test_separated_classes_keep_what_has_a_limit():
    data = load_iris()
    with pytest.warns(match="no finite estimate"):
        fit = nll.SoftmaxRegression().fit(data.data, data.target).result_
    assert bool(fit.covariance.isnan().all())
    moved = fit.with_baseline("1")
    of = moved.labels["coef"][0].index("2")
    expected = next(c for c in fit.separation.contrasts if {c.of, c.against} == {"1", "2"})
    torch.testing.assert_close(moved.params["coef"][of], expected.estimate)
    torch.testing.assert_close(moved.standard_errors["coef"][of], expected.standard_errors)
    assert bool(moved.standard_errors["coef"][1 - of].isnan().all())


def test_misuse():
    x, y = draw()
    fit = nll.SoftmaxRegression().fit(x, y).result_
    with pytest.raises(ValueError, match="expected baseline to be one of a, b, c, d, got e"):
        fit.with_baseline("e")
    with pytest.raises(
        ValueError, match="expected a softmax regression with a baseline, got Conditional logit"
    ):
        nll.ConditionalLogit().fit(
            x[:40].reshape(20, 2, 2), np.arange(20) % 2
        ).result_.sum_to_zero()


@pytest.mark.parametrize(("null", "expected"), [(-20.0, True), (None, False), (0.0, False)])
def test_pseudo_r_squared_is_relative_to_a_null_model(null, expected):
    x, y = draw()
    fit = dataclasses.replace(nll.SoftmaxRegression().fit(x, y).result_, null_log_likelihood=null)
    assert fit.pseudo_r_squared == (1 + fit.log_likelihood / 20 if expected else None)
