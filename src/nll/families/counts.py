"""Families of counts.

Formulas: Johnson, Kemp and Kotz, "Univariate Discrete Distributions" (2005).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nll.data.weights import total
from nll.families.base import Family, Tails
from nll.families.log_cdf import beta_tails, gamma_tails, hazard_tails, swapped
from nll.families.numerics import half_deviance, log_peak, log_ratio, mean, moments
from nll.solvers.parameters import Params

MOST_CATEGORIES = 1_000_000
_HUGE = 1e15  # the total_count of a NegativeBinomial that stands for its limit


class Counts(Family):
    """Families of non-negative integers."""

    support = "a non-negative integer"

    def inside(self, values: Tensor) -> Tensor:
        return torch.isfinite(values) & (values == values.round()) & (values >= 0)


class Bernoulli(Counts):
    """One trial per row: probs = successes / trials."""

    support = "0 or 1"

    def inside(self, values: Tensor, total_count: Any = 1) -> Tensor:
        return super().inside(values) & (values <= _float64(total_count))

    def estimate(self, values: Tensor, weights: Tensor, total_count: Any = 1) -> Params:
        successes = total(weights, values)
        failures = total(weights, _float64(total_count) - values)
        return {"probs": successes / (successes + failures)}

    def variances(self, probs: Tensor) -> tuple[Tensor, ...]:
        return (probs * (1 - probs),)

    def log_prob(self, values: Tensor, probs: Tensor, total_count: Any = 1) -> Tensor:
        n = _float64(total_count)
        peaks = log_peak(values) + log_peak(n - values) - log_peak(n)
        return peaks - half_deviance(values, n * probs) - half_deviance(n - values, n * (1 - probs))


class Binomial(Bernoulli):
    """Successes in `total_count` trials."""

    support = "an integer from 0 to total_count"
    given = ("total_count",)

    def size(self, values: Tensor, weights: Tensor, total_count: Any) -> Tensor:
        return weights @ _float64(total_count).expand_as(values)

    def tails(self, x: Tensor, probs: Tensor, total_count: Tensor) -> Tails:
        last = x >= total_count
        rest = torch.where(last, 1.0, total_count - x)
        beta = beta_tails(log_ratio(probs * rest, (1 - probs) * (x + 1)), x + 1, rest)
        return Tails(torch.where(last, 0.0, beta.above), torch.where(last, -math.inf, beta.below))


class Geometric(Counts):
    """Failures before the first success: probs = 1 / (1 + mean)."""

    def estimate(self, values: Tensor, weights: Tensor) -> Params:
        return {"probs": 1 / (1 + mean(values, weights))}

    def variances(self, probs: Tensor) -> tuple[Tensor, ...]:
        return (probs**2 * (1 - probs),)

    def tails(self, x: Tensor, probs: Tensor) -> Tails:
        return hazard_tails((x + 1).log() + torch.log(-torch.log1p(-probs)))


class Poisson(Counts):
    """Events at a constant rate: rate = mean."""

    def estimate(self, values: Tensor, weights: Tensor) -> Params:
        return {"rate": mean(values, weights)}

    def variances(self, rate: Tensor) -> tuple[Tensor, ...]:
        return (rate,)

    def log_prob(self, values: Tensor, rate: Tensor) -> Tensor:
        return log_peak(values) - half_deviance(values, rate)

    def tails(self, x: Tensor, rate: Tensor) -> Tails:
        return swapped(gamma_tails(log_ratio(rate, x + 1), x + 1))


class Categorical(Counts):
    """One of K classes: probs are the shares, with covariance (diag(p) - p p') / trials."""

    simplex = True

    def estimate(self, values: Tensor, weights: Tensor) -> Params:
        counts = torch.bincount(values.long(), weights=weights)
        return {"probs": counts / counts.sum()}

    def covariance(self, params: Params, size: float) -> Tensor:
        p = params["probs"]
        return (torch.diag(p) - torch.outer(p, p)) / size

    def log_prob(self, values: Tensor, probs: Tensor) -> Tensor:
        return probs.log()[values.long()]


class Multinomial(Categorical):
    """How often each of K classes came up, one row per set of trials."""

    support = "non-negative integers"
    columns = True

    def size(self, values: Tensor, weights: Tensor) -> Tensor:
        return weights @ values.sum(1)

    def estimate(self, values: Tensor, weights: Tensor) -> Params:
        counts = weights @ values
        return {"probs": counts / counts.sum()}

    def log_prob(self, values: Tensor, probs: Tensor) -> Tensor:
        n = values.sum(1)
        return (log_peak(values) - half_deviance(values, n[:, None] * probs)).sum(1) - log_peak(n)


class NegativeBinomial(Counts):
    """Successes before `total_count` failures, for any positive real total_count."""

    limit = ("total_count", math.inf, torch.distributions.Poisson, ())

    def near_limit(self, params: Params) -> Params:
        rate = params["rate"]
        return {"total_count": torch.full_like(rate, _HUGE), "probs": rate / (rate + _HUGE)}

    def start(self, values: Tensor, weights: Tensor) -> Params:
        mean, std, _ = moments(values, weights)
        excess = (std.square() / mean.clamp(min=1e-3) - 1).clamp(min=1e-2)
        count = (mean / excess).clamp(1e-2, 1e4)
        return {"total_count": count, "probs": mean / (mean + count)}

    def log_prob(self, values: Tensor, total_count: Tensor, probs: Tensor) -> Tensor:
        """r / (r + x) times the probability of r successes in r + x trials (Loader 2000)."""
        n = total_count + values
        peaks = log_peak(values) + log_peak(total_count) - log_peak(n)
        deviance = half_deviance(values, n * probs) + half_deviance(total_count, n * (1 - probs))
        return total_count.log() - n.log() + peaks - deviance

    def tails(self, x: Tensor, total_count: Tensor, probs: Tensor) -> Tails:
        end = log_ratio(probs * total_count, (1 - probs) * (x + 1))
        return swapped(beta_tails(end, x + 1, total_count))


def _float64(total_count: Any) -> Tensor:
    return torch.as_tensor(total_count, dtype=torch.float64)
