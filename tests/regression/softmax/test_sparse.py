"""Sparse designs: the fit of the same numbers written out, without writing them out."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.sparse import block_array, coo_array, csc_matrix, csr_array, eye_array, random_array
from sklearn.exceptions import ConvergenceWarning

import nll
from nll.regression.softmax import sparse

N, Q = 3000, 12


def draw(seed=0, n=N, q=Q, classes=4):
    rng = np.random.default_rng(seed)
    x = random_array(
        (n, q), density=0.2, format="csr", rng=rng, data_sampler=lambda size: rng.normal(2, 1, size)
    )
    scores = x @ rng.normal(size=(q, classes)) * 0.5
    return x, (scores + rng.gumbel(size=scores.shape)).argmax(1)


X, Y = draw()


def same(found, expected, rtol=1e-8):
    assert found.result_.status == expected.result_.status
    assert found.result_.log_likelihood == pytest.approx(expected.result_.log_likelihood, rel=1e-12)
    torch.testing.assert_close(found.result_.vector, expected.result_.vector, rtol=rtol, atol=rtol)
    torch.testing.assert_close(
        found.result_.standard_errors["coef"],
        expected.result_.standard_errors["coef"],
        rtol=rtol,
        atol=0.0,
        equal_nan=True,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fit_intercept": False},
        {"alpha": 2.0},
        {"covariance": "sandwich"},
        {"baseline": 2},
        {"class_weight": "balanced"},
    ],
    ids=str,
)
def test_the_fit_is_that_of_all_numbers(options):
    same(
        nll.SoftmaxRegression(**options).fit(X, Y),
        nll.SoftmaxRegression(**options).fit(X.toarray(), Y),
    )


@pytest.mark.parametrize("kind", [csr_array, csc_matrix, coo_array])
def test_every_kind_of_sparse_matrix(kind):
    found = nll.SoftmaxRegression().fit(kind(X), Y)
    same(found, nll.SoftmaxRegression().fit(X.toarray(), Y))
    assert isinstance(found.predict_proba(kind(X)), np.ndarray)
    np.testing.assert_allclose(
        found.predict_proba(kind(X)), found.predict_proba(X.toarray()), rtol=1e-10
    )
    assert (found.predict(kind(X)) == found.predict(X.toarray())).all()


def test_weights_clusters_offsets_and_counts():
    rng = np.random.default_rng(1)
    weights, clusters = rng.integers(0, 3, N).astype(float), rng.integers(0, 50, N)
    offset = rng.normal(size=(N, 4))
    more = {"sample_weight": weights, "clusters": clusters, "offset": offset}
    same(
        nll.SoftmaxRegression().fit(X, Y, **more),
        nll.SoftmaxRegression().fit(X.toarray(), Y, **more),
    )
    counts = rng.integers(0, 4, (N, 3))
    same(nll.SoftmaxRegression().fit(X, counts), nll.SoftmaxRegression().fit(X.toarray(), counts))


def test_columns_that_are_far_from_zero_or_nearly_each_other():
    rng = np.random.default_rng(2)
    far = np.column_stack([rng.normal(2e8, 1.0, N), X.toarray()])
    same(nll.SoftmaxRegression().fit(csr_array(far), Y), nll.SoftmaxRegression().fit(far, Y), 1e-5)
    near = np.column_stack([X.toarray(), X.toarray()[:, 0] + 1e-6 * rng.normal(size=N)])
    same(
        nll.SoftmaxRegression().fit(csr_array(near), Y), nll.SoftmaxRegression().fit(near, Y), 1e-5
    )


def test_more_coefficients_than_an_information_is_formed_for():
    x, y = draw(3, 8000, 70, 6)
    same(nll.SoftmaxRegression().fit(x, y), nll.SoftmaxRegression().fit(x.toarray(), y), 1e-6)


def test_many_rows_are_searched_in_part_first():
    x, y = draw(4, 80_000, 6, 3)
    found, dense = (nll.SoftmaxRegression().fit(rows, y) for rows in (x, x.toarray()))
    same(found, dense)
    assert found.result_.search is not None
    torch.testing.assert_close(
        found.result_.interval(method="profile")["coef"],
        dense.result_.interval(method="profile")["coef"],
        rtol=1e-5,
        atol=1e-8,
    )


def test_verdicts():
    dummies = block_array([[eye_array(4)]] * 700).tocsr()
    y = np.random.default_rng(5).integers(0, 3, 2800)
    for x in (dummies, dummies.toarray()):
        with pytest.raises(
            ValueError,
            match=r"expected linearly independent columns, got x0 \+ x1 "
            r"\+ x2 \+ x3 = 1",
        ):
            nll.SoftmaxRegression().fit(x, y)
    assert nll.SoftmaxRegression(fit_intercept=False).fit(dummies, y).result_.converged
    with pytest.raises(ValueError, match="constant column 'x1'"):
        nll.SoftmaxRegression().fit(
            csr_array(np.column_stack([np.arange(9.0), np.zeros(9)])), np.arange(9) % 2
        )
    apart = np.where(X.toarray()[:, 0] > 0, 3, np.minimum(Y, 2))
    with pytest.warns(ConvergenceWarning):
        found = nll.SoftmaxRegression().fit(X, apart)
    with pytest.warns(ConvergenceWarning):
        expected = nll.SoftmaxRegression().fit(X.toarray(), apart)
    assert found.result_.status[:80] == expected.result_.status[:80]
    assert found.result_.separation.supremum == pytest.approx(
        expected.result_.separation.supremum, rel=1e-9
    )


def test_what_follows_a_fit():
    found, dense = nll.SoftmaxRegression().fit(X, Y), nll.SoftmaxRegression().fit(X.toarray(), Y)
    for name in ("predictions", "margins"):
        own, other = (getattr(model, name)(x) for model, x in ((found, X), (dense, X.toarray())))
        torch.testing.assert_close(
            own.standard_errors, other.standard_errors, rtol=1e-7, atol=1e-12
        )
    torch.testing.assert_close(
        found.influence(X, Y).leverage, dense.influence(X.toarray(), Y).leverage
    )
    assert found.evaluate(X, Y).log_score.value == pytest.approx(
        dense.evaluate(X.toarray(), Y).log_score.value
    )


def test_what_cannot_be_used(monkeypatch):
    wrong = X.copy()
    row, column = (part[40] for part in wrong.nonzero())
    wrong[row, column] = np.inf
    with pytest.raises(
        ValueError, match=f"expected finite values in X, got inf at row {row} of column {column}"
    ):
        nll.SoftmaxRegression().fit(wrong, Y)
    for model, y in (
        (nll.SoftmaxRegression(penalty="firth"), Y),
        (nll.SoftmaxRegression(), np.eye(4, dtype=bool)[Y]),
    ):
        with pytest.raises(ValueError, match="expected a dense X with penalty or sets of classes"):
            model.fit(X, y)
    monkeypatch.setattr(sparse, "_MOST_COLUMNS", 11)
    with pytest.raises(ValueError, match="expected at most 11 columns of a sparse X, got 12"):
        nll.SoftmaxRegression().fit(X, Y)


CODE = """
import numpy as np, nll
from scipy.sparse import csr_array
def peak():
    status = open("/proc/self/status")
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
rng = np.random.default_rng(0)
n, levels = 100_000, 100
at = np.concatenate([rng.integers(0, levels, n)[:, None] + levels * j for j in range(4)], 1)
x = csr_array((np.ones(4 * n), at.reshape(-1), np.arange(n + 1) * 4), shape=(n, 4 * levels))
scores = x @ rng.normal(size=(4 * levels, 3)) * 0.5
y = (scores + rng.gumbel(size=scores.shape)).argmax(1)
nll.SoftmaxRegression(alpha=1.0).fit(x[:2000], y[:2000])
before = peak()
assert nll.SoftmaxRegression(alpha=1.0).fit(x, y).result_.converged
print((peak() - before) / 1024)
"""


def test_zeros_take_no_memory():
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert float(found.stdout) < 100  # MB; the numbers written out are 320
