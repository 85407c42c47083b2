"""Conditional logit: Greene's travel mode, statsmodels, softmax regression as a special case."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from choices import LONG, draw, longer, travel
from sklearn.base import clone
from statsmodels.discrete import conditional_models

import nll
from nll import ConditionalLogit


def test_travel_mode_of_greene():
    """Greene, Econometric Analysis: air, train and bus against car; the numbers to 1e-8 and
    1e-6.
    """
    model = ConditionalLogit(baseline="car").fit(travel(), "choice", **LONG)
    fitted = model.result_
    expected = {
        "constant, air": (5.20744329867, 0.77905514251),
        "constant, train": (3.86904270153, 0.443126852002),
        "constant, bus": (3.16319421187, 0.450265930528),
        "gc": (-0.0155015253161, 0.00440799307836),
        "ttme": (-0.0961247961048, 0.0104398465314),
        "hinc_air": (0.0132870262506, 0.0102624069997),
    }
    assert fitted.converged
    assert fitted.log_likelihood == pytest.approx(-199.128368715982, abs=1e-8)
    assert fitted.null_log_likelihood == pytest.approx(-291.121816, abs=1e-5)
    assert model.constants_log_likelihood_ == pytest.approx(-283.758768, abs=1e-5)
    assert fitted.n == 210
    names = fitted.labels["coef"][0]
    assert set(names) == set(expected)
    for name, value, error in zip(
        names, fitted.params["coef"], fitted.standard_errors["coef"], strict=True
    ):
        assert float(value) == pytest.approx(expected[name][0], rel=1e-6)
        assert float(error) == pytest.approx(expected[name][1], rel=1e-6)
    assert "constant, air" in fitted.summary()
    assert "Conditional logit" in fitted.summary()


def test_unequal_choice_sets_as_statsmodels_has_them():
    x, y, available = draw()
    rows, marks, case, _ = longer(x, y, available)
    several = np.isin(case, np.flatnonzero(available.sum(1) > 1))
    expected = conditional_models.ConditionalLogit(
        marks[several], rows[several], groups=case[several]
    ).fit(disp=0)
    found = ConditionalLogit(constants=False).fit(x, y, available=available).result_
    assert found.log_likelihood == pytest.approx(expected.llf, rel=1e-9)
    np.testing.assert_allclose(found.vector, expected.params, rtol=1e-4)
    np.testing.assert_allclose(found.standard_errors["coef"], expected.bse, rtol=1e-3)


def test_long_wide_and_shuffled_rows_are_the_same():
    x, y, available = draw()
    wide = ConditionalLogit().fit(x, y, available=available)
    rows, marks, case, alternative = longer(x, y, available)
    order = np.random.default_rng(1).permutation(len(rows))
    shuffled = (rows[order], marks[order])
    labels = {"case": np.array([f"c{k}" for k in case[order]]), "alternative": alternative[order]}
    long = ConditionalLogit().fit(*shuffled, **labels)
    torch.testing.assert_close(long.result_.vector, wide.result_.vector, rtol=1e-10, atol=0)
    torch.testing.assert_close(long.result_.covariance, wide.result_.covariance, rtol=1e-9, atol=0)
    p = wide.predict_proba(x, available=available)
    np.testing.assert_allclose(p.sum(1), 1.0, rtol=1e-12)
    assert (p[~available] == 0).all()
    np.testing.assert_allclose(
        long.predict_proba(shuffled[0], **labels), p[available][order], rtol=1e-9
    )
    assert -np.log(p[np.arange(len(y)), y]).sum() == pytest.approx(wide.result_.nll, rel=1e-12)
    table = (
        pd.DataFrame({"case": case, "alt": alternative, "p": p[available]})
        .sort_values("p")
        .groupby("case")
        .last()
    )
    np.testing.assert_array_equal(
        ConditionalLogit()
        .fit(rows, marks, case=case, alternative=alternative)
        .predict(rows, case=case, alternative=alternative),
        table["alt"],
    )
    np.testing.assert_array_equal(wide.predict(x, available=available), table["alt"])


def test_covariates_of_the_individual_alone_are_a_softmax_regression():
    rng = np.random.default_rng(2)
    z = rng.normal(size=(500, 2)) * [1.0, 20.0]
    y = (z @ (rng.normal(size=(2, 3)) / [[1.0], [20.0]]) + rng.gumbel(size=(500, 3))).argmax(1)
    expected = nll.SoftmaxRegression(baseline=1).fit(z, y).result_
    table = pd.DataFrame(np.repeat(z, 3, axis=0), columns=["a", "b"]).assign(
        case=np.repeat(np.arange(500), 3),
        alt=np.tile([0, 1, 2], 500),
        chosen=(y[:, None] == [0, 1, 2]).ravel(),
    )
    found = (
        ConditionalLogit(individual=["a", "b"], baseline=1)
        .fit(table, "chosen", case="case", alternative="alt")
        .result_
    )
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-12)
    at = {name: k for k, name in enumerate(found.labels["coef"][0])}
    order = [at[name] for c in (0, 2) for name in (f"constant, {c}", f"a, {c}", f"b, {c}")]
    torch.testing.assert_close(found.vector[order], expected.vector, rtol=1e-8, atol=0)
    torch.testing.assert_close(
        found.covariance[order][:, order], expected.covariance, rtol=1e-7, atol=1e-14
    )


def test_specific_attributes_have_a_coefficient_for_each_alternative():
    x, y, available = draw(600, seed=3)
    fitted = ConditionalLogit(specific=["x1"]).fit(x, y, available=available).result_
    split = np.concatenate([x[:, :, [0, 2]], x[:, :, [1]] * np.eye(4)], axis=2)
    expected = ConditionalLogit().fit(split, y, available=available).result_
    assert fitted.df == 3 + 2 + 4
    assert fitted.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-12)
    names = fitted.labels["coef"][0]
    assert names[4:8] == ("x1, 0", "x1, 1", "x1, 2", "x1, 3")
    torch.testing.assert_close(fitted.vector[4:8], expected.vector[5:], rtol=1e-8, atol=0)


def test_weights_are_how_often_a_case_was_seen():
    x, y, available = draw(100, seed=7)
    w = np.random.default_rng(8).integers(1, 4, 100)
    many = [np.repeat(part, w, axis=0) for part in (x, y, available)]
    expected = ConditionalLogit().fit(many[0], many[1], available=many[2]).result_
    rows, marks, case, alternative = longer(x, y, available)
    found = (
        ConditionalLogit().fit(
            rows, marks, case=case, alternative=alternative, sample_weight=w[case].astype(float)
        )
    ).result_
    torch.testing.assert_close(found.vector, expected.vector, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=1e-8, atol=0)
    assert found.n == w.sum()


def test_units_do_not_matter():
    x, y, available = draw(300, seed=10)
    plain = ConditionalLogit().fit(x, y, available=available).result_
    moved = (
        ConditionalLogit()
        .fit(x * [1e7, 1e-5, 1.0] + [0.0, 9.0, 1e6], y, available=available)
        .result_
    )
    assert moved.log_likelihood == pytest.approx(plain.log_likelihood, rel=1e-9)
    np.testing.assert_allclose(
        moved.vector[3:5] * torch.tensor([1e7, 1e-5]), plain.vector[3:5], rtol=1e-5
    )


def test_it_is_a_scikit_learn_estimator():
    x, y, available = draw(100, seed=13)
    model = ConditionalLogit(alpha=1.0, specific=["x0"])
    again = clone(model)
    assert again.get_params() == model.get_params()
    model.fit(x, y, available=available)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(
        copy.predict_proba(x, available=available), model.predict_proba(x, available=available)
    )
