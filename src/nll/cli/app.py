"""The command's subcommands.

Exit codes: 0 a converged fit, 1 a fit that did not converge, 2 invalid input.
"""

from __future__ import annotations

from typing import Annotated

import typer

from nll._version import __version__
from nll.cli.commands.bench import bench
from nll.cli.commands.compare import compare
from nll.cli.commands.derive import derive
from nll.cli.commands.fit import fit
from nll.cli.commands.info import info
from nll.cli.commands.predict import predict, score
from nll.cli.output import Commands

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """Fit statistical models by maximum likelihood."""
    if version:
        typer.echo(f"nll {__version__}")
        raise typer.Exit


for command in (fit, predict, score, compare, derive, info, bench):
    app.command()(command)
