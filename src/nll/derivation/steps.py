"""The four steps of maximum likelihood in symbols: likelihood, logarithm, equations, solution; then
the information.

The log-density is a sum of terms. A term whose functions of x are free of the parameters enters
through the sums of these over the sample, which have letters; the others stay sums. Derivatives,
solutions and the information are SymPy's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import sympy as sp
from sympy import Expr, Symbol

from nll.derivation.densities import SUMS, N, Symbolic, X
from nll.estimation.result import Fit

INDEX = sp.Idx("i")
OBSERVED = sp.IndexedBase("x", real=True)[INDEX]


@dataclass(frozen=True)
class Steps:
    """A family's likelihood, its equations and their solution; with data, also in numbers.

    The letters of the formulas stand for `symbolic.params`; those in `statistics` for sums over the
    sample.
    """

    family: str
    symbolic: Symbolic
    density: Expr  # of one observation
    likelihood: Expr
    log_likelihood: Expr
    statistics: dict[Symbol, Expr]  # letter -> the function of x that is summed
    equations: dict[Symbol, Expr]  # parameter -> what is zero at an inner maximum
    solution: dict[Symbol, Expr] | None  # of the equations, or from order statistics
    # minus the second derivatives; None where they are no information
    information: sp.Matrix | None
    expected: sp.Matrix | None  # their mean, where it is known
    errors: dict[Symbol, Expr] | None  # standard errors at the solution
    data: tuple[float, ...] = ()
    fit: Fit | None = None  # the fit of the data
    numbers: dict[Symbol, Expr] = field(default_factory=dict)  # the statistics of the data
    # exact where the numbers are, otherwise to fifteen digits
    estimate: dict[Symbol, Expr] | None = None


def symbols(name: str, symbolic: Symbolic) -> dict[str, Any]:
    """Return the fields of `Steps` that need no data."""
    term, params = symbolic.log_density, symbolic.symbols
    statistics: dict[Symbol, Expr] = {}
    log_likelihood = summed(term, symbolic, statistics)
    equations = {p: summed(sp.diff(term, p), symbolic, statistics) for p in params}
    curvature = -sp.hessian(term, symbolic.regular)
    information = curvature.applyfunc(lambda entry: summed(entry, symbolic, statistics))
    expected = _expected(symbolic, curvature)
    solution = {symbolic.params[p]: value for p, value in symbolic.extremes.items()} or None
    if symbolic.closed:
        (solved,) = sp.solve(list(equations.values()), list(equations), dict=True)
        solution = {p: sp.simplify(solved[p]) for p in equations}
    product = sp.Product(_power(term).subs(X, OBSERVED), (INDEX, 1, N))
    return {
        "family": name,
        "symbolic": symbolic,
        "density": _power(term),
        "likelihood": product if log_likelihood.has(sp.Sum) else _power(log_likelihood),
        "log_likelihood": log_likelihood,
        "statistics": statistics,
        "equations": equations,
        "solution": solution,
        "information": information if symbolic.curved else None,
        "expected": expected,
        "errors": _standard_errors(symbolic, expected, solution),
    }


def summed(expr: Expr, symbolic: Symbolic, statistics: dict[Symbol, Expr]) -> Expr:
    """Return the sum over the sample of a function of x and the parameters.

    Sums that have a letter are added to `statistics`.
    """
    fixed, total, rest = {X, *symbolic.given.values()}, sp.Integer(0), []
    for term in sp.Add.make_args(sp.sympify(expr)):
        factor, function = term.as_independent(X, as_Add=False)
        parts = [p.as_independent(X, as_Add=False) for p in sp.Add.make_args(sp.expand(function))]
        if all(what == 1 or what.free_symbols <= fixed for _, what in parts):
            sums = sp.Add(*(scale * _letter(what, statistics) for scale, what in parts))
            content, inner = sums.primitive()
            total += factor * content * inner
        else:
            rest.append((factor, function))
    if not rest:
        return total
    factor, function = rest[0]
    if len(rest) > 1:
        factor, function = 1, sp.Add(*(factor * function for factor, function in rest))
    return total + factor * sp.Sum(function.subs(X, OBSERVED), (INDEX, 1, N))


def _letter(what: Expr, statistics: dict[Symbol, Expr]) -> Symbol:
    if what == 1:
        return N
    letter = SUMS.get(what, Symbol("K", real=True))
    assert statistics.setdefault(letter, what) == what, (letter, what)
    return letter


def _power(log: Expr) -> Expr:
    """Return exp(log): a sum of logarithms becomes a product of powers."""
    product, rest = sp.Integer(1), sp.Integer(0)
    for term in sp.Add.make_args(log):
        logs = [f for f in sp.Mul.make_args(term) if isinstance(f, (sp.log, sp.loggamma))]
        if logs:
            (argument,) = logs[0].args
            base = argument if isinstance(logs[0], sp.log) else sp.gamma(argument)
            product *= base ** (term / logs[0])
        else:
            rest += term
    return product * sp.exp(rest)


def _expected(symbolic: Symbolic, curvature: sp.Matrix) -> sp.Matrix | None:
    """Return n times the mean of one observation's information, or of the scores' outer product
    where the density has a corner.
    """
    mean = symbolic.mean
    if mean is None and not symbolic.moments:
        return None
    if not symbolic.curved:
        score = sp.Matrix([sp.diff(symbolic.log_density, p) for p in symbolic.symbols])
        curvature = score * score.T
    mean = mean or (lambda entry: _by_moments(entry, symbolic.moments))
    return (N * curvature.applyfunc(mean)).applyfunc(_tidy)


def _by_moments(expr: Expr, moments: dict[Expr, Expr]) -> Expr:
    total = sp.Integer(0)
    for term in sp.Add.make_args(sp.expand(expr)):
        factor, function = term.as_independent(X, as_Add=False)
        total += factor * (moments[function] if function != 1 else 1)
    return total


def _standard_errors(
    symbolic: Symbolic, expected: sp.Matrix | None, solution: Any
) -> dict[Symbol, Expr] | None:
    """From the expected information at the solution, where the observed one is the same."""
    if expected is None or solution is None:
        return None
    variances = [_tidy(value) for value in expected.inv().diagonal()]
    # of a product with a sum in it one root, not a product of roots
    return {
        p: sp.Pow(variance, sp.S.Half, evaluate=not variance.has(sp.Add))
        for p, variance in zip(symbolic.regular, variances, strict=True)
    }


def _tidy(expr: Expr) -> Expr:
    """Simplify to n / (p (1 - p)) rather than -n / (p (p - 1))."""
    expr = sp.factor_terms(sp.simplify(expr))
    for factor in sp.Mul.make_args(expr) if expr.could_extract_minus_sign() else ():
        base, power = factor.as_base_exp()
        if (
            base.is_Add
            and power in (1, -1)
            and base.could_extract_minus_sign() != (-base).could_extract_minus_sign()
        ):
            return -(expr / factor) * (-base) ** power
    return expr


def written(value: float) -> Expr:
    """Return a decimal number as the fraction that it is written as."""
    return sp.Rational(repr(value))
