"""Softmax regression: the estimate, its errors, and the word on whether there is one."""

from __future__ import annotations

import math
import re
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch
import torch.nn.functional as F
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from truth import ANES96, IRIS_PAIR, IRIS_SUPREMUM, SPECTOR, Truth, anes96, iris, spector

import nll
from nll import SoftmaxRegression
from nll.regression import existence
from nll.regression.softmax import solver

TABLES = {"anes96": (ANES96, anes96), "spector": (SPECTOR, spector)}
tables = pytest.mark.parametrize("name", TABLES)


def fitted(truth: Truth, table: pd.DataFrame, **options) -> SoftmaxRegression:
    return SoftmaxRegression(**options).fit(table[list(truth.columns)], table[truth.response])


def sample(
    n: int = 200, classes: int = 3, columns: int = 2, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Classes that overlap."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, columns))
    scores = x @ draw.normal(size=(columns, classes)) + draw.gumbel(size=(n, classes))
    return x, scores.argmax(1)


def same(found: Tensor, expected, rel: float = 1e-10) -> None:
    torch.testing.assert_close(
        found, torch.as_tensor(expected, dtype=torch.float64), rtol=rel, atol=1e-13
    )


# The truth.


@tables
def test_the_tables_of_the_textbooks(name):
    truth, read = TABLES[name]
    result = fitted(truth, read()).result_
    assert result.log_likelihood == pytest.approx(truth.log_likelihood, abs=1e-8)
    assert result.null_log_likelihood == pytest.approx(truth.null_log_likelihood, abs=1e-8)
    # Far closer than the asked 1e-6: what is left is rounding.
    same(result.params["coef"], truth.coef, 1e-9)
    same(result.standard_errors["coef"], truth.standard_errors, 1e-9)
    assert result.converged
    assert result.decrement < 1e-20
    assert result.df == np.size(truth.coef)
    assert result.aic == pytest.approx(2 * result.df - 2 * truth.log_likelihood, abs=1e-8)
    assert result.pseudo_r_squared == pytest.approx(
        1 - truth.log_likelihood / truth.null_log_likelihood, rel=1e-9
    )


@tables
def test_the_tables_as_printed(name):
    """The coefficients and errors of the summary, read back, are good to the six digits that are
    asked for.
    """
    truth, read = TABLES[name]
    text = fitted(truth, read()).result_.summary()
    rows = re.findall(
        rf"^(?:Intercept|{'|'.join(truth.columns)}) +(\S+) +(\S+) ", text, re.MULTILINE
    )
    printed = np.array(rows, dtype=float).reshape(len(truth.coef), -1, 2)
    np.testing.assert_allclose(printed[..., 0], truth.coef, rtol=1e-6)
    np.testing.assert_allclose(printed[..., 1], truth.standard_errors, rtol=1e-6)
    for label, value in (
        ("Log-likelihood", truth.log_likelihood),
        ("Null log-likelihood", truth.null_log_likelihood),
    ):
        found = re.search(rf"^{label} +(\S+)$", text, re.MULTILINE)
        assert float(found[1]) == pytest.approx(value, abs=1e-8)


def test_what_the_estimator_holds():
    model = fitted(ANES96, anes96())
    assert model.classes_.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert (model.coef_.shape, model.intercept_.shape, model.n_features_in_) == ((7, 5), (7,), 5)
    assert not model.coef_[0].any()
    assert model.intercept_[0] == 0
    np.testing.assert_array_equal(model.coef_[1:], model.result_.params["coef"][:, 1:])
    np.testing.assert_array_equal(model.intercept_[1:], model.result_.params["coef"][:, 0])
    assert model.n_iter_ == model.result_.steps
    result = model.result_
    assert (result.response, result.baseline) == ("PID", "0")
    assert result.labels == {
        "coef": (("1", "2", "3", "4", "5", "6"), ("Intercept", *ANES96.columns))
    }


# Derivatives.


def cross_entropy_of(x: Tensor, labels: Tensor):
    """The summed loss of a network's last layer, as a function of the coefficients of all classes
    but the first.
    """

    def loss(flat: Tensor) -> Tensor:
        coef = torch.cat(
            [torch.zeros(1, x.shape[1], dtype=torch.float64), flat.reshape(-1, x.shape[1])]
        )
        return nll.cross_entropy(x @ coef.T, labels, reduction="sum")

    return loss


def test_the_estimate_is_where_the_loss_of_a_network_is_least():
    """Its gradient by automatic differentiation is zero there, and its Hessian the information."""
    x, y = sample()
    result = SoftmaxRegression().fit(x, y).result_
    columns = torch.from_numpy(np.c_[np.ones(len(x)), x])
    loss = cross_entropy_of(columns, torch.from_numpy(y))
    theta = result.vector
    assert result.nll == pytest.approx(float(loss(theta)), rel=1e-13)
    assert float(torch.func.grad(loss)(theta).abs().max()) < 1e-10
    same(result.covariance, torch.linalg.inv(torch.autograd.functional.hessian(loss, theta)), 1e-9)


# The same model, said differently.


@pytest.mark.parametrize("baseline", [1, 3, 6])
def test_another_baseline_gives_the_contrasts(baseline):
    """The coefficient of class k against b is that against 0 minus b's, with the error of that
    difference.
    """
    table = anes96()
    plain, moved = fitted(ANES96, table).result_, fitted(ANES96, table, baseline=baseline).result_
    assert moved.baseline == str(baseline)
    classes = [int(name) for name in moved.labels["coef"][0]]
    assert classes == [k for k in range(7) if k != baseline]
    against_0 = torch.cat([torch.zeros(1, 6, dtype=torch.float64), plain.params["coef"]])
    same(moved.params["coef"], against_0[classes] - against_0[baseline], 1e-9)
    contrast = torch.zeros(6, 7, dtype=torch.float64)
    contrast[range(6), classes] += 1
    contrast[:, baseline] -= 1
    jacobian = torch.kron(contrast[:, 1:], torch.eye(6, dtype=torch.float64))
    variance = (jacobian @ plain.covariance @ jacobian.T).diagonal().reshape(6, 6)
    same(moved.standard_errors["coef"], variance.sqrt(), 1e-8)
    assert moved.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-13)


@pytest.mark.parametrize(
    ("y", "baseline", "name"),
    [
        (["no", "yes"], "yes", "yes"),
        ([False, True], True, "True"),
        ([False, True], "True", "True"),
        ([1.0, 2.0], 2, "2"),
        ([1, 2], "2", "2"),
        ([0.5, 1.5], 1.5, "1.5"),
    ],
)
def test_a_baseline_by_value_or_as_it_is_written(y, baseline, name):
    x, codes = sample(classes=2)
    labels = np.array(y, dtype=object if isinstance(y[0], str) else None)[codes]
    if isinstance(y[0], float) and not y[0].is_integer():
        # scikit-learn takes other fractions for measurements
        labels = np.array([str(value) for value in labels])
    assert SoftmaxRegression(baseline=baseline).fit(x, labels).result_.baseline == name


def test_sample_weights_are_repeated_rows():
    x, y = sample()
    weights = np.random.default_rng(1).integers(0, 4, len(y))
    weighted = SoftmaxRegression().fit(x, y, sample_weight=weights).result_
    repeated = SoftmaxRegression().fit(np.repeat(x, weights, axis=0), np.repeat(y, weights)).result_
    same(weighted.params["coef"], repeated.params["coef"])
    same(weighted.covariance, repeated.covariance)
    assert (weighted.n, weighted.df) == (repeated.n, repeated.df) == (weights.sum(), 6)
    for name in ("log_likelihood", "null_log_likelihood", "aic", "bic"):
        assert getattr(weighted, name) == pytest.approx(getattr(repeated, name), rel=1e-12)


def test_a_class_of_zero_weight_is_no_class():
    x, y = sample()
    model = SoftmaxRegression().fit(x, y, sample_weight=(y != 1).astype(float))
    assert model.classes_.tolist() == [0, 2]


def test_two_classes_are_a_logistic_regression():
    x, y = sample(classes=2)
    expected = sm.Logit(y, sm.add_constant(x)).fit(disp=0, tol=1e-12)
    result = SoftmaxRegression().fit(x, y).result_
    same(result.params["coef"][0], expected.params, 1e-8)
    same(result.standard_errors["coef"][0], expected.bse, 1e-7)
    assert result.log_likelihood == pytest.approx(expected.llf, rel=1e-12)
    assert result.null_log_likelihood == pytest.approx(
        200 * np.log(np.bincount(y) / 200) @ np.bincount(y) / 200, rel=1e-12
    )


# Units.


@pytest.mark.parametrize(
    ("centre", "spread"),
    [(5e4, 2e4), (1e6, 1.0), (1e9, 1e3), (0.0, 1e-8), (0.0, 1e140), (0.0, 1e-140), (-1e130, 1e128)],
)
def test_units_and_offsets_do_not_matter(centre, spread):
    """z = (x - centre) / spread: the slopes are divided by the spread, and the fit is the same."""
    x, y = sample()
    # with the digits that the offset leaves
    z = np.c_[(x[:, 0] * spread + centre - centre) / spread, x[:, 1]]
    given = SoftmaxRegression().fit(np.c_[z[:, 0] * spread + centre, x[:, 1]], y)
    plain = SoftmaxRegression().fit(z, y)
    assert given.result_.log_likelihood == pytest.approx(plain.result_.log_likelihood, rel=1e-12)
    for attribute in ("params", "standard_errors"):
        found, expected = (getattr(model.result_, attribute)["coef"] for model in (given, plain))
        same(found[:, 1] * spread, expected[:, 1], 1e-8)
        same(found[:, 2], expected[:, 2], 1e-8)
    slopes = given.result_.params["coef"]
    # The constant is the score at 0, as far as it can be computed from so far away.
    back = slopes[:, 0] + slopes[:, 1] * centre
    same(back, plain.result_.params["coef"][:, 0], 1e-15 * max(abs(centre) / spread, 1e5))


@pytest.mark.parametrize("spread", [1e-200, 1e200])
def test_errors_beyond_float64_are_unknown(spread):
    """Where a variance is no number of float64, its error is NaN, and not 0 or infinite."""
    x, y = sample()
    plain = SoftmaxRegression().fit(x, y).result_
    given = SoftmaxRegression().fit(x * [spread, 1.0], y).result_
    same(
        given.params["coef"] * torch.tensor([1.0, spread, 1.0], dtype=torch.float64),
        plain.params["coef"],
        1e-8,
    )
    assert bool(given.standard_errors["coef"][:, 1].isnan().all())
    same(given.standard_errors["coef"][:, [0, 2]], plain.standard_errors["coef"][:, [0, 2]], 1e-8)


def test_a_column_that_varies_in_its_last_digits_varies():
    x, y = sample()
    digits = np.round(x[:, 0] * 3)
    far = SoftmaxRegression().fit((1e15 + digits)[:, None], y).result_
    near = SoftmaxRegression().fit(digits[:, None], y).result_
    same(far.params["coef"][:, 1], near.params["coef"][:, 1], 1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "bool", "object"])
def test_columns_of_any_kind_of_number(dtype):
    x, y = sample()
    x = (x > 0).astype(dtype)
    expected = SoftmaxRegression().fit(x.astype(float), y)
    same(SoftmaxRegression().fit(x, y).result_.params["coef"], expected.result_.params["coef"])
    same(
        SoftmaxRegression().fit(x.tolist(), y.tolist()).result_.params["coef"],
        expected.result_.params["coef"],
    )


def test_tensors():
    x, y = sample()
    expected = SoftmaxRegression().fit(x, y)
    found = SoftmaxRegression().fit(torch.from_numpy(x).requires_grad_(), torch.from_numpy(y))
    same(found.result_.params["coef"], expected.result_.params["coef"])
    assert found.predict(torch.from_numpy(x)).tolist() == expected.predict(x).tolist()


# The penalty.


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("alpha", [1e-3, 1.0, 100.0])
@pytest.mark.parametrize("intercept", [True, False])
def test_alpha_is_the_ridge_of_scikit_learn(alpha, classes, intercept):
    """C = 1 / alpha; the K score functions there add to zero, so that ours are compared less their
    mean.
    """
    x, y = sample(classes=classes, columns=3)
    x = x * [1.0, 5.0, 0.2] + [0.0, 3.0, -1.0]
    # two score functions of opposite sign: half the penalty of one that is their difference
    if classes == 2:
        peer = LogisticRegression(
            C=2 / alpha, tol=1e-10, solver="newton-cg", fit_intercept=intercept
        ).fit(x, y)
        expected, constant = peer.coef_ * [[-0.5], [0.5]], peer.intercept_ * [-0.5, 0.5]
    else:
        peer = LogisticRegression(
            C=1 / alpha, tol=1e-10, solver="newton-cg", fit_intercept=intercept
        ).fit(x, y)
        expected, constant = peer.coef_, peer.intercept_
    model = SoftmaxRegression(alpha=alpha, fit_intercept=intercept).fit(x, y)
    np.testing.assert_allclose(model.coef_ - model.coef_.mean(0), expected, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(
        model.intercept_ - model.intercept_.mean(),
        constant - np.mean(constant),
        rtol=1e-8,
        atol=1e-9,
    )
    np.testing.assert_allclose(model.predict_proba(x), peer.predict_proba(x), atol=1e-9)


def test_the_penalised_estimate_is_where_the_penalised_loss_is_least():
    x, y = sample(columns=3)
    alpha = 0.7
    result = SoftmaxRegression(alpha=alpha).fit(x, y).result_
    loss = cross_entropy_of(torch.from_numpy(np.c_[np.ones(len(x)), x]), torch.from_numpy(y))

    def penalised(flat: Tensor) -> Tensor:
        slopes = torch.cat([torch.zeros(1, 3, dtype=torch.float64), flat.reshape(2, 4)[:, 1:]])
        return loss(flat) + alpha / 2 * (slopes - slopes.mean(0)).square().sum()

    theta = result.vector
    assert float(torch.func.grad(penalised)(theta).abs().max()) < 1e-10
    bread = torch.linalg.inv(torch.autograd.functional.hessian(penalised, theta))
    meat = torch.autograd.functional.hessian(loss, theta)
    same(result.covariance, bread @ meat @ bread, 1e-9)
    # The likelihood that is reported is the data's, without the penalty.
    assert result.nll == pytest.approx(float(loss(theta)), rel=1e-13)
    assert result.information == "penalised, alpha = 0.7"


def test_the_penalty_does_not_depend_on_the_baseline():
    x, y = sample(classes=4)
    first = SoftmaxRegression(alpha=2.0).fit(x, y)
    last = SoftmaxRegression(alpha=2.0, baseline=3).fit(x, y)
    np.testing.assert_allclose(first.coef_ - first.coef_[3], last.coef_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(first.predict_proba(x), last.predict_proba(x), rtol=1e-10)


def test_a_penalty_makes_separated_classes_and_collinear_columns_estimable():
    flowers = iris()
    model = SoftmaxRegression(alpha=0.1).fit(flowers.iloc[:, :4], flowers.species)
    assert model.result_.converged
    x, y = sample()
    twice = SoftmaxRegression(alpha=1.0).fit(np.c_[x, x[:, 0]], y)
    np.testing.assert_allclose(twice.coef_[:, 0], twice.coef_[:, 2], rtol=1e-9, atol=1e-12)


# Predictions.


def test_predictions():
    x, y = sample()
    model = SoftmaxRegression().fit(x, np.array(["low", "mid", "top"])[y])
    scores = x @ model.coef_.T + model.intercept_
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(model.decision_function(x), scores, rtol=1e-12)
    np.testing.assert_allclose(model.predict_proba(x), probabilities, rtol=1e-12)
    np.testing.assert_allclose(model.predict_log_proba(x), np.log(probabilities), rtol=1e-10)
    assert model.predict(x).tolist() == model.classes_[probabilities.argmax(1)].tolist()
    assert (
        model.score(x, np.array(["low", "mid", "top"])[y]) == (probabilities.argmax(1) == y).mean()
    )


def test_log_probabilities_far_out():
    """Where a probability is 0 in float64, its logarithm still is not -inf."""
    x, y = sample(classes=2)
    model = SoftmaxRegression().fit(x, y)
    far = model.predict_log_proba(x[:1] * 1e4)
    assert np.isfinite(far).all()
    assert far.min() < -1000


def test_the_score_of_two_classes_is_a_difference_whatever_the_baseline():
    x, y = sample(classes=2)
    first, second = (SoftmaxRegression(baseline=b).fit(x, y) for b in (0, 1))
    np.testing.assert_allclose(first.decision_function(x), second.decision_function(x), rtol=1e-9)
    np.testing.assert_array_equal(first.decision_function(x) > 0, first.predict(x) == 1)


def test_mean_probabilities_are_the_shares_of_the_classes():
    """The likelihood equations of the constants."""
    x, y = sample()
    shares = np.bincount(y) / len(y)
    np.testing.assert_allclose(
        SoftmaxRegression().fit(x, y).predict_proba(x).mean(0), shares, rtol=1e-12
    )


# Where there is no estimate.


def test_iris_has_no_finite_estimate():
    """Setosa lies apart from the other two species, which overlap: how these differ is finite."""
    flowers = iris()
    with pytest.warns(ConvergenceWarning, match=r"^no finite estimate: class setosa "):
        model = SoftmaxRegression().fit(flowers.iloc[:, :4], flowers.species)
    result = model.result_
    assert not result.converged
    assert re.fullmatch(
        r"no finite estimate: class setosa is separated from versicolor and virginica, by .*; "
        r"the log-likelihood rises towards -5\.949273\d+; "
        r"finite contrasts: virginica vs\. versicolor",
        result.status,
    )
    assert bool(result.standard_errors["coef"].isnan().all())
    assert bool(result.p_values["coef"].isnan().all())
    assert bool(result.params["coef"].isfinite().all())
    assert IRIS_SUPREMUM - 1e-6 < result.log_likelihood < IRIS_SUPREMUM + 1e-7
    assert "Converged            NO" in result.summary()
    found = result.separation
    assert found.supremum == pytest.approx(IRIS_SUPREMUM, abs=1e-7)
    assert found.separated == (("setosa", "versicolor"), ("setosa", "virginica"))
    (contrast,) = found.contrasts
    assert (contrast.of, contrast.against) == ("virginica", "versicolor")
    estimates, errors = zip(*IRIS_PAIR, strict=True)
    np.testing.assert_allclose(contrast.estimate, estimates, rtol=1e-7)
    np.testing.assert_allclose(contrast.standard_errors, errors, rtol=1e-6)
    text = result.summary().partition("virginica (against versicolor, in the limit)")[2]
    printed = re.findall(r"^(?:Intercept|\w+ \w+(?: \(cm\))?) +(\S+) +(\S+) ", text, re.MULTILINE)
    np.testing.assert_allclose(np.array(printed, float), IRIS_PAIR, rtol=1e-5)
    np.testing.assert_array_less(
        -1e-9, margins(flowers.iloc[:, :4].to_numpy(), flowers.species, found)
    )


def margins(x: np.ndarray, y, found) -> np.ndarray:
    """How far a row's own class is ahead of each along the direction."""
    scores = np.c_[np.ones(len(x)), x] @ found.direction.numpy().T
    own = np.array([found.classes.index(str(value)) for value in y])
    return scores[np.arange(len(x)), own][:, None] - scores


def test_two_species_of_iris_have_one():
    flowers = iris().query("species != 'setosa'")
    result = SoftmaxRegression().fit(flowers.iloc[:, :4], flowers.species).result_
    assert result.converged
    assert result.log_likelihood == pytest.approx(IRIS_SUPREMUM, abs=1e-7)
    estimates, errors = zip(*IRIS_PAIR, strict=True)
    np.testing.assert_allclose(result.params["coef"][0], estimates, rtol=1e-8)
    np.testing.assert_allclose(result.standard_errors["coef"][0], errors, rtol=1e-8)


LINE = np.arange(10.0)


@pytest.mark.parametrize(
    ("x", "y", "named"),
    [
        pytest.param(LINE, LINE > 4, "class False is separated from True, by", id="apart"),
        pytest.param(
            LINE * 1e6 + 1e9,
            LINE > 4,
            "class False is separated from True",
            id="apart, far away",
        ),
        pytest.param(
            np.r_[LINE, 4.5, 4.5],
            np.r_[LINE > 4, True, False],
            "class False is separated from True in some rows",
            id="they touch in one point",
        ),
        pytest.param(
            LINE % 2 == 0,
            (LINE % 2 == 0) & (LINE > 3),
            "class False is separated from True in some rows, by",
            id="a cell of the table is empty",
        ),
        pytest.param(
            LINE,
            np.digitize(LINE, [3, 6]),
            "classes 0 and 1, 0 and 2, 1 and 2 are separated",
            id="three in a row",
        ),
    ],
)
def test_separation(x, y, named):
    x = np.reshape(x, (-1, 1)).astype(float)
    with pytest.warns(ConvergenceWarning, match="no finite estimate: "):
        result = SoftmaxRegression().fit(x, y).result_
    assert not result.converged
    assert bool(result.standard_errors["coef"].isnan().any())
    assert named in result.status
    assert margins(x, y, result.separation).min() > -1e-6
    assert margins(x, y, result.separation).max() > 1e-6


def test_what_has_a_limit_keeps_its_error():
    """Class b is never seen with the dummy, a and c are: only b's dummy is infinite. The rest is a
    fit without it.
    """
    rng = np.random.default_rng(0)
    x = np.c_[rng.normal(size=300), np.arange(300) % 3 == 0].astype(float)
    y = np.array(["a", "b", "c"])[(x[:, :1] * [0, 0.5, -0.5] + rng.gumbel(size=(300, 3))).argmax(1)]
    kept = ~((y == "b") & (x[:, 1] == 1))
    x, y = x[kept], y[kept]
    with pytest.warns(
        ConvergenceWarning,
        match=r"no finite estimate: .*by x1; .*finite contrasts: b vs\. a, c vs\. a",
    ):
        result = SoftmaxRegression().fit(x, y).result_
    errors = result.standard_errors["coef"]
    assert errors.isnan().tolist() == [[False, False, True], [False, False, False]]
    # the dummy's coefficient of b, far out: the others as they are in the limit
    far = np.c_[x, np.zeros(len(x))]
    theta = result.params["coef"].clone()
    theta[0, 2] = -60.0

    def loss(free):
        coef = theta.reshape(-1).clone()
        coef[[0, 1, 3, 4, 5]] = free
        scores = torch.from_numpy(np.c_[np.ones(len(x)), far[:, :2]]) @ coef.reshape(2, 3).T
        codes = torch.from_numpy(np.unique(y, return_inverse=True)[1])
        return F.cross_entropy(
            torch.cat([torch.zeros(len(x), 1), scores], 1), codes, reduction="sum"
        )

    at = theta.reshape(-1)[[0, 1, 3, 4, 5]]
    assert float(torch.autograd.functional.jacobian(loss, at).abs().max()) < 1e-6
    covariance = torch.linalg.inv(torch.autograd.functional.hessian(loss, at))
    same(errors.reshape(-1)[[0, 1, 3, 4, 5]], covariance.diagonal().sqrt(), 1e-7)
    assert result.separation.supremum == pytest.approx(-float(loss(at)), abs=1e-9)


def test_separated_among_many_rows():
    """More pairs of rows and classes than one programme takes."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30_000, 4))
    scores = x @ rng.normal(size=(4, 3)) + rng.gumbel(size=(30_000, 3))
    y = scores.argmax(1)
    assert SoftmaxRegression().fit(x, y).result_.converged
    apart = x[:, 1] + 0.5 * x[:, 2] > 1.0
    y = np.where(apart, 3, y)
    with pytest.warns(ConvergenceWarning, match="class 3 is separated from 0, 1 and 2"):
        result = SoftmaxRegression().fit(x, y).result_
    assert margins(x, y, result.separation).min() > -1e-6
    assert {(c.of, c.against) for c in result.separation.contrasts} == {("1", "0"), ("2", "0")}


def separable(x: np.ndarray, y: np.ndarray, classes: int) -> bool:
    """By the simplex method on fractions (Bland's rule): max sum of margins, none negative,
    directions up to 1.
    """
    p = x.shape[1]
    rows = []
    for own, label in zip(x, y, strict=True):
        for k in set(range(classes)) - {int(label)}:
            margin = np.zeros((classes, p), int)
            margin[label] += own
            margin[k] -= own
            rows.append(margin[1:].ravel())
    both = [[Fraction(int(-v)) for v in (*row, *-row)] for row in rows]
    size = 2 * (classes - 1) * p
    table = [[*row, Fraction(0)] for row in both]
    table += [[Fraction(int(i == j)) for j in range(size)] + [Fraction(1)] for i in range(size)]
    gain = [-sum(row[j] for row in both) for j in range(size)]
    inside, outside, value = list(range(size, size + len(table))), list(range(size)), Fraction(0)
    while True:
        entering = [j for j in range(size) if gain[j] > 0]
        if not entering or value > 0:
            return value > 0
        j = min(entering, key=lambda j: outside[j])
        limits = [(row[-1] / row[j], inside[i], i) for i, row in enumerate(table) if row[j] > 0]
        _, _, i = min(limits)
        pivot = table[i][j]
        table[i] = [v / pivot for v in table[i]]
        table[i][j] = 1 / pivot
        for other, row in enumerate(table):
            if other != i and row[j] != 0:
                factor = row[j]
                table[other] = [v - factor * w for v, w in zip(row, table[i], strict=True)]
                table[other][j] = -factor / pivot
        factor = gain[j]
        value += factor * table[i][-1]
        gain = [v - factor * w for v, w in zip(gain, table[i][:-1], strict=True)]
        gain[j] = -factor / pivot
        inside[i], outside[j] = outside[j], inside[i]


def test_the_verdict_is_that_of_exact_arithmetic():
    rng = np.random.default_rng(2)
    verdicts = []
    while len(verdicts) < 600:
        n, p = int(rng.integers(8, 16)), int(rng.integers(1, 3))
        x, y = rng.integers(-2, 3, size=(n, p)), rng.integers(0, 3, size=n)
        if rng.random() < 0.5:  # nearly separated by the first column
            y = np.clip(x[:, 0] + 1 + (rng.random(n) < 0.15) * rng.integers(-1, 2, n), 0, 2)
        full = np.c_[np.ones(n, int), x]
        if (
            len(np.unique(y)) < 3
            or np.linalg.matrix_rank(full) < p + 1
            or (np.ptp(x, axis=0) == 0).any()
        ):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            result = SoftmaxRegression().fit(x.astype(float), y).result_
        expected = separable(full, y, 3)
        assert result.converged == (not expected), (x.tolist(), y.tolist(), result.status)
        assert (result.separation is not None) == expected
        if expected:
            assert margins(x.astype(float), y, result.separation).min() > -1e-6
        verdicts.append(expected)
    assert 150 < sum(verdicts) < 450


@pytest.mark.parametrize("gap", [0.4, 0.1, 0.01])
def test_hardly_overlapping_classes_have_an_estimate(gap):
    """One row of each class on the other's side, by less and less; the slopes grow, and exist."""
    x = np.r_[np.linspace(-3, -1, 20), gap, -gap, np.linspace(1, 3, 20)]
    y = np.r_[np.zeros(21), np.ones(21)]
    result = SoftmaxRegression().fit(x[:, None], y).result_
    assert result.converged
    assert result.decrement < 1e-10
    columns = torch.from_numpy(np.c_[np.ones(len(x)), x])
    gradient = torch.func.grad(cross_entropy_of(columns, torch.from_numpy(y).long()))(result.vector)
    assert float(gradient.abs().max()) < 1e-8


@pytest.mark.parametrize("noise", [1e-3, 1e-6, 1e-8, 1e-9])
def test_columns_that_are_nearly_each_other(noise):
    """x and x + noise * z span what x and z do: the likelihood is the same, and z's coefficient
    noise times that.
    """
    x, y = sample(columns=2)
    z = np.random.default_rng(5).normal(size=len(x))
    near = x[:, 0] + noise * z
    z = (near - x[:, 0]) / noise  # with the digits that are left of it
    plain, found = (
        SoftmaxRegression().fit(np.c_[x, z], y).result_,
        SoftmaxRegression().fit(np.c_[x, near], y).result_,
    )
    assert found.converged
    assert found.decrement <= 1e-10
    digits = max(1e-8, 1e-13 / noise)  # those of the difference, which rounding leaves
    assert found.log_likelihood == pytest.approx(plain.log_likelihood, rel=digits)
    same(found.params["coef"][:, 3] * noise, plain.params["coef"][:, 3], digits)
    for column, unit in ((2, 1.0), (3, noise)):
        same(
            found.standard_errors["coef"][:, column] * unit,
            plain.standard_errors["coef"][:, column],
            digits,
        )


def test_a_column_that_is_another_one_to_rounding_is_refused():
    x, y = sample()
    near = x[:, 0] + 1e-14 * np.random.default_rng(5).normal(size=len(x))
    with pytest.raises(
        ValueError,
        match=r"^expected linearly independent columns, got 'x2' = \+1 "
        r"x0 in every row$",
    ):
        SoftmaxRegression().fit(np.c_[x, near], y)


@pytest.mark.parametrize("weight", [1e-12, 1e-300])
def test_small_weights_do_not_separate_classes(weight):
    """The estimate does not depend on the unit of the weights; a fit that cannot tell must not
    blame the data.
    """
    x, y = sample()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = SoftmaxRegression().fit(x, y, sample_weight=np.full(len(y), weight)).result_
    if result.converged:
        same(result.params["coef"], SoftmaxRegression().fit(x, y).result_.params["coef"], 1e-6)
    assert "no finite estimate" not in result.status


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        pytest.param(
            lambda x: {"a": x[0], "b": x[1], "c": 2 * x[0] - x[1] + 3},
            "expected linearly independent columns, got 'a' = -1.5 +0.5 b +0.5 c in every row",
            id="a combination",
        ),
        pytest.param(
            lambda x: {"a": x[0], "b": x[1], "again": x[1]},
            "expected linearly independent columns, got 'again' = +1 b in every row",
            id="twice",
        ),
        pytest.param(
            lambda x: {"a": x[0], "b": x[1] * 1e9 + 1e12, "c": x[0] / 1e9},
            "expected linearly independent columns, got 'c' = +1e-09 a in every row",
            id="in other units",
        ),
        pytest.param(
            lambda x: {"a": x[0], "one": 1.0 + 0 * x[0], "0": 0 * x[0]},
            "expected columns that vary, got constant column 'one', '0'",
            id="constant",
        ),
    ],
)
def test_what_the_columns_lack_is_named(columns, message):
    x, y = sample()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SoftmaxRegression().fit(pd.DataFrame(columns(x.T)), y)


def test_a_constant_column_is_an_intercept_where_there_is_none():
    x, y = sample()
    own = SoftmaxRegression(fit_intercept=False).fit(np.c_[np.ones(len(x)), x], y).result_
    same(own.params["coef"], SoftmaxRegression().fit(x, y).result_.params["coef"])


# Tables, and scikit-learn's manners.


def test_names_come_from_the_table():
    x, y = sample()
    table = pd.DataFrame(x, columns=["größe (cm)", "α"])
    model = SoftmaxRegression().fit(table, pd.Series(y, name="Sorte"))
    assert model.feature_names_in_.tolist() == ["größe (cm)", "α"]
    assert model.result_.labels["coef"][1] == ("Intercept", "größe (cm)", "α")
    assert "Sorte = 1 (against 0)" in model.result_.summary()


def test_polars():
    pl = pytest.importorskip("polars")
    x, y = sample()
    model = SoftmaxRegression().fit(pl.DataFrame(x, schema=["a", "b"]), pl.Series("kind", y))
    assert model.result_.labels["coef"][1] == ("Intercept", "a", "b")
    same(model.result_.params["coef"], SoftmaxRegression().fit(x, y).result_.params["coef"])


def test_classes_of_a_category_column():
    x, y = sample(classes=2)
    # not in sorted order
    answers = pd.Series(pd.Categorical.from_codes(y, ["yes", "no"]), name="vote")
    model = SoftmaxRegression(baseline="yes").fit(x, answers)
    assert model.classes_.tolist() == ["no", "yes"]
    assert (model.result_.baseline, model.result_.response) == ("yes", "vote")


def test_progress_tells_each_step():
    x, y = sample()
    told = []
    model = SoftmaxRegression().fit(x, y, progress=lambda *what: told.append(what))
    assert [step for step, _, _ in told] == list(range(model.n_iter_))
    gains = [value for _, value, _ in told]
    assert gains == sorted(gains)
    assert gains[-1] == pytest.approx(model.result_.log_likelihood, rel=1e-12)


def test_parameters_and_clone():
    model = SoftmaxRegression(alpha=0.5, baseline="b", fit_intercept=False)
    assert model.get_params() == {
        "alpha": 0.5,
        "penalty": None,
        "class_weight": None,
        "baseline": "b",
        "fit_intercept": False,
        "covariance": "observed",
        "weights": "frequency",
        "standard_errors": True,
    }
    again = clone(model).set_params(alpha=2.0)
    assert (again.alpha, again.baseline, again.fit_intercept) == (2.0, "b", False)
    assert repr(model) == "SoftmaxRegression(alpha=0.5, baseline='b', fit_intercept=False)"


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.uint64])
def test_classes_of_any_integer_type(dtype):
    x, y = sample(400)
    values = np.array([np.iinfo(dtype).min, np.iinfo(dtype).min + 3, 100], dtype)
    if np.iinfo(dtype).bits == 64:  # near each other, and as far from 0 as they come
        values = np.array(
            [np.iinfo(dtype).max - 7, np.iinfo(dtype).max - 2, np.iinfo(dtype).max], dtype
        )
    model = SoftmaxRegression().fit(x, values[y])
    assert model.classes_.dtype == dtype
    np.testing.assert_array_equal(model.classes_, values)
    np.testing.assert_allclose(model.coef_, SoftmaxRegression().fit(x, y).coef_, rtol=1e-10)


def test_a_late_measurement_is_no_class():
    x = np.random.default_rng(0).normal(size=(70_000, 1))
    y = np.r_[np.arange(69_999) % 2, 0.5].astype(float)
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        SoftmaxRegression().fit(x, y)


def test_an_estimate_alone_is_judged_as_well(monkeypatch):
    """Without the information: overlap by its certificate or the programme, separation by the
    programme.
    """
    monkeypatch.setattr(solver, "MANY_PARAMETERS", 4)
    x, y = sample(400)
    whole = SoftmaxRegression().fit(x, y)
    alone = SoftmaxRegression(standard_errors=False).fit(x, y).result_
    assert alone.converged
    assert alone.status.endswith("no standard errors") or alone.status.startswith(
        "converged: a finite maximum exists"
    )
    assert bool(alone.standard_errors["coef"].isnan().all())
    same(alone.params["coef"], whole.result_.params["coef"], 1e-6)
    # the programme has to decide
    monkeypatch.setattr(existence, "certified_by_bound", lambda *_: False)
    assert SoftmaxRegression(standard_errors=False).fit(x, y).result_.converged
    assert SoftmaxRegression(standard_errors=False, alpha=1.0).fit(x, y).result_.converged
    with pytest.warns(ConvergenceWarning, match="class False is separated from True"):
        assert (
            not SoftmaxRegression(standard_errors=False)
            .fit(LINE[:, None], LINE > 4)
            .result_.converged
        )


def test_many_rows_take_many_blocks(monkeypatch):
    """The sums over blocks are the sums over the rows."""
    from nll.data import prefetch

    x, y = sample(n=1000)
    whole = SoftmaxRegression().fit(x, y).result_
    monkeypatch.setattr(prefetch, "_BLOCK_BYTES", 1)
    parts = SoftmaxRegression().fit(x, y).result_
    same(parts.params["coef"], whole.params["coef"], 1e-12)
    assert parts.log_likelihood == pytest.approx(whole.log_likelihood, rel=1e-13)
    same(parts.covariance, whole.covariance, 1e-11)


def test_bic_counts_the_frequencies():
    x, y = sample()
    result = SoftmaxRegression().fit(x, y, sample_weight=np.full(len(y), 2.5)).result_
    assert result.n == 500
    assert result.bic == pytest.approx(6 * math.log(500) - 2 * result.log_likelihood, rel=1e-14)


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        ((200, 3, 3), {}, "Newton steps, each with the information (few coefficients and rows)"),
        ((100_000, 12, 5), {}, "gradients from a start on some of the rows, then one information"),
        (
            (4000, 40, 8),
            {},
            "products with the information, formed once at the end (many coefficients)",
        ),
        ((4000, 40, 8), {"standard_errors": False}, "never formed (many coefficients)"),
    ],
)
def test_the_fit_says_how_it_was_searched(shape, options, said):
    n, p, classes = shape
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, p))
    scores = x @ rng.normal(size=(p, classes)) * 0.2
    fitted = (
        SoftmaxRegression(**options)
        .fit(x, (scores + rng.gumbel(size=scores.shape)).argmax(1))
        .result_
    )
    assert said in fitted.solver
    assert fitted.to_dict()["solver"] == fitted.solver
    assert "Solver" in fitted.summary()
