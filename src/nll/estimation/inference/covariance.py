"""The covariance of an estimate from its information."""

from __future__ import annotations

import torch
from torch import Tensor

KINDS = ("observed", "expected", "opg", "sandwich")


def inverse(information: Tensor, overwrite: bool = False) -> Tensor:
    """Invert a symmetric information matrix; NaN throughout where it is not positive definite.

    It is scaled to a unit diagonal first, so that the units of the columns do not matter.
        `overwrite`: in its memory.
    """
    diagonal = information.diagonal()
    if not bool((torch.isfinite(diagonal) & (diagonal > 0)).all()):
        return torch.full_like(information, torch.nan)
    unit = diagonal.rsqrt()
    scaled = (information.mul_(unit) if overwrite else information * unit).mul_(unit[:, None])
    # column after column, as LAPACK has it, so that all of it happens in one place
    factor = scaled.mT
    failed = torch.zeros((), dtype=torch.int32)
    torch.linalg.cholesky_ex(factor, out=(factor, failed))
    # The square of a pivot is the share of a parameter's information that the others leave it; what
    # is not finite in its row has reached it.
    pivots = factor.diagonal()
    singular = bool((pivots.square() < 4 * len(unit) * torch.finfo(torch.float64).eps).any())
    if int(failed) or singular or not bool(torch.isfinite(pivots).all()):
        return torch.full_like(information, torch.nan)
    torch.cholesky_inverse(factor, out=factor)
    return scaled.mul_(unit).mul_(unit[:, None])


def transformed(covariance: Tensor, jacobian: Tensor) -> Tensor:
    """J V J': the covariance of a function of the parameters, to first order (the delta method)."""
    return _known(jacobian @ covariance @ jacobian.mT)


def _known(found: Tensor) -> Tensor:
    # beyond the numbers of float64: unknown, not certain
    lost = (found.diagonal() == 0) | found.diagonal().isinf()
    return found.masked_fill(lost | lost[:, None], torch.nan) if bool(lost.any()) else found


def transformed_by_block(covariance: Tensor, jacobian: Tensor) -> Tensor:
    """The same, for a function that acts on each of several parts of the parameters (m p) alike: J
    is (p, p).

    It is done in the memory of the covariance, which may be large.
    """
    p = len(jacobian)
    for part in covariance.split(p):
        part.copy_(((jacobian @ part).reshape(-1, p) @ jacobian.T).view(part.shape))
    return _known(covariance)


def meat(scores: Tensor, weights: Tensor, kind: str, clusters: Tensor | None = None) -> Tensor:
    """The covariance of the total score, as its terms show it.

    A row with the frequency w is w rows: sum w s s'. A row with the sampling or importance weight w
        is one row with the
    score w s: sum (w s)(w s)' (White 1982). Of clusters the scores add up first; G clusters vary
    around a total of 0, hence the factor G / (G - 1).

    Args:
        scores: (n, P), of each row, unweighted.
        weights: (n).
        kind: "frequency", "sampling" or "importance".
        clusters: (n), the number of each row's cluster, from 0.
    """
    weighted = weights[:, None] * scores
    if clusters is not None:
        count = int(clusters.max()) + 1
        total = torch.zeros(count, scores.shape[1], dtype=scores.dtype).index_add_(
            0, clusters, weighted
        )
        return total.T @ total * (count / (count - 1))
    return weighted.T @ (scores if kind == "frequency" else weighted)


def sandwich(inverse_information: Tensor, meat: Tensor) -> Tensor:
    """I^-1 M I^-1: the covariance of an estimate whose model may be wrong (Huber 1967)."""
    return inverse_information @ meat @ inverse_information
