"""`nll compare` from end to end."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from torch import distributions as td
from typer.testing import CliRunner, Result

import nll
from nll.cli.app import app

ROWS = 80


def table() -> pd.DataFrame:
    draw = np.random.default_rng(0)
    wait = draw.gamma(2.0, 3.0, ROWS)
    return pd.DataFrame(
        {
            "wait": wait,
            "open": (wait > 8).astype(int),
            "count": draw.poisson(3.0, ROWS),
            "share": draw.beta(2.0, 3.0, ROWS),
            "real": draw.normal(size=ROWS),
            "w": draw.integers(0, 3, ROWS),
            "gap": [np.nan, np.nan, *wait[2:]],
            "same": 1.5,
            "text": "q",
        }
    )


TABLE = table()


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["compare", "t.csv", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def compared(*arguments: str, code: int = 0) -> dict:
    """The JSON of a comparison, which goes to the output alone."""
    result = run(*arguments, "--json", "-")
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def rounded(found: object) -> object:
    """The same with 11 digits of each number."""
    return json.loads(json.dumps(found), parse_float=lambda text: f"{float(text):.10e}")


def test_the_numbers_are_the_librarys():
    options = ("--families", "gamma,weibull", "--criterion", "bic", "--replicates", 49, "--seed", 3)
    found = compared("--column", "wait", *options)
    expected = nll.compare(
        {"gamma": td.Gamma, "weibull": td.Weibull},
        TABLE["wait"],
        criterion="bic",
        replicates=49,
        seed=3,
    )
    # To rounding: how a sum is cut depends on where its numbers lie in memory.
    assert rounded(found) == rounded(expected.to_dict())
    printed = run("--column", "wait", *options)
    assert printed.exit_code == 0
    assert printed.stdout == f"{expected}\n"
    assert printed.stderr == ""


@pytest.mark.parametrize(
    ("column", "families"),
    [
        ("count", {"poisson", "geometric", "negative_binomial"}),
        ("real", {"normal", "laplace", "student_t", "gumbel", "skew_normal"}),
    ],
)
def test_families_follow_from_the_column(column, families):
    found = compared("--column", column, "--replicates", 0)
    assert {row["name"] for row in found["candidates"]} == families


def test_shares_and_positive_numbers_have_families_of_their_own():
    shares = {row["name"] for row in compared("--column", "share", "--replicates", 0)["candidates"]}
    waits = {row["name"] for row in compared("--column", "wait", "--replicates", 0)["candidates"]}
    assert {"gamma", "weibull", "log_normal", "inverse_gaussian", "exponential", "normal"} <= waits
    assert shares - waits == {"beta"}


def test_weights():
    found = compared(
        "--column", "wait", "--families", "gamma,normal", "--weights", "w", "--replicates", 0
    )
    expected = nll.compare([td.Gamma, td.Normal], TABLE["wait"], weights=TABLE["w"], replicates=0)
    assert found["n"] == TABLE["w"].sum()
    assert [row["bic"] for row in found["candidates"]] == [row.bic for row in expected.table]


def test_censored_rows():
    found = compared("--column", "wait", "--families", "gamma,weibull", "--censored-right", "open")
    data = nll.censored(TABLE["wait"], right=TABLE["open"])
    expected = nll.compare([td.Gamma, td.Weibull], data, replicates=0)
    values = [row["log_likelihood"] for row in found["candidates"]]
    assert values == pytest.approx([row.log_likelihood for row in expected.table], rel=1e-12)
    assert (
        values[0]
        > compared("--column", "wait", "--families", "gamma")["candidates"][0]["log_likelihood"]
    )
    assert "not for censored or truncated observations" in found["status"]


def test_missing_rows():
    found = compared(
        "--column", "gap", "--families", "gamma", "--missing", "drop", "--replicates", 0
    )
    assert found["n"] == ROWS - 2
    alone = nll.fit(td.Gamma, TABLE["wait"][2:])
    assert found["candidates"][0]["log_likelihood"] == pytest.approx(
        alone.log_likelihood, rel=1e-12
    )


def test_what_is_not_possible_is_null():
    found = compared("--column", "real", "--families", "gamma,normal", "--replicates", 0)
    assert (found["best"], found["candidates"][1]["aic"]) == ("normal", None)
    assert found["candidates"][1]["status"].startswith("not possible: ")


def test_without_a_maximum_it_exits_with_1():
    assert compared("--column", "same", "--families", "normal,gamma", code=1)["best"] is None


def test_json_goes_to_a_file(tmp_path):
    result = run(
        "--column",
        "wait",
        "--families",
        "gamma",
        "--replicates",
        0,
        "--json",
        tmp_path / "größe.json",
    )
    assert result.stdout.startswith("n = 80")
    assert json.loads((tmp_path / "größe.json").read_text(encoding="utf-8"))["best"] == "gamma"


def test_counts_as_printed():
    done = run("--column", "count", "--replicates", 19)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "poisson has the smallest AIC" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--column", "wiat"], "expected a column of the table, got 'wiat'; did you mean wait?"),
        (["--column", "text"], "expected numbers in column 'text', got 'q' at row 0"),
        (
            ["--column", "wait", "--families", "gama"],
            "expected --families to be one of bernoulli, geometric, ",
        ),
        (
            ["--column", "wait", "--families", "gamma,gamma"],
            "expected different --families, got 'gamma' twice",
        ),
        (["--column", "wait", "--families", ","], "expected at least one model, got none"),
        (
            ["--column", "count", "--families", "poisson,gamma"],
            "expected models of counts or of measurements, got ",
        ),
        (
            ["--column", "real", "--families", "gamma"],
            "expected a family that can be fitted, got none: ",
        ),
        (
            ["--column", "gap"],
            "expected no missing values, got 2 incomplete rows (gap: 2); --missing drop leaves "
            "them ",
        ),
        (["--column", "wait", "--weights", "real"], "expected finite weights of at least 0, got -"),
        (
            ["--column", "wait", "--censored-right", "count"],
            "expected 0 or 1 in column 'count', got ",
        ),
        (
            ["--column", "wait", "--json", "t.csv"],
            "expected a file of its own for each result, got t.csv again",
        ),
        (
            ["--column", "wait", "--json", "nowhere/f"],
            "no such folder: nowhere",
        ),
    ],
)
def test_the_tour_of_bad_input(arguments, message):
    result = run(*arguments)
    assert result.stderr.startswith(f"nll: {message}")
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.parametrize(
    "arguments",
    [[], ["--column", "wait", "--replicates", "-1"], ["--column", "wait", "--criterion", "mdl"]],
)
def test_options_that_the_parser_refuses(arguments):
    assert run(*arguments).exit_code == 2
