"""The covariance of a regression: the inverse information, or the sandwich I^-1 M I^-1 for models
that may be wrong (Huber 1967, White 1982).

M is the outer product of the rows' scores or, for rows that are not independent, of their sums in
each cluster (Liang and Zeger 1986). HC1 multiplies with n / (n - number of coefficients), clusters
with G / (G - 1).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nll.estimation.inference import covariance as cov
from nll.regression.objective import RegressionLikelihood

KINDS = ("observed", "sandwich", "hc1")


class CovarianceOptions(NamedTuple):
    """Which covariance the user wants."""

    kind: str = "observed"  # one of KINDS
    weights: str = "frequency"  # or another kind: the scores have the weights as factors
    # (n), the number of each row's cluster, from 0; or a stream's column
    clusters: Tensor | str | None = None

    @property
    def weighted(self) -> bool:  # by something else than frequencies
        return self.weights != "frequency"

    @property
    def plain(self) -> bool:
        """Whether the inverse information is wanted."""
        return self.kind == "observed" and not self.weighted and self.clusters is None


def estimate_covariance(
    likelihood: RegressionLikelihood, theta: Tensor, inverse: Tensor, options: CovarianceOptions
) -> tuple[Tensor, str]:
    """Return the covariance of the solver's parameters, and its name; `inverse`: of the
    information, penalty included.
    """
    if options.clusters is not None:
        totals = likelihood.by_cluster(theta, options.clusters)
        count = len(totals)
        if count < 2:
            raise ValueError("expected at least two clusters, got one")
        return cov.sandwich(inverse, cov.by_cluster(totals)), f"sandwich, {count} clusters"
    if options.plain:
        if likelihood.ridge:  # H^-1 I H^-1 with H = I + penalty
            inverse = cov.sandwich(inverse, likelihood.information(theta))
        return inverse, likelihood.information_name
    sandwich = cov.sandwich(inverse, likelihood.meat(theta, options.weights))
    if options.kind != "hc1":
        return sandwich, "sandwich (HC0)"
    n = likelihood.n
    factor = n / (n - len(theta)) if n > len(theta) else torch.nan
    return sandwich * factor, "sandwich (HC1)"
