"""What a user passes as a column or a table, as NumPy arrays: nothing missing is filled in, no
values are merged.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from torch import Tensor

FINE = ("ns", "ps", "fs", "as")  # units of times of which Python has no values
_EXACT = 1 << 53  # integers up to here have their own float64


def array_of(data: Any, what: str = "data") -> np.ndarray:
    """Values as they are; missing ones are None, NaN, NaT or pandas.NA.

    Raises: TypeError for a sparse matrix; ValueError for rows of different lengths.
    """
    if isinstance(data, Tensor):
        dense = data.detach().to_dense() if data.layout is not torch.strided else data.detach()
        dense = dense.cpu().resolve_conj().resolve_neg()
        return (dense.float() if dense.dtype == torch.bfloat16 else dense).numpy()
    if isinstance(data, np.ma.MaskedArray):
        if not np.ma.is_masked(data):
            return np.asarray(data.data)
        filled = data.data.astype(object)
        filled[np.ma.getmaskarray(data)] = None
        return filled
    require_dense(data, what)
    rows = data.to_pylist if hasattr(data, "to_pylist") else getattr(data, "to_list", None)
    # of Arrow or polars: whole numbers would become floats
    if rows is not None and _has_nulls(data):
        return np.array([*rows(), None], dtype=object)[:-1]
    try:
        return np.asarray(data)
    except ValueError:
        raise ValueError(
            f"expected {what} of shape (n) or (n, k), got rows of different lengths"
        ) from None


def require_dense(data: Any, what: str) -> None:
    """TypeError for one of SciPy's sparse matrices."""
    if hasattr(data, "tocsr"):
        raise TypeError(
            f"expected {what} as a dense array, got a sparse matrix; its toarray() is one"
        )


def _has_nulls(data: Any) -> bool:
    count = getattr(data, "null_count", 0)
    return bool(count() if callable(count) else count)


def absent(array: np.ndarray) -> np.ndarray:
    """Where a value is missing: None, NaN, NaT or pandas.NA."""
    if array.dtype.kind in "fc":
        return np.isnan(array)
    if array.dtype.kind in "mM":
        return np.isnat(array)
    if array.dtype.kind != "O":
        return np.zeros(array.shape, dtype=bool)
    return np.array([_is_absent(value) for value in array.reshape(-1)], dtype=bool).reshape(
        array.shape
    )


def _is_absent(value: Any) -> bool:
    if value is None or type(value).__name__ == "NAType":
        return True
    return (isinstance(value, (float, Decimal, np.generic)) and value != value) or type(
        value
    ).__name__ == "NaTType"


def first_wrong(array: np.ndarray) -> tuple[tuple[int, ...], Any] | None:
    """The place and value of the first entry that is no real number; None: all are, or are
    missing.
    """
    if array.dtype.kind in "biuf":
        return None
    for at, value in np.ndenumerate(array):
        if not (_is_absent(value) or _is_number(value)):
            return at, str(value) if isinstance(value, np.str_) else value
    return None


def first_rounded(array: np.ndarray) -> tuple[tuple[int, ...], int] | None:
    """The place and value of the first integer that float64 would round; None: there is none."""
    if (
        array.dtype.kind in "iu"
        and array.size
        and max(-int(array.min()), int(array.max())) > _EXACT
    ):
        large = np.argwhere(
            (array > _EXACT) | (array < -_EXACT) if array.dtype.kind == "i" else array > _EXACT
        )
        entries = ((tuple(map(int, at)), int(array[tuple(at)])) for at in large)
    elif array.dtype.kind == "O":
        entries = (
            (at, value)
            for at, value in np.ndenumerate(array)
            if isinstance(value, (int, np.integer))
        )
    else:
        return None
    rounded = (
        (at, int(value))
        for at, value in entries
        if _EXACT < abs(int(value)) < 2**1023 and _rounds(value)
    )
    return next(rounded, None)


def _rounds(value: Any) -> bool:
    return int(float(value)) != int(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, (np.datetime64, np.timedelta64, complex)):
        return False  # NumPy would count from 1970, or take the real part
    try:
        float(value)
    except OverflowError:
        return True
    except (TypeError, ValueError):
        return False
    return True


def floats(array: np.ndarray, what: str = "data", exact: bool = False) -> np.ndarray:
    """The same as float64, NaN where a value is missing.

    Raises: TypeError naming the first value that is no real number; ValueError for an integer
    beyond float64, or, with `exact`, one that it would round.
    """
    if array.dtype.kind in "cmM":
        raise TypeError(f"expected {what} of real numbers, got {array.dtype}")
    wrong = None if array.dtype.kind == "f" else first_wrong(array)
    if wrong is not None:
        raise TypeError(
            f"expected {what} of real numbers, got {wrong[1]!r} at row "
            f"{wrong[0][0] if wrong[0] else 0}"
        )
    rounded = first_rounded(array) if exact else None
    if rounded is not None:
        raise ValueError(
            f"expected {what} that float64 holds exactly, got the integer {rounded[1]} at row "
            f"{rounded[0][0]}; "
            "subtract a constant, or pass floats"
        )
    if array.dtype.kind == "O":
        array = np.where(absent(array), np.nan, array)
    try:
        return array.astype(np.float64, copy=False)
    except OverflowError:
        row = next(
            row for row, value in enumerate(array.reshape(-1).tolist()) if abs(value) > 2**1023
        )
        raise ValueError(
            f"expected numbers within float64, got an integer beyond 1e308 at row {row}"
        ) from None


def in_microseconds(times: np.ndarray) -> np.ndarray:
    """Times of which Python has values, where these are as exact."""
    coarse = times.astype(f"{times.dtype.kind}8[us]")
    return coarse if np.datetime_data(times.dtype)[0] in FINE and (coarse == times).all() else times


def is_pandas(kind: Any) -> bool:
    """Whether an Arrow type stands for one of pandas, such as a period."""
    return getattr(kind, "extension_name", "").startswith("pandas.")


def categories_of(data: Any) -> list[Any] | None:
    """The categories of a pandas Categorical, or of another column whose type orders them; None: it
    has none.
    """
    kind: Any = getattr(data, "dtype", None)
    arrow = getattr(kind, "pyarrow_dtype", None) or getattr(data, "type", None)
    if type(kind).__name__ in ("CategoricalDtype", "Enum"):
        return list(
            kind.categories.to_list() if hasattr(kind.categories, "to_list") else kind.categories
        )
    if getattr(arrow, "ordered", False):
        chunks = getattr(data, "array", data)  # pandas has the Arrow column inside
        chunks = chunks.__arrow_array__() if hasattr(chunks, "__arrow_array__") else chunks
        chunk = chunks.chunk(0) if hasattr(chunks, "chunk") else chunks
        levels = chunk.dictionary
        return levels.to_pandas().tolist() if is_pandas(levels.type) else levels.to_pylist()
    return None


def present_levels(levels: list[Any], seen: Collection[Any], what: str) -> list[Any]:
    """The categories that have rows, in their order; a warning names the others."""
    empty = [level for level in levels if level not in seen]
    if empty:
        names = ", ".join(map(str, empty))
        warnings.warn(
            f"expected rows of every category of {what}, got none of {names}: left out",
            stacklevel=2,
        )
    return [level for level in levels if level in seen]


def first_level(levels: list[Any] | None, seen: Collection[Any]) -> Any:
    """The first category of the classes that has rows; None: they have no order."""
    return None if levels is None else next(iter(present_levels(levels, seen, "y")), None)
