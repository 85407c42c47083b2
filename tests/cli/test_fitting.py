"""`nll fit` from end to end."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from fit_command import ROWS, fitted, run, tables, write_files
from torch import distributions as td
from truth import ANES96, EXAMPLES, SPECTOR
from typer.testing import CliRunner

import nll
from nll.cli.app import app

PARTY = "PID ~ logpopul + selfLR + age + educ + income"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def in_folder(data, monkeypatch):
    """What the tests write goes where they read."""
    monkeypatch.chdir(data)


# The examples that are known.


def test_the_election_study():
    found = fitted(EXAMPLES / "anes96.csv", PARTY)
    assert found["log_likelihood"] == pytest.approx(ANES96.log_likelihood, abs=1e-8)
    assert found["null_log_likelihood"] == pytest.approx(ANES96.null_log_likelihood, abs=1e-8)
    np.testing.assert_allclose(found["params"]["coef"], ANES96.coef, rtol=1e-9)
    np.testing.assert_allclose(found["standard_errors"]["coef"], ANES96.standard_errors, rtol=1e-9)
    assert found["labels"]["coef"] == [list("123456"), ["Intercept", *ANES96.columns]]
    assert (found["response"], found["baseline"], found["n"], found["df"]) == ("PID", "0", 944, 36)
    assert found["converged"] is True


def test_the_election_study_as_printed():
    result = run(EXAMPLES / "anes96.csv", PARTY)
    assert result.exit_code == 0
    rows = re.findall(
        rf"^(?:Intercept|{'|'.join(ANES96.columns)}) +(\S+) +(\S+) ", result.stdout, re.MULTILINE
    )
    printed = np.array(rows, dtype=float).reshape(6, 6, 2)
    np.testing.assert_allclose(printed[..., 0], ANES96.coef, rtol=1e-6)
    np.testing.assert_allclose(printed[..., 1], ANES96.standard_errors, rtol=1e-6)
    assert re.search(r"^Baseline +0 *$", result.stdout, re.MULTILINE)
    assert re.search(r"^Converged +yes *$", result.stdout, re.MULTILINE)
    assert "PID = 6 (vs. 0)" in result.stdout
    assert result.stderr == ""


def test_softmax_and_bernoulli_are_one_model_for_two_classes():
    formula = "GRADE ~ GPA + TUCE + PSI"
    softmax, bernoulli = (
        fitted("spector.csv", formula),
        fitted("spector.csv", formula, "--family", "bernoulli"),
    )
    np.testing.assert_allclose(softmax["params"]["coef"], SPECTOR.coef, rtol=1e-9)
    np.testing.assert_allclose(bernoulli["params"]["coef"], SPECTOR.coef[0], rtol=1e-9)
    np.testing.assert_allclose(
        bernoulli["standard_errors"]["coef"], SPECTOR.standard_errors[0], rtol=1e-9
    )


# Tables, formulas and options.


@pytest.mark.parametrize("file", ["t.csv", "t.tsv.gz", "t.parquet"])
def test_files_of_every_kind_hold_the_same(file):
    expected = fitted("t.csv", "kind ~ x + g")
    found = fitted(file, "kind ~ x + g")
    np.testing.assert_allclose(found["params"]["coef"], expected["params"]["coef"], rtol=1e-9)


@pytest.mark.parametrize(
    ("formula", "columns"),
    [
        ("kind ~ x * z", ["Intercept", "x", "z", "x:z"]),
        ("kind ~ x + g", ["Intercept", "x", "g[T.v]"]),
        ("kind ~ 0 + g", ["g[u]", "g[v]"]),
        ("kind ~ `two words` + größe", ["Intercept", "two words", "größe"]),
        ("kind ~ np.log(pos)", ["Intercept", "np.log(pos)"]),
        ("kind ~ 1", ["Intercept"]),
    ],
)
def test_formulas(formula, columns):
    assert fitted("t.csv", formula)["labels"]["coef"] == [["birch", "oak"], columns]


def test_baseline():
    found = fitted("t.csv", "kind ~ x", "--baseline", "oak")
    assert found["baseline"] == "oak"
    assert found["labels"]["coef"][0] == ["ash", "birch"]
    assert fitted("t.csv", "won ~ x", "--baseline", "1")["baseline"] == "1"


@pytest.mark.parametrize("file", ["t.csv", "t.parquet"])
@pytest.mark.parametrize(
    "arguments", [["kind ~ x"], ["y ~ x", "--family", "normal"], ["kind ~ w + x"]]
)
def test_weights_are_repeated_rows(file, arguments, data):
    table = tables()
    table.loc[table.index.repeat(table.w)].to_csv(data / "repeated.csv", index=False)
    weighted, repeated = (
        fitted(file, *arguments, "--weights", "w"),
        fitted("repeated.csv", *arguments),
    )
    assert weighted["n"] == repeated["n"] == table.w.sum()
    np.testing.assert_allclose(
        weighted["covariance"], repeated["covariance"], rtol=1e-8, atol=1e-15
    )
    assert weighted["bic"] == pytest.approx(repeated["bic"], rel=1e-10)


def test_missing_values_are_left_out_when_asked():
    found = fitted("t.csv", "kind ~ gap + hole", "--missing", "drop")
    assert (found["dropped"], found["n"]) == (2, ROWS - 2)
    assert "2 rows with missing values" in run("t.csv", "kind ~ gap", "--missing", "drop").stdout
    assert (
        fitted("t.csv", "--column", "gap", "--family", "normal", "--missing", "drop")["dropped"]
        == 2
    )


def test_alpha():
    found = fitted("t.csv", "apart ~ order", "--alpha", "0.5")
    assert found["information"] == "penalised, alpha = 0.5"
    assert found["converged"]


def test_level():
    found = fitted("t.csv", "--column", "y", "--family", "normal", "--level", "0.5")
    loc, error = found["params"]["loc"], found["standard_errors"]["loc"]
    assert found["interval"]["loc"] == pytest.approx(
        [loc - 0.6744897502 * error, loc + 0.6744897502 * error], rel=1e-9
    )
    printed = run("t.csv", "--column", "y", "--family", "normal", "--level", "0.5").stdout
    assert "[0.25" in printed
    assert f"{found['interval']['loc'][0]:.6g}" in printed


@pytest.mark.parametrize(
    ("column", "family", "estimates"),
    [
        ("won", "bernoulli", lambda x: {"probs": x.mean()}),
        ("count", "geometric", lambda x: {"probs": 1 / (1 + x.mean())}),
        ("count", "poisson", lambda x: {"rate": x.mean()}),
        (
            "kind",
            "categorical",
            lambda x: {"probs": x.value_counts(normalize=True).sort_index().tolist()},
        ),
        ("y", "normal", lambda x: {"loc": x.mean(), "scale": x.std(ddof=0)}),
        ("pos", "log_normal", lambda x: {"loc": np.log(x).mean(), "scale": np.log(x).std(ddof=0)}),
        ("pos", "exponential", lambda x: {"rate": 1 / x.mean()}),
        ("y", "laplace", lambda x: {"loc": x.median(), "scale": (x - x.median()).abs().mean()}),
        ("y", "uniform", lambda x: {"low": x.min(), "high": x.max()}),
        (
            "pos",
            "inverse_gaussian",
            lambda x: {"loc": x.mean(), "concentration": 1 / (1 / x - 1 / x.mean()).mean()},
        ),
        ("two words", "normal", lambda x: {"loc": x.mean()}),
    ],
)
def test_one_column(column, family, estimates):
    found = fitted("t.csv", "--column", column, "--family", family)
    for name, value in estimates(tables()[column]).items():
        assert found["params"][name] == pytest.approx(value, rel=1e-9)
    assert (found["response"], found["n"], found["converged"]) == (column, ROWS, True)


def test_right_censored_rows(tmp_path):
    hours = [54, 187, 216, 240, 244, 335, 361, 373, 375, 386] + 10 * [500]
    table = pd.DataFrame({"hours": hours, "ran": [0] * 10 + [1] * 10, "site": list("ab") * 10})
    table.to_csv("life.csv", index=False)
    found = fitted(
        "life.csv", "--column", "hours", "--family", "weibull", "--censored-right", "ran"
    )
    assert found["params"]["scale"] == pytest.approx(606.52756, rel=1e-7)
    assert found["standard_errors"]["concentration"] == pytest.approx(0.50215062, rel=1e-6)
    text = run("life.csv", "--column", "hours", "--family", "weibull", "--censored-right", "site")
    assert (
        text.exit_code,
        "expected numbers in column 'site', got 'a' at row 0" in text.stderr,
    ) == (2, True)
    text = run("life.csv", "--column", "ran", "--family", "normal", "--censored-right", "hours")
    assert (
        text.exit_code,
        "expected 0 or 1 in column 'hours', got 54 at row 0" in text.stderr,
    ) == (2, True)


def test_events_are_the_opposite_of_censored_rows_and_are_counted(tmp_path):
    draw = np.random.default_rng(0)
    life, end = draw.weibull(1.5, 60) * 10, draw.uniform(2, 20, 60)
    table = pd.DataFrame(
        {"t": np.minimum(life, end), "died": (life <= end).astype(int), "site": list("ab") * 30}
    )
    table.assign(out=1 - table.died, w=2).to_csv("trial.csv", index=False)
    column = ["trial.csv", "--column", "t", "--family", "weibull"]
    found, other = fitted(*column, "--event", "died"), fitted(*column, "--censored-right", "out")
    assert found == other
    events = int(table.died.sum())
    assert (found["events"], found["censored"], found["n"]) == (events, 60 - events, 60)
    assert fitted(*column, "--event", "died", "--weights", "w")["events"] == 2 * events
    printed = run(*column, "--event", "died", "--report", tmp_path / "r.html").stdout
    assert re.search(
        rf"^Events +{events} *\nCensored +{60 - events} right *$", printed, re.MULTILINE
    )
    assert f"<dt>Events</dt><dd>{events}</dd>" in (tmp_path / "r.html").read_text()
    by = fitted(*column, "--event", "died", "--by", "site")
    assert by["events"] == table.groupby("site").died.sum().tolist()
    assert "censored" in run(*column, "--event", "died", "--by", "site").stdout
    for more, message in (
        (
            ["--event", "died", "--censored-right", "out"],
            "expected either --censored-right or --event, got both",
        ),
        (["--event", "site"], "expected numbers in column 'site', got 'a' at row 0"),
        (["--event", "t"], "expected 0 or 1 in column 't'"),
    ):
        done = run(*column, *more)
        assert (done.exit_code, message in done.stderr) == (2, True)


def test_each_group_on_its_own():
    found = fitted("t.csv", "--column", "pos", "--family", "gamma", "--by", "kind")
    table = tables()
    assert found["group"] == sorted(table["kind"].unique())
    for i, kind in enumerate(found["group"]):
        alone = nll.fit(td.Gamma, table.loc[table["kind"] == kind, "pos"].to_numpy())
        assert found["rate"][i] == pytest.approx(float(alone.params["rate"]), rel=1e-9)
        assert found["rate std err"][i] == pytest.approx(
            float(alone.standard_errors["rate"]), rel=1e-9
        )
    printed = run("t.csv", "--column", "pos", "--family", "gamma", "--by", "kind").stdout
    assert f"Gamma: {len(found['group'])} groups, {ROWS} observations" in printed
    many = run("t.csv", "--column", "y", "--family", "normal", "--by", "pos")
    assert many.exit_code == 1  # one value each
    assert f"... and {ROWS - 40} more" in many.stdout


def test_version():
    assert CliRunner().invoke(app, ["--version"]).output == f"nll {nll.__version__}\n"
