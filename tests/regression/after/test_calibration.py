"""Confusion and calibration, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nll.regression.after.calibration import calibration, confusion


def test_confusion():
    labels = np.array([0, 1, 2, 1, 0])
    probabilities = np.array(
        [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1], [0.1, 0.2, 0.7], [0.8, 0.1, 0.1]]
    )
    assert confusion(labels, probabilities, np.ones(5)).tolist() == [
        [2, 0, 0],
        [0, 1, 1],
        [1, 0, 0],
    ]
    weighted = confusion(labels, probabilities, np.array([1, 2, 3, 4, 0.5]))
    assert weighted.tolist() == [[1.5, 0, 0], [0, 2, 4], [3, 0, 0]]


def test_confusion_keeps_classes_that_are_never_seen_or_predicted():
    found = confusion(np.array([1]), np.array([[0.9, 0.05, 0.05]]), np.ones(1))
    assert found.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_calibration_has_ten_bins_of_equal_size():
    predicted = np.linspace(0.005, 0.995, 100)
    draw = np.random.default_rng(0)
    order = draw.permutation(100)
    seen = draw.random(100) < predicted
    found = calibration("yes", predicted[order], seen[order], np.ones(100))
    assert found.name == "yes"
    np.testing.assert_allclose(found.predicted, predicted.reshape(10, 10).mean(1), rtol=1e-12)
    means = seen.reshape(10, 10).mean(1)
    np.testing.assert_allclose(found.observed, means, rtol=1e-12)
    np.testing.assert_allclose(
        found.error, np.sqrt(means * (1 - means) / 10), rtol=1e-9, atol=1e-12
    )


def test_weights_are_repeated_rows():
    """Ten rows of one weight, each a bin of its own."""
    draw = np.random.default_rng(1)
    predicted, seen = draw.random(10), draw.normal(size=10)
    weighted = calibration("", predicted, seen, np.full(10, 7.0))
    repeated = calibration("", np.repeat(predicted, 7), np.repeat(seen, 7), np.ones(70))
    for one, other in zip(weighted[1:], repeated[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_few_rows_have_fewer_bins():
    found = calibration("", np.array([0.2, 0.7, 0.4]), np.array([0, 1, 1]), np.ones(3))
    assert found.predicted.tolist() == [0.2, 0.4, 0.7]
    assert found.observed.tolist() == [0, 1, 1]
    assert found.error.tolist() == [0, 0, 0]


def test_one_heavy_row_is_one_bin():
    found = calibration(
        "", np.array([0.1, 0.5, 0.9]), np.array([0, 1, 1]), np.array([1.0, 1e6, 1.0])
    )
    assert 0.5 in found.predicted.tolist()
    assert len(found.predicted) == 3


def test_equal_predictions():
    found = calibration("", np.full(20, 0.3), np.arange(20) < 6, np.ones(20))
    np.testing.assert_allclose(found.predicted, 0.3, rtol=1e-14)
    assert found.observed.mean() == pytest.approx(0.3)


def test_errors_of_responses_far_from_zero():
    """The spread of a bin is that of its residuals: no difference of squares of large numbers."""
    draw = np.random.default_rng(2)
    predicted, seen = draw.random(100), draw.normal(size=100)
    near, far = (calibration("", predicted, seen + offset, np.ones(100)) for offset in (0.0, 1e9))
    np.testing.assert_allclose(far.error, near.error, rtol=1e-6)
