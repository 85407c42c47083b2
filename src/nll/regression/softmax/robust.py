"""The covariance of a softmax regression: the inverse information, or the sandwich I^-1 M I^-1 for
models that may be wrong (Huber 1967, White 1982).

M is the outer product of the rows' scores or, for rows that are not independent, of their sums in
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
    """Which covariance the user wants."""

    kind: str = "observed"  # one of KINDS
    weights: str = "frequency"  # or another kind: the scores have the weights as factors
    # (n), the number of each row's cluster, from 0; or a stream's column
    clusters: Tensor | str | None = None

    @property
    def plain(self) -> bool:
        """Whether the inverse information is wanted."""
        return self.kind == "observed" and self.weights == "frequency" and self.clusters is None


def covariance(
    objective: SoftmaxLikelihood, theta: Tensor, inverse: Tensor, options: CovarianceOptions
) -> tuple[Tensor, str]:
    """Return the covariance of coefficients of the solver's columns, and its name."""
    kind, weights, clusters = options
    if clusters is not None:
        totals = objective.by_cluster(theta, clusters)
        count = len(totals)
        if count < 2:
            raise ValueError("expected at least two clusters, got one")
        meat = totals.T @ totals * (count / (count - 1))
        return cov.sandwich(inverse, meat), f"sandwich, {count} clusters"
    if kind == "observed" and weights == "frequency":
        if objective.alpha:  # of the penalised estimate: H^-1 I H^-1 with H = I + penalty
            inverse = cov.sandwich(inverse, objective.squares(theta, "information"))
        return inverse, objective.information_name
    meat = objective.squares(theta, "scores" if weights == "frequency" else "weighted scores")
    if kind != "hc1":
        return cov.sandwich(inverse, meat), "sandwich (HC0)"
    n = float(objective.counts.sum())
    factor = n / (n - objective.size) if n > objective.size else torch.nan
    return cov.sandwich(inverse, meat) * factor, "sandwich (HC1)"
