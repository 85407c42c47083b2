"""The subcommands and the exit codes: 0 a fit to trust, 1 a fit that did not converge, 2 bad
input.
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
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)
    ] = False,
) -> None:
    """Maximum likelihood: fit a likelihood to a table."""
    if version:
        typer.echo(f"nll {__version__}")
        raise typer.Exit


app.command()(fit)
app.command()(predict)
app.command()(score)
app.command()(compare)
app.command()(derive)
app.command()(info)
app.command()(bench)
