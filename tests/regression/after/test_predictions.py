"""Predicted probabilities: errors against automatic differentiation, intervals far out, and what
has none.
"""

from __future__ import annotations

import math
import pickle

import mpmath
import numpy as np
import pytest
import statsmodels.api as sm
import torch
from sklearn.exceptions import ConvergenceWarning
from truth import ANES96, SPECTOR, anes96, iris, spector

from nll import SoftmaxRegression
from nll.regression.after.predictions import predictions


def fitted(**options) -> tuple:
    table = anes96()
    x = table[list(ANES96.columns)]
    return SoftmaxRegression(**options).fit(x, table[ANES96.response]), x


def by_autograd(model: SoftmaxRegression, x: np.ndarray) -> np.ndarray:
    """sqrt(diag(J V J')) with the Jacobian of the softmax itself."""
    result = model.result_
    base = model.classes_.tolist().index(int(result.baseline))
    row = torch.tensor([1.0, *x], dtype=torch.float64)

    def probabilities(flat):
        scores = flat.reshape(result.params["coef"].shape) @ row
        return torch.cat([scores[:base], scores.new_zeros(1), scores[base:]]).softmax(0)

    jacobian = torch.autograd.functional.jacobian(probabilities, result.vector)
    return (jacobian @ result.covariance @ jacobian.T).diagonal().sqrt().numpy()


@pytest.mark.parametrize(
    "options", [{}, {"baseline": 4}, {"covariance": "sandwich", "baseline": 6}, {"alpha": 2.0}]
)
def test_errors_are_those_of_automatic_differentiation(options):
    model, x = fitted(**options)
    found = model.predictions(x)
    np.testing.assert_allclose(found.probabilities, model.predict_proba(x), rtol=1e-12)
    for row in (0, 17, 943):
        expected = by_autograd(model, x.to_numpy()[row])
        np.testing.assert_allclose(found.standard_errors[row], expected, rtol=1e-9)
    assert found.classes == tuple("0123456")


def test_two_classes_are_the_logit_of_statsmodels():
    table = spector()
    x, y = table[list(SPECTOR.columns)], table[SPECTOR.response]
    theirs = (
        sm.GLM(y, sm.add_constant(x), family=sm.families.Binomial()).fit(tol=1e-14).get_prediction()
    )
    frame = theirs.summary_frame(alpha=0.1)
    found = SoftmaxRegression().fit(x, y).predictions(x, level=0.9)
    np.testing.assert_allclose(found.probabilities[:, 1], frame["mean"], rtol=1e-9)
    np.testing.assert_allclose(found.standard_errors[:, 1], frame["mean_se"], rtol=1e-7)
    np.testing.assert_allclose(
        found.interval[:, 1], frame[["mean_ci_lower", "mean_ci_upper"]], rtol=1e-7
    )
    np.testing.assert_allclose(found.interval[:, 0].flip(-1), 1 - found.interval[:, 1], rtol=1e-9)


def exact(x: list[float], coef: np.ndarray, covariance: np.ndarray, level: float) -> list:
    """p, its error and interval of each class, the baseline first, with 600 digits."""
    mpmath.mp.dps = 600
    z = [mpmath.mpf(0), *(mpmath.fdot(map(float, b), x) for b in coef)]
    p = [mpmath.exp(v) / mpmath.fsum(map(mpmath.exp, z)) for v in z]
    quantile = mpmath.sqrt(2) * mpmath.erfinv(level)
    found = []
    for k in range(len(z)):
        rest = 1 - p[k]
        slope = [((m == k) - p[m]) * v / rest for m in range(1, len(z)) for v in x]
        error = mpmath.sqrt(
            sum(
                a * float(c) * b
                for a, row in zip(slope, covariance, strict=True)
                for c, b in zip(row, slope, strict=True)
            )
        )
        eta = mpmath.log(p[k] / rest)
        ends = [1 / (1 + mpmath.exp(-(eta + side * quantile * error))) for side in (-1, 1)]
        found.append([p[k], p[k] * rest * error, *ends, eta, error])
    return found


@pytest.mark.parametrize("far", [0.3, 5.0, 69.0, 250.0])
def test_digits_far_out(far):
    coef = np.array([[0.5, 1.0], [-0.25, 1.5], [0.1, -1.0]])
    half = np.random.default_rng(0).normal(size=(6, 6))
    covariance = half @ half.T * 1e-3
    full = torch.from_numpy(np.insert(coef, 0, 0.0, axis=0))
    for x in ([1.0, far], [1.0, -far]):
        found = predictions(
            torch.tensor([x], dtype=torch.float64), full, torch.from_numpy(covariance), 0
        )
        rows = [
            found.probabilities[0],
            found.standard_errors[0],
            *found.interval[0].T,
            found.log_odds[0],
        ]
        rows.append(found.log_odds_errors[0])
        expected = np.array(exact(x, coef, covariance, 0.95), dtype=float)
        np.testing.assert_allclose(torch.stack(rows, 1), expected, rtol=1e-9)
        assert bool((found.interval[0, :, 0] <= found.probabilities[0]).all())
        assert bool((found.interval[0, :, 1] >= found.probabilities[0]).all())


def test_a_probability_of_1e_minus_30_has_an_interval():
    model, x = fitted()
    far = x.iloc[:1].assign(selfLR=-35.0)
    found = model.predictions(far)
    low, high = found.interval[0, 6]
    assert float(found.probabilities[0, 6]) < 1e-28
    assert 0 < low < found.probabilities[0, 6] < high < 1e-20


def test_blocks_of_rows(monkeypatch):
    model, x = fitted()
    whole = model.predictions(x)
    monkeypatch.setattr("nll.data.prefetch._BLOCK_BYTES", 1)
    parts = model.predictions(x)
    torch.testing.assert_close(parts.interval, whole.interval, rtol=1e-12, atol=0)


def test_the_intervals_cover():
    """The true probability lies in 95 % of the intervals, of data drawn again and again."""
    draw = np.random.default_rng(1)
    x = draw.normal(size=(300, 1))
    truth = torch.softmax(
        torch.from_numpy(np.c_[np.zeros(300), 0.5 - x[:, 0], 1.2 * x[:, 0] - 1]), 1
    ).numpy()
    inside = []
    for _ in range(120):
        y = (truth.cumsum(1) < draw.random((300, 1))).sum(1)
        interval = SoftmaxRegression().fit(x, y).predictions(x[:20]).interval.numpy()
        inside.append((interval[:, :, 0] < truth[:20]) & (truth[:20] < interval[:, :, 1]))
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


def test_without_errors_there_are_none():
    table = iris()
    with pytest.warns(ConvergenceWarning):
        model = SoftmaxRegression().fit(table.iloc[:, :4], table.iloc[:, 4])
    found = model.predictions(table.iloc[:, :4])
    assert bool(found.interval.isnan().all())
    assert bool(found.standard_errors.isnan().all())
    np.testing.assert_allclose(
        found.probabilities, model.predict_proba(table.iloc[:, :4]), rtol=1e-9, atol=1e-300
    )


def test_what_a_fit_predicts():
    model, x = fitted(baseline=3)
    expected = model.predictions(x, level=0.8).interval
    result = pickle.loads(pickle.dumps(model.result_))
    for given in (
        x,
        x[reversed(x.columns)].assign(more="text"),
        x.to_numpy(),
        torch.from_numpy(x.to_numpy()),
    ):
        torch.testing.assert_close(
            result.predict(given, level=0.8).interval, expected, rtol=1e-12, atol=0
        )
    plain = SoftmaxRegression(fit_intercept=False).fit(x, anes96()[ANES96.response])
    probabilities = torch.from_numpy(plain.predict_proba(x))
    torch.testing.assert_close(
        plain.result_.predict(x).probabilities, probabilities, rtol=1e-12, atol=0
    )


def test_misuse():
    model, x = fitted()
    with pytest.raises(ValueError, match=r"got none named 'age'"):
        model.result_.predict(x.drop(columns="age"))
    with pytest.raises(ValueError, match=r"expected X of shape \(n, 5\), got \(944, 4\)"):
        model.result_.predict(x.to_numpy()[:, 1:])
    with pytest.raises(ValueError, match=r"got NaN at row 2 of column 'age'"):
        model.result_.predict(x.assign(age=[math.nan if i == 2 else 1.0 for i in range(len(x))]))
    with pytest.raises(ValueError, match=r"expected level in \(0, 1\), got 1.0"):
        model.predictions(x, level=1.0)
    with pytest.raises(ValueError, match="feature names"):
        model.predictions(x.rename(columns={"age": "years"}))
