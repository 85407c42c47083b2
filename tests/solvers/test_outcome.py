"""Where a search ended, as a value."""

from __future__ import annotations

import math

import pytest
import torch

from nll.solvers.outcome import MAX_SHRINKS, Optimum, Status, Sums, stopped

SUMS = Sums(torch.tensor(-3.0), torch.zeros(2), torch.eye(2))


@pytest.mark.parametrize(
    ("decrement", "reached", "verdict"),
    [
        (1e-12, True, Status.CONVERGED),
        (0.5, False, Status.MAX_STEPS),
        (math.nan, False, Status.NOT_FINITE),
    ],
)
def test_an_optimum_has_a_verdict(decrement, reached, verdict):
    optimum = Optimum(torch.zeros(2), SUMS, decrement, 3, reached, "")
    assert optimum.verdict is verdict
    assert verdict.ok == reached


def test_one_search_is_a_batch_of_one():
    optimum = Optimum(torch.ones(2), SUMS, 0.25, 3, False, stopped(0.25, 0), shrunk=4)
    again = optimum.batched().one(0)
    assert torch.equal(again.theta, optimum.theta)
    assert again[2:8] == optimum[2:8]


def test_a_search_says_why_it_stopped():
    assert stopped(math.nan, 0).startswith("not finite")
    assert stopped(0.5, 0).startswith("out of steps")
    assert stopped(0.5, MAX_SHRINKS) == (
        "stopped: no step along the ascent direction raises the likelihood (expected gain 0.5)"
    )
