"""Does a finite maximum exist? A certificate that costs one pass over the rows.

Along a line, the third derivative of a row's log-likelihood is at most |range of the change of its scores| times
the second (true of softmax, Bernoulli, Poisson and negative binomial responses with linear scores). If every row's
range is at most R for a direction of unit length in the norm of the information, and the Newton decrement is
nu = sqrt(g' I^-1 g), then nu R <= 1/2 proves that a unique maximum exists, near by (Bach 2010, "Self-concordant
analysis for logistic regression", proposition 2). Where the classes are separated the likelihood rises for ever, and
no point passes, however small the decrement.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nll.likelihood.blocks import blocks
from nll.likelihood.optimise import Optimum

# Where another step would gain less than this and yet no maximum is near, the likelihood has flattened on its way up.
_NEARLY_FLAT = 1e-4


def certified(decrement: float, covariance: Tensor, x: Tensor, scores: int) -> bool:
    """Return whether the point proves that a finite maximum exists.

    Args:
        decrement: g' I^-1 g / 2 at the point.
        covariance: (scores * p, scores * p), the inverse of the information there.
        x: (n, p), the columns.
        scores: how many linear scores a row has besides the baseline's 0.
    """
    if bool(covariance.isnan().any()):
        return False
    nu = (2 * max(decrement, 0.0)) ** 0.5
    return nu * _largest_range(covariance, x, scores) <= 0.5


def verdict(found: Optimum, exists: bool, direction: str, unit: float = 1.0) -> str:
    """Say how a search ended: converged, stopped, or rising for ever along `direction`."""
    if found.reached and exists:
        return "converged: a finite maximum exists, and the Newton steps reached it"
    if found.decrement <= _NEARLY_FLAT * unit and not exists:
        return f"no finite estimate: the likelihood keeps rising along a direction {direction}"
    return found.status


def _largest_range(covariance: Tensor, x: Tensor, scores: int) -> float:
    """Bound, over rows and unit directions v, of max_k x'v_k - min_k x'v_k: twice the largest sqrt(x' V_kk x)."""
    p = x.shape[1]
    parts = covariance.reshape(scores, p, scores, p)
    largest = 0.0
    for rows in blocks(len(x), p):
        for k in range(scores):
            reach = ((x[rows] @ parts[k, :, k, :]) * x[rows]).sum(1).max()
            largest = max(largest, float(reach))
    return (1.0 if scores == 1 else 2.0) * largest**0.5


def null_direction(x: Tensor) -> Tensor | None:
    """Return weights of the columns that add to zero in every row, if there are any; the largest is near 1."""
    r = torch.linalg.qr(x, mode="r").R
    lengths = r.square().sum(0).sqrt()
    _, sizes, directions = torch.linalg.svd(r / lengths)
    if len(sizes) == x.shape[1] and float(sizes[-1]) > 1e-10 * float(sizes[0]):
        return None
    direction = directions[-1] / lengths
    return torch.where(directions[-1].abs() < 1e-6, 0.0, direction)
