"""`nll bench`: what it prints and writes."""

from __future__ import annotations

import json
from dataclasses import replace

import torch
from typer.testing import CliRunner

import nll
from nll.cli import benchmark as bench
from nll.cli.app import app

runner = CliRunner()
SMALL = [replace(case, shape=(40, 500)) for case in bench.CASES[:2]]


def test_the_command_prints_and_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "CASES", SMALL)
    path = tmp_path / "bench.json"
    result = runner.invoke(app, ["bench", "--no-compile", "--rounds", "2", "--json", str(path)])
    assert result.exit_code == 0, result.output
    assert "eager" in result.stdout
    assert "float32, in place" in result.stdout
    found = json.loads(path.read_text())
    assert found["machine"]["torch"] == torch.__version__
    assert found["machine"]["nll"] == nll.__version__
    assert [entry["case"] for entry in found["results"]] == ["float32", "float32, in place"]


def test_json_alone_on_stdout(monkeypatch):
    monkeypatch.setattr(bench, "CASES", SMALL[:1])
    result = runner.invoke(app, ["bench", "--no-compile", "--rounds", "2", "--json", "-"])
    assert json.loads(result.stdout)["results"][0]["shape"] == [40, 500]


def test_no_such_case():
    result = runner.invoke(app, ["bench", "--only", "nothing of the kind"])
    assert result.exit_code == 2
    assert "the smallest" in result.output
