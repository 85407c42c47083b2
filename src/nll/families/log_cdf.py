"""Logarithms of distribution and survival functions, exact far out in the tails, differentiable by
all parameters.

Where there is no formula the density is integrated. In a variable in which it is log-concave, the
tail that leads away
from the mode falls off at least as fast as an exponential: Gauss and Legendre's rule over a few
panels, the first ones short, gives it to rounding. Derivatives are those of the rule, whose nodes
move with the end of the tail. The other tail is log(1 - the first), which is not small: at the mode
of a log-concave density both hold at least 1 / e.
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

from nll.families.base import Family, FamilyRows
from nll.families.closed_forms import (
    expm1_less,
    less_log1p,
    log1mexp,
    log_mean_exp,
    log_ratio,
    log_rising,
    log_scaled_peak,
)
from nll.families.distributions import (
    GeneralizedExtremeValue,
    InverseGaussian,
    SkewNormal,
    log1p_ratio,
    log_ndtr,
)
from nll.solvers.parameters import Params

# Panels of the rule end at these shares of the tail's length; of what is beyond exp(-40) nothing is
# seen.
_PANELS = (0.0, 4.0**-6, 4.0**-5, 4.0**-4, 4.0**-3, 4.0**-2, 0.25, 0.5, 1.0)
_NODES, _FALL = 20, 40.0
_NARROW = 1e-3  # how far the logarithms of a tail lie apart at the ends of a narrow interval
_HUGE = 300.0  # the logarithm of a hazard beyond which a tail is nothing, and has no derivative
_FEW = 32  # counts that are added one by one


class Tails(NamedTuple):
    """log P(X <= x) and log P(X > x)."""

    below: Tensor
    above: Tensor


def log_difference(a: Tensor, b: Tensor) -> Tensor:
    """log(exp(a) - exp(b)) for a > b."""
    return a + log1mexp(a - b)


def log_probability(
    tails: Callable[..., Tails],
    low: Tensor,
    high: Tensor,
    params: dict[str, Tensor],
    density: Callable[[Tensor], Tensor] | None = None,
    discrete: bool = False,
    inside: Tensor | float = 1.0,
) -> Tensor:
    """log P(low < X <= high), where an end may be infinite, from the tail in which the interval
    lies.

    Args:
        tails: of the family, by a point and the parameters.
        low, high: the ends; those at an end of the support are infinite.
        params: of the family.
        density: the log-density of points: of an interval so narrow that its tails agree, it keeps
            the digits.
        discrete: whether the density is that of whole numbers.
        inside: a point of the support, at which the tails of the whole of it are taken and not
            used.
    """
    some = torch.where(low.isfinite(), low, torch.where(high.isfinite(), high, inside))
    from_, to = tails(some, **params), tails(torch.where(high.isfinite(), high, some), **params)
    open_low, open_high = low == -math.inf, high == math.inf
    upper = from_.below > -math.log(2)
    both = ~open_low & ~open_high
    top, bottom = (
        torch.where(upper, from_.above, to.below),
        torch.where(upper, to.above, from_.below),
    )
    top, gap = torch.where(both, top, 0.0), torch.where(both, top - bottom, 1.0)
    near = (gap.detach() < _NARROW) & both
    if density is not None and bool(near.any()):
        of_density = (_summed if discrete else _by_nodes)(
            density, torch.where(both, low, some), high, near
        )
        plain = top.detach() + log1mexp(gap.detach().clamp(min=1e-300))
        near = (
            near
            & of_density.isfinite()
            & ((gap < 1e-9) | ((of_density.detach() - plain).abs() < 1e-2))
        )
        between = torch.where(near, of_density, top + log1mexp(torch.where(near, 1.0, gap)))
    else:
        between = top + log1mexp(gap)
    found = torch.where(open_high, from_.above, torch.where(open_low, to.below, between))
    return torch.where(open_low & open_high, 0.0, found)


def _by_nodes(
    density: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, near: Tensor
) -> Tensor:
    """The integral of a density by Gauss and Legendre's rule; -inf where 6 nodes and 3 do not
    agree.
    """
    low, high = torch.broadcast_tensors(low, torch.where(near, high, low))
    middle, half = low + (high - low) / 2, (high - low) / 2

    def rule(count: int) -> Tensor:
        x, w = np.polynomial.legendre.leggauss(count)
        parts = [
            math.log(v / 2) + density(middle + half * u)
            for u, v in zip(x.tolist(), w.tolist(), strict=True)
        ]
        return torch.logsumexp(torch.stack(parts), 0)

    fine = rule(6)
    with torch.no_grad():
        agree = near & ((fine - rule(3)).abs() < 1e-10)
    return torch.where(agree, fine + torch.where(near, high - low, 1.0).log(), -math.inf)


def _summed(density: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, near: Tensor) -> Tensor:
    """The sum of a few probabilities, of the whole numbers above `low`; -inf where they are
    many.
    """
    count = torch.where(near, high - low, 0.0)
    few = near & (count <= _FEW)
    parts = [
        torch.where(i < count, density(low + 1 + torch.where(i < count, float(i), 0.0)), -math.inf)
        for i in range(int(torch.where(few, count, 0.0).max()))
    ]
    return (
        torch.where(few, log_sum(torch.stack(parts), 0), -math.inf)
        if parts
        else torch.full_like(count, -math.inf)
    )


def log_sum(terms: Tensor, dim: int) -> Tensor:
    """logsumexp along a dimension, without a NaN in the derivatives where all terms are -inf."""
    none = (terms.detach() == -math.inf).all(dim, keepdim=True)
    found = torch.logsumexp(torch.where(none, 0.0, terms), dim)
    return torch.where(none.squeeze(dim), -math.inf, found)


# ---- By integration ------------------------------------------------------------------------------


@cache
def _rule() -> tuple[Tensor, Tensor]:
    """Nodes in (0, 1) and the logarithms of their weights."""
    x, w = np.polynomial.legendre.leggauss(_NODES)
    edges = np.array(_PANELS)
    width = np.diff(edges)[:, None]
    nodes, weights = edges[:-1, None] + width * (x + 1) / 2, width * w / 2
    return torch.from_numpy(nodes.reshape(-1)), torch.from_numpy(np.log(weights.reshape(-1)))


def _integrated(
    log_density: Callable[[Tensor], Tensor],
    slope: Tensor,
    end: Tensor,
    least: Tensor | float = 1e-8,
) -> Tails:
    """The tails of a log-concave density at `end`, given the slope of its logarithm there, and
    `least`, which it reaches far out.

    `log_density` takes (..., k) points, with parameters that have a last dimension of 1.
    """
    end, slope = torch.broadcast_tensors(end, slope)
    side = torch.where(slope.detach() >= 0, -1.0, 1.0)  # away from the mode
    length = _length(log_density, slope.detach(), end.detach(), side, least)
    nodes, log_weights = _rule()
    points = end[..., None] + (side * length)[..., None] * nodes
    tail = torch.logsumexp(log_density(points) + log_weights, -1) + length.log()
    tail = tail.clamp(max=-1e-12)  # what rounding may leave of a probability near 1
    rest = log1mexp(-tail)
    return Tails(torch.where(side < 0, tail, rest), torch.where(side < 0, rest, tail))


def _length(
    log_density: Callable[[Tensor], Tensor],
    slope: Tensor,
    end: Tensor,
    side: Tensor,
    least: Tensor | float,
) -> Tensor:
    """How far the density takes to fall by exp(-40), to a factor of 2: at most 40 / |slope|."""
    with torch.no_grad():
        length = _FALL / slope.abs().clamp(min=least)
        top = log_density(end[..., None])[..., 0]
        for _ in range(64):
            fall = top - log_density((end + side * length / 2)[..., None])[..., 0]
            long = fall >= _FALL
            if not bool(long.any()):
                break
            length = torch.where(long, length / 2, length)
    return length


def _gamma(log_end: Tensor, shape: Tensor) -> Tails:
    """Of s = log(X / a), X with the standard gamma distribution: density a^a e^-a / Gamma(a) exp(-a
    (e^s - 1 - s)).
    """
    a = shape[..., None]
    peak = log_scaled_peak(a)
    return _integrated(lambda s: peak - a * expm1_less(s), -shape * torch.expm1(log_end), log_end)


def _beta(end: Tensor, up: Tensor, down: Tensor) -> Tails:
    """Of s = logit X - log(a / b), X with the beta distribution: density p^a (1 - p)^b / B(a, b).

    With p = a / (a + b), not above 1 / 2, and w = p (e^s - 1) its logarithm is that of the peak
    less (a + b) (p (e^s - 1 - s) - (w - log(1 + w))).
    """
    up, down, end = torch.broadcast_tensors(up, down, end)
    turned = up > down
    small, large = torch.minimum(up, down), torch.maximum(up, down)
    sign = torch.where(turned, -1.0, 1.0)[..., None]
    a, b = small[..., None], large[..., None]
    share, peak = a / (a + b), log_scaled_peak(a) + log_scaled_peak(b) - log_scaled_peak(a + b)
    middle = a.log() - b.log()

    def log_density(s: Tensor) -> Tensor:
        s = sign * s
        near = s.abs() < 0.5
        u = torch.where(near, s, 0.0)
        w = share * torch.expm1(u)
        close = (a + b) * (less_log1p(w) - share * expm1_less(u))
        t = middle + torch.where(near, 0.5, s)
        far = a * (F.logsigmoid(t) - F.logsigmoid(middle)) + b * (
            F.logsigmoid(-t) - F.logsigmoid(-middle)
        )
        return peak + torch.where(near, close, far)

    logit = up.log() - down.log() + end
    close = -up * torch.expm1(end.clamp(-1, 1)) * torch.sigmoid(-logit)
    slope = torch.where(
        end.abs() < 1, close, up * torch.sigmoid(-logit) - down * torch.sigmoid(logit)
    )
    return _integrated(log_density, slope, end, small.detach().clamp(max=1e-8))


def _student(x: Tensor, df: Tensor, loc: Tensor, scale: Tensor) -> Tails:
    """With z = sqrt(df) sinh(u) the density by u is that of cosh(u)^-df."""
    v = df[..., None]
    end = torch.asinh((x - loc) / scale / df.sqrt())
    constant = log_rising(v / 2, torch.full_like(v, 0.5)) - 0.5 * math.log(math.pi)

    def log_density(u: Tensor) -> Tensor:
        near = u.abs() < 1
        close = 0.5 * torch.log1p(torch.sinh(torch.where(near, u, 0.0)).square())
        far = u.abs() + torch.log1p(torch.exp(-2 * u.abs())) - math.log(2)
        return constant - v * torch.where(near, close, far)

    return _integrated(log_density, -df * torch.tanh(end), end)


def _skew_normal(x: Tensor, loc: Tensor, scale: Tensor, skewness: Tensor) -> Tails:
    z, a = (x - loc) / scale, skewness[..., None]
    ratio = torch.exp(
        -0.5 * (skewness * z).square() - 0.5 * math.log(2 * math.pi) - log_ndtr(skewness * z)
    )
    constant = math.log(2) - 0.5 * math.log(2 * math.pi)
    return _integrated(
        lambda s: constant - 0.5 * s.square() + log_ndtr(a * s), -z + skewness * ratio, z
    )


# ---- By formula ----------------------------------------------------------------------------------


def _swap(tails: Tails) -> Tails:
    return Tails(tails.above, tails.below)


def _of_log_hazard(h: Tensor) -> Tails:
    """The tails where P(X > x) = exp(-exp(h)); for small exp(h) the lower one is exp(h) itself."""
    tiny, huge = h < -40, h > _HUGE
    e = torch.exp(torch.where(tiny | huge, 0.0, h))
    below = torch.where(tiny, h, torch.where(huge, 0.0, log1mexp(e)))
    return Tails(
        below, torch.where(tiny, -torch.exp(h.clamp(max=0.0)), torch.where(huge, -math.inf, -e))
    )


def _beyond(inside: Tensor, at_low: Tensor, tails: Tails) -> Tails:
    """Tails of a family whose support ends at its parameters; outside they are 0 and 1, by `at_low`
    at which end.
    """
    nothing, all_ = torch.where(inside, 0.0, -math.inf), torch.zeros_like(tails.below)
    below, above = torch.where(at_low, nothing, all_), torch.where(at_low, all_, nothing)
    return Tails(torch.where(inside, tails.below, below), torch.where(inside, tails.above, above))


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
    return _swap(_of_log_hazard((loc - x) / scale))


def _extreme(x: Tensor, loc: Tensor, scale: Tensor, concentration: Tensor) -> Tails:
    s, inside = _log1p_ratio_inside(concentration, (x - loc) / scale)
    return _beyond(inside, concentration > 0, _swap(_of_log_hazard(-s)))


def _pareto_tail(x: Tensor, loc: Tensor, scale: Tensor, concentration: Tensor) -> Tails:
    s, inside = _log1p_ratio_inside(concentration, (x - loc) / scale)
    above = x > loc
    some = torch.where(above & inside, s, 1.0)
    return _beyond(inside & above, ~above, _of_log_hazard(some.log()))


def _pareto(x: Tensor, scale: Tensor, alpha: Tensor) -> Tails:
    inside = x > scale
    some = torch.where(inside, x, 2 * scale)
    return _beyond(inside, ~inside, _of_log_hazard(alpha.log() + log_ratio(some, scale).log()))


def _log1p_ratio_inside(c: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """log(1 + c z) / c, and where it is: 0 elsewhere, without a NaN in a derivative."""
    inside = 1 + c * z > 0
    return log1p_ratio(c, torch.where(inside, z, 0.0)), inside


def _inverse_gaussian(x: Tensor, loc: Tensor, concentration: Tensor) -> Tails:
    """F = Phi(a) + exp(2 k / m) Phi(-b), with a, b = sqrt(k / x) (x / m -+ 1) (Shuster 1968).

    The second term is exp(-a^2 / 2) erfcx(b / sqrt(2)) / 2, as 2 k / m = (b^2 - a^2) / 2.
    """
    root, ratio = (concentration / x).sqrt(), x / loc
    a, b = root * ((x - loc) / loc), root * (ratio + 1)
    other = -0.5 * a.square() + _log_erfcx(b / math.sqrt(2)) - math.log(2)
    below = torch.logsumexp(torch.stack([log_ndtr(a), other]), 0).clamp(max=-1e-300)
    return Tails(below, log_difference(log_ndtr(-a), other))


def _log_erfcx(y: Tensor) -> Tensor:
    """log(exp(y^2) erfc(y)) for y > 0, by its asymptotic series for large y, where derivatives
    cancel.
    """
    far = y > 50
    q = 1 / (2 * torch.where(far, y, 50.0).square())
    series = (
        torch.log1p(-q * (1 - 3 * q * (1 - 5 * q * (1 - 7 * q))))
        - y.log()
        - 0.5 * math.log(math.pi)
    )
    return torch.where(far, series, torch.special.erfcx(torch.where(far, 1.0, y)).log())


def _kumaraswamy(x: Tensor, concentration1: Tensor, concentration0: Tensor) -> Tails:
    power = -concentration1 * x.log()  # of x^a, minus the logarithm
    small = power > 40
    rest = torch.log(-log1mexp(torch.where(small, 1.0, power)))
    return _of_log_hazard(concentration0.log() + torch.where(small, -power, rest))


def _continuous_bernoulli(x: Tensor, probs: Tensor) -> Tails:
    """(e^(c x) - 1) / (e^c - 1), c the logit of probs: of negative c as it is, of the others from
    the other side.
    """
    c = probs.log() - torch.log1p(-probs)
    return Tails(_share_below(x, c), _share_below(1 - x, -c))


def _share_below(x: Tensor, c: Tensor) -> Tensor:
    """log((e^(c x) - 1) / (e^c - 1)): log x + g(c x) - g(c) with g(t) = log((e^t - 1) / t)."""
    return x.log() + log_mean_exp(c * x) - log_mean_exp(c)


def _binomial(x: Tensor, probs: Tensor, total_count: Tensor) -> Tails:
    last = x >= total_count
    rest = torch.where(last, 1.0, total_count - x)
    found = _swap(_beta(log_ratio(probs * rest, (1 - probs) * (x + 1)), x + 1, rest))
    return Tails(torch.where(last, 0.0, found.below), torch.where(last, -math.inf, found.above))


def _negative_binomial(x: Tensor, total_count: Tensor, probs: Tensor) -> Tails:
    return _swap(_beta(log_ratio(probs * total_count, (1 - probs) * (x + 1)), x + 1, total_count))


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
    td.Exponential: lambda x, rate: _of_log_hazard(rate.log() + x.log()),
    td.Weibull: lambda x, scale, concentration: _of_log_hazard(concentration * log_ratio(x, scale)),
    td.Gamma: lambda x, concentration, rate: _gamma(
        log_ratio(x * rate, concentration), concentration
    ),
    td.InverseGamma: lambda x, concentration, rate: _swap(
        _gamma(log_ratio(rate, x * concentration), concentration)
    ),
    td.Chi2: lambda x, df: _gamma(log_ratio(x, df), df / 2),
    td.HalfNormal: lambda x, scale: Tails(
        torch.erf(x / (scale * math.sqrt(2))).log(), math.log(2) + log_ndtr(-x / scale)
    ),
    td.HalfCauchy: _half_cauchy,
    td.GeneralizedPareto: _pareto_tail,
    td.Pareto: _pareto,
    InverseGaussian: _inverse_gaussian,
    td.FisherSnedecor: lambda x, df1, df2: _beta(x.log(), df1 / 2, df2 / 2),
    td.Beta: lambda x, concentration1, concentration0: _beta(
        log_ratio(x * concentration0, (1 - x) * concentration1), concentration1, concentration0
    ),
    td.Kumaraswamy: _kumaraswamy,
    td.ContinuousBernoulli: _continuous_bernoulli,
    td.Geometric: lambda x, probs: _of_log_hazard((x + 1).log() + torch.log(-torch.log1p(-probs))),
    td.Poisson: lambda x, rate: _swap(_gamma(log_ratio(rate, x + 1), x + 1)),
    td.NegativeBinomial: _negative_binomial,
    td.Binomial: _binomial,
}


class Interval:
    """The log-probabilities of rows of which only (low, high) is known; then come the given numbers
    of each row.

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
        return log_probability(
            tails_of(self.family.distribution),
            low,
            high,
            {**params, **known},
            lambda values: FamilyRows(self.family)((values, *given), params),
            self.family.discrete,
            self.family.middle(known),
        )

    def open(self, low: Tensor, high: Tensor, known: Params) -> tuple[Tensor, Tensor]:
        """The ends, without what is outside of the support anyway."""
        first, last = self.family.ends(known)
        if self.family.discrete:
            low, high, first = low.ceil() - 1, high.floor(), first - 1
        return torch.where(low <= first, -math.inf, low), torch.where(high >= last, math.inf, high)


class Windowed:
    """Rows of a family that are seen only inside a window: their log-probabilities less that of the
    window.

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
        raise ValueError(
            f"expected a family that takes censored or truncated rows, got {distribution.__name__}"
        )
    return TAILS[distribution]
