"""The families whose maximum likelihood estimate has no closed form, or a partial one: where a search for it starts.

Starts are by moments unless said otherwise (Johnson, Kotz and Balakrishnan 1994). A family whose parameters `move with
the data` is fitted to data of unit size and brought back. Where a few means of the data tell all, only these are used.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td

from nll.likelihood.closed_forms import log_rising, quantile
from nll.likelihood.distributions import GeneralizedExtremeValue, InverseGaussian, SkewNormal, log1p_ratio
from nll.likelihood.family import Family
from nll.likelihood.observations import total, totals
from nll.likelihood.parameters import Params

_EULER = 0.5772156649015329


class Moments(NamedTuple):
    """Weighted mean, standard deviation and skewness of each row of values (..., n)."""

    mean: Tensor
    spread: Tensor
    skewness: Tensor


def moments(values: Tensor, weights: Tensor) -> Moments:
    """Of the last dimension; a spread of 0 counts as 1e-3 of the mean, or 1."""
    share = weights / weights.sum(-1, keepdim=True)
    mean = (share * values).sum(-1)
    away = values - mean[..., None]
    spread = (share * away.square()).sum(-1).sqrt()
    third = (share * away.pow(3)).sum(-1)
    least = torch.where(mean != 0, 1e-3 * mean.abs(), 1.0)
    spread = torch.where(spread > 0, spread, least)
    return Moments(mean, spread, third / spread.pow(3))


def _log(values: Tensor) -> Tensor:
    """The logarithm of data, by NumPy's vector loops: three times as fast as PyTorch's in float64."""
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
    return gamma_shape((weights * values).sum(-1), (weights * values.log()).sum(-1), weights.sum(-1))


def gamma_shape(total: Tensor, logs: Tensor, n: Tensor) -> Params:
    """Minka's (2002) approximation of the shape from the gap between log mean and mean log."""
    mean = total / n
    gap = (mean.log() - logs / n).clamp(min=1e-12)
    shape = (3 - gap + ((gap - 3).square() + 24 * gap).sqrt()) / (12 * gap)
    return {"concentration": shape, "rate": shape / mean}


def _gamma_estimate(values: Tensor, weights: Tensor) -> Params:
    """The root of log shape - digamma(shape) = log mean - mean log, by Newton's method; rate = shape / mean."""
    sums, logs = totals(weights, values, lambda x: (x, _log(x)))
    n = total(weights)
    start = gamma_shape(sums, logs, n)
    shape, gap = start["concentration"], (sums / n).log() - logs / n
    for _ in range(8):
        miss = shape.log() - torch.digamma(shape) - gap
        shape = shape / (1 + miss / (1 - shape * torch.special.polygamma(1, shape)))
    return {"concentration": shape, "rate": shape * n / sums}


def _gamma_covariance(params: Params, n: float) -> Tensor:
    a, b = params["concentration"], params["rate"]
    trigamma = torch.special.polygamma(1, a)
    return _matrix([[a, b], [b, trigamma * b.square()]]) / (n * (a * trigamma - 1))


def _gamma_maximum(params: Params, n: float) -> Tensor:
    """By the likelihood equations, mean x = a / b and mean log x = digamma(a) - log b."""
    a, b = params["concentration"], params["rate"]
    return n * (b.log() - torch.lgamma(a) + (a - 1) * torch.digamma(a) - a)


def _gamma_log_prob(values: Tensor, concentration: Tensor, rate: Tensor) -> Tensor:
    constant = concentration * rate.log() - torch.lgamma(concentration)
    return (concentration - 1) * values.log() - rate * values + constant


def _gamma_of_means(means: tuple[Tensor, ...], concentration: Tensor, rate: Tensor) -> Tensor:
    mean, log = means
    return concentration * rate.log() - torch.lgamma(concentration) + (concentration - 1) * log - rate * mean


def _inverse_gamma_of_means(means: tuple[Tensor, ...], concentration: Tensor, rate: Tensor) -> Tensor:
    inverse, log = means
    return concentration * rate.log() - torch.lgamma(concentration) - (concentration + 1) * log - rate * inverse


def _chi2_of_means(means: tuple[Tensor, ...], df: Tensor) -> Tensor:
    mean, log = means
    return (df / 2 - 1) * log - mean / 2 - df / 2 * math.log(2) - torch.lgamma(df / 2)


def _beta_start(values: Tensor, weights: Tensor) -> Params:
    found = moments(values, weights)
    count = (found.mean * (1 - found.mean) / found.spread.square() - 1).clamp(1e-2, 1e6)
    return {"concentration1": found.mean * count, "concentration0": (1 - found.mean) * count}


def _beta_of_means(means: tuple[Tensor, ...], concentration1: Tensor, concentration0: Tensor) -> Tensor:
    up, down = means
    both = torch.lgamma(concentration1 + concentration0)
    normed = both - torch.lgamma(concentration1) - torch.lgamma(concentration0)
    return (concentration1 - 1) * up + (concentration0 - 1) * down + normed


def _dirichlet_start(values: Tensor, weights: Tensor) -> Params:
    share = (weights / weights.sum())[:, None]
    mean = (share * values).sum(0)
    variance = (share * (values - mean).square()).sum(0).clamp(min=1e-12)
    count = (mean * (1 - mean) / variance - 1).clamp(1e-2, 1e6).log().mean().exp()
    return {"concentration": mean * count}


def _kumaraswamy_log_prob(values: Tensor, concentration1: Tensor, concentration0: Tensor) -> Tensor:
    a, b, log = concentration1, concentration0, values.log()
    return a.log() + b.log() + (a - 1) * log + (b - 1) * torch.log(-torch.expm1(a * log))


# Location and scale.


def _student_start(values: Tensor, weights: Tensor, at: float = 0.5) -> Params:
    low, middle, high = (quantile(values, weights, q) for q in (0.25, at, 0.75))
    scale = (high - low) / 1.45  # the quartiles of Student's t with 5 degrees of freedom
    scale = torch.where(scale > 0, scale, moments(values, weights).spread)
    return {"df": torch.full_like(middle, 5.0), "loc": middle, "scale": scale}


def _student_log_prob(values: Tensor, df: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    z = (values - loc) / scale
    constant = log_rising(df / 2, torch.full_like(df, 0.5)) - 0.5 * (math.pi * df).log() - scale.log()
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
    shape = ((moments(values, weights).skewness - 1.14) / 8).clamp(-0.3, 0.3)  # a Gumbel variable's skewness is 1.14
    low, high = values.aminmax(dim=-1)
    return start | {"concentration": _inside(shape, start["scale"], start["loc"] - low, high - start["loc"])}


def _inside(shape: Tensor, scale: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """A shape small enough for all data to lie well inside of the support, which ends at loc - scale / shape."""
    most = torch.where(shape > 0, scale / (1.5 * below.clamp(min=1e-9)), scale / (1.5 * above.clamp(min=1e-9)))
    return torch.where(shape > 0, torch.minimum(shape, most), torch.maximum(shape, -most))


def _skew_normal_start(values: Tensor, weights: Tensor) -> Params:
    mean, spread, skew = moments(values, weights)
    size = skew.abs().clamp(min=0.05, max=0.9).pow(2 / 3)
    d = (math.pi / 2 * size / (size + (2 - math.pi / 2) ** (2 / 3))).sqrt().clamp(max=0.99)
    d = torch.where(skew < 0, -d, d)
    scale = spread / (1 - 2 * d.square() / math.pi).sqrt()
    return {"loc": mean - scale * d * (2 / math.pi) ** 0.5, "scale": scale, "skewness": d / (1 - d * d).sqrt()}


def _skew_normal_starts(values: Tensor, weights: Tensor) -> list[Params]:
    start = _skew_normal_start(values, weights)
    mean = moments(values, weights).mean
    return [{"loc": 2 * mean - start["loc"], "scale": start["scale"], "skewness": -start["skewness"]}]


def _von_mises_start(values: Tensor, weights: Tensor) -> Params:
    share = weights / weights.sum(-1, keepdim=True)
    c, s = (share * values.cos()).sum(-1), (share * values.sin()).sum(-1)
    r = (c.square() + s.square()).sqrt().clamp(max=1 - 1e-9)
    return {"loc": torch.atan2(s, c), "concentration": (r * (2 - r * r) / (1 - r * r)).clamp(min=1e-3)}


def _von_mises_of_means(means: tuple[Tensor, ...], loc: Tensor, concentration: Tensor) -> Tensor:
    c, s = means
    bessel = torch.special.i0e(concentration).log() + concentration
    return concentration * (loc.cos() * c + loc.sin() * s) - math.log(2 * math.pi) - bessel


# Scale and shape.


def _weibull_start(values: Tensor, weights: Tensor) -> Params:
    """By the moments of the logarithm, which has a Gumbel distribution."""
    mean, spread, _ = moments(values.log(), weights)
    shape = math.pi / math.sqrt(6) / spread
    return {"scale": (mean + _EULER / shape).exp(), "concentration": shape}


def _weibull_log_prob(values: Tensor, scale: Tensor, concentration: Tensor) -> Tensor:
    z = concentration * (values.log() - scale.log())
    return concentration.log() - values.log() + z - z.exp()


def _half_scale_start(values: Tensor, weights: Tensor) -> Params:
    return {"scale": quantile(values, weights, 0.5).clamp(min=1e-3)}


def _half_cauchy_log_prob(values: Tensor, scale: Tensor) -> Tensor:
    return math.log(2 / math.pi) - scale.log() - torch.log1p((values / scale).square())


def _half_normal_estimate(values: Tensor, weights: Tensor) -> Params:
    unit = values.amax(-1).clamp(min=torch.finfo(torch.float64).tiny)
    return {"scale": unit * (total(weights, (values / unit[..., None]).square()) / total(weights)).sqrt()}


def _pareto_tail_start(values: Tensor, weights: Tensor) -> Params:
    mean, spread, _ = moments(values, weights)
    ratio = (mean / spread).square()
    scale, shape = 0.5 * mean * (ratio + 1), (0.5 * (1 - ratio)).clamp(-0.3, 0.4)
    return {"scale": scale, "concentration": _inside(shape, scale, torch.zeros_like(scale), values.amax(-1))}


def _pareto_tail_log_prob(values: Tensor, scale: Tensor, concentration: Tensor, loc: Tensor) -> Tensor:
    return -scale.log() - (1 + concentration) * log1p_ratio(concentration, (values - loc) / scale)


def _pareto_estimate(values: Tensor, weights: Tensor) -> Params:
    """The smallest value, and the inverse mean of the logarithms above it."""
    low = torch.where(weights > 0, values, math.inf).amin(-1)
    return {"scale": low, "alpha": total(weights) / total(weights, (values / low[..., None]).log())}


def _pareto_covariance(params: Params, n: float) -> Tensor:
    unknown = torch.full_like(params["alpha"], torch.nan)
    return _matrix([[unknown, unknown], [unknown, params["alpha"] ** 2 / n]])


def _inverse_gaussian_estimate(values: Tensor, weights: Tensor) -> Params:
    n = total(weights)
    mean = total(weights, values) / n
    # mean(1 / x) - 1 / mean, as a sum of terms that are not negative
    away = (values / mean[..., None] - 1).square() / values
    return {"loc": mean, "concentration": n / total(weights, away)}


def _inverse_gaussian_covariance(params: Params, n: float) -> Tensor:
    mean, k = params["loc"], params["concentration"]
    return torch.diag(torch.stack([mean**3 / (k * n), 2 * k**2 / n]))


def _f_start(values: Tensor, weights: Tensor) -> Params:
    mean = moments(values, weights).mean
    df2 = torch.where(mean > 1.05, 2 * mean / (mean - 1), 42.0).clamp(max=42.0)
    return {"df1": torch.full_like(mean, 5.0), "df2": df2}


def _f_log_prob(values: Tensor, df1: Tensor, df2: Tensor) -> Tensor:
    """With a, b the halves of the degrees of freedom and y = df1 x / df2: y^a (1 + y)^-(a + b) / B(a, b) x."""
    y = df1 * values / df2
    small, large = torch.minimum(df1, df2) / 2, torch.maximum(df1, df2) / 2
    beta = torch.lgamma(small) - log_rising(large, small)
    return df1 / 2 * y.log() - (df1 + df2) / 2 * torch.log1p(y) - values.log() - beta


# Counts.


def _negative_binomial_start(values: Tensor, weights: Tensor) -> Params:
    mean, spread, _ = moments(values, weights)
    excess = (spread.square() / mean.clamp(min=1e-3) - 1).clamp(min=1e-2)
    count = (mean / excess).clamp(1e-2, 1e4)
    return {"total_count": count, "probs": mean / (mean + count)}


def _negative_binomial_log_prob(values: Tensor, total_count: Tensor, probs: Tensor) -> Tensor:
    choose = log_rising(total_count, values) - torch.lgamma(values + 1)
    return choose + total_count * torch.log1p(-probs) + torch.xlogy(values, probs)


# Expected information of one observation, by the parameters in their order.


def _weibull_information(scale: Tensor, concentration: Tensor) -> Tensor:
    cross = -(1 - _EULER) / scale
    both = (math.pi**2 / 6 + (1 - _EULER) ** 2) / concentration.square()
    return _matrix([[(concentration / scale).square(), cross], [cross, both]])


def _gumbel_information(loc: Tensor, scale: Tensor) -> Tensor:
    one = 1 / scale.square()
    return _matrix([[one, -(1 - _EULER) * one], [-(1 - _EULER) * one, (math.pi**2 / 6 + (1 - _EULER) ** 2) * one]])


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
        distribution, _FINITE, torch.isfinite, start=start, log_prob=log_prob, **{"units": _LOC_SCALE, **more}
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
        statistics=lambda x: (x, _log(x)),
        of_statistics=_chi2_of_means,
    ),
    Family(
        td.Beta,
        "a number between 0 and 1",
        _share,
        start=_beta_start,
        log_prob=lambda x, concentration1, concentration0: _beta_of_means(
            (x.log(), torch.log1p(-x)), concentration1, concentration0
        ),
        statistics=lambda x: (_log(x), torch.log1p(-x)),
        of_statistics=_beta_of_means,
    ),
    Family(td.Kumaraswamy, "a number between 0 and 1", _share, start=_beta_start, log_prob=_kumaraswamy_log_prob),
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
        more_starts=lambda x, w: [_student_start(x, w, q) for q in (0.25, 0.75)],
        limit=("df", math.inf, td.Normal, ("loc", "scale")),
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
        statistics=lambda x: (x.cos(), x.sin()),
        of_statistics=_von_mises_of_means,
    ),
    Family(
        td.Weibull, _POSITIVE, _positive, start=_weibull_start, log_prob=_weibull_log_prob, units={"scale": "scale"}
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
        not_regular="scale is the smallest value, which has no normal error; the error of alpha holds",
    ),
    Family(
        InverseGaussian,
        _POSITIVE,
        _positive,
        _inverse_gaussian_estimate,
        _inverse_gaussian_covariance,
    ),
    Family(td.FisherSnedecor, _POSITIVE, _positive, start=_f_start, log_prob=_f_log_prob),
    Family(
        td.ContinuousBernoulli,
        "a number from 0 to 1",
        lambda x: (x >= 0) & (x <= 1),
        start=lambda x, w: {"probs": moments(x, w).mean.clamp(1e-3, 1 - 1e-3)},
    ),
    Family(
        td.NegativeBinomial,
        "a non-negative integer",
        _whole,
        start=_negative_binomial_start,
        log_prob=_negative_binomial_log_prob,
        limit=("total_count", math.inf, td.Poisson, ()),
    ),
)
