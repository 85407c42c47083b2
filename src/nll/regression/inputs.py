"""What a user gives to a softmax regression, checked: columns, classes or counts, weights, offsets."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.sparse import issparse
from sklearn.utils.class_weight import compute_sample_weight

from nll.likelihood.stream import coded, require_one_type


def by_count(X: Any, y: Any, *more: Any) -> list[Any]:
    """A row for each class that a row has counts of, with their number as its weight."""
    counts = np.asarray(y, dtype=np.float64)
    wrong = np.argwhere(~((counts >= 0) & np.isfinite(counts)))
    if len(wrong):
        row, column = wrong[0]
        raise ValueError(
            f"expected counts of at least 0 in y, got {counts[row, column]:g} at row {row}, class {column}"
        )
    if not counts.any():
        raise ValueError("expected counts with a positive sum in y, got all zero")
    if length(X) != len(counts):
        raise ValueError(f"expected counts of {length(X)} rows, got {len(counts)}")
    classes = np.asarray(y.columns if hasattr(y, "columns") else np.arange(counts.shape[1]))
    row, k = np.nonzero(counts)
    weight, *others = more
    weight = counts[row, k] * (1.0 if weight is None else np.asarray(weight, dtype=np.float64)[row])
    X = X.iloc[row] if hasattr(X, "iloc") else (X if issparse(X) else np.asarray(X))[row]
    return [X, classes[k], weight, *(None if part is None else np.asarray(part)[row] for part in others)]


def of_rows(weights: Any) -> Any:
    """Weights as numbers; a table's column has names of its rows."""
    return weights if weights is None else np.asarray(detached(weights), dtype=np.float64)


def length(X: Any) -> int:
    """How many rows there are."""
    return X.shape[0] if hasattr(X, "shape") else len(X)


def class_factors(class_weight: Any, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """What each row's weight is multiplied with; "balanced" counts a row as often as its weight says."""
    if not (isinstance(class_weight, str) and class_weight == "balanced"):
        return compute_sample_weight(class_weight, y)
    codes = coded(y).codes
    total = np.bincount(codes, weights)
    return (weights.sum() / np.count_nonzero(total) / np.where(total > 0, total, 1.0))[codes]


def is_wide(y: Any) -> bool:
    """Whether it has more than one column."""
    shape = y.shape if hasattr(y, "shape") else np.asarray(y).shape
    return len(shape) == 2 and shape[1] > 1


def offset_of(offset: Any, rows: int, classes: int) -> torch.Tensor:
    """An offset (rows, classes) of finite numbers; ValueError otherwise."""
    given = np.asarray(detached(offset), dtype=np.float64)
    if given.shape != (rows, classes):
        raise ValueError(f"expected an offset of shape {(rows, classes)}, got {given.shape}")
    wrong = np.argwhere(~np.isfinite(given))
    if len(wrong):
        raise ValueError(f"expected finite offsets, got {given[tuple(wrong[0])]} at row {wrong[0][0]}")
    return torch.from_numpy(given)


def tensor_of(array: np.ndarray) -> torch.Tensor:
    """The array's own memory, which is only read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyTorch has no tensors that are not to be written
        return torch.from_numpy(array)


def detached(data: Any) -> Any:
    """A tensor without its gradient, on the processor; other data as they are."""
    return data.detach().cpu() if isinstance(data, torch.Tensor) else data


def require_sortable(y: Any) -> None:
    """TypeError for classes of several types."""
    array = np.asarray(y)
    if array.dtype.kind == "O":
        require_one_type(array.reshape(-1).tolist())


def _require_numbers(array: np.ndarray, names: list[str] | None) -> None:
    """Name the first text that is no number."""
    for row, column in np.ndindex(array.shape) if array.ndim == 2 else ():
        if _is_text(array[row, column]):
            name = repr(names[column]) if names else column
            raise ValueError(f"expected numbers in X, got {str(array[row, column])!r} at row {row} of column {name}")


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and math.isnan(float(value))
    except ValueError:
        return True


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
    """Name the first row and column that is NaN or infinite; leave other complaints to scikit-learn."""
    if known_finite(X):
        return
    if issparse(X):
        rows, columns = X.nonzero() if not np.isfinite(X.data).all() else ((), ())
        for row, column, value in zip(rows, columns, X[rows, columns] if len(rows) else (), strict=True):
            if not np.isfinite(value):
                raise ValueError(f"expected finite values in X, got {value} at row {row} of column {column}")
        return
    for name, kind in zip(names or [], getattr(X, "dtypes", []), strict=False):
        if getattr(kind, "kind", "") in ("m", "M"):
            raise ValueError(f"expected numbers in column {name!r}, got {kind}")
    try:
        array = np.asarray(X)
        array = array.astype(np.float64) if array.dtype.kind != "c" else np.empty(0)
    except (TypeError, ValueError):
        return _require_numbers(np.asarray(X), names)
    if array.ndim != 2:
        return
    wrong = ~np.isfinite(array)
    if not wrong.any():
        return
    row, column = np.argwhere(wrong)[0]
    value = array[row, column]
    shown = "NaN" if np.isnan(value) else "infinity"
    name = repr(names[column]) if names else column
    raise ValueError(f"expected finite values in X, got {shown} at row {row} of column {name}")


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
        raise TypeError(f"expected discrete to be a sequence of columns or a mapping, got the text {discrete!r}")
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
                f"expected at most one 1 among {shown} of one variable, got more at row {int(together[0])}"
            )
    return places


def require_binary(values: torch.Tensor, name: str) -> None:
    """ValueError for a number that is neither 0 nor 1, naming its row."""
    wrong = ((values != 0.0) & (values != 1.0)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(f"expected 0 or 1 in discrete column {name!r}, got {float(values[row]):g} at row {row}")
