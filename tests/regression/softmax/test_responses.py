"""Responses that are counts, offsets and weights of classes: each against the same data written
out.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from nll import SoftmaxRegression


def draw(n=300, p=2, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p))
    scores = x @ rng.normal(size=(p, classes))
    return x, scores, (scores + rng.gumbel(size=scores.shape)).argmax(1)


def test_counts_are_rows_written_out():
    x, scores, _ = draw(60)
    rng = np.random.default_rng(1)
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    counts = np.stack(
        [rng.multinomial(k, q) for k, q in zip(rng.integers(0, 6, 60), p, strict=True)]
    )
    row, k = np.nonzero(counts)
    many = np.repeat(row, counts[row, k]), np.repeat(k, counts[row, k])
    expected = SoftmaxRegression().fit(x[many[0]], many[1]).result_
    found = SoftmaxRegression().fit(x, counts).result_
    torch.testing.assert_close(found.vector, expected.vector, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=1e-8, atol=0)
    assert found.n == counts.sum()
    named = SoftmaxRegression().fit(pd.DataFrame(x), pd.DataFrame(counts, columns=["b", "a", "c"]))
    assert list(named.classes_) == ["a", "b", "c"]
    clustered = SoftmaxRegression().fit(x, counts, clusters=np.arange(60)).result_
    written = SoftmaxRegression().fit(x[many[0]], many[1], clusters=many[0]).result_
    torch.testing.assert_close(clustered.covariance, written.covariance, rtol=1e-8, atol=0)


def test_counts_that_cannot_be():
    x, _, _ = draw(5)
    with pytest.raises(
        ValueError, match="expected counts of at least 0 in y, got -1 at row 2, class 1"
    ):
        SoftmaxRegression().fit(x, np.where(np.arange(15).reshape(5, 3) == 7, -1, 2))
    with pytest.raises(ValueError, match="expected counts of 5 rows, got 4"):
        SoftmaxRegression().fit(x, np.ones((4, 3)))


@pytest.mark.parametrize("penalty", [None, "firth"])
def test_an_offset_is_a_column_whose_coefficient_is_known(penalty):
    x, _, y = draw(400, 3)
    whole = SoftmaxRegression(penalty=penalty).fit(x, y)
    if penalty is None:
        moved = np.c_[np.zeros(400), x[:, 2:] @ whole.coef_[1:, 2:].T]
        found = SoftmaxRegression().fit(x[:, :2], y, offset=moved).result_
        assert found.log_likelihood == pytest.approx(whole.result_.log_likelihood, rel=1e-12)
        kept = whole.result_.params["coef"][:, :3]
        torch.testing.assert_close(found.params["coef"], kept, rtol=1e-6, atol=1e-8)
        assert found.null_log_likelihood is None
    shift = np.random.default_rng(2).normal(size=(400, 1))
    same = SoftmaxRegression(penalty=penalty).fit(x, y, offset=np.repeat(shift, 3, axis=1)).result_
    torch.testing.assert_close(same.vector, whole.result_.vector, rtol=1e-7, atol=1e-10)
    based = SoftmaxRegression(penalty=penalty, baseline=2).fit(x, y, offset=np.eye(3)[y] * 0.5)
    plain = SoftmaxRegression(penalty=penalty).fit(x, y, offset=np.eye(3)[y] * 0.5)
    assert based.result_.log_likelihood == pytest.approx(plain.result_.log_likelihood, rel=1e-10)


def test_separation_beside_an_offset():
    x = np.array([[-2.0], [-1.0], [-0.5], [0.5], [1.0], [2.0]])
    y = np.array([0, 0, 0, 1, 1, 1])
    with pytest.warns(ConvergenceWarning, match="no finite estimate"):
        SoftmaxRegression().fit(x, y, offset=np.c_[np.zeros(6), np.linspace(-1, 1, 6)])


def test_offsets_that_cannot_be():
    x, _, y = draw(20)
    with pytest.raises(ValueError, match=r"expected an offset of shape \(20, 3\), got \(20,\)"):
        SoftmaxRegression().fit(x, y, offset=np.zeros(20))
    with pytest.raises(ValueError, match="expected finite offsets, got inf at row 3"):
        SoftmaxRegression().fit(
            x, y, offset=np.where(np.arange(60).reshape(20, 3) == 9, np.inf, 0.0)
        )


@pytest.mark.parametrize("weight", ["balanced", {0: 1.0, 1: 3.0, 2: 0.5}])
def test_class_weights_as_scikit_learn_has_them(weight):
    x, _, y = draw(500)
    found = SoftmaxRegression(class_weight=weight, weights="sampling").fit(x, y)
    expected = LogisticRegression(C=np.inf, class_weight=weight, tol=1e-10, max_iter=1000).fit(x, y)
    np.testing.assert_allclose(found.predict_proba(x), expected.predict_proba(x), atol=1e-5)
    assert found.result_.information.startswith("sandwich")
