"""Softmax regression: the estimate, its errors, and the word on whether there is one."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from softmax_cases import cross_entropy_of, same, sample
from torch import Tensor
from truth import ANES96, SPECTOR, Truth, anes96, iris, spector

from nll import SoftmaxRegression

TABLES = {"anes96": (ANES96, anes96), "spector": (SPECTOR, spector)}
tables = pytest.mark.parametrize("name", TABLES)


def fitted(truth: Truth, table: pd.DataFrame, **options) -> SoftmaxRegression:
    return SoftmaxRegression(**options).fit(table[list(truth.columns)], table[truth.response])


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


# Tables, and scikit-learn's manners.


def test_names_come_from_the_table():
    x, y = sample()
    table = pd.DataFrame(x, columns=["größe (cm)", "α"])
    model = SoftmaxRegression().fit(table, pd.Series(y, name="Sorte"))
    assert model.feature_names_in_.tolist() == ["größe (cm)", "α"]
    assert model.result_.labels["coef"][1] == ("Intercept", "größe (cm)", "α")
    assert "Sorte = 1 (vs. 0)" in model.result_.summary()


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


def test_bic_counts_the_frequencies():
    x, y = sample()
    result = SoftmaxRegression().fit(x, y, sample_weight=np.full(len(y), 2.5)).result_
    assert result.n == 500
    assert result.bic == pytest.approx(6 * math.log(500) - 2 * result.log_likelihood, rel=1e-14)
