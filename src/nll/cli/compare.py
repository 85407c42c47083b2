"""`nll compare`: which family describes a column of a table, and whether it does."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from nll.cli import terminal
from nll.cli.columns import in_place, right_censored
from nll.cli.fit import DISTRIBUTIONS, Missing
from nll.cli.output import require_places, write_json
from nll.cli.tables import Decimal, Encoding, Sep, Table, dialect_of, name_of, read_table
from nll.regression.formula import design as designs
from nll.selection.compare import compare as compare_families

# What is compared unless told otherwise: those whose support has the data.
_COUNTS = ("poisson", "geometric", "negative_binomial")
_MEASUREMENTS = (
    *("normal", "laplace", "student_t", "gumbel", "skew_normal"),
    *("exponential", "gamma", "weibull", "log_normal", "inverse_gaussian", "beta"),
)


class Criterion(str, Enum):
    """What ranks the candidates."""

    aic = "aic"
    aicc = "aicc"
    bic = "bic"


def compare(
    table: Table,
    column: Annotated[str, typer.Option(help="The column whose distribution is asked for.")],
    families: Annotated[
        str | None,
        typer.Option(
            help="For example normal,gamma,weibull; else the usual ones that the column's "
            "values can have."
        ),
    ] = None,
    criterion: Annotated[Criterion, typer.Option(help="What ranks the families.")] = Criterion.aic,
    weights: Annotated[
        str | None, typer.Option(help="The column of frequencies: how often a row was seen.")
    ] = None,
    censored_right: Annotated[
        str | None,
        typer.Option(help="The column that is 1 where the value is a lower bound, else 0."),
    ] = None,
    event: Annotated[
        str | None,
        typer.Option(
            help="The same by its opposite: 1 where the value was seen, 0 where it is a "
            "lower bound."
        ),
    ] = None,
    missing: Annotated[
        Missing, typer.Option(help="Rows with a missing value: an error, or left out.")
    ] = Missing.error,
    replicates: Annotated[
        int, typer.Option(min=0, help="Of the tests of goodness of fit; 0 leaves them out.")
    ] = 199,
    seed: Annotated[int, typer.Option(min=0, help="Of the tests' draws.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the result as JSON; - prints it.")
    ] = None,
    sep: Sep = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
) -> None:
    """Fit several families to a column; rank them, and test whether they describe it.

    Exit codes: 0 there is a best one; 1 none of the fits converged; 2 the input cannot be used.
    """
    console = terminal.console(stderr=str(json_file) == "-")
    require_places([table], [], json_file)
    with terminal.Stages(console) as stages:
        stages.say(f"Reading {name_of(table)}")
        marks = (censored_right, event)
        wanted = list(
            dict.fromkeys([column, *(name for name in (weights, *marks) if name is not None)])
        )
        frame = read_table(table, wanted, dialect_of(sep, decimal, encoding))
        designs.require_columns(wanted, [str(name) for name in frame.columns])
        complete, _ = designs.complete_rows(
            frame, wanted, "drop" if missing is Missing.drop else "raise"
        )
        data = in_place(complete, column, len(frame))
        seen = np.zeros(len(frame))
        seen[complete.index] = (
            1.0 if weights is None else designs.numbers(complete[weights], weights)
        )
        chosen = _chosen(families, data[complete.index])
        stages.say(f"Comparing {', '.join(chosen)}")
        found = compare_families(
            {name: DISTRIBUTIONS[name].distribution for name in chosen},
            data if marks == (None, None) else right_censored(complete, data, *marks),
            criterion=criterion.value,
            weights=seen,
            missing="drop",
            replicates=replicates,
            seed=seed,
        )
    if json_file is not None:
        write_json(found.to_dict(), json_file)
    console.print(str(found), markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(0 if found.best is not None else 1)


def _chosen(families: str | None, values: np.ndarray) -> list[str]:
    if families is not None:
        names = [name.strip() for name in families.split(",") if name.strip()]
        for name in names:
            if name not in DISTRIBUTIONS:
                raise ValueError(f"expected --families of {', '.join(DISTRIBUTIONS)}, got {name!r}")
            if names.count(name) > 1:
                raise ValueError(f"expected different --families, got {name!r} twice")
        return names
    x = torch.from_numpy(values)
    whole = bool(DISTRIBUTIONS["poisson"].inside(x).all())
    usual = _COUNTS if whole else _MEASUREMENTS
    return [name for name in usual if bool(DISTRIBUTIONS[name].inside(x).all())]
