"""The first pass over a stream: the columns' extents and products, the classes, and rows at even
distances, among which the search starts.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor

from nll.data.checkpoint import Checkpoint
from nll.data.classes import key, label, require_one_type
from nll.data.ledger import Ledger
from nll.data.stream import Block
from nll.kernels.multinomial import Standard
from nll.regression.design_matrix import Survey, about_centre, gram_of

_SAMPLE_BYTES = 1 << 26  # of the rows that are kept


class Sample(NamedTuple):
    """Rows at even distances, or all."""

    x: Tensor  # (m, q) as given
    labels: Tensor  # (m)
    weights: Tensor  # (m)
    step: int  # the distance


class Table(NamedTuple):
    """A stream after the first pass."""

    rows: Ledger
    survey: Survey
    classes: list[Any]  # sorted
    weights: Tensor  # (K), of each class's rows
    sample: Sample
    dropped: int
    unit: float = 1.0  # the factor of each row's weight

    def in_ratio(self) -> Table:
        """Scale weights of which only the ratios count: they add up to the number of rows."""
        unit = self.survey.rows / float(self.weights.sum())
        sample = self.sample._replace(weights=self.sample.weights * unit)
        return self._replace(weights=self.weights * unit, sample=sample, unit=unit)

    def weights_of(self, block: Block) -> Tensor | None:
        return None if block.weights is None else block.weights * self.unit

    def labels(self, block: Block, order: Tensor) -> Tensor:
        """Return those of a block, numbered in an order of the classes."""
        number = dict(zip(map(key, self.classes), order.argsort().tolist(), strict=True))
        numbers = [number.get(key(value), -1) for value in block.response.values]
        labels = np.array(numbers, dtype=np.int64)[block.response.codes]
        if len(labels) and labels.min() < 0:
            value = block.response.values[block.response.codes[labels.argmin()]]
            more = ", ..." if len(self.classes) > 10 else ""
            raise ValueError(
                f"expected the classes of {self.rows.before} again "
                f"({', '.join(map(label, self.classes[:10]))}{more}), got {label(value)}"
            )
        return torch.from_numpy(labels)


class _Seen(TypedDict):
    """What the first pass has seen; all of it can be written to a file."""

    rows: int
    dropped: int
    low: Tensor
    high: Tensor
    products: Tensor  # of the columns about the first block's means, summed
    classes: list[Any]  # in the order of their first rows
    weights: list[float]  # of each class
    step: int
    sample: list[list[Tensor]]  # columns (q, m), labels and weights


class _Looked(NamedTuple):
    """One block, with the work of its own thread."""

    block: Block
    ends: Any  # the least and largest values of the columns; None: no rows
    products: Any
    weights: Tensor  # of each of the block's classes


def survey(rows: Ledger, intercept: bool, checkpoint: Checkpoint) -> Table:
    """Go through all rows once.

    Raises: ValueError for rows that cannot be used (see `Stream`).
    """
    low, high, mean = rows.range
    about = about_centre(low, high, mean, intercept)
    looked = partial(rows.each, partial(_look, about=about), clusters=True)
    seen = checkpoint.passed([torch.tensor([float(intercept)])], looked, _add)
    if not (seen and seen["rows"]):
        raise ValueError("expected the first rows again, got none: data are read several times")
    gram = seen["products"] / seen["rows"]
    extents = Survey(seen["rows"], seen["low"], seen["high"], about, gram).about_mean()
    require_one_type(seen["classes"])
    classes = sorted(seen["classes"])
    place = {key(value): k for k, value in enumerate(classes)}
    order = torch.tensor([place[key(value)] for value in seen["classes"]])
    weights = torch.zeros(len(classes), dtype=torch.float64)
    weights[order] = torch.tensor(seen["weights"], dtype=torch.float64)
    x, labels, row_weights = (torch.cat(parts, -1) for parts in zip(*seen["sample"], strict=True))
    sample = Sample(x.T, order[labels], row_weights, seen["step"])
    return Table(rows, extents, classes, weights, sample, seen["dropped"])


def _look(block: Block, about: Standard) -> _Looked:
    x, response = block.x, block.response
    weights = None if block.weights is None else block.weights.numpy()
    by_class = np.bincount(response.codes, weights, len(response.values))
    if not len(x):
        return _Looked(block, None, None, torch.from_numpy(by_class))
    products = len(x) * gram_of(x, about, threads=1)
    return _Looked(block, torch.aminmax(x, dim=0), products, torch.from_numpy(by_class))


def _add(seen: _Seen | None, looked: _Looked) -> _Seen:
    block = looked.block
    ends = torch.full((2,), math.inf, dtype=torch.float64)
    seen = seen or _Seen(
        rows=0,
        dropped=0,
        low=ends[0],
        high=-ends[1],
        products=torch.zeros((), dtype=torch.float64),
        classes=[],
        weights=[],
        step=1,
        sample=[],
    )
    if looked.ends is None:
        return {**seen, "dropped": seen["dropped"] + block.dropped}
    low, high = looked.ends
    classes, weights = [*seen["classes"]], [*seen["weights"]]
    number = _numbered(classes, weights, looked)
    at = slice(-seen["rows"] % seen["step"], None, seen["step"])
    labels = number[block.response.codes[at]]
    some = torch.ones(len(labels), dtype=torch.float64)
    some = some if block.weights is None else block.weights[at].clone()
    added = [block.x.T[:, at].clone(), torch.from_numpy(labels), some]
    sample, step = _thinned([*seen["sample"], added], seen["step"])
    return _Seen(
        rows=seen["rows"] + len(block.x),
        dropped=seen["dropped"] + block.dropped,
        low=torch.minimum(seen["low"], low.double()),
        high=torch.maximum(seen["high"], high.double()),
        products=seen["products"] + looked.products,
        classes=classes,
        weights=weights,
        step=step,
        sample=sample,
    )


def _numbered(classes: list[Any], weights: list[float], looked: _Looked) -> np.ndarray:
    """Number a block's classes in the order in which they were first seen; new ones are appended,
    and their rows' weights added.
    """
    number = {key(value): k for k, value in enumerate(classes)}
    numbers = np.zeros(len(looked.weights), dtype=np.int64)
    each = zip(looked.block.response.values, looked.weights.tolist(), strict=True)
    for k, (value, weight) in enumerate(each):
        if not weight:
            continue  # one of rows that are left out
        if key(value) not in number:
            number[key(value)] = len(number)
            classes.append(value)
            weights.append(0.0)
        numbers[k] = number[key(value)]
        weights[numbers[k]] += weight
    return numbers


def _thinned(sample: list[list[Tensor]], step: int) -> tuple[list[list[Tensor]], int]:
    """Drop every other row while the sample takes too much memory."""
    while sum(part[0].numel() * 8 for part in sample) > _SAMPLE_BYTES:
        joined = [torch.cat(parts, -1) for parts in zip(*sample, strict=True)]
        sample, step = [[part[..., ::2].contiguous() for part in joined]], 2 * step
    return sample, step
