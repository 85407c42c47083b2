"""`nll fit`: maximum likelihood estimates from a table."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from rich.console import Console
from torch.distributions import Normal

from nll.cli import streamed, terminal
from nll.cli.columns import in_place, right_censored
from nll.cli.output import require_places, write_json
from nll.cli.tables import Decimal, Encoding, Sep, Table, dialect_of, is_piped, name_of, read_table
from nll.data.arrays import categories_of, first_level
from nll.data.classes import in_order, of_array
from nll.data.csv_files import Dialect
from nll.data.files import write_text
from nll.data.observations import cluster_codes, label, observe
from nll.data.stream import Stream
from nll.estimation.fit import fit as fit_family
from nll.estimation.grouped import GroupedFit
from nll.estimation.result import Fit
from nll.families.compound import INFLATED, SHIFTED, shifted, zero_inflated
from nll.families.mixture import mixture
from nll.families.registry import FAMILIES
from nll.regression.after.margins import Margins, elementwise, softmax
from nll.regression.after.predictions import Predictor
from nll.regression.formula import design as designs
from nll.regression.formula.margins import Rows, formula_margins
from nll.regression.formula.parser import has_dot, spelled_out
from nll.regression.formula.streamed import column_names, complete_parts
from nll.regression.formula.terms import Terms
from nll.regression.glm import RESPONSES, fit_linear
from nll.regression.result import RegressionFit
from nll.regression.saved import Model
from nll.regression.softmax.fit import code_of, fit_softmax
from nll.regression.softmax.robust import CovarianceOptions
from nll.regression.softmax.streamed import fit_streamed
from nll.report import table as tables


def snake(name: str) -> str:
    """A class's name as the command has it: student_t."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


_PLAIN = [f for f in FAMILIES.values() if not (f.columns or f.given)]
_COMPOUND = (*map(shifted, SHIFTED), *map(zero_inflated, INFLATED), mixture(Normal))
DISTRIBUTIONS = {snake(f.name): f for f in (*_PLAIN, *_COMPOUND)}
_REGRESSIONS = ("softmax", *RESPONSES)


class Missing(str, Enum):
    """What to do about rows with a missing value."""

    error = "error"
    drop = "drop"


class Job(NamedTuple):
    """What is to be fitted, as it was asked for."""

    path: Path
    family: str
    baseline: str | None
    alpha: float
    weights: str | None
    missing: str
    censored_right: str | None = None
    by: str | None = None
    robust: str = "observed"
    cluster: str | None = None
    firth: bool = False
    margins: bool = False
    profile: bool = False
    checkpoint: Path | None = None
    formula: str = ""
    event: str | None = None
    dialect: Dialect = Dialect()

    @property
    def name(self) -> str:
        """The table's, for titles."""
        return name_of(self.path)


class Fitted(NamedTuple):
    """A fit, and what its report shows besides."""

    fit: Fit | GroupedFit
    title: str
    shown: dict[str, Any]
    margins: Margins | None = None
    model: Callable[[], Model] | None = None  # for other tables


def fit(
    table: Table,
    formula: Annotated[
        str | None, typer.Argument(help="For example 'y ~ a + b:c + C(group)'.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Fit one column's distribution instead of a formula.")
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            help=f"With a formula: {', '.join(_REGRESSIONS)} (softmax unless given). "
            f"With --column: {', '.join(DISTRIBUTIONS)} ."
        ),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="The class that the others are compared with.")
    ] = None,
    alpha: Annotated[
        float, typer.Option(min=0.0, help="Ridge penalty of a softmax regression.")
    ] = 0.0,
    weights: Annotated[
        str | None, typer.Option(help="The column of frequencies: how often a row was seen.")
    ] = None,
    censored_right: Annotated[
        str | None,
        typer.Option(
            help="With --column: the column that is 1 where the value is a lower bound, else 0."
        ),
    ] = None,
    event: Annotated[
        str | None,
        typer.Option(
            help="The same by its opposite: 1 where the value was seen, 0 where it is a "
            "lower bound."
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="With --column: the column of groups, each fitted on its own."),
    ] = None,
    robust: Annotated[
        bool,
        typer.Option(
            "--robust",
            help="Of a softmax regression: errors that hold where the model is wrong (HC0).",
        ),
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Of a softmax regression: the column of groups of rows that go together."
        ),
    ] = None,
    firth: Annotated[
        bool,
        typer.Option(
            "--firth",
            help="Of a softmax regression: Firth's penalty, finite for separated classes too.",
        ),
    ] = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile", help="Intervals by the profile of the likelihood, with a formula."
        ),
    ] = False,
    margins: Annotated[
        bool,
        typer.Option("--margins", help="Average marginal effects of the variables of a formula."),
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option(help="Keep the regression in a file, for nll predict and nll score."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Read the table in blocks, and keep what each pass finds: a fit that was "
            "stopped goes on."
        ),
    ] = None,
    missing: Annotated[
        Missing, typer.Option(help="Rows with a missing value: an error, or left out.")
    ] = Missing.error,
    level: Annotated[float, typer.Option(min=0.01, max=0.9999, help="Of the intervals.")] = 0.95,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the result as JSON; - prints it.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with the table and pictures.")
    ] = None,
    sep: Sep = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
) -> None:
    """Fit a likelihood to a table; print the estimates with their errors.

    Exit codes: 0 the fit converged; 1 it did not, and the status says why; 2 the input cannot be
        used.
    """
    console = terminal.console(stderr=str(json_file) == "-")
    policy = "drop" if missing is Missing.drop else "raise"
    require_places([table], [report, save, checkpoint], json_file)
    family = _family(formula, column, family, alpha)
    of_softmax = {
        "baseline": baseline,
        "alpha": alpha or None,
        "robust": robust or None,
        "cluster": cluster,
    }
    of_softmax |= {"firth": firth or None, "checkpoint": checkpoint}
    wrong = [f"--{name}" for name, given in of_softmax.items() if given is not None]
    if family != "softmax" and wrong:
        raise ValueError(f"expected {' and '.join(wrong)} with softmax only, got --family {family}")
    if column is None and any(name is not None for name in (censored_right, event, by)):
        raise ValueError("expected --censored-right, --event and --by with --column only")
    if by is not None and report is not None:
        raise ValueError("expected no --report with --by: it draws one fit")
    if column is not None and (save is not None or profile or margins):
        raise ValueError("expected --save, --profile and --margins with a formula, got --column")
    if profile and (robust or cluster is not None):
        raise ValueError(
            "expected either --profile or --robust and --cluster: the profile takes "
            "the model as right"
        )
    if firth and alpha:
        raise ValueError("expected either --firth or --alpha, got both")
    kind = "sandwich" if robust else "observed"
    options = (
        censored_right,
        by,
        kind,
        cluster,
        firth,
        margins,
        profile,
        checkpoint,
        formula or "",
        event,
    )
    job = Job(
        table,
        family,
        baseline,
        alpha,
        weights,
        policy,
        *options,
        dialect_of(sep, decimal, encoding),
    )
    try:
        with terminal.Stages(console) as stages:
            fitted = (
                _fit_formula(job, str(formula), stages)
                if column is None
                else _fit_column(job, column, stages)
            )
            if profile:
                fitted = _profiled(fitted, stages)
    except (KeyboardInterrupt, SystemExit) as stop:
        # by Ctrl-C, or a signal during a fit with a checkpoint
        kept = "" if checkpoint is None else f"; the same command goes on from {checkpoint}"
        typer.echo(f"nll: interrupted{kept}", err=True)
        raise typer.Exit(stop.code if isinstance(stop, SystemExit) else 130) from None  # type: ignore[arg-type]
    # before the table: who reads that may stop listening
    _write(fitted, level, console, json_file, report, save)
    _show(fitted, level, console)
    for name, file in (("Model", save), ("Report", report)):
        if file is not None:
            console.print(f"{name}: {file}", highlight=False, markup=False)
    converged = fitted.fit.converged
    raise typer.Exit(
        0 if (converged if isinstance(converged, bool) else bool(converged.all())) else 1
    )


def _write(
    fitted: Fitted,
    level: float,
    console: Console,
    json_file: Path | None,
    report: Path | None,
    save: Path | None,
) -> None:
    found = fitted.fit
    if save is not None:
        assert fitted.model is not None
        fitted.model().save(save)
    if json_file is not None:
        shown = found.to_dict() if isinstance(found, GroupedFit) else found.to_dict(level)
        write_json(
            shown | ({} if fitted.margins is None else {"margins": fitted.margins.to_dict()}),
            json_file,
        )
    if report is not None:
        with terminal.Stages(console) as stages:
            stages.say("Drawing the report")
            write_text(report, _page(fitted, level))


def _show(fitted: Fitted, level: float, console: Console) -> None:
    if isinstance(fitted.fit, GroupedFit):
        return terminal.show_groups(console, fitted.fit)
    terminal.show(console, fitted.fit, level)
    if fitted.margins is not None:
        console.print("\n[bold]Average marginal effects[/bold]")
        terminal.show_tables(console, tables.margins(fitted.margins, level))


def _family(formula: str | None, column: str | None, family: str | None, alpha: float) -> str:
    """Return the family that is meant; ValueError for options that do not go together."""
    if (formula is None) == (column is None):
        raise ValueError(
            "expected a formula or --column, got " + ("neither" if column is None else "both")
        )
    if column is not None and family is None:
        raise ValueError("expected --family with --column, got none")
    known = _REGRESSIONS if column is None else DISTRIBUTIONS
    family = family or "softmax"
    if family not in known:
        raise ValueError(f"expected --family to be one of {', '.join(known)}, got {family!r}")
    if not np.isfinite(alpha):
        raise ValueError(f"expected a finite alpha of at least 0, got {alpha}")
    return family


def _fit_formula(job: Job, formula: str, stages: terminal.Stages) -> Fitted:
    title, once = f"{formula} ({job.name})", None
    if has_dot(formula):
        once = read_table(job.path, None, job.dialect) if is_piped(job.path) else None
        names = (
            column_names(streamed.source(job.path, job.dialect))
            if once is None
            else list(once.columns)
        )
        formula = spelled_out(formula, names, (job.weights, job.cluster))
        job = job._replace(formula=formula)
    parsed = designs.parse(formula)
    in_blocks = job.checkpoint is not None or job.path.is_dir()
    in_memory = job.family != "softmax" or job.firth or job.profile
    rows = None
    if in_blocks or not in_memory:
        rows = streamed.stream(
            job.path, formula, job.weights, job.cluster, job.missing, in_blocks, job.dialect
        )
    if rows is not None and in_memory:
        options = "--firth and --profile"
        raise ValueError(f"expected softmax without {options} for a table that is read in blocks")
    if rows is not None:
        return _fit_stream(job, *rows, title, stages)
    wanted = [*designs.variables(parsed), *(name for name in (job.weights, job.cluster) if name)]
    wanted = list(dict.fromkeys(wanted))
    stages.say(f"Reading {job.name}")
    table = read_table(job.path, wanted, job.dialect) if once is None else once
    stages.say("Building the columns")
    designs.require_columns(wanted, [str(name) for name in table.columns])
    complete, dropped = designs.complete_rows(table, wanted, job.missing)
    data = designs.design(complete, parsed, weights=job.weights)
    run = _softmax if job.family == "softmax" else _linear
    groups = None if job.cluster is None else table[job.cluster].to_numpy()
    fitted = run(job, data, groups, stages)
    return fitted._replace(fit=replace(fitted.fit, dropped=dropped), title=title)


def _fit_stream(
    job: Job, rows: Stream, terms: Terms, title: str, stages: terminal.Stages
) -> Fitted:
    """In blocks, with no pictures of the rows."""
    stages.say(f"Reading {job.name}")
    rows.progress = stages.rows
    fitted, classes = fit_streamed(
        rows,
        intercept=terms.intercept,
        baseline=job.baseline,
        alpha=job.alpha,
        wish=CovarianceOptions(job.robust, clusters=job.cluster),
        checkpoint=job.checkpoint,
        progress=stages.step,
    )
    base = code_of(fitted.baseline, classes)
    effects = None
    if job.margins:
        stages.say("Averaging the marginal effects")
        data, others = streamed.source(job.path, job.dialect), [rows.response, job.cluster]
        effects = _margins(
            fitted, lambda: complete_parts(data, terms, job.weights, others), terms, "softmax"
        )
    return Fitted(
        fitted,
        title,
        {},
        effects,
        lambda: Model.of(fitted, "softmax", terms, _written(classes), base),
    )


def _written(classes: list[Any]) -> list[Any]:
    """As a file of JSON has them."""
    return [
        value if isinstance(value, (bool, int, float, str)) else label(value) for value in classes
    ]


def _profiled(fitted: Fitted, stages: terminal.Stages) -> Fitted:
    found = fitted.fit
    assert isinstance(found, Fit)
    if found.search is None:
        raise ValueError(
            f"expected --profile of a maximum in memory without --alpha, got: {found.status}"
        )
    stages.say("Profiling the likelihood")
    return fitted._replace(fit=replace(found, interval_method="profile"))


def _softmax(job: Job, data: designs.Design, groups: Any, stages: terminal.Stages) -> Fitted:
    from nll.regression.after import calibration

    if data.y.dtype.kind == "f" and (data.y % 1 != 0).any():
        raise ValueError(
            f"expected classes, got the measurements of {data.response!r}; --family "
            f"normal fits them"
        )
    values, codes = in_order(of_array(data.y.to_numpy(), data.response)[0])
    classes = [label(value) for value in values]
    # as of a table in blocks
    levels = categories_of(data.y) if getattr(data.y.dtype, "ordered", False) else None
    base = code_of(first_level(levels, values) if job.baseline is None else job.baseline, values)
    columns = data.columns()
    fitted = fit_softmax(
        columns,
        torch.from_numpy(codes),
        data.weights,
        classes,
        baseline=base,
        alpha=job.alpha,
        firth=job.firth,
        wish=CovarianceOptions(
            job.robust,
            clusters=None
            if groups is None
            else cluster_codes(groups, len(groups), data.rows.numpy()),
        ),
        response=data.response,
        progress=stages.step,
    )
    coef = np.insert(fitted.params["coef"].numpy(), base, 0.0, axis=0)
    probabilities = torch.softmax(columns.given() @ torch.from_numpy(coef).T, 1).numpy()
    weights = data.weights.numpy()
    shown = {
        "classes": classes,
        "confusion": calibration.confusion(codes, probabilities, weights),
        "calibration": [
            calibration.calibration(name, probabilities[:, k], codes == k, weights)
            for k, name in enumerate(classes)
        ],
    }
    return Fitted(
        fitted,
        "",
        shown,
        _margins_of(fitted, job, data),
        lambda: Model.of(
            fitted, "softmax", Terms.of(data.spec, job.formula), _written(values), base
        ),
    )


def _margins_of(fitted: RegressionFit, job: Job, data: designs.Design) -> Margins | None:
    if not job.margins:
        return None
    return _margins(
        fitted, lambda: [(data.table, data.weights)], Terms.of(data.spec, job.formula), job.family
    )


def _margins(fitted: RegressionFit, rows: Rows, terms: Terms, family: str) -> Margins:
    """Average marginal effects of the formula's variables, on probabilities or a mean."""
    coef = fitted.params["coef"]
    covariance = fitted.covariance[: coef.numel(), : coef.numel()]
    if family != "softmax":
        response = elementwise(RESPONSES[family].mean)
        return formula_margins(rows, terms, response, coef[None], covariance, ("mean",))
    predictor = fitted.predictor
    assert isinstance(predictor, Predictor)
    return formula_margins(
        rows, terms, softmax, predictor.full, covariance, predictor.classes, predictor.baseline
    )


def _linear(job: Job, data: designs.Design, _: Any, stages: terminal.Stages) -> Fitted:
    from nll.regression.after import calibration

    if job.family == "bernoulli" and data.y.dtype.kind not in "iufb":
        raise ValueError(
            f"expected 0 or 1 in column {data.response!r}, got texts; softmax, the "
            f"default, takes them"
        )
    y, columns = designs.numbers(data.y, data.response), data.columns()
    observed = replace(observe(y, data.weights), numbers=data.rows)
    fitted = fit_linear(job.family, columns, observed, response=data.response, progress=stages.step)
    mean = RESPONSES[job.family].mean(columns.given() @ fitted.params["coef"]).numpy()
    weights = data.weights.numpy()
    shown: dict[str, Any] = {"calibration": [calibration.calibration("mean", mean, y, weights)]}
    if job.family == "bernoulli":
        both = np.stack([1 - mean, mean], 1)
        shown |= {
            "classes": ["0", "1"],
            "confusion": calibration.confusion(y.astype(int), both, weights),
        }
    made = lambda: Model.of(fitted, job.family, Terms.of(data.spec, job.formula))  # noqa: E731
    return Fitted(fitted, "", shown, _margins_of(fitted, job, data), made)


def _fit_column(job: Job, column: str, stages: terminal.Stages) -> Fitted:
    wanted = list(
        dict.fromkeys(
            name
            for name in (column, job.weights, job.censored_right, job.event, job.by)
            if name is not None
        )
    )
    stages.say(f"Reading {job.name}")
    table = read_table(job.path, wanted, job.dialect)
    designs.require_columns(wanted, [str(name) for name in table.columns])
    frame, dropped = designs.complete_rows(table, wanted, job.missing)
    title = f"{column} as {job.family} ({job.name})"
    # In their places in the table, so that errors name its rows; the incomplete ones are missing
    # and weigh nothing.
    categorical = job.family == "categorical"
    data: Any = (
        np.full(len(table), None, dtype=object)
        if categorical
        else in_place(frame, column, len(table))
    )
    if categorical:
        data[frame.index] = frame[column].astype(object)
    weights = np.zeros(len(table))
    weights[frame.index] = (
        1.0 if job.weights is None else designs.numbers(frame[job.weights], job.weights)
    )
    family = DISTRIBUTIONS[job.family]
    if job.censored_right is not None or job.event is not None:
        data = right_censored(frame, data, job.censored_right, job.event)
    groups = None if job.by is None else table[job.by].to_numpy()
    fitted = fit_family(
        family.distribution,
        data,
        weights=weights,
        groups=groups,
        missing="drop",
        progress=stages.step,
    )
    if isinstance(fitted, Fit):
        fitted = replace(fitted, response=column)
    return Fitted(replace(fitted, dropped=dropped), title, {})


def _page(fitted: Fitted, level: float) -> str:
    from nll.report import figures, html

    found = fitted.fit
    assert isinstance(found, Fit)
    profiles = figures.profiles_of(found, level)
    drawn = figures.of_data(found)
    effects = () if fitted.margins is None else tables.margins(fitted.margins, level)
    return html.page(
        found,
        title=fitted.title,
        level=level,
        distribution=drawn,
        profiles=profiles,
        margins=effects,
        **fitted.shown,
    )
