"""The covariance of a softmax regression whose model may be wrong: I^-1 M I^-1 (Huber 1967, White 1982).

M is the outer product of the rows' scores or, of rows that are not independent, of their sums in each cluster (Liang
and Zeger 1986). HC1 multiplies with n / (n - number of coefficients), clusters with G / (G - 1).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nll.likelihood import covariance as cov
from nll.likelihood.blocks import blocks
from nll.regression.softmax_likelihood import InMemory, SoftmaxLikelihood

KINDS = ("observed", "sandwich", "hc1")


class Wish(NamedTuple):
    """Which covariance was asked for."""

    kind: str = "observed"  # one of KINDS
    weights: str = "frequency"  # or "sampling": the scores have the weights as factors
    clusters: Tensor | None = None  # (n), the number of each row's cluster, from 0

    @property
    def plain(self) -> bool:
        """Whether the information alone tells it."""
        return self.kind == "observed" and self.weights == "frequency" and self.clusters is None


def sandwich(problem: SoftmaxLikelihood, theta: Tensor, inverse: Tensor, wish: Wish) -> tuple[Tensor, str]:
    """The covariance for coefficients of the search's columns, and its name."""
    if wish.clusters is not None:
        assert isinstance(problem, InMemory)
        total = _by_cluster(problem, theta, wish.clusters)
        count = len(total)
        return cov.sandwich(inverse, total.T @ total * (count / (count - 1))), f"sandwich, {count} clusters"
    meat = problem.outer_product(theta, weighted=wish.weights == "sampling")
    found = cov.sandwich(inverse, meat)
    if wish.kind != "hc1":
        return found, "sandwich (HC0)"
    n = problem.length if wish.weights == "sampling" else float(problem.counts.sum())
    factor = n / (n - problem.size) if n > problem.size else torch.nan
    return found * factor, "sandwich (HC1)"


def _by_cluster(problem: InMemory, theta: Tensor, clusters: Tensor) -> Tensor:
    """The sum of the scores in each cluster, (G, (K - 1) p)."""
    total = torch.zeros(int(clusters.max()) + 1, problem.size, dtype=torch.float64)
    for rows in blocks(len(clusters), problem.size):
        residual = (
            problem.weights[rows, None] * (problem.seen(rows, theta) - problem.scores(rows, theta).softmax(1))[:, 1:]
        )
        scores = residual[:, :, None] * problem.columns.block(rows)[:, None, :]
        total.index_add_(0, clusters[rows], scores.reshape(len(residual), -1))
    return total
