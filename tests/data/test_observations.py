"""Rows and frequencies from what users have."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nll.data.observations import observe
from nll.data.weights import frequencies


def test_rows_keep_their_numbers():
    """Rows that are missing or were never seen are left out; the others are known by their place in
    the data.
    """
    found = observe([5.0, None, 7.0, 8.0, 9.0], [1, 1, 0, 2.5, 3], missing="drop")
    assert found.values.tolist() == [5, 8, 9]
    assert found.weights.tolist() == [1, 2.5, 3]
    assert found.rows.tolist() == [0, 3, 4]
    assert (found.dropped, found.n) == (1, 6.5)


def test_a_row_of_several_numbers_is_missing_when_one_is():
    found = observe([[1, 2], [np.nan, 4], [5, 6]], missing="drop")
    assert found.values.tolist() == [[1, 2], [5, 6]]
    assert found.dropped == 1


def test_the_data_are_copied_to_float64_and_left_alone():
    data = torch.tensor([1, 2, 3], dtype=torch.float32)
    found = observe(data)
    found.values.zero_()
    assert found.values.dtype == torch.float64
    assert data.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "data", [np.array([1.0, 2.0]), torch.tensor([1.0, 2.0], dtype=torch.float64)]
)
def test_float64_data_are_not_copied(data):
    assert observe(data).values.data_ptr() == torch.as_tensor(data).data_ptr()


def test_memory_that_may_not_be_written_is_copied():
    data = np.array([1.0, 2.0])
    data.flags.writeable = False
    assert observe(data).values.tolist() == [1.0, 2.0]


def test_no_weights_are_ones():
    assert frequencies(None, 3).tolist() == [1, 1, 1]
    assert frequencies([True, False, True], 3).tolist() == [1, 0, 1]
