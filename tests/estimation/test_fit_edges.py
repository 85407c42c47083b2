"""Fits in closed form at the edges: boundaries, no maximum, huge numbers, the uniform family."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributions as td

from nll import fit

close = partial(pytest.approx, abs=0.0, nan_ok=True)


def flat(values: dict[str, Any]) -> list[float]:
    return torch.cat(
        [torch.as_tensor(value, dtype=torch.float64).reshape(-1) for value in values.values()]
    ).tolist()


@pytest.mark.parametrize(
    ("model", "data", "options", "where", "lost"),
    [
        (td.Bernoulli, [1, 1, 1], {}, "probs = 1", [True]),
        (td.Bernoulli, [0, 0], {}, "probs = 0", [True]),
        (td.Binomial, [4, 3], {"fixed": {"total_count": [4, 3]}}, "probs = 1", [True]),
        (td.Binomial, [0, 0], {"fixed": {"total_count": 9}}, "probs = 0", [True]),
        (td.Geometric, [0, 0, 0], {}, "probs = 1", [True]),
        (td.Poisson, [0, 0, 0, 0], {}, "rate = 0", [True]),
        (td.Categorical, [0, 2, 2], {}, "probs[1] = 0", [False, True, False]),
        (td.Categorical, [0, 0], {}, "probs[0] = 1", [True]),
        (td.Multinomial, [[3, 0, 1], [2, 0, 5]], {}, "probs[1] = 0", [False, True, False]),
        # A sum of weights is rounded, and the share of all is 1 nevertheless.
        (
            td.Bernoulli,
            [1] * 7,
            {"weights": [0.3, 0.1, 0.7, 0.2, 0.9, 0.3, 0.6]},
            "probs = 1",
            [True],
        ),
        (
            td.Binomial,
            [3] * 7,
            {"weights": [0.3, 0.1, 0.7, 0.2, 0.9, 0.3, 0.6], "fixed": {"total_count": 3}},
            "probs = 1",
            [True],
        ),
    ],
)
def test_a_boundary_has_no_standard_error(model, data, options, where, lost):
    result = fit(model, data, **options)
    assert result.status == (
        f"at the boundary of the parameter space: {where}; no standard error there"
    )
    assert result.converged
    assert flat(result.standard_errors) == close(
        [
            math.nan if gone else s
            for gone, s in zip(lost, flat(result.standard_errors), strict=True)
        ],
        nan_ok=True,
    )
    assert math.isnan(math.fsum(flat(result.standard_errors)))


def test_shares_of_rounded_weights_stay_probabilities():
    """A weighted share of all rows is 1, not the next number above it, which no log-likelihood
    bears.
    """
    draw = np.random.default_rng(0)
    for _ in range(200):
        weights = draw.random(draw.integers(2, 50))
        result = fit(td.Bernoulli, np.ones(len(weights)), weights=weights)
        assert (float(result.params["probs"]), result.log_likelihood) == (1.0, 0.0)


NO_MAXIMUM = "no maximum: the data are all equal, and the likelihood grows without bound towards "


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("model", "boundary"),
    [
        (td.Normal, "scale = 0"),
        (td.LogNormal, "scale = 0"),
        (td.Laplace, "scale = 0"),
        (td.Uniform, "high = low"),
    ],
)
def test_equal_data_have_no_maximum(model, boundary, weighted):
    """Whatever the rounding of their mean."""
    for n, value in itertools.product([1, 3, 15, 1000], [0.1, 123.456, 1e10 / 7]):
        weights = np.random.default_rng(n).random(n) if weighted else None
        result = fit(model, [value] * n, weights=weights)
        assert (result.status, result.converged) == (NO_MAXIMUM + boundary, False), (n, value)
        assert all(map(math.isnan, flat(result.standard_errors)))
        assert result.log_likelihood == math.inf


def test_zeros_have_no_exponential_rate():
    result = fit(td.Exponential, [0.0, 0.0])
    assert (result.status, result.converged) == (NO_MAXIMUM + "rate = inf", False)
    assert math.isnan(float(result.standard_errors["rate"]))


LOCATION_SCALE = {
    td.Normal: [1.0, -1.0, 0.5],
    td.Laplace: [1.0, -1.0, 0.5],
    td.Uniform: [1.0, -1.0, 0.5],
    td.Exponential: [1.0, 0.5],
}


@pytest.mark.parametrize("factor", [2.0**-1070, 1e-300, 1e-150, 1e150, 1e300, 1.7e308])
@pytest.mark.parametrize("model", LOCATION_SCALE, ids=lambda model: model.__name__)
def test_numbers_beyond_float64_never_pass_for_a_result(model, factor):
    """Either all is as for the data in a smaller unit, or the fit says that it is not finite and
    has no errors.
    """
    data = LOCATION_SCALE[model]
    plain, scaled = fit(model, data), fit(model, [x * factor for x in data])
    if not scaled.converged:
        assert scaled.status == (
            "not finite: the likelihood or its curvature overflows float64; rescale the data"
        )
        assert all(map(math.isnan, flat(scaled.standard_errors)))
        return
    assert scaled.log_likelihood == close(
        plain.log_likelihood - len(data) * math.log(factor), rel=1e-12
    )
    power = -1 if model is td.Exponential else 1
    expected = [x * factor**power for x in flat(plain.params) + flat(plain.standard_errors)]
    assert flat(scaled.params) + flat(scaled.standard_errors) == close(expected, rel=1e-12)


def test_a_sum_of_weights_beyond_float64():
    with pytest.raises(ValueError, match=r"^expected weights with a finite sum, got inf$"):
        fit(td.Normal, [1.0, 2.0], weights=[1.7e308, 1.7e308])


@pytest.mark.parametrize("offset", [1e8, 1e12, 1e15])
def test_an_offset_changes_the_location_only(offset):
    """The values and their sums with the offsets are whole numbers, which float64 holds exactly."""
    data = np.array([0.0, 1.0, 2.0])
    plain, moved = fit(td.Normal, data), fit(td.Normal, data + offset)
    assert float(moved.params["loc"]) == offset + 1.0
    assert float(moved.params["scale"]) == close(float(plain.params["scale"]), rel=1e-14)
    assert moved.log_likelihood == close(plain.log_likelihood, rel=1e-14)


@pytest.mark.parametrize("count", [1e3, 1e6, 1e9, 1e12, 1e15])
def test_large_counts_keep_the_digits_of_their_probability(count):
    """log P(count; rate = count) = -log(2 pi count) / 2 - 1 / (12 count) + ..., Stirling's
    series.
    """
    expected = 3 * (-0.5 * math.log(2 * math.pi * count) - 1 / (12 * count))
    assert fit(td.Poisson, [count] * 3).log_likelihood == close(expected, rel=1e-9)


def test_large_binomial_counts_keep_the_digits_of_their_probability():
    """Normal approximation at the mean: -log(2 pi n p (1 - p)) / 2 - (1 / p + 1 / (1 - p) - 1) /
    (12 n) + ...
    """
    n, p = 1e12, 0.25
    expected = -0.5 * math.log(2 * math.pi * n * p * (1 - p))
    assert fit(td.Binomial, [p * n], fixed={"total_count": n}).log_likelihood == close(
        expected, rel=1e-9
    )


# Uniform: no errors, an interval.


def test_uniform_is_not_regular():
    result = fit(td.Uniform, [0.3, 1.9, 0.7])
    assert result.status == (
        "not regular: the support moves with the parameters, so that there is no information; "
        "interval() is exact"
    )
    low, high = result.interval(0.9)["low"], result.interval(0.9)["high"]
    reach = 1.6 * (0.1 ** (-1 / 2) - 1)
    assert low.tolist() == close([0.3 - reach, 0.3], rel=1e-14)
    assert high.tolist() == close([1.9, 1.9 + reach], rel=1e-14)


@pytest.mark.parametrize(("n", "level"), [(2, 0.5), (3, 0.9), (8, 0.95)])
def test_uniform_interval_covers_as_often_as_it_says(n, level):
    """20 000 samples from Uniform(0, 1); the reach is the same multiple of every sample's range."""
    samples = torch.rand(20_000, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    lowest, highest = samples.amin(1), samples.amax(1)
    interval = fit(td.Uniform, samples[0]).interval(level)
    reach = float(interval["high"][1] - interval["high"][0]) / float(highest[0] - lowest[0])
    second = fit(td.Uniform, samples[1]).interval(level)["low"]
    assert float(second[1] - second[0]) == close(reach * float(highest[1] - lowest[1]), rel=1e-9)
    error = math.sqrt(level * (1 - level) / 20_000)
    for covered in (
        lowest - reach * (highest - lowest) <= 0,
        highest + reach * (highest - lowest) >= 1,
    ):
        assert float(covered.double().mean()) == pytest.approx(level, abs=4 * error)


def test_one_observation_tells_nothing_about_the_ends():
    result = fit(td.Uniform, [0.3])
    assert result.interval()["low"].tolist() == [-math.inf, 0.3]
    assert result.interval()["high"].tolist() == [0.3, math.inf]
