"""The families whose maximum likelihood estimate has no closed form, or a partial one: where a
search for it starts.

Starts are by moments unless said otherwise (Johnson, Kotz and Balakrishnan 1994). A family whose
parameters `move with the data` is fitted to data of unit size and brought back. Where a few means
of the data tell all, only these are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td

from nll.data.observations import total, totals
from nll.families.base import Family
from nll.families.closed_forms import (
    distance,
    expm1_less,
    less_log1p,
    log1mexp,
    log_mean_exp,
    log_peak,
    log_ratio,
    log_rising,
    log_scaled_peak,
    quantile,
)
from nll.families.distributions import (
    GeneralizedExtremeValue,
    InverseGaussian,
    SkewNormal,
    log1p_ratio,
)
from nll.solvers.parameters import Params

_EULER = 0.5772156649015329
_HUGE = 1e15  # a parameter at which its limit at infinity is reached
_SMALL_GAP = 1e-3  # between log mean and mean log, where their difference loses digits


class Moments(NamedTuple):
    """Weighted mean, standard deviation and skewness of each row of values (..., n)."""

    mean: Tensor
    spread: Tensor
    skewness: Tensor


def moments(values: Tensor, weights: Tensor) -> Moments:
    """Of the last dimension; a spread of 0 counts as 1e-3 of the mean, or 1."""
    unit = values.abs().amax(-1, keepdim=True)
    unit = torch.where(unit > 0, unit, 1.0)  # squares and cubes overflow
    share, values, unit = weights / weights.sum(-1, keepdim=True), values / unit, unit[..., 0]
    mean = (share * values).sum(-1)
    away = values - mean[..., None]
    spread = (share * away.square()).sum(-1).sqrt()
    third = (share * away.pow(3)).sum(-1)
    least = torch.where(mean != 0, 1e-3 * mean.abs(), 1 / unit)
    spread = torch.where(spread > 0, spread, least)
    return Moments(unit * mean, unit * spread, third / spread.pow(3))


def _log(values: Tensor) -> Tensor:
    """The logarithm of data, by NumPy's vector loops: three times as fast as PyTorch's in
    float64.
    """
    if values.requires_grad:
        return values.log()
    with np.errstate(invalid="ignore", divide="ignore"):  # NaN tells a search to step back
        return torch.from_numpy(np.log(values.numpy()))


def _positive(values: Tensor) -> Tensor:
    return torch.isfinite(values) & (values > 0)


def _share(values: Tensor) -> Tensor:
    return (values > 0) & (values < 1)


def _whole(values: Tensor) -> Tensor:
    return torch.isfinite(values) & (values == values.round()) & (values >= 0)


# Gamma and its relatives: mean and mean logarithm tell all.


def _gamma_start(values: Tensor, weights: Tensor) -> Params:
    """Minka's (2002) approximation of the shape from the gap between log mean and mean log."""
    share = weights / weights.sum(-1, keepdim=True)
    mean = (share * values).sum(-1)
    gap = (mean.log() - (share * values.log()).sum(-1)).clamp(min=1e-12)
    shape = _minka(gap)
    return {"concentration": shape, "rate": shape / mean}


def _minka(gap: Tensor) -> Tensor:
    return (3 - gap + ((gap - 3).square() + 24 * gap).sqrt()) / (12 * gap)


def _gamma_estimate(values: Tensor, weights: Tensor) -> Params:
    """The root of log shape - digamma(shape) = log mean - mean log, by Newton's method; rate =
    shape / mean.
    """
    n = total(weights)
    sums, logs = totals(weights, values, lambda x: (x, _log(x)))
    mean = sums / n
    shape = _shape(
        mean.log() - logs / n, lambda: _gap(weights, (values - mean[..., None]) / mean[..., None])
    )
    return {"concentration": shape, "rate": shape / mean}


def _inverse_gamma_estimate(values: Tensor, weights: Tensor) -> Params:
    """That of the gamma distribution for the inverse values."""
    n = total(weights)
    sums, logs = totals(weights, values, lambda x: (1 / x, _log(x)))
    mean = n / sums
    shape = _shape(
        logs / n - mean.log(), lambda: _gap(weights, (mean[..., None] - values) / values)
    )
    return {"concentration": shape, "rate": shape * mean}


def _gap(weights: Tensor, away: Tensor) -> Tensor:
    """log mean - mean log, from the distances x / mean - 1, without the cancellation."""
    return totals(weights, away, lambda r: (less_log1p(r),))[0] / total(weights)


def _shape(gap: Tensor, exact: Callable[[], Tensor]) -> Tensor:
    """The shape whose logarithm exceeds its digamma function by a gap; `exact`: the gap where it is
    small.
    """
    if bool((gap < _SMALL_GAP).any()):
        gap = torch.where(gap < _SMALL_GAP, exact(), gap)
    shape = _minka(gap)
    for _ in range(8):
        shape = shape / (1 - (_log_less_digamma(shape) - gap) / _trigamma_excess(shape))
    return shape


def _log_less_digamma(a: Tensor) -> Tensor:
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


def _gamma_covariance(params: Params, n: float) -> Tensor:
    a, b = params["concentration"], params["rate"]
    excess = _trigamma_excess(a)
    return _matrix([[a, b], [b, (1 + excess) / a * b.square()]]) / (n * excess)


def _gamma_maximum(params: Params, n: float) -> Tensor:
    """By the likelihood equations, mean x = a / b and mean log x = digamma(a) - log b."""
    a, b = params["concentration"], params["rate"]
    return n * (log_scaled_peak(a) + (1 - a) * _log_less_digamma(a) - log_ratio(a, b))


def _inverse_gamma_maximum(params: Params, n: float) -> Tensor:
    """That of the inverse values, y, and of the change of variable: 2 mean log y."""
    a, b = params["concentration"], params["rate"]
    return n * (log_scaled_peak(a) - (1 + a) * _log_less_digamma(a) + log_ratio(a, b))


def _gamma_log_prob(values: Tensor, concentration: Tensor, rate: Tensor) -> Tensor:
    """With r = x rate / a: a^a e^-a / Gamma(a) exp(-a (r - 1 - log r)) / x."""
    away = expm1_less(log_ratio(values * rate, concentration))
    return log_scaled_peak(concentration) - values.log() - concentration * away


def _inverse_gamma_log_prob(values: Tensor, concentration: Tensor, rate: Tensor) -> Tensor:
    away = expm1_less(log_ratio(rate, values * concentration))
    return log_scaled_peak(concentration) - values.log() - concentration * away


def _gamma_of_means(means: tuple[Tensor, ...], concentration: Tensor, rate: Tensor) -> Tensor:
    mean, log = means
    return (
        concentration * rate.log()
        - torch.lgamma(concentration)
        + (concentration - 1) * log
        - rate * mean
    )


def _inverse_gamma_of_means(
    means: tuple[Tensor, ...], concentration: Tensor, rate: Tensor
) -> Tensor:
    inverse, log = means
    return (
        concentration * rate.log()
        - torch.lgamma(concentration)
        - (concentration + 1) * log
        - rate * inverse
    )


def _chi2_of_means(means: tuple[Tensor, ...], df: Tensor) -> Tensor:
    mean, log = means
    return (df / 2 - 1) * log - mean / 2 - df / 2 * math.log(2) - torch.lgamma(df / 2)


def _beta_start(values: Tensor, weights: Tensor) -> Params:
    found, rest = moments(values, weights), moments(1 - values, weights).mean
    count = (found.mean * rest / found.spread.square() - 1).clamp(1e-2, 1e30)
    return {"concentration1": found.mean * count, "concentration0": rest * count}


def _beta_of_means(
    means: tuple[Tensor, ...], concentration1: Tensor, concentration0: Tensor
) -> Tensor:
    up, down = means
    both = torch.lgamma(concentration1 + concentration0)
    normed = both - torch.lgamma(concentration1) - torch.lgamma(concentration0)
    return (concentration1 - 1) * up + (concentration0 - 1) * down + normed


def _beta_log_prob(values: Tensor, concentration1: Tensor, concentration0: Tensor) -> Tensor:
    """By the logit: the peak less what x is away from it."""
    a, b, rest = concentration1, concentration0, 1 - values
    n = a + b
    peak = log_scaled_peak(a) + log_scaled_peak(b) - log_scaled_peak(n)
    return (
        peak - distance(a, n * values) - distance(b, n * rest) - values.log() - torch.log1p(-values)
    )


def _dirichlet_start(values: Tensor, weights: Tensor) -> Params:
    share = (weights / weights.sum())[:, None]
    mean = (share * values).sum(0)
    variance = (share * (values - mean).square()).sum(0).clamp(min=1e-12)
    count = (mean * (1 - mean) / variance - 1).clamp(1e-2, 1e6).log().mean().exp()
    return {"concentration": mean * count}


def _kumaraswamy_log_prob(values: Tensor, concentration1: Tensor, concentration0: Tensor) -> Tensor:
    a, b, log = concentration1, concentration0, values.log()
    return a.log() + b.log() + (a - 1) * log + (b - 1) * log1mexp(-a * log)


# Location and scale.


def _student_start(values: Tensor, weights: Tensor, at: float = 0.5, df: float = 5.0) -> Params:
    low, middle, high = (quantile(values, weights, q) for q in (0.25, at, 0.75))
    scale = (high - low) / 1.45  # the quartiles of Student's t with 5 degrees of freedom
    scale = torch.where(scale > 0, scale, moments(values, weights).spread)
    return {"df": torch.full_like(middle, df), "loc": middle, "scale": scale}


def _student_log_prob(values: Tensor, df: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    z = (values - loc) / scale
    constant = (
        log_rising(df / 2, torch.full_like(df, 0.5)) - 0.5 * (math.pi * df).log() - scale.log()
    )
    return constant - (df + 1) / 2 * torch.log1p(z.square() / df)


def _cauchy_start(values: Tensor, weights: Tensor, at: float = 0.5) -> Params:
    low, middle, high = (quantile(values, weights, q) for q in (0.25, at, 0.75))
    scale = (high - low) / 2
    return {"loc": middle, "scale": torch.where(scale > 0, scale, moments(values, weights).spread)}


def _cauchy_log_prob(values: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    return -math.log(math.pi) - scale.log() - torch.log1p(((values - loc) / scale).square())


def _gumbel_start(values: Tensor, weights: Tensor) -> Params:
    mean, spread, _ = moments(values, weights)
    scale = spread * math.sqrt(6) / math.pi
    return {"loc": mean - _EULER * scale, "scale": scale}


def _gumbel_log_prob(values: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    z = (values - loc) / scale
    return -z - torch.exp(-z) - scale.log()


def _extreme_start(values: Tensor, weights: Tensor) -> Params:
    start = _gumbel_start(values, weights)
    # a Gumbel variable's skewness is 1.14
    shape = ((moments(values, weights).skewness - 1.14) / 8).clamp(-0.3, 0.3)
    low, high = values.aminmax(dim=-1)
    return start | {
        "concentration": _inside(shape, start["scale"], start["loc"] - low, high - start["loc"])
    }


def _inside(shape: Tensor, scale: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """A shape small enough for all data to lie well inside of the support, which ends at loc -
    scale / shape.
    """
    most = torch.where(
        shape > 0, scale / (1.5 * below.clamp(min=1e-9)), scale / (1.5 * above.clamp(min=1e-9))
    )
    return torch.where(shape > 0, torch.minimum(shape, most), torch.maximum(shape, -most))


def _skew_normal_start(values: Tensor, weights: Tensor) -> Params:
    mean, spread, skew = moments(values, weights)
    size = skew.abs().clamp(min=0.05, max=0.9).pow(2 / 3)
    d = (math.pi / 2 * size / (size + (2 - math.pi / 2) ** (2 / 3))).sqrt().clamp(max=0.99)
    d = torch.where(skew < 0, -d, d)
    scale = spread / (1 - 2 * d.square() / math.pi).sqrt()
    return {
        "loc": mean - scale * d * (2 / math.pi) ** 0.5,
        "scale": scale,
        "skewness": d / (1 - d * d).sqrt(),
    }


def _skew_normal_starts(values: Tensor, weights: Tensor) -> list[Params]:
    """The mirror image, and on either side the neighbourhood of a half-normal law, the limit of
    infinite skewness.
    """
    start, (mean, spread, _) = _skew_normal_start(values, weights), moments(values, weights)
    starts = [
        {"loc": 2 * mean - start["loc"], "scale": start["scale"], "skewness": -start["skewness"]}
    ]
    for side, end in ((1.0, values.amin(-1)), (-1.0, values.amax(-1))):
        loc = end - side * 0.05 * spread
        scale = (spread.square() + (mean - loc).square()).sqrt()
        starts.append({"loc": loc, "scale": scale, "skewness": torch.full_like(loc, side * 20.0)})
    return starts


def _von_mises_start(values: Tensor, weights: Tensor) -> Params:
    """The mean direction, and the concentration from 1 - R^2, of angles about their mean, which
    keeps its digits.
    """
    share = weights / weights.sum(-1, keepdim=True)
    rough = torch.atan2((share * values.sin()).sum(-1), (share * values.cos()).sum(-1))
    away = values - rough[..., None]
    c, s = 2 * (share * (away / 2).sin().square()).sum(-1), (share * away.sin()).sum(-1)
    rest = (2 * c - c.square() - s.square()).clamp(1e-30, 1.0)
    r = (1 - rest).sqrt()
    return {
        "loc": rough + torch.atan2(s, 1 - c),
        "concentration": (r * (1 + rest) / rest).clamp(min=1e-3),
    }


def _von_mises_log_prob(values: Tensor, loc: Tensor, concentration: Tensor) -> Tensor:
    away = 2 * ((values - loc) / 2).sin().square()
    return -concentration * away - math.log(2 * math.pi) - _log_i0e(concentration)


def _von_mises_of_means(means: tuple[Tensor, ...], loc: Tensor, concentration: Tensor) -> Tensor:
    c, s = means
    return (
        concentration * (loc.cos() * c + loc.sin() * s - 1)
        - math.log(2 * math.pi)
        - _log_i0e(concentration)
    )


def _log_i0e(k: Tensor) -> Tensor:
    """log(exp(-k) I0(k)), by its asymptotic series for large k, whose derivatives do not cancel."""
    far = k > 300
    r = 1 / (8 * torch.where(far, k, 300.0))
    series = torch.log1p(r * (1 + r * (9 / 2 + r * (75 / 2 + r * (3675 / 8 + r * 59535 / 8)))))
    near = torch.special.i0e(torch.where(far, 1.0, k)).log()
    return torch.where(far, series - 0.5 * (2 * math.pi * k).log(), near)


# Scale and shape.


def _weibull_start(values: Tensor, weights: Tensor) -> Params:
    """By the moments of the logarithm, which has a Gumbel distribution, as a distance from the
    first.
    """
    first = values[..., :1]
    mean, spread, _ = moments(log_ratio(values, first), weights)
    mean = mean + first[..., 0].log()
    shape = math.pi / math.sqrt(6) / spread
    return {"scale": (mean + _EULER / shape).exp(), "concentration": shape}


def _weibull_log_prob(values: Tensor, scale: Tensor, concentration: Tensor) -> Tensor:
    z = concentration * log_ratio(values, scale)
    return concentration.log() - values.log() + z - z.exp()


def _half_scale_start(values: Tensor, weights: Tensor) -> Params:
    middle, mean = quantile(values, weights, 0.5), moments(values, weights).mean
    return {"scale": torch.where(middle > 0, middle, torch.where(mean > 0, mean, 1.0))}


def _half_cauchy_log_prob(values: Tensor, scale: Tensor) -> Tensor:
    return math.log(2 / math.pi) - scale.log() - torch.log1p((values / scale).square())


def _half_normal_estimate(values: Tensor, weights: Tensor) -> Params:
    unit = values.amax(-1).clamp(min=torch.finfo(torch.float64).tiny)
    return {
        "scale": unit
        * (total(weights, (values / unit[..., None]).square()) / total(weights)).sqrt()
    }


def _pareto_tail_start(values: Tensor, weights: Tensor) -> Params:
    mean, spread, _ = moments(values, weights)
    ratio = (mean / spread).square()
    scale, shape = 0.5 * mean * (ratio + 1), (0.5 * (1 - ratio)).clamp(-0.3, 0.4)
    return {
        "scale": scale,
        "concentration": _inside(shape, scale, torch.zeros_like(scale), values.amax(-1)),
    }


def _pareto_tail_log_prob(
    values: Tensor, scale: Tensor, concentration: Tensor, loc: Tensor
) -> Tensor:
    return -scale.log() - (1 + concentration) * log1p_ratio(concentration, (values - loc) / scale)


def _pareto_estimate(values: Tensor, weights: Tensor) -> Params:
    """The smallest value, and the inverse mean of the logarithms above it."""
    low = torch.where(weights > 0, values, math.inf).amin(-1)
    return {
        "scale": low,
        "alpha": total(weights) / total(weights, log_ratio(values, low[..., None])),
    }


def _pareto_covariance(params: Params, n: float) -> Tensor:
    unknown = torch.full_like(params["alpha"], torch.nan)
    return _matrix([[unknown, unknown], [unknown, params["alpha"] ** 2 / n]])


def _inverse_gaussian_estimate(values: Tensor, weights: Tensor) -> Params:
    n = total(weights)
    mean = total(weights, values) / n
    # mean(1 / x) - 1 / mean, as a sum of terms that are not negative
    away = ((values - mean[..., None]) / mean[..., None]).square() / values
    return {"loc": mean, "concentration": n / total(weights, away)}


def _inverse_gaussian_covariance(params: Params, n: float) -> Tensor:
    mean, k = params["loc"], params["concentration"]
    return torch.diag(torch.stack([mean**3 / (k * n), 2 * k**2 / n]))


def _f_start(values: Tensor, weights: Tensor) -> Params:
    """By the mean; of data that are nearly equal by the variance of the logarithm, 2 / df1 + 2 /
    df2.
    """
    mean, variance = (
        moments(values, weights).mean,
        moments(log_ratio(values, values[..., :1]), weights).spread.square(),
    )
    df2 = torch.where(mean > 1.05, 2 * mean / (mean - 1), 42.0).clamp(max=42.0)
    near, both = variance < 1e-3, 4 / variance.clamp(min=1e-30)
    return {"df1": torch.where(near, both, 5.0), "df2": torch.where(near, both, df2)}


def _f_log_prob(values: Tensor, df1: Tensor, df2: Tensor) -> Tensor:
    """By log X + log(a / b), the logit of a beta variable, with a, b the halves of the degrees of
    freedom.
    """
    a, b = df1 / 2, df2 / 2
    n, below = a + b, a * values + b
    peak = log_scaled_peak(a) + log_scaled_peak(b) - log_scaled_peak(n)
    away = a * expm1_less(log_ratio(n * values, below)) + b * expm1_less(log_ratio(n, below))
    return peak - away - values.log()


def _continuous_bernoulli_log_prob(values: Tensor, probs: Tensor) -> Tensor:
    """exp(c x) c / (exp(c) - 1), c the logit of probs."""
    c = probs.log() - torch.log1p(-probs)
    return c * values - log_mean_exp(c)


# Counts.


def _negative_binomial_start(values: Tensor, weights: Tensor) -> Params:
    mean, spread, _ = moments(values, weights)
    excess = (spread.square() / mean.clamp(min=1e-3) - 1).clamp(min=1e-2)
    count = (mean / excess).clamp(1e-2, 1e4)
    return {"total_count": count, "probs": mean / (mean + count)}


def _negative_binomial_log_prob(values: Tensor, total_count: Tensor, probs: Tensor) -> Tensor:
    """r / (r + x) times the chance of r successes in r + x trials, as Loader (2000) has it, for any
    r.
    """
    n = total_count + values
    peaks = log_peak(values) + log_peak(total_count) - log_peak(n)
    away = distance(values, n * probs) + distance(total_count, n * (1 - probs))
    return total_count.log() - n.log() + peaks - away


# Expected information of one observation, by the parameters in their order.


def _weibull_information(scale: Tensor, concentration: Tensor) -> Tensor:
    cross = -(1 - _EULER) / scale
    both = (math.pi**2 / 6 + (1 - _EULER) ** 2) / concentration.square()
    return _matrix([[(concentration / scale).square(), cross], [cross, both]])


def _gumbel_information(loc: Tensor, scale: Tensor) -> Tensor:
    one = 1 / scale.square()
    return _matrix(
        [
            [one, -(1 - _EULER) * one],
            [-(1 - _EULER) * one, (math.pi**2 / 6 + (1 - _EULER) ** 2) * one],
        ]
    )


def _cauchy_information(loc: Tensor, scale: Tensor) -> Tensor:
    return torch.eye(2, dtype=torch.float64) / (2 * scale.square())


def _student_information(df: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Lange, Little and Taylor (1989), appendix B."""
    trigamma = torch.special.polygamma(1, torch.stack([df / 2, (df + 1) / 2]))
    of_df = (trigamma[0] - trigamma[1]) / 4 - (df + 5) / (2 * df * (df + 1) * (df + 3))
    cross, zero = -2 / (scale * (df + 1) * (df + 3)), torch.zeros_like(df)
    of_loc, of_scale = (df + 1) / ((df + 3) * scale.square()), 2 * df / ((df + 3) * scale.square())
    return _matrix([[of_df, zero, cross], [zero, of_loc, zero], [cross, zero, of_scale]])


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row) for row in rows])


EXPECTED_INFORMATION = {
    td.Weibull: _weibull_information,
    td.Gumbel: _gumbel_information,
    td.Cauchy: _cauchy_information,
    td.StudentT: _student_information,
}

_LOC_SCALE = {"loc": "location", "scale": "scale"}
_POSITIVE, _FINITE = "a positive number", "a finite number"


def _finite_form(distribution: type[td.Distribution], start, log_prob, **more) -> Family:
    return Family(
        distribution,
        _FINITE,
        torch.isfinite,
        start=start,
        log_prob=log_prob,
        **{"units": _LOC_SCALE, **more},
    )


FAMILIES = (
    Family(
        td.Gamma,
        _POSITIVE,
        _positive,
        _gamma_estimate,
        _gamma_covariance,
        _gamma_log_prob,
        maximum=_gamma_maximum,
        start=_gamma_start,
        units={"rate": "rate"},
        statistics=lambda x: (x, _log(x)),
        of_statistics=_gamma_of_means,
        solution="the likelihood equation of the concentration, by Newton's method",
    ),
    Family(
        td.InverseGamma,
        _POSITIVE,
        _positive,
        _inverse_gamma_estimate,
        _gamma_covariance,
        _inverse_gamma_log_prob,
        solution="the likelihood equation of the concentration, by Newton's method",
        maximum=_inverse_gamma_maximum,
        start=lambda x, w: _gamma_start(1 / x, w),
        units={"rate": "scale"},
        statistics=lambda x: (1 / x, _log(x)),
        of_statistics=_inverse_gamma_of_means,
    ),
    Family(
        td.Chi2,
        _POSITIVE,
        _positive,
        start=lambda x, w: {"df": moments(x, w).mean},
        log_prob=lambda x, df: _gamma_log_prob(x, df / 2, torch.full_like(df, 0.5)),
        statistics=lambda x: (x, _log(x)),
        of_statistics=_chi2_of_means,
    ),
    Family(
        td.Beta,
        "a number between 0 and 1",
        _share,
        start=_beta_start,
        log_prob=_beta_log_prob,
        statistics=lambda x: (_log(x), torch.log1p(-x)),
        of_statistics=_beta_of_means,
    ),
    Family(
        td.Kumaraswamy,
        "a number between 0 and 1",
        _share,
        start=_beta_start,
        log_prob=_kumaraswamy_log_prob,
    ),
    Family(
        td.Dirichlet,
        "positive shares that add to 1",
        lambda x: (x > 0) & ((x.sum(-1, keepdim=True) - 1).abs() < 1e-6),
        start=_dirichlet_start,
        columns=True,
    ),
    _finite_form(
        td.StudentT,
        _student_start,
        _student_log_prob,
        more_starts=lambda x, w: [
            _student_start(x, w, q, df) for q in (0.25, 0.5, 0.75) for df in (0.7, 5.0)
        ],
        limit=("df", math.inf, td.Normal, ("loc", "scale")),
        near_limit=lambda normal: {"df": torch.full_like(normal["loc"], _HUGE), **normal},
    ),
    _finite_form(
        td.Cauchy,
        _cauchy_start,
        _cauchy_log_prob,
        more_starts=lambda x, w: [_cauchy_start(x, w, q) for q in (0.1, 0.25, 0.75, 0.9)],
    ),
    _finite_form(td.Gumbel, _gumbel_start, _gumbel_log_prob),
    _finite_form(GeneralizedExtremeValue, _extreme_start, None),
    _finite_form(SkewNormal, _skew_normal_start, None, more_starts=_skew_normal_starts),
    Family(
        td.VonMises,
        _FINITE,
        torch.isfinite,
        start=_von_mises_start,
        log_prob=_von_mises_log_prob,
        statistics=lambda x: (x.cos(), x.sin()),
        of_statistics=_von_mises_of_means,
    ),
    Family(
        td.Weibull,
        _POSITIVE,
        _positive,
        start=_weibull_start,
        log_prob=_weibull_log_prob,
        units={"scale": "scale"},
    ),
    Family(
        td.HalfCauchy,
        "a non-negative number",
        lambda x: torch.isfinite(x) & (x >= 0),
        start=_half_scale_start,
        log_prob=_half_cauchy_log_prob,
        units={"scale": "scale"},
    ),
    Family(
        td.HalfNormal,
        "a non-negative number",
        lambda x: torch.isfinite(x) & (x >= 0),
        _half_normal_estimate,
        lambda params, n: torch.diag(params["scale"].square()[None] / (2 * n)),
    ),
    Family(
        td.GeneralizedPareto,
        "a number of at least loc",
        lambda x, loc: torch.isfinite(x) & (x >= loc),
        start=_pareto_tail_start,
        log_prob=_pareto_tail_log_prob,
        units={"scale": "scale"},
        given=("loc",),
    ),
    Family(
        td.Pareto,
        _POSITIVE,
        _positive,
        _pareto_estimate,
        _pareto_covariance,
        log_prob=lambda x, scale, alpha: torch.where(
            x >= scale, alpha.log() + alpha * scale.log() - (alpha + 1) * x.log(), -math.inf
        ),
        corner="scale",
        not_regular="scale is the smallest value, which has no normal error; the error of alpha "
        "holds",
    ),
    Family(
        InverseGaussian,
        _POSITIVE,
        _positive,
        _inverse_gaussian_estimate,
        _inverse_gaussian_covariance,
    ),
    Family(
        td.FisherSnedecor,
        _POSITIVE,
        _positive,
        start=_f_start,
        log_prob=_f_log_prob,
        more_starts=lambda x, w: [
            {"df1": torch.full_like(mean, a), "df2": torch.full_like(mean, b)}
            for mean in (moments(x, w).mean,)
            for a, b in ((1.0, 1.0), (1.0, 30.0), (30.0, 1.0))
        ],
    ),
    Family(
        td.ContinuousBernoulli,
        "a number from 0 to 1",
        lambda x: (x >= 0) & (x <= 1),
        start=lambda x, w: {"probs": moments(x, w).mean.clamp(1e-3, 1 - 1e-3)},
        log_prob=_continuous_bernoulli_log_prob,
    ),
    Family(
        td.NegativeBinomial,
        "a non-negative integer",
        _whole,
        start=_negative_binomial_start,
        log_prob=_negative_binomial_log_prob,
        limit=("total_count", math.inf, td.Poisson, ()),
        near_limit=lambda poisson: {
            "total_count": torch.full_like(poisson["rate"], _HUGE),
            "probs": poisson["rate"] / (poisson["rate"] + _HUGE),
        },
    ),
)
