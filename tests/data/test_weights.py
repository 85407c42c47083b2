"""Weights of rows, and sums with them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

import nll
from nll.data.observations import observe
from nll.data.weights import (
    by_row,
    first_two_totals,
    frequencies,
    kind_of,
    mean_and_variance,
    scaled,
    total,
    totals,
)

W = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)
X = torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64)
ONES = torch.ones((), dtype=torch.float64).expand(3)


def test_the_kinds_of_weights():
    assert kind_of(None) == kind_of([1, 2]) == "frequency"
    assert kind_of(nll.sampling([1, 2])) == "sampling"
    assert kind_of(nll.importance([1, 2])) == "importance"
    assert kind_of([1, 2], "sampling") == "sampling"


def test_only_the_ratios_of_weights_that_are_no_frequencies_count():
    assert torch.equal(scaled(W, "frequency"), W)
    assert scaled(1e300 * W, "sampling").tolist() == pytest.approx([0.5, 0.0, 1.5])
    assert float(scaled(W, "importance").sum()) == pytest.approx(4**2 / 10)


def test_rows_that_are_known_to_count_once_say_so():
    assert observe(X).once
    assert not observe(X, [1, 1, 1]).once
    assert not observe([1.0, None], missing="drop").once


@pytest.mark.parametrize("weights", [W, ONES, 2 * torch.ones(3, dtype=torch.float64)])
def test_sums_do_not_depend_on_how_weights_lie_in_memory(weights):
    dense = weights.clone()
    assert float(total(weights)) == float(dense.sum())
    assert float(total(weights, X)) == pytest.approx(float(dense @ X), rel=1e-15)
    (squares,) = totals(weights, X, lambda x: (x.square(),))
    first, second = first_two_totals(weights, X, lambda x: x)
    assert float(first) == pytest.approx(float(dense @ X))
    assert float(second) == float(squares) == pytest.approx(float(dense @ X.square()))


def test_several_weights_of_one_data_set():
    weights = torch.stack([W, 2 * W])
    assert total(weights, X).tolist() == pytest.approx([-2.5, -5.0])
    assert total(weights).tolist() == [4.0, 8.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2], r"expected 3 weights, one for each row, got shape \(2,\)"),
        ([1, -1, 2], "expected finite weights of at least 0, got -1 at row 11"),
        ([1, float("inf"), 2], "expected finite weights of at least 0, got inf at row 11"),
        ([0, 0, 0], "expected weights with a positive sum, got all zero"),
        ([1e308, 1e308, 1e308], "expected weights with a finite sum, got inf"),
    ],
)
def test_weights_that_cannot_be_used(weights, message):
    with pytest.raises(ValueError, match=message):
        frequencies(weights, 3, rows=[10, 11, 12])


def exact(values: np.ndarray) -> tuple[float, float]:
    """The mean and the variance, in rational numbers."""
    whole = [int(x) for x in values * 2.0**30]  # as the values are multiples of 2^-30
    mean = Fraction(sum(whole), len(whole))
    variance = Fraction(sum(x * x for x in whole), len(whole)) - mean**2
    return float(mean / 2**30), float(variance / 2**60)


def drawn(mean: float, sd: float, n: int) -> np.ndarray:
    values = np.random.default_rng(0).normal(mean, sd, n)
    return np.round(values * 2.0**30) / 2.0**30


@pytest.mark.parametrize("n", [1 << 16, 100_001, 1 << 18])
@pytest.mark.parametrize(
    ("mean", "sd"), [(0, 1), (3, 2), (-3, 2), (3, 1), (-100, 2), (1e4, 0.5), (1e6, 10)]
)
def test_the_mean_and_variance_of_many_values_are_right_to_the_last_digits(mean, sd, n):
    values = drawn(mean, sd, n)
    found = mean_and_variance(torch.from_numpy(values), observe(values).sums)
    assert found is not None
    right = exact(values)
    assert float(found[0]) == pytest.approx(right[0], rel=3e-16, abs=3e-16 * sd)
    assert float(found[1]) == pytest.approx(right[1], rel=2e-15, abs=0.0)


def test_sorted_values_differ_between_rows():
    values = np.sort(drawn(3, 2, 100_001))
    found = mean_and_variance(torch.from_numpy(values), observe(values).sums)
    assert found is not None
    assert [float(x) for x in found] == pytest.approx(exact(values), rel=2e-15, abs=0.0)


@pytest.mark.parametrize(
    "values",
    [
        np.full(70_000, 0.1),
        np.zeros(70_000),
        drawn(1e8, 1e-3, 70_000),
        drawn(0, 1, 70_000) * 1e200,
        drawn(0, 1, 70_000) * 1e-200,
        drawn(0, 1, 140_000)[::2],
        drawn(0, 1, 1000),
    ],
    ids=["equal", "zero", "far from 0", "huge", "tiny", "with gaps", "few"],
)
def test_what_would_lose_digits_or_time_is_left_to_other_sums(values):
    assert (
        mean_and_variance(torch.as_tensor(values), by_row(torch.as_tensor(values), sum_1)) is None
    )


def sum_1(rows: torch.Tensor) -> torch.Tensor:
    return rows.sum(1)
