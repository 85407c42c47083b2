"""Log-densities and log-probabilities of the families, by SciPy and by formulas of their own."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy.special as sp
import scipy.stats as st

Law = tuple[Callable, Callable, Callable]  # log-density, log P(X <= x), log P(X > x)


def of(dist: Any, *args: Any, loc: Any = 0.0, scale: Any = 1.0) -> Law:
    more = {"loc": loc} if hasattr(dist, "pmf") else {"loc": loc, "scale": scale}
    density = dist.logpmf if hasattr(dist, "pmf") else dist.logpdf
    return tuple(lambda x, f=f: f(x, *args, **more) for f in (density, dist.logcdf, dist.logsf))  # type: ignore[return-value]


def log1mexp(x: Any) -> Any:
    """log(1 - exp(-x)) for x > 0."""
    return np.where(x < math.log(2), np.log(-np.expm1(-x)), np.log1p(-np.exp(-x)))


def kumaraswamy(concentration1: Any, concentration0: Any) -> Law:
    a, b = concentration1, concentration0

    def density(x: Any) -> Any:
        return np.log(a * b) + (a - 1) * np.log(x) + (b - 1) * log1mexp(-a * np.log(x))

    def above(x: Any) -> Any:
        return b * log1mexp(-a * np.log(x))

    return density, lambda x: log1mexp(-above(x)), above


def log_scaled_peak(a: Any) -> Any:
    """log(a^a exp(-a) / Gamma(a)), by Stirling's series for large a, where the terms cancel."""
    far = np.maximum(a, 15.0)
    series = 1 / (12 * far) - 1 / (360 * far**3) + 1 / (1260 * far**5) - 1 / (1680 * far**7)
    direct = a * np.log(a) - a - sp.gammaln(a)
    return np.where(a > 15, 0.5 * np.log(a / (2 * math.pi)) - series, direct)


def gamma(concentration: Any, rate: Any) -> Law:
    a = concentration  # SciPy's density loses its digits where it is large

    def density(x: Any) -> Any:
        away = (x * rate - a) / a
        return log_scaled_peak(a) - a * (away - np.log1p(away)) - np.log(x)

    return density, *of(st.gamma, a, scale=1 / rate)[1:]


def inverse_gamma(concentration: Any, rate: Any) -> Law:
    density = gamma(concentration, rate)[0]  # of 1 / x
    tails = of(st.invgamma, concentration, scale=rate)[1:]
    return lambda x: density(1 / x) - 2 * np.log(x), *tails


def fisher_snedecor(df1: Any, df2: Any) -> Law:
    a, b = df1 / 2, df2 / 2  # SciPy's density is 0, or not a number, where one of them is large

    def density(x: Any) -> Any:
        up, down = b * (x - 1) / (a * x + b), a * (1 - x) / (a * x + b)
        peak = log_scaled_peak(a) + log_scaled_peak(b) - log_scaled_peak(a + b)
        return peak + a * np.log1p(up) + b * np.log1p(down) - np.log(x)

    return density, *of(st.f, df1, df2)[1:]


def continuous_bernoulli(probs: Any) -> Law:
    z = float(sp.logit(probs))  # density exp(z x) z / (exp(z) - 1)
    norm = -z / 2 if abs(z) < 1e-6 else math.log(abs(z) / -math.expm1(-abs(z))) - max(z, 0.0)

    def below(x: Any, z: float) -> Any:  # (exp(z x) - 1) / (exp(z) - 1)
        x = np.clip(x, 0.0, 1.0)
        if abs(z) < 1e-6:
            return np.log(x) + z / 2 * (x - 1)
        tail = np.log(-np.expm1(-abs(z) * x)) - math.log(-math.expm1(-abs(z)))
        return np.where(x > 0, z * (x - 1) if z > 0 else 0.0, 0.0) + tail

    return lambda x: z * x + norm, lambda x: below(x, z), lambda x: below(1 - np.asarray(x), -z)


def shifted(inner: Callable[..., Law], own: str) -> Callable[..., Law]:
    def law(**params: Any) -> Law:
        loc = params.pop(own)
        return tuple(lambda x, f=f: f(x - loc) for f in inner(**params))  # type: ignore[return-value]

    return law


def inflated(inner: Callable[..., Law]) -> Callable[..., Law]:
    def law(gate: Any, **params: Any) -> Law:
        density, below, above = inner(**params)
        log, rest = np.log(gate), np.log1p(-gate)
        return (
            lambda x: np.where(x == 0, np.logaddexp(log, rest + density(x)), rest + density(x)),
            lambda x: np.where(x < 0, -np.inf, np.logaddexp(log, rest + below(x))),
            lambda x: np.where(x < 0, 0.0, rest + above(x)),
        )

    return law


def mixed(inner: Callable[..., Law]) -> Callable[..., Law]:
    def law(probs: Any, **params: Any) -> Law:
        each = [
            inner(**{name: value[k] for name, value in params.items()}) for k in range(len(probs))
        ]

        def total(i: int, x: Any) -> Any:
            return sp.logsumexp(
                [np.log(p) + law[i](x) for p, law in zip(probs, each, strict=True)], axis=0
            )

        return tuple(partial(total, i) for i in range(3))  # type: ignore[return-value]

    return law


LAWS: dict[str, Callable[..., Law]] = {
    "Bernoulli": lambda probs: of(st.bernoulli, probs),
    "Binomial": lambda probs, total_count: of(st.binom, total_count, probs),
    "Geometric": lambda probs: of(st.geom, probs, loc=-1),
    "Poisson": lambda rate: of(st.poisson, rate),
    "NegativeBinomial": lambda total_count, probs: of(st.nbinom, total_count, 1 - probs),
    "Normal": lambda loc, scale: of(st.norm, loc=loc, scale=scale),
    "LogNormal": lambda loc, scale: of(st.lognorm, scale, scale=np.exp(loc)),
    "Exponential": lambda rate: of(st.expon, scale=1 / rate),
    "Laplace": lambda loc, scale: of(st.laplace, loc=loc, scale=scale),
    "Uniform": lambda low, high: of(st.uniform, loc=low, scale=high - low),
    "Gamma": gamma,
    "InverseGamma": inverse_gamma,
    "Chi2": lambda df: of(st.chi2, df),
    "Beta": lambda concentration1, concentration0: of(st.beta, concentration1, concentration0),
    "Kumaraswamy": kumaraswamy,
    "ContinuousBernoulli": continuous_bernoulli,
    "StudentT": lambda df, loc, scale: of(st.t, df, loc=loc, scale=scale),
    "Cauchy": lambda loc, scale: of(st.cauchy, loc=loc, scale=scale),
    "Gumbel": lambda loc, scale: of(st.gumbel_r, loc=loc, scale=scale),
    "GeneralizedExtremeValue": lambda loc, scale, concentration: of(
        st.genextreme, -concentration, loc=loc, scale=scale
    ),
    "SkewNormal": lambda loc, scale, skewness: of(st.skewnorm, skewness, loc=loc, scale=scale),
    "VonMises": lambda loc, concentration: of(st.vonmises, concentration, loc=loc),
    "Weibull": lambda scale, concentration: of(st.weibull_min, concentration, scale=scale),
    "HalfCauchy": lambda scale: of(st.halfcauchy, scale=scale),
    "HalfNormal": lambda scale: of(st.halfnorm, scale=scale),
    "GeneralizedPareto": lambda scale, concentration, loc: of(
        st.genpareto, concentration, loc=loc, scale=scale
    ),
    "Pareto": lambda scale, alpha: of(st.pareto, alpha, scale=scale),
    "InverseGaussian": lambda loc, concentration: of(
        st.invgauss, loc / concentration, scale=concentration
    ),
    "FisherSnedecor": fisher_snedecor,
}
LAWS |= {
    f"Shifted{name}": shifted(
        LAWS[name], "location" if name in ("LogNormal", "InverseGaussian") else "loc"
    )
    for name in ("Gamma", "Weibull", "LogNormal", "InverseGaussian", "InverseGamma")
}
LAWS |= {
    f"ZeroInflated{name}": inflated(LAWS[name])
    for name in ("Poisson", "NegativeBinomial", "Geometric")
}
LAWS |= {f"{name}Mixture": mixed(LAWS[name]) for name in ("Normal", "Poisson", "Exponential")}


def between(law: Law, low: np.ndarray, high: np.ndarray, discrete: bool) -> np.ndarray:
    """log P(low < X <= high), or of counts from low to high, by the tail in which the interval
    lies.
    """
    low = np.ceil(low) - 1 if discrete else low
    below, above = (law[1](low), law[1](high)), (law[2](low), law[2](high))
    upper = below[0] > -math.log(2)
    large, small = np.where(upper, above[0], below[1]), np.where(upper, above[1], below[0])
    inside = large + log1mexp(np.maximum(large - small, 0.0))
    return np.where(high == np.inf, above[0], np.where(low == -np.inf, below[1], inside))
