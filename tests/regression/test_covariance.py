"""Covariances that hold where the model is wrong: against statsmodels, published numbers and their
definition.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from truth import ANES96, SPECTOR, anes96, spector
from typer.testing import CliRunner

from nll import SoftmaxRegression
from nll.cli.app import app

HC0 = [5.197585410299329, 1.2675459820157335, 0.1179222677493933, 0.9644192096528781]


def data() -> tuple:
    table = anes96()
    return table[list(ANES96.columns)], table[ANES96.response]


def errors(model: SoftmaxRegression) -> np.ndarray:
    return model.result_.standard_errors["coef"].numpy()


def test_published_errors():
    table = spector()
    x, y = table[list(SPECTOR.columns)], table[SPECTOR.response]
    np.testing.assert_allclose(
        errors(SoftmaxRegression(covariance="sandwich").fit(x, y))[0], HC0, rtol=1e-7
    )
    alone = SoftmaxRegression().fit(x, y, clusters=np.arange(32))
    np.testing.assert_allclose(errors(alone)[0], np.array(HC0) * math.sqrt(32 / 31), rtol=1e-7)
    assert alone.result_.information == "sandwich, 32 clusters"
    wider = SoftmaxRegression(covariance="hc1").fit(x, y)
    np.testing.assert_allclose(errors(wider)[0], np.array(HC0) * math.sqrt(32 / 28), rtol=1e-7)


def test_against_statsmodels():
    x, y = data()
    groups = np.arange(len(y)) // 20
    clustered = {"groups": groups, "use_correction": False}
    theirs = sm.MNLogit(y, sm.add_constant(x)).fit(disp=0, cov_type="cluster", cov_kwds=clustered)
    ours = SoftmaxRegression().fit(x, y, clusters=[f"g{g}" for g in groups])
    count = groups.max() + 1
    np.testing.assert_allclose(
        errors(ours), theirs.bse.T * math.sqrt(count / (count - 1)), rtol=1e-6
    )
    theirs = sm.MNLogit(y, sm.add_constant(x)).fit(disp=0, cov_type="HC0")
    np.testing.assert_allclose(
        errors(SoftmaxRegression(covariance="sandwich").fit(x, y)), theirs.bse.T, rtol=1e-6
    )


def test_frequencies_are_repeated_rows_and_sampling_weights_are_not():
    x, y = data()
    w = np.random.default_rng(0).integers(0, 4, len(y))
    repeated = SoftmaxRegression(covariance="sandwich").fit(
        x.loc[x.index.repeat(w)], y.loc[y.index.repeat(w)]
    )
    np.testing.assert_allclose(
        errors(SoftmaxRegression(covariance="sandwich").fit(x, y, w)), errors(repeated), rtol=1e-9
    )
    sampled = SoftmaxRegression(weights="sampling").fit(x, y, w)
    assert sampled.result_.information == "sandwich (HC0)"
    # only how the weights compare counts
    halved = SoftmaxRegression(weights="sampling").fit(x, y, w / 2)
    np.testing.assert_allclose(errors(sampled), errors(halved), rtol=1e-8)
    each = SoftmaxRegression().fit(x, y, w, clusters=np.arange(len(y)))
    count = int((w > 0).sum())
    np.testing.assert_allclose(
        errors(sampled) * math.sqrt(count / (count - 1)), errors(each), rtol=1e-9
    )


def test_tests_and_intervals_use_it():
    x, y = data()
    model = SoftmaxRegression(covariance="sandwich").fit(x, y).result_
    low, high = model.interval()["coef"].unbind(-1)
    torch.testing.assert_close(high - low, 2 * 1.959963984540054 * model.standard_errors["coef"])
    wald = model.test({"coef[1, age]": 0.0})
    z = float(model.params["coef"][0, 3] / model.standard_errors["coef"][0, 3])
    assert wald.statistic == pytest.approx(z * z)


@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        (
            {"covariance": "hc3"},
            {},
            "expected covariance to be one of observed, sandwich, hc1, got 'hc3'",
        ),
        (
            {"weights": "shares"},
            {},
            "expected weights to be one of frequency, sampling, importance, got 'shares'",
        ),
        ({}, {"clusters": [1, 2]}, "expected 944 cluster labels, one for each row, got shape"),
        ({}, {"clusters": [1] * 944}, "expected at least two clusters, got one"),
        (
            {},
            {"clusters": [1] * 943 + [None]},
            "expected a cluster for every row, got none at row 943",
        ),
    ],
)
def test_bad_input_is_named(options, more, message):
    x, y = data()
    with pytest.raises(ValueError, match=message):
        SoftmaxRegression(**options).fit(x, y, **more)


def test_the_command(tmp_path):
    table = anes96().assign(region=np.arange(944) // 50)
    file = tmp_path / "t.csv"
    table.to_csv(file, index=False)
    formula = "PID ~ age + educ"
    found = CliRunner().invoke(app, ["fit", str(file), formula, "--cluster", "region"])
    assert found.exit_code == 0
    assert "sandwich, 19 clusters" in found.stdout
    assert (
        "sandwich (HC0)" in CliRunner().invoke(app, ["fit", str(file), formula, "--robust"]).stdout
    )
    wrong = CliRunner().invoke(app, ["fit", str(file), formula, "--cluster", "regions"])
    assert wrong.exit_code == 2
    assert "expected a column of the table, got 'regions'; did you mean region?" in wrong.stderr
    other = CliRunner().invoke(
        app, ["fit", str(file), "age ~ educ", "--family", "normal", "--robust"]
    )
    assert "--robust can only be used with --family softmax, got normal" in other.stderr
