"""Families whose observations are rows of numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nll.families.base import Family
from nll.solvers.parameters import Params


class MultivariateNormal(Family):
    """The mean, and the mean outer product about it. Their errors are independent; those of the
    covariance have a Wishart distribution.
    """

    support = "finite numbers"
    columns = True

    def inside(self, values: Tensor) -> Tensor:
        return torch.isfinite(values)

    def estimate(self, values: Tensor, weights: Tensor) -> Params:
        n = weights.sum()
        loc = values[0] + weights @ (values - values[0]) / n
        deviations = values - loc
        deviations = deviations - weights @ deviations / n  # the mean is rounded
        covariance = deviations.T @ (weights[:, None] * deviations) / n
        return {"loc": loc, "covariance_matrix": covariance}

    def covariance(self, params: Params, size: float) -> Tensor:
        """S / n, and (S_ik S_jl + S_il S_jk) / n for the numbers ij and kl of S."""
        s = params["covariance_matrix"]
        both = torch.einsum("ik,jl->ijkl", s, s) + torch.einsum("il,jk->ijkl", s, s)
        return torch.block_diag(s, both.reshape(s.numel(), s.numel())) / size

    def maximum(self, params: Params, n: float) -> Tensor:
        s = params["covariance_matrix"]
        return -0.5 * n * (torch.logdet(s) + len(s) * (1 + math.log(2 * math.pi)))

    def verdict(self, params: Params) -> str | None:
        """Collinear columns, or no more rows than columns, let the density narrow onto them."""
        s = params["covariance_matrix"]
        variances = s.diagonal()
        unit = variances.clamp(min=torch.finfo(torch.float64).tiny).rsqrt()
        if not bool((variances > 0).all()):
            flat = f"column {int((variances <= 0).nonzero()[0])} is constant"
        elif (
            float(torch.linalg.eigvalsh(unit[:, None] * s * unit)[0])
            < 8 * len(s) * torch.finfo(torch.float64).eps
        ):
            flat = "a combination of the columns is constant"
        else:
            return None
        return f"no maximum: {flat}, and the likelihood grows without bound as the density narrows"


class Dirichlet(Family):
    """Positive shares; starts by moments."""

    support = "positive shares that add to 1"
    columns = True

    def inside(self, values: Tensor) -> Tensor:
        return (values > 0) & ((values.sum(-1, keepdim=True) - 1).abs() < 1e-6)

    def start(self, values: Tensor, weights: Tensor) -> Params:
        share = (weights / weights.sum())[:, None]
        mean = (share * values).sum(0)
        variance = (share * (values - mean).square()).sum(0).clamp(min=1e-12)
        count = (mean * (1 - mean) / variance - 1).clamp(1e-2, 1e6).log().mean().exp()
        return {"concentration": mean * count}
