"""Rows in blocks: sums over rows add, so that a block at a time gives the answer of all at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

# A block's widest temporary fits in the cache of one core.
_BLOCK_BYTES = 1 << 20

S = TypeVar("S")
T = TypeVar("T")


def blocks(rows: int, width: int) -> Iterator[slice]:
    """Yield slices that cover `rows`; `width` is how many float64 numbers a row needs at the
    most.
    """
    size = max(64, _BLOCK_BYTES // (8 * max(width, 1)))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def in_order(function: Callable[[S], T], items: Iterable[S], lanes: int) -> Iterator[T]:
    """What a function makes of each item, in the items' order; so many are worked on side by
    side.
    """
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
    """The same items, each made by another thread while the one before is used."""
    end = object()
    with ThreadPoolExecutor(1) as other:
        coming = other.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = other.submit(next, items, end)
            yield item  # type: ignore[misc]
