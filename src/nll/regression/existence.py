"""Does a finite maximum exist? A certificate that costs one pass over the rows.

Along a line, the third derivative of a row's log-likelihood is at most |range of the change of its
scores| times the second (true of softmax, Bernoulli, Poisson and negative binomial responses with
linear scores). If every row's range is at most R for a direction of unit length in the norm of the
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
    from nll.regression.design_matrix import Frame

# Where another step would gain less than this and yet no maximum is near, the likelihood has
# flattened on its way up.
_NEARLY_FLAT = 1e-4


def certified(decrement: float, covariance: Tensor, columns: Frame, scores: int) -> bool:
    """Return whether the point proves that a finite maximum exists.

    Args:
        decrement: g' I^-1 g / 2 at the point.
        covariance: (scores * p, scores * p), the inverse of the information there.
        columns: of the search.
        scores: how many linear scores a row has besides the baseline's 0.
    """
    if bool(covariance.isnan().any()):
        return False
    longest = max(float(torch.linalg.eigvalsh(part)[-1]) for part in _parts(covariance, scores))
    if certified_by_bound(decrement, longest, columns, scores):
        return True
    return (2 * max(decrement, 0.0)) ** 0.5 * largest_range(covariance, columns, scores) <= 0.5


def certified_by_bound(decrement: float, longest: float, columns: Frame, scores: int) -> bool:
    """The same without a look at the rows: x' V x <= |x|^2 times V's largest eigenvalue,
    `longest`.
    """
    return (2 * max(decrement, 0.0)) ** 0.5 * _apart(scores) * longest**0.5 * columns.reach <= 0.5


def _apart(scores: int) -> float:
    return 1.0 if scores == 1 else 2.0  # two classes may move apart


def verdict(found: Optimum, exists: bool, direction: str, unit: float = 1.0) -> str:
    """Say how a search ended: converged, stopped, or rising for ever along `direction`."""
    if found.reached and exists:
        return "converged: a finite maximum exists, and the Newton steps reached it"
    if found.decrement <= _NEARLY_FLAT * unit and not exists:
        return f"no finite estimate: the likelihood keeps rising along a direction {direction}"
    return found.status


def status_of(optimum: Optimum, exists: bool, unit: float = 1.0) -> Status:
    """Return the value of which `verdict` is the sentence."""
    if optimum.reached and exists:
        return Status.CONVERGED
    if optimum.decrement <= _NEARLY_FLAT * unit and not exists:
        return Status.SEPARATED
    return Status.NOT_FINITE if math.isnan(optimum.decrement) else Status.MAX_STEPS


def largest_range(covariance: Tensor, columns: Frame, scores: int) -> float:
    """A bound on how far a unit direction moves two scores of a row apart: by sqrt(x' V x) each."""
    largest = 0.0
    for x in columns.parts():
        for part in _parts(covariance, scores):
            largest = max(largest, float(((x @ part) * x).sum(1).max()))
    return _apart(scores) * largest**0.5


def _parts(covariance: Tensor, scores: int) -> list[Tensor]:
    """That of each score's coefficients."""
    p = len(covariance) // scores
    return [covariance[k * p : (k + 1) * p, k * p : (k + 1) * p] for k in range(scores)]
