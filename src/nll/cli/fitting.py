"""A fit of a table: what `nll fit` computes, shows and writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from nll.cli import streamed, terminal
from nll.cli.families import DISTRIBUTIONS
from nll.cli.observed import Source, read_observed
from nll.cli.output import write_json
from nll.cli.tables import read_table
from nll.data.files import write_text
from nll.estimation.fit import fit as fit_family
from nll.estimation.grouped import GroupedFit
from nll.estimation.result import Fit
from nll.regression.after.margins import Margins
from nll.regression.formula.parser import has_dot, parse
from nll.regression.formula.regress import (
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

    @property
    def converged(self) -> bool:
        """Whether the fit converged; of groups, every one."""
        return bool(torch.as_tensor(self.fit.converged).all())


def fit_formula(
    source: Source,
    formula: str,
    family: str,
    options: Options,
    in_memory: bool,
    checkpoint: Path | None,
    margins: bool,
    stages: terminal.Stages,
) -> Outcome:
    """Fit a formula to a table, and average the marginal effects if that is asked for."""
    regression = _regress(source, formula, family, options, in_memory, checkpoint, stages)
    title = f"{formula} ({source.name})"
    if not margins:
        return Outcome(regression.fit, title, regression)
    stages.say("Averaging the marginal effects")
    return Outcome(regression.fit, title, regression, regression.margins())


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


def fit_column(
    source: Source,
    column: str,
    family: str,
    by: str | None,
    stages: terminal.Stages,
    **rows: Any,
) -> Outcome:
    """Fit a family to a column; `rows`: the options of `read_observed`."""
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


def profiled(outcome: Outcome, stages: terminal.Stages) -> Outcome:
    """Return the outcome with profile-likelihood intervals; ValueError without a maximum."""
    fitted = outcome.fit
    assert isinstance(fitted, Fit)
    if fitted.search is None:
        raise ValueError(
            f"--profile needs a maximum of the likelihood, in memory and without --alpha, got: "
            f"{fitted.status}"
        )
    stages.say("Profiling the likelihood")
    return outcome._replace(fit=replace(fitted, interval_method="profile"))


def write(
    outcome: Outcome,
    level: float,
    console: Console,
    json_file: Path | None,
    report: Path | None,
    save: Path | None,
) -> None:
    """Write the results that are asked for."""
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


def show(outcome: Outcome, level: float, console: Console, files: dict[str, Path | None]) -> None:
    """Print the tables of a fit, and the files that were written."""
    if isinstance(outcome.fit, GroupedFit):
        terminal.show_groups(console, outcome.fit)
    else:
        terminal.show(console, outcome.fit, level)
    if outcome.margins is not None:
        console.print("\n[bold]Average marginal effects[/bold]")
        terminal.show_tables(console, tables.margins(outcome.margins, level))
    for name, file in files.items():
        if file is not None:
            console.print(f"{name}: {file}", highlight=False, markup=False)


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
