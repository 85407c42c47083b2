"""A problem of maximum likelihood: how nll fits it, and its log-likelihood computed
independently.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.special as sp
import scipy.stats as st
import torch
from random_fits.laws import LAWS, between
from torch import distributions as td
from torch.distributions import constraints

import nll
from nll.families.registry import FAMILIES, family_of
from nll.solvers.parameters import Parameter

Params = dict[str, np.ndarray]

MODELS: dict[str, Any] = {family.__name__: family for family in list(FAMILIES)}
MODELS |= {
    f"Shifted{base.__name__}": nll.shifted(base)
    for base in (td.Gamma, td.Weibull, td.LogNormal, nll.InverseGaussian, td.InverseGamma)
}
MODELS |= {
    f"ZeroInflated{base.__name__}": nll.zero_inflated(base)
    for base in (td.Poisson, td.NegativeBinomial, td.Geometric)
}
MODELS |= {
    f"{base.__name__}Mixture": nll.mixture(base, 2)
    for base in (td.Normal, td.Poisson, td.Exponential)
}
real, positive = constraints.real, constraints.positive
REGRESSIONS = {
    "logistic": ({"a": real, "b": real}, lambda x, y, a, b: td.Bernoulli(logits=a + b * x)),
    "poisson": ({"a": real, "b": real}, lambda x, y, a, b: td.Poisson(torch.exp(a + b * x))),
    "normal": (
        {"a": real, "b": real, "s": positive},
        lambda x, y, a, b, s: td.Normal(a + b * x, s),
    ),
    "negative binomial": (
        {"a": real, "b": real, "k": positive},
        lambda x, y, a, b, k: td.NegativeBinomial(k, logits=a + b * x - k.log()),
    ),
    "weibull": (
        {"a": real, "b": real, "c": positive},
        lambda x, y, a, b, c: td.Weibull(torch.exp(a + b * x), c.expand_as(x)),
    ),
}
MODELS |= {name: nll.Likelihood(law, params, name) for name, (params, law) in REGRESSIONS.items()}


def parameters_of(name: str, columns: int) -> dict[str, Parameter]:
    """Where each parameter lives, and its shape."""
    if name == "Uniform":  # its class does not tell
        return {"low": Parameter(constraints.real), "high": Parameter(constraints.real)}
    known = family_of(MODELS[name]).constraints(columns)
    return {
        n: Parameter(getattr(p.constraint, "base_constraint", p.constraint), p.shape)
        for n, p in known.items()
    }


def plain(params: Any) -> str:
    """As it is typed."""
    return (
        "{"
        + ", ".join(f"{name!r}: {np.asarray(value).tolist()}" for name, value in params.items())
        + "}"
    )


@dataclass(frozen=True)
class Problem:
    """One fit."""

    name: str
    values: np.ndarray  # (n, ...); of a regression x and y
    ends: tuple[np.ndarray, np.ndarray] | None = None
    window: tuple[float, float] | None = None
    weights: np.ndarray | None = None
    sampling: bool = False
    start: Params = field(default_factory=dict)
    given: dict[str, float] = field(default_factory=dict)

    @property
    def model(self) -> Any:
        return MODELS[self.name]

    @property
    def parameters(self) -> dict[str, Any]:
        if self.name in REGRESSIONS:
            return self.model.parameters
        if self.name == "Categorical":
            seen = self.values[self.counts > 0]
            return {"probs": Parameter(constraints.simplex, (int(seen.max()) + 1,))}
        return parameters_of(self.name, self.values.shape[1] if self.values.ndim > 1 else 1)

    def fit(self, start: Params) -> nll.Fit:
        return nll.fit(
            self.model, self.data, weights=self.frequencies, start=start, fixed=self.given
        )

    @property
    def data(self) -> Any:
        data: Any = tuple(self.values.T) if self.name in REGRESSIONS else self.values
        data = data if self.ends is None else nll.censored(*self.ends)
        return data if self.window is None else nll.truncated(data, *self.window)

    @property
    def frequencies(self) -> Any:
        return nll.sampling(self.weights) if self.sampling else self.weights

    @property
    def counts(self) -> np.ndarray:
        """How often each row counts."""
        if self.weights is None:
            return np.ones(len(self.values))
        return self.weights * (len(self.weights) / self.weights.sum() if self.sampling else 1.0)

    @property
    def densities(self) -> float:
        """How many rows have a density, not a probability."""
        return float(
            self.counts.sum()
            if self.ends is None
            else self.counts[self.ends[0] == self.ends[1]].sum()
        )

    def log_likelihood(self, params: Params) -> float:
        seen = self.counts > 0
        return float(self.counts[seen] @ np.asarray(self.rows(params))[seen])

    def __str__(self) -> str:
        kinds = {"censored": self.ends, "truncated": self.window, "far start": self.start or None}
        kinds["sampling weights" if self.sampling else "weights"] = self.weights
        said = [
            f"{self.name} (n = {len(self.values)}",
            *(kind for kind, value in kinds.items() if value is not None),
        ]
        return ", ".join(said) + ")"

    @property
    def literal(self) -> str:
        """What draws it again."""
        pairs = {"ends": self.ends, "window": self.window}
        said: dict[str, Any] = {"values": self.values.tolist()}
        said |= {
            name: [np.asarray(end).tolist() for end in pair]
            for name, pair in pairs.items()
            if pair is not None
        }
        said |= {} if self.weights is None else {"weights": self.weights.tolist()}
        return f"{said}, start = {plain(self.start)}, fixed = {self.given}"

    def rows(self, params: Params) -> Any:
        x = self.values
        if self.name in REGRESSIONS:
            parts = torch.as_tensor(x.T)
            tensors = {name: torch.as_tensor(value) for name, value in params.items()}
            try:
                return REGRESSIONS[self.name][1](*parts, **tensors).log_prob(parts[1]).numpy()
            except ValueError:  # a scale that underflows
                return np.full(len(x), np.nan)
        if self.name == "Categorical":
            # a category beyond the last has no weight
            return np.log(params["probs"])[np.minimum(x.astype(int), len(params["probs"]) - 1)]
        if self.name == "Multinomial":
            return st.multinomial.logpmf(x, x.sum(1).astype(int), params["probs"])
        if self.name == "Dirichlet":
            a = params["concentration"]
            return sp.gammaln(a.sum()) - sp.gammaln(a).sum() + np.log(x) @ (a - 1)
        if self.name == "MultivariateNormal":
            covariance: Any = params["covariance_matrix"]
            try:
                return st.multivariate_normal(params["loc"], covariance).logpdf(x)
            except (np.linalg.LinAlgError, ValueError):  # singular, or not finite
                return np.full(len(x), np.nan)
        law = LAWS[self.name](**params, **self.given)
        discrete = family_of(self.model).discrete
        if self.ends is None:
            rows = law[0](x)
        else:
            low, high = self.ends
            if self.window is not None:  # what is seen lies inside
                low, high = np.maximum(low, self.window[0]), np.minimum(high, self.window[1])
            rows = np.where(
                low == high,
                law[0](np.where(low == high, low, x)),
                between(law, low, high, discrete),
            )
        if self.window is None:
            return rows
        low, high = map(np.asarray, self.window)
        return rows - between(law, low, high, discrete)


# ---- Parameters as numbers without bounds --------------------------------------------------------


def natural(parameters: dict[str, Any], theta: np.ndarray) -> Params:
    """Parameters of numbers: logarithms, logits, entries of a Cholesky factor."""
    params, at = {}, 0
    for name, p in parameters.items():
        size = math.prod(p.free_shape)
        part, at = theta[at : at + size].reshape(p.free_shape), at + size
        if isinstance(p.constraint, type(constraints.simplex)):
            params[name] = sp.softmax(np.append(part, 0.0))
        elif p.constraint is constraints.positive_definite:
            factor = np.zeros(p.shape)
            factor[np.tril_indices(len(factor))] = part
            np.fill_diagonal(factor, np.exp(factor.diagonal()))
            params[name] = factor @ factor.T
        elif hasattr(p.constraint, "upper_bound"):
            params[name] = sp.expit(part)
        else:
            params[name] = np.exp(part) if hasattr(p.constraint, "lower_bound") else part
    return params


def numbers(parameters: dict[str, Any], params: Params) -> np.ndarray:
    """The inverse; what lies at a boundary stays finite."""
    parts = []
    for name, p in parameters.items():
        value = np.asarray(params[name], dtype=float)
        if isinstance(p.constraint, type(constraints.simplex)):
            value = np.log(value + 1e-18)
            part = value[:-1] - value[-1]
        elif p.constraint is constraints.positive_definite:
            factor = np.linalg.cholesky(
                value + np.eye(len(value)) * (1e-12 * value.trace() + 1e-300)
            )
            np.fill_diagonal(factor, np.log(factor.diagonal()))
            part = factor[np.tril_indices(len(factor))]
        elif hasattr(p.constraint, "upper_bound"):
            part = np.clip(sp.logit(value), -35, 35)
        elif hasattr(p.constraint, "lower_bound"):
            part = np.log(np.clip(value, 1e-300, 1e300))
        else:
            part = np.clip(value, -1e300, 1e300)
        parts.append(np.ravel(part))
    return np.concatenate(parts)
