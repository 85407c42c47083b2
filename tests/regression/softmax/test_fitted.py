"""What a fitted softmax regression predicts."""

from __future__ import annotations

import numpy as np
from softmax_cases import sample

from nll import SoftmaxRegression


def test_predictions():
    x, y = sample()
    model = SoftmaxRegression().fit(x, np.array(["low", "mid", "top"])[y])
    scores = x @ model.coef_.T + model.intercept_
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(model.decision_function(x), scores, rtol=1e-12)
    np.testing.assert_allclose(model.predict_proba(x), probabilities, rtol=1e-12)
    np.testing.assert_allclose(model.predict_log_proba(x), np.log(probabilities), rtol=1e-10)
    assert model.predict(x).tolist() == model.classes_[probabilities.argmax(1)].tolist()
    assert (
        model.score(x, np.array(["low", "mid", "top"])[y]) == (probabilities.argmax(1) == y).mean()
    )


def test_log_probabilities_far_out():
    """Where a probability is 0 in float64, its logarithm still is not -inf."""
    x, y = sample(classes=2)
    model = SoftmaxRegression().fit(x, y)
    far = model.predict_log_proba(x[:1] * 1e4)
    assert np.isfinite(far).all()
    assert far.min() < -1000


def test_the_score_of_two_classes_is_a_difference_whatever_the_baseline():
    x, y = sample(classes=2)
    first, second = (SoftmaxRegression(baseline=b).fit(x, y) for b in (0, 1))
    np.testing.assert_allclose(first.decision_function(x), second.decision_function(x), rtol=1e-9)
    np.testing.assert_array_equal(first.decision_function(x) > 0, first.predict(x) == 1)


def test_mean_probabilities_are_the_shares_of_the_classes():
    """The likelihood equations of the constants."""
    x, y = sample()
    shares = np.bincount(y) / len(y)
    np.testing.assert_allclose(
        SoftmaxRegression().fit(x, y).predict_proba(x).mean(0), shares, rtol=1e-12
    )
