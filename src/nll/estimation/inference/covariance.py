"""Covariances of an estimate, from its information and the scores of the rows."""

from __future__ import annotations

import torch
from torch import Tensor

from nll.solvers.matrices import inverse as inverse


def transformed(covariance: Tensor, jacobian: Tensor) -> Tensor:
    """J V J': the covariance of a function of the parameters, to first order (the delta method)."""
    return _representable(jacobian @ covariance @ jacobian.mT)


def transformed_by_block(covariance: Tensor, jacobian: Tensor) -> Tensor:
    """The same for a function that acts alike on each of m blocks of p parameters: J is (p, p).

    It overwrites the covariance, which may be large.
    """
    p = len(jacobian)
    for rows in covariance.split(p):
        rows.copy_(((jacobian @ rows).reshape(-1, p) @ jacobian.T).view(rows.shape))
    return _representable(covariance)


def _representable(covariance: Tensor) -> Tensor:
    # beyond the numbers of float64: unknown, not certain
    lost = (covariance.diagonal() == 0) | covariance.diagonal().isinf()
    return (
        covariance.masked_fill(lost | lost[:, None], torch.nan) if bool(lost.any()) else covariance
    )


def meat(scores: Tensor, weights: Tensor, kind: str, clusters: Tensor | None = None) -> Tensor:
    """Estimate the covariance of the total score from its terms.

    A row with the frequency w is w rows: sum w s s'. A row with the sampling or importance weight w
    is one row with the score w s: sum (w s)(w s)' (White 1982). Within clusters the scores add up
    first.

    Args:
        scores: (n, P), of each row, unweighted.
        weights: (n).
        kind: "frequency", "sampling" or "importance".
        clusters: (n), the number of each row's cluster, from 0.
    """
    weighted = weights[:, None] * scores
    if clusters is not None:
        totals = scores.new_zeros(int(clusters.max()) + 1, scores.shape[1])
        return by_cluster(totals.index_add_(0, clusters, weighted))
    return weighted.T @ (scores if kind == "frequency" else weighted)


def by_cluster(totals: Tensor) -> Tensor:
    """Return the meat from the total scores (G, P) of the clusters, which vary around a sum of 0:
    hence the factor G / (G - 1).
    """
    count = len(totals)
    return totals.T @ totals * (count / (count - 1))


def sandwich(inverse_information: Tensor, meat: Tensor) -> Tensor:
    """I^-1 M I^-1: the covariance of an estimate whose model may be wrong (Huber 1967)."""
    return inverse_information @ meat @ inverse_information
