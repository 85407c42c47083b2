"""What single rows do to a fit, against its definition: one Newton step without the row."""

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from sklearn.exceptions import ConvergenceWarning

import nll

N = 150


def draw(classes=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, 3)) * [1.0, 5e3, 0.1] + [0.0, 2e4, 0.0]
    scores = (x - x.mean(0)) / x.std(0) @ rng.normal(size=(3, classes))
    return x, (scores + rng.gumbel(size=scores.shape)).argmax(1)


X, Y = draw()


def without(model, row, weights):
    """The change by one Newton step of the log-likelihood without a row, by PyTorch's
    derivatives.
    """
    kept = np.arange(N) != row
    base, k = list(model.classes_).index(model.baseline or 0), len(model.classes_)
    x = torch.from_numpy(np.column_stack([np.ones(N), (X - X.mean(0)) / X.std(0)]))[kept]
    y, w = torch.from_numpy(Y)[kept], torch.from_numpy(weights)[kept]
    others = [c for c in range(k) if c != base]

    def value(theta):
        full = torch.zeros(k, 4, dtype=torch.float64).index_copy(
            0, torch.tensor(others), theta.reshape(k - 1, 4)
        )
        centred = full[:, 1:] / torch.from_numpy(X.std(0)) - (
            full[:, 1:] / torch.from_numpy(X.std(0))
        ).mean(0)
        penalty = model.alpha / 2 * centred.square().sum()
        return (w * (x @ full.T).log_softmax(1).gather(1, y[:, None])[:, 0]).sum() - penalty

    coef = model.result_.params["coef"].clone()
    coef[:, 0] += coef[:, 1:] @ torch.from_numpy(X.mean(0))
    coef[:, 1:] *= torch.from_numpy(X.std(0))
    theta = coef.reshape(-1)
    score, hessian = torch.func.grad(value)(theta), torch.autograd.functional.hessian(value, theta)
    step = -torch.linalg.solve(hessian, score).reshape(k - 1, 4)
    step[:, 1:] /= torch.from_numpy(X.std(0))
    step[:, 0] -= step[:, 1:] @ torch.from_numpy(X.mean(0))
    return step.reshape(-1)


@pytest.mark.parametrize(("alpha", "baseline"), [(0.0, None), (0.0, 1), (0.7, 2)])
def test_the_change_is_one_newton_step(alpha, baseline):
    weights = np.random.default_rng(1).integers(1, 4, N).astype(float)
    model = nll.SoftmaxRegression(alpha=alpha, baseline=baseline).fit(X, Y, weights)
    found = model.influence(X, Y, weights)
    changes = found.changes([0, 5, 77])
    for own, row in zip(changes, (0, 5, 77), strict=True):
        torch.testing.assert_close(own, without(model, row, weights), rtol=1e-7, atol=1e-12)
    assert found.names == tuple(model.result_.names)


def test_leverage_and_distance():
    model = nll.SoftmaxRegression().fit(X, Y)
    found = model.influence(X, Y)
    assert float(found.leverage.sum()) == pytest.approx(8.0, rel=1e-9)
    assert bool(((found.leverage > 0) & (found.leverage < 2)).all())
    information = torch.linalg.inv(model.result_.covariance)
    changes = found.changes()
    expected = torch.einsum("ni,ij,nj->n", changes, information, changes) / 8
    torch.testing.assert_close(found.cooks_distance, expected, rtol=1e-5, atol=1e-12)
    torch.testing.assert_close(
        found.dfbetas(),
        changes / model.result_.standard_errors["coef"].reshape(-1),
        rtol=1e-6,
        atol=0.0,
    )
    assert found.most(3).tolist() == expected.argsort(descending=True)[:3].tolist()
    assert found.to_pandas().shape == (N, 2)
    assert f"{found.most(1).item():>8}  {float(expected.max()):9.4g}" in str(found).splitlines()[3]


def test_two_classes_are_those_of_generalised_linear_models():
    x, y = draw(2, seed=3)
    found = nll.SoftmaxRegression().fit(x, y).influence(x, y)
    peer = (
        sm.GLM(y, sm.add_constant((x - x.mean(0)) / x.std(0)), family=sm.families.Binomial())
        .fit()
        .get_influence()
    )
    np.testing.assert_allclose(found.leverage, peer.hat_matrix_diag, rtol=1e-6)
    np.testing.assert_allclose(found.cooks_distance, peer.cooks_distance[0], rtol=1e-6)


def test_offsets_and_weights_of_classes_are_those_of_the_fit():
    offset = np.random.default_rng(2).normal(size=(N, 3))
    model = nll.SoftmaxRegression(class_weight={0: 1.0, 1: 2.0, 2: 0.5}, baseline=1).fit(
        X, Y, offset=offset
    )
    found = model.influence(X, Y, offset=offset)
    assert float(found.leverage.sum()) == pytest.approx(8.0, rel=1e-9)
    row = found.most(1).item()
    again = nll.SoftmaxRegression(class_weight=model.class_weight, baseline=1)
    again.fit(np.delete(X, row, 0), np.delete(Y, row), offset=np.delete(offset, row, 0))
    change = (again.result_.vector - model.result_.vector) / found.standard_errors
    assert float((found.dfbetas([row])[0] - change).abs().max()) < 0.3 * float(change.abs().max())
    with pytest.raises(ValueError, match="offset of the fit"):
        model.influence(X, Y)


def test_the_first_order_is_near_the_fit_without_the_row():
    model = nll.SoftmaxRegression().fit(X, Y)
    found = model.influence(X, Y)
    row = found.most(1).item()
    again = nll.SoftmaxRegression().fit(np.delete(X, row, 0), np.delete(Y, row))
    change = again.result_.vector - model.result_.vector
    errors = model.result_.standard_errors["coef"].reshape(-1)
    assert float(((found.changes([row])[0] - change) / errors).abs().max()) < 0.1
    assert float((change / errors).abs().max()) > 0.2


def test_what_has_no_influence_is_refused():
    with pytest.warns(ConvergenceWarning):
        separated = nll.SoftmaxRegression().fit(X, (X[:, 0] > 0).astype(int))
    with pytest.raises(
        ValueError, match="expected a fit by maximum likelihood that converged, got no finite"
    ):
        separated.influence(X, (X[:, 0] > 0).astype(int))
    model = nll.SoftmaxRegression().fit(X, Y)
    for wrong in ((X, Y[::-1]), (X[::2], Y[::2]), (X, Y, np.arange(N) + 1.0)):
        with pytest.raises(
            ValueError,
            match="expected the rows, classes, weights and offset of the fit, got others",
        ):
            model.influence(*wrong)
    with pytest.raises(
        ValueError, match="expected the classes of the fit, 0, 1, 2, got 3 at row 4"
    ):
        model.influence(X, np.where(np.arange(N) == 4, 3, Y))
