"""Tables in the forms that people have them: separators, decimal signs, encodings, pipes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from nll.cli.app import app
from nll.cli.tables import read_table

DRAW = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {"größe": DRAW.normal(size=60), "y": DRAW.choice(list("uv"), 60), "n": DRAW.integers(0, 9, 60)}
)


def text(sep: str = ",", decimal: str = ".") -> str:
    return TABLE.to_csv(index=False, sep=sep, decimal=decimal)


PLAIN, SEMI, BAR = text(), text(";", ","), text("|", ",").encode("latin-1")
OPTIONS = ["--sep", "|", "--decimal", ",", "--encoding", "latin-1"]


def run(*arguments: str, given: bytes | None = None):
    done = CliRunner().invoke(app, list(map(str, arguments)), input=given)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def value(*arguments: str, given: bytes | None = None) -> float:
    done = run("fit", *arguments, "--json", "-", given=given)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["log_likelihood"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> float:
    path = tmp_path_factory.mktemp("plain") / "t.csv"
    path.write_text(PLAIN, encoding="utf-8")
    return value(path, "y ~ größe + n")


@pytest.mark.parametrize("layout", ["file", "folder", "checkpoint", "pipe", "gzip"])
@pytest.mark.parametrize(
    ("content", "options"),
    [
        (PLAIN.encode(), []),
        (text(";").encode(), []),
        (SEMI.encode(), []),
        (b"\xef\xbb\xbf" + SEMI.encode(), []),
        (text("\t").encode(), []),
        (BAR, OPTIONS),
    ],
    ids=["comma", "semicolon", "decimal comma", "byte order mark", "tab", "told"],
)
def test_the_same_table(tmp_path, expected, layout, content, options):
    given, path, more = None, tmp_path / "t.csv", []
    if layout == "gzip":
        path = tmp_path / "t.csv.gz"
        path.write_bytes(gzip.compress(content))
    elif layout == "pipe":
        given, path = content, "-"
    else:
        path.write_bytes(content)
    if layout == "folder":
        path = tmp_path
    elif layout == "checkpoint":
        more = ["--checkpoint", tmp_path / "c"]
    assert value(path, "y ~ größe + n", *options, *more, given=given) == pytest.approx(
        expected, rel=1e-11
    )


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("a;b\n1,5;2\n2,25;3\n", ["a", "b"]),
        ("size, cm;b\n1;2\n2;3\n", ["size, cm", "b"]),
        ('"a,b";"c"\n1;2\n', ["a,b", "c"]),
        ('a,"b;c"\n1,"x;y;z"\n2,"u"\n', ["a", "b;c"]),
        ("a\n1\n2\n", ["a"]),
        ("a;b\n1;x\n2;y;z\n", None),
    ],
)
def test_the_separator_is_the_one_that_the_lines_share(tmp_path, content, columns):
    (tmp_path / "t.csv").write_text(content)
    if columns is None:
        with pytest.raises(ValueError, match="expected a readable table"):
            read_table(tmp_path / "t.csv")
    else:
        table = read_table(tmp_path / "t.csv")
        assert list(table.columns) == columns
        assert table[columns[0]].dtype.kind in "if"


def test_the_other_commands_read_them_too(tmp_path):
    (tmp_path / "t.csv").write_bytes(BAR)
    model = tmp_path / "m.json"
    assert run("fit", tmp_path / "t.csv", "y ~ größe", "--save", model, *OPTIONS).exit_code == 0
    for command in (["predict", model], ["score", model]):
        assert run(*command, "-", *OPTIONS, given=BAR).exit_code == 0
        assert run(*command, "-", given=SEMI.encode()).exit_code == 0
    assert (
        run("compare", "-", "--column", "n", "--replicates", 0, *OPTIONS, given=BAR).exit_code == 0
    )
    assert (
        run("derive", "poisson", "--table", "-", "--column", "n", *OPTIONS, given=BAR).exit_code
        == 0
    )
    TABLE.to_parquet(tmp_path / "t.parquet")
    assert run("score", model, "-", given=(tmp_path / "t.parquet").read_bytes()).exit_code == 0


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (
            b"a;y\n1,234;u\n2,500;v\n",
            [],
            "expected --decimal , or --decimal . for t.csv, got 1,234, where the comma",
        ),
        (b"a|y\n1,5|u\n", [], "expected a readable table in t.csv"),
        (BAR, ["--sep", "|"], "--encoding latin-1 or another may be right"),
        (
            SEMI.encode(),
            ["--sep", ";;"],
            "expected a separator of one character, such as ; or a tab, got ';;'",
        ),
        (SEMI.encode(), ["--decimal", "x"], "expected a decimal sign of . or a comma, got 'x'"),
        (
            SEMI.encode(),
            ["--sep", ",", "--decimal", ","],
            "expected a separator other than the decimal sign",
        ),
        (
            SEMI.encode(),
            ["--encoding", "klingon"],
            "expected an encoding such as utf-8 or latin-1, got 'klingon'",
        ),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path, monkeypatch, content, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_bytes(content)
    done = run("fit", "t.csv", "y ~ a", *arguments)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.stderr
    assert message in done.stderr


@pytest.mark.parametrize(
    ("given", "arguments", "message"),
    [
        (b"", [], "expected a readable table in standard input, got: Empty CSV file"),
        (b"y,a\n", [], "expected at least one row, got none"),
        (
            SEMI.encode(),
            ["--checkpoint", "c"],
            "only a file or a folder can be read in blocks",
        ),
    ],
)
def test_the_standard_input_in_words(tmp_path, monkeypatch, given, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = run("fit", "-", "y ~ größe", *arguments, given=given)
    assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
