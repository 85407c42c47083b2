"""Combinations of parameters: those in which every two values meet, or each by turns."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any

import pytest


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


def by_turns(*axes: Iterable[Any]) -> list[Any]:
    """Every combination; without the slow tests each of the first axes meets one of the last."""
    values = [list(axis) for axis in axes]
    rows = product(*(range(len(of)) for of in values))
    return [
        pytest.param(
            *(of[i] for of, i in zip(values, row, strict=True)),
            marks=[] if sum(row) % len(values[-1]) == 0 else pytest.mark.slow,
        )
        for row in rows
    ]
