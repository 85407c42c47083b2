"""The data of a fit: one row per observation in float64, its weight, and what may not be there."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nll.data.arrays import absent, array_of, categories_of, floats, in_microseconds, present_levels
from nll.data.missing import MissingValuesError

_BLOCK = 1 << 16  # values at once: what is computed of them stays in the cache


@dataclass(frozen=True)
class Weights:
    """Weights that are no frequencies."""

    values: Any
    kind: str  # "sampling" or "importance"


def sampling(weights: Any) -> Weights:
    """Sampling weights: each row stands for as many of the population, as the inverse of its chance
    to be drawn.

    Only their ratios count: they are scaled to a sum of n, the number of rows. The covariance is
        the sandwich's.
    """
    return Weights(weights, "sampling")


def importance(weights: Any) -> Weights:
    """Importance weights: the ratio of the wanted density to that which the rows were drawn from.

    Only their ratios count: they are scaled to a sum of n = (sum w)^2 / sum w^2, the effective
    number of rows (Kish 1965). The covariance is the sandwich's.
    """
    return Weights(weights, "importance")


@dataclass(frozen=True)
class Censored:
    """Observations that lie between two ends, one row each; exact where the ends are equal."""

    low: Any
    high: Any


def censored(values: Any, upper: Any = None, *, left: Any = None, right: Any = None) -> Censored:
    """Observations of which some are known up to an interval only.

    Args:
        values: (n) numbers; with `upper` the lower ends, -inf where there is none.
        upper: (n), the upper ends, inf where there is none; equal to `values` where the observation
            is exact.
        left: (n) mask of the values above the true ones (detection limits).
        right: (n) mask of the values below the true ones (still running at the end of a trial).

    For counts the ends belong to the interval: right-censored at 5 means 5 or more.

    Raises: ValueError for both `upper` and masks, shapes that differ, or an upper end below the
        lower one.
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
    masks = [_mask(name, mask, low.shape) for name, mask in (("left", left), ("right", right))]
    both = np.flatnonzero(masks[0] & masks[1])
    if len(both):
        raise ValueError(f"expected a row to be censored on one side, got both at row {both[0]}")
    return Censored(np.where(masks[0], -np.inf, low), np.where(masks[1], np.inf, low))


def _mask(name: str, mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    if mask is None:
        return np.zeros(shape, dtype=bool)
    found = array_of(mask, name)
    if found.shape != shape or not np.isin(found, (0, 1)).all():
        raise ValueError(
            f"expected {name} as a mask of shape {shape}, got {found.dtype} of shape {found.shape}"
        )
    return found.astype(bool)


@dataclass(frozen=True)
class Truncated:
    """Observations that are there only because they lie inside a window."""

    data: Any
    low: Any
    high: Any


def truncated(data: Any, low: Any = -math.inf, high: Any = math.inf) -> Truncated:
    """Observations that would not be in the data outside of [low, high]; numbers, or one for each
    row.

    `data` may be `censored`.
    """
    return Truncated(data, low, high)


class Censoring(NamedTuple):
    """How many rows were seen exactly, and how many are known up to an interval, which side of it
    open.
    """

    events: float
    right: float
    left: float
    interval: float

    @property
    def censored(self) -> float:
        """The rows that were not seen exactly."""
        return self.right + self.left + self.interval

    def __str__(self) -> str:
        """The censored rows by their kind."""
        return ", ".join(
            f"{count:.12g} {name}"
            for name, count in self._asdict().items()
            if count and name != "events"
        )


@dataclass(frozen=True)
class Observations:
    """Rows of data and their weights."""

    values: Tensor  # (n) or (n, k), float64
    weights: Tensor  # (n), float64: how often each row was seen, or scaled to the sum n
    numbers: Tensor | None  # (n), the number of each row in the data as given; None: all are there
    given: int  # how many rows the data had
    dropped: int = 0  # rows with a missing value that were left out
    categories: tuple[str, ...] | None = None  # the names of the integers, where the data were text
    kind: str = "frequency"  # of the weights
    # (n) each: what is known of censored rows; their value is in between
    ends: tuple[Tensor, Tensor] | None = None
    # (1) or (n) each: where the rows would not be seen outside of
    window: tuple[Tensor, Tensor] | None = None

    @property
    def rows(self) -> Tensor:
        """The number of each row in the data as given."""
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
        kinds = (low == high, high == math.inf, low == -math.inf)
        sums = [
            float(self.weights[kind].sum()) for kind in (*kinds, ~(kinds[0] | kinds[1] | kinds[2]))
        ]
        return Censoring(*sums)

    def of(self, which: Tensor) -> Observations:
        """Some of the rows, by a mask."""
        part = {
            "values": self.values[which],
            "weights": self.weights[which],
            "numbers": self.rows[which],
            "dropped": 0,
        }
        ends = None if self.ends is None else (self.ends[0][which], self.ends[1][which])
        window = self.window
        if window is not None:
            low, high = (end if len(end) == 1 else end[which] for end in window)
            window = (low, high)
        return replace(self, **part, ends=ends, window=window)

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


def total(weights: Tensor, values: Tensor | None = None) -> Tensor:
    """The weighted sum along the last dimension, or that of the weights; of one weight for all by a
    plain sum.
    """
    if weights.dim() == 1 and weights.stride(0) == 0 and len(weights):
        return weights[0] * (len(weights) if values is None else values.sum())
    if values is None:
        return weights.sum(-1)
    if values.dim() == 1 or len(values) == 1:  # of one data set, weighted in several ways
        return weights @ values.reshape(-1)
    return (weights * values).sum(-1)


def totals(
    weights: Tensor, values: Tensor, statistics: Callable[[Tensor], tuple[Tensor, ...]]
) -> list[Tensor]:
    """The weighted sum of each statistic of the values, block by block: fresh memory costs more
    than arithmetic.
    """
    found = []
    for x, w in zip(values.split(_BLOCK, -1), weights.split(_BLOCK, -1), strict=True):
        found.append(torch.stack([total(w, statistic) for statistic in statistics(x)]))
    return list(torch.stack(found).sum(0))


def first_two_totals(
    weights: Tensor, values: Tensor, standard: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The weighted sums of z and of z^2, z = standard(values), without keeping the squares."""
    found = []
    for x, w in zip(values.split(_BLOCK, -1), weights.split(_BLOCK, -1), strict=True):
        z = standard(x)
        weighted = z if w.dim() == 1 and w.stride(0) == 0 else w * z
        found.append(
            torch.stack([weighted.sum(-1), torch.linalg.vecdot(weighted, z.expand_as(weighted))])
        )
    first, second = torch.stack(found).sum(0)
    scale = weights[0] if weights.dim() == 1 and weights.stride(0) == 0 else 1.0
    return scale * first, scale * second


def observe(
    data: Any, weights: Any = None, *, missing: str = "raise", categorical: bool = False
) -> Observations:
    """Turn a list, array, tensor or column into observations. Those in float64 are not copied.

    Raises ValueError naming the first row that is missing (unless `missing="drop"`), or the first
    weight that is not a frequency; TypeError for data that are not numbers.
    """
    if missing not in ("raise", "drop"):
        raise ValueError(f"expected missing to be 'raise' or 'drop', got {missing!r}")
    values, categories = _numbers(data, categorical)
    if values.dim() not in (1, 2):
        raise ValueError(f"expected data of shape (n) or (n, k), got {tuple(values.shape)}")
    # then nothing is missing
    if weights is None and math.isfinite(float(values.sum())) and len(values):
        n = len(values)
        return Observations(
            values, torch.ones((), dtype=torch.float64).expand(n), None, n, 0, categories
        )
    kind = kind_of(weights)
    frequency = frequencies(weights, values.shape[0])
    absent = values.isnan() if values.dim() == 1 else values.isnan().any(1)
    if missing == "raise" and bool(absent.any()):
        row = int(absent.nonzero()[0])
        count = int(absent.sum())
        raise MissingValuesError(f"{count}, the first at row {row}")
    seen = (~absent & (frequency > 0)).nonzero().squeeze(1)
    if seen.numel() == 0:
        raise ValueError("expected at least one observation, got none")
    return Observations(
        values[seen],
        scaled(frequency[seen], kind),
        seen,
        len(values),
        int(absent.sum()),
        categories,
        kind,
    )


def observe_bounded(data: Any, weights: Any = None, *, missing: str = "raise") -> Observations:
    """Observations that may be censored, truncated or both."""
    window, inner = None, data
    if isinstance(data, Truncated):
        window, inner = (data.low, data.high), data.data
    if not isinstance(inner, Censored):
        observed = observe(inner, weights, missing=missing)
    else:
        (low, high), observed = observe_parts((inner.low, inner.high), weights, missing=missing)
        value = torch.where(low.isinf(), high, torch.where(high.isinf(), low, low / 2 + high / 2))
        nothing = value.isinf()
        if bool(nothing.any()):
            row = int(observed.rows[nothing.nonzero()[0, 0]])
            raise ValueError(f"expected a finite end of each interval, got none at row {row}")
        observed = replace(observed, values=value, ends=(low, high))
    if window is None:
        return observed
    ends = tuple(_end(end, observed) for end in window)
    return replace(observed, window=ends)


def _end(end: Any, observed: Observations) -> Tensor:
    number, _ = _numbers(end, False, "an end of the window")
    if bool(number.isnan().any()) or (number.numel() != 1 and number.shape != (observed.given,)):
        raise ValueError(
            f"expected an end of the window as a number, or one for each row, got {end!r}"
        )
    return number.reshape(1) if number.numel() == 1 else number[observed.rows]


def observe_parts(
    data: Any, weights: Any = None, *, missing: str = "raise"
) -> tuple[tuple[Tensor, ...], Observations]:
    """The parts of the data, (n, ...) each, without the rows that miss something; and what
    `observe` says of them.
    """
    given = data if isinstance(data, tuple) else (data,)
    if not given:
        raise ValueError("expected at least one part of the data, got none")
    names = ["data"] if len(given) == 1 else [f"part {i} of the data" for i in range(len(given))]
    parts = [_numbers(part, False, name)[0] for part, name in zip(given, names, strict=True)]
    for i, part in enumerate(parts):
        if part.dim() == 0 or len(part) != len(parts[0]):
            shape = tuple(part.shape)
            raise ValueError(
                f"expected parts with a row per observation, {len(parts[0])}, got shape {shape} in "
                f"part {i}"
            )
    flat = torch.cat([part.reshape(len(part), -1) for part in parts], 1)
    observed = observe(flat, weights, missing=missing)
    return tuple(part[observed.rows] for part in parts), observed


def kind_of(weights: Any, otherwise: str = "frequency") -> str:
    """What weights are: "frequency", "sampling" or "importance"; plain numbers are `otherwise`."""
    return weights.kind if isinstance(weights, Weights) else otherwise


def scaled(weights: Tensor, kind: str) -> Tensor:
    """Weights in the unit of the likelihood: of those that are no frequencies only the ratios
    count.

    Sampling weights add up to the number of rows that count, importance weights to (sum w)^2 / sum
    w^2.
    """
    if kind == "frequency":
        return weights
    share = weights / weights.max()  # neither sums nor squares overflow
    share = share / share.sum()
    return share * (torch.count_nonzero(share) if kind == "sampling" else 1 / share.square().sum())


def require_support(
    observed: Observations,
    inside: Callable[[Tensor], Tensor],
    expected: str,
    model: str,
    interval: bool = False,
) -> None:
    """Raise ValueError naming the first row and value outside the support of a model; `interval`:
    whether it is one.
    """
    if interval and bool(inside(torch.stack(observed.values.aminmax())).all()):
        return
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


def _numbers(
    data: Any, categorical: bool, what: str = "data"
) -> tuple[Tensor, tuple[str, ...] | None]:
    if isinstance(data, Tensor) and data.is_floating_point():
        values = data.detach().to_dense().cpu().to(torch.float64)
        # which autograd cannot keep
        return values.clone() if values.is_inference() else values, None
    array = array_of(data, what)
    levels = categories_of(data) if categorical else None
    if categorical and (array.dtype.kind in "OUSTmM" or levels is not None):
        return _encode(array, levels)
    return tensor_of(floats(array, what, exact=not categorical and what != "weights")), None


def tensor_of(array: np.ndarray) -> Tensor:
    """The array's memory where PyTorch can have it: it knows neither read-only memory nor negative
    strides.
    """
    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _encode(array: np.ndarray, levels: list[Any] | None) -> tuple[Tensor, tuple[str, ...]]:
    """Number the categories of a column in their order, or sorted; what is missing becomes NaN."""
    if array.ndim != 1:
        raise ValueError(f"expected data of shape (n) for Categorical, got {array.shape}")
    missing = absent(array)
    present = array[~missing].tolist()
    try:
        seen = set(present)
    except TypeError:
        row = next(
            row for row, value in enumerate(array) if getattr(value, "__hash__", None) is None
        )
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


def label(value: Any) -> str:
    """A class as a reader writes it: 1, not 1.0, and a day without its midnight."""
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    return text.removesuffix(" 00:00:00") if isinstance(value, datetime) else text


def frequencies(weights: Any, n: int, rows: Sequence[Any] | None = None) -> Tensor:
    """Check weights of n rows, of any kind; None: each row was seen once. `rows`: their numbers, in
    messages.
    """
    if weights is None:
        return torch.ones(n, dtype=torch.float64)
    given = weights.values if isinstance(weights, Weights) else weights
    frequency, _ = _numbers(given, categorical=False, what="weights")
    if frequency.shape != (n,):
        raise ValueError(
            f"expected {n} weights, one for each row, got shape {tuple(frequency.shape)}"
        )
    wrong = ~(torch.isfinite(frequency) & (frequency >= 0))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"expected finite weights of at least 0, got {_plain(frequency[row].item())} "
            f"at row {row if rows is None else rows[row]}"
        )
    if n and not bool(frequency.any()):
        raise ValueError("expected weights with a positive sum, got all zero")
    if kind_of(weights) == "frequency" and not bool(torch.isfinite(frequency.sum())):
        raise ValueError("expected weights with a finite sum, got inf")
    return frequency


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return f"{value:.17g}" if float(f"{value:.6g}") != value else f"{value:.6g}"


def cluster_codes(clusters: Any, given: int, rows: Any) -> Tensor:
    """The number of the cluster of each row that is kept, from 0; `rows`: which of the rows as
    given.

    Raises: ValueError for labels of another length, a missing one, or a single cluster.
    """
    codes = label_codes(clusters, given, rows, "cluster")[1]
    if codes.max() == 0:
        raise ValueError("expected at least two clusters, got one")
    return torch.from_numpy(codes.reshape(-1))


def label_codes(labels: Any, given: int, rows: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    """The different labels of the rows that are kept, sorted, and the number of each row's; `what`:
    of which kind.

    Raises: ValueError for labels of another length, or a missing one.
    """
    array = array_of(labels, f"{what} labels")
    if array.shape != (given,):
        raise ValueError(
            f"expected {given} {what} labels, one for each row, got shape {array.shape}"
        )
    missing = absent(array[rows])
    if missing.any():
        row = int(np.arange(given)[rows][missing][0])
        raise ValueError(f"expected a {what} for every row, got none at row {row}")
    kept = in_microseconds(array[rows]) if array.dtype.kind in "mM" else array[rows]
    try:
        values, codes = np.unique(kept, return_inverse=True)
    except TypeError:
        types = " and ".join(sorted({type(value).__name__ for value in array[rows].tolist()}))
        raise TypeError(f"expected {what} labels of one type, got {types}") from None
    return values, codes.reshape(-1)
