"""Options that several subcommands share; light, as the help needs them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from nll.data.csv_dialect import Dialect


class Missing(str, Enum):
    """What happens to rows with missing values."""

    error = "error"
    drop = "drop"

    @property
    def policy(self) -> str:
        """The library's word for it."""
        return "drop" if self is Missing.drop else "raise"


Table = Annotated[
    Path,
    typer.Argument(help="A CSV or Parquet file; - reads the standard input.", show_default=False),
]
MissingRows = Annotated[
    Missing, typer.Option(help="Rows with missing values: stop with an error, or drop them.")
]
Weights = Annotated[
    str | None,
    typer.Option(help="Column of frequencies: how often each row was observed."),
]
CensoredRight = Annotated[
    str | None,
    typer.Option(
        help="Column that is 1 where the value is right-censored (a lower bound), 0 otherwise."
    ),
]
Event = Annotated[
    str | None,
    typer.Option(
        help="The opposite of --censored-right: 1 where the event was observed, 0 where the value "
        "is censored."
    ),
]
Level = Annotated[float, typer.Option(min=0.01, max=0.9999, help="Confidence level.")]
Json = Annotated[
    Path | None, typer.Option("--json", help="Write the result as JSON; - prints it to stdout.")
]
Sep = Annotated[
    str | None, typer.Option(help="Column separator of a CSV file; , and ; are detected.")
]
Decimal = Annotated[str | None, typer.Option(help="Decimal sign of a CSV file, . or a comma.")]
Encoding = Annotated[
    str | None, typer.Option(help="Encoding of a CSV file, such as latin-1; the default is UTF-8.")
]


def dialect_of(sep: str | None, decimal: str | None, encoding: str | None) -> Dialect:
    """Return the dialect that the options describe; ValueError for impossible values."""
    return Dialect("\t" if sep in ("\\t", "tab") else sep, decimal, encoding).check()


def options_of(context: typer.Context) -> list[str]:
    """Return the options that were given, such as --censored-right."""
    unset = (None, False, 0.0)
    return [
        f"--{name.replace('_', '-')}"
        for name, value in context.params.items()
        if value not in unset
    ]


def one_of(option: str, name: str, names: Collection[str]) -> str:
    """Return the name; ValueError where it is not among the names."""
    if name not in names:
        raise ValueError(f"expected {option} to be one of {', '.join(names)}, got {name!r}")
    return name


def completing(*names: str) -> Callable[[str], list[str]]:
    """Return what the shell calls to complete one of the names."""

    def completions(incomplete: str) -> list[str]:
        return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]

    return completions
