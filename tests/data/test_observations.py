"""Rows and frequencies from what users have."""

from __future__ import annotations

import gc
import math

import numpy as np
import pytest
import torch

import nll
from nll.data.arrays import numbers
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


@pytest.fixture
def every_warning():
    """PyTorch warns of read-only memory once in a process, otherwise."""
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(before)


@pytest.mark.parametrize("shape", [(6,), (3, 2), (0,), (0, 2)])
def test_read_only_memory_is_shared_without_a_warning(every_warning, shape):
    data = np.arange(math.prod(shape), dtype=np.float64).reshape(shape)
    data.flags.writeable = False
    shared = numbers(data)
    assert torch.equal(shared, torch.from_numpy(data.copy()))
    assert shared.data_ptr() == (data.ctypes.data if data.size else 0)
    assert not data.flags.writeable


def test_a_file_in_memory_lives_as_long_as_its_observations(every_warning, tmp_path):
    np.save(tmp_path / "x.npy", np.arange(1e5))
    found = observe(np.load(tmp_path / "x.npy", mmap_mode="r"))
    gc.collect()
    assert float(found.values.sum()) == sum(range(100_000))


@pytest.mark.parametrize("order", ["F", "reversed", ">f8", "f4"])
def test_other_read_only_memory_becomes_plain(every_warning, order):
    data = np.arange(6.0).reshape(3, 2)
    other = {"F": np.asfortranarray(data), "reversed": data[::-1]}.get(order)
    other = data.astype(order) if other is None else other
    other.flags.writeable = False
    assert numbers(other).tolist() == other.tolist()
    assert numbers(other).is_contiguous()


@pytest.mark.parametrize("n", [1, 4095, 4096, 4097, 70_000])
def test_the_sums_of_rows_cover_all_values(n):
    found = observe(np.arange(float(n)))
    assert float(found.sums.sum()) == n * (n - 1) / 2
    assert found.finite
    assert observe(np.ones((n, 2))).sums.tolist() == [2.0 * n]


@pytest.mark.parametrize("bad", [math.inf, -math.inf])
@pytest.mark.parametrize("row", [0, 4096, 69_999])
def test_an_infinite_value_in_many_is_found(bad, row):
    data = np.ones(70_000)
    data[row] = bad
    message = f"support of Normal: expected a finite number, got {bad} at row {row}$"
    with pytest.raises(ValueError, match=message):
        nll.fit(torch.distributions.Normal, data)


@pytest.mark.parametrize("row", [0, 4096, 69_999])
def test_a_missing_value_in_many_is_found(row):
    data = np.ones(70_000)
    data[row] = math.nan
    with pytest.raises(ValueError, match=f"got 1, the first at row {row};"):
        nll.fit(torch.distributions.Normal, data)


def test_no_weights_are_ones():
    assert frequencies(None, 3).tolist() == [1, 1, 1]
    assert frequencies([True, False, True], 3).tolist() == [1, 0, 1]
