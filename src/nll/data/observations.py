"""The data of a fit: one row per observation in float64, its weight, and what may be missing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nll.data.arrays import (
    MissingValuesError,
    array_of,
    categories_of,
    floats,
    numbers,
    shown,
)
from nll.data.classes import categories_as_numbers
from nll.data.weights import (
    by_row,
    frequencies,
    kind_of,
    scaled,
    total,
)

_FEW = 1 << 14  # numbers that are read in the time of a call
# The ends of the real line.
_LINE = torch.finfo(torch.float64).max * torch.tensor([-1.0, 1.0], dtype=torch.float64)


@dataclass(frozen=True)
class Censored:
    """Observations between two ends, one row each; exact where the ends are equal."""

    low: Any
    high: Any


def censored(values: Any, upper: Any = None, *, left: Any = None, right: Any = None) -> Censored:
    """Mark observations of which some are known only up to an interval.

    Args:
        values: (n) numbers; with `upper` the lower ends, -inf where there is none.
        upper: (n), the upper ends, inf where there is none; equal to `values` where the observation
            is exact.
        left: (n) mask of the values above the true ones (detection limits).
        right: (n) mask of the values below the true ones (still running at the end of a trial).

    For counts the ends belong to the interval: right-censored at 5 means 5 or more.

    Raises: ValueError for both `upper` and masks, shapes that differ, or an upper end below the
        lower one.

    Example:
        >>> from torch.distributions import Exponential
        >>> import nll
        >>> times = nll.censored([2.0, 3.0, 5.0], right=[False, False, True])
        >>> round(float(nll.fit(Exponential, times).params["rate"]), 6)
        0.2
    """
    low = floats(array_of(values, "values"), "values")
    if upper is not None and (left is not None or right is not None):
        raise ValueError("expected either upper, or left and right, got both")
    if upper is not None:
        high = floats(array_of(upper, "upper ends"), "upper ends")
        if high.shape != low.shape:
            raise ValueError(f"expected upper ends of shape {low.shape}, got {high.shape}")
        wrong = np.flatnonzero(high < low)
        if len(wrong):
            got = f"{low[wrong[0]]} and {high[wrong[0]]} at row {wrong[0]}"
            raise ValueError(f"expected upper ends of at least the lower ones, got {got}")
        return Censored(low, high)
    below = _mask("left", left, low.shape)
    above = _mask("right", right, low.shape)
    both = np.flatnonzero(below & above)
    if len(both):
        raise ValueError(f"expected a row to be censored on one side, got both at row {both[0]}")
    return Censored(np.where(below, -np.inf, low), np.where(above, np.inf, low))


def _mask(name: str, mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    if mask is None:
        return np.zeros(shape, dtype=bool)
    flags = array_of(mask, name)
    if flags.shape != shape or not np.isin(flags, (0, 1)).all():
        raise ValueError(
            f"expected {name} as a mask of shape {shape}, got {flags.dtype} of shape {flags.shape}"
        )
    return flags.astype(bool)


@dataclass(frozen=True)
class Truncated:
    """Observations that are in the data only because they lie inside a window."""

    data: Any
    low: Any
    high: Any


def truncated(data: Any, low: Any = -math.inf, high: Any = math.inf) -> Truncated:
    """Mark observations that would not be in the data outside of [low, high].

    The ends are numbers, or (n), one for each row. `data` may be `censored`.

    Example:
        >>> from torch.distributions import Exponential
        >>> import nll
        >>> waits = nll.truncated([2.0, 3.0, 5.0], low=1.0)
        >>> round(float(nll.fit(Exponential, waits).params["rate"]), 6)
        0.428571
    """
    return Truncated(data, low, high)


class Censoring(NamedTuple):
    """The weight of the exact rows, and of those known up to an interval, by its open side."""

    events: float
    right: float
    left: float
    interval: float

    @property
    def censored(self) -> float:
        """The rows that are not exact."""
        return self.right + self.left + self.interval

    def __str__(self) -> str:
        kinds = {"right": self.right, "left": self.left, "interval": self.interval}
        return ", ".join(f"{count:.12g} {name}" for name, count in kinds.items() if count)


@dataclass(frozen=True)
class Observations:
    """Rows of data and their weights."""

    values: Tensor  # (n) or (n, k), float64
    weights: Tensor  # (n), float64: how often each row was seen, or scaled to the sum n
    numbers: Tensor | None  # (n), the number of each row in the data as passed; None: all are there
    given: int  # the number of rows in the data as passed
    dropped: int = 0  # rows with a missing value that were left out
    categories: tuple[str, ...] | None = None  # the names of the integers, where the data were text
    kind: str = "frequency"  # of the weights
    # (n) each: the interval of a censored row; its value is in between
    ends: tuple[Tensor, Tensor] | None = None
    # (1) or (n) each: outside of which the rows would not be in the data
    window: tuple[Tensor, Tensor] | None = None
    once: bool = False  # whether each row weighs 1

    @property
    def rows(self) -> Tensor:
        """The number of each row in the data as passed."""
        return torch.arange(self.given) if self.numbers is None else self.numbers

    @property
    def incomplete(self) -> bool:
        """Whether rows are censored or truncated."""
        return self.ends is not None or self.window is not None

    @property
    def censoring(self) -> Censoring | None:
        """The weight of the rows of each kind; None: nothing is censored."""
        if self.ends is None:
            return None
        low, high = self.ends
        kinds = [low == high, high == math.inf, low == -math.inf]
        kinds.append(~(kinds[0] | kinds[1] | kinds[2]))
        return Censoring(*(float(self.weights[kind].sum()) for kind in kinds))

    def of(self, which: Tensor) -> Observations:
        """Return some of the rows, by a mask."""
        ends = None if self.ends is None else (self.ends[0][which], self.ends[1][which])
        window = self.window
        if window is not None:
            low, high = (end if len(end) == 1 else end[which] for end in window)
            window = (low, high)
        return replace(
            self,
            values=self.values[which],
            weights=self.weights[which],
            numbers=self.rows[which],
            dropped=0,
            ends=ends,
            window=window,
        )

    @cached_property
    def sums(self) -> Tensor:
        """The sums of the rows that `by_row` cuts the values into; of columns, the sum of all."""
        return (
            by_row(self.values, lambda rows: rows.sum(1))
            if self.values.dim() == 1
            else self.values.sum().reshape(1)
        )

    @property
    def finite(self) -> bool:
        """Whether all values are finite, and their sum."""
        return math.isfinite(float(self.sums.sum()))

    @property
    def equal(self) -> bool:
        """Whether all rows are the same."""
        if self.values.dim() > 1:
            return bool((self.values == self.values[:1]).all())
        low, high = self.values.aminmax()
        return bool(low == high)

    @property
    def n(self) -> float:
        """The number of observations: the sum of the weights."""
        return float(len(self.values)) if self.kind == "sampling" else float(total(self.weights))


def observe(
    data: Any, weights: Any = None, *, missing: str = "raise", categorical: bool = False
) -> Observations:
    """Turn a list, array, tensor or column into observations. float64 data are not copied.

    Raises: ValueError naming the first row that is missing (unless `missing="drop"`), or the first
    weight that is invalid; TypeError for data that are not numbers.
    """
    if missing not in ("raise", "drop"):
        raise ValueError(f"expected missing to be 'raise' or 'drop', got {missing!r}")
    values, categories = _categorical(data) if categorical else (numbers(data), None)
    if values.dim() not in (1, 2):
        raise ValueError(f"expected data of shape (n) or (n, k), got {tuple(values.shape)}")
    n = len(values)
    if weights is None and n:
        ones = torch.ones((), dtype=torch.float64).expand(n)
        observed = Observations(values, ones, None, n, categories=categories, once=True)
        if observed.finite:  # nothing is missing
            return observed
    kind = kind_of(weights)
    frequency = frequencies(weights, n)
    lacking = values.isnan() if values.dim() == 1 else values.isnan().any(1)
    dropped = int(lacking.sum())
    if missing == "raise" and dropped:
        raise MissingValuesError(f"{dropped}, the first at row {int(lacking.nonzero()[0])}")
    seen = (~lacking & (frequency > 0)).nonzero().squeeze(1)
    if seen.numel() == 0:
        raise ValueError("expected at least one observation, got none")
    weight = scaled(frequency[seen], kind)
    return Observations(values[seen], weight, seen, n, dropped, categories, kind)


def _categorical(data: Any) -> tuple[Tensor, tuple[str, ...] | None]:
    array = array_of(data)
    levels = categories_of(data)
    if levels is None and array.dtype.kind not in "OUSTmM":
        return numbers(data, exact=False), None
    return categories_as_numbers(array, levels)


def observe_bounded(data: Any, weights: Any = None, *, missing: str = "raise") -> Observations:
    inner = data.data if isinstance(data, Truncated) else data
    if isinstance(inner, Censored):
        (low, high), observed = observe_parts((inner.low, inner.high), weights, missing=missing)
        value = torch.where(low.isinf(), high, torch.where(high.isinf(), low, low / 2 + high / 2))
        if bool(value.isinf().any()):
            row = int(observed.rows[value.isinf().nonzero()[0, 0]])
            raise ValueError(f"expected a finite end of each interval, got none at row {row}")
        observed = replace(observed, values=value, ends=(low, high))
    else:
        observed = observe(inner, weights, missing=missing)
    if not isinstance(data, Truncated):
        return observed
    return replace(observed, window=(_end(data.low, observed), _end(data.high, observed)))


def _end(end: Any, observed: Observations) -> Tensor:
    number = numbers(end, "an end of the window")
    if bool(number.isnan().any()) or (number.numel() != 1 and number.shape != (observed.given,)):
        raise ValueError(
            f"expected an end of the window as a number, or one for each row, got {end!r}"
        )
    return number.reshape(1) if number.numel() == 1 else number[observed.rows]


def observe_parts(
    data: Any, weights: Any = None, *, missing: str = "raise"
) -> tuple[tuple[Tensor, ...], Observations]:
    """Return the parts of the data, (n, ...) each, without the rows with missing values; and these
    rows as `observe` returns them.
    """
    data = data if isinstance(data, tuple) else (data,)
    if not data:
        raise ValueError("expected at least one part of the data, got none")
    names = ["data"] if len(data) == 1 else [f"part {i} of the data" for i in range(len(data))]
    parts = [numbers(part, name) for part, name in zip(data, names, strict=True)]
    for i, part in enumerate(parts):
        if part.dim() == 0 or len(part) != len(parts[0]):
            raise ValueError(
                f"expected parts with a row per observation, {len(parts[0])}, got shape "
                f"{tuple(part.shape)} in part {i}"
            )
    flat = torch.cat([part.reshape(len(part), -1) for part in parts], 1)
    observed = observe(flat, weights, missing=missing)
    return tuple(part[observed.rows] for part in parts), observed


def require_support(
    observed: Observations,
    inside: Callable[[Tensor], Tensor],
    expected: str,
    model: str,
    interval: bool = False,
) -> None:
    """Raise ValueError naming the first row and value outside the support of a model; `interval`:
    whether the support is one, so that its ends decide.
    """
    if interval and (
        (observed.values.numel() > _FEW and bool(inside(_LINE).all()) and observed.finite)
        or bool(inside(torch.stack(observed.values.aminmax())).all())
    ):
        return
    ok = inside(observed.values)
    ok = ok.all(1) if ok.dim() == 2 else ok
    if not bool(ok.all()):
        index = int((~ok).nonzero()[0])
        raise ValueError(
            f"data outside the support of {model}: expected {expected}, got "
            f"{shown(observed.values[index].tolist())} at row {int(observed.rows[index])}"
        )
