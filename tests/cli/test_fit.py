"""`nll fit` from end to end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch import distributions as td
from truth import ANES96, EXAMPLES, SPECTOR, spector
from typer.testing import CliRunner, Result

import nll
from nll.cli.app import app

ROWS = 60
PARTY = "PID ~ logpopul + selfLR + age + educ + income"


def tables() -> pd.DataFrame:
    """One column for each thing that a column can be."""
    draw = np.random.default_rng(0)
    x, z = draw.normal(size=(2, ROWS))
    noise = draw.normal(size=ROWS)
    return pd.DataFrame(
        {
            "kind": np.array(["ash", "birch", "oak"])[np.digitize(x + 2 * noise, [-0.7, 0.7])],
            "x": x,
            "z": z,
            "g": draw.choice(["u", "v"], ROWS),
            "count": draw.poisson(np.exp(0.3 * x + 0.5 * noise + 1)),
            "won": (x + 2 * noise > 0).astype(int),
            "y": 2 * x - z + noise,
            "pos": draw.random(ROWS) + 0.1,
            "w": draw.integers(0, 3, ROWS),
            "two words": draw.normal(size=ROWS),
            "größe": draw.normal(size=ROWS),
            "same": 1.5,
            "only": "q",
            "negative": [-2] + [1] * (ROWS - 1),
            "texts": ["high"] + [str(n) for n in range(ROWS - 1)],
            "gap": [np.nan, np.nan, *z[2:]],
            "hole": ["u", None, *draw.choice(["u", "v"], ROWS - 2)],
            "apart": (np.arange(ROWS) > 30).astype(int),
            "order": np.arange(ROWS),
            "huge": [2**61] * 30 + [2**62] * 30,
        }
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder of files that can be read, and of some that cannot."""
    folder = tmp_path_factory.mktemp("data")
    table = tables()
    table.to_csv(folder / "t.csv", index=False)
    table.to_csv(folder / "t.tsv.gz", index=False, sep="\t")
    table.to_parquet(folder / "t.parquet")
    spector().to_csv(folder / "spector.csv", index=False)
    (folder / "folder.csv").mkdir()
    (folder / "empty.csv").touch()
    (folder / "header.csv").write_text("y,x\n")
    (folder / "twice.csv").write_text("y,y\n1,2\n")
    (folder / "ragged.csv").write_text("y,x\n1,2\n3\n")
    (folder / "latin.csv").write_bytes("größe,x\n1,2\n".encode("latin-1"))
    (folder / "broken.parquet").write_text("no")
    (folder / "table.xlsx").touch()
    (folder / "rows.csv").write_text("x,k,w\n,1,1\n1,2,1\n2,3,1\n3,-4,1\n4,5,-6\n5,6,1\n")
    return folder


@pytest.fixture(autouse=True)
def in_folder(data, tmp_path, monkeypatch):
    """What the tests write goes where they read."""
    monkeypatch.chdir(data)


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["fit", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def fitted(*arguments: str, code: int = 0) -> dict:
    """The JSON of a fit, which goes to the output alone."""
    result = run(*arguments, "--json", "-")
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kind ~ y", "--by", "kind"], "--by can only be used with --column"),
        (
            ["--column", "y", "--family", "normal", "--by", "kind", "--report", "r.html"],
            "--by cannot be combined with --report",
        ),
        (["--column", "y", "--family", "normal", "--by", "nothing"], "nothing"),
    ],
)
def test_groups_and_censoring_are_for_columns(arguments, message):
    found = run("t.csv", *arguments)
    assert found.exit_code == 2
    assert message in found.stderr


@pytest.mark.parametrize(
    ("family", "response", "names"),
    [
        ("softmax", "kind", ["coef"]),
        ("bernoulli", "won", ["coef"]),
        ("poisson", "count", ["coef"]),
        ("normal", "y", ["coef", "scale"]),
        ("negative_binomial", "count", ["coef", "total_count"]),
    ],
)
def test_every_response_with_its_report(family, response, names, tmp_path):
    file = tmp_path / "report.html"
    result = run(
        "t.csv",
        f"{response} ~ x + g",
        "--family",
        family,
        "--report",
        file,
        "--json",
        tmp_path / "fit.json",
    )
    assert result.exit_code == 0, result.stderr
    assert list(json.loads((tmp_path / "fit.json").read_text())["params"]) == names
    page = file.read_text(encoding="utf-8")
    assert f"<h1>{response} ~ x + g (t.csv)</h1>" in page
    assert "<h2>The likelihood along each parameter</h2>" in page
    assert "<h2>Calibration</h2>" in page
    assert ("<h2>Confusion matrix</h2>" in page) == (family in ("softmax", "bernoulli"))
    assert f"Report: {file}" in result.stdout.replace("\n", "")


def test_the_report_of_a_column(tmp_path):
    file = tmp_path / "report.html"
    assert (
        run("t.csv", "--column", "kind", "--family", "categorical", "--report", file).exit_code == 0
    )
    assert "<h2>The fitted distribution</h2>" in file.read_text(encoding="utf-8")


def test_the_report_of_huge_counts(tmp_path):
    """No bar for each number up to the largest."""
    result = run(
        "t.csv", "--column", "huge", "--family", "poisson", "--report", tmp_path / "report.html"
    )
    assert result.exit_code == 0


# Exit codes, and where things go.


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["apart ~ order"], "no finite estimate: class 0 is separated from 1, by "),
        (["--column", "same", "--family", "normal"], "no maximum: the data are all equal"),
        (["I(2 * x) ~ x", "--family", "normal"], "no maximum: the response is fitted exactly"),
    ],
)
def test_a_fit_without_an_estimate_exits_with_1(arguments, status):
    found = fitted("t.csv", *arguments, code=1)
    assert found["converged"] is False
    assert found["status"].startswith(status)
    assert set(np.ravel(next(iter(found["standard_errors"].values())))) == {None}  # JSON has no NaN
    printed = run("t.csv", *arguments).stdout
    assert re.search(r"^Converged +NO *$", printed, re.MULTILINE)


def test_a_report_is_written_without_an_estimate_too(tmp_path):
    file = tmp_path / "report.html"
    assert run("t.csv", "apart ~ order", "--report", file).exit_code == 1
    assert '<dd class="no">NO</dd>' in file.read_text(encoding="utf-8")


def test_json_goes_to_a_file_or_alone_to_the_output(tmp_path):
    file = tmp_path / "größe.json"
    written = run("t.csv", "kind ~ x", "--json", file)
    printed = run("t.csv", "kind ~ x", "--json", "-")
    assert file.read_text(encoding="utf-8") == printed.stdout
    assert "kind = birch (vs. ash)" in written.stdout
    assert "kind = birch (vs. ash)" in printed.stderr


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "nll", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


def test_as_a_process(tmp_path):
    """Through a pipe: no colours, whole numbers, the exit code; nothing on the error output."""
    done = command("fit", "t.csv", "kind ~ x", "--report", tmp_path / "report.html")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert re.search(r"^Converged +yes *$", done.stdout, re.MULTILINE)
    failed = command("fit", "t.csv", "kind ~ nope")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("nll: expected a column of the table, got 'nope'; ")
    assert "Traceback" not in failed.stderr


# The tour of bad input.

KINDS = "expected --family to be one of "
COLUMN_FAMILIES = (
    "bernoulli, geometric, poisson, categorical, normal, log_normal, exponential, laplace, "
    "uniform, gamma, "
    "inverse_gamma, chi2, beta, kumaraswamy, student_t, cauchy, gumbel, generalized_extreme_value, "
    "skew_normal, "
    "von_mises, weibull, half_cauchy, half_normal, pareto, inverse_gaussian, fisher_snedecor, "
    "continuous_bernoulli, "
    "negative_binomial, shifted_gamma, shifted_weibull, shifted_log_normal, "
    "shifted_inverse_gaussian, "
    "shifted_inverse_gamma, zero_inflated_poisson, zero_inflated_negative_binomial, "
    "zero_inflated_geometric, "
    "normal_mixture"
)
SUFFIXES = ".csv, .tsv, .csv.gz, .tsv.gz, .parquet, .pq"
NO_FOLDER = "no such folder: nowhere"
TABLE = tables()
NAMES = ", ".join(TABLE.columns)


def first(mask: pd.Series) -> int:
    return int(mask.to_numpy().argmax())


ROW_3 = "expected a non-negative integer, got -4 at row 3"

TOUR = [
    # The file.
    (["none.csv", "y ~ x"], "no such file: none.csv"),
    (
        ["folder.csv", "y ~ x"],
        f"expected a folder with files named {SUFFIXES}, got folder.csv",
    ),
    (["empty.csv", "y ~ x"], "expected a readable table in empty.csv, got: Empty CSV file"),
    (["header.csv", "y ~ x"], "expected at least one row, got none"),
    (["twice.csv", "y ~ 1"], "expected columns with different names, got 'y' twice"),
    (
        ["ragged.csv", "y ~ x"],
        "expected a readable table in ragged.csv, got: CSV parse error: Expected 2 columns, got 1: "
        "3",
    ),
    (
        ["broken.parquet", "y ~ x"],
        "expected a readable table in broken.parquet, got: "
        "Parquet file size is 2 bytes, smaller than the minimum file footer (8 bytes)",
    ),
    (["table.xlsx", "y ~ x"], f"expected a file named {SUFFIXES}, got table.xlsx"),
    # What to fit.
    (["t.csv"], "expected either a formula or --column, got neither"),
    (["t.csv", "y ~ x", "--column", "x"], "expected either a formula or --column, got both"),
    (["t.csv", "--column", "x"], "--column needs --family"),
    (
        ["t.csv", "y ~ x", "--family", "gamma"],
        KINDS + "softmax, bernoulli, poisson, normal, negative_binomial, got 'gamma'",
    ),
    (
        ["t.csv", "y ~ x", "--family", "laplace"],
        KINDS + "softmax, bernoulli, poisson, normal, negative_binomial, got 'laplace'",
    ),
    (
        ["t.csv", "--column", "x", "--family", "softmax"],
        KINDS + COLUMN_FAMILIES + ", got 'softmax'",
    ),
    (
        ["t.csv", "y ~ x", "--family", "normal", "--baseline", "1"],
        "--baseline can only be used with --family softmax, got normal",
    ),
    (
        ["t.csv", "y ~ x", "--family", "normal", "--alpha", "1"],
        "--alpha can only be used with --family softmax, got normal",
    ),
    (
        ["t.csv", "kind ~ x", "--baseline", "elm"],
        "expected baseline to be one of ash, birch, oak, got elm",
    ),
    (["t.csv", "kind ~ x", "--alpha", "inf"], "expected a finite alpha of at least 0, got inf"),
    # The formula.
    (["t.csv", "x + z"], "expected a formula with one response, like 'y ~ a + b', got 'x + z'"),
    (["t.csv", ""], "expected a formula with one response, like 'y ~ a + b', got ''"),
    (
        ["t.csv", "kind ~ (x"],
        "expected a formula like 'y ~ a + b', got 'kind ~ (x': Could not find matching context "
        "marker.",
    ),
    (
        ["t.csv", "kind ~ two words"],
        "expected a formula like 'y ~ a + b', got 'kind ~ two words': Missing operator between "
        "`two` "
        "and `words`.",
    ),
    (
        ["t.csv", "kind ~ x | z"],
        "expected a formula with one set of columns, like 'y ~ a + b', got 'kind ~ x | z'",
    ),
    (["t.csv", "kind ~ 0"], "expected at least one column or an intercept, got 'kind ~ 0'"),
    # The columns.
    (["t.csv", "kind ~ xx"], "expected a column of the table, got 'xx'; did you mean x?"),
    (["t.csv", "knd ~ x"], "expected a column of the table, got 'knd'; did you mean kind?"),
    (
        ["t.parquet", "kind ~ 1 + mass"],
        f"expected a column of the table, got 'mass'; the table has {NAMES}",
    ),
    (
        ["t.csv", "--column", "counts", "--family", "poisson"],
        "expected a column of the table, got 'counts'; did you mean count?",
    ),
    (
        ["t.csv", "kind ~ gap + hole"],
        "expected no missing values, got 2 incomplete rows (gap: 2, hole: 1); --missing drop "
        "leaves "
        "them out",
    ),
    (
        ["t.csv", "--column", "gap", "--family", "normal"],
        "expected no missing values, got 2 incomplete rows (gap: 2); --missing drop leaves them "
        "out",
    ),
    (["t.csv", "kind ~ x + same"], "expected columns that vary, got constant column 'same'"),
    (["t.csv", "kind ~ only"], "expected columns that vary, got constant column 'only'"),
    (["t.csv", "only ~ x"], "expected at least two classes, got one class: q"),
    (
        ["t.csv", "same ~ x", "--family", "normal"],
        "expected a response that varies, got 1.5 in every row",
    ),
    (
        ["t.csv", "kind ~ texts"],
        "expected numbers in column 'texts', got 'high' at row 0; C(texts) takes its values as "
        "categories",
    ),
    (
        ["t.csv", "kind ~ np.log(w)"],
        f"expected finite values in column 'np.log(w)', got -inf at row {first(TABLE.w == 0)}",
    ),
    (
        ["t.csv", "kind ~ np.log(x)"],
        f"expected finite values in column 'np.log(x)', got nan at row {first(TABLE.x < 0)}",
    ),
    (
        ["t.csv", "kind ~ x + I(2 * x)"],
        "expected linearly independent columns, got 'x' = +0.5 I(2 * x) in every row",
    ),
    (
        ["t.csv", "texts ~ x", "--family", "poisson"],
        "expected numbers in column 'texts', got 'high' at row 0",
    ),
    (
        ["t.csv", "--column", "texts", "--family", "normal"],
        "expected numbers in column 'texts', got 'high' at row 0",
    ),
    (
        ["t.csv", "order ~ x", "--family", "bernoulli"],
        "data outside the support of bernoulli: expected 0 or 1, got 2 at row 2",
    ),
    (
        ["t.csv", "x ~ z"],
        "softmax expects classes, but 'x' has measurements; use family normal",
    ),
    (
        ["t.csv", "--column", "negative", "--family", "poisson"],
        "data outside the support of Poisson: expected a non-negative integer, got -2 at row 0",
    ),
    # The rows, by their number in the file.
    (
        ["rows.csv", "k ~ x", "--family", "poisson", "--missing", "drop"],
        "data outside the support of poisson: " + ROW_3,
    ),
    (
        ["rows.csv", "--column", "k", "--family", "poisson"],
        "data outside the support of Poisson: " + ROW_3,
    ),
    (
        ["rows.csv", "k ~ x", "--weights", "w", "--missing", "drop"],
        "expected finite weights of at least 0, got -6 at row 4",
    ),
    # The weights.
    (
        ["t.csv", "kind ~ x", "--weights", "negative"],
        "expected finite weights of at least 0, got -2 at row 0",
    ),
    (
        ["t.csv", "kind ~ x", "--weights", "g"],
        f"expected numbers in column 'g', got {TABLE.g[0]!r} at row 0",
    ),
    (
        ["t.csv", "kind ~ x", "--weights", "nope"],
        f"expected a column of the table, got 'nope'; the table has {NAMES}",
    ),
    (
        ["t.csv", "kind ~ x", "--weights", "gap"],
        "expected no missing values, got 2 incomplete rows (gap: 2); --missing drop leaves them "
        "out",
    ),
    # Where to write.
    (["t.csv", "kind ~ x", "--json", "nowhere/f"], NO_FOLDER),
    (["t.csv", "kind ~ x", "--report", "nowhere/f"], NO_FOLDER),
    (
        ["t.csv", "kind ~ x", "--json", "folder.csv"],
        "expected a file to write, got the folder folder.csv",
    ),
    (
        ["t.csv", "kind ~ x", "--report", "folder.csv"],
        "expected a file to write, got the folder folder.csv",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "message"), TOUR, ids=[" ".join(arguments) for arguments, _ in TOUR]
)
def test_the_tour_of_bad_input(arguments, message):
    result = run(*arguments)
    assert (result.exit_code, result.stderr, result.stdout) == (2, f"nll: {message}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["t.csv", "y ~ x", "--missing", "keep"], "'keep' is not one of 'error', 'drop'"),
        (["t.csv", "y ~ x", "--level", "1.5"], "Invalid value for '--level'"),
        (["t.csv", "y ~ x", "--level", "most"], "Invalid value for '--level'"),
        (["t.csv", "y ~ x", "--alpha", "-1"], "Invalid value for '--alpha'"),
        (["t.csv", "y ~ x", "--penalty", "1"], "No such option: --penalty"),
        ([], "Missing argument"),
    ],
)
def test_options_that_the_parser_refuses(arguments, message):
    result = run(*arguments)
    assert message in " ".join(re.sub("[│╭╮╰╯─]", " ", result.stderr).split())
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.parametrize("option", ["--json", "--report"])
def test_the_table_is_never_written_over(option, tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("y,x\n0,1\n1,2\n0,3\n1,3\n", encoding="utf-8")
    before = table.read_bytes()
    result = CliRunner().invoke(
        app, ["fit", str(table), "y ~ x", option, str(tmp_path / "." / "table.csv")]
    )
    assert (result.exit_code, table.read_bytes()) == (2, before)


def test_files_are_there_when_nobody_reads_the_table(tmp_path):
    table, found = tmp_path / "table.csv", tmp_path / "fit.json"
    table.write_text("y,x\n0,1\n1,2\n0,3\n1,3\n", encoding="utf-8")
    command = [sys.executable, "-m", "nll", "fit", str(table), "y ~ x", "--json", str(found)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
    assert json.loads(found.read_text())["converged"]


def test_the_report_has_the_level_of_the_table(tmp_path):
    table, page = tmp_path / "table.csv", tmp_path / "page.html"
    table.write_text("y,x\n0,1\n1,2\n0,3\n1,3\n", encoding="utf-8")
    CliRunner().invoke(app, ["fit", str(table), "y ~ x", "--level", "0.8", "--report", str(page)])
    text = page.read_text(encoding="utf-8")
    assert "80 %" in text
    assert "95 %" not in text


def test_version():
    assert CliRunner().invoke(app, ["--version"]).output == f"nll {nll.__version__}\n"
