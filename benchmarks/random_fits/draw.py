"""Problems drawn at random: sizes, data, censoring, truncation, weights, starts and units, by a
seed and a number.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.special as sp
import torch
from random_fits.problem import (
    LAWS,
    MODELS,
    REGRESSIONS,
    Params,
    Problem,
    natural,
    numbers,
    parameters_of,
)
from torch import distributions as td
from torch.distributions import constraints

from nll.families.registry import family_of

POOLS = {
    "real": ("Normal", "Cauchy", "Gumbel", "StudentT", "SkewNormal", "Laplace", "LogNormal"),
    "positive": ("Gamma", "LogNormal", "InverseGamma", "Weibull", "Exponential", "FisherSnedecor"),
    "share": ("Beta", "Kumaraswamy"),
    "count": ("Poisson", "NegativeBinomial", "Geometric", "ZeroInflatedPoisson", "PoissonMixture"),
}
SCALED = {
    "Normal",
    "LogNormal",
    "Exponential",
    "Laplace",
    "Uniform",
    "Gamma",
    "InverseGamma",
    "StudentT",
    "Cauchy",
    "Gumbel",
    "GeneralizedExtremeValue",
    "SkewNormal",
    "Weibull",
    "HalfCauchy",
    "HalfNormal",
    "GeneralizedPareto",
    "Pareto",
    "InverseGaussian",
    "NormalMixture",
    "ExponentialMixture",
}


def pool_of(name: str) -> str | None:
    family = family_of(MODELS[name])
    if name in ("Bernoulli", "Binomial", "VonMises") or family.columns or family.simplex:
        return None
    if family.discrete:
        return "count"
    if name in ("Beta", "Kumaraswamy", "ContinuousBernoulli"):
        return "share"
    real = "finite number" in family.support
    return "real" if real and name != "ExponentialMixture" else "positive"


def draw_parameters(rng: np.random.Generator, parameters: dict[str, Any]) -> Params:
    wide = 3.0 if rng.random() < 0.2 else 1.0
    drawn = {}
    for name, p in parameters.items():
        if isinstance(p.constraint, type(constraints.simplex)):
            drawn[name] = rng.dirichlet(np.full(p.shape, 2.0 / wide))
        elif p.constraint is constraints.positive_definite:
            a = rng.normal(size=p.shape)
            drawn[name] = a @ a.T
        elif hasattr(p.constraint, "upper_bound"):
            drawn[name] = sp.expit(1.5 * wide * rng.normal(size=p.shape))
        elif hasattr(p.constraint, "lower_bound"):
            drawn[name] = np.exp(1.2 * wide * rng.normal(size=p.shape))
        else:
            drawn[name] = (0.4 if name == "concentration" else 2.0 * wide) * rng.normal(
                size=p.shape
            )
    return drawn


def sample(rng: np.random.Generator, name: str, n: int, given: dict[str, float]) -> np.ndarray:
    """Of a family, at random parameters; inside of the range of ordinary numbers."""
    torch.manual_seed(int(rng.integers(1 << 31)))
    if name in REGRESSIONS:
        x = rng.normal(size=n) if rng.random() < 0.7 else rng.integers(0, 2, n).astype(float)
        params = draw_parameters(rng, MODELS[name].parameters)
        mean = np.clip(params["a"] + params["b"] * x, -20, 6)
        y = {
            "logistic": lambda: (rng.random(n) < sp.expit(mean)).astype(float),
            "poisson": lambda: rng.poisson(np.exp(mean)).astype(float),
            "normal": lambda: mean + rng.normal(size=n) * min(params.get("s", 1.0), 1e3),
            "negative binomial": lambda: rng.poisson(
                rng.gamma(np.clip(params.get("k", 1.0), 0.05, 1e3), size=n) * np.exp(mean)
            ).astype(float),
            "weibull": lambda: np.maximum(
                np.exp(mean) * rng.weibull(np.clip(params.get("c", 1.0), 0.1, 50), n), 1e-30
            ),
        }[name]()
        return np.stack([x, y], 1)
    model = MODELS[name]
    family = family_of(model)
    if name == "Categorical":
        return rng.choice(4, n, p=rng.dirichlet(np.full(4, 0.7))).astype(float)
    if name == "Multinomial":
        return rng.multinomial(int(rng.integers(1, 9)), rng.dirichlet(np.full(3, 0.7)), n).astype(
            float
        )
    params = draw_parameters(rng, parameters_of(name, 3 if family.columns else 1))
    if name == "Uniform":
        params["high"] = params["low"] + abs(params["high"]) + 0.1
    if name == "Dirichlet":
        x = np.clip(rng.dirichlet(params["concentration"] + 0.05, n), 1e-12, None)
        return x / x.sum(1, keepdims=True)
    tensors = {key: torch.as_tensor(value, dtype=torch.float64) for key, value in params.items()}
    x = model(**tensors, **given, validate_args=False).sample((n,)).double().numpy()
    return np.clip(x, -1e9, 1e9)


def spoiled(rng: np.random.Generator, x: np.ndarray, pool: str | None) -> np.ndarray:
    """Sometimes ties, two values, a constant, or rounded."""
    how = rng.integers(12)
    if how == 0:
        x = np.full_like(x, x[0])
    elif how == 1:
        x = x[rng.integers(0, min(2, len(x)), len(x))]
    elif how == 2:
        x = x[rng.integers(0, len(x), len(x))]
    elif how == 3 and pool in ("real", "positive", "share"):
        digits = (
            1
            if pool == "share"
            else int(rng.integers(0, 3)) - int(np.log10(np.median(abs(x)) + 1e-12))
        )
        x = np.round(x, digits)
    elif how == 4 and pool in ("real", "positive"):
        x = np.median(x) * (1 + 1e-6 * (x - np.median(x)) / (np.ptp(x) + 1e-9))
    return x


def inside(x: np.ndarray, pool: str | None) -> np.ndarray:
    if pool == "positive":
        return np.maximum(abs(x), 1e-9)
    if pool == "share":
        return np.clip(x, 1e-9, 1 - 1e-9)
    return x


def censoring(
    rng: np.random.Generator, x: np.ndarray, count: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Ends: on the right or left of a common limit or at random, all rows, intervals, or a mixture
    of these.
    """
    n, kind = len(x), rng.integers(8)
    low, high = x.copy(), x.copy()
    if kind <= 1:  # beyond a common limit
        limit = np.quantile(x, rng.uniform(0.05, 0.95))
        limit = np.round(limit) if count else limit
        beyond = x > limit if kind == 0 else x < limit
        low, high = np.where(beyond, limit, x), np.where(beyond, limit, x)
        (high if kind == 0 else low)[beyond] = np.inf if kind == 0 else -np.inf
    elif kind == 2:
        high[rng.random(n) < rng.uniform(0.1, 0.95)] = np.inf
    elif kind == 3:
        low[rng.random(n) < rng.uniform(0.1, 0.95)] = -np.inf
    elif kind == 4:
        (high if rng.random() < 0.5 else low)[:] = np.inf
        low = np.where(low == np.inf, -np.inf, low)
    else:
        width = np.ptp(x) * 10 ** rng.uniform(-2, 0.5) + (1.0 if count else 1e-3)
        some = rng.random(n) < (1.0 if kind == 5 else 0.5)
        below = width * rng.random(n)
        low, high = np.where(some, x - below, x), np.where(some, x + width - below, x)
        if count:
            low, high = np.floor(low), np.ceil(high)
        if kind == 7:
            side = rng.random(n)
            high[side < 0.2], low[side > 0.8] = np.inf, -np.inf
    return low, high


def draw(seed: int, index: int, only: str | None = None) -> Problem:
    """The problem of a number."""
    rng = np.random.default_rng([seed, index])
    name = str(rng.choice(list(MODELS)))
    name = only or name
    n = int(np.exp(rng.uniform(np.log(2), np.log(500))))
    given = {
        "Binomial": {"total_count": float(rng.integers(1, 20))},
        "GeneralizedPareto": {"loc": 0.0},
    }.get(name, {})
    pool = None if name in REGRESSIONS else pool_of(name)
    other = pool is not None and rng.random() < 0.3
    x = sample(
        rng, str(rng.choice(POOLS[pool])) if other and pool else name, n, {} if other else given
    )
    if pool == "count" or name in ("Bernoulli", "Binomial"):
        x = np.round(np.clip(x, 0, 1e6))
    x = inside(spoiled(rng, inside(x, pool), pool), pool)
    ends, window, weights = None, None, None
    model = MODELS[name]
    plain = name in REGRESSIONS or model is td.Laplace or family_of(model).tails is None
    if not plain and rng.random() < 0.35:
        ends = censoring(rng, x, family_of(MODELS[name]).discrete)
        if pool != "real":
            ends = (
                np.where(ends[0] <= 0, -np.inf if pool in ("positive", "share") else 0.0, ends[0]),
                ends[1],
            )
            if pool == "share" or name in ("Bernoulli", "Binomial"):
                ends = ends[0], np.where(ends[1] >= given.get("total_count", 1.0), np.inf, ends[1])
            nothing = np.isinf(ends[0]) & np.isinf(ends[1])
            ends = np.where(nothing, x, ends[0]), np.where(nothing, x, ends[1])
    if not plain and rng.random() < 0.1:
        first, last = (x, x) if ends is None else ends
        low = first[np.isfinite(first)].min(initial=x.min()) - np.ptp(x) * rng.random()
        high = last[np.isfinite(last)].max(initial=x.max()) + np.ptp(x) * rng.random()
        window = [(low, np.inf), (-np.inf, high), (low, high)][rng.integers(3)]
    kind, sampling = rng.random(), False
    if kind < 0.2:
        weights = rng.integers(0, 5, n).astype(float)
        weights[0] += 1
    elif kind < 0.4:
        weights, sampling = np.exp(rng.normal(size=n) * 1.5), True
    problem = Problem(name, x, ends, window, weights, sampling, {}, given)
    if scalable(name) and rng.random() < 0.3:
        problem = scaled(problem, 2.0 ** float(rng.integers(-20, 21)))
    if rng.random() < 0.4:
        problem = replace(problem, start=far_start(rng, problem))
    return problem


def scalable(name: str) -> bool:
    return name in SCALED or name.startswith("Shifted")


def scaled(problem: Problem, factor: float) -> Problem:
    """In other units."""
    ends = problem.ends and (problem.ends[0] * factor, problem.ends[1] * factor)
    window = problem.window and (problem.window[0] * factor, problem.window[1] * factor)
    return replace(problem, values=problem.values * factor, ends=ends, window=window)


def rough(problem: Problem) -> Params:
    """Parameters that the data may have, by their median and spread."""
    x = problem.values if problem.values.ndim == 1 else problem.values[:, -1]
    middle, spread = float(np.median(x)), float(np.std(x)) or abs(float(x[0])) or 1.0
    values = {
        "loc": middle,
        "scale": spread,
        "rate": abs(middle) or 1.0,
        "low": x.min(),
        "high": x.max(),
    }
    if problem.name.startswith("Shifted"):
        low = x.min() - 0.5 * spread
        values |= {
            "location": low,
            "loc": middle - low if "location" in problem.parameters else low,
        }
        x = x - low
    if problem.name.endswith("LogNormal"):
        values |= {"loc": float(np.log(x).mean()), "scale": float(np.log(x).std()) + 0.1}
    if pool_of(problem.name) != "count" if problem.name in LAWS else True:
        values["rate"] = 1 / values["rate"]
    params = {}
    for name, p in problem.parameters.items():
        value = np.full(p.shape, values.get(name, 1.0), dtype=float)
        if isinstance(p.constraint, type(constraints.simplex)):
            value = np.full(p.shape, 1 / math.prod(p.shape))
        elif p.constraint is constraints.positive_definite:
            value = np.eye(len(value)) * spread**2
        elif hasattr(p.constraint, "upper_bound"):
            value = np.full(p.shape, 0.5)
        elif p.constraint is constraints.real and name not in values:
            value = np.full(p.shape, 0.1)
        elif name == "loc" and p.shape:
            value = np.quantile(x, np.linspace(0.2, 0.8, len(value)))
        params[name] = np.maximum(value, 1e-300) if hasattr(p.constraint, "lower_bound") else value
    return params


def units(problem: Problem) -> np.ndarray:
    """By how much each number is moved: 1, or the spread of the data of a location."""
    found = []
    x = problem.values if problem.values.ndim == 1 else problem.values[:, -1]
    log = problem.name == "LogNormal"
    spread = float(np.std(np.log(x) if log else x)) or abs(float(x[0])) or 1.0
    for name, p in problem.parameters.items():
        moves = p.constraint is constraints.real and name in ("loc", "location", "low", "high", "a")
        found += [
            spread if moves and (name != "a" or problem.name == "normal") else 1.0
        ] * math.prod(p.free_shape)
    return np.array(found)


def far_start(rng: np.random.Generator, problem: Problem) -> Params:
    theta = numbers(problem.parameters, rough(problem))
    size = rng.choice([1.0, 7.0]) * rng.uniform(-1, 1, len(theta)) * (rng.random(len(theta)) < 0.7)
    return natural(problem.parameters, theta + units(problem) * size)
