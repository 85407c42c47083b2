"""Normal intervals and p-values, against SciPy."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import distributions as td

import nll
from nll.estimation.inference.wald import p_value, wald


@pytest.mark.parametrize("level", [0.01, 0.5, 0.9, 0.95, 0.9999, 1 - 1e-12])
def test_wald(level):
    estimate = torch.tensor([[1.5, -2.0], [0.0, 1e6]], dtype=torch.float64)
    error = torch.tensor([[0.5, 3.0], [1e-6, 1e3]], dtype=torch.float64)
    found = wald(estimate, error, level)
    z = stats.norm.isf((1 - level) / 2)  # (1 + level) / 2 would be rounded
    assert found.shape == (2, 2, 2)
    torch.testing.assert_close(found[..., 0], estimate - z * error, rtol=1e-13, atol=0)
    torch.testing.assert_close(found[..., 1], estimate + z * error, rtol=1e-13, atol=0)


def test_no_error_no_interval():
    assert bool(wald(torch.tensor([1.0]), torch.tensor([math.nan]), 0.95).isnan().all())


@pytest.mark.parametrize("z", [0.0, 0.3, -1.96, 5.0, -20.0, 37.0])
def test_p_values_keep_their_digits_far_out(z):
    expected = 2 * stats.norm.sf(abs(z))
    assert float(p_value(torch.tensor(z, dtype=torch.float64))) == pytest.approx(
        expected, rel=1e-12, abs=0
    )


@pytest.mark.parametrize(
    ("low", "high", "scale", "back"),
    [
        (0.0, math.inf, math.log, math.exp),
        (2.0, math.inf, lambda x: math.log(x - 2), lambda u: 2 + math.exp(u)),
        (-math.inf, 9.0, lambda x: -math.log(9 - x), lambda u: 9 - math.exp(-u)),
        (1.0, 9.0, lambda x: math.log((x - 1) / (9 - x)), lambda u: 1 + 8 / (1 + math.exp(-u))),
    ],
)
def test_within_bounds_it_is_symmetric_on_the_scale_without_bounds(low, high, scale, back):
    """The error there is by the delta method, the derivative of the scale here by differences."""
    x, error = 3.0, 0.7
    slope = (scale(x + 1e-6) - scale(x - 1e-6)) / 2e-6
    expected = [back(scale(x) + side * stats.norm.isf(0.025) * error * slope) for side in (-1, 1)]
    found = wald(torch.tensor(x).double(), torch.tensor(error).double(), 0.95, low, high)
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_every_parameter_and_its_table_stay_within_bounds():
    found = nll.fit(td.Bernoulli, [1, 0, 1, 1])
    low, high = found.interval()["probs"].tolist()
    ends = [
        1 / (1 + math.exp(side * 1.959963984540054 / math.sqrt(4 * 3 / 16)) / 3) for side in (1, -1)
    ]
    assert (low, high) == pytest.approx(tuple(ends), rel=1e-12)  # of the logit, log 3
    assert found.to_dict()["interval"]["probs"] == [low, high]
    assert found.to_pandas().loc["probs", ["low", "high"]].tolist() == [low, high]
    assert f"{low:.5f}" in found.summary()
    gamma = nll.fit(td.Gamma, [0.1, 3.0])
    assert all(float(ends[0]) > 0 for ends in gamma.interval(0.999).values())
    shares = nll.fit(td.Categorical, [0, 1, 2, 2]).interval()["probs"]
    assert bool(((shares > 0) & (shares < 1)).all())
    spread = nll.fit(td.MultivariateNormal, [[0.0, 1.0], [1.0, 0.0], [2.0, 2.5]]).interval(0.999)[
        "covariance_matrix"
    ]
    assert bool((spread[[0, 1], [0, 1], 0] > 0).all())
    assert float(spread[0, 1, 0]) < 0
    tight = nll.fit(td.Normal, [1.0, 2.0, 4.0], bounds={"loc": (2.0, 3.0)}).interval(0.999)["loc"]
    assert 2.0 < float(tight[0]) < float(tight[1]) < 3.0
    groups = nll.fit(td.Poisson, [0, 1, 4, 5], groups=[0, 0, 1, 1]).interval(0.999)["rate"]
    assert bool((groups > 0).all())


def test_a_function_of_the_parameters_on_its_scale():
    found = nll.fit(td.Poisson, [0, 1, 1])
    plain, log = (
        found.derived(lambda p: p["rate"], scale=scale).interval() for scale in ("identity", "log")
    )
    assert float(plain[0]) < 0
    torch.testing.assert_close(log, found.interval()["rate"], rtol=1e-12, atol=0)
    odds = found.derived(lambda p: torch.exp(-p["rate"]), scale="logit").interval()
    assert 0 < float(odds[0]) < float(odds[1]) < 1
    with pytest.raises(ValueError, match="scale to be one of identity, log, logit, got 'sqrt'"):
        found.derived({"rate": 1}, scale="sqrt")
    with pytest.raises(
        ValueError,
        match=r"a value above 0 and below inf for scale='log', got "
        r"-0\.66",
    ):
        found.derived({"rate": -1}, scale="log")
