"""The linear programme that finds a direction of separation (Konis 2007)."""

from __future__ import annotations

from typing import Any

import numpy as np

ZERO = 1e-9  # a margin that is 0, for columns and directions of at most 1
_EXACT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


def separating_direction(margins: Any) -> np.ndarray | None:
    """Maximise the sum of the margins, none of them negative, over directions of at most 1.

    Args:
        margins: (n, p) sparse, by how much the predictor of what was observed exceeds another.

    Returns: (p); 0 where no direction raises a margin; None where that is not decided.
    """
    from scipy.optimize import linprog

    solved: Any = linprog(
        -np.asarray(margins.sum(0)).ravel(),
        A_ub=-margins,
        b_ub=np.zeros(margins.shape[0]),
        bounds=(-1, 1),
        method="highs",
        options=_EXACT,
    )
    if solved.status != 0:
        return None
    reached = margins @ solved.x
    if reached.max(initial=0.0) <= ZERO:
        return np.zeros_like(solved.x)
    return solved.x if reached.min() >= -ZERO else None
