"""Combinations of parameters in which every two values meet."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any


def pairs(*axes: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Combinations in which every two values of two axes meet, the fewest that greed finds."""
    rows = list(product(*(range(len(list(axis))) for axis in axes)))
    meetings = {row: set(combinations(enumerate(row), 2)) for row in rows}
    left, taken = set().union(*meetings.values()), []
    while left:
        taken.append(max(rows, key=lambda row: len(meetings[row] & left)))
        left -= meetings[taken[-1]]
    values = [list(axis) for axis in axes]
    return [tuple(of[i] for of, i in zip(values, row, strict=True)) for row in sorted(taken)]
