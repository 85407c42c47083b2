"""`nll fit --save`, `nll predict` and `nll score` from end to end; tables in blocks."""

from __future__ import annotations

import json
import math
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from truth import EXAMPLES
from typer.testing import CliRunner

import nll
from nll.cli import streamed
from nll.cli.app import app

TABLE = pd.read_csv(EXAMPLES / "anes96.csv").assign(
    group=lambda t: np.where(t.educ > 4, "high", "low")
)
FORMULA = "PID ~ logpopul + selfLR + center(age) + group"


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(part) for part in arguments])
    assert result.exit_code == code, result.stderr + result.stdout
    return result.stderr if code == 2 else result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models")
    TABLE.to_csv(path / "t.csv", index=False)
    TABLE[:400].to_csv(path / "first.csv", index=False)
    TABLE.drop(columns="PID")[::-1].to_parquet(path / "new.parquet", index=False)
    run("fit", path / "t.csv", FORMULA, "--save", path / "m.json")
    run(
        "fit",
        path / "t.csv",
        "vote ~ selfLR + group",
        "--family",
        "bernoulli",
        "--save",
        path / "b.json",
    )
    run(
        "fit",
        path / "t.csv",
        "age ~ selfLR + group",
        "--family",
        "normal",
        "--save",
        path / "n.json",
    )
    (path / "parts").mkdir()
    TABLE[:300].to_parquet(path / "parts" / "0.parquet")
    TABLE[300:].to_csv(path / "parts" / "1.csv", index=False)
    return path


def columns():
    x = np.c_[TABLE.logpopul, TABLE.selfLR, TABLE.age - TABLE.age.mean(), TABLE.group == "low"]
    return x.astype(float)


def test_predictions_are_those_of_the_fit_and_of_statsmodels(folder):
    found = pd.read_csv(StringIO(run("predict", folder / "m.json", folder / "t.csv")))
    x = columns()
    model = nll.SoftmaxRegression().fit(x, TABLE.PID)
    names = [f"probability[{k}]" for k in range(7)]
    np.testing.assert_allclose(found[names], model.predict_proba(x), rtol=1e-9)
    np.testing.assert_array_equal(found["predicted"], model.predict(x))
    theirs = sm.MNLogit(TABLE.PID, sm.add_constant(x)).fit(disp=0, tol=1e-12, maxiter=100)
    np.testing.assert_allclose(found[names], theirs.predict(), rtol=1e-6)


def test_other_rows_with_intervals_into_a_file(folder):
    out = folder / "out.parquet"
    run(
        "predict",
        folder / "m.json",
        folder / "new.parquet",
        "--intervals",
        "--level",
        0.9,
        "--output",
        out,
    )
    found, x = pd.read_parquet(out)[::-1], columns()
    expected = nll.SoftmaxRegression().fit(x, TABLE.PID).predictions(x, level=0.9)
    np.testing.assert_allclose(found["probability[3]"], expected.probabilities[:, 3], rtol=1e-9)
    np.testing.assert_allclose(found[["low[3]", "high[3]"]], expected.interval[:, 3], rtol=1e-7)


def test_rows_with_missing_values_stay_in_their_places(folder):
    TABLE[:5].assign(age=[20.0, np.nan, 30, 40, 50]).to_csv(folder / "gap.csv", index=False)
    assert "missing" in run("predict", folder / "m.json", folder / "gap.csv", code=2)
    out = folder / "gap_out.csv"
    run("predict", folder / "m.json", folder / "gap.csv", "--missing", "drop", "--output", out)
    found = pd.read_csv(out)
    assert len(found) == 5
    assert found.isna().all(axis=1).tolist() == [False, True, False, False, False]


def test_means_of_the_other_families(folder):
    found = pd.read_csv(
        StringIO(run("predict", folder / "b.json", folder / "t.csv", "--intervals"))
    )
    x = sm.add_constant(np.c_[TABLE.selfLR, TABLE.group == "low"].astype(float))
    theirs = sm.Logit(TABLE.vote, x).fit(disp=0, tol=1e-12)
    np.testing.assert_allclose(found["mean"], theirs.predict(), rtol=1e-7)
    assert (found["low"] < found["mean"]).all()
    assert (found["mean"] < found["high"]).all()
    line = pd.read_csv(StringIO(run("predict", folder / "n.json", folder / "t.csv")))
    np.testing.assert_allclose(line["mean"], sm.OLS(TABLE.age, x).fit().predict(), rtol=1e-9)


@pytest.mark.parametrize("model", ["m", "b", "n"])
def test_the_score_of_the_rows_that_were_fitted_is_their_likelihood(folder, model):
    scored = folder / f"{model}-score.json"
    out = run("score", folder / f"{model}.json", folder / "t.csv", "--json", scored)
    found = json.loads(scored.read_text())
    formula, family = {
        "m": (FORMULA, "softmax"),
        "b": ("vote ~ selfLR + group", "bernoulli"),
        "n": ("age ~ selfLR + group", "normal"),
    }[model]
    run("fit", folder / "t.csv", formula, "--family", family, "--json", folder / "fit.json")
    fitted = json.loads((folder / "fit.json").read_text())
    assert found["log_score"][0] == pytest.approx(
        -fitted["log_likelihood"] / fitted["n"], rel=1e-10
    )
    assert found["log_score"][1] > 0
    assert found["rows"] == len(TABLE)
    assert "Log-score" in out
    if model == "m":
        assert found["calibration"]["slope"][0] == pytest.approx(1.0, abs=1e-6)
        np.testing.assert_allclose(found["predicted"], found["seen"], atol=1e-9)


def test_margins_are_those_of_statsmodels(folder):
    out = folder / "margins.json"
    shown = run("fit", folder / "t.csv", "PID ~ logpopul + selfLR", "--margins", "--json", out)
    assert "Average marginal effects" in shown
    found = json.loads(out.read_text())["margins"]
    x = sm.add_constant(TABLE[["logpopul", "selfLR"]])
    theirs = sm.MNLogit(TABLE.PID, x).fit(disp=0, tol=1e-12, maxiter=100).get_margeff()
    np.testing.assert_allclose(found["effects"], theirs.margeff.T, atol=1e-6)
    np.testing.assert_allclose(found["standard_errors"], theirs.margeff_se.T, atol=1e-6)


def test_effects_of_categories_are_against_the_first(folder):
    out = folder / "three.json"
    TABLE.assign(k=np.array(["a", "b", "c"])[TABLE.educ % 3]).to_csv(
        folder / "three.csv", index=False
    )
    run("fit", folder / "three.csv", "vote ~ k", "--margins", "--json", out)
    found, shares = (
        json.loads(out.read_text())["margins"],
        TABLE.vote.groupby(TABLE.educ % 3).mean(),
    )
    assert found["discrete"] == ["k[T.b]", "k[T.c]"]
    np.testing.assert_allclose(
        found["effects"][1], [shares[1] - shares[0], shares[2] - shares[0]], rtol=1e-8
    )


def test_firth_and_profile(folder):
    rows = "x,y\n-2,a\n-1,a\n-0.5,a\n0.5,b\n1,b\n2,b\n"
    (folder / "apart.csv").write_text(rows)
    run("fit", folder / "apart.csv", "y ~ x", code=1)
    out = folder / "firth.json"
    shown = run("fit", folder / "apart.csv", "y ~ x", "--firth", "--profile", "--json", out)
    assert "profile" in shown
    fitted = (
        nll.SoftmaxRegression(penalty="firth")
        .fit([[-2.0], [-1], [-0.5], [0.5], [1], [2]], list("aaabbb"))
        .result_
    )
    found = json.loads(out.read_text())
    np.testing.assert_allclose(found["params"]["coef"], fitted.params["coef"], rtol=1e-8)
    np.testing.assert_allclose(
        found["interval"]["coef"], fitted.interval(method="profile")["coef"], rtol=1e-6
    )


@pytest.mark.parametrize("how", ["folder", "large", "checkpoint"])
def test_tables_in_blocks_give_the_same_fit(folder, how, monkeypatch):
    formula = "PID ~ logpopul + selfLR + age"
    run("fit", folder / "t.csv", formula, "--json", folder / "whole.json")
    whole = json.loads((folder / "whole.json").read_text())
    source, more = folder / "t.csv", []
    if how == "large":
        monkeypatch.setattr(streamed, "_LARGE_BYTES", 100)
    elif how == "folder":
        source = folder / "parts"
    else:
        more = ["--checkpoint", folder / "passes"]
    out = folder / "blocks.json"
    run("fit", source, formula, "--save", folder / "s.json", "--json", out, *more)
    found = json.loads(out.read_text())
    np.testing.assert_allclose(found["params"]["coef"], whole["params"]["coef"], rtol=1e-10)
    np.testing.assert_allclose(found["covariance"], whole["covariance"], rtol=1e-8)
    assert found["labels"] == whole["labels"]
    assert found["response"] == "PID"
    assert "Log-score" in run("score", folder / "s.json", folder / "t.csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("predict", "no.json", "t.csv"), "got no such file"),
        (
            ("predict", "t.csv", "t.csv"),
            "expected a model that `nll fit --save` has written, got another file",
        ),
        (("predict", "m.json", "t.csv", "--output", "t.csv"), "expected a file of its own"),
        (
            ("predict", "m.json", "t.csv", "--output", "x.txt"),
            "expected an output named .csv or .parquet",
        ),
        (("predict", "m.json", "first.csv", "--output", "m.json"), "expected"),
        (("predict", "m.json", "no.csv"), "no such file"),
        (("score", "m.json", "new.parquet"), "expected a column of the table, got 'PID'"),
        (
            ("fit", "t.csv", "age ~ PID", "--family", "normal", "--firth"),
            "can only be used with --family softmax, got normal",
        ),
        (
            ("fit", "t.csv", "PID ~ age", "--firth", "--alpha", "1"),
            "--firth cannot be combined with --alpha",
        ),
        (
            ("fit", "t.csv", "PID ~ age", "--profile", "--robust"),
            "--profile cannot be combined with --robust",
        ),
        (
            ("fit", "t.csv", "PID ~ age", "--alpha", "1", "--profile"),
            "--profile needs a maximum of the likelihood",
        ),
        (("fit", "parts", "PID ~ center(age)"), "but center(age) depends on all rows"),
        (
            ("fit", "parts", "PID ~ age", "--firth"),
            "a table that is read in blocks can only be fitted",
        ),
        (
            ("fit", "t.csv", "--column", "age", "--family", "normal", "--save", "x.json"),
            "--save can only be used with a formula",
        ),
    ],
)
def test_the_tour_of_bad_input(folder, arguments, message, monkeypatch):
    monkeypatch.chdir(folder)
    assert message in run(*arguments, code=2)


def test_files_that_are_broken_or_of_another_version(folder):
    kept = json.loads((folder / "m.json").read_text())
    for change, message in (
        ({"version": 99}, "expected a model of version 1, got version 99"),
        ({"terms": {}}, "expected a whole model"),
        ({"coef": "x"}, "expected a whole model"),
    ):
        (folder / "bad.json").write_text(json.dumps(kept | change))
        assert message in run("predict", folder / "bad.json", folder / "t.csv", code=2)


def test_the_rows_of_the_fit_are_no_test_of_it(folder):
    for model, says in (
        ("m", "not tested: these are the rows of the fit"),
        ("b", "These are the rows of the fit; score held-out rows instead."),
    ):
        out = folder / "in_sample.json"
        assert says in run("score", folder / f"{model}.json", folder / "t.csv", "--json", out)
        found = json.loads(out.read_text())
        assert found["rows_of_the_fit"] is True
        assert model == "b" or found["calibration"]["test"]["p_value"] is None
        assert says not in run(
            "score", folder / f"{model}.json", folder / "first.csv", "--json", out
        )
        assert json.loads(out.read_text())["rows_of_the_fit"] is False


def test_the_evaluation_of_the_rows_of_the_fit_says_so():
    model = nll.SoftmaxRegression().fit(TABLE[["age"]], TABLE.vote)
    assert model.evaluate(TABLE[["age"]], TABLE.vote).in_sample
    again = pd.concat([TABLE, TABLE[::-1]])
    assert math.isnan(model.evaluate(again[["age"]], again.vote).recalibration.test.p_value)
    assert not model.evaluate(TABLE[1:][["age"]], TABLE.vote[1:]).in_sample


@pytest.mark.parametrize(
    ("model", "response", "value", "message"),
    [
        ("b", "vote", 2, "expected 0 or 1 in column 'vote', got 2 at row 3"),
        ("n", "age", np.inf, "expected a finite number in column 'age', got inf at row 3"),
        ("c", "educ", -1, "expected a non-negative integer in column 'educ', got -1 at row 3"),
        ("c", "educ", 1.5, "expected a non-negative integer in column 'educ', got 1.5 at row 3"),
    ],
)
def test_a_response_outside_the_support_is_named(folder, model, response, value, message):
    run("fit", folder / "t.csv", "educ ~ age", "--family", "poisson", "--save", folder / "c.json")
    table = TABLE[:5].astype({response: float})
    table.loc[3, response] = value
    table.to_parquet(folder / "outside.parquet")
    assert message in run("score", folder / f"{model}.json", folder / "outside.parquet", code=2)


def test_a_model_at_an_infinite_parameter_is_kept(folder):
    """Counts that vary less than Poisson's: total_count = inf."""
    draw = np.random.default_rng(0)
    pd.DataFrame({"x": draw.normal(size=100), "y": draw.poisson(3, 100).clip(2, 4)}).to_csv(
        folder / "flat.csv"
    )
    scores = []
    for family in ("negative_binomial", "poisson"):
        run("fit", folder / "flat.csv", "y ~ x", "--family", family, "--save", folder / "flat.json")
        run(
            "score", folder / "flat.json", folder / "flat.csv", "--json", folder / "flat_score.json"
        )
        scores.append(json.loads((folder / "flat_score.json").read_text())["log_score"][0])
        assert run("predict", folder / "flat.json", folder / "flat.csv").startswith("mean")
    assert scores[0] == pytest.approx(scores[1], rel=1e-9)


def test_times_are_classes_and_no_numbers(folder):
    days = pd.to_datetime("2024-01-01") + pd.to_timedelta(TABLE.PID, unit="D")
    TABLE.assign(day=days).to_parquet(folder / "days.parquet")
    TABLE.assign(day=days).to_csv(folder / "days.csv", index=False)
    for file in ("days.parquet", "days.csv"):
        run(
            "fit",
            folder / file,
            "day ~ age",
            "--save",
            folder / "day.json",
            "--json",
            folder / "days.json",
        )
        assert json.loads((folder / "days.json").read_text())["baseline"] == "2024-01-01"
        assert "rows of the fit" in run("score", folder / "day.json", folder / "days.parquet")
        for family, option in (("normal", "--column"), ("poisson", "")):
            arguments = [option, "day"] if option else ["day ~ age"]
            says = run("fit", folder / file, *arguments, "--family", family, code=2)
            assert "expected numbers in column 'day', got" in says


@pytest.mark.parametrize(
    ("response", "options"),
    [("np.log(age)", ("--family", "normal")), ("I(age > 50)", ()), ("`np.log(age)`", ())],
)
def test_a_computed_response_is_scored(response, options, folder):
    table = TABLE.assign(**{"np.log(age)": TABLE.PID > 2})
    table = table if "`" in response else table.drop(columns="np.log(age)")
    table.to_csv(folder / "computed.csv", index=False)
    files = ["--json", folder / "computed.json"]
    run(
        "fit",
        folder / "computed.csv",
        f"{response} ~ TVnews",
        *options,
        "--save",
        folder / "computed.model",
        *files,
    )
    expected = json.loads((folder / "computed.json").read_text())
    run("score", folder / "computed.model", folder / "computed.csv", *files)
    found = json.loads((folder / "computed.json").read_text())["log_score"][0]
    assert found == pytest.approx(-expected["log_likelihood"] / len(TABLE), rel=1e-9)


def test_a_class_or_category_that_the_fit_has_not_seen(folder):
    TABLE[:3].assign(PID=[1, 9, 2]).to_csv(folder / "nine.csv", index=False)
    assert "got 9 at row 1" in run("score", folder / "m.json", folder / "nine.csv", code=2)
    TABLE[:3].assign(group="middle").to_csv(folder / "middle.csv", index=False)
    assert "got 'middle' at row 0" in run(
        "predict", folder / "m.json", folder / "middle.csv", code=2
    )


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_an_interruption_says_how_to_go_on(error, code, tmp_path, monkeypatch):
    from nll.regression.formula import regress

    def stop(*_, **__):
        raise error

    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"y": [0, 1, 0, 1], "x": [1.0, 2.0, 3.0, 0.5]}).to_csv("t.csv", index=False)
    monkeypatch.setattr(regress, "fit_streamed", stop)
    found = CliRunner().invoke(app, ["fit", "t.csv", "y ~ x", "--checkpoint", "passes"])
    assert found.exit_code == code
    assert found.stderr == "nll: interrupted; run the same command to resume from passes\n"
