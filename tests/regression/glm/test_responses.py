"""The log-likelihood of a response in the columns: its derivatives."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from nll.regression.design_matrix import Columns
from nll.regression.glm.responses import RESPONSES, LinearLikelihood


def likelihood(family: str) -> LinearLikelihood:
    torch.manual_seed(0)
    x = torch.randn(300, 2, dtype=torch.float64) * torch.tensor([1.0, 4.0]) + 0.5
    y = torch.randint(0, 2 if family == "bernoulli" else 7, (300,)).double()
    columns, weights = Columns.of(x, None, intercept=True), torch.linspace(0.5, 2, 300).double()
    return LinearLikelihood(RESPONSES[family], columns, y, weights)


@pytest.mark.parametrize("family", RESPONSES)
def test_derivatives(family):
    """Away from the estimate."""
    problem = likelihood(family)
    numbers = [0.3, -0.2, 0.1, 0.4][: 3 + problem.has_second]
    theta = torch.tensor(numbers, dtype=torch.float64)
    sums, value = problem.sums(theta), problem.log_likelihood
    assert float(sums.log_likelihood) == pytest.approx(float(value(theta)), rel=1e-13)
    torch.testing.assert_close(sums.score, torch.func.grad(value)(theta), rtol=1e-11, atol=0)
    hessian = torch.autograd.functional.hessian(value, theta)
    torch.testing.assert_close(sums.information, -hessian, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(
        problem.weights @ problem.scores(theta), sums.score, rtol=1e-11, atol=1e-12
    )


def test_a_fixed_second_parameter():
    """It is no parameter of the likelihood, whose value is the same."""
    problem = likelihood("negative_binomial")
    theta = torch.tensor([0.3, -0.2, 0.1, 0.4], dtype=torch.float64)
    fixed = replace(problem, log_second=theta[3])
    both, one = problem.sums(theta), fixed.sums(theta[:3])
    torch.testing.assert_close(one.log_likelihood, both.log_likelihood, rtol=1e-13, atol=0)
    torch.testing.assert_close(one.score, both.score[:3], rtol=1e-12, atol=0)
    torch.testing.assert_close(one.information, both.information[:3, :3], rtol=1e-12, atol=0)
