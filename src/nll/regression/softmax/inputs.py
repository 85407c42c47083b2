"""What a user gives to a softmax regression, checked: columns, classes or counts, weights,
offsets.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets

from nll.data.arrays import (
    absent,
    array_of,
    first_rounded,
    first_wrong,
    floats,
    in_microseconds,
    tensor_of,
)
from nll.data.classes import coded, require_one_type
from nll.data.weights import frequencies


def plain(data: Any, what: str) -> Any:
    """A table, a sparse matrix or an array of what the user passed: no tensor, mask or Arrow table
    any more.
    """
    # of Arrow
    if hasattr(data, "to_pandas") and hasattr(data, "schema") and not hasattr(data, "iter_slices"):
        return data.to_pandas()
    if (hasattr(data, "columns") and hasattr(data, "shape")) or issparse(data):
        return data
    return array_of(data, what)


def columns_given(X: Any) -> Any:
    """The columns of X as a table of numbers, an array or a sparse matrix, all of them finite.

    Raises: ValueError for a single column, or naming the first row and column that is no finite
        number.
    """
    if hasattr(X, "to_frame"):  # a Series, of pandas or polars
        name = "x" if X.name is None else X.name
        raise ValueError(
            f"expected X as a table, got a Series; X[[{name!r}]] or X.to_frame() has its column"
        )
    got = type(X).__name__
    X = plain(X, "X")
    X, names = (X.tocsr() if issparse(X) else X), column_names(X)
    if len(X.shape) != 2:
        got = f"shape {X.shape}" if X.shape else got
        raise ValueError(
            f"expected X of two dimensions (rows, columns), got {got}. Reshape your data: X[:, "
            f"None] is one"
        )
    twice = [name for name, number in Counter(names or ()).items() if number > 1]
    if twice:
        raise ValueError(f"expected columns of different names, got {twice[0]!r} twice")
    require_finite(X, names)
    return X if names or issparse(X) else floats_of(X)


def floats_of(X: np.ndarray) -> np.ndarray:
    """Numbers in memory that PyTorch can have; what scikit-learn refuses as it is."""
    if X.dtype.kind == "O" and X.ndim == 2 and first_wrong(X) is None:
        X = X.astype(np.float64)
    return np.ascontiguousarray(X) if min(X.strides, default=0) < 0 else X


def classes_given(y: Any) -> np.ndarray:
    """Classes (n).

    Raises: ValueError for a row without a class; TypeError for classes of several types, or that
        are lists.
    """
    y = np.asarray(column_or_1d(array_of(y, "y"), warn=True))
    missing = absent(y)
    if missing.any():
        raise ValueError(f"expected a class in every row, got none at row {int(missing.argmax())}")
    if y.dtype.kind == "O":
        several = [
            row for row, value in enumerate(y) if isinstance(value, (list, tuple, dict, np.ndarray))
        ]
        if several:
            raise TypeError(
                f"expected classes that are single values, got {y[several[0]]!r} at "
                f"row {several[0]}"
            )
        require_one_type(y.tolist())
        plain_ = np.array(y.tolist())
        y = plain_ if plain_.dtype.kind in "biufU" else y
    if y.dtype.kind == "f":
        assert_all_finite(y, input_name="y")
        check_classification_targets(y)
    return in_microseconds(y) if y.dtype.kind in "mM" else y


def by_count(X: Any, y: Any, *more: Any, repeated: bool = False) -> list[Any]:
    """A row for each class that a row has counts of, with their number as its weight; `repeated`:
    as many rows.
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
        row, k, number = (
            np.repeat(part, number.astype(np.int64)) for part in (row, k, np.ones_like(number))
        )
    weight, *others = more
    weight = number * (1.0 if weight is None else frequencies(weight, len(counts)).numpy()[row])
    X = (
        X.iloc[row]
        if hasattr(X, "iloc")
        else (X[row] if hasattr(X, "columns") or issparse(X) else np.asarray(X)[row])
    )
    return [
        X,
        classes[k],
        weight,
        *(None if part is None else array_of(part)[row] for part in others),
    ]


def length(X: Any) -> int:
    """How many rows there are."""
    return X.shape[0] if hasattr(X, "shape") else len(X)


def class_factors(class_weight: Any, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What each row's weight is multiplied with; "balanced" counts a row as often as its weight
    says.
    """
    if not (isinstance(class_weight, str) and class_weight == "balanced"):
        return compute_sample_weight(class_weight, y)
    codes = coded(y).codes
    total = np.bincount(codes, weights)
    return (weights.sum() / np.count_nonzero(total) / np.where(total > 0, total, 1.0))[codes]


def is_wide(y: Any) -> bool:
    """Whether it has more than one column."""
    shape = y.shape if hasattr(y, "shape") else array_of(y, "y").shape
    return len(shape) == 2 and shape[1] > 1


def offset_of(offset: Any, rows: int, classes: int) -> torch.Tensor:
    """An offset (rows, classes) of finite numbers; ValueError otherwise."""
    given = floats(array_of(plain(offset, "offset")), "offset")
    if given.shape != (rows, classes):
        raise ValueError(f"expected an offset of shape {(rows, classes)}, got {given.shape}")
    wrong = np.argwhere(~np.isfinite(given))
    if len(wrong):
        raise ValueError(
            f"expected finite offsets, got {given[tuple(wrong[0])]} at row {wrong[0][0]}"
        )
    return tensor_of(given)


def shared(array: np.ndarray) -> torch.Tensor:
    """The array's own memory, which is only read."""
    array = np.ascontiguousarray(array) if min(array.strides, default=0) < 0 else array
    with warnings.catch_warnings():
        # PyTorch has no tensors that are not to be written
        warnings.simplefilter("ignore", UserWarning)
        return torch.from_numpy(array)


def column_names(X: Any) -> list[str] | None:
    """Those of a table; None: it has none."""
    return [str(name) for name in X.columns] if hasattr(X, "columns") else None


def known_finite(X: Any) -> bool:
    """Whether an array's sum tells that all of its numbers are finite: a look of milliseconds."""
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
        rows, columns = X.nonzero() if not np.isfinite(X.data).all() else ((), ())
        for row, column, value in zip(
            rows, columns, X[rows, columns] if len(rows) else (), strict=True
        ):
            if not np.isfinite(value):
                raise ValueError(
                    f"expected finite values in X, got {value} at row {row} of column {column}"
                )
        return
    for j, part in _parts(X, names):
        _require_numbers(part, None if names is None else names[j:])


def _parts(X: Any, names: list[str] | None) -> Iterator[tuple[int, np.ndarray]]:
    """An array, or a table of floats, as a whole; other tables column by column, with the number of
    each.
    """
    kinds = set(X.dtypes) if hasattr(X, "iloc") else set()
    if names is None or (
        kinds and all(isinstance(kind, np.dtype) and kind.kind == "f" for kind in kinds)
    ):
        yield 0, array_of(X, "X")
        return
    for j in range(len(names)):
        yield j, array_of(X.iloc[:, j] if hasattr(X, "iloc") else X[:, j], "X")[:, None]


def _require_numbers(array: np.ndarray, names: list[str] | None) -> None:
    """ValueError for the first entry (n, columns) that is no finite number."""

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


def number_of(column: Any, names: Sequence[str]) -> int:
    """The place of a column given by name or number."""
    if isinstance(column, (int, np.integer)) and 0 <= column < len(names):
        return int(column)
    if column not in names:
        raise ValueError(f"expected discrete columns among {', '.join(names)}, got {column!r}")
    return names.index(column)


def discrete_columns(discrete: Any, names: Sequence[str], x: torch.Tensor) -> list[list[int]]:
    """The places of the 0/1 columns (n, p) that are meant, those of one variable together."""
    if isinstance(discrete, str):
        raise TypeError(
            f"expected discrete to be a sequence of columns or a mapping, got the text {discrete!r}"
        )
    given = discrete.values() if isinstance(discrete, Mapping) else discrete
    groups = [[one] if isinstance(one, (str, int, np.integer)) else list(one) for one in given]
    places = [[number_of(column, names) for column in group] for group in groups]
    every = [j for group in places for j in group]
    twice = next((names[j] for j in every if every.count(j) > 1), None)
    if twice is not None:
        raise ValueError(f"expected each discrete column once, got {twice!r} twice")
    for group in places:
        for j in group:
            require_binary(x[:, j], names[j])
        together = (x[:, group].sum(1) > 1).nonzero()
        if len(together):
            shown = ", ".join(names[j] for j in group)
            raise ValueError(
                f"expected at most one 1 among {shown} of one variable, got more at row "
                f"{int(together[0])}"
            )
    return places


def require_binary(values: torch.Tensor, name: str) -> None:
    """ValueError for a number that is neither 0 nor 1, naming its row."""
    wrong = ((values != 0.0) & (values != 1.0)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"expected 0 or 1 in discrete column {name!r}, got {float(values[row]):g} at row {row}"
        )
