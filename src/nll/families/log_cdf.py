"""Logarithms of distribution and survival functions, exact far out in the tails, differentiable
with respect to all parameters.

Where there is no formula the density is integrated. In a variable in which it is log-concave, the
tail that leads away from the mode falls off at least as fast as an exponential: Gauss and
Legendre's rule over a few panels, the first ones short, gives it to rounding. Its nodes stay where
they are when the end of the tail moves: that adds the series of the integral about the end, which
has the first two derivatives. The other tail is log(1 - the first), which is not small: at the mode
of a log-concave density both hold at least 1 / e.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nll.families.base import Family, FamilyRows, Tails, tails_of
from nll.families.distributions import log1p_ratio, log_ndtr
from nll.families.numerics import expm1_minus, log1mexp, log_scaled_peak, minus_log1p
from nll.solvers.parameters import Params

# Panels of the rule end at these shares of the tail's length; what is beyond exp(-40) is invisible.
_PANELS = (0.0, 4.0**-6, 4.0**-5, 4.0**-4, 4.0**-3, 4.0**-2, 0.25, 0.5, 1.0)
_NODES, _FALL = 20, 40.0
_HUGE = 300.0  # the logarithm of a hazard beyond which a tail is 0, without a derivative
_NARROW = 1e-3  # how far the log tails at the two ends of a narrow interval lie apart
_FEW = 32  # counts that are added one by one


def swapped(tails: Tails) -> Tails:
    """The tails of a decreasing function of the variable."""
    return Tails(tails.above, tails.below)


def log_sum(terms: Tensor, dim: int) -> Tensor:
    """logsumexp along a dimension, without a NaN in the derivatives where all terms are -inf."""
    none = (terms.detach() == -math.inf).all(dim, keepdim=True)
    total = torch.logsumexp(torch.where(none, 0.0, terms), dim)
    return torch.where(none.squeeze(dim), -math.inf, total)


# ---- By formula ----------------------------------------------------------------------------------


def tails_of_smaller(lower: Tensor, smaller: Tensor) -> Tails:
    """Both tails from the smaller one, which is the lower one where `lower`."""
    rest = log1mexp(-smaller)
    return Tails(torch.where(lower, smaller, rest), torch.where(lower, rest, smaller))


def hazard_tails(h: Tensor) -> Tails:
    """The tails where P(X > x) = exp(-exp(h)); for small exp(h) the lower one is exp(h) itself."""
    tiny, huge = h < -40, h > _HUGE
    e = torch.exp(torch.where(tiny | huge, 0.0, h))
    below = torch.where(tiny, h, torch.where(huge, 0.0, log1mexp(e)))
    above = torch.where(tiny, -torch.exp(h.clamp(max=0.0)), torch.where(huge, -math.inf, -e))
    return Tails(below, above)


def bounded_tails(inside: Tensor, at_low: Tensor, tails: Tails) -> Tails:
    """Tails of a family whose support ends at its parameters; outside they are 0 and 1, at the
    lower end where `at_low`.
    """
    nothing, all_ = torch.where(inside, 0.0, -math.inf), torch.zeros_like(tails.below)
    below, above = torch.where(at_low, nothing, all_), torch.where(at_low, all_, nothing)
    return Tails(torch.where(inside, tails.below, below), torch.where(inside, tails.above, above))


def normal_tails(z: Tensor) -> Tails:
    """The tails of a standard normal variable."""
    return Tails(log_ndtr(z), log_ndtr(-z))


def log_angle(z: Tensor) -> Tensor:
    """log P(X > z) of a standard Cauchy variable: log(atan2(1, z) / pi)."""
    return torch.atan2(torch.ones_like(z), z).log() - math.log(math.pi)


def log1p_ratio_inside(c: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """log(1 + c z) / c and where it exists; elsewhere 0, without a NaN in a derivative."""
    inside = 1 + c * z > 0
    return log1p_ratio(c, torch.where(inside, z, 0.0)), inside


# ---- By integration ------------------------------------------------------------------------------


@cache
def _rule() -> tuple[Tensor, Tensor]:
    """Nodes in (0, 1) and the logarithms of their weights."""
    x, w = np.polynomial.legendre.leggauss(_NODES)
    edges = np.array(_PANELS)
    width = np.diff(edges)[:, None]
    nodes, weights = edges[:-1, None] + width * (x + 1) / 2, width * w / 2
    return torch.from_numpy(nodes.reshape(-1)), torch.from_numpy(np.log(weights.reshape(-1)))


def integrated_tails(
    log_density: Callable[[Tensor], Tensor],
    derivative: Tensor,
    end: Tensor,
    least: Tensor | float = 1e-8,
    log_total: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Tails:
    """The tails of a log-concave density at `end`, given the derivative of its logarithm there, and
    the size `least` of that derivative far out.

    `log_density` takes (..., k) points, with parameters that have a last dimension of 1.
    `log_total` is the logarithm of its weighted sum at `end` plus (..., k) numbers, relative to the
    density at `end`, if there is a better way to it.
    """
    end, derivative = torch.broadcast_tensors(end, derivative)
    side = torch.where(derivative.detach() >= 0, -1.0, 1.0)  # away from the mode
    begin = end.detach()
    length = _length(log_density, derivative.detach(), begin, side, least)
    nodes, log_weights = _rule()
    top, away = log_density(begin[..., None]), (side * length)[..., None] * nodes
    log_scale = length.log() + (
        torch.logsumexp(log_density(begin[..., None] + away) - top + log_weights, -1)
        if log_total is None
        else log_total(begin, away, log_weights)
    )
    moved = end - begin  # 0, with a derivative
    lost = side * torch.exp(-log_scale) * (moved + derivative * moved.square() / 2)
    tail = top[..., 0] + log_scale
    tail = torch.where(tail.isfinite(), tail + torch.log1p(-lost), tail)
    # Rounding may leave something of a probability near 1.
    return tails_of_smaller(side < 0, tail.clamp(max=-1e-12))


def _length(
    log_density: Callable[[Tensor], Tensor],
    derivative: Tensor,
    end: Tensor,
    side: Tensor,
    least: Tensor | float,
) -> Tensor:
    """How far the density takes to fall by exp(-40), to a factor of 2."""
    with torch.no_grad():
        length = _FALL / derivative.abs().clamp(min=least)
        top = log_density(end[..., None])[..., 0]
        for _ in range(64):
            long = top - log_density((end + side * length / 2)[..., None])[..., 0] >= _FALL
            if not bool(long.any()):
                break
            length = torch.where(long, length / 2, length)
    return length


def gamma_tails(log_end: Tensor, shape: Tensor) -> Tails:
    """Of s = log(X / a), X with the standard gamma distribution: density a^a e^-a / Gamma(a) exp(-a
    (e^s - 1 - s)).

    Its logarithm is linear in a but for the peak: what it falls by from the end on has a mean and a
    variance in the tail, which are the first two derivatives of the integral.
    """
    peak, moved = log_scaled_peak(shape), shape - shape.detach()  # 0, with a derivative

    def log_total(begin: Tensor, away: Tensor, log_weights: Tensor) -> Tensor:
        fall = torch.expm1(begin)[..., None] * torch.expm1(away) + expm1_minus(away)
        terms = log_weights - shape.detach()[..., None] * fall.nan_to_num()
        share = torch.softmax(terms, -1)
        mean = (share * fall).sum(-1).nan_to_num()
        variance = (share * (fall - mean[..., None]).square()).sum(-1).nan_to_num()
        return torch.logsumexp(terms, -1) - moved * (mean - moved * variance / 2)

    return integrated_tails(
        lambda s: peak[..., None] - shape[..., None] * expm1_minus(s),
        -shape * torch.expm1(log_end),
        log_end,
        log_total=log_total,
    )


def beta_tails(end: Tensor, up: Tensor, down: Tensor) -> Tails:
    """Of s = logit X - log(a / b), X with the beta distribution: density p^a (1 - p)^b / B(a, b).

    With p = a / (a + b), not above 1 / 2, and w = p (e^s - 1) its logarithm is that of the peak
    less (a + b) (p (e^s - 1 - s) - (w - log(1 + w))).
    """
    up, down, end = torch.broadcast_tensors(up, down, end)
    sign = torch.where(up > down, -1.0, 1.0)[..., None]
    a, b = torch.minimum(up, down)[..., None], torch.maximum(up, down)[..., None]
    share = a / (a + b)
    peak = log_scaled_peak(a) + log_scaled_peak(b) - log_scaled_peak(a + b)
    middle = a.log() - b.log()

    def log_density(s: Tensor) -> Tensor:
        s = sign * s
        near = s.abs() < 0.5
        u = torch.where(near, s, 0.0)
        close = (a + b) * (minus_log1p(share * torch.expm1(u)) - share * expm1_minus(u))
        t = middle + torch.where(near, 0.5, s)
        far = a * (F.logsigmoid(t) - F.logsigmoid(middle)) + b * (
            F.logsigmoid(-t) - F.logsigmoid(-middle)
        )
        return peak + torch.where(near, close, far)

    logit = up.log() - down.log() + end
    near = -up * torch.expm1(end.clamp(-1, 1)) * torch.sigmoid(-logit)
    far = up * torch.sigmoid(-logit) - down * torch.sigmoid(logit)
    least = torch.minimum(up, down).detach().clamp(max=1e-8)
    return integrated_tails(log_density, torch.where(end.abs() < 1, near, far), end, least)


# ---- Censored and truncated rows -----------------------------------------------------------------


def log_probability(
    tails: Callable[..., Tails],
    low: Tensor,
    high: Tensor,
    params: Params,
    density: Callable[[Tensor], Tensor] | None = None,
    discrete: bool = False,
    inside: Tensor | float = 1.0,
) -> Tensor:
    """Return log P(low < X <= high), from the tail in which the interval lies.

    Args:
        tails: of the family, by a point and the parameters.
        low, high: the ends; those at an end of the support are infinite.
        params: of the family.
        density: the log-density of points; it keeps the digits of an interval so narrow that its
            tails agree.
        discrete: whether the density is that of whole numbers.
        inside: a point of the support, where the tails of an unbounded interval are taken and not
            used.
    """
    open_low, open_high = low == -math.inf, high == math.inf
    bounded = ~open_low & ~open_high
    some = torch.where(low.isfinite(), low, torch.where(high.isfinite(), high, inside))
    at_low, last = tails(some, **params), torch.where(open_high, some, high)
    at_high = tails(last, **params) if bool(bounded.any()) else at_low
    upper = at_low.below > -math.log(2)
    large = torch.where(upper, at_low.above, at_high.below)
    small = torch.where(upper, at_high.above, at_low.below)
    large = torch.where(bounded, large, 0.0)
    gap = torch.where(bounded, large - small, 1.0)
    near = (gap.detach() < _NARROW) & bounded
    if density is not None and bool(near.any()):
        sum_of = _sum_of_counts if discrete else _integral
        narrow = sum_of(density, torch.where(bounded, low, some), high, near)
        plain = large.detach() + log1mexp(gap.detach().clamp(min=1e-300))
        agree = (gap < 1e-9) | ((narrow.detach() - plain).abs() < 1e-2)
        near = near & narrow.isfinite() & agree
        between = torch.where(near, narrow, large + log1mexp(torch.where(near, 1.0, gap)))
    else:
        between = large + log1mexp(gap)
    result = torch.where(open_high, at_low.above, torch.where(open_low, at_high.below, between))
    return torch.where(open_low & open_high, 0.0, result)


def _integral(
    density: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, near: Tensor
) -> Tensor:
    """The log integral of a density by Gauss and Legendre's rule; -inf where 6 nodes and 3
    disagree.
    """
    low, high = torch.broadcast_tensors(low, torch.where(near, high, low))
    middle, half = low + (high - low) / 2, (high - low) / 2

    def rule(count: int) -> Tensor:
        x, w = np.polynomial.legendre.leggauss(count)
        terms = [
            math.log(v / 2) + density(middle + half * u)
            for u, v in zip(x.tolist(), w.tolist(), strict=True)
        ]
        return torch.logsumexp(torch.stack(terms), 0)

    fine = rule(6)
    with torch.no_grad():
        agree = near & ((fine - rule(3)).abs() < 1e-10)
    return torch.where(agree, fine + torch.where(near, high - low, 1.0).log(), -math.inf)


def _sum_of_counts(
    density: Callable[[Tensor], Tensor], low: Tensor, high: Tensor, near: Tensor
) -> Tensor:
    """The log sum of the probabilities of the whole numbers above `low`; -inf where they are
    many.
    """
    count = torch.where(near, high - low, 0.0)
    few = near & (count <= _FEW)
    terms = [torch.full_like(count, -math.inf)]
    for i in range(int(torch.where(few, count, 0.0).max())):
        x = low + 1 + torch.where(i < count, float(i), 0.0)
        terms.append(torch.where(i < count, density(x), -math.inf))
    return torch.where(few, log_sum(torch.stack(terms), 0), -math.inf)


class Interval:
    """The log-probabilities of rows of which only (low, high) is known; blocks are the two ends,
    then each given parameter. For counts both ends belong to the interval.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        self.tails = tails_of(family)

    def __call__(self, parts: tuple[Tensor, ...], params: Params) -> Tensor:
        low, high, *values = parts
        given = dict(zip(self.family.given, values, strict=True))
        low, high = self.without_ends(low, high, given)
        return log_probability(
            self.tails,
            low,
            high,
            {**params, **given},
            lambda points: FamilyRows(self.family)((points, *values), params),
            self.family.discrete,
            self.family.middle(given),
        )

    def without_ends(self, low: Tensor, high: Tensor, given: Params) -> tuple[Tensor, Tensor]:
        """The ends, infinite where they lie outside the support."""
        first, last = self.family.ends(given)
        if self.family.discrete:
            low, high, first = low.ceil() - 1, high.floor(), first - 1
        return torch.where(low <= first, -math.inf, low), torch.where(high >= last, math.inf, high)


class Windowed:
    """Rows of a family that are seen only inside a window: their log-probabilities less that of the
    window. The first two blocks are the ends of the window.
    """

    def __init__(self, rows: Callable[..., Tensor], window: Interval) -> None:
        self.rows, self.window = rows, window

    def __call__(self, parts: tuple[Tensor, ...], params: Params) -> Tensor:
        low, high, *blocks = parts
        given = blocks[len(blocks) - len(self.window.family.given) :]
        return self.rows(tuple(blocks), params) - self.window((low, high, *given), params)
