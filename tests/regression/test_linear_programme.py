"""Directions of separation."""

import numpy as np
from scipy.sparse import csr_array

from nll.regression.separation import separating_direction


def test_a_direction_that_raises_margins_and_lowers_none():
    margins = np.array([[1.0, 0.5], [0.0, 1.0], [2.0, -1.0]])
    direction = separating_direction(csr_array(margins))
    assert (margins @ direction >= -1e-9).all()
    assert (margins @ direction > 1e-9).any()
    assert (np.abs(direction) <= 1).all()


def test_margins_that_no_direction_raises():
    margins = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    np.testing.assert_array_equal(separating_direction(csr_array(margins)), 0.0)
