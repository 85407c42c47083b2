"""Options that several subcommands share."""

from __future__ import annotations

import re
from collections.abc import Collection
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from torch.distributions import Normal

from nll.families.compound import INFLATED, SHIFTED, shifted, zero_inflated
from nll.families.mixture import mixture
from nll.families.registry import FAMILIES


class Missing(str, Enum):
    """What happens to rows with missing values."""

    error = "error"
    drop = "drop"

    @property
    def policy(self) -> str:
        """The library's word for it."""
        return "drop" if self is Missing.drop else "raise"


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


def snake(name: str) -> str:
    """Return a class name as the command spells it: student_t."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


_SINGLE = [family for family in FAMILIES.values() if not (family.columns or family.given)]
_COMPOUND = (*map(shifted, SHIFTED), *map(zero_inflated, INFLATED), mixture(Normal))
DISTRIBUTIONS = {snake(family.name): family for family in (*_SINGLE, *_COMPOUND)}


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
