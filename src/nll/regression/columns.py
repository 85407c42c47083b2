"""What a user passes as X: a table, an array or a sparse matrix of finite numbers."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse

from nll.data.arrays import absent, array_of, first_rounded, first_wrong


def plain(data: Any, what: str) -> Any:
    """Return a table, a sparse matrix or an array, from tensors, masked arrays and Arrow too."""
    # of Arrow
    if hasattr(data, "to_pandas") and hasattr(data, "schema") and not hasattr(data, "iter_slices"):
        return data.to_pandas()
    if (hasattr(data, "columns") and hasattr(data, "shape")) or issparse(data):
        return data
    return array_of(data, what)


def columns_given(X: Any) -> Any:
    """Return X as a table of numbers, an array or a sparse matrix, all of them finite.

    Raises: ValueError for a single column, or naming the first row and column that is no finite
        number.
    """
    if hasattr(X, "to_frame"):  # a Series, of pandas or polars
        name = "x" if X.name is None else X.name
        raise ValueError(
            f"expected X as a table, got a Series; X[[{name!r}]] or X.to_frame() has its column"
        )
    kind = type(X).__name__
    X = plain(X, "X")
    names = column_names(X)
    if len(X.shape) != 2:
        got = f"shape {X.shape}" if X.shape else kind
        raise ValueError(
            f"expected X of two dimensions (rows, columns), got {got}. Reshape your data: X[:, "
            f"None] is one"
        )
    twice = [name for name, number in Counter(names or ()).items() if number > 1]
    if twice:
        raise ValueError(f"expected columns of different names, got {twice[0]!r} twice")
    X = X.tocsr() if issparse(X) else X
    require_finite(X, names)
    if names or issparse(X):
        return X
    if X.dtype.kind == "O" and first_wrong(X) is None:
        X = X.astype(np.float64)
    return contiguous(X)


def length(X: Any) -> int:
    return X.shape[0] if hasattr(X, "shape") else len(X)


def contiguous(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array) if min(array.strides, default=0) < 0 else array


def shared(array: np.ndarray) -> torch.Tensor:
    """Return the array's own memory, which is only read."""
    array = contiguous(array)
    with warnings.catch_warnings():
        # PyTorch has no tensors that are not to be written
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def column_names(X: Any) -> list[str] | None:
    return [str(name) for name in X.columns] if hasattr(X, "columns") else None


def known_finite(X: Any) -> bool:
    """Whether an array's sum shows that all of its numbers are finite, at little cost."""
    if not isinstance(X, np.ndarray) or X.dtype.kind != "f":
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(X.sum(dtype=np.float64)))


def require_finite(X: Any, names: list[str] | None) -> None:
    """Name the first row and column that is no finite number; leave other complaints to
    scikit-learn.
    """
    if known_finite(X):
        return
    if issparse(X):
        X = X.tocsr()
        wrong = np.flatnonzero(~np.isfinite(X.data))
        if len(wrong):
            at = wrong[0]
            row = int(np.searchsorted(X.indptr, at, "right")) - 1
            raise ValueError(
                f"expected finite values in X, got {X.data[at]} at row {row} of column "
                f"{X.indices[at]}"
            )
        return
    for j, part in _parts(X, names):
        _require_numbers(part, None if names is None else names[j:])


def _parts(X: Any, names: list[str] | None) -> Iterator[tuple[int, np.ndarray]]:
    """Yield an array, or a table of floats, as a whole; other tables column by column, with the
    number of each.
    """
    kinds = X.dtypes if hasattr(X, "iloc") else ()
    numpy_floats = {isinstance(kind, np.dtype) and kind.kind == "f" for kind in kinds}
    if names is None or numpy_floats == {True}:
        yield 0, array_of(X, "X")
        return
    for j in range(len(names)):
        yield j, array_of(X.iloc[:, j] if hasattr(X, "iloc") else X[:, j], "X")[:, None]


def _require_numbers(array: np.ndarray, names: list[str] | None) -> None:

    def where(at: tuple[int, ...]) -> str:
        return f"at row {at[0]} of column {at[1] if names is None else repr(names[at[1]])}"

    if array.dtype.kind in "mM":
        raise ValueError(
            f"expected numbers in {'X' if names is None else f'column {names[0]!r}'}, "
            f"got {array.dtype}"
        )
    wrong = first_wrong(array) if array.dtype.kind != "c" else None
    # which scikit-learn refuses in words of its own
    if wrong is not None and not isinstance(wrong[1], dict):
        raise ValueError(f"expected numbers in X, got {wrong[1]!r} {where(wrong[0])}")
    rounded = first_rounded(array)
    if rounded is not None:
        raise ValueError(
            f"expected numbers that float64 holds exactly in X, got the integer {rounded[1]} "
            f"{where(rounded[0])}; "
            "subtract a constant, or pass floats"
        )
    missing = absent(array)
    if array.dtype.kind == "O" and wrong is None:
        array = np.where(missing, np.nan, array).astype(np.float64)
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        at = tuple(map(int, np.argwhere(~finite)[0]))
        raise ValueError(
            f"expected finite values in X, got {'NaN' if missing[at] else 'infinity'} {where(at)}"
        )
