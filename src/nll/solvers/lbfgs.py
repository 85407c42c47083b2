"""The first part of a long search: uphill by values and slopes alone, in coordinates where the
information is near 1.

Limited-memory BFGS (Nocedal and Wright 2006, algorithm 7.5) learns what is left of the curvature
from its steps. Newton's method, which knows it, then ends the search or says that it has not ended.
"""

from __future__ import annotations

from collections import deque

from torch import Tensor

from nll.solvers.newton_cg import Value
from nll.solvers.trust_region import Progress

_REMEMBERED = 12  # steps
_MOST_STEPS, _MOST_SHRINKS = 80, 10
_FAR_BELOW = 0.1
_ENOUGH_GAIN = 1e-4  # of what the slope promises (Nocedal and Wright 2006, section 3.1)


def climb(
    value: Value, start: Tensor, enough: float, unit: float = 1.0, progress: Progress | None = None
) -> Tensor:
    """Raise a function, given its value and slope, until a step is expected to add no more than
    `enough`, in units.

    Where the expected gains fall so fast that the next is far below, its step is the last and its
    value is not asked.
    """
    theta, (here, slope), before = start, value(start), 0.0
    known: deque[tuple[Tensor, Tensor]] = deque(maxlen=_REMEMBERED)
    for step in range(_MOST_STEPS):
        direction = _times_inverse(slope, known)
        expected = float(slope @ direction) / 2
        if progress is not None:
            progress(step, float(here), expected)
        if not expected > enough * unit:
            break
        if expected * expected < _FAR_BELOW * enough * unit * before:
            return theta + direction
        slack = 1e-12 * (unit + abs(float(here)))
        for _ in range(_MOST_SHRINKS):
            there, new = value(theta + direction)
            if float(there - here) >= _ENOUGH_GAIN * float(slope @ direction) - slack and bool(
                new.isfinite().all()
            ):
                break
            direction = direction / 4
        else:
            break
        if float(direction @ (slope - new)) > 0:
            known.append((direction, slope - new))
        theta, here, slope, before = theta + direction, there, new, expected
    return theta


def _times_inverse(slope: Tensor, known: deque[tuple[Tensor, Tensor]]) -> Tensor:
    """The inverse curvature that the steps tell, times the slope (Nocedal and Wright 2006,
    algorithm 7.4).
    """
    found, shares = slope.clone(), []
    for step, change in reversed(known):
        shares.append((step @ found) / (step @ change))
        found -= shares[-1] * change
    if known:
        step, change = known[-1]
        found *= (step @ change) / (change @ change)
    for (step, change), share in zip(known, reversed(shares), strict=True):
        found += (share - (change @ found) / (step @ change)) * step
    return found
