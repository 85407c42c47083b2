"""Functions that keep their digits: special functions of positive numbers, with all derivatives,
and weighted statistics of samples (..., n), one result per sample.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nll.data.weights import total, totals

# ---- Special functions ---------------------------------------------------------------------------


def log_peak(x: Tensor) -> Tensor:
    """log P(x) of a Poisson variable whose rate is x: x log x - x - log x!, by Stirling's series
    for large x.
    """
    n = x.clamp(min=16.0)
    tail = -_stirling(n) - 0.5 * (2 * math.pi * n).log()
    return torch.where(x < 16, torch.xlogy(x, x) - x - torch.lgamma(x + 1), tail)


def log_scaled_peak(a: Tensor) -> Tensor:
    """log(a^a e^-a / Gamma(a)), which grows like log(a) / 2."""
    return log_peak(a) + a.log()


def log_ratio(x: Tensor, y: Tensor) -> Tensor:
    """log(x / y) of positive numbers, to all digits where they are nearly equal."""
    near = (x - y).abs() < 0.5 * y
    return torch.where(near, torch.log1p((torch.where(near, x, y) - y) / y), x.log() - y.log())


def expm1_minus(t: Tensor) -> Tensor:
    """exp(t) - 1 - t: 2 sinh^2(t / 2) + (sinh t - t), the latter by its series for small t."""
    near = t.abs() < 1
    u = torch.where(near, t, 0.0)
    q = u.square()
    series = 1 + q / 20 * (
        1 + q / 42 * (1 + q / 72 * (1 + q / 110 * (1 + q / 156 * (1 + q / 210))))
    )
    return torch.where(
        near, 2 * torch.sinh(u / 2).square() + u * q / 6 * series, torch.expm1(t) - t
    )


def minus_log1p(w: Tensor) -> Tensor:
    """w - log(1 + w): with r = w / (2 + w) it is w r - 2 (r^3 / 3 + r^5 / 5 + ...)."""
    near = w.abs() < 0.2
    u = torch.where(near, w, 0.0)
    r = u / (2 + u)
    q = r.square()
    series = 0.0
    for k in range(17, 1, -2):
        series = q * (1 / k + series)
    return torch.where(
        near,
        u * r - 2 * r * series,
        torch.where(near, 0.0, w) - torch.log1p(torch.where(near, 0.0, w)),
    )


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(-x)) for x > 0, without cancellation on either side (Maechler 2012)."""
    near = x < math.log(2)
    low, high = torch.where(near, x, 1.0), torch.where(near, 1.0, x)
    return torch.where(near, torch.log(-torch.expm1(-low)), torch.log1p(-torch.exp(-high)))


def log_mean_exp(t: Tensor) -> Tensor:
    """log((exp(t) - 1) / t): t / 2 + log(sinh(t / 2) / (t / 2)), the latter by its series for small
    t.
    """
    near = t.abs() < 0.5
    q = torch.where(near, t, 0.0).square()
    series = q * (1 / 24 - q * (1 / 2880 - q * (1 / 181440 - q * (1 / 9676800 - q / 479001600))))
    far = torch.where(near, 1.0, t.abs())
    return t / 2 + torch.where(near, series, far / 2 + torch.log(-torch.expm1(-far)) - far.log())


def log_rising(r: Tensor, x: Tensor) -> Tensor:
    """log Gamma(r + x) - log Gamma(r), by the difference of Stirling's series where r is large and
    the terms cancel.
    """
    big = r > 32
    n = torch.where(big, r, 64.0)
    m = n + x
    series = (n - 0.5) * torch.log1p(x / n) + x * m.log() - x + _stirling(m) - _stirling(n)
    small = torch.where(big, 1.0, r)
    return torch.where(big, series, torch.lgamma(small + x) - torch.lgamma(small))


def _stirling(n: Tensor) -> Tensor:
    """log n! less its leading terms: 1 / 12 n - 1 / 360 n^3 + ..."""
    s = 1 / n.square()
    return (1 / 12 - (1 / 360 - (1 / 1260 - (1 / 1680 - s / 1188) * s) * s) * s) / n


def half_deviance(x: Tensor, mean: Tensor) -> Tensor:
    """x log(x / mean) + mean - x, without the cancellation (Loader 2000, "Fast and accurate
    computation of binomial probabilities"): with s = log(mean / x), x (exp(s) - 1 - s).
    """
    s = log_ratio(mean, torch.where(x > 0, x, 1.0))  # so that x = 0 leaves no NaN in a derivative
    return torch.where(x > 0, x * expm1_minus(s), mean)


# ---- Weighted statistics -------------------------------------------------------------------------


class Moments(NamedTuple):
    """Weighted mean, standard deviation and skewness."""

    mean: Tensor
    std: Tensor
    skewness: Tensor


def moments(values: Tensor, weights: Tensor) -> Moments:
    """Return the moments; a standard deviation of 0 becomes 1e-3 of the mean, or 1."""
    unit = values.abs().amax(-1, keepdim=True)
    unit = torch.where(unit > 0, unit, 1.0)  # squares and cubes overflow
    share = weights / weights.sum(-1, keepdim=True)
    values, unit = values / unit, unit[..., 0]
    mean = (share * values).sum(-1)
    deviation = values - mean[..., None]
    std = (share * deviation.square()).sum(-1).sqrt()
    third = (share * deviation.pow(3)).sum(-1)
    least = torch.where(mean != 0, 1e-3 * mean.abs(), 1 / unit)
    std = torch.where(std > 0, std, least)
    return Moments(unit * mean, unit * std, third / std.pow(3))


def mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the mean, computed relative to the first value: exact where all values are equal, and
    precise far from 0.
    """
    first = values[..., :1]
    return first[..., 0] + totals(weights, values, lambda x: (x - first,))[0] / total(weights)


def quantile(values: Tensor, weights: Tensor, q: float) -> Tensor:
    """Return the smallest value whose cumulative weight reaches the share q."""
    values, weights = torch.broadcast_tensors(values, weights)
    order = values.argsort(-1)
    below = weights.gather(-1, order).cumsum(-1)
    at = torch.searchsorted(below.contiguous(), (q * below[..., -1:]).contiguous()).clamp(
        max=values.shape[-1] - 1
    )
    return values.gather(-1, order).gather(-1, at)[..., 0]


def smallest(values: Tensor, weights: Tensor) -> Tensor:
    """Return the smallest value of positive weight."""
    return torch.where(weights > 0, values, torch.inf).amin(-1)
