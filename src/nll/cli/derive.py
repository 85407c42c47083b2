"""`nll derive`: maximum likelihood for a family, step by step."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from nll.cli.fit import snake
from nll.cli.output import require_places, show
from nll.cli.tables import Decimal, Encoding, Sep, dialect_of, read_table
from nll.data.csv_files import Dialect
from nll.data.files import write_text
from nll.derivation import derive as derived
from nll.derivation.densities import TABLE
from nll.regression.formula import design


class Language(str, Enum):
    """Of the sentences."""

    en = "en"
    zh = "zh"


FAMILIES = {snake(known.__name__): known for known in TABLE}


def derive(
    family: Annotated[str, typer.Argument(help=", ".join(FAMILIES), show_default=False)],
    data: Annotated[
        str | None, typer.Option(help="Numbers with commas between, for example 1,0,1,1.")
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="A CSV or Parquet file with the data, in --column.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="The column of --table.")] = None,
    total_count: Annotated[
        int | None, typer.Option(min=1, help="The trials of a binomial observation.")
    ] = None,
    language: Annotated[Language, typer.Option(help="Of the sentences.")] = Language.en,
    latex: Annotated[bool, typer.Option("--latex", help="Print LaTeX.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page; - prints it.")] = None,
    sep: Sep = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
) -> None:
    """Work out a family's likelihood, its equations and their solution; with data in numbers too.

    Exit codes: 0; 1 the data have no maximum, and the text says why; 2 the input cannot be used.
    """
    if family not in FAMILIES:
        raise ValueError(f"expected a family of {', '.join(FAMILIES)}, got {family!r}")
    if latex and html is not None:
        raise ValueError("expected --latex or --html, got both")
    require_places([table], [], html)
    given = {} if total_count is None else {"total_count": float(total_count)}
    numbers = _data(data, table, column, dialect_of(sep, decimal, encoding))
    found = derived(FAMILIES[family], numbers, **given)
    text = (
        found.html(language.value)
        if html
        else (found.latex if latex else found.text)(language.value)
    )
    if html is None or str(html) == "-":
        show(text + "\n" * (html is None))
    else:
        write_text(html, text)
        typer.echo(f"Page: {html}", file=sys.stderr)
    raise typer.Exit(0 if found.found is None or found.found.converged else 1)


def _data(
    data: str | None, table: Path | None, column: str | None, dialect: Dialect
) -> list[float] | None:
    if (table is None) != (column is None):
        raise ValueError("expected --table and --column together, got one of them")
    if data is not None and table is not None:
        raise ValueError("expected --data or --table, got both")
    if table is not None and column is not None:
        return _column(table, column, dialect)
    return None if data is None else _numbers(data)


def _column(table: Path, column: str, dialect: Dialect) -> list[float]:
    frame = read_table(table, [column], dialect)
    design.require_columns([column], [str(name) for name in frame.columns])
    return design.numbers(frame[column], column).tolist()


def _numbers(text: str) -> list[float]:
    found = []
    for place, part in enumerate(text.split(",")):
        try:
            found.append(float(part))
        except ValueError:
            raise ValueError(
                f"expected numbers with commas between, got {part!r} at place {place}"
            ) from None
    return found
