"""Classes of any type: their values, and the number of each row's."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np

from nll.data.arrays import FINE, absent, in_microseconds, is_pandas

_EXACT = 1 << 53  # whole numbers up to here have a float64 of their own


class Coded(NamedTuple):
    """Classes as numbers."""

    values: list[Any]  # the different ones
    codes: np.ndarray  # (n) int64, which of them


def key(value: Any) -> tuple[str, Any]:
    """What tells a class from others: True is not 1."""
    return type(value).__name__, value


def coded(y: np.ndarray) -> Coded:
    """The different classes, sorted, and each row's; whole numbers near each other are counted, not
    sorted.
    """
    if y.dtype.kind in "iu" and len(y):
        low, high = int(y.min()), int(y.max())
        if high - low < max(len(y), 256) and abs(low) < 1 << 62:
            place = y.astype(np.int64) - low  # in a type of its own an int8 may overflow
            seen = np.bincount(place) > 0
            return Coded(
                (np.flatnonzero(seen) + low).astype(y.dtype).tolist(), (np.cumsum(seen) - 1)[place]
            )
    values, codes = np.unique(y, return_inverse=True)
    return Coded(values.tolist(), codes.reshape(-1))


def require_one_type(classes: Iterable[Any]) -> None:
    """Classes are sorted: those of several types have no order."""
    types = sorted({type(value).__name__ for value in classes})
    if len(types) > 1:
        raise TypeError(f"expected classes of one type, got {' and '.join(types)}")


def in_order(found: Coded) -> Coded:
    """The same with the classes sorted. TypeError for classes of several types."""
    require_one_type(found.values)
    order = sorted(range(len(found.values)), key=found.values.__getitem__)
    return Coded([found.values[k] for k in order], np.argsort(order)[found.codes])


def of_array(y: np.ndarray, name: str) -> tuple[Coded, np.ndarray | None]:
    """The classes of an array's rows; and where they are not missing, None: everywhere.

    Raises: ValueError for measurements, and for values that are no single ones.
    """
    if y.dtype.kind in "cV":
        raise ValueError(f"expected classes in column {name!r}, got {y.dtype}")
    present = ~absent(y)
    kept = y if present.all() else y[present]
    values, codes = (_of_objects(kept, name) if y.dtype.kind == "O" else _of_times(kept)) or coded(
        kept
    )
    if len(kept) < len(y):
        codes, some = np.zeros(len(y), dtype=np.int64), codes
        codes[present] = some
    return Coded([_plain(value, name) for value in values], codes), None if len(kept) == len(
        y
    ) else present


def of_arrow(column: Any, name: str) -> tuple[Coded, np.ndarray | None]:
    """The same of an Arrow column; categories without rows are left out."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_floating(kind) or (pa.types.is_integer(kind) and not column.null_count):
        return of_array(column.to_numpy(zero_copy_only=False), name)
    if pa.types.is_dictionary(kind) and (
        column.dictionary.null_count or is_pandas(column.dictionary.type)
    ):
        column = column.dictionary_decode()
    if is_pandas(column.type):
        return of_array(column.to_pandas().to_numpy(dtype=object), name)
    if not pa.types.is_dictionary(column.type):
        try:
            column = column.dictionary_encode()
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # values that Arrow cannot compare
            values = np.empty(len(column), dtype=object)
            values[:] = column.to_pylist()
            return of_array(values, name)
    present = None if not column.null_count else column.is_valid().to_numpy(False)
    codes = column.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    used = (
        np.bincount(codes if present is None else codes[present], minlength=len(column.dictionary))
        > 0
    )
    values = [
        _plain(value, name)
        for value in column.dictionary.take(pa.array(np.flatnonzero(used))).to_pylist()
    ]
    place = np.maximum(np.cumsum(used) - 1, 0)
    return Coded(values, place[codes] if len(place) else codes), present


def _of_objects(y: np.ndarray, name: str) -> Coded:
    try:
        number: dict[Any, int] = {}
        codes = np.array(
            [number.setdefault(key(value), len(number)) for value in y], dtype=np.int64
        )
    except TypeError:
        wrong = next(value for value in y if type(value).__hash__ is None)
        raise ValueError(f"expected classes in column {name!r}, got {_short(wrong)}") from None
    return Coded([value for _, value in number], codes)


def _of_times(y: np.ndarray) -> Coded | None:
    """Times that Python's own types hold become these; others stay as they are. None: no times."""
    if y.dtype.kind not in "mM":
        return None
    values, codes = np.unique(in_microseconds(y), return_inverse=True)
    return Coded(
        list(values) if np.datetime_data(values.dtype)[0] in FINE else values.tolist(), codes
    )


def _plain(value: Any, name: str) -> Any:
    """A class as Python's own types have it: 1, not 1.0, Decimal(1) or a NumPy scalar."""
    if isinstance(value, np.generic) and not isinstance(value, (np.datetime64, np.timedelta64)):
        value = value.item()
    if isinstance(value, (float, Decimal)):
        if value % 1 != 0:  # NaN of an infinite value
            raise ValueError(f"expected classes in column {name!r}, got the measurement {value:g}")
        if isinstance(value, float) and abs(value) > _EXACT:
            raise ValueError(
                f"expected classes in column {name!r}, got {value:.17g}, a float that "
                f"others round to"
            )
        return int(value)
    if isinstance(value, (list, dict, set)):
        raise ValueError(f"expected classes in column {name!r}, got {_short(value)}")
    # pandas' own
    for convert, rest in (("to_pydatetime", "nanosecond"), ("to_pytimedelta", "nanoseconds")):
        if hasattr(value, convert) and not getattr(value, rest) % 1000:
            value = getattr(value, convert)()
    if isinstance(value, datetime) and value.tzinfo is not None:  # of which there are many kinds
        return value.replace(tzinfo=timezone(value.utcoffset() or timedelta()), fold=0)
    return value


def as_array(classes: list[Any]) -> np.ndarray:
    """Classes as an array that keeps them as they are."""
    if isinstance(classes[0], (bool, int, str)):
        return np.array(classes)
    array = np.empty(len(classes), dtype=object)
    array[:] = classes
    return array


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
