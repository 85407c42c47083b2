"""`nll info` prints the facts."""

from __future__ import annotations

from typer.testing import CliRunner

from nll.cli import facts as info
from nll.cli.app import app


def test_printed():
    result = CliRunner().invoke(app, ["info"])
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    for name, value in info.facts():
        assert f"{name} {value}" in text
