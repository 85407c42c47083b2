"""Covariances, penalties and further searches of conditional logit, by brute force."""

import numpy as np
import pytest
import torch
from choices import draw

from nll import ConditionalLogit
from nll.solvers.outcome import Status


def brute(x, y, available, coef, constants):
    """Log-probability of each choice as a function of the coefficients."""
    given = (
        np.concatenate([np.broadcast_to(np.eye(4)[:, 1:], (len(x), 4, 3)), x], 2)
        if constants
        else x
    )
    z = torch.from_numpy(given) @ coef
    z = z.masked_fill(~torch.from_numpy(available), -torch.inf)
    return z.log_softmax(1)[torch.arange(len(y)), torch.from_numpy(y)]


@pytest.mark.parametrize("covariance", ["observed", "sandwich", "hc1"])
@pytest.mark.parametrize("clustered", [False, True])
def test_covariance_by_brute_force(covariance, clustered):
    x, y, available = draw(300, seed=4)
    w = np.random.default_rng(5).integers(1, 4, len(y)).astype(float)
    groups = np.arange(len(y)) // 6
    fitted = (
        ConditionalLogit(covariance=covariance)
        .fit(x, y, available=available, sample_weight=w, clusters=groups if clustered else None)
        .result_
    )
    at, weights = fitted.vector, torch.from_numpy(w)
    hessian = torch.autograd.functional.hessian(
        lambda b: -(weights * brute(x, y, available, b, True)).sum(), at
    )
    rows = torch.autograd.functional.jacobian(lambda b: brute(x, y, available, b, True), at)
    assert float((weights @ rows) @ torch.linalg.solve(hessian, weights @ rows)) < 1e-12
    expected = torch.linalg.inv(hessian)
    if clustered:
        total = torch.zeros(50, len(at), dtype=torch.float64).index_add_(
            0, torch.from_numpy(groups), weights[:, None] * rows
        )
        expected = expected @ (total.T @ total * (50 / 49)) @ expected
    elif covariance != "observed":
        factor = w.sum() / (w.sum() - len(at)) if covariance == "hc1" else 1.0
        expected = factor * expected @ (rows.T @ (weights[:, None] * rows)) @ expected
    torch.testing.assert_close(fitted.covariance, expected, rtol=1e-7, atol=1e-12)


def test_tests_profiles_and_bootstrap_search_again():
    x, y, available = draw(300, seed=6)
    fitted = ConditionalLogit().fit(x, y, available=available).result_
    without = ConditionalLogit().fit(x[:, :, 1:], y, available=available).result_
    test = fitted.test({"coef[x0]": 0.0}, method="lr")
    assert test.statistic == pytest.approx(
        2 * (fitted.log_likelihood - without.log_likelihood), rel=1e-8
    )
    assert test.df == 1
    assert fitted.test({"coef[x0]": 0.0}, method="score").statistic == pytest.approx(
        test.statistic, rel=0.3
    )
    low, high = fitted.interval(method="profile")["coef"][3].tolist()
    for end in (low, high):
        held = (
            ConditionalLogit()
            .fit(x[:, :, 1:], y, available=available, offset=x[:, :, 0] * end)
            .result_
        )
        assert 2 * (fitted.log_likelihood - held.log_likelihood) == pytest.approx(
            1.959963984540054**2, rel=1e-6
        )
    drawn = fitted.bootstrap(200).standard_errors["coef"]
    np.testing.assert_allclose(drawn, fitted.standard_errors["coef"], rtol=0.35)


def test_ridge():
    x, y, available = draw(200, seed=9)
    fitted = ConditionalLogit(alpha=5.0).fit(x, y, available=available).result_
    at = fitted.vector.clone().requires_grad_()
    value = brute(x, y, available, at, True).sum() - 2.5 * at[3:].square().sum()
    (slope,) = torch.autograd.grad(value, at)
    assert float(slope.abs().max()) < 1e-4
    assert fitted.information == "penalised"
    assert fitted.verdict is Status.CONVERGED
