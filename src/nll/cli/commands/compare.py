"""`nll compare`: which family describes a column of a table best, and whether it fits."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from nll.cli.names import DISTRIBUTIONS
from nll.cli.options import (
    CensoredRight,
    Decimal,
    Encoding,
    Event,
    Json,
    Missing,
    MissingRows,
    Sep,
    Table,
    Weights,
    dialect_of,
    one_of,
)
from nll.cli.output import require_places, write_json


class Criterion(str, Enum):
    """Ranks the candidates."""

    aic = "aic"
    aicc = "aicc"
    bic = "bic"


def compare(
    table: Table,
    column: Annotated[str, typer.Option(help="Column whose distribution is fitted.")],
    families: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated families, e.g. normal,gamma,weibull; by default the common ones "
            "whose support contains the data."
        ),
    ] = None,
    criterion: Annotated[
        Criterion, typer.Option(help="Criterion used to rank the families.")
    ] = Criterion.aic,
    weights: Weights = None,
    censored_right: CensoredRight = None,
    event: Event = None,
    missing: MissingRows = Missing.error,
    replicates: Annotated[
        int,
        typer.Option(
            min=0, help="Bootstrap replicates for the goodness-of-fit tests; 0 skips them."
        ),
    ] = 199,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    json_file: Json = None,
    sep: Sep = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
) -> None:
    """Fit several families to a column, rank them, and test whether they fit.

    Exit codes: 0 one ranks best; 1 no fit converged; 2 invalid input.
    """
    require_places([table], [], json_file)
    dialect = dialect_of(sep, decimal, encoding)
    from nll.cli import families as kinds
    from nll.cli import terminal
    from nll.cli.observed import Source, read_observed
    from nll.selection.compare import compare as compare_families

    console, source = terminal.console(stderr=str(json_file) == "-"), Source(table, dialect)
    with terminal.Stages(console) as stages:
        stages.say(f"Reading {source.name}")
        observed = read_observed(
            source,
            column,
            weights=weights,
            censored_right=censored_right,
            event=event,
            missing=missing.policy,
        )
        names = kinds.usual(observed.complete) if families is None else _named(families)
        stages.say(f"Comparing {', '.join(names)}")
        comparison = compare_families(
            {name: kinds.DISTRIBUTIONS[name].distribution for name in names},
            observed.data,
            criterion=criterion.value,
            weights=observed.weights,
            missing="drop",
            replicates=replicates,
            seed=seed,
        )
    if json_file is not None:
        write_json(comparison.to_dict(), json_file)
    console.print(str(comparison), markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(0 if comparison.best is not None else 1)


def _named(families: str) -> list[str]:
    names = [name.strip() for name in families.split(",") if name.strip()]
    for name in names:
        one_of("--families", name, DISTRIBUTIONS)
        if names.count(name) > 1:
            raise ValueError(f"expected different --families, got {name!r} twice")
    return names
