"""The log-likelihood of choices over cases of very different sizes."""

import numpy as np
import torch

from nll.regression.choice import objective
from nll.regression.choice.objective import ConditionalLikelihood
from nll.regression.design_matrix import Columns


def likelihood(sizes, seed=0):
    """Cases with so many alternatives each."""
    rng = np.random.default_rng(seed)
    case = torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes))
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    chosen = torch.from_numpy(first + rng.integers(0, sizes))
    columns = Columns.of(torch.from_numpy(rng.normal(size=(len(case), 3))), None, intercept=False)
    return ConditionalLikelihood(columns, case, chosen, torch.linspace(0.5, 2, len(sizes)).double())


def test_one_large_case_beside_small_ones(monkeypatch):
    """Value, score and information are those of each case by itself, however the blocks fall."""
    sizes = np.array([3] * 200 + [10_000] + [2, 3, 4] * 50)
    problem = likelihood(sizes)
    theta = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64)

    def value(theta):
        utilities = torch.split(problem.columns.x @ theta, sizes.tolist())
        first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        places = (problem.chosen - torch.from_numpy(first)).tolist()
        rows = [v.log_softmax(0)[k] for v, k in zip(utilities, places, strict=True)]
        return problem.weights @ torch.stack(rows)

    whole = problem.sums(theta)
    torch.testing.assert_close(whole.log_likelihood, value(theta), rtol=1e-12, atol=0)
    torch.testing.assert_close(whole.score, torch.func.grad(value)(theta), rtol=1e-10, atol=1e-12)
    hessian = torch.autograd.functional.hessian(value, theta)
    torch.testing.assert_close(whole.information, -hessian, rtol=1e-10, atol=1e-12)
    monkeypatch.setattr(objective, "_BLOCK_ROWS", 64)
    assert max(len(block.case) for block in problem.blocks()) == 10_000
    for part, blocked in zip(whole, problem.sums(theta), strict=True):
        torch.testing.assert_close(blocked, part, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        problem.weights @ problem.scores(theta), whole.score, rtol=1e-12, atol=1e-12
    )
