"""The covariance of a softmax regression whose model may be wrong: I^-1 M I^-1 (Huber 1967, White
1982).

M is the outer product of the rows' scores or, of rows that are not independent, of their sums in
each cluster (Liang and Zeger 1986). HC1 multiplies with n / (n - number of coefficients), clusters
with G / (G - 1).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nll.estimation.inference import covariance as cov
from nll.regression.softmax.objective import SoftmaxLikelihood

KINDS = ("observed", "sandwich", "hc1")


class CovarianceOptions(NamedTuple):
    """Which covariance was asked for."""

    kind: str = "observed"  # one of KINDS
    weights: str = "frequency"  # or another kind: the scores have the weights as factors
    # (n), the number of each row's cluster, from 0; or a stream's column
    clusters: Tensor | str | None = None

    @property
    def plain(self) -> bool:
        """Whether the information alone tells it."""
        return self.kind == "observed" and self.weights == "frequency" and self.clusters is None


def sandwich(
    problem: SoftmaxLikelihood, theta: Tensor, inverse: Tensor, wish: CovarianceOptions
) -> tuple[Tensor, str]:
    """The covariance for coefficients of the search's columns, and its name."""
    if wish.clusters is not None:
        total = problem.by_cluster(theta, wish.clusters)
        count = len(total)
        if count < 2:
            raise ValueError("expected at least two clusters, got one")
        return cov.sandwich(
            inverse, total.T @ total * (count / (count - 1))
        ), f"sandwich, {count} clusters"
    meat = problem.outer_product(theta, weighted=wish.weights != "frequency")
    found = cov.sandwich(inverse, meat)
    if wish.kind != "hc1":
        return found, "sandwich (HC0)"
    n = float(problem.counts.sum())
    factor = n / (n - problem.size) if n > problem.size else torch.nan
    return found * factor, "sandwich (HC1)"
