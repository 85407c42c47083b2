"""`nll derive` from end to end."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from nll.cli.app import app


def run(*arguments: str):
    return CliRunner().invoke(app, ["derive", *arguments])


def test_the_steps_are_printed():
    found = run("bernoulli", "--data", "1,0,1,1")
    assert found.exit_code == 0
    assert "    p = 3/4 = 0.75" in found.stdout.splitlines()
    assert "求解" in run("poisson", "--language", "zh").stdout
    assert run("normal", "--latex").stdout.startswith("\\section*{")
    assert "m = 5" in run("binomial", "--data", "1,2", "--total-count", "5").stdout


def test_a_page_is_written(tmp_path):
    page = tmp_path / "page.html"
    assert run("normal", "--data", "1,2,4", "--html", str(page)).exit_code == 0
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert run("normal", "--html", "-").stdout.startswith("<!doctype html>")


def test_a_column_of_a_table(tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("x,y\n1,a\n0,b\n1,c\n1,d\n")
    assert "p = 3/4" in run("bernoulli", "--table", str(table), "--column", "x").stdout


def test_data_without_a_maximum_end_with_one():
    found = run("normal", "--data", "2,2")
    assert found.exit_code == 1
    assert "the data are all equal" in found.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dirichlet"], "expected the family to be one of bernoulli, "),
        (
            ["bernoulli", "--data", "1,x"],
            "expected comma-separated numbers, got 'x' at place 1",
        ),
        (["bernoulli", "--data", "1,2"], "expected 0 or 1, got 2"),
        (["binomial", "--data", "1,2"], "expected total_count=... with data"),
        (["normal", "--html", "/nowhere/page"], "no such folder: /nowhere"),
        (["normal", "--latex", "--html", "-"], "--latex cannot be combined with --html"),
        (["normal", "--table", "a.csv"], "--table and --column must be given together"),
        (
            ["normal", "--data", "1,2", "--table", "a.csv", "--column", "x"],
            "--data cannot be combined with --table",
        ),
    ],
)
def test_bad_input_is_named(arguments, message):
    found = run(*arguments)
    assert found.exit_code == 2
    assert message in found.stderr
