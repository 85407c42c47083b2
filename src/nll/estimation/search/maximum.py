"""The proof that a search ended at a maximum.

A decrement below the tolerance is none: towards a limit at infinity it falls for ever.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nll.estimation.objective import Objective
from nll.solvers.matrices import inverse as inverse_of
from nll.solvers.outcome import Optima, Optimum

MOST_PROFILED = 64  # free numbers beyond which no profile is followed
DOUBTFUL = 3.0  # an error of the logarithm of a parameter, or of a parameter in units of its size
_UNKNOWN = 30.0  # an error of such a number at which its value is unknown
_REMOTE = 25.0  # of the logarithm of a parameter: what lies beyond may be computed without digits
_LIKE = 2.0  # times as much, or as little, as a parabola falls
_NOISE = 1e-9  # of the log-likelihood, for each observation and unit of it


def noise(objective: Objective, value: float) -> float:
    """A difference between two log-likelihoods that may be rounding."""
    return _NOISE * (float(objective.unit[0]) + abs(value))


def is_maximum(objective: Objective, top: Optimum) -> bool:
    """Whether it is proved that a search ended at a maximum, by its last steps or by what lies one
    error away.
    """
    if not top.reached:
        return False
    if len(top.theta) > MOST_PROFILED:
        return top.proved
    check, inverse = falls if top.proved else curved, inverse_of(top.sums.information)
    return bool(check(objective, top.theta[None], inverse[None])[0])


def curved(objective: Objective, theta: Tensor, inverse: Tensor) -> Tensor:
    """Whether the likelihoods of (B) data sets fall like parabolas along each column of the
    covariance.

    One standard error away a parabola has fallen by 1/2, half of it away by 1/8.

    Args:
        objective: of one data set or of B.
        theta: (B, P), where the score is nearly 0.
        inverse: (B, P, P), the inverse information there.
    """
    errors = inverse.diagonal(dim1=1, dim2=2).sqrt()
    fine = (errors.isfinite() & ((errors < _UNKNOWN) | objective.layout.unbounded)).all(1)
    here = objective.log_likelihood(theta)
    for p in range(theta.shape[1]):
        step = torch.where(fine[:, None], inverse[:, :, p] / errors[:, p, None], 0.0)
        for size in (-1.0, 1.0, -0.5, 0.5):
            fall = (here - objective.log_likelihood(theta + size * step)) / (size * size / 2)
            fine &= (fall > 1 / _LIKE) & (fall < _LIKE)
    return fine


def falls(objective: Objective, theta: Tensor, inverse: Tensor) -> Tensor:
    """Whether the likelihoods of (B) data sets fall at all on both sides, along each column of the
    covariance.

    Only doubtful numbers are checked: those with a large standard error, and those so far out that
    their curvature may be rounding. In the other directions the steps have proved a maximum; a
    number that diverged before has hardly any curvature, but neither does the likelihood fall on
    the way to its limit.
    """
    errors = inverse.diagonal(dim1=1, dim2=2).sqrt()
    most = torch.where(objective.layout.unbounded, DOUBTFUL * theta.abs(), DOUBTFUL)
    remote = ~objective.layout.unbounded & (theta.abs() > _REMOTE)
    fine, doubtful = errors.isfinite().all(1), ~(errors < most) | remote
    if not bool(doubtful.any()):
        return fine
    here = objective.log_likelihood(theta)
    least = 10 * _NOISE * (objective.unit + here.abs())
    share = torch.where(objective.layout.unbounded, 1.0, (DOUBTFUL / errors).clamp(max=1.0))
    for p in doubtful.any(0).nonzero()[:, 0].tolist():
        along = inverse[:, :, p] / errors[:, p, None]
        alone = errors[:, p, None] * (torch.arange(theta.shape[1]) == p)
        step = torch.where(remote[:, p, None], alone, along) * share[:, p, None]
        step = torch.where(fine[:, None], step, 0.0)
        for side in (-1.0, 1.0):
            fall = here - objective.log_likelihood(theta + side * step)
            fine &= (fall > least) | ~doubtful[:, p]
    return fine


def ended(optima: Optima, objective: Objective) -> Tensor:
    """Which of several searches ended at a maximum inside: (B)."""
    factor, failed = torch.linalg.cholesky_ex(optima.sums.information)
    reached = optima.reached & (failed == 0)
    unknown = torch.eye(factor.shape[-1], dtype=factor.dtype).mul(torch.inf)
    factor[~reached] = torch.eye(factor.shape[-1], dtype=factor.dtype)
    inverse = torch.where(reached[:, None, None], torch.cholesky_inverse(factor), unknown)
    proved = reached & optima.proved
    if bool(proved.any()):
        proved &= falls(objective, optima.theta, inverse)
    doubtful = reached & ~optima.proved
    return (
        proved | (doubtful & curved(objective, optima.theta, inverse))
        if bool(doubtful.any())
        else proved
    )
