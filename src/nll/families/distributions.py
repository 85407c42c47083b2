"""Distributions that torch.distributions lacks: generalised extreme value, inverse Gaussian and
skew normal.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.utils import broadcast_all

from nll._torch import transforming

_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class _Plain(Distribution):
    """A distribution whose parameters are single numbers, broadcast against each other."""

    has_rsample = True

    def __init__(self, *parameters: Any, validate_args: bool | None = None) -> None:
        values = broadcast_all(*parameters)
        for name, value in zip(self.arg_constraints, values, strict=True):
            setattr(self, name, value)
        super().__init__(values[0].shape, validate_args=validate_args)

    def _uniform(self, sample_shape: Any) -> Tensor:
        dtype = getattr(self, next(iter(self.arg_constraints))).dtype
        uniform = torch.rand(self._extended_shape(torch.Size(sample_shape)), dtype=dtype)
        return uniform.clamp(min=torch.finfo(dtype).tiny)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        values = [getattr(self, name).expand(batch_shape) for name in self.arg_constraints]
        return type(self)(*values, validate_args=False)


def log1p_ratio(c: Tensor, z: Tensor) -> Tensor:
    """log(1 + c z) / c, and z where c = 0, with all derivatives there: by its series for small
    c z.
    """
    t = c * z
    if not transforming() and bool((c.abs() > 1e-2).all()):
        return torch.log1p(t) / c
    small = t.abs() < 1e-2
    safe = torch.where(small, 1.0, t)
    series = torch.zeros_like(t)
    for k in range(12, 0, -1):  # sum (-t)^k / (k + 1), by Horner's rule
        series = -torch.where(small, t, 0.0) * (1 / (k + 1) + series)
    return z * torch.where(small, 1 + series, torch.log1p(safe) / safe)


def log_ndtr(x: Tensor) -> Tensor:
    """log P(Z <= x) for a standard normal Z: PyTorch's below 1 only, because its second derivative
    is NaN far above 0.
    """
    lower = torch.special.log_ndtr(x.clamp(max=1.0))
    upper = torch.log1p(-0.5 * torch.special.erfc(x.clamp(min=1.0) / math.sqrt(2)))
    return torch.where(x < 1, lower, upper)


class GeneralizedExtremeValue(_Plain):
    """The limit distribution of maxima (Coles 2001, section 3.1.3).

    P(X <= x) = exp(-(1 + c z)^(-1 / c)) with z = (x - loc) / scale and c the concentration, and
    exp(-exp(-z)) at c = 0. c > 0 means a heavy upper tail; the shape of scipy's genextreme is -c.

    Example:
        >>> maxima = [3.1, 2.4, 4.0, 2.9, 3.3, 5.2, 2.2, 3.6, 2.7, 3.0]
        >>> fit = nll.fit(nll.GeneralizedExtremeValue, maxima)
        >>> round(float(nll.GeneralizedExtremeValue(**fit.params).icdf(torch.tensor(0.99))), 1)
        6.3
    """

    arg_constraints: Any = {  # noqa: RUF012
        "loc": constraints.real,
        "scale": constraints.positive,
        "concentration": constraints.real,
    }
    support: Any = constraints.real  # the parameters bound it
    loc: Tensor
    scale: Tensor
    concentration: Tensor

    def __init__(
        self, loc: Any, scale: Any, concentration: Any, validate_args: bool | None = None
    ) -> None:
        super().__init__(loc, scale, concentration, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log-density; NaN or -inf beyond the end of the support."""
        s = log1p_ratio(self.concentration, (value - self.loc) / self.scale)
        return -self.scale.log() - (1 + self.concentration) * s - torch.exp(-s)

    def cdf(self, value: Tensor) -> Tensor:
        t = 1 + self.concentration * (value - self.loc) / self.scale
        inside = torch.exp(
            -torch.exp(-log1p_ratio(self.concentration, (value - self.loc) / self.scale))
        )
        return torch.where(t > 0, inside, (self.concentration < 0).to(value.dtype))

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile, loc + scale ((-log q)^-c - 1) / c."""
        s = -torch.log(-torch.log(value))
        c = torch.where(self.concentration == 0, 1.0, self.concentration)
        return self.loc + self.scale * torch.where(
            self.concentration == 0, s, torch.expm1(c * s) / c
        )

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.icdf(self._uniform(sample_shape))


class InverseGaussian(_Plain):
    """The first passage time of a Brownian motion with drift.

    Density sqrt(k / (2 pi x^3)) exp(-k (x - m)^2 / (2 m^2 x)), with mean m = loc and k =
    concentration.

    Example:
        >>> nll.InverseGaussian(loc=2.0, concentration=4.0).variance
        tensor(2.)
        >>> fit = nll.fit(nll.InverseGaussian, [0.8, 1.3, 2.1, 4.0, 1.1])
        >>> round(float(fit.params["loc"]), 2)
        1.86
    """

    arg_constraints: Any = {"loc": constraints.positive, "concentration": constraints.positive}  # noqa: RUF012
    support: Any = constraints.positive
    has_rsample = False
    loc: Tensor
    concentration: Tensor

    def __init__(self, loc: Any, concentration: Any, validate_args: bool | None = None) -> None:
        super().__init__(loc, concentration, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.loc**3 / self.concentration

    def log_prob(self, value: Tensor) -> Tensor:
        k, away = self.concentration, (value - self.loc) / self.loc
        return 0.5 * k.log() - _HALF_LOG_TAU - 1.5 * value.log() - 0.5 * k * away.square() / value

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Michael, Schucany and Haas (1976)."""
        with torch.no_grad():
            m, shape = self.loc, self._extended_shape(torch.Size(sample_shape))
            y = torch.randn(shape, dtype=m.dtype).square() * m / (2 * self.concentration)
            x = m / (1 + y + (y * (2 + y)).sqrt())  # the smaller root, without cancellation
            return torch.where(torch.rand(shape, dtype=m.dtype) * (m + x) <= m, x, m * m / x)


class SkewNormal(_Plain):
    """The skew normal distribution (Azzalini 1985).

    Density 2 / scale phi(z) Phi(a z) with z = (x - loc) / scale and a = skewness.

    Example:
        >>> float(nll.SkewNormal(loc=0.0, scale=1.0, skewness=1.0).mean)
        0.5641896...
    """

    arg_constraints: Any = {  # noqa: RUF012
        "loc": constraints.real,
        "scale": constraints.positive,
        "skewness": constraints.real,
    }
    support: Any = constraints.real
    loc: Tensor
    scale: Tensor
    skewness: Tensor

    def __init__(
        self, loc: Any, scale: Any, skewness: Any, validate_args: bool | None = None
    ) -> None:
        super().__init__(loc, scale, skewness, validate_args=validate_args)

    @property
    def mean(self) -> Tensor:
        d = self.skewness / (1 + self.skewness.square()).sqrt()
        return self.loc + self.scale * d * (2 / math.pi) ** 0.5

    def log_prob(self, value: Tensor) -> Tensor:
        z = (value - self.loc) / self.scale
        tail = log_ndtr(self.skewness * z)
        return math.log(2) - self.scale.log() - 0.5 * z.square() - _HALF_LOG_TAU + tail

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """d |u| + sqrt(1 - d^2) v, with d = a / sqrt(1 + a^2)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        u, v = torch.randn(2, *shape, dtype=self.loc.dtype)
        root = (1 + self.skewness.square()).sqrt()
        return self.loc + self.scale * (self.skewness * u.abs() + v) / root
