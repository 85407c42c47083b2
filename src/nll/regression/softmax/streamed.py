"""Softmax regression on rows that are read again for each pass: the same sums, the same search.

Each pass is compared with the first (`Ledger`), and may be kept in a file (`Checkpoint`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nll._version import __version__
from nll.data.arrays import first_level
from nll.data.checkpoint import Checkpoint, can_keep
from nll.data.classes import key, label
from nll.data.ledger import Ledger
from nll.data.prefetch import blocks
from nll.data.stream import Block, Stream
from nll.kernels.multinomial import Rows, RowSums, Square, row_sums
from nll.regression.contrasts import Classes
from nll.regression.covariance import CovarianceOptions
from nll.regression.design_matrix import Columns, Response, SolverColumns, unchanged
from nll.regression.result import RegressionFit
from nll.regression.softmax.fit import code_of, conclude
from nll.regression.softmax.objective import (
    Allowed,
    InMemory,
    SoftmaxLikelihood,
    mask_as_offset,
    scores_of,
    some_of_each,
)
from nll.regression.softmax.solver import search
from nll.regression.softmax.survey import Table, survey
from nll.solvers.outcome import Progress

_SQUARES = (None, "information", "scores", "weighted scores")  # numbered, for the key of a pass


@dataclass(frozen=True)
class StreamedColumns(SolverColumns):
    """Columns whose rows are read for each pass."""

    table: Table

    @classmethod
    def of(cls, table: Table, intercept: bool, constant: bool = False) -> StreamedColumns:
        assert table.survey.about.intercept == intercept
        return cls(**table.survey.frame(table.rows.stream.names, constant), table=table)

    def parts(self) -> Iterator[Tensor]:
        return (self.applied(block.x) for block in self.table.rows)

    def stored(self, x: Tensor) -> Columns:
        standard = self.standard, self.to_data, self.gram, self.max_norm
        return Columns(self.names, *standard, len(x), x, factor=self.factor)


class Streamed(SoftmaxLikelihood):
    """The likelihood of a table that is read for each pass.

    Args:
        columns: of the solver.
        order: (K), the numbers of the table's classes, the baseline's first.
        checkpoint: keeps the passes.
        alpha: see `SoftmaxLikelihood`.
        allowed: which classes a row may have; None: all.
    """

    columns: StreamedColumns

    def __init__(
        self,
        columns: StreamedColumns,
        order: Tensor,
        checkpoint: Checkpoint,
        alpha: float = 0.0,
        allowed: Allowed | None = None,
    ) -> None:
        self.table = columns.table
        super().__init__(columns, len(order), self.table.survey.rows, alpha)
        self.counts = self.table.weights[order]
        self.order, self.checkpoint, self.allowed = order, checkpoint, allowed
        self.dropped = self.table.dropped

    def _passed(
        self, at: list[Tensor], of: Callable[[Block], Any], add: Any, clusters: bool = False
    ) -> Any:
        each = partial(self.table.rows.each, of, clusters=clusters)
        return self.checkpoint.passed(at, each, add)

    def row_sums(
        self, theta: Tensor, square: Square | None = None, direction: Tensor | None = None
    ) -> RowSums:

        def of(block: Block) -> list[Tensor]:
            if self.columns.factor is None and self.allowed is None:
                rows, standard = self._given(block), self.columns.standard
            else:
                rows, standard = self._rows(block), unchanged(self.columns.count)
            coef, options = self.coef(theta), {"square": square, "threads": 1}
            sums = row_sums(rows, standard, coef, direction=direction, **options)
            return [part for part in sums if part is not None]

        def add(sums: list[Tensor] | None, part: list[Tensor]) -> list[Tensor]:
            return part if sums is None else [a + b for a, b in zip(sums, part, strict=True)]

        flags = [_SQUARES.index(square), self.allowed is not None, self.table.unit]
        at = [theta, self.order, torch.tensor(flags).double()]
        at += [] if direction is None else [direction]
        value, score, *squares = self._passed(at, of, add)
        return RowSums(value, score, squares[0] if squares else None)

    def _given(self, block: Block) -> Rows:
        labels = self.table.labels(block, self.order)
        return Rows(block.x, labels, self.table.weights_of(block))

    def _rows(self, block: Block) -> Rows:
        rows = self._given(block)
        x = self.columns.applied(rows.x)
        offset = None if self.allowed is None else mask_as_offset(self.allowed(x, rows.labels))
        return rows._replace(x=x, offset=offset)

    def by_cluster(self, theta: Tensor, clusters: str) -> Tensor:
        """As the base class has it; clusters come in the order of their first rows."""

        def of(block: Block) -> tuple[list[Any], Tensor]:
            assert block.clusters is not None
            codes = torch.from_numpy(block.clusters.codes)
            total = torch.zeros(len(block.clusters.values), self.size, dtype=torch.float64)
            x, *rest = self._rows(block)
            for rows in blocks(len(codes), self.size):
                some = Rows(x[rows], *Response(*rest).at(rows))
                total.index_add_(0, codes[rows], scores_of(some, self.coef(theta)))
            present = codes.bincount(minlength=len(total)) > 0
            names = [block.clusters.values[k] for k in present.nonzero()[:, 0]]
            return names, total[present]

        def add(sums: list[Any] | None, part: tuple[list[Any], Tensor]) -> list[Any]:
            names, total = sums or [[], part[1][:0]]
            place = {key(value): k for k, value in enumerate(names)}
            new = [value for value in part[0] if key(value) not in place]
            place |= {key(value): len(names) + k for k, value in enumerate(new)}
            total = torch.cat([total, torch.zeros(len(new), self.size, dtype=torch.float64)])
            at = torch.tensor([place[key(value)] for value in part[0]], dtype=torch.int64)
            return [names + new, total.index_add_(0, at, part[1])]

        return self._passed([theta, self.order], of, add, clusters=True)[1]

    def in_data_units(self) -> None:
        return None

    def parts(self) -> Iterator[Rows]:
        return map(self._rows, self.table.rows)

    def some(self, size: int) -> tuple[Tensor, Tensor]:
        labels = self.order.argsort()[self.table.sample.labels]
        rows = some_of_each(labels, size)
        return self.columns.applied(self.table.sample.x[rows]), labels[rows]

    def thinned(self, least: int) -> InMemory | None:
        x, labels, weights, step = self.table.sample
        if len(x) < least:
            return None
        response = Response(self.order.argsort()[labels], weights)
        return InMemory(self.columns.stored(x), response, self.classes, self.alpha / step)

    def among(self, allowed: Allowed) -> Streamed:
        return Streamed(self.columns, self.order, self.checkpoint, self.alpha, allowed)


def fit_streamed(
    stream: Stream,
    *,
    intercept: bool = True,
    baseline: Any = None,
    alpha: float = 0.0,
    standard_errors: bool = True,
    covariance: CovarianceOptions | None = None,
    checkpoint: Any = None,
    progress: Progress | None = None,
) -> tuple[RegressionFit, list[Any]]:
    """Fit the classes of a stream to its columns; return the fit, and the classes in their order.

    Args:
        stream: read once for the columns, and once for each step.
        intercept: whether every linear predictor has a constant.
        baseline: the reference class; None: the first, by the order of the type or sorted.
        alpha: the ridge penalty of `SoftmaxRegression`.
        standard_errors: whether the information is formed where the steps do not need it.
        covariance: which covariance; None: the inverse information.
        checkpoint: the file that keeps the passes; None: none.
        progress: called before each step with (step, log-likelihood, Newton decrement).

    Raises: ValueError for rows or a checkpoint that cannot be used, or, without a penalty,
        collinear columns.
    """
    covariance = covariance or CovarianceOptions()
    if covariance.weights == "importance":
        raise ValueError(
            "expected frequencies or sampling weights with a Stream, got importance weights"
        )
    rows = Ledger(stream)
    options = {
        "intercept": intercept,
        "baseline": baseline,
        "alpha": alpha,
        "standard errors": standard_errors,
        "covariance": covariance.kind,
        "kind of weights": covariance.weights,
        "nll": __version__,
    }
    what = rows.what | {name: str(value) for name, value in options.items()}
    _require_keepable(rows, checkpoint)
    with Checkpoint(checkpoint, what, rows) as passes:
        table = survey(rows, intercept, passes)
        table = table if covariance.weights == "frequency" else table.in_ratio()
        classes = _classes(table, baseline)
        columns = StreamedColumns.of(table, intercept, alpha > 0.0)
        columns = columns if alpha else columns.independent()
        objective = Streamed(columns, classes.order, passes, alpha)
        searched = search(objective, progress, standard_errors)
        fitted = conclude(objective, searched, classes, stream.response, covariance)
        if not rows.checked:  # all passes were in the file
            rows.check()
    return fitted, table.classes


def _require_keepable(rows: Ledger, checkpoint: Any) -> None:
    if checkpoint is not None and not can_keep(rows.classes):
        kinds = " and ".join(type(part[0]).__name__ for part in rows.classes if part)
        raise ValueError(
            f"expected classes and clusters of numbers, texts, bytes or times to be "
            f"kept, got {kinds}"
        )


def _classes(table: Table, baseline: Any) -> Classes:
    names = tuple(map(label, table.classes))
    if len(names) < 2:
        raise ValueError(f"expected at least two classes, got one class: {', '.join(names)}")
    if baseline is None:
        baseline = first_level(table.rows.levels, table.classes)
    return Classes(names, code_of(baseline, table.classes))
