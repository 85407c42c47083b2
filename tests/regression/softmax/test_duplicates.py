"""Rows that are there several times: counted, with the answers of all of them."""

import numpy as np
import pytest
import torch

import nll
from nll.regression.softmax import inputs
from nll.regression.softmax.inputs import counted

N = 20_000


def draw(seed=0):
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.integers(0, k, N) for k in (2, 3, 6)]).astype(float)
    scores = x @ rng.normal(size=(3, 4)) * 0.4
    return x, (scores + rng.gumbel(size=scores.shape)).argmax(1)


X, Y = draw()


def test_each_different_row_is_there_once():
    weights = torch.rand(N, dtype=torch.float64)
    found = counted(torch.from_numpy(X), torch.from_numpy(Y), weights)
    assert found is not None
    x, labels, total = found
    rows = {
        (*row, label): weight
        for row, label, weight in zip(x.tolist(), labels.tolist(), total.tolist(), strict=True)
    }
    rows = {tuple(row): weight for row, weight in rows.items()}
    expected = {}
    for row, label, weight in zip(X.tolist(), Y.tolist(), weights.tolist(), strict=True):
        expected[(*row, label)] = expected.get((*row, label), 0.0) + weight
    assert len(rows) == len(x) == 2 * 3 * 6 * 4
    assert rows == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "options",
    [{}, {"covariance": "sandwich"}, {"covariance": "hc1"}, {"alpha": 3.0}, {"penalty": "firth"}],
)
def test_the_fit_is_that_of_all_rows(options, monkeypatch):
    weights = np.random.default_rng(1).integers(0, 3, N).astype(float)
    found = nll.SoftmaxRegression(**options).fit(X, Y, weights).result_
    monkeypatch.setattr(inputs, "counted", lambda *rows: None)
    expected = nll.SoftmaxRegression(**options).fit(X, Y, weights).result_
    assert found.n == expected.n == weights.sum()
    assert found.status == expected.status
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-12)
    torch.testing.assert_close(found.vector, expected.vector, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=1e-7, atol=1e-12)


def test_rows_that_differ_are_left_as_they_are():
    rng = np.random.default_rng(2)
    x = torch.from_numpy(rng.normal(size=(N, 3)))
    assert counted(x, torch.from_numpy(Y), torch.ones(N, dtype=torch.float64)) is None
    # columns that say the same: the rows are kept, for the message
    few = torch.from_numpy(X[: N // 2]).repeat(1, 10)
    with pytest.raises(ValueError, match="expected linearly independent columns"):
        nll.SoftmaxRegression().fit(few.numpy(), Y[: N // 2])


def test_sums_that_agree_by_chance_are_found_out():
    factors = torch.rand(4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
    x = torch.zeros(1000, 3, dtype=torch.float64)
    x[::2, 0], x[1::2, 1] = 1.0 / factors[1], 1.0 / factors[2]  # the same random sum, or nearly so
    found = counted(x, torch.zeros(1000, dtype=torch.int64), torch.ones(1000, dtype=torch.float64))
    assert found is None or len(found[0]) == 2


def test_profiles_and_replicates_of_many_rows():
    found = nll.SoftmaxRegression().fit(X + np.arange(N)[:, None] * 1e-9, Y).result_  # no copies
    drawn = found.bootstrap(20).standard_errors["coef"]
    torch.testing.assert_close(drawn, found.standard_errors["coef"], rtol=0.7, atol=0.0)
    few = nll.SoftmaxRegression().fit(X, Y).result_
    torch.testing.assert_close(
        few.interval(method="profile")["coef"],
        found.interval(method="profile")["coef"],
        rtol=0.0,
        atol=1e-4,
    )
