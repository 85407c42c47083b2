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
    if int(failed) or not bool(torch.isfinite(factor).all()):
        return torch.full_like(information, torch.nan)
    return unit[:, None] * torch.cholesky_inverse(factor) * unit


def transformed(covariance: Tensor, jacobian: Tensor) -> Tensor:
    """J V J': the covariance of a function of the parameters, to first order (the delta method)."""
    return jacobian @ covariance @ jacobian.mT
