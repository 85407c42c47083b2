"""The likelihood of labels: its derivatives, and the same sums from memory, sparse or dense."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from softmax_cases import sample

from nll.regression.design_matrix import Columns, Response
from nll.regression.softmax.objective import InMemory
from nll.regression.softmax.sparse import SparseColumns

X, Y = sample(60, 3, 4)
X = np.where(np.random.default_rng(0).random(X.shape) < 0.5, X, 0.0)
WEIGHTS = torch.arange(1.0, 61.0, dtype=torch.float64)
OFFSET = torch.randn(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
THETA = torch.linspace(-1, 1, 10, dtype=torch.float64)


def objective(columns=None, alpha=0.5):
    columns = columns or Columns.of(torch.from_numpy(X), None, True)
    response = Response(torch.from_numpy(Y), WEIGHTS, offset=OFFSET)
    return InMemory(columns, response, 3, alpha)


def penalised_log_likelihood(theta, one):
    logits = torch.cat([torch.zeros(60, 1), one.columns.x @ theta.reshape(2, -1).T], 1) + OFFSET
    log_p = logits.log_softmax(1).gather(1, torch.from_numpy(Y)[:, None])[:, 0]
    return WEIGHTS @ log_p - theta @ one.penalty @ theta / 2


def test_derivatives_are_those_of_the_definition():
    one = objective()
    sums = one.sums(THETA)
    value = penalised_log_likelihood(THETA, one)
    gradient = torch.func.grad(penalised_log_likelihood)
    hessian = torch.func.jacrev(gradient)(THETA, one)
    torch.testing.assert_close(sums.log_likelihood, value)
    torch.testing.assert_close(sums.score, gradient(THETA, one))
    torch.testing.assert_close(sums.information, -hessian)
    torch.testing.assert_close(one.curvature(THETA)(THETA), -hessian @ THETA)


def test_the_scores_of_clusters_add_up_to_the_score():
    one = objective(alpha=0.0)
    total = one.by_cluster(THETA, torch.arange(60) % 7)
    assert total.shape == (7, 10)
    torch.testing.assert_close(total.sum(0), one.sums(THETA).score)


@pytest.mark.parametrize("square", [None, "information", "scores", "weighted scores"])
def test_sparse_rows_have_the_sums_of_dense_ones(square):
    sparse = SparseColumns.of(csr_array(X), None, True)
    found, expected = (one.row_sums(THETA, square) for one in (objective(sparse), objective()))
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)
