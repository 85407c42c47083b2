"""Softmax regression of rows that are read again for each pass: the same sums, the same search.

A first pass tells the columns' extents and products, the classes, and keeps rows at even distances,
among which the search starts. Each pass is compared with the first (`Ledger`). The passes may be
kept in a file (`Checkpoint`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nll._version import __version__
from nll.data.arrays import first_level
from nll.data.checkpoint import Checkpoint, can_keep
from nll.data.classes import key, label, require_one_type
from nll.data.ledger import Ledger
from nll.data.prefetch import blocks
from nll.data.stream import Block, Stream
from nll.kernels.multinomial import Rows, RowSums, Standard, row_sums
from nll.regression.design_matrix import Columns, Frame, Survey, gram_of, plain
from nll.regression.result import RegressionFit
from nll.regression.softmax.fit import code_of, predicting, result
from nll.regression.softmax.objective import (
    Allowed,
    InMemory,
    Part,
    SoftmaxLikelihood,
    add_by_cluster,
    lost_offset,
    some_of_each,
)
from nll.regression.softmax.robust import CovarianceOptions
from nll.regression.softmax.solver import search
from nll.solvers.outcome import Progress

_SAMPLE_BYTES = 1 << 26  # of the rows that are kept
_SQUARES = (None, "information", "scores", "weighted scores")  # numbered, for the key of a pass


class Sample(NamedTuple):
    """Rows at even distances, or all."""

    x: Tensor  # (m, q) as given
    labels: Tensor  # (m)
    weights: Tensor  # (m)
    step: int  # the distance


class _Looked(NamedTuple):
    """What a first look at a block tells."""

    block: Block
    ends: tuple[Tensor, Tensor] | None  # the least and largest values; None: no rows
    products: Tensor | None  # the sum of those of the columns
    weight: Tensor  # of each of the block's classes


@dataclass
class _Seen:
    """What the first pass has seen; all of it can be written to a file."""

    rows: int = 0
    dropped: int = 0
    low: Any = math.inf
    high: Any = -math.inf
    products: Any = 0.0  # the sum of those of the columns about the first block's means
    classes: list[Any] = field(default_factory=list)  # in the order of their first rows
    weight: list[float] = field(default_factory=list)  # of each class
    step: int = 1
    kept: list[Any] = field(default_factory=list)  # the sample, in parts


class Table(NamedTuple):
    """A stream after the first pass."""

    rows: Ledger
    survey: Survey
    classes: list[Any]  # sorted
    weights: Tensor  # (K), of each class's rows
    sample: Sample
    dropped: int
    unit: float = 1.0  # what each row's weight is multiplied with

    def in_ratio(self) -> Table:
        """The same with weights of which only the ratios count: they add up to the number of
        rows.
        """
        unit = self.survey.rows / float(self.weights.sum())
        sample = self.sample._replace(weights=self.sample.weights * unit)
        return self._replace(weights=self.weights * unit, sample=sample, unit=unit)

    def weights_of(self, block: Block) -> Tensor | None:
        """Those of a block's rows; None: each counts once."""
        return None if block.weights is None else block.weights * self.unit

    def labels(self, block: Block, order: Tensor) -> Tensor:
        """Those of a block, numbered in an order of the classes."""
        number = dict(zip(map(key, self.classes), order.argsort().tolist(), strict=True))
        own = np.array(
            [number.get(key(value), -1) for value in block.response.values], dtype=np.int64
        )
        labels = own[block.response.codes]
        if len(labels) and labels.min() < 0:
            value = block.response.values[block.response.codes[labels.argmin()]]
            known = ", ".join(map(label, self.classes[:10])) + (
                ", ..." if len(self.classes) > 10 else ""
            )
            raise ValueError(
                f"expected the classes of {self.rows.before} again ({known}), got {label(value)}"
            )
        return torch.from_numpy(labels)


def survey(rows: Ledger, intercept: bool, checkpoint: Checkpoint) -> Table:
    """Go through all rows once.

    Raises: ValueError for rows that cannot be used (see `Stream`).
    """
    low, high, mean = rows.range
    about = _about(low, high, mean, intercept)

    def add(seen: dict[str, Any] | None, part: _Looked) -> dict[str, Any]:
        return _add(_Seen() if seen is None else _Seen(**seen), part).__dict__

    looked = partial(rows.each, partial(_look, about=about), clusters=True)
    found = checkpoint.passed([torch.tensor([float(intercept)])], looked, add)
    if not (found and found["rows"]):
        raise ValueError("expected the first rows again, got none: data are read several times")
    seen = _Seen(**found)
    whole = Survey(seen.rows, seen.low, seen.high, about, seen.products / seen.rows).about_mean()
    require_one_type(seen.classes)
    classes = sorted(seen.classes)
    place = {key(value): k for k, value in enumerate(classes)}
    order = torch.tensor([place[key(value)] for value in seen.classes])
    weights = torch.zeros(len(classes), dtype=torch.float64)
    weights[order] = torch.tensor(seen.weight, dtype=torch.float64)
    x, labels, own = (torch.cat(parts, -1) for parts in zip(*seen.kept, strict=True))
    return Table(
        rows, whole, classes, weights, Sample(x.T, order[labels], own, seen.step), seen.dropped
    )


def _about(low: Tensor, high: Tensor, mean: Tensor, intercept: bool) -> Standard:
    """Centre and scale of rows between such ends."""
    centre = mean if intercept else torch.zeros_like(mean)
    reach = torch.maximum(high - centre, centre - low)
    return Standard(centre, torch.where(reach > 0, 1 / reach, 1.0), intercept)


def _look(block: Block, about: Standard) -> _Looked:
    """One block's part of the first pass, on one thread."""
    x, codes = block.x, block.response.codes
    count = len(block.response.values)
    weight = np.bincount(codes, None if block.weights is None else block.weights.numpy(), count)
    if not len(x):
        return _Looked(block, None, None, torch.from_numpy(weight))
    low, high = torch.aminmax(x, dim=0)
    return _Looked(
        block,
        (low.double(), high.double()),
        len(x) * gram_of(x, about, threads=1),
        torch.from_numpy(weight),
    )


def _add(seen: _Seen, looked: _Looked) -> _Seen:
    """The same with one more block."""
    block, x, n = looked.block, looked.block.x, len(looked.block.x)
    seen.dropped += block.dropped
    if looked.ends is None:
        return seen
    seen.low = torch.minimum(torch.as_tensor(seen.low), looked.ends[0])
    seen.high = torch.maximum(torch.as_tensor(seen.high), looked.ends[1])
    seen.products = seen.products + looked.products
    number = _numbered(seen, block.response.values, looked.weight)
    at = slice(-seen.rows % seen.step, None, seen.step)
    if len(x[at]):
        labels = number.numpy()[block.response.codes[at]]
        weights = np.ones(len(labels)) if block.weights is None else block.weights.numpy()[at]
        seen.kept = [
            *seen.kept,
            [torch.from_numpy(part.copy()) for part in (x.numpy().T[:, at], labels, weights)],
        ]
    seen.rows += n
    while sum(part[0].numel() * 8 for part in seen.kept) > _SAMPLE_BYTES:
        whole = [
            torch.cat(parts, -1)[..., ::2].contiguous() for parts in zip(*seen.kept, strict=True)
        ]
        seen.kept, seen.step = [whole], 2 * seen.step
    return seen


def _numbered(seen: _Seen, values: list[Any], total: Tensor) -> Tensor:
    """The numbers of a block's classes, in the order in which they were first seen; their rows'
    weights are added.
    """
    number = {key(value): k for k, value in enumerate(seen.classes)}
    own = torch.zeros(len(total), dtype=torch.int64)
    for k, (value, weight) in enumerate(zip(values, total.tolist(), strict=True)):
        if not weight:
            continue  # one of rows that are left out
        if key(value) not in number:
            number[key(value)] = len(number)
            seen.classes, seen.weight = [*seen.classes, value], [*seen.weight, 0.0]
        own[k] = number[key(value)]
        seen.weight[int(own[k])] += weight
    return own


@dataclass(frozen=True)
class StreamedColumns(Frame):
    """Columns whose rows are read for each pass."""

    table: Table
    # (p, p): the search's columns are the standardised ones times its inverse
    factor: Tensor | None = None

    @classmethod
    def of(cls, table: Table, intercept: bool, constant: bool = False) -> StreamedColumns:
        """Standardise the columns of a table."""
        assert table.survey.about.intercept == intercept
        return cls(**table.survey.frame(table.rows.stream.names, constant), table=table)

    def parts(self) -> Iterator[Tensor]:
        """The search's columns, a block at a time."""
        return (self.applied(block.x) for block in self.table.rows)

    def applied(self, x: Tensor) -> Tensor:
        """The search's columns of some rows."""
        x = self.standard.applied(x)
        return (
            x
            if self.factor is None
            else torch.linalg.solve_triangular(self.factor, x, upper=True, left=False)
        )

    def turned_by(self, factor: Tensor) -> StreamedColumns:
        """The columns x factor^-1, of the same span, with an upper triangular factor."""
        turned = replace(self, factor=factor, **self._turned(factor))
        reach = max(float(x.square().sum(1).amax()) for x in turned.parts()) ** 0.5
        return replace(turned, reach=reach)


class Streamed(SoftmaxLikelihood):
    """The likelihood of a table that is read for each pass.

    Args:
        columns: of the search.
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
        super().__init__(columns, self.table.weights[order], self.table.survey.rows, alpha)
        self.order, self.checkpoint, self.allowed = order, checkpoint, allowed

    def row_sums(self, theta: Tensor, direction: Tensor | None = None, **more: Any) -> RowSums:
        """What the rows add up to, in one pass."""
        shape = (self.classes - 1, self.columns.count)
        along = None if direction is None else direction.reshape(shape)

        def of(block: Block) -> list[Tensor]:
            rows, standard = self._rows(block)
            found = row_sums(
                rows, standard, theta.reshape(shape), direction=along, threads=1, **more
            )
            return [part for part in found if part is not None]

        def add(sums: list[Tensor] | None, part: list[Tensor]) -> list[Tensor]:
            return part if sums is None else [a + b for a, b in zip(sums, part, strict=True)]

        wanted = torch.tensor(
            [_SQUARES.index(more.get("square")), self.allowed is not None, self.table.unit]
        ).double()
        at = [theta, self.order, wanted, *([] if direction is None else [direction])]
        value, score, *square = self.checkpoint.passed(at, partial(self.table.rows.each, of), add)
        return RowSums(value, score, square[0] if square else None)

    def _rows(self, block: Block) -> tuple[Rows, Standard]:
        labels = self.table.labels(block, self.order)
        x, standard = block.x, self.columns.standard
        offset = None
        if self.columns.factor is not None or self.allowed is not None:
            x, standard = self.columns.applied(x), plain(self.columns.count)
        if self.allowed is not None:
            offset = lost_offset(self.allowed(x, labels))
        return Rows(x, labels, self.table.weights_of(block), offset=offset), standard

    def by_cluster(self, theta: Tensor, clusters: str) -> Tensor:
        """The sum of the scores in each cluster, (G, (K - 1) p), in the order of their first
        rows.
        """
        coef = theta.reshape(-1, self.columns.count)
        coef = torch.cat([torch.zeros_like(coef[:1]), coef])

        def of(block: Block) -> tuple[list[Any], Tensor]:
            assert block.clusters is not None
            labels, codes = (
                self.table.labels(block, self.order),
                torch.from_numpy(block.clusters.codes),
            )
            total = torch.zeros(len(block.clusters.values), self.size, dtype=torch.float64)
            weights = self.table.weights_of(block)
            for rows in blocks(len(labels), self.size):
                x = self.columns.applied(block.x[rows])
                residual = torch.nn.functional.one_hot(labels[rows], self.classes) - (
                    x @ coef.T
                ).softmax(1)
                residual = residual if weights is None else weights[rows, None] * residual
                add_by_cluster(total, codes[rows], residual[:, 1:], x)
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

        each = partial(self.table.rows.each, of, clusters=True)
        return self.checkpoint.passed([theta, self.order], each, add)[1]

    def parts(self) -> Iterator[Part]:
        """The rows, a block at a time."""
        for block in self.table.rows:
            yield Part(self.columns.applied(block.x), self.table.labels(block, self.order))

    def some(self, size: int) -> Part:
        """About so many rows of the sample, of each class some."""
        labels = self.order.argsort()[self.table.sample.labels]
        rows = some_of_each(labels, size)
        return Part(self.columns.applied(self.table.sample.x[rows]), labels[rows])

    def thinned(self, least: int) -> InMemory | None:
        """The likelihood of the sample."""
        x, labels, weights, step = self.table.sample
        if len(x) < least:
            return None
        factor, columns = self.columns.factor, self.columns
        turned = None if factor is None else columns.applied(x)
        fields = {
            name: getattr(columns, name)
            for name in ("names", "standard", "to_given", "gram", "reach")
        }
        own = Columns(**fields, length=len(x), source=x, turned=turned)
        return InMemory(own, self.order.argsort()[labels], weights, self.classes, self.alpha / step)

    def among(self, allowed: Allowed) -> Streamed:
        """The likelihood of each row's label among the classes that are allowed it."""
        return Streamed(self.columns, self.order, self.checkpoint, self.alpha, allowed)


def fit_streamed(
    stream: Stream,
    *,
    intercept: bool = True,
    baseline: Any = None,
    alpha: float = 0.0,
    standard_errors: bool = True,
    wish: CovarianceOptions | None = None,
    checkpoint: Any = None,
    progress: Progress | None = None,
) -> tuple[RegressionFit, list[Any]]:
    """Fit the classes of a stream to its columns; the fit, and the classes in their order.

    Args:
        stream: read once for the columns, and once for each step.
        intercept: whether every score has a constant.
        baseline: the class that the others are compared with; None: the first, by the order of the
            type or sorted.
        alpha: the ridge penalty of `SoftmaxRegression`.
        standard_errors: whether the information is formed where the steps do not need it.
        wish: which covariance; None: the inverse information.
        checkpoint: the file that keeps the passes; None: none.
        progress: called before each step with (step, log-likelihood, Newton decrement).

    Raises: ValueError for rows or a checkpoint that cannot be used, or, without a penalty,
        collinear columns.
    """
    wish = wish or CovarianceOptions()
    if wish.weights == "importance":
        raise ValueError(
            "expected frequencies or sampling weights with a Stream, got importance weights"
        )
    rows = Ledger(stream)
    options = {
        "intercept": intercept,
        "baseline": baseline,
        "alpha": alpha,
        "standard errors": standard_errors,
        "covariance": wish.kind,
        "kind of weights": wish.weights,
    }
    if checkpoint is not None and not can_keep(rows.classes):
        kinds = " and ".join(type(part[0]).__name__ for part in rows.classes if part)
        raise ValueError(
            f"expected classes and clusters of numbers, texts, bytes or times to be "
            f"kept, got {kinds}"
        )
    what = (
        {}
        if checkpoint is None
        else {**rows.what, **{name: str(value) for name, value in options.items()}}
    )
    with Checkpoint(checkpoint, what | {"nll": __version__}, rows) as passes:
        table = survey(rows, intercept, passes)
        table = table if wish.weights == "frequency" else table.in_ratio()
        if len(table.classes) < 2:
            raise ValueError(
                f"expected at least two classes, got one class: {label(table.classes[0])}"
            )
        base = code_of(
            first_level(rows.levels, table.classes) if baseline is None else baseline,
            table.classes,
        )
        order = torch.tensor([base, *(k for k in range(len(table.classes)) if k != base)])
        columns = StreamedColumns.of(table, intercept, alpha > 0.0)
        problem = Streamed(columns if alpha else columns.independent(), order, passes, alpha)
        found = search(problem, progress, standard_errors)
        names = [label(table.classes[k]) for k in order]
        fitted = result(problem, found, names, stream.response, wish)
        if not rows.checked:  # all passes were in the file
            rows.check()
    fitted = predicting(fitted, columns, [label(value) for value in table.classes], base)
    return replace(fitted, dropped=table.dropped), table.classes
