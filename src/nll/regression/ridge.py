"""The maximum of a likelihood with a ridge penalty where columns are constant or collinear.

Along the directions U that the information I leaves flat the penalty alone decides: the maximum has
U'P theta = 0, however small alpha is. With R across them, I = R L R' and W = R - U (U'P U)^-1 U'P
R,

    (I + alpha P)^-1 = W S^-1 W' + U (alpha U'P U)^-1 U'        S = L + alpha R'P W

and only the first term meets what has no part along U, such as the rows' scores.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

_FLAT = 1e-13  # an eigenvalue of the information, in units of the diagonal, that is rounding
# the information of a column that is constant up to rounding, to that of the others
_NOTHING = 1e-24


def require_alpha(alpha: Any) -> None:
    """Raise for a penalty that is no finite number of at least 0."""
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float, np.number)):
        raise TypeError(f"expected alpha to be a number, got {type(alpha).__name__}")
    if not 0.0 <= alpha < math.inf:
        raise ValueError(f"expected a finite alpha of at least 0, got {alpha}")


def settled(
    theta: Tensor, information: Tensor, quadratic: Tensor, alpha: float
) -> tuple[Tensor, Tensor]:
    """The maximum near the end of a search, and W S^-1 W'; NaN where the penalty leaves a direction
    flat too.

    Args:
        theta: (P).
        information: (P, P), without the penalty.
        quadratic: (P, P), that of the penalty alpha / 2 * theta' P theta.
        alpha: above 0.
    """
    diagonal = information.diagonal()
    unit = torch.where(diagonal > _NOTHING * diagonal.max(), diagonal.abs(), 1.0).rsqrt()
    values, vectors = torch.linalg.eigh(unit[:, None] * information * unit)
    penalty, flat = unit[:, None] * quadratic * unit, values <= _FLAT
    across, along = vectors[:, ~flat], vectors[:, flat]
    if along.shape[1]:
        within, failed = torch.linalg.cholesky_ex(along.T @ penalty @ along)
        if int(failed):
            return theta, torch.full_like(information, torch.nan)
        slope = along.T @ penalty @ (theta / unit)
        theta = theta - unit * (along @ torch.cholesky_solve(slope[:, None], within)[:, 0])
        across = across - along @ torch.cholesky_solve(along.T @ penalty @ across, within)
    curvature = torch.diag(values[~flat]) + alpha * vectors[:, ~flat].T @ penalty @ across
    factor, failed = torch.linalg.cholesky_ex(curvature)
    if int(failed):
        return theta, torch.full_like(information, torch.nan)
    half = torch.linalg.solve_triangular(factor, across.T, upper=False)
    return theta, unit[:, None] * (half.T @ half) * unit
