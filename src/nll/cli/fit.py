"""`nll fit`: maximum likelihood estimates from a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from rich.console import Console

from nll.cli import streamed, terminal
from nll.cli.observed import Source, read_observed
from nll.cli.options import (
    DISTRIBUTIONS,
    CensoredRight,
    Event,
    Json,
    Level,
    Missing,
    MissingRows,
    Weights,
    one_of,
    options_of,
)
from nll.cli.output import require_places, write_json
from nll.cli.tables import Decimal, Encoding, Sep, Table, dialect_of, read_table
from nll.data.files import write_text
from nll.estimation.fit import fit as fit_family
from nll.estimation.grouped import GroupedFit
from nll.estimation.result import Fit
from nll.regression.after.margins import Margins
from nll.regression.formula.parser import has_dot, parse
from nll.regression.formula.regress import (
    FAMILIES,
    NeedsWholeTableError,
    Options,
    Regression,
    regress,
    regress_blocks,
)
from nll.regression.saved import Model
from nll.report import table as tables


class Outcome(NamedTuple):
    """A fit, and what is shown and saved next to it."""

    fit: Fit | GroupedFit
    title: str
    regression: Regression | None = None
    margins: Margins | None = None


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
            help=f"With a formula: {', '.join(FAMILIES)} (default: softmax). "
            f"With --column: {', '.join(DISTRIBUTIONS)}."
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
    console = terminal.console(stderr=str(json_file) == "-")
    require_places([table], [report, save, checkpoint], json_file)
    family = _family(formula, column, family)
    _require_compatible(options_of(context), family, column is not None)
    source = Source(table, dialect_of(sep, decimal, encoding))
    kind = "sandwich" if robust else "observed"
    options = Options(baseline, alpha, firth, kind, cluster, weights, missing.policy)
    try:
        with terminal.Stages(console) as stages:
            if formula is not None:
                in_memory = family != "softmax" or firth or profile
                regression = _regress(
                    source, formula, family, options, in_memory, checkpoint, stages
                )
                outcome = _outcome(regression, f"{formula} ({source.name})", margins, stages)
            else:
                outcome = _fit_column(
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
                outcome = _profiled(outcome, stages)
    except (KeyboardInterrupt, SystemExit) as stop:  # Ctrl-C, or a signal
        resume = "" if checkpoint is None else f"; run the same command to resume from {checkpoint}"
        typer.echo(f"nll: interrupted{resume}", err=True)
        raise typer.Exit(stop.code if isinstance(stop, SystemExit) else 130) from None  # type: ignore[arg-type]
    # before the table: who reads that may stop listening
    _write(outcome, level, console, json_file, report, save)
    _show(outcome, level, console)
    for name, file in (("Model", save), ("Report", report)):
        if file is not None:
            console.print(f"{name}: {file}", highlight=False, markup=False)
    raise typer.Exit(0 if torch.as_tensor(outcome.fit.converged).all() else 1)


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
        return one_of("--family", family or "softmax", FAMILIES)
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


def _regress(
    source: Source,
    formula: str,
    family: str,
    options: Options,
    in_memory: bool,
    checkpoint: Path | None,
    stages: terminal.Stages,
) -> Regression:
    """Fit a formula to a table: in blocks if that is asked for or the table is large."""
    parsed = None if has_dot(formula) else parse(formula)
    names = None if parsed is None else options.columns(parsed)
    in_blocks = checkpoint is not None or source.path.is_dir()
    if in_blocks and in_memory:
        raise ValueError(
            "a table that is read in blocks can only be fitted with --family softmax, without "
            "--firth and --profile"
        )
    if in_blocks:
        streamed.require_rereadable(source.path)
    stages.say(f"Reading {source.name}")
    if in_blocks or (not in_memory and streamed.is_large(source.path, names)):
        try:
            return regress_blocks(
                formula,
                streamed.blocks_of(source),
                options=options,
                checkpoint=checkpoint,
                progress=stages.step,
                rows_read=stages.rows,
            )
        except NeedsWholeTableError:
            if in_blocks:
                raise
    table = read_table(source.path, names, source.dialect)
    stages.say("Building the columns")
    return regress(formula, table, family=family, options=options, progress=stages.step)


def _outcome(regression: Regression, title: str, margins: bool, stages: terminal.Stages) -> Outcome:
    if not margins:
        return Outcome(regression.fit, title, regression)
    stages.say("Averaging the marginal effects")
    return Outcome(regression.fit, title, regression, regression.margins())


def _fit_column(
    source: Source,
    column: str,
    family: str,
    by: str | None,
    stages: terminal.Stages,
    **rows: Any,
) -> Outcome:
    stages.say(f"Reading {source.name}")
    categorical = family == "categorical"
    observed = read_observed(source, column, by=by, categories=categorical, **rows)
    fitted = fit_family(
        DISTRIBUTIONS[family].distribution,
        observed.data,
        weights=observed.weights,
        groups=None if by is None else observed.table[by].to_numpy(),
        missing="drop",
        progress=stages.step,
    )
    fitted = replace(fitted, dropped=observed.dropped)
    if not isinstance(fitted, GroupedFit):
        fitted = replace(fitted, response=column)
    return Outcome(fitted, f"{column} as {family} ({source.name})")


def _profiled(outcome: Outcome, stages: terminal.Stages) -> Outcome:
    fitted = outcome.fit
    assert isinstance(fitted, Fit)
    if fitted.search is None:
        raise ValueError(
            f"--profile needs a maximum of the likelihood, in memory and without --alpha, got: "
            f"{fitted.status}"
        )
    stages.say("Profiling the likelihood")
    return outcome._replace(fit=replace(fitted, interval_method="profile"))


def _write(
    outcome: Outcome,
    level: float,
    console: Console,
    json_file: Path | None,
    report: Path | None,
    save: Path | None,
) -> None:
    fitted, regression = outcome.fit, outcome.regression
    if save is not None and regression is not None:
        Model.of(regression).save(save)
    if json_file is not None:
        result = fitted.to_dict() if isinstance(fitted, GroupedFit) else fitted.to_dict(level)
        margins = outcome.margins
        write_json(result | ({"margins": margins.to_dict()} if margins else {}), json_file)
    if report is not None:
        with terminal.Stages(console) as stages:
            stages.say("Drawing the report")
            write_text(report, _page(outcome, level))


def _show(outcome: Outcome, level: float, console: Console) -> None:
    if isinstance(outcome.fit, GroupedFit):
        return terminal.show_groups(console, outcome.fit)
    terminal.show(console, outcome.fit, level)
    if outcome.margins is not None:
        console.print("\n[bold]Average marginal effects[/bold]")
        terminal.show_tables(console, tables.margins(outcome.margins, level))


def _page(outcome: Outcome, level: float) -> str:
    from nll.report import figures, html

    fitted, regression, margins = outcome.fit, outcome.regression, outcome.margins
    assert isinstance(fitted, Fit)
    assessment = None if regression is None else regression.assessment()
    return html.page(
        fitted,
        title=outcome.title,
        level=level,
        distribution=figures.of_data(fitted),
        profiles=figures.profiles_of(fitted, level),
        margins=() if margins is None else tables.margins(margins, level),
        **({} if assessment is None else assessment._asdict()),
    )
