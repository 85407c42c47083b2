"""What `nll fit` writes and where, and its exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from fit_command import fitted, run, write_files
from typer.testing import CliRunner

from nll.cli.app import app


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def in_folder(data, monkeypatch):
    """What the tests write goes where they read."""
    monkeypatch.chdir(data)


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
