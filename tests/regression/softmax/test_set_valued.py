"""Rows of which only a set of classes is known: the likelihood by its definition, and an honest
end.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

import nll

N, CLASSES = 400, ["ash", "birch", "cedar", "elm"]


def draw(share=0.3, n=N, seed=0):
    """Columns, classes, and the sets: some have a second class, as likely as not a near one."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2)) * [1.0, 1e3] + [0.0, 5e3]
    scores = (x - [0.0, 5e3]) / [1.0, 1e3] @ rng.normal(size=(2, 4))
    y = (scores + rng.gumbel(size=scores.shape)).argmax(1)
    allowed = np.eye(4, dtype=bool)[y]
    unsure = rng.random(n) < share
    allowed[unsure, (y[unsure] + rng.integers(1, 3, unsure.sum())) % 4] = True
    return x, y, allowed


X, Y, ALLOWED = draw()
SETS = [{CLASSES[k] for k in np.flatnonzero(row)} for row in ALLOWED]


def log_likelihood(theta, x=X, allowed=ALLOWED, weights=None):
    """By the definition, for coefficients (3, 3) of the columns as given, against the first
    class.
    """
    x = torch.from_numpy(np.column_stack([np.ones(len(x)), x]))
    scores = torch.cat([x.new_zeros(len(x), 1), x @ theta.reshape(3, 3).T], 1)
    within = scores.masked_fill(~torch.from_numpy(allowed), -torch.inf).logsumexp(
        1
    ) - scores.logsumexp(1)
    return (within if weights is None else torch.from_numpy(weights) * within).sum()


def judged(fit, **more):
    """Whether the definition's slope is 0 there, its value the same and the errors those of its
    curvature.
    """
    theta = fit.vector.clone().requires_grad_()
    value = log_likelihood(theta, **more)
    assert fit.log_likelihood == pytest.approx(value.item(), rel=1e-12)
    hessian = torch.autograd.functional.hessian(lambda at: log_likelihood(at, **more), fit.vector)
    (slope,) = torch.autograd.grad(value, theta)
    step = torch.linalg.solve(hessian, slope)
    assert float((step / fit.standard_errors["coef"].reshape(-1)).abs().max()) < 1e-6
    torch.testing.assert_close(fit.covariance, torch.linalg.inv(-hessian), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("form", ["sets", "table", "array", "tensor"])
def test_the_maximum_by_the_definition(form):
    y = {"sets": SETS, "table": pd.DataFrame(ALLOWED, columns=CLASSES), "array": ALLOWED}
    model = nll.SoftmaxRegression().fit(X, y.get(form, torch.from_numpy(ALLOWED)))
    assert model.classes_.tolist() == (CLASSES if form in ("sets", "table") else [0, 1, 2, 3])
    assert model.result_.converged
    assert model.result_.status == (
        "converged: a finite maximum exists, and the Newton steps reached one; "
        "the likelihood of sets of classes may have several"
    )
    judged(model.result_)


def test_weights_are_copies_and_the_baseline_is_free():
    weights = np.random.default_rng(1).integers(0, 4, N).astype(float)
    found = nll.SoftmaxRegression().fit(X, ALLOWED, weights).result_
    judged(found, weights=weights)
    repeated = np.repeat(np.arange(N), weights.astype(int))
    copies = nll.SoftmaxRegression(baseline=2).fit(X[repeated], ALLOWED[repeated]).result_
    assert copies.log_likelihood == pytest.approx(found.log_likelihood, rel=1e-12)
    again = found.with_baseline("2")
    torch.testing.assert_close(again.params["coef"], copies.params["coef"], rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(
        again.standard_errors["coef"], copies.standard_errors["coef"], rtol=1e-7, atol=0.0
    )


def scores_of_rows(fit):
    score = torch.func.grad(log_likelihood)
    return torch.stack([score(fit.vector, X[[i]], ALLOWED[[i]]) for i in range(N)])


def test_robust_and_clustered_errors():
    plain = nll.SoftmaxRegression().fit(X, ALLOWED).result_
    scores = scores_of_rows(plain)
    robust = nll.SoftmaxRegression(covariance="sandwich").fit(X, ALLOWED).result_
    expected = plain.covariance @ scores.T @ scores @ plain.covariance
    torch.testing.assert_close(robust.covariance, expected, rtol=1e-6, atol=0.0)
    clusters = np.arange(N) // 20
    total = torch.zeros(20, 9, dtype=torch.float64).index_add_(
        0, torch.from_numpy(clusters), scores
    )
    found = nll.SoftmaxRegression().fit(X, ALLOWED, clusters=clusters).result_
    expected = plain.covariance @ total.T @ total @ plain.covariance * (20 / 19)
    torch.testing.assert_close(found.covariance, expected, rtol=1e-6, atol=0.0)


def test_likelihood_ratios_profiles_and_the_bootstrap():
    whole = nll.SoftmaxRegression().fit(X, ALLOWED).result_
    part = nll.SoftmaxRegression().fit(X[:, 1:], ALLOWED).result_
    lost = whole.test({f"coef[{k}, x0]": 0.0 for k in (1, 2, 3)}, method="lr")
    expected = 2 * (whole.log_likelihood - part.log_likelihood)
    assert lost.statistic == pytest.approx(expected, rel=1e-7)
    ends = whole.interval(method="profile")["coef"][0, 1]
    for end in ends.tolist():
        at = whole.test({"coef[1, x0]": end}, method="lr").statistic
        assert at == pytest.approx(3.841458820694124, abs=1e-6)
    drawn = whole.bootstrap(60)
    errors = whole.standard_errors["coef"]
    torch.testing.assert_close(drawn.standard_errors["coef"], errors, rtol=0.4, atol=0.0)


def test_sets_of_one_are_classes():
    expected = nll.SoftmaxRegression().fit(X, Y).result_
    found = nll.SoftmaxRegression().fit(X, np.eye(4, dtype=bool)[Y]).result_
    assert torch.equal(found.vector, expected.vector)
    assert found.status == expected.status


def test_many_parameters_and_a_penalty():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(3000, 40))
    scores = x @ rng.normal(size=(40, 8)) * 0.3
    y = (scores + rng.gumbel(size=scores.shape)).argmax(1)
    allowed = np.eye(8, dtype=bool)[y]
    allowed[::4, 0] = True
    model = nll.SoftmaxRegression().fit(x, allowed)
    assert model.result_.df == 7 * 41
    assert model.result_.converged
    ridge = nll.SoftmaxRegression(alpha=2.0).fit(x, allowed)
    assert ridge.result_.converged
    for fitted in (model, ridge):
        theta = fitted.result_.params["coef"].clone().requires_grad_()
        z = torch.from_numpy(np.column_stack([np.ones(3000), x]))
        full = torch.cat([torch.zeros(1, 41, dtype=torch.float64), theta])
        z = z @ full.T
        value = (
            z.masked_fill(~torch.from_numpy(allowed), -torch.inf).logsumexp(1) - z.logsumexp(1)
        ).sum()
        value = value - fitted.alpha / 2 * (full[:, 1:] - full[:, 1:].mean(0)).square().sum()
        (slope,) = torch.autograd.grad(value, theta)
        assert float(slope.abs().max()) < 1e-5


def test_sets_tell_more_than_leaving_the_rows_out():
    x, y, allowed = draw(0.5, 4000, 3)
    whole = nll.SoftmaxRegression().fit(x, y).result_.standard_errors["coef"]
    found = nll.SoftmaxRegression().fit(x, allowed).result_.standard_errors["coef"]
    single = allowed.sum(1) == 1
    fewer = nll.SoftmaxRegression().fit(x[single], y[single]).result_.standard_errors["coef"]
    assert bool(((whole < found) & (found < fewer)).all())


def test_a_likelihood_without_a_maximum_is_not_reported_as_one():
    told = np.where(X[:, :1] > 0, [[True, True, False]], [[False, False, True]])
    with pytest.warns(ConvergenceWarning):
        # class 2 is separated, 0 and 1 are never told apart
        model = nll.SoftmaxRegression().fit(X, told)
    assert not model.result_.converged
    assert bool(model.result_.standard_errors["coef"].isnan().all())


def test_without_single_rows_the_end_is_guarded():
    pairs = np.zeros((N, 4), dtype=bool)
    pairs[np.arange(N), Y] = pairs[np.arange(N), (Y + 1 + np.arange(N) % 3) % 4] = True
    found = nll.SoftmaxRegression().fit(X, pairs).result_
    assert found.converged
    assert "which may not be the largest" in found.status
    judged(found, allowed=pairs)


def test_what_does_not_go_with_sets():
    with pytest.raises(
        ValueError, match="expected at least one class for each row, got none at row 3"
    ):
        nll.SoftmaxRegression().fit(X, np.where(np.arange(N)[:, None] == 3, False, ALLOWED))
    with pytest.raises(
        ValueError, match="expected at least one class for each row, got none at row 0"
    ):
        nll.SoftmaxRegression().fit(X, [set(), *SETS[1:]])
    for options in ({"penalty": "firth"}, {"class_weight": "balanced"}):
        with pytest.raises(
            ValueError, match="expected single classes with penalty or class_weight"
        ):
            nll.SoftmaxRegression(**options).fit(X, SETS)
