"""Classes, clusters and groups of any type: their different values, and a number for each row."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nll.data.arrays import (
    EXACT,
    FINE,
    absent,
    array_of,
    in_microseconds,
    present_levels,
    require_rows,
)


class Coded(NamedTuple):
    """Classes as numbers."""

    values: list[Any]  # the different ones
    codes: np.ndarray  # (n) int64, which of them


def key(value: Any) -> tuple[str, Any]:
    """Return what distinguishes a class from others: True is not 1."""
    return type(value).__name__, value


def label(value: Any) -> str:
    """Return a class as a reader writes it: 1, not 1.0, and a day without its midnight."""
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return text.removesuffix(" 00:00:00") if isinstance(value, datetime) else text


def coded(y: np.ndarray) -> Coded:
    """Return the different classes, sorted, and each row's. Integers close together are counted,
    not sorted.
    """
    if y.dtype.kind in "iu" and len(y):
        low, high = int(y.min()), int(y.max())
        if high - low < max(len(y), 256) and abs(low) < 1 << 62:
            place = y.astype(np.int64) - low  # an int8 might overflow
            seen = np.bincount(place) > 0
            values = (np.flatnonzero(seen) + low).astype(y.dtype)
            return Coded(values.tolist(), (np.cumsum(seen) - 1)[place])
    values, codes = np.unique(y, return_inverse=True)
    return Coded(values.tolist(), codes.reshape(-1))


def require_one_type(classes: Iterable[Any]) -> None:
    """Raise TypeError for classes of several types, which have no order."""
    types = sorted({type(value).__name__ for value in classes})
    if len(types) > 1:
        raise TypeError(f"expected classes of one type, got {' and '.join(types)}")


def in_order(classes: Coded) -> Coded:
    """Sort the classes. Raises: TypeError for several types."""
    require_one_type(classes.values)
    order = sorted(range(len(classes.values)), key=classes.values.__getitem__)
    return Coded([classes.values[k] for k in order], np.argsort(order)[classes.codes])


def as_array(classes: list[Any]) -> np.ndarray:
    return np.array(classes) if isinstance(classes[0], (bool, int, str)) else object_array(classes)


def object_array(values: list[Any]) -> np.ndarray:
    """Return values as they are: NumPy would convert or nest them."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


# ---- The classes of a column ---------------------------------------------------------------------


def of_array(y: np.ndarray, name: str) -> tuple[Coded, np.ndarray | None]:
    """Return the classes of an array's rows, and the mask of those present; None: all are.

    Raises: ValueError for measurements, and for values that are not single ones.
    """
    if y.dtype.kind in "cV":
        raise ValueError(f"expected classes in column {name!r}, got {y.dtype}")
    present = ~absent(y)
    complete = bool(present.all())
    classes = _encoded(y if complete else y[present], name)
    values = [plain_class(value, name) for value in classes.values]
    if complete:
        return Coded(values, classes.codes), None
    codes = np.zeros(len(y), dtype=np.int64)
    codes[present] = classes.codes
    return Coded(values, codes), present


def _encoded(y: np.ndarray, name: str) -> Coded:
    """Times that Python's own types hold become these; others stay as they are."""
    if y.dtype.kind in "mM":
        times, codes = np.unique(in_microseconds(y), return_inverse=True)
        fine = np.datetime_data(times.dtype)[0] in FINE
        return Coded(list(times) if fine else times.tolist(), codes)
    if y.dtype.kind != "O":
        return coded(y)
    number: dict[Any, int] = {}
    try:
        codes = [number.setdefault(key(value), len(number)) for value in y]
    except TypeError:
        wrong = next(value for value in y if type(value).__hash__ is None)
        raise _not_a_class(name, wrong) from None
    return Coded([value for _, value in number], np.array(codes, dtype=np.int64))


def plain_class(value: Any, name: str) -> Any:
    """Return a class in Python's own type: 1, not 1.0, Decimal(1) or a NumPy scalar."""
    if isinstance(value, np.generic) and not isinstance(value, (np.datetime64, np.timedelta64)):
        value = value.item()
    if isinstance(value, (float, Decimal)):
        if value % 1 != 0:  # NaN of an infinite value
            raise ValueError(f"expected classes in column {name!r}, got the measurement {value:g}")
        if isinstance(value, float) and abs(value) > EXACT:
            raise ValueError(
                f"expected classes in column {name!r}, got {value:.17g}, a float to which other "
                f"numbers round"
            )
        return int(value)
    if isinstance(value, (list, dict, set)):
        raise _not_a_class(name, value)
    # pandas' own
    for convert, rest in (("to_pydatetime", "nanosecond"), ("to_pytimedelta", "nanoseconds")):
        if hasattr(value, convert) and not getattr(value, rest) % 1000:
            value = getattr(value, convert)()
    if isinstance(value, datetime) and value.tzinfo is not None:  # there are many kinds of zones
        return value.replace(tzinfo=timezone(value.utcoffset() or timedelta()), fold=0)
    return value


def _not_a_class(name: str, value: Any) -> ValueError:
    return ValueError(f"expected classes in column {name!r}, got {reprlib.repr(value)}")


# ---- Labels of rows ------------------------------------------------------------------------------


def categories_as_numbers(
    array: np.ndarray, levels: list[Any] | None
) -> tuple[Tensor, tuple[str, ...]]:
    """Number the categories of a column, in the order of the levels or sorted; NaN where one is
    missing.
    """
    if array.ndim != 1:
        raise ValueError(f"expected data of shape (n) for Categorical, got {array.shape}")
    missing = absent(array)
    present = array[~missing].tolist()
    try:
        seen = set(present)
    except TypeError:
        hashes = [getattr(value, "__hash__", None) for value in array]
        row = hashes.index(None)
        raise TypeError(
            f"expected categories that are single values, got {array[row]!r} at row {row}"
        ) from None
    if levels is None:
        try:
            levels = sorted(seen)
        except TypeError:  # of several types
            levels = sorted(seen, key=str)
    categories = present_levels(levels, seen, "the data")
    code = {value: number for number, value in enumerate(categories)}
    values = np.full(array.shape, np.nan)
    values[~missing] = [code[value] for value in present]
    return torch.from_numpy(values), tuple(map(label, categories))


def label_codes(labels: Any, given: int, rows: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the different labels of the retained rows, sorted, and the number of each row's.

    Args:
        labels: one for each of the `given` rows.
        rows: which rows are retained.
        what: the kind of label, for messages.

    Raises: ValueError for labels of another length, or a missing one; TypeError for several types.
    """
    array = array_of(labels, f"{what} labels")
    require_rows(array.shape, given, f"{what} labels")
    retained = array[rows]
    missing = absent(retained)
    if missing.any():
        row = int(np.arange(given)[rows][missing][0])
        raise ValueError(f"expected a {what} for every row, got none at row {row}")
    try:
        values, codes = np.unique(
            in_microseconds(retained) if array.dtype.kind in "mM" else retained, return_inverse=True
        )
    except TypeError:
        types = " and ".join(sorted({type(value).__name__ for value in retained.tolist()}))
        raise TypeError(f"expected {what} labels of one type, got {types}") from None
    return values, codes.reshape(-1)


def cluster_codes(clusters: Any, given: int, rows: Any) -> Tensor:
    """Return the number of the cluster of each retained row, from 0; see `label_codes`.

    Raises: ValueError also for a single cluster.
    """
    codes = label_codes(clusters, given, rows, "cluster")[1]
    if codes.max() == 0:
        raise ValueError("expected at least two clusters, got one")
    return torch.from_numpy(codes)
