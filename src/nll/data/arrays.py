"""The parser of columns and tables: lists, NumPy, PyTorch, pandas, polars and Arrow become arrays.

Missing values stay missing, no two values are merged, and times are no numbers. Errors name the
first row that is wrong.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

FINE = ("ns", "ps", "fs", "as")  # units of time finer than Python's
EXACT = 1 << 53  # float64 holds every integer up to here


def array_of(data: Any, what: str = "data") -> np.ndarray:
    """Return the values as they are; missing ones are None, NaN, NaT or pandas.NA.

    Raises: TypeError for a sparse matrix; ValueError for rows of different lengths.
    """
    if isinstance(data, Tensor):
        dense = data.detach().to_dense() if data.layout is not torch.strided else data.detach()
        dense = dense.cpu().resolve_conj().resolve_neg()
        return (dense.float() if dense.dtype == torch.bfloat16 else dense).numpy()
    if isinstance(data, np.ma.MaskedArray):
        if not np.ma.is_masked(data):
            return np.asarray(data.data)
        values = data.data.astype(object)
        values[np.ma.getmaskarray(data)] = None
        return values
    require_dense(data, what)
    rows = data.to_pylist if hasattr(data, "to_pylist") else getattr(data, "to_list", None)
    nulls = getattr(data, "null_count", 0)  # of Arrow; of polars, a method
    if rows is not None and (nulls() if callable(nulls) else nulls):
        return np.array([*rows(), None], dtype=object)[:-1]  # NumPy would turn integers to floats
    try:
        return np.asarray(data)
    except ValueError:
        raise ValueError(
            f"expected {what} of shape (n) or (n, k), got rows of different lengths"
        ) from None


def require_dense(data: Any, what: str) -> None:
    if hasattr(data, "tocsr"):
        raise TypeError(
            f"expected {what} as a dense array, got a sparse matrix; its toarray() is one"
        )


def require_rows(shape: Any, rows: int, what: str) -> None:
    """Raise ValueError unless there is one value for each row; `what`: in the plural."""
    if tuple(shape) != (rows,):
        raise ValueError(f"expected {rows} {what}, one for each row, got shape {tuple(shape)}")


def absent(array: np.ndarray) -> np.ndarray:
    """Return where a value is missing: None, NaN, NaT or pandas.NA."""
    if array.dtype.kind in "fc":
        return np.isnan(array)
    if array.dtype.kind in "mM":
        return np.isnat(array)
    if array.dtype.kind != "O":
        return np.zeros(array.shape, dtype=bool)
    flags = [_is_absent(value) for value in array.reshape(-1)]
    return np.array(flags, dtype=bool).reshape(array.shape)


def _is_absent(value: Any) -> bool:
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, (float, Decimal, np.generic)) and value != value


# ---- Numbers -------------------------------------------------------------------------------------


def numbers(data: Any, what: str = "data", exact: bool = True) -> Tensor:
    """Return numbers of any container as a float64 tensor, NaN where one is missing.

    float64 data are not copied. Raises: see `array_of` and `floats`.
    """
    if isinstance(data, Tensor) and data.is_floating_point():
        values = data.detach().to_dense().cpu().to(torch.float64)
        # autograd cannot save an inference tensor
        return values.clone() if values.is_inference() else values
    return tensor_of(floats(array_of(data, what), what, exact))


def floats(array: np.ndarray, what: str = "data", exact: bool = False) -> np.ndarray:
    """Return the array as float64, NaN where a value is missing.

    Raises: TypeError naming the first value that is no real number; ValueError for an integer
    beyond float64, or, with `exact`, one that it would round.
    """
    if array.dtype.kind in "cmM":
        raise TypeError(f"expected {what} of real numbers, got {array.dtype}")
    wrong = first_wrong(array)
    if wrong is not None:
        at, value = wrong
        row = at[0] if at else 0
        raise TypeError(f"expected {what} of real numbers, got {value!r} at row {row}")
    if exact:
        require_exact(array, what)
    if array.dtype.kind == "O":
        array = np.where(absent(array), np.nan, array)
    try:
        return array.astype(np.float64, copy=False)
    except OverflowError:
        values = array.reshape(-1).tolist()
        row = next(row for row, value in enumerate(values) if abs(value) > 2**1023)
        raise ValueError(
            f"expected numbers within float64, got an integer beyond 1e308 at row {row}"
        ) from None


def first_wrong(array: np.ndarray) -> tuple[tuple[int, ...], Any] | None:
    """Return the place and value of the first entry that is neither missing nor a real number."""
    if array.dtype.kind in "biuf":
        return None
    wrong = (
        (at, str(value) if isinstance(value, np.str_) else value)
        for at, value in np.ndenumerate(array)
        if not (_is_absent(value) or _is_number(value))
    )
    return next(wrong, None)


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


def first_rounded(array: np.ndarray) -> tuple[tuple[int, ...], int] | None:
    """Return the place and value of the first integer that float64 would round."""
    places: Any = ()
    if array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        places = np.argwhere((array > EXACT) | (array < -EXACT))
    elif array.dtype.kind == "O":
        integers = (int, np.integer)
        places = (at for at, value in np.ndenumerate(array) if isinstance(value, integers))
    for at in map(tuple, places):
        value = int(array[at])
        if EXACT < abs(value) < 2**1023 and int(float(value)) != value:
            return at, value
    return None


def require_exact(array: np.ndarray, what: str, first: int = 0) -> None:
    """Raise ValueError for an integer that float64 would round; `first`: the first row's number."""
    rounded = first_rounded(array)
    if rounded is not None:
        at, value = rounded
        raise ValueError(
            f"expected {what} that float64 holds exactly, got the integer {value} at row "
            f"{first + at[0]}; subtract a constant, or pass floats"
        )


def tensor_of(array: np.ndarray) -> Tensor:
    """Share the array's memory, unless it has gaps or negative strides.

    Memory that is read-only stays as it is, as data are never written to; but PyTorch, which has
    no such memory, would warn.
    """
    array = np.ascontiguousarray(array)
    if not array.flags.writeable:
        array = np.asarray(
            SimpleNamespace(
                __array_interface__={
                    **array.__array_interface__,
                    "data": (array.ctypes.data, False),  # not read-only
                },
                owner=array,
            )
        )
    return torch.from_numpy(array)


def shown(value: Any) -> str:
    """Return a number, or a list of numbers, with the digits that identify it."""
    if isinstance(value, list):
        return "[" + ", ".join(map(shown, value)) + "]"
    return f"{value:.17g}" if float(f"{value:.6g}") != value else f"{value:.6g}"


# ---- Times, levels and names --------------------------------------------------------------------


def is_pandas(kind: Any) -> bool:
    """Whether an Arrow type stands for one of pandas, such as a period."""
    return getattr(kind, "extension_name", "").startswith("pandas.")


def in_microseconds(times: np.ndarray) -> np.ndarray:
    """Return times in the unit of Python's own, unless that would round them."""
    coarse = times.astype(f"{times.dtype.kind}8[us]")
    return coarse if np.datetime_data(times.dtype)[0] in FINE and (coarse == times).all() else times


def categories_of(data: Any) -> list[Any] | None:
    """Return the levels of a pandas Categorical, or of another column whose type orders them."""
    kind: Any = getattr(data, "dtype", None)
    if type(kind).__name__ in ("CategoricalDtype", "Enum"):
        levels = kind.categories
        return list(levels.to_list() if hasattr(levels, "to_list") else levels)
    arrow = getattr(kind, "pyarrow_dtype", None) or getattr(data, "type", None)
    if not getattr(arrow, "ordered", False):
        return None
    chunks = getattr(data, "array", data)  # pandas has the Arrow column inside
    chunks = chunks.__arrow_array__() if hasattr(chunks, "__arrow_array__") else chunks
    levels = (chunks.chunk(0) if hasattr(chunks, "chunk") else chunks).dictionary
    return levels.to_pandas().tolist() if is_pandas(levels.type) else levels.to_pylist()


def present_levels(levels: list[Any], seen: Collection[Any], what: str) -> list[Any]:
    """Return the levels that have rows, in their order; a warning names the others."""
    empty = [level for level in levels if level not in seen]
    if empty:
        names = ", ".join(map(str, empty))
        warnings.warn(
            f"expected rows of every category of {what}, got none of {names}: left out",
            stacklevel=2,
        )
    return [level for level in levels if level in seen]


def first_level(levels: list[Any] | None, seen: Collection[Any]) -> Any:
    """Return the first level of y that has rows; None without levels."""
    return None if levels is None else next(iter(present_levels(levels, seen, "y")), None)


def require_columns(wanted: Iterable[str], present: Sequence[str]) -> None:
    """Raise ValueError for the first column that the table lacks, with similar names."""
    for name in wanted:
        if name not in present:
            near = difflib.get_close_matches(name, present, n=3)
            hint = (
                f"near to it: {', '.join(near)}" if near else f"the table has {', '.join(present)}"
            )
            raise ValueError(f"expected a column of the table, got {name!r}; {hint}")


def require_different(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(
            f"expected columns with different names, got {', '.join(map(repr, twice))} twice"
        )


class MissingValuesError(ValueError):
    """Values are missing: `count` says how many and where."""

    def __init__(self, count: str) -> None:
        super().__init__(count)
        self.count = count

    def __str__(self) -> str:
        return self.with_remedy("missing='drop'")

    def with_remedy(self, option: str) -> str:
        """Return the message with the option that drops the rows, as the caller spells it."""
        return f"expected no missing values, got {self.count}; {option} leaves them out"
