"""Rows that are read again are counted and compared: every pass of a fit is over the same rows.

A pass adds up, over its rows x_i with weights w_i and numbers t_i that stand for their classes,

    the rows, those left out, sum w t, sum (w t)^2, sum x'v, sum w t x'v, sum (x'v)^2, and the
    numbers of the clusters

for one vector v in which every column counts alike: a product of the columns with one vector, which
costs far less than the pass. The sums up to the end of each block are kept from the first pass, and
later passes are compared with them wherever a block ends at the same row.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch

from nll.data.classes import key
from nll.data.readers import stamps
from nll.data.stream import SUMS, Block, Stream

_MOST = 4096  # ends of blocks that are kept
_ROUNDING = {torch.float64: 1e-10, torch.float32: 1e-6}  # of sums over other blocks

T = TypeVar("T")


class _Sums(NamedTuple):
    """The sums up to a row, of this pass and the first."""

    end: int
    now: np.ndarray
    first: np.ndarray


class Ledger:
    """The rows of a stream, each pass compared with the first.

    Args:
        stream: whose rows are read.

    Raises: ValueError where there are no rows; see `each`.
    """

    def __init__(self, stream: Stream) -> None:
        self.files, self.before = stamps(stream.data), "the first pass"
        first = stream.first()
        if first is None:
            raise ValueError("expected at least one row, got none")
        self.stream = replace(stream, columns=first.names)
        self.levels = first.levels  # of the response, where its type orders them
        self.what = self._what(first)
        clusters = None if first.clusters is None else first.clusters.values
        self.classes = (first.response.values, clusters)
        columns = first.x.T.contiguous()  # far faster than row by row
        extremes = [columns.amin(1).double(), columns.amax(1).double()]
        # of the first block, (3, q)
        self.range = torch.stack([*extremes, first.x.double().mean(0)])
        self.rounding = _ROUNDING[first.x.dtype]
        self.sums: dict[int, list[float]] = {}  # by the number of rows up to which they go
        self.length: int | None = None  # of the first pass, in rows, once it is over
        self.checked = False  # whether all rows have been read

    def _what(self, first: Block) -> dict[str, str]:
        """Return what distinguishes this table from others before all of it is read, by name."""
        stream, (c, *_) = self.stream, first.response.codes
        numbers = zlib.crc32(first.x[0].double().numpy().tobytes())
        return {
            "columns": f"{', '.join(first.names)} ({first.x.dtype})",
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
        """Compare the rows with those of another process; `before`: the file it has left."""
        self.range = state["range"]
        self.sums = state["sums"]
        self.length = state["length"]
        self.before = before

    def __iter__(self) -> Iterator[Block]:
        return (block for _, block in self.each(lambda block: block) if len(block.x))

    def check(self) -> None:
        for _ in self.each(lambda _: None, clusters=True):
            pass

    def each(
        self, function: Callable[[Block], T], skip: int = 0, clusters: bool = False
    ) -> Iterator[tuple[int, T]]:
        """Yield the number of rows up to each block's end, and the function's result for it.

        Args:
            function: called with several blocks at the same time.
            skip: rows that the function is not called for; they are compared all the same.
            clusters: whether the clusters matter.

        Raises: ValueError where the rows are not those of the first pass, or a file has changed.
        """
        largest = self.range[:2].abs().amax(0)
        along = torch.linspace(1.0, 2.0, len(largest), dtype=torch.float64)
        along = along / torch.where(largest > 0, largest, 1.0)
        total, end = np.zeros(len(SUMS)), 0
        last = _Sums(0, total, total)  # at the last end that both passes have
        for end, sums, result in self.stream.read(function, along, skip, clusters):
            total = total + sums
            if end in self.sums:
                at = _Sums(end, total, np.array(self.sums[end]))
                self._compare(last, at)
                last = at
            elif self.length is None and end > next(reversed(self.sums), 0):
                self._keep(end, total)
            elif self.length is not None and end > self.length:
                raise self._other_length(f"more than {self.length}")
            if end > skip:
                yield end, result  # type: ignore[misc]  # what is skipped alone has none
        self._close(end)

    def _keep(self, end: int, total: np.ndarray) -> None:
        self.sums[end] = total.tolist()
        if len(self.sums) > _MOST:
            for old in list(self.sums)[-2::-2]:
                del self.sums[old]

    def _compare(self, last: _Sums, at: _Sums) -> None:
        """Raise ValueError where the rows in between have other sums, beyond rounding."""
        with np.errstate(all="ignore"):  # sums that overflow do so in every pass
            now, first = at.now - last.now, at.first - last.first
            n, _, _, tt, _, _, ss, _ = np.maximum(now, first)
            products = [tt, (n * ss) ** 0.5, (tt * ss) ** 0.5, ss]
            scale = np.array([0.0, 0.0, now[2], *products, now[7]])
            wrong = np.abs(now - first) > self.rounding * scale + 1e-14 * np.abs(at.now)
        # the clusters' sum is NaN where they do not matter
        wrong[:7] |= np.isfinite(now[:7]) != np.isfinite(first[:7])
        if wrong.any():
            raise ValueError(
                f"expected the rows of {self.before} again, got other {SUMS[int(wrong.argmax())]} "
                f"in rows {last.end} to {at.end - 1}"
            )

    def _close(self, end: int) -> None:
        if end < (max(self.sums, default=0) if self.length is None else self.length):
            raise self._other_length(str(end))
        changed = sorted(set(self.files) ^ set(stamps(self.stream.data)))
        if changed:
            raise ValueError(
                f"expected files that stay as they are during a fit, got changes in {changed[0][0]}"
            )
        self.length, self.checked = end, True

    def _other_length(self, got: str) -> ValueError:
        return ValueError(
            f"expected the {self.length or max(self.sums)} rows of {self.before} again, got {got}; "
            f"data are read several times, and must start anew each time"
        )
