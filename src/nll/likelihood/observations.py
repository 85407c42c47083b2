"""The data of a fit: one row per observation in float64, its weight, and what may not be there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Observations:
    """Rows of data and their frequencies."""

    values: Tensor  # (n) or (n, k), float64
    weights: Tensor  # (n), float64: how often each row was seen
    rows: Tensor  # (n), the number of each row in the data as given
    given: int  # how many rows the data had
    dropped: int = 0  # rows with a missing value that were left out
    categories: tuple[str, ...] | None = None  # the names of the integers, where the data were text

    @property
    def n(self) -> float:
        """The number of observations: the sum of the weights."""
        return float(self.weights.sum())


def observe(data: Any, weights: Any = None, *, missing: str = "raise", categorical: bool = False) -> Observations:
    """Turn a list, array, tensor or column into observations.

    Raises ValueError naming the first row that is missing (unless `missing="drop"`), or the first weight that
    is not a frequency; TypeError for data that are not numbers.
    """
    if missing not in ("raise", "drop"):
        raise ValueError(f"expected missing to be 'raise' or 'drop', got {missing!r}")
    values, categories = _numbers(data, categorical)
    if values.dim() not in (1, 2):
        raise ValueError(f"expected data of shape (n) or (n, k), got {tuple(values.shape)}")
    frequency = frequencies(weights, values.shape[0])
    absent = values.isnan() if values.dim() == 1 else values.isnan().any(1)
    if missing == "raise" and bool(absent.any()):
        row = int(absent.nonzero()[0])
        count = int(absent.sum())
        raise ValueError(
            f"expected no missing values, got {count}, the first at row {row}; missing='drop' leaves them out"
        )
    seen = (~absent & (frequency > 0)).nonzero().squeeze(1)
    if seen.numel() == 0:
        raise ValueError("expected at least one observation, got none")
    return Observations(values[seen], frequency[seen], seen, len(values), int(absent.sum()), categories)


def require_support(observed: Observations, inside: Callable[[Tensor], Tensor], expected: str, model: str) -> None:
    """Raise ValueError naming the first row and value outside the support of a model."""
    ok = inside(observed.values)
    if ok.dim() == 2:
        ok = ok.all(1)
    if bool(ok.all()):
        return
    index = int((~ok).nonzero()[0])
    value = observed.values[index].tolist()
    raise ValueError(
        f"data outside the support of {model}: expected {expected}, got {_plain(value)} "
        f"at row {int(observed.rows[index])}"
    )


def _numbers(data: Any, categorical: bool, what: str = "data") -> tuple[Tensor, tuple[str, ...] | None]:
    if isinstance(data, Tensor):
        if data.is_complex():
            raise TypeError(f"expected {what} of real numbers, got {data.dtype}")
        return data.detach().to_dense().cpu().to(torch.float64), None
    array = _array(data)
    if array.dtype.kind in "OUST" and categorical:
        return _encode(array)
    if array.dtype.kind in "cmM":  # NumPy would take the real part, or count from 1970
        raise TypeError(f"expected {what} of real numbers, got {array.dtype}")
    if array.dtype.kind == "O":
        array = np.where(_absent(array), np.nan, array)
    try:
        array = array.astype(np.float64)
    except OverflowError:
        row = next(row for row, value in enumerate(array.reshape(-1).tolist()) if abs(value) > 2**1023)
        raise ValueError(f"expected numbers within float64, got an integer beyond 1e308 at row {row}") from None
    except (TypeError, ValueError):
        bad = next((row, value) for row, value in enumerate(array.reshape(-1).tolist()) if not _is_number(value))
        raise TypeError(f"expected {what} of real numbers, got {bad[1]!r} at row {bad[0]}") from None
    return torch.from_numpy(np.ascontiguousarray(array)), None


def _array(data: Any) -> np.ndarray:
    if isinstance(data, np.ma.MaskedArray):
        filled = data.data.astype(object)
        filled[np.ma.getmaskarray(data)] = None
        return filled
    try:
        return np.asarray(data)
    except ValueError:
        raise ValueError("expected data of shape (n) or (n, k), got rows of different lengths") from None


def _absent(array: np.ndarray) -> np.ndarray:
    """Where an array of objects has None, NaN or pandas.NA."""
    absent = [value is None or type(value).__name__ == "NAType" or value != value for value in array.reshape(-1)]
    return np.array(absent, dtype=bool).reshape(array.shape)


def _encode(array: np.ndarray) -> tuple[Tensor, tuple[str, ...]]:
    """Number the categories of a column in their sorted order; None and NaN become NaN."""
    if array.ndim != 1:
        raise ValueError(f"expected data of shape (n) for Categorical, got {array.shape}")
    absent = _absent(array)
    present = array[~absent].tolist()
    try:
        categories = sorted(set(present))
    except TypeError:  # of several types
        categories = sorted(set(present), key=str)
    code = {value: number for number, value in enumerate(categories)}
    values = np.full(array.shape, np.nan)
    values[~absent] = [code[value] for value in present]
    return torch.from_numpy(values), tuple(map(label, categories))


def label(value: Any) -> str:
    """A class as a reader writes it: 1, not 1.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return value is None
    return True


def frequencies(weights: Any, n: int, rows: Sequence[Any] | None = None) -> Tensor:
    """Check `weights` as frequencies of n rows; None: each row was seen once. `rows`: their numbers, in messages."""
    if weights is None:
        return torch.ones(n, dtype=torch.float64)
    frequency, _ = _numbers(weights, categorical=False, what="weights")
    if frequency.shape != (n,):
        raise ValueError(f"expected {n} weights, one for each row, got shape {tuple(frequency.shape)}")
    wrong = ~(torch.isfinite(frequency) & (frequency >= 0))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"expected finite weights of at least 0, got {_plain(frequency[row].item())} "
            f"at row {row if rows is None else rows[row]}"
        )
    if n and float(frequency.sum()) == 0.0:
        raise ValueError("expected weights with a positive sum, got all zero")
    if not bool(torch.isfinite(frequency.sum())):
        raise ValueError("expected weights with a finite sum, got inf")
    return frequency


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return f"{value:.17g}" if float(f"{value:.6g}") != value else f"{value:.6g}"
