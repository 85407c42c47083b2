"""The families of torch.distributions whose maximum likelihood estimate has a closed form.

Each family says what its support is, how the parameters follow from the data, and the covariance of
the
estimate: the inverse of the observed information at the maximum, unless it says otherwise.
Formulas: Johnson, Kotz and Balakrishnan, "Continuous Univariate Distributions" (1994), and Johnson,
Kemp and Kotz, "Univariate Discrete Distributions" (2005).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

from nll.data.observations import first_two_totals, total, totals
from nll.families.base import Family
from nll.solvers.parameters import Params


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """The mean, as a distance from the first value: exact where all are equal, and precise far from
    0.
    """
    first = values[..., :1]
    return first[..., 0] + totals(weights, values, lambda x: (x - first,))[0] / total(weights)


def quantile(values: Tensor, weights: Tensor, q: float) -> Tensor:
    """The smallest value that a share q of the weight does not exceed, along the last dimension."""
    values, weights = torch.broadcast_tensors(values, weights)
    order = values.argsort(-1)
    below = weights.gather(-1, order).cumsum(-1)
    at = torch.searchsorted(below.contiguous(), (q * below[..., -1:]).contiguous()).clamp(
        max=values.shape[-1] - 1
    )
    return values.gather(-1, order).gather(-1, at)[..., 0]


def log_peak(x: Tensor) -> Tensor:
    """log P(x) of a Poisson variable whose rate is x: x log x - x - log x!, by Stirling's series
    for large x.
    """
    n = x.clamp(min=16.0)
    tail = -_stirling(n) - 0.5 * (2 * math.pi * n).log()
    return torch.where(x < 16, torch.xlogy(x, x) - x - torch.lgamma(x + 1), tail)


def log_scaled_peak(a: Tensor) -> Tensor:
    """log(a^a e^-a / Gamma(a)): half a logarithm of a for large a, without the cancellation."""
    return log_peak(a) + a.log()


def log_ratio(x: Tensor, y: Tensor) -> Tensor:
    """log(x / y) of positive numbers, to all digits where they are nearly equal."""
    near = (x - y).abs() < 0.5 * y
    return torch.where(near, torch.log1p((torch.where(near, x, y) - y) / y), x.log() - y.log())


def expm1_less(t: Tensor) -> Tensor:
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


def less_log1p(w: Tensor) -> Tensor:
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


def distance(x: Tensor, mean: Tensor) -> Tensor:
    """x log(x / mean) + mean - x, without the cancellation (Loader 2000, "Fast and accurate
    computation of binomial probabilities"): with s = log(mean / x), x (exp(s) - 1 - s).
    """
    s = log_ratio(mean, torch.where(x > 0, x, 1.0))  # so that x = 0 leaves no NaN in a derivative
    return torch.where(x > 0, x * expm1_less(s), mean)


def _whole(values: Tensor) -> Tensor:
    return torch.isfinite(values) & (values == values.round()) & (values >= 0)


def _positive(values: Tensor) -> Tensor:
    return torch.isfinite(values) & (values > 0)


def _diagonal(*variances: Tensor) -> Tensor:
    return torch.diag(torch.stack(variances))


# Bernoulli, Binomial: p = successes / trials, variance p (1 - p) / trials.


def _binomial_estimate(values: Tensor, weights: Tensor, total_count: Any = 1) -> Params:
    n = torch.as_tensor(total_count, dtype=torch.float64)
    successes, failures = total(weights, values), total(weights, n - values)
    return {"probs": successes / (successes + failures)}


def _binomial_log_prob(values: Tensor, probs: Tensor, total_count: Any = 1) -> Tensor:
    n = torch.as_tensor(total_count, dtype=torch.float64)
    peaks = log_peak(values) + log_peak(n - values) - log_peak(n)
    return peaks - distance(values, n * probs) - distance(n - values, n * (1 - probs))


def _poisson_log_prob(values: Tensor, rate: Tensor) -> Tensor:
    return log_peak(values) - distance(values, rate)


def _trials(values: Tensor, weights: Tensor, total_count: Any) -> Tensor:
    return weights @ torch.as_tensor(total_count, dtype=torch.float64).expand_as(values)


def _binomial_covariance(params: Params, trials: float) -> Tensor:
    p = params["probs"]
    return _diagonal(p * (1 - p) / trials)


def _binomial_inside(values: Tensor, total_count: Any = 1) -> Tensor:
    return _whole(values) & (values <= torch.as_tensor(total_count, dtype=torch.float64))


# Categorical, Multinomial: shares of the counts, covariance (diag(p) - p p') / trials.


MOST_CATEGORIES = 1_000_000


def _categorical_estimate(values: Tensor, weights: Tensor) -> Params:
    counts = torch.bincount(values.long(), weights=weights)
    return {"probs": counts / counts.sum()}


def _categorical_log_prob(values: Tensor, probs: Tensor) -> Tensor:
    return probs.log()[values.long()]


def _multinomial_estimate(values: Tensor, weights: Tensor) -> Params:
    counts = weights @ values
    return {"probs": counts / counts.sum()}


def _multinomial_log_prob(values: Tensor, probs: Tensor) -> Tensor:
    n = values.sum(1)
    return (log_peak(values) - distance(values, n[:, None] * probs)).sum(1) - log_peak(n)


def _shares_covariance(params: Params, trials: float) -> Tensor:
    p = params["probs"]
    return (torch.diag(p) - torch.outer(p, p)) / trials


# Laplace: the median, and the mean distance from it. The likelihood has a corner at every
# observation, so that the second derivative by the location is 0 almost everywhere: the expected
# information n / b^2 stands for it.


def _laplace_estimate(values: Tensor, weights: Tensor) -> Params:
    loc = _median(values, weights)
    return {"loc": loc, "scale": _mean((values - loc[..., None]).abs(), weights)}


def _median(values: Tensor, weights: Tensor) -> Tensor:
    """The weighted median; the middle of the interval where every point is one, but for the
    rounding of the sums.
    """
    return (quantile(values, weights, 0.5 - 1e-14) + quantile(values, weights, 0.5 + 1e-14)) / 2


# Uniform: the extremes. Both are reached by the data, so that the score is not 0 there and there is
# no information; but (min - low) / (max - min) is pivotal, with P(> t) = (1 + t)^-(n - 1), and so
# is the other end.


def _uniform_estimate(values: Tensor, weights: Tensor) -> Params:
    seen = weights > 0
    low, high = (
        torch.where(seen, values, math.inf).amin(-1),
        torch.where(seen, values, -math.inf).amax(-1),
    )
    return {"low": low, "high": high}


def _uniform_log_prob(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    inside = (values >= low) & (values <= high)
    return torch.where(inside, -(high - low).log(), -math.inf)


def _uniform_interval(params: Params, n: float, level: float) -> dict[str, Tensor]:
    low, high = params["low"], params["high"]
    reach = (high - low) * ((1 - level) ** (-1 / (n - 1)) - 1) if n > 1 else torch.tensor(math.inf)
    return {"low": torch.stack([low - reach, low]), "high": torch.stack([high, high + reach])}


def _normal_covariance(params: Params, n: float) -> Tensor:
    variance = params["scale"] ** 2
    return _diagonal(variance / n, variance / (2 * n))


def _normal_estimate(values: Tensor, weights: Tensor) -> Params:
    loc = _mean(values, weights)
    low, high = values.amin(-1), values.amax(-1)  # ten times as fast as aminmax along a dimension
    unit = torch.maximum(loc - low, high - loc).clamp(min=torch.finfo(torch.float64).tiny)
    # the squares overflow above 1e154
    unit = torch.where((unit > 1e-100) & (unit < 1e100), 1.0, unit)
    plain = bool((unit == 1).all())

    def standard(x: Tensor) -> Tensor:
        z = x - loc[..., None]
        return z if plain else z / unit[..., None]

    first, second = first_two_totals(weights, values, standard)
    n = total(weights)
    # The mean is rounded: what it is off by is not part of the spread.
    variance = (second / n - (first / n).square()).clamp(min=0)
    return {"loc": loc, "scale": unit * variance.sqrt()}


def _log_normal_estimate(values: Tensor, weights: Tensor) -> Params:
    """Of the logarithms, as distances from the first, which keep the digits of data that are nearly
    equal.
    """
    first = values[..., :1]
    found = _normal_estimate(log_ratio(values, first), weights)
    return {"loc": first[..., 0].log() + found["loc"], "scale": found["scale"]}


def _normal_maximum(params: Params, n: float) -> Tensor:
    return -n * (params["scale"].log() + 0.5 * math.log(2 * math.pi) + 0.5)


# MultivariateNormal: mean and mean outer product about it; the errors of the two are independent,
# the second Wishart's.


def _normal_columns_estimate(values: Tensor, weights: Tensor) -> Params:
    n = weights.sum()
    loc = values[0] + weights @ (values - values[0]) / n
    away = values - loc
    away = away - weights @ away / n  # the mean is rounded
    return {"loc": loc, "covariance_matrix": away.T @ (weights[:, None] * away) / n}


def _normal_columns_covariance(params: Params, n: float) -> Tensor:
    """S / n, and (S_ik S_jl + S_il S_jk) / n of the numbers ij and kl of S."""
    s = params["covariance_matrix"]
    both = torch.einsum("ik,jl->ijkl", s, s) + torch.einsum("il,jk->ijkl", s, s)
    return torch.block_diag(s, both.reshape(s.numel(), s.numel())) / n


def _normal_columns_maximum(params: Params, n: float) -> Tensor:
    s = params["covariance_matrix"]
    return -0.5 * n * (torch.logdet(s) + len(s) * (1 + math.log(2 * math.pi)))


def _normal_columns_verdict(params: Params) -> str | None:
    """Columns that are combinations of each other, or as many as rows, let the density narrow onto
    them.
    """
    s = params["covariance_matrix"]
    unit = s.diagonal().clamp(min=torch.finfo(torch.float64).tiny).rsqrt()
    if not bool((s.diagonal() > 0).all()):
        flat = f"column {int((s.diagonal() <= 0).nonzero()[0])} is constant"
    elif (
        float(torch.linalg.eigvalsh(unit[:, None] * s * unit)[0])
        < 8 * len(s) * torch.finfo(torch.float64).eps
    ):
        flat = "a combination of the columns is constant"
    else:
        return None
    return f"no maximum: {flat}, and the likelihood grows without bound as the density narrows"


_COUNTS = "a non-negative integer"

FAMILIES = (
    Family(
        td.Bernoulli,
        "0 or 1",
        _binomial_inside,
        _binomial_estimate,
        _binomial_covariance,
        _binomial_log_prob,
    ),
    Family(
        td.Binomial,
        "an integer from 0 to total_count",
        _binomial_inside,
        _binomial_estimate,
        _binomial_covariance,
        _binomial_log_prob,
        size=_trials,
        given=("total_count",),
    ),
    Family(
        td.Geometric,
        _COUNTS,
        _whole,
        lambda x, w: {"probs": 1 / (1 + _mean(x, w))},
        lambda params, n: _diagonal(params["probs"] ** 2 * (1 - params["probs"]) / n),
    ),
    Family(
        td.Poisson,
        _COUNTS,
        _whole,
        lambda x, w: {"rate": _mean(x, w)},
        lambda params, n: _diagonal(params["rate"] / n),
        _poisson_log_prob,
    ),
    Family(
        td.Categorical,
        _COUNTS,
        _whole,
        _categorical_estimate,
        _shares_covariance,
        _categorical_log_prob,
        simplex=True,
    ),
    Family(
        td.Multinomial,
        "non-negative integers",
        _whole,
        _multinomial_estimate,
        _shares_covariance,
        _multinomial_log_prob,
        size=lambda x, w: w @ x.sum(1),
        columns=True,
        simplex=True,
    ),
    Family(
        td.Normal,
        "a finite number",
        torch.isfinite,
        _normal_estimate,
        _normal_covariance,
        maximum=_normal_maximum,
    ),
    Family(
        td.MultivariateNormal,
        "finite numbers",
        torch.isfinite,
        _normal_columns_estimate,
        _normal_columns_covariance,
        maximum=_normal_columns_maximum,
        columns=True,
        verdict=_normal_columns_verdict,
    ),
    Family(
        td.LogNormal,
        "a positive number",
        _positive,
        _log_normal_estimate,
        _normal_covariance,
        maximum=lambda params, n: _normal_maximum(params, n) - n * params["loc"],
    ),
    Family(
        td.Exponential,
        "a non-negative number",
        lambda x: torch.isfinite(x) & (x >= 0),
        lambda x, w: {"rate": 1 / _mean(x, w)},
        lambda params, n: _diagonal(params["rate"] ** 2 / n),
    ),
    Family(
        td.Laplace,
        "a finite number",
        torch.isfinite,
        _laplace_estimate,
        lambda params, n: _diagonal(params["scale"] ** 2 / n, params["scale"] ** 2 / n),
        information="expected",
        corner="loc",
    ),
    Family(
        td.Uniform,
        "a finite number",
        torch.isfinite,
        _uniform_estimate,
        lambda params, n: torch.full((2, 2), torch.nan, dtype=torch.float64),
        _uniform_log_prob,
        information="none",
        interval=_uniform_interval,
        not_regular="the support moves with the parameters, so that there is no information; "
        "interval() is exact",
    ),
)
