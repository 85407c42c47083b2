"""Normal intervals and p-values, against SciPy."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from nll.likelihood.intervals import p_value, wald


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
    assert float(p_value(torch.tensor(z, dtype=torch.float64))) == pytest.approx(expected, rel=1e-12, abs=0)
