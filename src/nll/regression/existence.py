"""Does a finite maximum exist? A certificate that costs one pass over the rows.

Along a line, the third derivative of a row's log-likelihood is at most |range of the change of its
linear predictors| times the second (true of softmax, Bernoulli, Poisson and negative binomial
responses). If every row's range is at most R for a direction of unit length in the norm of the
information, and the Newton decrement is nu = sqrt(g' I^-1 g), then nu R <= 1/2 proves that a unique
maximum exists, near by (Bach 2010, "Self-concordant analysis for logistic regression", proposition
2). Where the classes are separated the likelihood rises for ever, and no point passes, however
small the decrement.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nll.solvers.outcome import Optimum, Status

if TYPE_CHECKING:
    from nll.regression.design_matrix import SolverColumns

# Where another step would gain less than this and yet no maximum is near, the likelihood has
# flattened on its way up.
_NEARLY_FLAT = 1e-4


def certified(
    decrement: float, covariance: Tensor, columns: SolverColumns, predictors: int
) -> bool:
    """Return whether the point proves that a finite maximum exists.

    Args:
        decrement: g' I^-1 g / 2 at the point.
        covariance: (predictors * p, predictors * p), the inverse of the information there.
        columns: of the solver.
        predictors: linear predictors of a row besides the baseline's 0.
    """
    if bool(covariance.isnan().any()):
        return False
    eigenvalues = [
        torch.linalg.eigvalsh(block) for block in _diagonal_blocks(covariance, predictors)
    ]
    largest = max(float(values[-1]) for values in eigenvalues)
    if certified_by_bound(decrement, largest, columns, predictors):
        return True
    nu = math.sqrt(2 * max(decrement, 0.0))
    return nu * largest_range(covariance, columns, predictors) <= 0.5


def certified_by_bound(
    decrement: float, largest: float, columns: SolverColumns, predictors: int
) -> bool:
    """The same without a look at the rows: x' V x <= |x|^2 times V's largest eigenvalue."""
    nu = math.sqrt(2 * max(decrement, 0.0))
    return nu * _moving(predictors) * math.sqrt(largest) * columns.max_norm <= 0.5


def largest_range(covariance: Tensor, columns: SolverColumns, predictors: int) -> float:
    """Bound how far a unit direction moves two predictors of a row apart: by sqrt(x' V x) each."""
    largest = 0.0
    for x in columns.parts():
        for block in _diagonal_blocks(covariance, predictors):
            largest = max(largest, float(((x @ block) * x).sum(1).max()))
    return _moving(predictors) * math.sqrt(largest)


def _moving(predictors: int) -> float:
    return 1.0 if predictors == 1 else 2.0  # two classes may move apart


def _diagonal_blocks(covariance: Tensor, predictors: int) -> list[Tensor]:
    p = len(covariance) // predictors
    return [covariance[at : at + p, at : at + p] for at in range(0, len(covariance), p)]


def outcome(optimum: Optimum, exists: bool, unit: float = 1.0) -> Status:
    """Return how a search ended; `exists`: whether a finite maximum is known to exist."""
    if optimum.reached and exists:
        return Status.CONVERGED
    if optimum.decrement <= _NEARLY_FLAT * unit and not exists:
        return Status.SEPARATED
    return Status.MAX_STEPS if math.isfinite(optimum.decrement) else Status.NOT_FINITE


def verdict(optimum: Optimum, exists: bool, direction: str, unit: float = 1.0) -> str:
    """Say how a search ended: converged, stopped, or rising for ever along `direction`."""
    status = outcome(optimum, exists, unit)
    if status is Status.CONVERGED:
        return "converged: a finite maximum exists, and the Newton steps reached it"
    if status is Status.SEPARATED:
        return f"no finite estimate: the likelihood keeps rising along a direction {direction}"
    return optimum.status
