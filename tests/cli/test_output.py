"""Whatever stops the command is one line on stderr, and exit code 2; files are whole."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from nll.cli.app import app
from nll.cli.output import Commands, require_places


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    draw = np.random.default_rng(0)
    pd.DataFrame({"a": draw.normal(size=60), "y": draw.choice(list("uv"), 60)}).to_csv(
        "t.csv", index=False
    )
    Path("dir").mkdir()
    pd.read_csv("t.csv").to_csv("dir/0.csv", index=False)
    Path("link.csv").symlink_to("t.csv")
    os.link("t.csv", "hard.csv")
    Path("linked").symlink_to("dir")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--save", "x", "--checkpoint", "x"],
            "expected a file of its own for each result, got x again",
        ),
        (
            ["--json", "x", "--report", "./x"],
            "expected a file of its own for each result, got x again",
        ),
        (
            ["--json", "dir/x", "--save", "linked/x"],
            "expected a file of its own for each result, got dir/x again",
        ),
        (["--save", "link.csv"], "expected a file of its own for each result, got link.csv again"),
        (["--json", "hard.csv"], "expected a file of its own for each result, got hard.csv again"),
        (["--checkpoint", "t.csv"], "expected a file of its own for each result, got t.csv again"),
        (["--save", "dir"], "expected a file to write, got the folder dir"),
        (["--save", "no/x"], "no such folder: no"),
        (["--save", "-"], "this result cannot be printed: expected a file, got -"),
        (["--save", "/dev/full"], "No space left on device: '/dev/full'"),
        (["--json", "/dev/full"], "No space left on device: '/dev/full'"),
        (["--report", "/dev/full"], "No space left on device: '/dev/full'"),
    ],
)
def test_files_that_cannot_be_written_or_would_be_lost(folder, arguments, message):
    done = CliRunner().invoke(app, ["fit", "t.csv", "y ~ a", *arguments])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("nll: ")
    assert message in done.stderr


def test_the_files_of_a_folder_are_not_overwritten(folder):
    done = CliRunner().invoke(app, ["fit", "linked", "y ~ a", "--json", "dir/0.csv"])
    assert (done.exit_code, "got dir/0.csv again" in done.stderr) == (2, True)


def test_devices_take_several_results_and_a_folder_must_take_files(folder, monkeypatch):
    require_places([Path("t.csv")], [Path(os.devnull), Path(os.devnull)], Path("-"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="no permission to write x"):
        require_places([], [Path("x")])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        SystemError("error return without exception set"),
    ],
)
def test_memory_that_runs_out_is_said_in_words(error):
    def fail() -> None:
        raise error

    short = typer.Typer(cls=Commands, pretty_exceptions_enable=False)
    short.command()(fail)
    short.command("other")(lambda: None)
    done = CliRunner().invoke(short, ["fail"])
    assert (done.exit_code, "out of memory; softmax regression" in done.stderr) == (2, True)


def output(kind: str) -> int:
    if kind == "full":
        return os.open("/dev/full", os.O_WRONLY)
    read, write = os.pipe()
    os.close(read)
    return write


@pytest.mark.parametrize("kind", ["full", "pipe", "closed"])
@pytest.mark.parametrize(
    "arguments", [["fit", "t.csv", "y ~ a", "--json", "-"], ["derive", "normal"]]
)
def test_an_output_that_is_closed_or_full(folder, kind, arguments, monkeypatch, capsys):
    with ExitStack() as stack:
        stream = None if kind == "closed" else stack.enter_context(open(output(kind), "w"))
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as stop:
            app(arguments)
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert sum(line.startswith("nll: cannot read or write: ") for line in lines) == 1
