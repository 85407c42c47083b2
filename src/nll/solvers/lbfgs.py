"""The first part of a long search, from values and gradients alone.

Limited-memory BFGS (Nocedal and Wright 2006, algorithm 7.5), in coordinates where the information
is near 1, learns the rest of the curvature from its steps. Newton's method, which knows it, then
ends the search or shows that it has not ended.
"""

from __future__ import annotations

from collections import deque

from torch import Tensor

from nll.solvers.newton_cg import Value
from nll.solvers.outcome import Progress

_MEMORY = 12  # steps
_MOST_STEPS, _MOST_SHRINKS = 80, 10
_FAR_BELOW = 0.1
# of the gain that the gradient promises (Nocedal and Wright 2006, section 3.1)
_SUFFICIENT_GAIN = 1e-4


def climb(
    value: Value, start: Tensor, enough: float, unit: float = 1.0, progress: Progress | None = None
) -> Tensor:
    """Raise a function until a step is expected to add no more than `enough`, in units.

    Where the expected gains fall so fast that the next is far below, its step is the last and its
    value is not asked.
    """
    theta, (here, gradient), before = start, value(start), 0.0
    history: deque[tuple[Tensor, Tensor]] = deque(maxlen=_MEMORY)
    for step in range(_MOST_STEPS):
        direction = _times_inverse(gradient, history)
        expected = float(gradient @ direction) / 2
        if progress is not None:
            progress(step, float(here), expected)
        if not expected > enough * unit:
            break
        if expected * expected < _FAR_BELOW * enough * unit * before:
            return theta + direction
        slack = 1e-12 * (unit + abs(float(here)))
        for _ in range(_MOST_SHRINKS):
            there, gradient_there = value(theta + direction)
            sufficient = _SUFFICIENT_GAIN * float(gradient @ direction) - slack
            if float(there - here) >= sufficient and bool(gradient_there.isfinite().all()):
                break
            direction = direction / 4
        else:
            break
        if float(direction @ (gradient - gradient_there)) > 0:
            history.append((direction, gradient - gradient_there))
        theta, here, gradient, before = theta + direction, there, gradient_there, expected
    return theta


def _times_inverse(gradient: Tensor, history: deque[tuple[Tensor, Tensor]]) -> Tensor:
    """The gradient times the inverse curvature of the past steps (Nocedal and Wright 2006,
    algorithm 7.4).
    """
    direction, shares = gradient.clone(), []
    for step, change in reversed(history):
        shares.append((step @ direction) / (step @ change))
        direction -= shares[-1] * change
    if history:
        step, change = history[-1]
        direction *= (step @ change) / (change @ change)
    for (step, change), share in zip(history, reversed(shares), strict=True):
        direction += (share - (change @ direction) / (step @ change)) * step
    return direction
