"""Regression by a formula: softmax regression of classes, or a generalised linear model of numbers.

The table is in memory (`regress`), or is read in blocks for each pass (`regress_blocks`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from nll.data.arrays import categories_of, first_level
from nll.data.classes import cluster_codes, in_order, label, of_array
from nll.data.observations import observe
from nll.data.stream import Stream
from nll.regression.after import calibration
from nll.regression.after.margins import Margins, elementwise, softmax
from nll.regression.covariance import CovarianceOptions
from nll.regression.design_matrix import Columns
from nll.regression.formula import design as designs
from nll.regression.formula.margins import Rows, formula_margins
from nll.regression.formula.parser import has_dot, parse, response_of, spelled_out
from nll.regression.formula.streamed import (
    column_names,
    complete_parts,
    formula_stream,
)
from nll.regression.formula.terms import Terms
from nll.regression.glm.fit import fit_linear
from nll.regression.glm.responses import RESPONSES
from nll.regression.result import RegressionFit
from nll.regression.ridge import require_alpha
from nll.regression.softmax.fit import code_of, fit_softmax
from nll.regression.softmax.streamed import fit_streamed
from nll.solvers.outcome import Progress

if TYPE_CHECKING:
    import pandas as pd

FAMILIES = ("softmax", *RESPONSES)


class NeedsWholeTableError(ValueError):
    """The formula has a part that depends on all rows, so it cannot be computed in blocks."""


@dataclass(frozen=True)
class Options:
    """What is estimated, and from which rows; all but the last two for softmax regression only."""

    baseline: str | None = None  # the reference class
    alpha: float = 0.0  # ridge penalty
    firth: bool = False
    covariance: str = "observed"
    clusters: str | None = None  # the column with the cluster labels
    weights: str | None = None  # the column of frequencies
    missing: str = "raise"  # or "drop"

    def __post_init__(self) -> None:
        require_alpha(self.alpha)

    def columns(self, formula: Any) -> list[str]:
        """The columns of the table that a parsed formula and these options read."""
        names = [*designs.variables(formula), self.weights, self.clusters]
        return [name for name in dict.fromkeys(names) if name is not None]


class Assessment(NamedTuple):
    """How the fitted probabilities or means agree with the rows of the fit."""

    calibration: list[calibration.Calibration]
    classes: tuple[str, ...] = ()
    confusion: np.ndarray | None = None  # (K, K) counts: observed, predicted


class _Data(NamedTuple):
    columns: Columns
    y: np.ndarray  # (n), numbers or the codes of classes
    weights: np.ndarray  # (n)


@dataclass(frozen=True)
class Regression:
    """A fitted formula: the fit, and what follows from it."""

    fit: RegressionFit
    family: str
    terms: Callable[[], Terms]
    rows: Rows = lambda: ()  # the complete rows again, block by block
    classes: tuple[Any, ...] = ()
    data: _Data | None = None  # None: read in blocks

    def margins(self) -> Margins:
        """Return the average marginal effects of the formula's variables."""
        predictor: Any = self.fit.predictor
        if predictor is not None:
            coef, classes, baseline = predictor.full, predictor.classes, predictor.baseline
            response = softmax
        else:
            coef, classes, baseline = self.fit.params["coef"][None], ("mean",), None
            response = elementwise(RESPONSES[self.family].mean)
        size = self.fit.params["coef"].numel()
        covariance = self.fit.covariance[:size, :size]
        return formula_margins(
            self.rows, self.terms(), response, coef, covariance, classes, baseline
        )

    def assessment(self) -> Assessment | None:
        """Return the calibration on the rows of the fit; None for rows that are not in memory."""
        if self.data is None:
            return None
        columns, y, weights = self.data
        x = columns.given()
        if self.family == "softmax":
            predictor: Any = self.fit.predictor
            p = torch.softmax(x @ predictor.full.T, 1).numpy()
            curves = [
                calibration.calibration(name, p[:, k], y == k, weights)
                for k, name in enumerate(predictor.classes)
            ]
            return Assessment(curves, predictor.classes, calibration.confusion(y, p, weights))
        mean = RESPONSES[self.family].mean(x @ self.fit.params["coef"]).numpy()
        curves = [calibration.calibration("mean", mean, y, weights)]
        if self.family != "bernoulli":
            return Assessment(curves)
        counts = calibration.confusion(y.astype(int), np.stack([1 - mean, mean], 1), weights)
        return Assessment(curves, ("0", "1"), counts)


def regress(
    formula: str,
    table: pd.DataFrame,
    *,
    family: str = "softmax",
    options: Options | None = None,
    progress: Progress | None = None,
) -> Regression:
    """Fit a regression to a table by maximum likelihood.

    Args:
        formula: such as "y ~ a + b:c + C(group)"; `.` stands for all other columns.
        table: the rows.
        family: "softmax", or one of `RESPONSES`.
        options: which estimate.
        progress: called before each step with (step, log-likelihood, Newton decrement).

    Raises: ValueError for a formula or a table that cannot be used.
    """
    options = options or Options()
    names = [str(name) for name in table.columns]
    formula = spelled_out(formula, names, (options.weights, options.clusters))
    parsed = parse(formula)
    used = options.columns(parsed)
    designs.require_columns(used, names)
    complete, dropped = designs.complete_rows(table, used, options.missing)
    design = designs.design(complete, parsed, weights=options.weights)
    columns = design.columns()
    if family == "softmax":
        groups = None if options.clusters is None else table[options.clusters].to_numpy()
        fit, y, classes = _fit_classes(design, columns, groups, options, progress)
    else:
        fit, y, classes = _fit_numbers(design, columns, family, progress)
    return Regression(
        replace(fit, dropped=dropped),
        family,
        partial(Terms.of, design.spec, formula),
        lambda: [(design.table, design.weights)],
        classes,
        _Data(columns, y, design.weights.numpy()),
    )


def _fit_classes(
    design: designs.Design,
    columns: Columns,
    groups: Any,
    options: Options,
    progress: Progress | None,
) -> tuple[RegressionFit, np.ndarray, tuple[Any, ...]]:
    if design.y.dtype.kind == "f" and (design.y % 1 != 0).any():
        raise ValueError(
            f"softmax expects classes, but {design.response!r} has measurements; use family normal"
        )
    classes, codes = in_order(of_array(design.y.to_numpy(), design.response)[0])
    ordered = getattr(design.y.dtype, "ordered", False)  # as for a table in blocks
    first = first_level(categories_of(design.y) if ordered else None, classes)
    clusters = None
    if groups is not None:
        clusters = cluster_codes(groups, len(groups), design.rows.numpy())
    fit = fit_softmax(
        columns,
        torch.from_numpy(codes),
        design.weights,
        [label(value) for value in classes],
        baseline=code_of(first if options.baseline is None else options.baseline, classes),
        alpha=options.alpha,
        firth=options.firth,
        covariance=CovarianceOptions(options.covariance, clusters=clusters),
        response=design.response,
        progress=progress,
    )
    return fit, codes, tuple(classes)


def _fit_numbers(
    design: designs.Design, columns: Columns, family: str, progress: Progress | None
) -> tuple[RegressionFit, np.ndarray, tuple[Any, ...]]:
    if family == "bernoulli" and design.y.dtype.kind not in "iufb":
        raise ValueError(
            f"family bernoulli needs a 0/1 column, but {design.response!r} contains text; "
            f"use family softmax"
        )
    y = designs.numbers(design.y, design.response)
    observed = replace(observe(y, design.weights), numbers=design.rows)
    fit = fit_linear(family, columns, observed, response=design.response, progress=progress)
    return fit, y, ()


def regress_blocks(
    formula: str,
    data: Any,
    *,
    options: Options | None = None,
    checkpoint: Any = None,
    progress: Progress | None = None,
    rows_read: Callable[[int], None] | None = None,
) -> Regression:
    """Fit a softmax regression to a table that is read again, in blocks, for each pass.

    Args:
        formula: such as "y ~ a + C(b)".
        data: a file, a folder or a table, as `Stream` takes it.
        options: which estimate; not Firth's.
        checkpoint: a file that keeps the result of each pass, to resume from.
        progress: called before each step with (step, log-likelihood, Newton decrement).
        rows_read: called with the number of rows that a pass has read.

    Raises: NeedsWholeTableError for a formula that depends on all rows, such as y ~ center(a).
    """
    options = options or Options()
    rows, terms = _stream(formula, data, options, rows_read)
    fit, classes = fit_streamed(
        rows,
        intercept=terms.intercept,
        baseline=options.baseline,
        alpha=options.alpha,
        covariance=CovarianceOptions(options.covariance, clusters=options.clusters),
        checkpoint=checkpoint,
        progress=progress,
    )
    others = [rows.response, options.clusters]
    again = partial(complete_parts, data, terms, options.weights, others)
    return Regression(fit, "softmax", lambda: terms, again, tuple(classes))


def _stream(
    formula: str, data: Any, options: Options, rows_read: Callable[[int], None] | None
) -> tuple[Stream, Terms]:
    """Return the formula's columns in blocks, and its terms."""
    weights, clusters = options.weights, options.clusters
    if has_dot(formula):
        formula = spelled_out(formula, column_names(data), (weights, clusters))
    parsed = parse(formula)
    response = response_of(parsed)
    if response not in designs.variables(parsed):
        raise NeedsWholeTableError(
            f"a table that is read in blocks needs a column as its response, got {response!r}"
        )
    stream = formula_stream(data, formula, weights, clusters, options.missing, rows_read)
    if isinstance(stream, str):
        raise NeedsWholeTableError(
            f"a table that is read in blocks needs terms of single rows, but {stream} "
            f"depends on all rows"
        )
    return stream
