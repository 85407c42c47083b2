"""The command's subcommands.

Exit codes: 0 a converged fit, 1 a fit that did not converge, 2 invalid input.
"""

from __future__ import annotations

from typing import Annotated

import typer

from nll._version import __version__
from nll.cli.bench import bench
from nll.cli.compare import compare
from nll.cli.derive import derive
from nll.cli.fit import fit
from nll.cli.info import info
from nll.cli.output import Commands
from nll.cli.predict import predict, score

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
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
