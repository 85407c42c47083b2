"""Logarithms of distribution and survival functions, exact far out in the tails, differentiable by all parameters.

Where there is no formula the density is integrated. In a variable in which it is log-concave, the tail that leads away
from the mode falls off at least as fast as an exponential: Gauss and Legendre's rule over a few panels, the first ones
short, gives it to rounding. Derivatives are those of the rule, whose nodes move with the end of the tail. The other
tail is log(1 - the first), which is not small: at the mode of a log-concave density both hold at least 1 / e.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributions as td

from nll.likelihood.closed_forms import log_rising
from nll.likelihood.distributions import GeneralizedExtremeValue, InverseGaussian, SkewNormal, log1p_ratio, log_ndtr
from nll.likelihood.family import Family
from nll.likelihood.parameters import Params

# Panels of the rule end at these shares of the tail's length; of what is beyond exp(-40) nothing is seen.
_PANELS = (0.0, 8.0**-4, 8.0**-3, 8.0**-2, 8.0**-1, 1.0)
_NODES, _FALL = 32, 40.0


class Tails(NamedTuple):
    """log P(X <= x) and log P(X > x)."""

    below: Tensor
    above: Tensor


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(-x)) for x > 0, without cancellation on either side (Maechler 2012)."""
    near = x < math.log(2)
    low, high = torch.where(near, x, 1.0), torch.where(near, 1.0, x)
    return torch.where(near, torch.log(-torch.expm1(-low)), torch.log1p(-torch.exp(-high)))


def log_difference(a: Tensor, b: Tensor) -> Tensor:
    """log(exp(a) - exp(b)) for a > b."""
    return a + log1mexp(a - b)


def log_probability(tails: Callable[..., Tails], low: Tensor, high: Tensor, params: dict[str, Tensor]) -> Tensor:
    """log P(low < X <= high), where an end may be infinite, from the tail in which the interval lies."""
    some = torch.where(low.isfinite(), low, torch.where(high.isfinite(), high, 1.0))
    from_, to = tails(some, **params), tails(torch.where(high.isfinite(), high, some), **params)
    open_low, open_high = low == -math.inf, high == math.inf
    upper = from_.below > -math.log(2)
    both = ~open_low & ~open_high
    top, bottom = torch.where(upper, from_.above, to.below), torch.where(upper, to.above, from_.below)
    between = log_difference(torch.where(both, top, 0.0), torch.where(both, bottom, -1.0))
    found = torch.where(open_high, from_.above, torch.where(open_low, to.below, between))
    return torch.where(open_low & open_high, 0.0, found)


# ---- By integration ------------------------------------------------------------------------------------------------


@cache
def _rule() -> tuple[Tensor, Tensor]:
    """Nodes in (0, 1) and the logarithms of their weights."""
    x, w = np.polynomial.legendre.leggauss(_NODES)
    edges = np.array(_PANELS)
    width = np.diff(edges)[:, None]
    nodes, weights = edges[:-1, None] + width * (x + 1) / 2, width * w / 2
    return torch.from_numpy(nodes.reshape(-1)), torch.from_numpy(np.log(weights.reshape(-1)))


def _integrated(log_density: Callable[[Tensor], Tensor], slope: Tensor, end: Tensor) -> Tails:
    """The tails of a log-concave density at `end`, given the slope of its logarithm there.

    `log_density` takes (..., k) points, with parameters that have a last dimension of 1.
    """
    end, slope = torch.broadcast_tensors(end, slope)
    side = torch.where(slope.detach() >= 0, -1.0, 1.0)  # away from the mode
    length = _length(log_density, slope.detach(), end.detach(), side)
    nodes, log_weights = _rule()
    points = end[..., None] + (side * length)[..., None] * nodes
    tail = torch.logsumexp(log_density(points) + log_weights, -1) + length.log()
    tail = tail.clamp(max=-1e-12)  # what rounding may leave of a probability near 1
    rest = log1mexp(-tail)
    return Tails(torch.where(side < 0, tail, rest), torch.where(side < 0, rest, tail))


def _length(log_density: Callable[[Tensor], Tensor], slope: Tensor, end: Tensor, side: Tensor) -> Tensor:
    """How far the density takes to fall by exp(-40), to a factor of 2: at most 40 / |slope|."""
    with torch.no_grad():
        length = _FALL / slope.abs().clamp(min=1e-8)
        top = log_density(end[..., None])[..., 0]
        for _ in range(64):
            fall = top - log_density((end + side * length / 2)[..., None])[..., 0]
            long = fall >= _FALL
            if not bool(long.any()):
                break
            length = torch.where(long, length / 2, length)
    return length


def _gamma(log_end: Tensor, shape: Tensor) -> Tails:
    """Of log X, X with the standard gamma distribution: density exp(a s - e^s) / Gamma(a)."""
    a = shape[..., None]
    return _integrated(lambda s: a * s - s.exp() - torch.lgamma(a), shape - log_end.exp(), log_end)


def _beta(logit_end: Tensor, up: Tensor, down: Tensor) -> Tails:
    """Of logit X, X with the beta distribution: density p^a (1 - p)^b / B(a, b)."""
    up, down = torch.broadcast_tensors(up, down)
    a, b = up[..., None], down[..., None]
    constant = log_rising(torch.maximum(a, b), torch.minimum(a, b)) - torch.lgamma(torch.minimum(a, b))
    slope = up * torch.sigmoid(-logit_end) - down * torch.sigmoid(logit_end)
    return _integrated(lambda s: a * F.logsigmoid(s) + b * F.logsigmoid(-s) + constant, slope, logit_end)


def _student(x: Tensor, df: Tensor, loc: Tensor, scale: Tensor) -> Tails:
    """With z = sqrt(df) sinh(u) the density by u is that of cosh(u)^-df."""
    v = df[..., None]
    end = torch.asinh((x - loc) / scale / df.sqrt())
    constant = log_rising(v / 2, torch.full_like(v, 0.5)) - 0.5 * math.log(math.pi)
    return _integrated(lambda u: constant - v * (u + F.softplus(-2 * u) - math.log(2)), -df * torch.tanh(end), end)


def _skew_normal(x: Tensor, loc: Tensor, scale: Tensor, skewness: Tensor) -> Tails:
    z, a = (x - loc) / scale, skewness[..., None]
    ratio = torch.exp(-0.5 * (skewness * z).square() - 0.5 * math.log(2 * math.pi) - log_ndtr(skewness * z))
    constant = math.log(2) - 0.5 * math.log(2 * math.pi)
    return _integrated(lambda s: constant - 0.5 * s.square() + log_ndtr(a * s), -z + skewness * ratio, z)


# ---- By formula ----------------------------------------------------------------------------------------------------


def _swap(tails: Tails) -> Tails:
    return Tails(tails.above, tails.below)


def _of_survival(above: Tensor) -> Tails:
    return Tails(log1mexp(-above), above)


def _normal(x: Tensor, loc: Tensor, scale: Tensor) -> Tails:
    z = (x - loc) / scale
    return Tails(log_ndtr(z), log_ndtr(-z))


def _laplace(x: Tensor, loc: Tensor, scale: Tensor) -> Tails:
    z = (x - loc) / scale
    tail = -z.abs() - math.log(2)
    rest = torch.log1p(-tail.exp())
    return Tails(torch.where(z < 0, tail, rest), torch.where(z < 0, rest, tail))


def _cauchy(x: Tensor, loc: Tensor, scale: Tensor) -> Tails:
    z = (x - loc) / scale
    return Tails(_log_angle(-z), _log_angle(z))


def _log_angle(z: Tensor) -> Tensor:
    """log P(X > z) of a standard Cauchy variable: log(atan2(1, z) / pi)."""
    return torch.atan2(torch.ones_like(z), z).log() - math.log(math.pi)


def _gumbel(x: Tensor, loc: Tensor, scale: Tensor) -> Tails:
    e = torch.exp(-(x - loc) / scale)
    return Tails(-e, log1mexp(e))


def _extreme(x: Tensor, loc: Tensor, scale: Tensor, concentration: Tensor) -> Tails:
    e = torch.exp(-log1p_ratio(concentration, (x - loc) / scale))
    return Tails(-e, log1mexp(e))


def _inverse_gaussian(x: Tensor, loc: Tensor, concentration: Tensor) -> Tails:
    """F = Phi(a) + exp(2 k / m) Phi(-b), with a, b = sqrt(k / x) (x / m -+ 1) (Shuster 1968)."""
    root, ratio = (concentration / x).sqrt(), x / loc
    first, other = root * (ratio - 1), 2 * concentration / loc + log_ndtr(-root * (ratio + 1))
    below = torch.logsumexp(torch.stack([log_ndtr(first), other]), 0).clamp(max=-1e-300)
    return Tails(below, log_difference(log_ndtr(-first), other))


def _kumaraswamy(x: Tensor, concentration1: Tensor, concentration0: Tensor) -> Tails:
    return _of_survival(concentration0 * log1mexp(-concentration1 * x.log()))


def _logit(x: Tensor) -> Tensor:
    return x.log() - torch.log1p(-x)


def _binomial(x: Tensor, probs: Tensor, total_count: Tensor) -> Tails:
    last = x >= total_count
    found = _swap(_beta(_logit(probs) + torch.zeros_like(x), x + 1, torch.where(last, 1.0, total_count - x)))
    return Tails(torch.where(last, 0.0, found.below), torch.where(last, -math.inf, found.above))


def _half_cauchy(x: Tensor, scale: Tensor) -> Tails:
    z = x / scale
    return Tails((2 / math.pi * z.atan()).log(), _log_angle(z) + math.log(2))


TAILS: dict[type[td.Distribution], Callable[..., Tails]] = {
    td.Normal: _normal,
    td.LogNormal: lambda x, loc, scale: _normal(x.log(), loc, scale),
    td.Laplace: _laplace,
    td.Cauchy: _cauchy,
    td.Gumbel: _gumbel,
    GeneralizedExtremeValue: _extreme,
    td.StudentT: _student,
    SkewNormal: _skew_normal,
    td.Exponential: lambda x, rate: _of_survival(-rate * x),
    td.Weibull: lambda x, scale, concentration: _of_survival(-torch.exp(concentration * (x.log() - scale.log()))),
    td.Gamma: lambda x, concentration, rate: _gamma(x.log() + rate.log(), concentration),
    td.InverseGamma: lambda x, concentration, rate: _swap(_gamma(rate.log() - x.log(), concentration)),
    td.Chi2: lambda x, df: _gamma((x / 2).log() + torch.zeros_like(df), df / 2),
    td.HalfNormal: lambda x, scale: Tails(
        torch.erf(x / (scale * math.sqrt(2))).log(), math.log(2) + log_ndtr(-x / scale)
    ),
    td.HalfCauchy: _half_cauchy,
    td.GeneralizedPareto: lambda x, scale, concentration, loc: _of_survival(
        -log1p_ratio(concentration, (x - loc) / scale)
    ),
    InverseGaussian: _inverse_gaussian,
    td.FisherSnedecor: lambda x, df1, df2: _beta(x.log() + df1.log() - df2.log(), df1 / 2, df2 / 2),
    td.Beta: lambda x, concentration1, concentration0: _beta(_logit(x), concentration1, concentration0),
    td.Kumaraswamy: _kumaraswamy,
    td.Geometric: lambda x, probs: _of_survival((x + 1) * torch.log1p(-probs)),
    td.Poisson: lambda x, rate: _swap(_gamma(rate.log() + torch.zeros_like(x), x + 1)),
    td.NegativeBinomial: lambda x, total_count, probs: _swap(_beta(_logit(probs) + 0.0 * x, x + 1, total_count)),
    td.Binomial: _binomial,
}


class Interval:
    """The log-probabilities of rows of which only (low, high) is known; then come the given numbers of each row.

    For counts both ends belong to it.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        tails_of(family.distribution)

    def __call__(self, parts: tuple[Tensor, ...], params: Params) -> Tensor:
        """Return the log-probabilities (b, m)."""
        low, high, *given = parts
        known = dict(zip(self.family.given, given, strict=True))
        low, high = self.open(low, high, known)
        return log_probability(tails_of(self.family.distribution), low, high, {**params, **known})

    def open(self, low: Tensor, high: Tensor, known: Params) -> tuple[Tensor, Tensor]:
        """The ends, without what is outside of the support anyway."""
        first, last = self.family.ends(known)
        if self.family.discrete:
            low, high, first = low.ceil() - 1, high.floor(), first - 1
        return torch.where(low <= first, -math.inf, low), torch.where(high >= last, math.inf, high)


class Windowed:
    """Rows of a family that are seen only inside a window: their log-probabilities less that of the window.

    The first two parts are the window's ends.
    """

    def __init__(self, rows: Callable[..., Tensor], window: Interval) -> None:
        self.rows, self.window = rows, window

    def __call__(self, parts: tuple[Tensor, ...], params: Params) -> Tensor:
        """Return the log-probabilities (b, m)."""
        low, high, *own = parts
        given = own[len(own) - len(self.window.family.given) :]
        return self.rows(tuple(own), params) - self.window((low, high, *given), params)


def tails_of(distribution: type[td.Distribution]) -> Callable[..., Any]:
    """The tails of a family. Raises ValueError for one that cannot be censored or truncated."""
    if distribution not in TAILS:
        names = ", ".join(family.__name__ for family in TAILS)
        raise ValueError(f"expected a family whose tails are known ({names}), got {distribution.__name__}")
    return TAILS[distribution]
