"""`nll derive`: the maximum likelihood estimator of a distribution, step by step."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from nll.cli.names import DERIVATIONS
from nll.cli.options import Decimal, Encoding, Sep, completing, dialect_of, one_of
from nll.cli.output import require_places, show
from nll.data.csv_dialect import Dialect
from nll.data.files import write_text


class Language(str, Enum):
    """Language of the explanations."""

    en = "en"
    zh = "zh"


def derive(
    family: Annotated[
        str,
        typer.Argument(
            help=", ".join(DERIVATIONS),
            show_default=False,
            autocompletion=completing(*DERIVATIONS),
        ),
    ],
    data: Annotated[str | None, typer.Option(help="Comma-separated values, e.g. 1,0,1,1.")] = None,
    table: Annotated[
        Path | None, typer.Option(help="CSV or Parquet file with the data, in --column.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of --table.")] = None,
    total_count: Annotated[
        int | None, typer.Option(min=1, help="Number of trials of a binomial observation.")
    ] = None,
    language: Annotated[Language, typer.Option(help="Language of the explanations.")] = Language.en,
    latex: Annotated[bool, typer.Option("--latex", help="Print LaTeX.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write an HTML page; - prints it to stdout.")
    ] = None,
    sep: Sep = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
) -> None:
    """Derive the maximum likelihood estimator of a distribution step by step, optionally with your
    data.

    Exit codes: 0; 1 the data have no maximum (the text says why); 2 invalid input.
    """
    one_of("the family", family, DERIVATIONS)
    if latex and html is not None:
        raise ValueError("--latex cannot be combined with --html")
    require_places([table], [], html)
    fixed = {} if total_count is None else {"total_count": float(total_count)}
    numbers = _data(data, table, column, dialect_of(sep, decimal, encoding))
    from nll.cli.families import snake
    from nll.derivation import derive as derive_family
    from nll.derivation import render
    from nll.derivation.densities import TABLE

    classes = {snake(listed.__name__): listed for listed in TABLE}
    derivation = derive_family(classes[family], numbers, **fixed)
    form = render.html if html else render.latex if latex else render.text
    text = form(derivation, language.value)
    if html is None:
        show(text + "\n")
    elif str(html) == "-":
        show(text)
    else:
        write_text(html, text)
        typer.echo(f"Page: {html}", file=sys.stderr)
    raise typer.Exit(0 if derivation.fit is None or derivation.fit.converged else 1)


def _data(
    data: str | None, table: Path | None, column: str | None, dialect: Dialect
) -> list[float] | None:
    if (table is None) != (column is None):
        raise ValueError("--table and --column must be given together")
    if data is not None and table is not None:
        raise ValueError("--data cannot be combined with --table")
    if table is not None and column is not None:
        from nll.cli.tables import read_table
        from nll.regression.formula import design

        frame = read_table(table, [column], dialect)
        design.require_columns([column], [str(name) for name in frame.columns])
        return design.numbers(frame[column], column).tolist()
    return None if data is None else [_number(*at) for at in enumerate(data.split(","))]


def _number(place: int, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"expected comma-separated numbers, got {text!r} at place {place}"
        ) from None
