"""Families on the real line.

Formulas: Johnson, Kotz and Balakrishnan, "Continuous Univariate Distributions" (1994). Starts are
by moments unless said otherwise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints

from nll.data.weights import first_two_totals, mean_and_variance, total
from nll.families.base import LOCATION_SCALE, Family, Tails, matrix
from nll.families.distributions import log_ndtr
from nll.families.log_cdf import (
    integrated_tails,
    log_angle,
    normal_tails,
    tails_of_smaller,
)
from nll.families.numerics import log_rising, mean, moments, quantile, smallest
from nll.solvers.parameters import Params

_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)
_HUGE = 1e15  # the df of a StudentT that stands for its limit


class RealLine(Family):
    """Families of finite numbers, which move with the location and scale of the data."""

    support = "a finite number"
    units = LOCATION_SCALE

    def inside(self, values: Tensor) -> Tensor:
        return torch.isfinite(values)


class Normal(RealLine):
    """Mean and standard deviation."""

    def estimate(self, values: Tensor, weights: Tensor) -> Params:
        loc, n = mean(values, weights), total(weights)

        def variance_in(unit: Tensor | None) -> Tensor:
            first, second = first_two_totals(
                weights,
                values,
                lambda x: (
                    x - loc[..., None] if unit is None else (x - loc[..., None]) / unit[..., None]
                ),
            )
            # The mean is rounded; its rounding error is not part of the variance.
            return (second / n - (first / n).square()).clamp(min=0)

        variance = variance_in(None)
        if bool(((variance > 1e-200) & (variance < 1e200)).all()):
            return {"loc": loc, "scale": variance.sqrt()}
        low, high = values.amin(-1), values.amax(-1)  # ten times as fast as aminmax on a dimension
        unit = torch.maximum(loc - low, high - loc).clamp(min=torch.finfo(torch.float64).tiny)
        # The squares overflow above 1e154.
        unit = torch.where((unit > 1e-100) & (unit < 1e100), 1.0, unit)
        return {"loc": loc, "scale": unit * variance_in(unit).sqrt()}

    def estimate_by_sums(self, values: Tensor, sums: Tensor) -> Params | None:
        moments = mean_and_variance(values, sums)
        return None if moments is None else {"loc": moments[0], "scale": moments[1].sqrt()}

    def variances(self, loc: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        return scale**2, scale**2 / 2

    def maximum(self, params: Params, n: float) -> Tensor:
        return -n * (params["scale"].log() + _HALF_LOG_TAU + 0.5)

    def tails(self, x: Tensor, loc: Tensor, scale: Tensor) -> Tails:
        return normal_tails((x - loc) / scale)


class Laplace(RealLine):
    """The median, and the mean distance from it.

    The likelihood has a corner at every observation, so the second derivative with respect to the
    location is 0 almost everywhere; the expected information n / b^2 replaces it.
    """

    units = None
    information = "expected"
    corner = "loc"

    def estimate(self, values: Tensor, weights: Tensor) -> Params:
        """The middle of the interval of medians, but for the rounding of the cumulative weights."""
        below, above = (quantile(values, weights, 0.5 + tiny) for tiny in (-1e-14, 1e-14))
        loc = (below + above) / 2
        return {"loc": loc, "scale": mean((values - loc[..., None]).abs(), weights)}

    def variances(self, loc: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        return scale**2, scale**2

    def tails(self, x: Tensor, loc: Tensor, scale: Tensor) -> Tails:
        z = (x - loc) / scale
        return tails_of_smaller(z < 0, -z.abs() - math.log(2))


class Uniform(RealLine):
    """The extremes. The score is not 0 there, and there is no information; but (min - low) / (max -
    min) is pivotal, with P(> t) = (1 + t)^-(n - 1), and so is the other end.
    """

    units = None
    information = "none"
    not_regular = (
        "the support moves with the parameters, so that there is no information; "
        "interval() is exact"
    )

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:  # PyTorch's are of instances
        return {"low": constraints.real, "high": constraints.real}

    def estimate(self, values: Tensor, weights: Tensor) -> Params:
        return {"low": smallest(values, weights), "high": -smallest(-values, weights)}

    def covariance(self, params: Params, size: float) -> Tensor:
        return torch.full((2, 2), torch.nan, dtype=torch.float64)

    def log_prob(self, values: Tensor, low: Tensor, high: Tensor) -> Tensor:
        inside = (values >= low) & (values <= high)
        return torch.where(inside, -(high - low).log(), -math.inf)

    def interval(self, params: Params, n: float, level: float) -> dict[str, Tensor]:
        low, high = params["low"], params["high"]
        room = torch.tensor(math.inf)
        if n > 1:
            room = (high - low) * ((1 - level) ** (-1 / (n - 1)) - 1)
        return {"low": torch.stack([low - room, low]), "high": torch.stack([high, high + room])}


class StudentT(RealLine):
    """Student's t with location and scale; starts by quartiles."""

    limit = ("df", math.inf, torch.distributions.Normal, ("loc", "scale"))

    def near_limit(self, params: Params) -> Params:
        return {"df": torch.full_like(params["loc"], _HUGE), **params}

    def start(self, values: Tensor, weights: Tensor, q: float = 0.5, df: float = 5.0) -> Params:
        # 1.45 is the distance of the quartiles of Student's t with 5 degrees of freedom.
        start = _quartile_start(values, weights, q, 1.45)
        return {"df": torch.full_like(start["loc"], df), **start}

    def more_starts(self, values: Tensor, weights: Tensor) -> list[Params]:
        return [self.start(values, weights, q, df) for q in (0.25, 0.5, 0.75) for df in (0.7, 5.0)]

    def log_prob(self, values: Tensor, df: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        z = (values - loc) / scale
        peak = log_rising(df / 2, torch.full_like(df, 0.5)) - 0.5 * (math.pi * df).log()
        return peak - scale.log() - (df + 1) / 2 * torch.log1p(z.square() / df)

    def expected_information(self, df: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """Lange, Little and Taylor (1989), appendix B."""
        trigamma = torch.special.polygamma(1, torch.stack([df / 2, (df + 1) / 2]))
        of_df = (trigamma[0] - trigamma[1]) / 4 - (df + 5) / (2 * df * (df + 1) * (df + 3))
        cross, zero = -2 / (scale * (df + 1) * (df + 3)), torch.zeros_like(df)
        of_loc = (df + 1) / ((df + 3) * scale.square())
        of_scale = 2 * df / ((df + 3) * scale.square())
        return matrix([[of_df, zero, cross], [zero, of_loc, zero], [cross, zero, of_scale]])

    def tails(self, x: Tensor, df: Tensor, loc: Tensor, scale: Tensor) -> Tails:
        """With z = sqrt(df) sinh(u), the density of u is proportional to cosh(u)^-df."""
        v = df[..., None]
        end = torch.asinh((x - loc) / scale / df.sqrt())
        constant = log_rising(v / 2, torch.full_like(v, 0.5)) - 0.5 * math.log(math.pi)

        def log_density(u: Tensor) -> Tensor:
            near = u.abs() < 1
            close = 0.5 * torch.log1p(torch.sinh(torch.where(near, u, 0.0)).square())
            far = u.abs() + torch.log1p(torch.exp(-2 * u.abs())) - math.log(2)
            return constant - v * torch.where(near, close, far)

        return integrated_tails(log_density, -df * torch.tanh(end), end)


class Cauchy(RealLine):
    """Student's t with one degree of freedom; starts by quartiles."""

    def start(self, values: Tensor, weights: Tensor, q: float = 0.5) -> Params:
        return _quartile_start(values, weights, q, 2.0)

    def more_starts(self, values: Tensor, weights: Tensor) -> list[Params]:
        return [self.start(values, weights, q) for q in (0.1, 0.25, 0.75, 0.9)]

    def log_prob(self, values: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        return -math.log(math.pi) - scale.log() - torch.log1p(((values - loc) / scale).square())

    def expected_information(self, loc: Tensor, scale: Tensor) -> Tensor:
        return torch.eye(2, dtype=torch.float64) / (2 * scale.square())

    def tails(self, x: Tensor, loc: Tensor, scale: Tensor) -> Tails:
        z = (x - loc) / scale
        return Tails(log_angle(-z), log_angle(z))


class SkewNormal(RealLine):
    """Azzalini's (1985) skew normal distribution."""

    def start(self, values: Tensor, weights: Tensor) -> Params:
        mean, std, skew = moments(values, weights)
        size = skew.abs().clamp(min=0.05, max=0.9).pow(2 / 3)
        d = (math.pi / 2 * size / (size + (2 - math.pi / 2) ** (2 / 3))).sqrt().clamp(max=0.99)
        d = torch.where(skew < 0, -d, d)
        scale = std / (1 - 2 * d.square() / math.pi).sqrt()
        loc = mean - scale * d * (2 / math.pi) ** 0.5
        return {"loc": loc, "scale": scale, "skewness": d / (1 - d * d).sqrt()}

    def more_starts(self, values: Tensor, weights: Tensor) -> list[Params]:
        """The mirror image, and on either side the neighbourhood of the half-normal distribution,
        the limit of infinite skewness.
        """
        start = self.start(values, weights)
        mean, std, _ = moments(values, weights)
        starts = [{**start, "loc": 2 * mean - start["loc"], "skewness": -start["skewness"]}]
        for side, end in ((1.0, values.amin(-1)), (-1.0, values.amax(-1))):
            loc = end - side * 0.05 * std
            scale = (std.square() + (mean - loc).square()).sqrt()
            skewness = torch.full_like(loc, side * 20.0)
            starts.append({"loc": loc, "scale": scale, "skewness": skewness})
        return starts

    def tails(self, x: Tensor, loc: Tensor, scale: Tensor, skewness: Tensor) -> Tails:
        z, a = (x - loc) / scale, skewness[..., None]
        log_ratio = -0.5 * (skewness * z).square() - _HALF_LOG_TAU - log_ndtr(skewness * z)
        constant = math.log(2) - _HALF_LOG_TAU
        return integrated_tails(
            lambda s: constant - 0.5 * s.square() + log_ndtr(a * s),
            -z + skewness * torch.exp(log_ratio),
            z,
        )


class VonMises(RealLine):
    """Angles. The start is the mean direction, and the concentration from 1 - R^2 of the angles
    about their mean, which keeps its digits.
    """

    units = None

    def start(self, values: Tensor, weights: Tensor) -> Params:
        share = weights / weights.sum(-1, keepdim=True)
        rough = torch.atan2((share * values.sin()).sum(-1), (share * values.cos()).sum(-1))
        deviation = values - rough[..., None]
        c = 2 * (share * (deviation / 2).sin().square()).sum(-1)
        s = (share * deviation.sin()).sum(-1)
        rest = (2 * c - c.square() - s.square()).clamp(1e-30, 1.0)
        r = (1 - rest).sqrt()
        concentration = (r * (1 + rest) / rest).clamp(min=1e-3)
        return {"loc": rough + torch.atan2(s, 1 - c), "concentration": concentration}

    def log_prob(self, values: Tensor, loc: Tensor, concentration: Tensor) -> Tensor:
        distance = 2 * ((values - loc) / 2).sin().square()
        return -concentration * distance - math.log(2 * math.pi) - _log_i0e(concentration)

    def statistics(self, values: Tensor) -> tuple[Tensor, ...]:
        return values.cos(), values.sin()

    def of_statistics(
        self, means: tuple[Tensor, ...], loc: Tensor, concentration: Tensor
    ) -> Tensor:
        c, s = means
        exponent = concentration * (loc.cos() * c + loc.sin() * s - 1)
        return exponent - math.log(2 * math.pi) - _log_i0e(concentration)


def _quartile_start(values: Tensor, weights: Tensor, q: float, width: float) -> Params:
    """The location at a quantile, the scale from quartiles that are `width` scales apart."""
    low, loc, high = (quantile(values, weights, at) for at in (0.25, q, 0.75))
    scale = (high - low) / width
    return {"loc": loc, "scale": torch.where(scale > 0, scale, moments(values, weights).std)}


def _log_i0e(k: Tensor) -> Tensor:
    """log(exp(-k) I0(k)), by its asymptotic series for large k, whose derivatives do not cancel."""
    far = k > 300
    r = 1 / (8 * torch.where(far, k, 300.0))
    series = torch.log1p(r * (1 + r * (9 / 2 + r * (75 / 2 + r * (3675 / 8 + r * 59535 / 8)))))
    near = torch.special.i0e(torch.where(far, 1.0, k)).log()
    return torch.where(far, series - 0.5 * (2 * math.pi * k).log(), near)
