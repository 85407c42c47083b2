"""Firth's penalty: closed forms, the gradient by brute force, and finite answers where classes are
separated.
"""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

import nll
from nll.data.stream import Stream


def objective(x, labels, weights, classes):
    """Minus the penalised log-likelihood as a function of the coefficients, by PyTorch's
    operators.
    """
    x = torch.from_numpy(np.c_[np.ones(len(x)), x])
    y, w = torch.from_numpy(labels), torch.from_numpy(weights)

    def value(flat):
        coef = torch.cat([torch.zeros(1, x.shape[1]), flat.reshape(classes - 1, -1)])
        log_p = (x @ coef.T).log_softmax(1)
        p = log_p.exp()[:, 1:]
        c = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        information = torch.einsum("n,nkl,ni,nj->kilj", w, c, x, x).reshape(len(flat), -1)
        return -(w * log_p[torch.arange(len(y)), y]).sum() - torch.logdet(information) / 2

    return value


def draw(n, p, classes, seed, steep=1.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p)) * [1.0, 30.0][:p] + 5.0
    scores = (x - 5.0) / [1.0, 30.0][:p] @ rng.normal(size=(p, classes)) * steep
    return x, (scores + rng.gumbel(size=scores.shape)).argmax(1)


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("steep", [1.0, 20.0])
def test_estimate_is_the_penalised_maximum(classes, steep):
    x, y = draw(60, 2, classes, 1, steep)
    w = np.random.default_rng(0).integers(1, 3, len(y)).astype(float)
    fitted = nll.SoftmaxRegression(penalty="firth").fit(x, y, w).result_
    assert fitted.converged
    value = objective(x, y, w, classes)
    at = fitted.vector.clone().requires_grad_()
    gradient = torch.autograd.grad(value(at), at)[0]
    curvature = torch.autograd.functional.hessian(value, fitted.vector)
    assert float(gradient @ torch.linalg.solve(curvature, gradient)) < 1e-12


def test_two_classes_by_a_table_have_half_a_row_added_to_each_cell():
    x = np.repeat([0.0, 0.0, 1.0, 1.0], [7, 0, 3, 9])[:, None]
    y = np.repeat([0, 1, 0, 1], [7, 0, 3, 9])
    fitted = nll.SoftmaxRegression(penalty="firth").fit(x, y).result_
    constant = np.log(0.5 / 7.5)
    np.testing.assert_allclose(fitted.vector, [constant, np.log(9.5 / 3.5) - constant], rtol=1e-8)


def test_constants_alone_have_half_a_row_added_to_each_class():
    x, y = np.zeros((12, 0)), np.repeat([0, 1, 2], [7, 4, 1])
    columns = nll.regression.design_matrix.Columns.of(torch.from_numpy(x), [], True)
    fitted = nll.regression.softmax.fit.fit_softmax(
        columns,
        torch.from_numpy(y),
        torch.ones(12, dtype=torch.float64),
        ["a", "b", "c"],
        firth=True,
    )
    np.testing.assert_allclose(fitted.vector, np.log([4.5 / 7.5, 1.5 / 7.5]), rtol=1e-9)


def separated():
    x = np.array([[-2.0], [-1.5], [-1.0], [-0.4], [0.3], [0.9], [1.2], [2.5]])
    return x, np.array([0, 0, 0, 0, 1, 1, 1, 1])


def test_separated_classes_have_a_finite_estimate_and_profile_intervals():
    x, y = separated()
    fitted = nll.SoftmaxRegression(penalty="firth").fit(x, y).result_
    assert fitted.converged
    assert fitted.separation is None
    value = objective(x, y, np.ones(len(y)), 2)
    low, high = fitted.interval(method="profile")["coef"][0, 1].tolist()
    top = -float(value(fitted.vector))
    for end in (low, high):
        found = minimize(
            lambda b, at=end: float(value(torch.tensor([b[0], at]))), [0.0], method="BFGS"
        )
        assert 2 * (top + found.fun) == pytest.approx(1.959963984540054**2, rel=1e-5)
    test = fitted.test({"coef[1, x0]": 0.0}, method="lr")
    none = minimize(lambda b: float(value(torch.tensor([b[0], 0.0]))), [0.0])
    assert test.statistic == pytest.approx(2 * (top + none.fun), rel=1e-6)
    assert 0 < test.p_value < 0.05
    assert low > 0


def test_it_does_not_depend_on_the_units_or_the_baseline():
    x, y = draw(80, 2, 3, 5)
    plain = nll.SoftmaxRegression(penalty="firth").fit(x, y)
    moved = nll.SoftmaxRegression(penalty="firth", baseline=2).fit(x * 1e6 - 3e7, y)
    np.testing.assert_allclose(
        plain.predict_proba(x), moved.predict_proba(x * 1e6 - 3e7), rtol=1e-6
    )


def test_many_rows_are_near_the_maximum():
    x, y = draw(50_000, 2, 3, 6)
    plain, firth = (
        nll.SoftmaxRegression(penalty=kind).fit(x, y).result_ for kind in (None, "firth")
    )
    away = (plain.vector - firth.vector) / plain.covariance.diagonal().sqrt()
    assert float(away.abs().max()) < 0.02
    assert firth.log_likelihood < plain.log_likelihood


def test_options_that_do_not_go_together():
    x, y = separated()
    with pytest.raises(ValueError, match="expected either alpha or penalty"):
        nll.SoftmaxRegression(penalty="firth", alpha=1.0).fit(x, y)
    with pytest.raises(ValueError, match="expected penalty to be one of None, firth, got 'l1'"):
        nll.SoftmaxRegression(penalty="l1").fit(x, y)
    with pytest.raises(ValueError, match="expected no penalty with a Stream"):
        nll.SoftmaxRegression(penalty="firth").fit(Stream((x, y)))
