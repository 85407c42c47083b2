"""Formulas over tables in blocks: the columns, names and fit of the whole table in memory."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import nll
from nll.cli.app import app
from nll.data import survey
from nll.regression.formula.design import design, parse
from nll.regression.formula.streamed import formula_stream

N = 3000
FORMULA = "kind ~ age * region + np.log(income) + C(size) + ok"


def draw():
    rng = np.random.default_rng(0)
    region = np.array(["north", "south", "east"])[rng.integers(0, 3, N)]
    region[-20:] = "west"  # at the end alone
    table = pd.DataFrame(
        {
            "age": rng.normal(40, 10, N),
            "income": rng.gamma(2, 2, N),
            "region": region,
            "ok": rng.random(N) < 0.5,
            "size": rng.integers(1, 4, N),
            "w": rng.integers(1, 3, N),
            "firm": rng.integers(0, 50, N),
        }
    )
    scores = np.column_stack(
        [np.zeros(N), 0.02 * table.age - 1, 0.1 * table.income + (table["size"] == 2) * 0.4]
    )
    return table.assign(
        kind=np.array(["bus", "car", "walk"])[(scores + rng.gumbel(size=scores.shape)).argmax(1)]
    )


TABLE = draw()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts").mkdir()
    for number in range(3):
        TABLE.iloc[number * 1000 : (number + 1) * 1000].to_parquet(
            tmp_path / "parts" / f"{number}.parquet"
        )
    TABLE.to_csv(tmp_path / "t.csv", index=False)
    order = pd.CategoricalDtype(["south", "east", "west", "north"])
    TABLE.astype({"region": order}).to_parquet(tmp_path / "ordered.parquet")
    return tmp_path


def run(*arguments, code=0):
    found = CliRunner().invoke(app, list(map(str, arguments)))
    assert found.exit_code == code, found.output
    return found


@pytest.mark.parametrize("name", ["parts", "t.csv", "ordered.parquet"])
def test_the_fit_is_that_of_the_whole_table(folder, name):
    options = ("--weights", "w", "--cluster", "firm")
    run(
        "fit",
        name,
        FORMULA,
        *options,
        "--checkpoint",
        "passes",
        "--json",
        "blocks.json",
        "--save",
        "a.json",
    )
    whole = name if name != "parts" else "t.csv"
    run("fit", whole, FORMULA, *options, "--json", "memory.json", "--save", "b.json")
    blocks, memory = (
        json.loads((folder / f"{own}.json").read_text()) for own in ("blocks", "memory")
    )
    assert blocks["names"] == memory["names"]
    for part in ("params", "standard_errors"):
        assert np.array(blocks[part]["coef"]) == pytest.approx(
            np.array(memory[part]["coef"]), rel=1e-7, abs=1e-12
        )
    assert blocks["log_likelihood"] == pytest.approx(memory["log_likelihood"], rel=1e-12)
    for model in ("a", "b"):
        run("predict", f"{model}.json", whole, "--output", f"{model}.csv")
    pd.testing.assert_frame_equal(pd.read_csv("a.csv"), pd.read_csv("b.csv"), rtol=1e-8)


def test_rows_with_missing_values_are_left_out_and_counted():
    table = TABLE.copy()
    table.loc[[3, 70], "age"] = np.nan
    table.loc[[70, 500], "region"] = None
    table.loc[900, "kind"] = None
    stream, terms = formula_stream(table, FORMULA, missing="drop")
    found = nll.SoftmaxRegression().fit(stream).result_
    expected = design(table.dropna(), parse(FORMULA))
    assert found.dropped == 4
    assert list(terms.columns[1:]) == list(map(str, expected.x.columns))
    again = nll.SoftmaxRegression().fit(expected.x, expected.y).result_
    assert found.vector.numpy() == pytest.approx(again.vector.numpy(), rel=1e-7, abs=1e-9)
    with pytest.raises(
        ValueError, match="expected no missing values, got one in column 'age' at row 3"
    ):
        nll.SoftmaxRegression().fit(formula_stream(table, FORMULA)[0])


def test_what_needs_the_whole_table_is_named(folder, monkeypatch):
    center = run("fit", "parts", "kind ~ center(age)", code=2)
    assert (
        "a table that is read in blocks needs terms of single rows, but center(age) depends on "
        "all rows"
    ) in (center.stderr)
    assert (
        "can only be fitted with --family softmax"
        in run("fit", "parts", FORMULA, "--firth", code=2).stderr
    )
    wrong = run("fit", "parts", "kind ~ age + regoin", code=2)
    assert "'regoin'" in wrong.stderr
    texts = TABLE.assign(name=[f"n{row}" for row in range(N)])
    monkeypatch.setattr(survey, "MOST_CATEGORIES", 1000)
    with pytest.raises(
        ValueError, match="expected at most 1000 categories in column 'name', got more"
    ):
        formula_stream(texts, "kind ~ age + name")
