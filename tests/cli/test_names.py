"""The names in the help are those of the families that there are."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from nll.cli import families, names
from nll.cli.app import app
from nll.derivation.densities import TABLE
from nll.regression.formula.regress import FAMILIES


def test_the_names_are_those_of_the_registries():
    assert names.REGRESSIONS == FAMILIES
    assert tuple(families.DISTRIBUTIONS) == names.DISTRIBUTIONS
    assert tuple(families.snake(family.__name__) for family in TABLE) == names.DERIVATIONS


@pytest.mark.parametrize(
    ("command", "listed"),
    [("fit", names.REGRESSIONS), ("fit", names.DISTRIBUTIONS), ("derive", names.DERIVATIONS)],
)
def test_the_help_lists_them(command, listed):
    result = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "2000"})
    assert result.exit_code == 0
    assert ", ".join(listed) in result.stdout
