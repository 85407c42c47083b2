"""Families of numbers between 0 and 1."""

from __future__ import annotations

import torch
from torch import Tensor

from nll.families.base import Family, Tails
from nll.families.log_cdf import beta_tails, hazard_tails
from nll.families.numerics import (
    half_deviance,
    log1mexp,
    log_mean_exp,
    log_ratio,
    log_scaled_peak,
    moments,
)
from nll.families.positive import log
from nll.solvers.parameters import Params


class UnitInterval(Family):
    """Two-parameter families; starts by the moments of the beta distribution."""

    support = "a number between 0 and 1"

    def inside(self, values: Tensor) -> Tensor:
        return (values > 0) & (values < 1)

    def start(self, values: Tensor, weights: Tensor) -> Params:
        up, down = moments(values, weights), moments(1 - values, weights).mean
        count = (up.mean * down / up.std.square() - 1).clamp(1e-2, 1e30)
        return {"concentration1": up.mean * count, "concentration0": down * count}


class Beta(UnitInterval):
    """The beta distribution; the mean logarithms of X and 1 - X are sufficient."""

    def statistics(self, values: Tensor) -> tuple[Tensor, ...]:
        return log(values), torch.log1p(-values)

    def of_statistics(
        self, means: tuple[Tensor, ...], concentration1: Tensor, concentration0: Tensor
    ) -> Tensor:
        up, down = means
        both = torch.lgamma(concentration1 + concentration0)
        constant = both - torch.lgamma(concentration1) - torch.lgamma(concentration0)
        return (concentration1 - 1) * up + (concentration0 - 1) * down + constant

    def log_prob(self, values: Tensor, concentration1: Tensor, concentration0: Tensor) -> Tensor:
        """By the logit: the peak less two deviances."""
        a, b = concentration1, concentration0
        n = a + b
        peak = log_scaled_peak(a) + log_scaled_peak(b) - log_scaled_peak(n)
        deviance = half_deviance(a, n * values) + half_deviance(b, n * (1 - values))
        return peak - deviance - values.log() - torch.log1p(-values)

    def tails(self, x: Tensor, concentration1: Tensor, concentration0: Tensor) -> Tails:
        end = log_ratio(x * concentration0, (1 - x) * concentration1)
        return beta_tails(end, concentration1, concentration0)


class Kumaraswamy(UnitInterval):
    """P(X > x) = (1 - x^a)^b."""

    def log_prob(self, values: Tensor, concentration1: Tensor, concentration0: Tensor) -> Tensor:
        a, b, log_x = concentration1, concentration0, values.log()
        return a.log() + b.log() + (a - 1) * log_x + (b - 1) * log1mexp(-a * log_x)

    def tails(self, x: Tensor, concentration1: Tensor, concentration0: Tensor) -> Tails:
        power = -concentration1 * x.log()  # of x^a, minus the logarithm
        small = power > 40
        rest = torch.log(-log1mexp(torch.where(small, 1.0, power)))
        return hazard_tails(concentration0.log() + torch.where(small, -power, rest))


class ContinuousBernoulli(Family):
    """Density exp(c x) c / (exp(c) - 1), c the logit of probs."""

    support = "a number from 0 to 1"

    def inside(self, values: Tensor) -> Tensor:
        return (values >= 0) & (values <= 1)

    def start(self, values: Tensor, weights: Tensor) -> Params:
        return {"probs": moments(values, weights).mean.clamp(1e-3, 1 - 1e-3)}

    def log_prob(self, values: Tensor, probs: Tensor) -> Tensor:
        c = probs.log() - torch.log1p(-probs)
        return c * values - log_mean_exp(c)

    def tails(self, x: Tensor, probs: Tensor) -> Tails:
        """(e^(c x) - 1) / (e^c - 1); the upper tail is the lower one of 1 - X, with -c."""
        c = probs.log() - torch.log1p(-probs)
        return Tails(_share_below(x, c), _share_below(1 - x, -c))


def _share_below(x: Tensor, c: Tensor) -> Tensor:
    """log((e^(c x) - 1) / (e^c - 1)): log x + g(c x) - g(c) with g(t) = log((e^t - 1) / t).

    For infinite c all lies at one end.
    """
    end, t = torch.where(c < 0, 0.0, -torch.inf), torch.where(c.isinf(), 0.0, c)
    return torch.where(c.isinf(), end, x.log() + log_mean_exp(t * x) - log_mean_exp(t))
