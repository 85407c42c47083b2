"""Formulas: the other columns as `.`, and what is parsed once."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from nll.cli.app import app
from nll.regression.formula.design import design
from nll.regression.formula.names import right_side
from nll.regression.formula.parser import parse, spelled_out
from nll.regression.formula.terms import Terms

RNG = np.random.default_rng(0)
N = 40
TABLE = pd.DataFrame(
    {
        "y": RNG.integers(0, 2, N),
        "x": RNG.gamma(2.0, 1.0, N),
        "k": RNG.integers(0, 3, N),
        "g": RNG.choice(["a)", "b", "c"], N),
    }
)


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("y ~ .", "y ~ (x + `a b` + `.`)"),
        ("y ~ . - x", "y ~ (x + `a b` + `.`) - x"),
        ("np.log(y) ~ .**2", "np.log(y) ~ (x + `a b` + `.`)**2"),
        ("y ~ `.` + x", "y ~ `.` + x"),
    ],
)
def test_the_other_columns(formula, expected):
    assert spelled_out(formula, ["y", "x", "w", "a b", "."], ["w", None]) == expected


def test_a_dot_without_other_columns():
    with pytest.raises(ValueError, match=r"expected other columns than the response for the '\.'"):
        spelled_out("y ~ .", ["y", "w"], ["w"])
    with pytest.raises(ValueError, match="the other columns of a table, where no table is known"):
        parse("y ~ .")


def test_the_right_side():
    assert right_side("`y~2` ~ `~` + C(g, Treatment('~'))") == "`~` + C(g, Treatment('~'))"


@pytest.mark.parametrize("where", ["t.csv", "parts"])
def test_a_dot_on_the_command_line(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = TABLE.assign(w=1 + TABLE.k).rename(columns={"x": "a ~ b"})
    table.to_csv("t.csv", index=False)
    (tmp_path / "parts").mkdir()
    table[:25].to_parquet("parts/0.parquet")
    table[25:].to_parquet("parts/1.parquet")
    found = []
    for formula in ("y ~ . - g", "y ~ `a ~ b` + k"):
        for command in (
            [
                "fit",
                where,
                formula,
                "--weights",
                "w",
                "--save",
                "m.json",
                "--json",
                "fit.json",
                "--margins",
            ],
            ["predict", "m.json", "t.csv", "--output", "p.csv"],
            ["score", "m.json", "t.csv"],
        ):
            done = CliRunner().invoke(app, command)
            assert done.exit_code == 0, done.output
        kept = json.loads((tmp_path / "fit.json").read_text())
        found.append((kept["params"], kept["margins"], pd.read_csv("p.csv").to_dict()))
    assert found[0] == found[1]


def test_a_formula_is_read_once():
    """The terms of a fit are those that its formula was parsed to."""
    formula = "y ~ x * g + np.log(x) + C(k)"
    assert parse(formula) is parse(formula)
    built = design(TABLE, parse(formula))
    terms = Terms.of(built.spec, formula)
    again = Terms.from_dict(json.loads(json.dumps(terms.to_dict())))
    assert list(terms.parsed) == list(again.parsed)
