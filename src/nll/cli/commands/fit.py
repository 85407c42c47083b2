"""`nll fit`: maximum likelihood estimates from a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nll.cli.names import DISTRIBUTIONS, REGRESSIONS
from nll.cli.options import (
    CensoredRight,
    Decimal,
    Encoding,
    Event,
    Json,
    Level,
    Missing,
    MissingRows,
    Sep,
    Table,
    Weights,
    completing,
    dialect_of,
    one_of,
    options_of,
)
from nll.cli.output import require_places


def fit(
    context: typer.Context,
    table: Table,
    formula: Annotated[
        str | None, typer.Argument(help="For example 'y ~ a + b:c + C(group)'.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Fit the distribution of one column instead of a formula.")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            help=f"With a formula: {', '.join(REGRESSIONS)} (default: softmax). "
            f"With --column: {', '.join(DISTRIBUTIONS)}.",
            autocompletion=completing(*REGRESSIONS, *DISTRIBUTIONS),
        ),
    ] = None,
    baseline: Annotated[str | None, typer.Option(help="Reference class.")] = None,
    alpha: Annotated[float, typer.Option(min=0.0, help="Ridge penalty; softmax only.")] = 0.0,
    weights: Weights = None,
    censored_right: CensoredRight = None,
    event: Event = None,
    by: Annotated[
        str | None, typer.Option(help="With --column: fit each group of this column separately.")
    ] = None,
    robust: Annotated[
        bool,
        typer.Option(
            "--robust", help="Heteroskedasticity-robust (HC0) standard errors; softmax only."
        ),
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Cluster-robust standard errors: the column with the cluster labels; softmax only."
        ),
    ] = None,
    firth: Annotated[
        bool,
        typer.Option(
            "--firth", help="Firth's penalty: finite estimates even if classes are separated."
        ),
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Profile-likelihood intervals, with a formula.")
    ] = False,
    margins: Annotated[
        bool, typer.Option("--margins", help="Average marginal effects, with a formula.")
    ] = False,
    save: Annotated[
        Path | None, typer.Option(help="Save the fitted model for `nll predict` and `nll score`.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Read the table in blocks and store the result of each pass in this file: an "
            "interrupted fit resumes from it."
        ),
    ] = None,
    missing: MissingRows = Missing.error,
    level: Level = 0.95,
    json_file: Json = None,
    report: Annotated[
        Path | None, typer.Option(help="Write an HTML report with the table and figures.")
    ] = None,
    sep: Sep = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
) -> None:
    """Fit a regression, or the distribution of a column, to a table by maximum likelihood.

    Exit codes: 0 the fit converged; 1 it did not (the status says why); 2 invalid input.
    """
    require_places([table], [report, save, checkpoint], json_file)
    family = _family(formula, column, family)
    _require_compatible(options_of(context), family, column is not None)
    dialect = dialect_of(sep, decimal, encoding)
    try:
        from nll.cli import fitting, terminal

        console = terminal.console(stderr=str(json_file) == "-")
        source = fitting.Source(table, dialect)
        kind = "sandwich" if robust else "observed"
        options = fitting.Options(baseline, alpha, firth, kind, cluster, weights, missing.policy)
        with terminal.Stages(console) as stages:
            if formula is not None:
                in_memory = family != "softmax" or firth or profile
                outcome = fitting.fit_formula(
                    source, formula, family, options, in_memory, checkpoint, margins, stages
                )
            else:
                outcome = fitting.fit_column(
                    source,
                    str(column),
                    family,
                    by,
                    stages,
                    weights=weights,
                    censored_right=censored_right,
                    event=event,
                    missing=missing.policy,
                )
            if profile:
                outcome = fitting.profiled(outcome, stages)
    except (KeyboardInterrupt, SystemExit) as stop:  # Ctrl-C, or a signal
        resume = "" if checkpoint is None else f"; run the same command to resume from {checkpoint}"
        typer.echo(f"nll: interrupted{resume}", err=True)
        raise typer.Exit(stop.code if isinstance(stop, SystemExit) else 130) from None  # type: ignore[arg-type]
    # before the table: who reads that may stop listening
    fitting.write(outcome, level, console, json_file, report, save)
    fitting.show(outcome, level, console, {"Model": save, "Report": report})
    raise typer.Exit(0 if outcome.converged else 1)


_SOFTMAX = {"--baseline", "--alpha", "--robust", "--cluster", "--firth", "--checkpoint"}
_COLUMN = {"--censored-right", "--event", "--by"}
_FORMULA = {"--save", "--profile", "--margins"}
_ASSUMES_MODEL = "; profile-likelihood intervals assume a correctly specified model"
_EXCLUSIVE = (
    ("--by", "--report", "; a report shows a single fit"),
    ("--profile", "--robust", _ASSUMES_MODEL),
    ("--profile", "--cluster", _ASSUMES_MODEL),
    ("--firth", "--alpha", ""),
)


def _family(formula: str | None, column: str | None, family: str | None) -> str:
    if (formula is None) == (column is None):
        both = "both" if column is not None else "neither"
        raise ValueError(f"expected either a formula or --column, got {both}")
    if column is None:
        return one_of("--family", family or "softmax", REGRESSIONS)
    if family is None:
        raise ValueError("--column needs --family")
    return one_of("--family", family, DISTRIBUTIONS)


def _require_compatible(options: list[str], family: str, column: bool) -> None:
    """Raise ValueError for options that do not go together."""
    for needed, names in (
        ("" if family == "softmax" else f"--family softmax, got {family}", _SOFTMAX),
        ("" if column else "--column", _COLUMN),
        ("a formula, got --column" if column else "", _FORMULA),
    ):
        wrong = [name for name in options if name in names]
        if needed and wrong:
            raise ValueError(f"{' and '.join(wrong)} can only be used with {needed}")
    for one, other, reason in _EXCLUSIVE:
        if one in options and other in options:
            raise ValueError(f"{one} cannot be combined with {other}{reason}")
