"""Rows in blocks: sums over rows add, so that a block at a time gives the answer of all at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

# A block's widest temporary fits in the cache of one core.
_BLOCK_BYTES = 1 << 20
_READ_BYTES = 1 << 24  # of the numbers that are read at once

S = TypeVar("S")
T = TypeVar("T")


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Yield slices that cover `rows`; `width`: the float64 numbers that a row needs, at most."""
    size = max(64, _BLOCK_BYTES // (8 * max(width, 1)))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def height_of(rows: int | None, width: int) -> int:
    """Return the number of rows to read at once, with so many columns; `rows`: as the user sets."""
    return rows or max(1, _READ_BYTES // (8 * max(width, 1)))


def in_order(function: Callable[[S], T], items: Iterable[S], lanes: int) -> Iterator[T]:
    """Yield the function's result for each item, in order, with so many threads."""
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(lanes) as others:
        for item in items:
            if len(waiting) == lanes:
                yield waiting.popleft().result()
            waiting.append(others.submit(function, item))
            del item  # it may be large
        while waiting:
            yield waiting.popleft().result()


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield the items, each made by another thread while the one before is used."""
    end = object()
    with ThreadPoolExecutor(1) as other:
        coming = other.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = other.submit(next, items, end)
            yield item  # type: ignore[misc]
