"""Conditional logit: Greene's travel mode, statsmodels, softmax regression as its special case, and
its verdicts.
"""

import pickle

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from statsmodels.discrete import conditional_models

import nll
from nll import ConditionalLogit


@pytest.fixture(scope="module")
def travel():
    table = sm.datasets.modechoice.load_pandas().data
    table["alt"] = table["mode"].map({1.0: "air", 2.0: "train", 3.0: "bus", 4.0: "car"})
    table["hinc_air"] = table.hinc * (table.alt == "air")
    return table


COLUMNS = ["individual", "alt", "choice", "gc", "ttme", "hinc_air"]
LONG = {"case": "individual", "alternative": "alt"}


def test_travel_mode_of_greene(travel):
    """Greene, Econometric Analysis: air, train and bus against car; the numbers to 1e-8 and
    1e-6.
    """
    model = ConditionalLogit(baseline="car").fit(travel[COLUMNS], "choice", **LONG)
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


def draw(n=400, alternatives=4, q=3, seed=0, share=0.8):
    """Cases with some of the alternatives each."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, alternatives, q)) * 10.0 ** np.arange(q) + 3.0
    available = rng.random((n, alternatives)) < share
    available[np.arange(n), rng.integers(0, alternatives, n)] = True
    scores = x @ (rng.normal(size=q) / 10.0 ** np.arange(q)) + rng.gumbel(size=(n, alternatives))
    return x, np.where(available, scores, -np.inf).argmax(1), available


def longer(x, y, available):
    case, alternative = np.nonzero(available)
    return x[available], (y[case] == alternative).astype(int), case, alternative


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


def test_ridge():
    x, y, available = draw(200, seed=9)
    fitted = ConditionalLogit(alpha=5.0).fit(x, y, available=available).result_
    at = fitted.vector.clone().requires_grad_()
    value = brute(x, y, available, at, True).sum() - 2.5 * at[3:].square().sum()
    (slope,) = torch.autograd.grad(value, at)
    assert float(slope.abs().max()) < 1e-4
    assert fitted.information == "penalised"


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


def test_separated_choices():
    x, y, available = draw(200, q=2, seed=11)
    x[:, :, 1] = 0.0
    x[np.arange(200), y, 1] = 1.0  # the chosen one always has it
    x[:50, :, 1] = 0.0
    with pytest.warns(
        ConvergenceWarning,
        match=r"no finite estimate: .* along \+1 x1; .* rises "
        r"towards",
    ):
        fitted = ConditionalLogit(constants=False).fit(x, y, available=available).result_
    few = (
        ConditionalLogit(constants=False)
        .fit(x[:50, :, :1], y[:50], available=available[:50])
        .result_
    )
    assert not fitted.converged
    assert float(fitted.vector[0]) == pytest.approx(float(few.vector[0]), rel=1e-5)
    assert float(fitted.standard_errors["coef"][0]) == pytest.approx(
        float(few.standard_errors["coef"][0]), rel=1e-5
    )
    assert bool(fitted.standard_errors["coef"][1].isnan())
    assert f"{few.log_likelihood:.8g}" in fitted.status


def test_an_alternative_that_nobody_chose_has_no_constant():
    x, y, available = draw(200, seed=12)
    kept = y != 3
    with pytest.warns(ConvergenceWarning, match="constant, 3"):
        fitted = ConditionalLogit().fit(x[kept], y[kept], available=available[kept])
    assert np.isnan(fitted.constants_log_likelihood_)


def test_wide_tables_become_long_ones():
    table = pd.DataFrame(
        {
            "mode": ["car", "bus", "car"],
            "car_cost": [3.0, 5.0, 2.0],
            "bus_cost": [1.0, 1.0, np.nan],
            "age": [30, 40, 50],
        }
    )
    attributes = {"cost": {"car": "car_cost", "bus": "bus_cost"}}
    long = nll.choices_long(table, attributes, "mode", individual=["age"])
    assert long["case"].tolist() == [0, 0, 1, 1, 2]
    assert long["alternative"].tolist() == ["car", "bus", "car", "bus", "car"]
    assert long["chosen"].tolist() == [1, 0, 0, 1, 1]
    assert long["cost"].tolist() == [3.0, 1.0, 5.0, 1.0, 2.0]
    assert long["age"].tolist() == [30, 30, 40, 40, 50]
    with pytest.raises(ValueError, match="got none of 'bus' in case 2"):
        nll.choices_long(table.assign(mode="bus"), attributes, "mode")
    with pytest.raises(ValueError, match=r"expected one of car, bus in 'mode', got 'train'"):
        nll.choices_long(table.assign(mode=["train", "car", "car"]), attributes, "mode")
    with pytest.raises(
        ValueError, match="expected a column of 'cost' for each alternative, got none for 'bus'"
    ):
        nll.choices_long(
            table, {"time": {"bus": "age", "car": "age"}, "cost": {"car": "car_cost"}}, "mode"
        )
    with pytest.raises(ValueError, match="got 'fee'"):
        nll.choices_long(table, {"cost": {"car": "fee", "bus": "bus_cost"}}, "mode")


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


def row_changed(table, row, column, value):
    table = table.copy()
    table.loc[row, column] = value
    return table


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            lambda t: row_changed(t, 0, "choice", 1.0),
            {},
            "one chosen alternative in each case, got 2 in case 1",
        ),
        (
            lambda t: row_changed(t, 3, "choice", 0.0),
            {},
            "one chosen alternative in each case, got 0 in case 1",
        ),
        (
            lambda t: row_changed(t, 3, "choice", 2.0),
            {},
            r"expected 0 or 1 in y .* got .*2.0.* at "
            r"row 3",
        ),
        (lambda t: row_changed(t, 3, "alt", "bus"), {}, "got bus twice in case 1"),
        (
            lambda t: row_changed(t, 3, "alt", None),
            {},
            "a label of the alternative in every row, got none at row 3",
        ),
        (
            lambda t: row_changed(t, 5, "gc", np.nan),
            {},
            "finite values in X, got NaN at row 5 of column 'gc'",
        ),
        (lambda t: t.assign(gc="much"), {}, "expected numbers in X"),
        (lambda t: t.assign(fare=1.0), {}, "vary within a case, got 'fare'"),
        (lambda t: t.assign(hinc=travel_income(t)), {}, "vary within a case, got 'hinc'"),
        (lambda t: t.assign(both=t.gc + t.ttme), {}, "within every case"),
        (
            lambda t: t,
            {"individual": ["gc"]},
            "individual column 'gc' to be the same in all rows of a case",
        ),
        (
            lambda t: t,
            {"specific": ["cost"]},
            "expected one of the columns gc, ttme, hinc_air, got 'cost'",
        ),
        (lambda t: t, {"baseline": "boat"}, "boat"),
        (lambda t: t, {"alpha": -1.0}, "expected a finite alpha"),
        (lambda t: t, {"covariance": "opg"}, "expected covariance to be one of"),
    ],
)
def test_choices_that_cannot_be_used(travel, change, options, message):
    with pytest.raises(ValueError, match=message):
        ConditionalLogit(**options).fit(change(travel[COLUMNS]), "choice", **LONG)


def travel_income(table):
    return table["individual"] * 1.5


def test_arguments_that_cannot_be_used():
    x, y, available = draw(20, seed=14)
    fit = ConditionalLogit().fit
    with pytest.raises(ValueError, match="expected case and alternative with rows of X"):
        fit(x[:, 0], y)
    with pytest.raises(ValueError, match="no case and no alternative with X of three dimensions"):
        fit(x, y, case=np.arange(20))
    with pytest.raises(ValueError, match="available as a mask of shape"):
        fit(x, y, available=available[:, :2])
    with pytest.raises(ValueError, match="expected choices from 0 to 3, got 4 in case 0"):
        fit(x, np.full(20, 4))
    closed = available.copy()
    closed[5, y[5]] = False
    with pytest.raises(
        ValueError,
        match=r"(available alternative, got \d in case 5)|(alternative in each case, "
        r"got none)",
    ):
        fit(x, y, available=closed)
    with pytest.raises(ValueError, match="expected y of 20 choices"):
        fit(x, y[:5])
    with pytest.raises(TypeError, match="expected specific as a list"):
        ConditionalLogit(specific="x0").fit(x, y)
    rows, marks, case, alternative = longer(x, y, available)
    model = ConditionalLogit(alpha=1.0).fit(rows, marks, case=case, alternative=alternative)
    with pytest.raises(ValueError, match="expected the alternatives of the fit, got 9"):
        model.predict_proba(rows, case=case, alternative=np.where(alternative == 3, 9, alternative))
    with pytest.raises(ValueError, match="weights that are the same in all rows of a case"):
        ConditionalLogit().fit(
            rows,
            marks,
            case=case,
            alternative=alternative,
            sample_weight=np.arange(len(rows)) + 1.0,
        )
