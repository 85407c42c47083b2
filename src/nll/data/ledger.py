"""Rows that are read again are counted and compared: every pass of a fit is over the same rows.

A pass adds up, of its rows x_i with weights w_i and numbers t_i that stand for their classes,

    the rows, those left out, sum w t, sum (w t)^2, sum x'v, sum w t x'v, sum (x'v)^2, and the
    numbers of the clusters

for one vector v in which every column counts alike: a product of the columns with one vector, which
costs far less than the pass. The sums up to the end of each block are kept from the first pass, and
later passes are held against them wherever a block ends at the same row.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from nll.data.classes import Coded, key

if TYPE_CHECKING:
    from nll.data.stream import Block, Stream

_MOST = 4096  # ends of blocks that are kept
_ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-6}  # of sums over other blocks
_WHAT = (
    "rows",
    "rows with missing values",
    *["classes or weights"] * 2,
    *["numbers"] * 3,
    "clusters",
)

T = TypeVar("T")


def _tags(coded: Coded) -> np.ndarray:
    """A number in [1, 2) for each row that stands for its class, in every process the same."""
    each = [1.0 + zlib.crc32(repr(key(value)).encode()) / 2.0**32 for value in coded.values]
    return np.array(each or [1.0])[coded.codes]


def sums_of(
    along: Tensor, response: Coded, weights: Tensor | None, clusters: Coded | None, dropped: int
) -> np.ndarray:
    """What some rows add up to.

    Args:
        along: (n), x'v.
        response: the classes of the rows.
        weights: (n); None: 1.
        clusters: of the rows; None: they do not matter.
        dropped: rows that were left out.
    """
    s, t = along.double().numpy(), _tags(response)
    t = t if weights is None else t * weights.numpy()
    groups = np.nan if clusters is None else float(_tags(clusters) @ t)
    with np.errstate(all="ignore"):  # values near the largest may overflow, in every pass alike
        return np.array([len(s), dropped, t.sum(), t @ t, s.sum(), s @ t, s @ s, groups])


def ends_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """The least and largest values of the columns (n, q); column by column, which is far faster
    than row by row.
    """
    columns = x.T.contiguous()
    return columns.amin(1).double(), columns.amax(1).double()


class Ledger:
    """The rows of a stream, held against those of the first pass in each that follows.

    Args:
        stream: whose rows are read.

    Raises: ValueError where there are no rows; see `each`.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream, self.files, self.before = stream, stream.stamps(), "the first pass"
        first = stream.first()
        if first is None:
            raise ValueError("expected at least one row, got none")
        self.what = self._what(first)
        self.classes = (
            first.response.values,
            None if first.clusters is None else first.clusters.values,
        )
        # of the first block, (3, q)
        self.range = torch.stack([*ends_of(first.x), first.x.double().mean(0)])
        self.rounding = _ROUNDING[first.x.dtype]
        self.sums: dict[int, list[float]] = {}  # by the number of rows up to which they go
        self.length: int | None = None  # of the first pass, in rows, once it is over
        self.checked = False  # whether all rows have been read

    def _what(self, first: Block) -> dict[str, str]:
        """What tells this table from others before all of it is read, by name."""
        stream, (c, *_) = self.stream, first.response.codes
        numbers = zlib.crc32(first.x[0].double().numpy().tobytes())
        return {
            "columns": f"{', '.join(stream.names or [])} ({first.x.dtype})",
            "response": f"{stream.response}",
            "weights": f"{stream.weights}",
            "clusters": f"{stream.clusters}",
            "missing": stream.missing,
            "first row": f"{numbers:08x} {key(first.response.values[c])}",
            "files": "; ".join(
                f"{name}, {size} bytes, of {time}" for name, size, time in self.files
            ),
        }

    @property
    def state(self) -> dict[str, Any]:
        """What a later process needs to go on."""
        return {"range": self.range, "sums": self.sums, "length": self.length}

    def restore(self, state: dict[str, Any], before: str) -> None:
        """Hold the rows against those of another process; `before`: what it has left."""
        self.range, self.sums, self.length, self.before = (
            state["range"],
            state["sums"],
            state["length"],
            before,
        )

    def __iter__(self) -> Iterator[Block]:
        """The blocks in the order of the rows; empty ones are left out."""
        return (block for _, block in self.each(lambda block: block) if len(block.x))

    def check(self) -> None:
        """Go through all rows."""
        for _ in self.each(lambda _: None, clusters=True):
            pass

    def each(
        self, function: Callable[[Block], T], skip: int = 0, clusters: bool = False
    ) -> Iterator[tuple[int, T]]:
        """What a function makes of each block, with the number of rows up to its end.

        Args:
            function: several blocks are worked on side by side.
            skip: rows that the function is not called for; they are compared all the same.
            clusters: whether the clusters matter.

        Raises: ValueError where the rows are not those of the first pass, or a file has changed.
        """
        reach = self.range[:2].abs().amax(0)
        along = torch.linspace(1.0, 2.0, len(reach), dtype=torch.float64) / torch.where(
            reach > 0, reach, 1.0
        )
        total, end = np.zeros(len(_WHAT)), 0
        # the last end that both passes have, and the sums there, of this pass and the first
        last = (0, total, total)
        for end, sums, made in self.stream.read(function, along, skip, clusters):
            total = total + sums
            if end in self.sums:
                first = np.array(self.sums[end])
                self._compare(end, total, first, *last)
                last = (end, total, first)
            elif self.length is None and end > next(reversed(self.sums), 0):
                self._keep(end, total)
            elif self.length is not None and end > self.length:
                raise self._other_length(f"more than {self.length}")
            if end > skip:
                yield end, made  # type: ignore[misc]  # what is skipped alone is not made
        self._close(end)

    def _keep(self, end: int, total: np.ndarray) -> None:
        self.sums[end] = total.tolist()
        if len(self.sums) > _MOST:
            for old in list(self.sums)[-2::-2]:
                del self.sums[old]

    def _compare(
        self,
        end: int,
        total: np.ndarray,
        first: np.ndarray,
        start: int,
        before: np.ndarray,
        first_before: np.ndarray,
    ) -> None:
        """ValueError where the rows since the last comparison have other sums, beyond rounding."""
        with np.errstate(all="ignore"):  # sums that overflow do so in every pass
            some, theirs = total - before, first - first_before
            n, _, _, tt, _, _, ss, _ = np.maximum(some, theirs)
            scale = np.array(
                [0.0, 0.0, some[2], tt, (n * ss) ** 0.5, (tt * ss) ** 0.5, ss, some[7]]
            )
            allowed = self.rounding * scale + 1e-14 * np.abs(total)
            wrong = np.abs(some - theirs) > allowed
        # the clusters' is NaN where they do not matter
        wrong[:7] |= np.isfinite(some[:7]) != np.isfinite(theirs[:7])
        if wrong.any():
            what = _WHAT[int(wrong.argmax())]
            raise ValueError(
                f"expected the rows of {self.before} again, got other {what} in rows "
                f"{start} to {end - 1}"
            )

    def _close(self, end: int) -> None:
        """At the end of a pass."""
        if end < (max(self.sums, default=0) if self.length is None else self.length):
            raise self._other_length(str(end))
        changed = sorted(set(self.files) ^ set(self.stream.stamps()))
        if changed:
            raise ValueError(
                f"expected files that stay as they are during a fit, got changes in {changed[0][0]}"
            )
        self.length, self.checked = end, True

    def _other_length(self, got: str) -> ValueError:
        return ValueError(
            f"expected the {self.length or max(self.sums)} rows of {self.before} again, got {got}; "
            f"data are gone "
            "through several times, and must start anew each time"
        )
