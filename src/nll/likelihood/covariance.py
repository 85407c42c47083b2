"""The covariance of an estimate from its information."""

from __future__ import annotations

import torch
from torch import Tensor


def inverse(information: Tensor) -> Tensor:
    """Invert a symmetric information matrix; NaN throughout where it is not positive definite.

    It is scaled to a unit diagonal first, so that the units of the columns do not matter.
    """
    diagonal = information.diagonal()
    if not bool((torch.isfinite(diagonal) & (diagonal > 0)).all()):
        return torch.full_like(information, torch.nan)
    unit = diagonal.rsqrt()
    factor, failed = torch.linalg.cholesky_ex(unit[:, None] * information * unit)
    # The square of a pivot is the share of a parameter's information that the others leave it.
    singular = bool((factor.diagonal().square() < 4 * len(unit) * torch.finfo(torch.float64).eps).any())
    if int(failed) or singular or not bool(torch.isfinite(factor).all()):
        return torch.full_like(information, torch.nan)
    return unit[:, None] * torch.cholesky_inverse(factor) * unit


def transformed(covariance: Tensor, jacobian: Tensor) -> Tensor:
    """J V J': the covariance of a function of the parameters, to first order (the delta method)."""
    found = jacobian @ covariance @ jacobian.mT
    lost = (found.diagonal() == 0) | found.diagonal().isinf()  # beyond the numbers of float64: unknown, not certain
    return found.masked_fill(lost | lost[:, None], torch.nan)
