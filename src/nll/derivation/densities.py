"""Log-densities as expressions, a row for each family: where a derivation starts.

The parameters are those of torch.distributions, written with the field's letters.
Densities and moments: Johnson, Kotz and Balakrishnan, "Continuous Univariate Distributions" (1994),
and Johnson, Kemp and Kotz, "Univariate Discrete Distributions" (2005).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy as sp
from sympy import Expr, Symbol, log
from torch import distributions as td

from nll.families.distributions import GeneralizedExtremeValue, InverseGaussian, SkewNormal

X = Symbol("x", real=True)
N = Symbol("n", positive=True)

Order = Callable[[Sequence[Any]], Any]  # sorted numbers -> a number


@dataclass(frozen=True)
class Symbolic:
    """A family in symbols."""

    params: dict[str, Symbol]  # the name in torch.distributions -> the letter
    log_density: Expr  # of X
    closed: bool = False  # whether the likelihood equations have a closed-form solution
    moments: dict[Expr, Expr] = field(default_factory=dict)  # function of X -> its mean
    mean: Callable[[Expr], Expr] | None = None  # of any function of X, where moments do not suffice
    curved: bool = True  # whether the second derivatives are information
    informed: tuple[Symbol, ...] | None = None  # the parameters that have information; None: all
    given: dict[str, Symbol] = field(default_factory=dict)  # parameters that are not estimated
    irregular: str | None = None  # the sentence on why the equations do not give the solution
    extremes: dict[str, Expr] = field(default_factory=dict)  # parameter -> by order statistics

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        """The letters of the parameters, in the order of torch.distributions."""
        return tuple(self.params.values())

    @property
    def regular(self) -> tuple[Symbol, ...]:
        """Those that have information."""
        return self.symbols if self.informed is None else self.informed


# The letters of sums over the sample, by what is summed.
SUMS: dict[Expr, Symbol] = {
    X: Symbol("S", real=True),
    X**2: Symbol("Q", positive=True),
    log(X): Symbol("T", real=True),
    log(X) ** 2: Symbol("U", positive=True),
    1 / X: Symbol("R", positive=True),
    log(1 - X): Symbol("V", real=True),
    sp.cos(X): Symbol("C", real=True),
    sp.sin(X): Symbol("D", real=True),
}
LEAST, MOST = Symbol("x_min", real=True), Symbol("x_max", real=True)
MIDDLE, SPREAD, LOGS = (
    Symbol("m", real=True),
    Symbol("A", positive=True),
    Symbol("W", positive=True),
)


def _median(values: Sequence[Any]) -> Any:
    return (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2


ORDER: dict[Symbol, Order] = {
    LEAST: lambda values: values[0],
    MOST: lambda values: values[-1],
    MIDDLE: _median,
    SPREAD: lambda values: sum(abs(value - _median(values)) for value in values),
    LOGS: lambda values: sum(log(value / values[0]) for value in values),
}


_P = Symbol("p", positive=True)
_RATE, _SCALE, _SHAPE, _SHAPE0, _DF, _R, _M = sp.symbols(
    "lambda sigma alpha beta nu r m", positive=True
)
_LOC, _LEFT, _RIGHT, _XI, _SKEW = sp.symbols("mu a b xi alpha", real=True)
_MEAN, _KAPPA, _K = sp.symbols("mu kappa k", positive=True)
_Z = (X - _LOC) / _SCALE
_TAU = 2 * sp.pi
_LOC_SCALE = {"loc": _LOC, "scale": _SCALE}


def _log_beta(a: Expr, b: Expr) -> Expr:
    return sp.loggamma(a) + sp.loggamma(b) - sp.loggamma(a + b)


def of_exponential(expr: Expr, y: Symbol) -> Expr:
    """Return the mean of c y^a log(y)^b + ... for y with density exp(-y): E y^s = Gamma(1 + s), and
    its derivatives with respect to s.
    """
    s, logs, total = sp.Dummy("s"), sp.Dummy("log y"), sp.Integer(0)
    for term in sp.Add.make_args(sp.expand(sp.expand_log(sp.powsimp(sp.expand(expr), force=True)))):
        factor, product = term.subs(log(y), logs).as_independent(y, logs, as_Add=False)
        power = sp.simplify(y * sp.diff(product, y) / product)
        count = sp.simplify(logs * sp.diff(product, logs) / product)
        total += factor * sp.diff(sp.gamma(1 + s), s, count).subs(s, power)
    return total


_Y = Symbol("y", positive=True)


def _by_exponential(*places: Expr) -> Callable[[Expr], Expr]:
    """Return means of functions of X, which is one of these functions of a standard exponential
    variable, with equal probability.
    """

    def mean(expr: Expr) -> Expr:
        return sum(
            (of_exponential(sp.simplify(expr.subs(X, at)), _Y) for at in places), sp.S.Zero
        ) / len(places)

    return mean


def categorical(count: int) -> Symbolic:
    """Return the shares of `count` categories; the last is 1 minus the others, so that the
    equations need no multiplier.
    """
    shares = sp.symbols(f"p0:{count - 1}", positive=True)
    seen = [sp.KroneckerDelta(X, k) for k in range(count - 1)]
    terms = [one * log(share) for one, share in zip(seen, shares, strict=True)]
    return Symbolic(
        {f"probs[{k}]": share for k, share in enumerate(shares)},
        sum(terms, sp.S.Zero) + (1 - sum(seen, sp.S.Zero)) * log(1 - sum(shares, sp.S.Zero)),
        True,
        dict(zip(seen, shares, strict=True)),
    )


CATEGORIES = 5  # most that are worked out with symbols
SUMS |= {sp.KroneckerDelta(X, k): Symbol(f"n{k}", positive=True) for k in range(CATEGORIES)}

_NORMAL = {X: _LOC, X**2: _LOC**2 + _SCALE**2}
TABLE: dict[type[td.Distribution], Symbolic] = {
    td.Bernoulli: Symbolic({"probs": _P}, X * log(_P) + (1 - X) * log(1 - _P), True, {X: _P}),
    td.Binomial: Symbolic(
        {"probs": _P},
        log(sp.binomial(_M, X)) + X * log(_P) + (_M - X) * log(1 - _P),
        True,
        {X: _M * _P},
        given={"total_count": _M},
    ),
    td.Geometric: Symbolic({"probs": _P}, log(_P) + X * log(1 - _P), True, {X: (1 - _P) / _P}),
    td.Poisson: Symbolic(
        {"rate": _RATE}, X * log(_RATE) - _RATE - log(sp.factorial(X)), True, {X: _RATE}
    ),
    td.Exponential: Symbolic({"rate": _RATE}, log(_RATE) - _RATE * X, True, {X: 1 / _RATE}),
    td.Normal: Symbolic(_LOC_SCALE, -log(_SCALE) - log(_TAU) / 2 - _Z**2 / 2, True, _NORMAL),
    td.LogNormal: Symbolic(
        _LOC_SCALE,
        -log(X) - log(_SCALE) - log(_TAU) / 2 - (log(X) - _LOC) ** 2 / (2 * _SCALE**2),
        True,
        {log(X): _LOC, log(X) ** 2: _LOC**2 + _SCALE**2},
    ),
    td.HalfNormal: Symbolic(
        {"scale": _SCALE},
        log(2) - log(_SCALE) - log(_TAU) / 2 - X**2 / (2 * _SCALE**2),
        True,
        {X**2: _SCALE**2},
    ),
    InverseGaussian: Symbolic(
        {"loc": _MEAN, "concentration": _KAPPA},
        log(_KAPPA) / 2
        - log(_TAU) / 2
        - sp.Rational(3, 2) * log(X)
        - _KAPPA * (X - _MEAN) ** 2 / (2 * _MEAN**2 * X),
        True,
        {X: _MEAN, 1 / X: 1 / _MEAN + 1 / _KAPPA},
    ),
    td.Laplace: Symbolic(
        _LOC_SCALE,
        -log(2) - log(_SCALE) - sp.Abs(X - _LOC) / _SCALE,
        mean=_by_exponential(_LOC + _SCALE * _Y, _LOC - _SCALE * _Y),
        curved=False,
        irregular="laplace",
        extremes={"loc": MIDDLE, "scale": SPREAD / N},
    ),
    td.Uniform: Symbolic(
        {"low": _LEFT, "high": _RIGHT},
        -log(_RIGHT - _LEFT),
        curved=False,
        irregular="uniform",
        extremes={"low": LEAST, "high": MOST},
    ),
    td.Pareto: Symbolic(
        {"scale": _SCALE, "alpha": _SHAPE},
        log(_SHAPE) + _SHAPE * log(_SCALE) - (_SHAPE + 1) * log(X),
        mean=lambda one: one,  # the second derivative by alpha has no x in it
        informed=(_SHAPE,),
        irregular="pareto",
        extremes={"scale": LEAST, "alpha": N / LOGS},
    ),
    td.Gamma: Symbolic(
        {"concentration": _SHAPE, "rate": _RATE},
        _SHAPE * log(_RATE) - sp.loggamma(_SHAPE) + (_SHAPE - 1) * log(X) - _RATE * X,
        moments={X: _SHAPE / _RATE},
    ),
    td.InverseGamma: Symbolic(
        {"concentration": _SHAPE, "rate": _RATE},
        _SHAPE * log(_RATE) - sp.loggamma(_SHAPE) - (_SHAPE + 1) * log(X) - _RATE / X,
        moments={1 / X: _SHAPE / _RATE},
    ),
    td.Chi2: Symbolic(
        {"df": _DF},
        (_DF / 2 - 1) * log(X) - X / 2 - _DF / 2 * log(2) - sp.loggamma(_DF / 2),
        moments={X: _DF},
    ),
    td.Beta: Symbolic(
        {"concentration1": _SHAPE, "concentration0": _SHAPE0},
        (_SHAPE - 1) * log(X) + (_SHAPE0 - 1) * log(1 - X) - _log_beta(_SHAPE, _SHAPE0),
        moments={X: _SHAPE / (_SHAPE + _SHAPE0)},
    ),
    td.Weibull: Symbolic(
        {"scale": _SCALE, "concentration": _K},
        log(_K) - _K * log(_SCALE) + (_K - 1) * log(X) - (X / _SCALE) ** _K,
        mean=_by_exponential(_SCALE * _Y ** (1 / _K)),
    ),
    td.Gumbel: Symbolic(
        _LOC_SCALE,
        -_Z - sp.exp(-_Z) - log(_SCALE),
        mean=_by_exponential(_LOC - _SCALE * log(_Y)),
    ),
    td.Cauchy: Symbolic(_LOC_SCALE, -log(sp.pi) - log(_SCALE) - log(1 + _Z**2)),
    td.HalfCauchy: Symbolic(
        {"scale": _SCALE}, log(2 / sp.pi) - log(_SCALE) - log(1 + (X / _SCALE) ** 2)
    ),
    td.StudentT: Symbolic(
        {"df": _DF, **_LOC_SCALE},
        sp.loggamma((_DF + 1) / 2)
        - sp.loggamma(_DF / 2)
        - log(sp.pi * _DF) / 2
        - log(_SCALE)
        - (_DF + 1) / 2 * log(1 + _Z**2 / _DF),
    ),
    td.NegativeBinomial: Symbolic(
        {"total_count": _R, "probs": _P},
        sp.loggamma(X + _R)
        - sp.loggamma(_R)
        - log(sp.factorial(X))
        + _R * log(1 - _P)
        + X * log(_P),
    ),
    td.VonMises: Symbolic(
        {"loc": _LOC, "concentration": _KAPPA},
        _KAPPA * (sp.cos(_LOC) * sp.cos(X) + sp.sin(_LOC) * sp.sin(X))
        - log(_TAU)
        - log(sp.besseli(0, _KAPPA)),
        moments={
            sp.cos(X): sp.cos(_LOC) * sp.besseli(1, _KAPPA) / sp.besseli(0, _KAPPA),
            sp.sin(X): sp.sin(_LOC) * sp.besseli(1, _KAPPA) / sp.besseli(0, _KAPPA),
        },
    ),
    td.Kumaraswamy: Symbolic(
        {"concentration1": _SHAPE, "concentration0": _SHAPE0},
        log(_SHAPE) + log(_SHAPE0) + (_SHAPE - 1) * log(X) + (_SHAPE0 - 1) * log(1 - X**_SHAPE),
    ),
    GeneralizedExtremeValue: Symbolic(
        {**_LOC_SCALE, "concentration": _XI},
        -log(_SCALE) - (1 + 1 / _XI) * log(1 + _XI * _Z) - (1 + _XI * _Z) ** (-1 / _XI),
    ),
    SkewNormal: Symbolic(
        {**_LOC_SCALE, "skewness": _SKEW},
        -log(_SCALE) - log(_TAU) / 2 - _Z**2 / 2 + log(sp.erfc(-_SKEW * _Z / sp.sqrt(2))),
    ),
    td.Categorical: categorical(3),
}
