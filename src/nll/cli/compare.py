"""`nll compare`: which family describes a column of a table best, and whether it fits."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import numpy as np
import torch
import typer

from nll.cli import terminal
from nll.cli.observed import Source, read_observed
from nll.cli.options import (
    DISTRIBUTIONS,
    CensoredRight,
    Event,
    Json,
    Missing,
    MissingRows,
    Weights,
    one_of,
)
from nll.cli.output import require_places, write_json
from nll.cli.tables import Decimal, Encoding, Sep, Table, dialect_of
from nll.selection.compare import compare as compare_families

# The default candidates, as far as their support contains the data.
_COUNTS = ("poisson", "geometric", "negative_binomial")
_MEASUREMENTS = (
    *("normal", "laplace", "student_t", "gumbel", "skew_normal"),
    *("exponential", "gamma", "weibull", "log_normal", "inverse_gaussian", "beta"),
)


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
    console = terminal.console(stderr=str(json_file) == "-")
    require_places([table], [], json_file)
    source = Source(table, dialect_of(sep, decimal, encoding))
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
        names = _usual(observed.complete) if families is None else _named(families)
        stages.say(f"Comparing {', '.join(names)}")
        comparison = compare_families(
            {name: DISTRIBUTIONS[name].distribution for name in names},
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


def _usual(values: np.ndarray) -> list[str]:
    x = torch.from_numpy(values)
    whole = bool(DISTRIBUTIONS["poisson"].inside(x).all())
    candidates = _COUNTS if whole else _MEASUREMENTS
    return [name for name in candidates if bool(DISTRIBUTIONS[name].inside(x).all())]
