"""The arguments of a softmax regression: a row for each class that was seen, weights, offsets."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from torch import Tensor

from nll.data.arrays import (
    absent,
    array_of,
    categories_of,
    first_level,
    floats,
    in_microseconds,
    tensor_of,
)
from nll.data.classes import cluster_codes, coded, require_one_type
from nll.data.prefetch import blocks
from nll.data.weights import frequencies, scaled
from nll.regression.columns import column_names, columns_given, length, plain, shared
from nll.regression.design_matrix import Columns, StoredColumns
from nll.regression.softmax.set_valued import sets_of
from nll.regression.softmax.sparse import SparseColumns

_LOOKED_AT = 1 << 13  # rows that show whether a search for copies is worth its price
_WORTH = 2  # so many times fewer rows


class Given(NamedTuple):
    """The arguments of a fit, with one class in each row."""

    X: Any
    names: list[str] | None
    y: np.ndarray  # (n); of a set any of its classes
    codes: np.ndarray  # (n)
    first: Any  # the first of the classes, by the order of their type
    sets: tuple[np.ndarray, np.ndarray] | None  # (n, K) of booleans, and the classes
    weights: Any
    clusters: Any
    offset: Any

    @classmethod
    def of(cls, X: Any, y: Any, weights: Any, clusters: Any, offset: Any, kind: str) -> Given:
        """Check columns and classes; counts become rows, unless `kind` of weights forbids it."""
        X = columns_given(X)
        names = column_names(X)
        y = plain(y, "y") if hasattr(y, "columns") else y
        sets = sets_of(y)
        if sets is not None:
            y = sets[1][sets[0].argmax(1)]
        elif is_wide(y):
            X, y, weights, clusters, offset = by_count(
                X, y, weights, clusters, offset, repeated=kind != "frequency"
            )
        values = classes_given(y)
        classes, codes = coded(values)
        first = first_level(categories_of(y), classes)
        return cls(X, names, values, codes, first, sets, weights, clusters, offset)


class Training(NamedTuple):
    """The rows that count."""

    X: Any  # (n, p) a tensor or a sparse matrix
    codes: Tensor  # (n)
    weights: Tensor  # (n)
    classes: np.ndarray  # (K)
    clusters: Tensor | None
    offset: Tensor | None
    allowed: Tensor | None
    names: list[str] | None

    @classmethod
    def of(cls, given: Given, X: Any, class_weight: Any, kind: str) -> Training:
        """Take the rows with a weight, of validated columns X; copies are counted."""
        y, sets, n = given.y, given.sets, X.shape[0]
        weights = scaled(frequencies(given.weights, n), kind).numpy()
        if class_weight is not None:
            weights = weights * class_factors(class_weight, y, weights)
        seen = weights > 0
        clusters = None if given.clusters is None else cluster_codes(given.clusters, n, seen)
        offset = None if given.offset is None else array_of(plain(given.offset, "offset"))
        if not seen.all():
            X, y, weights = X[seen], y[seen], weights[seen]
            offset = None if offset is None else offset[seen]
        classes, codes = coded(y)
        allowed = None
        if sets is not None:
            classes, allowed = sets[1].tolist(), torch.from_numpy(sets[0][seen])
            codes = allowed.int().argmax(1).numpy()
        if offset is not None:
            offset = offset_of(offset, X.shape[0], len(classes))
        x = X if issparse(X) else shared(X)
        rows = x, torch.from_numpy(codes), scaled(torch.from_numpy(weights), kind)
        others = clusters, offset, allowed
        if not issparse(X) and kind == "frequency" and all(part is None for part in others):
            rows = counted(*rows) or rows
        return cls(*rows, np.array(classes, dtype=y.dtype), *others, given.names)

    def columns(self, intercept: bool, constant: bool) -> StoredColumns:
        kind = SparseColumns if issparse(self.X) else Columns
        return kind.of(self.X, self.names, intercept, constant)


def classes_given(y: Any) -> np.ndarray:
    """Return classes (n).

    Raises: ValueError for a row without a class; TypeError for classes of several types, or that
        are lists.
    """
    y = np.asarray(column_or_1d(array_of(y, "y"), warn=True))
    missing = absent(y)
    if missing.any():
        raise ValueError(f"expected a class in every row, got none at row {int(missing.argmax())}")
    if y.dtype.kind == "O":
        for row, value in enumerate(y):
            if isinstance(value, (list, tuple, dict, np.ndarray)):
                raise TypeError(
                    f"expected classes that are single values, got {value!r} at row {row}"
                )
        require_one_type(y.tolist())
        typed = np.array(y.tolist())
        y = typed if typed.dtype.kind in "biufU" else y
    if y.dtype.kind == "f":
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
    return in_microseconds(y) if y.dtype.kind in "mM" else y


def by_count(X: Any, y: Any, *more: Any, repeated: bool = False) -> list[Any]:
    """Return a row for each class that a row has counts of, with their number as its weight;
    `repeated`: as many rows.
    """
    y = plain(y, "y")
    classes = np.asarray(y.columns if hasattr(y, "columns") else np.arange(y.shape[1]))
    counts = floats(array_of(y), "counts")
    wrong = np.argwhere(~((counts >= 0) & np.isfinite(counts)))
    if len(wrong):
        row, column = wrong[0]
        raise ValueError(
            f"expected counts of at least 0 in y, got {counts[row, column]:g} at row {row}, class "
            f"{column}"
        )
    if not counts.any():
        raise ValueError("expected counts with a positive sum in y, got all zero")
    if length(X) != len(counts):
        raise ValueError(f"expected counts of {length(X)} rows, got {len(counts)}")
    row, k = np.nonzero(counts)
    number = counts[row, k]
    if repeated:
        if (number % 1 != 0).any():
            raise ValueError(
                f"expected whole counts with such weights, got {number[number % 1 != 0][0]:g}"
            )
        times = number.astype(np.int64)
        row, k, number = (np.repeat(part, times) for part in (row, k, np.ones_like(number)))
    weight, *others = more
    weight = number * frequencies(weight, len(counts)).numpy()[row]
    X = X.iloc[row] if hasattr(X, "iloc") else X[row]
    others = [None if part is None else array_of(part)[row] for part in others]
    return [X, classes[k], weight, *others]


def class_factors(class_weight: Any, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return a factor of each row's weight; "balanced" counts a row as often as its weight says."""
    if not (isinstance(class_weight, str) and class_weight == "balanced"):
        return compute_sample_weight(class_weight, y)
    codes = coded(y).codes
    total = np.bincount(codes, weights)
    return (weights.sum() / np.count_nonzero(total) / np.where(total > 0, total, 1.0))[codes]


def is_wide(y: Any) -> bool:
    shape = y.shape if hasattr(y, "shape") else array_of(y, "y").shape
    return len(shape) == 2 and shape[1] > 1


def offset_of(offset: Any, rows: int, classes: int) -> Tensor:
    """Return an offset (rows, classes) of finite numbers; ValueError otherwise."""
    given = floats(array_of(plain(offset, "offset")), "offset")
    if given.shape != (rows, classes):
        raise ValueError(f"expected an offset of shape {(rows, classes)}, got {given.shape}")
    wrong = np.argwhere(~np.isfinite(given))
    if len(wrong):
        raise ValueError(
            f"expected finite offsets, got {given[tuple(wrong[0])]} at row {wrong[0][0]}"
        )
    return tensor_of(given)


def counted(x: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Return columns (m, q), labels and weights (m) of the different rows; None where most rows are
    different.

    Rows are sorted by a random sum of their numbers and then compared: copies may be missed, others
        never merged.
    """
    n = len(x)
    step = -(-n // _LOOKED_AT)
    sums = _sums(x[::step], labels[::step] * 0)
    if n < 2 * x.shape[1] or len(sums.unique()) * _WORTH > len(sums):
        return None
    _, place = _sums(x, labels).unique(return_inverse=True)
    m = int(place.max()) + 1
    if m * _WORTH > n or m < 2 * x.shape[1]:
        return None
    first = torch.empty(m, dtype=torch.int64)
    first[place] = torch.arange(n)
    for rows in blocks(n, 2 * x.shape[1]):
        same = first[place[rows]]
        if not (torch.equal(x[rows], x[same]) and torch.equal(labels[rows], labels[same])):
            return None
    total = torch.zeros(m, dtype=torch.float64).index_add_(0, place, weights)
    return x[first], labels[first], total


def _sums(x: Tensor, labels: Tensor) -> Tensor:
    """Return a number for each row, the same for copies."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.rand(x.shape[1] + 1, dtype=torch.float64, generator=generator) + 0.5
    sums = labels.double() * factors[0]
    for rows in blocks(len(x), x.shape[1]):
        sums[rows] += x[rows].double() @ factors[1:]
    return sums
