"""Families of positive numbers.

Formulas: Johnson, Kotz and Balakrishnan, "Continuous Univariate Distributions" (1994). Starts are
by moments unless said otherwise.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nll.data.weights import total, totals
from nll.families.base import MEAN_AND_SHAPE, RATE, RATE_AS_SCALE, SCALE, Family, Tails, matrix
from nll.families.distributions import log_ndtr
from nll.families.log_cdf import (
    beta_tails,
    gamma_tails,
    hazard_tails,
    log_angle,
    normal_tails,
    swapped,
)
from nll.families.numerics import (
    expm1_minus,
    log1mexp,
    log_ratio,
    log_scaled_peak,
    mean,
    minus_log1p,
    moments,
    quantile,
)
from nll.families.real_line import Normal
from nll.solvers.parameters import Params

_SMALL_GAP = 1e-3  # between log mean and mean log, where their difference loses digits


class Positive(Family):
    """Families of positive numbers."""

    support = "a positive number"

    def inside(self, values: Tensor) -> Tensor:
        return torch.isfinite(values) & (values > 0)


class NonNegative(Family):
    """Families of positive numbers and 0."""

    support = "a non-negative number"

    def inside(self, values: Tensor) -> Tensor:
        return torch.isfinite(values) & (values >= 0)


# ---- Gamma and its relatives: the mean and the mean logarithm are sufficient ---------------------


class Gamma(Positive):
    """X^power has a gamma distribution. The concentration solves log a - digamma(a) = gap, the gap
    between the log mean and the mean log of X^power; rate = concentration / mean.
    """

    power = 1
    units = RATE
    solution = "the likelihood equation of the concentration, by Newton's method"

    def statistics(self, values: Tensor) -> tuple[Tensor, ...]:
        return values if self.power == 1 else 1 / values, log(values)

    def of_statistics(
        self, means: tuple[Tensor, ...], concentration: Tensor, rate: Tensor
    ) -> Tensor:
        mean, mean_log = means
        peak = concentration * rate.log() - torch.lgamma(concentration)
        return peak + (self.power * concentration - 1) * mean_log - rate * mean

    def start(self, values: Tensor, weights: Tensor) -> Params:
        """Minka's (2002) approximation of the concentration."""
        values = values if self.power == 1 else 1 / values
        share = weights / weights.sum(-1, keepdim=True)
        mean = (share * values).sum(-1)
        concentration = _minka((mean.log() - (share * values.log()).sum(-1)).clamp(min=1e-12))
        return {"concentration": concentration, "rate": concentration / mean}

    def estimate(self, values: Tensor, weights: Tensor) -> Params:
        n = total(weights)
        sums, logs = totals(weights, values, self.statistics)
        mean = sums / n
        gap = mean.log() - self.power * logs / n
        if bool((gap < _SMALL_GAP).any()):
            gap = torch.where(gap < _SMALL_GAP, self._small_gap(values, weights, mean), gap)
        concentration = _minka(gap)
        for _ in range(8):
            error = _log_minus_digamma(concentration) - gap
            concentration = concentration / (1 - error / _trigamma_excess(concentration))
        return {"concentration": concentration, "rate": concentration / mean}

    def _small_gap(self, values: Tensor, weights: Tensor, mean: Tensor) -> Tensor:
        """The gap from x / mean - 1, without the cancellation."""
        mean = mean[..., None]
        ratio = (values - mean) / mean if self.power == 1 else (1 / mean - values) / values
        return totals(weights, ratio, lambda r: (minus_log1p(r),))[0] / total(weights)

    def covariance(self, params: Params, size: float) -> Tensor:
        a, b = params["concentration"], params["rate"]
        excess = _trigamma_excess(a)
        return matrix([[a, b], [b, (1 + excess) / a * b.square()]]) / (size * excess)

    def maximum(self, params: Params, n: float) -> Tensor:
        """By the likelihood equations, mean x = a / b and mean log x = digamma(a) - log b."""
        a, b = params["concentration"], params["rate"]
        rest = (self.power - a) * _log_minus_digamma(a) - self.power * log_ratio(a, b)
        return n * (log_scaled_peak(a) + rest)

    def log_prob(self, values: Tensor, concentration: Tensor, rate: Tensor) -> Tensor:
        """With r = x rate / a: a^a e^-a / Gamma(a) exp(-a (r - 1 - log r)) / x."""
        log_r = self._log_r(values, concentration, rate)
        return log_scaled_peak(concentration) - values.log() - concentration * expm1_minus(log_r)

    def _log_r(self, values: Tensor, concentration: Tensor, rate: Tensor) -> Tensor:
        if self.power == 1:
            return log_ratio(values * rate, concentration)
        return log_ratio(rate, values * concentration)

    def tails(self, x: Tensor, concentration: Tensor, rate: Tensor) -> Tails:
        tails = gamma_tails(self._log_r(x, concentration, rate), concentration)
        return tails if self.power == 1 else swapped(tails)


class InverseGamma(Gamma):
    """1 / X has a gamma distribution."""

    power = -1
    units = RATE_AS_SCALE


class Chi2(Positive):
    """The gamma distribution with concentration df / 2 and rate 1 / 2; its mean is df."""

    def start(self, values: Tensor, weights: Tensor) -> Params:
        return {"df": moments(values, weights).mean}

    def log_prob(self, values: Tensor, df: Tensor) -> Tensor:
        return _GAMMA.log_prob(values, df / 2, torch.full_like(df, 0.5))

    def statistics(self, values: Tensor) -> tuple[Tensor, ...]:
        return values, log(values)

    def of_statistics(self, means: tuple[Tensor, ...], df: Tensor) -> Tensor:
        return _GAMMA.of_statistics(means, df / 2, torch.full_like(df, 0.5))

    def tails(self, x: Tensor, df: Tensor) -> Tails:
        return gamma_tails(log_ratio(x, df), df / 2)


_GAMMA = Gamma(torch.distributions.Gamma)


def log(values: Tensor) -> Tensor:
    """The logarithm of data by NumPy, three times as fast as PyTorch's in float64."""
    if values.requires_grad:
        return values.log()
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN makes a search step back
        return torch.from_numpy(np.log(values.numpy()))


def _minka(gap: Tensor) -> Tensor:
    return (3 - gap + ((gap - 3).square() + 24 * gap).sqrt()) / (12 * gap)


def _log_minus_digamma(a: Tensor) -> Tensor:
    """log a - digamma(a), by its asymptotic series for large a."""
    far = a > 20
    q = 1 / torch.where(far, a, 20.0).square()
    series = q * (1 / 12 - q * (1 / 120 - q * (1 / 252 - q * (1 / 240 - q / 132))))
    near = torch.where(far, 1.0, a)
    return torch.where(far, 0.5 / a + series, near.log() - torch.digamma(near))


def _trigamma_excess(a: Tensor) -> Tensor:
    """a trigamma(a) - 1, by its asymptotic series for large a."""
    far = a > 20
    r = 1 / torch.where(far, a, 20.0)
    q = r.square()
    series = r * (1 / 2 + r * (1 / 6 - q * (1 / 30 - q * (1 / 42 - q * (1 / 30 - q * 5 / 66)))))
    near = torch.where(far, 1.0, a)
    return torch.where(far, series, near * torch.special.polygamma(1, near) - 1)


# ---- Others --------------------------------------------------------------------------------------


class LogNormal(Positive):
    """The logarithm is normal. Logarithms relative to the first keep the digits of data that are
    nearly equal.
    """

    def estimate(self, values: Tensor, weights: Tensor) -> Params:
        first = values[..., :1]
        normal = _NORMAL.estimate(log_ratio(values, first), weights)
        return {"loc": first[..., 0].log() + normal["loc"], "scale": normal["scale"]}

    def variances(self, loc: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        return _NORMAL.variances(loc, scale)

    def maximum(self, params: Params, n: float) -> Tensor:
        return _NORMAL.maximum(params, n) - n * params["loc"]

    def tails(self, x: Tensor, loc: Tensor, scale: Tensor) -> Tails:
        return normal_tails((x.log() - loc) / scale)


_NORMAL = Normal(torch.distributions.Normal)


class Exponential(NonNegative):
    """A constant hazard: rate = 1 / mean."""

    units = RATE

    def estimate(self, values: Tensor, weights: Tensor) -> Params:
        return {"rate": 1 / mean(values, weights)}

    def variances(self, rate: Tensor) -> tuple[Tensor, ...]:
        return (rate**2,)

    def tails(self, x: Tensor, rate: Tensor) -> Tails:
        return hazard_tails(rate.log() + x.log())


class HalfCauchy(NonNegative):
    """The absolute value of a Cauchy variable; starts at its median."""

    units = SCALE

    def start(self, values: Tensor, weights: Tensor) -> Params:
        middle, mean = quantile(values, weights, 0.5), moments(values, weights).mean
        return {"scale": torch.where(middle > 0, middle, torch.where(mean > 0, mean, 1.0))}

    def log_prob(self, values: Tensor, scale: Tensor) -> Tensor:
        return math.log(2 / math.pi) - scale.log() - torch.log1p((values / scale).square())

    def tails(self, x: Tensor, scale: Tensor) -> Tails:
        z = x / scale
        return Tails((2 / math.pi * z.atan()).log(), log_angle(z) + math.log(2))


class HalfNormal(NonNegative):
    """The absolute value of a normal variable: the scale is the root mean square."""

    units = SCALE

    def estimate(self, values: Tensor, weights: Tensor) -> Params:
        unit = values.amax(-1).clamp(min=torch.finfo(torch.float64).tiny)
        squares = total(weights, (values / unit[..., None]).square())
        return {"scale": unit * (squares / total(weights)).sqrt()}

    def variances(self, scale: Tensor) -> tuple[Tensor, ...]:
        return (scale.square() / 2,)

    def tails(self, x: Tensor, scale: Tensor) -> Tails:
        below = torch.erf(x / (scale * math.sqrt(2))).log()
        return Tails(below, math.log(2) + log_ndtr(-x / scale))


class FisherSnedecor(Positive):
    """The ratio of two mean squares: log X + log(a / b) is the logit of a beta variable, with a, b
    the halves of the degrees of freedom.
    """

    def start(self, values: Tensor, weights: Tensor) -> Params:
        """By the mean; for data that are nearly equal by the variance of the logarithm, 2 / df1 + 2
        / df2.
        """
        mean = moments(values, weights).mean
        variance = moments(log_ratio(values, values[..., :1]), weights).std.square()
        df2 = torch.where(mean > 1.05, 2 * mean / (mean - 1), 42.0).clamp(max=42.0)
        near, both = variance < 1e-3, 4 / variance.clamp(min=1e-30)
        return {"df1": torch.where(near, both, 5.0), "df2": torch.where(near, both, df2)}

    def more_starts(self, values: Tensor, weights: Tensor) -> list[Params]:
        one = torch.ones_like(values[..., 0])
        return [{"df1": a * one, "df2": b * one} for a, b in ((1, 1), (1, 30), (30, 1))]

    def log_prob(self, values: Tensor, df1: Tensor, df2: Tensor) -> Tensor:
        a, b = df1 / 2, df2 / 2
        n, below = a + b, a * values + b
        peak = log_scaled_peak(a) + log_scaled_peak(b) - log_scaled_peak(n)
        of_a = a * expm1_minus(log_ratio(n * values, below))
        return peak - (of_a + b * expm1_minus(log_ratio(n, below))) - values.log()

    def tails(self, x: Tensor, df1: Tensor, df2: Tensor) -> Tails:
        return beta_tails(x.log(), df1 / 2, df2 / 2)


class InverseGaussian(Positive):
    """The first passage time of a Brownian motion with drift: loc = mean."""

    units = MEAN_AND_SHAPE

    def estimate(self, values: Tensor, weights: Tensor) -> Params:
        """The concentration is the inverse of mean(1 / x) - 1 / mean, as a sum of terms that are
        not negative.
        """
        n = total(weights)
        mean = total(weights, values) / n
        terms = ((values - mean[..., None]) / mean[..., None]).square() / values
        return {"loc": mean, "concentration": n / total(weights, terms)}

    def variances(self, loc: Tensor, concentration: Tensor) -> tuple[Tensor, ...]:
        return loc**3 / concentration, 2 * concentration**2

    def tails(self, x: Tensor, loc: Tensor, concentration: Tensor) -> Tails:
        """F = Phi(a) + exp(2 k / m) Phi(-b), with a, b = sqrt(k / x) (x / m -+ 1) (Shuster 1968).

        The second term is exp(-a^2 / 2) erfcx(b / sqrt(2)) / 2, as 2 k / m = (b^2 - a^2) / 2.
        """
        root = (concentration / x).sqrt()
        a, b = root * ((x - loc) / loc), root * (x / loc + 1)
        second = -0.5 * a.square() + _log_erfcx(b / math.sqrt(2)) - math.log(2)
        below = torch.logsumexp(torch.stack([log_ndtr(a), second]), 0).clamp(max=-1e-300)
        upper = log_ndtr(-a)
        return Tails(below, upper + log1mexp(upper - second))


def _log_erfcx(y: Tensor) -> Tensor:
    """log(exp(y^2) erfc(y)) for y > 0, by its asymptotic series for large y, where derivatives
    cancel.
    """
    far = y > 50
    q = 1 / (2 * torch.where(far, y, 50.0).square())
    series = torch.log1p(-q * (1 - 3 * q * (1 - 5 * q * (1 - 7 * q))))
    asymptotic = series - y.log() - 0.5 * math.log(math.pi)
    return torch.where(far, asymptotic, torch.special.erfcx(torch.where(far, 1.0, y)).log())
