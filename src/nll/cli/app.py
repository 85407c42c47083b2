"""The subcommands and the exit codes: 0 a fit to trust, 1 a fit that did not converge, 2 bad input."""

from __future__ import annotations

import typer

from nll.cli.fit import fit
from nll.cli.info import info

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Maximum likelihood: fit a likelihood to a table.",
)
app.command()(fit)
app.command()(info)
