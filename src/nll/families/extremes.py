"""Families of extreme values and of heavy tails.

Source: Coles, "An Introduction to Statistical Modeling of Extreme Values" (2001). Starts are by
moments.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nll.data.weights import total
from nll.families.base import SCALE, Family, Tails, matrix
from nll.families.distributions import log1p_ratio
from nll.families.log_cdf import bounded_tails, hazard_tails, log1p_ratio_inside, swapped
from nll.families.numerics import log_ratio, moments, smallest
from nll.families.positive import Positive
from nll.families.real_line import RealLine
from nll.solvers.parameters import Params

_EULER = 0.5772156649015329
_GUMBEL_VARIANCE = math.pi**2 / 6


class Gumbel(RealLine):
    """The limit of maxima of light tails: P(X <= x) = exp(-exp(-z))."""

    def start(self, values: Tensor, weights: Tensor) -> Params:
        return _gumbel_start(values, weights)

    def log_prob(self, values: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        z = (values - loc) / scale
        return -z - torch.exp(-z) - scale.log()

    def expected_information(self, loc: Tensor, scale: Tensor) -> Tensor:
        one = 1 / scale.square()
        cross = -(1 - _EULER) * one
        return matrix([[one, cross], [cross, (_GUMBEL_VARIANCE + (1 - _EULER) ** 2) * one]])

    def tails(self, x: Tensor, loc: Tensor, scale: Tensor) -> Tails:
        return swapped(hazard_tails((loc - x) / scale))


class GeneralizedExtremeValue(RealLine):
    """The limit of maxima; a Gumbel distribution where the concentration is 0."""

    def start(self, values: Tensor, weights: Tensor) -> Params:
        start = _gumbel_start(values, weights)
        # The skewness of a Gumbel variable is 1.14.
        shape = ((moments(values, weights).skewness - 1.14) / 8).clamp(-0.3, 0.3)
        low, high = values.amin(-1), values.amax(-1)
        below, above = start["loc"] - low, high - start["loc"]
        return start | {"concentration": _shape_inside(shape, start["scale"], below, above)}

    def tails(self, x: Tensor, loc: Tensor, scale: Tensor, concentration: Tensor) -> Tails:
        s, inside = log1p_ratio_inside(concentration, (x - loc) / scale)
        return bounded_tails(inside, concentration > 0, swapped(hazard_tails(-s)))


class Weibull(Positive):
    """A hazard that is a power of time. The logarithm has a Gumbel distribution, whose moments,
    relative to the first value, are the start.
    """

    units = SCALE

    def start(self, values: Tensor, weights: Tensor) -> Params:
        first = values[..., :1]
        logs = moments(log_ratio(values, first), weights)
        mean = logs.mean + first[..., 0].log()
        concentration = math.pi / math.sqrt(6) / logs.std
        return {"scale": (mean + _EULER / concentration).exp(), "concentration": concentration}

    def log_prob(self, values: Tensor, scale: Tensor, concentration: Tensor) -> Tensor:
        z = concentration * log_ratio(values, scale)
        return concentration.log() - values.log() + z - z.exp()

    def expected_information(self, scale: Tensor, concentration: Tensor) -> Tensor:
        cross = -(1 - _EULER) / scale
        of_shape = (_GUMBEL_VARIANCE + (1 - _EULER) ** 2) / concentration.square()
        return matrix([[(concentration / scale).square(), cross], [cross, of_shape]])

    def tails(self, x: Tensor, scale: Tensor, concentration: Tensor) -> Tails:
        return hazard_tails(concentration * log_ratio(x, scale))


class GeneralizedPareto(Family):
    """Excesses over a threshold, `loc`."""

    support = "a number of at least loc"
    given = ("loc",)
    units = SCALE

    def inside(self, values: Tensor, loc: Tensor) -> Tensor:
        return torch.isfinite(values) & (values >= loc)

    def start(self, values: Tensor, weights: Tensor) -> Params:
        mean, std, _ = moments(values, weights)
        ratio = (mean / std).square()
        scale, shape = 0.5 * mean * (ratio + 1), (0.5 * (1 - ratio)).clamp(-0.3, 0.4)
        shape = _shape_inside(shape, scale, torch.zeros_like(scale), values.amax(-1))
        return {"scale": scale, "concentration": shape}

    def log_prob(self, values: Tensor, scale: Tensor, concentration: Tensor, loc: Tensor) -> Tensor:
        s = log1p_ratio(concentration, (values - loc) / scale)
        return -scale.log() - (1 + concentration) * s

    def tails(self, x: Tensor, loc: Tensor, scale: Tensor, concentration: Tensor) -> Tails:
        s, inside = log1p_ratio_inside(concentration, (x - loc) / scale)
        above = x > loc
        some = torch.where(above & inside, s, 1.0)
        return bounded_tails(inside & above, ~above, hazard_tails(some.log()))


class Pareto(Positive):
    """The scale is the smallest value, alpha the inverse mean of the logarithms relative to it."""

    corner = "scale"
    not_regular = "scale is the smallest value, which has no normal error; the error of alpha holds"

    def estimate(self, values: Tensor, weights: Tensor) -> Params:
        low = smallest(values, weights)
        logs = total(weights, log_ratio(values, low[..., None]))
        return {"scale": low, "alpha": total(weights) / logs}

    def covariance(self, params: Params, size: float) -> Tensor:
        unknown = torch.full_like(params["alpha"], torch.nan)
        return matrix([[unknown, unknown], [unknown, params["alpha"] ** 2 / size]])

    def log_prob(self, values: Tensor, scale: Tensor, alpha: Tensor) -> Tensor:
        inside = alpha.log() + alpha * scale.log() - (alpha + 1) * values.log()
        return torch.where(values >= scale, inside, -math.inf)

    def tails(self, x: Tensor, scale: Tensor, alpha: Tensor) -> Tails:
        inside = x > scale
        some = torch.where(inside, x, 2 * scale)
        hazard = alpha.log() + log_ratio(some, scale).log()
        return bounded_tails(inside, ~inside, hazard_tails(hazard))


def _gumbel_start(values: Tensor, weights: Tensor) -> Params:
    mean, std, _ = moments(values, weights)
    scale = std / math.sqrt(_GUMBEL_VARIANCE)
    return {"loc": mean - _EULER * scale, "scale": scale}


def _shape_inside(shape: Tensor, scale: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """A shape small enough for all data to lie well inside the support, which ends at loc - scale /
    shape.
    """
    distance = torch.where(shape > 0, below, above).clamp(min=1e-9)
    most = scale / (1.5 * distance)
    return torch.where(shape > 0, torch.minimum(shape, most), torch.maximum(shape, -most))
