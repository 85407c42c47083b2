"""The start of the command: light for the help, and clear about what is missing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from nll.cli import main
from nll.cli.app import app

SUBCOMMANDS = ["fit", "predict", "score", "compare", "derive", "info", "bench"]
HEAVY = {"torch", "numpy", "pandas", "pyarrow", "scipy", "sklearn", "sympy", "matplotlib"}


def started(*arguments: str, **variables: str) -> tuple[str, set[str]]:
    """Return what a Python program prints, and the packages that it imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode in (0, 2), done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer.main" in imported
    return done.stdout, {name.partition(".")[0] for name in imported}


@pytest.fixture
def script(tmp_path) -> str:
    """The command as it is installed."""
    path = tmp_path / "nll"
    path.write_text("from nll.cli import main\n\nmain()\n")
    return str(path)


def completions(script: str, *words: str) -> list[str]:
    """Return what the shell offers after these words."""
    line = {"COMP_WORDS": " ".join(["nll", *words]), "COMP_CWORD": str(len(words))}
    shown, packages = started(script, _NLL_COMPLETE="complete_bash", **line)
    assert packages & HEAVY == set()
    return shown.split()


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--help"], ["--version"], []),
        *([name, "--help"] for name in SUBCOMMANDS),
        *(["fit", "t.csv"], ["derive", "nothing"], ["fit", "t.csv", "y ~ x", "--by", "g"]),
    ],
    ids=" ".join,
)
def test_help_and_wrong_options_do_without_pytorch(arguments):
    shown, packages = started("-m", "nll", *arguments)
    assert packages & HEAVY == set()
    assert "Usage: " in shown or "--help" not in arguments


def test_the_installed_command_too(script):
    shown, packages = started(script, "fit", "--help")
    assert "Usage: nll fit " in shown
    assert packages & HEAVY == set()


def test_what_computes_imports_pytorch(script):
    assert "torch" in started(script, "bench", "--only", "nothing of the kind")[1]


def test_completions_are_subcommands_and_options(script):
    assert completions(script, "") == SUBCOMMANDS
    assert {"--family", "--json", "--weights"} <= set(completions(script, "fit", "--"))
    assert completions(script, "compare", "--criterion", "a") == ["aic", "aicc"]


def test_completions_are_families(script):
    assert completions(script, "fit", "--family", "n") == [
        *("normal", "negative_binomial", "normal_mixture")
    ]
    assert completions(script, "derive", "half") == ["half_normal", "half_cauchy"]


def test_the_command_without_its_packages_says_how_to_get_them(monkeypatch):
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name in ("formulaic", "jinja2") else found(name),
    )
    with pytest.raises(
        SystemExit,
        match=r"^nll: the command needs formulaic, jinja2: pip install "
        r"'nll\[cli\]'",
    ):
        main()


def test_no_subcommand_shows_the_help():
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2
    for name in ("fit", "info"):
        assert name in result.stdout + result.stderr
