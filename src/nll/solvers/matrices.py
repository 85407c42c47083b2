"""Inverses of information matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def inverse(information: Tensor, overwrite: bool = False) -> Tensor:
    """Invert a symmetric information matrix; NaN throughout if it is not positive definite.

    It is scaled to a unit diagonal first, so that the units of the columns do not matter.
    `overwrite` computes the inverse in the memory of the argument.
    """
    diagonal = information.diagonal()
    if not bool((torch.isfinite(diagonal) & (diagonal > 0)).all()):
        return torch.full_like(information, torch.nan)
    unit = diagonal.rsqrt()
    scaled = (information.mul_(unit) if overwrite else information * unit).mul_(unit[:, None])
    # column-major, as LAPACK expects, so that everything happens in place
    factor = scaled.mT
    failed = torch.zeros((), dtype=torch.int32)
    torch.linalg.cholesky_ex(factor, out=(factor, failed))
    # The square of a pivot is the share of a parameter's information that the others leave it; a
    # value that is not finite in its row has reached it.
    pivots = factor.diagonal()
    singular = bool((pivots.square() < 4 * len(unit) * torch.finfo(torch.float64).eps).any())
    if int(failed) or singular or not bool(torch.isfinite(pivots).all()):
        return torch.full_like(information, torch.nan)
    torch.cholesky_inverse(factor, out=factor)
    return scaled.mul_(unit).mul_(unit[:, None])
