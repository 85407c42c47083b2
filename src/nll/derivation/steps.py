"""The four steps of maximum likelihood in symbols: likelihood, logarithm, equations, solution; then
the information.

The log-density is a sum of terms. A term whose functions of x are free of the parameters enters by
the sums of these over the sample, which have names; the others stay sums. Derivatives, solutions
and the information are SymPy's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import sympy as sp
import torch
from sympy import Expr, Symbol
from torch.distributions import Categorical

from nll.derivation import verify
from nll.derivation.densities import CATEGORIES, ORDER, SUMS, TABLE, N, Symbolic, X, categorical
from nll.estimation.fit import fit
from nll.estimation.result import Fit

INDEX = sp.Idx("i")
OBSERVED = sp.IndexedBase("x", real=True)[INDEX]
_DIGITS = 50  # of the sums: what cancels in n Q - S^2 leaves enough of them
_MOST = 10_000  # observations
_SHORT = 12  # observations, and the signs of each, that are worked with exactly


@dataclass(frozen=True)
class Derivation:
    """A family's likelihood, its equations and their solution; with data also in numbers.

    The letters of the formulas stand for `symbolic.params`; `statistics` says which sums have which
    letter.
    """

    family: str
    symbolic: Symbolic
    density: Expr  # of one observation
    likelihood: Expr
    log_likelihood: Expr
    statistics: dict[Symbol, Expr]  # letter -> the function of x that is summed
    equations: dict[Symbol, Expr]  # parameter -> what is zero at an inner maximum
    solution: dict[Symbol, Expr] | None  # by the equations, or by the order of the data
    # minus the second derivatives; None where they are no information
    information: sp.Matrix | None
    expected: sp.Matrix | None  # their mean, where it is known
    errors: dict[Symbol, Expr] | None  # standard errors at the solution
    data: tuple[float, ...] = ()
    found: Fit | None = None  # the fit of the data
    numbers: dict[Symbol, Expr] = field(default_factory=dict)  # the statistics of the data
    # exact where the numbers are, else to fifteen digits
    estimate: dict[Symbol, Expr] | None = None

    def text(self, language: str = "en") -> str:
        """For a terminal. ValueError for a language that is not "en" or "zh"."""
        from nll.derivation.render import text

        return text(self, language)

    def latex(self, language: str = "en") -> str:
        """A piece of a LaTeX document (with ctex for Chinese). ValueError for another language than
        "en" or "zh".
        """
        from nll.derivation.render import latex

        return latex(self, language)

    def html(self, language: str = "en") -> str:
        """A page of its own, formulas in MathML. ValueError for another language than "en" or
        "zh".
        """
        from nll.derivation.render import html

        return html(self, language)

    def __str__(self) -> str:
        """Return the text in English."""
        return self.text()


def derive(family: Any, data: Any = None, **given: float) -> Derivation:
    """Work out maximum likelihood for a family, step by step.

    Args:
        family: a class of torch.distributions, or one of the library's, that is known in symbols.
        data: (n) numbers, for the steps in numbers too, at most 10 000; they are checked against
            `nll.fit`.
        given: what the data do not tell, with data: total_count=10 of Binomial.

    Raises: ValueError for a family that is not known in symbols, or data that `fit` refuses;
    AssertionError where formulas and fit disagree, which is an error of this library.
    """
    if not isinstance(family, type) or family not in TABLE:
        names = ", ".join(known.__name__ for known in TABLE)
        raise ValueError(
            f"expected a family that is known in symbols ({names}), got {_name(family)}"
        )
    known = TABLE[family]
    if set(given) - set(known.given):
        wanted = " or ".join(known.given) or "no further numbers"
        raise ValueError(
            f"expected {wanted} for {family.__name__}, got "
            f"{', '.join(sorted(set(given) - set(known.given)))}"
        )
    if data is None:
        return symbols(family.__name__, known)
    missing = [name for name in known.given if name not in given]
    if missing:
        raise ValueError(f"expected {missing[0]}=... with data for {family.__name__}, got none")
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"expected {name} as one number, got {value!r}")
    if len(data) > _MOST:
        raise ValueError(
            f"expected at most {_MOST} observations to work with by hand, got {len(data)}; nll.fit "
            f"takes more"
        )
    found = fit(family, data, fixed=given or None)
    try:
        values = torch.as_tensor(data, dtype=torch.float64).reshape(-1).tolist()
    except (ValueError, TypeError):  # categories of texts
        raise ValueError(
            f"expected numbers to work with by hand, got {data[0]!r} at row 0"
        ) from None
    if family is Categorical:
        count = len(found.vector)
        if not 2 <= count <= CATEGORIES:
            raise ValueError(
                f"expected from 2 to {CATEGORIES} categories, numbered from 0, got {count}"
            )
        known = categorical(count)
    plain = symbols(family.__name__, known)
    return _with_data(
        plain, found, values, {known.given[name]: float(value) for name, value in given.items()}
    )


def _name(family: Any) -> str:
    return getattr(family, "__name__", None) or f"an instance of {type(family).__name__}"


# ---- In symbols ----------------------------------------------------------------------------------


def symbols(name: str, known: Symbolic) -> Derivation:
    """The steps without data."""
    statistics: dict[Symbol, Expr] = {}
    one, params = known.log_density, known.symbols
    log_likelihood = summed(one, known, statistics)
    equations = {p: summed(sp.diff(one, p), known, statistics) for p in params}
    curvature = -sp.hessian(one, known.regular)
    information = curvature.applyfunc(lambda entry: summed(entry, known, statistics))
    expected = _expected(known, curvature)
    solution = {known.params[p]: value for p, value in known.extremes.items()} or None
    if known.closed:
        solution = _solved(equations)
    apart = sp.Product(_power(one).subs(X, OBSERVED), (INDEX, 1, N))
    return Derivation(
        family=name,
        symbolic=known,
        density=_power(one),
        likelihood=apart if log_likelihood.has(sp.Sum) else _power(log_likelihood),
        log_likelihood=log_likelihood,
        statistics=statistics,
        equations=equations,
        solution=solution,
        information=information if known.curved else None,
        expected=expected,
        errors=_errors(known, expected, solution),
    )


def summed(term: Expr, known: Symbolic, statistics: dict[Symbol, Expr]) -> Expr:
    """The sum over the sample of a function of x and the parameters; sums that get a letter go to
    `statistics`.
    """
    fixed, total, rest = {X, *known.given.values()}, sp.Integer(0), []
    for one in sp.Add.make_args(sp.sympify(term)):
        factor, own = one.as_independent(X, as_Add=False)
        parts = [part.as_independent(X, as_Add=False) for part in sp.Add.make_args(sp.expand(own))]
        if all(what == 1 or what.free_symbols <= fixed for _, what in parts):
            content, inner = sp.Add(
                *(scale * _letter(what, statistics) for scale, what in parts)
            ).primitive()
            total += factor * content * inner
        else:
            rest.append((factor, own))
    if len(rest) == 1:
        return total + rest[0][0] * sp.Sum(rest[0][1].subs(X, OBSERVED), (INDEX, 1, N))
    own = sp.Add(*(factor * own for factor, own in rest))
    return total + sp.Sum(own.subs(X, OBSERVED), (INDEX, 1, N)) if rest else total


def _letter(what: Expr, statistics: dict[Symbol, Expr]) -> Symbol:
    if what == 1:
        return N
    letter = SUMS.get(what, Symbol("K", real=True))
    assert statistics.setdefault(letter, what) == what, (letter, what)
    return letter


def _power(log: Expr) -> Expr:
    """exp(log), a sum of logarithms becoming a product of powers."""
    product, rest = sp.Integer(1), sp.Integer(0)
    for term in sp.Add.make_args(log):
        inner = next(
            (f for f in sp.Mul.make_args(term) if isinstance(f, (sp.log, sp.loggamma))), None
        )
        if inner is None:
            rest += term
        else:
            base = inner.args[0] if isinstance(inner, sp.log) else sp.gamma(inner.args[0])
            product *= base ** (term / inner)
    return product * sp.exp(rest)


def _solved(equations: dict[Symbol, Expr]) -> dict[Symbol, Expr]:
    solutions = sp.solve(list(equations.values()), list(equations), dict=True)
    assert len(solutions) == 1, solutions
    return {p: sp.simplify(solutions[0][p]) for p in equations}


def _expected(known: Symbolic, curvature: sp.Matrix) -> sp.Matrix | None:
    """n times the mean of one observation's part; from the scores' products where there is a
    corner.
    """
    if known.mean is None and not known.moments:
        return None
    if known.mean is None:
        return (N * curvature.applyfunc(lambda one: _mean(one, known.moments))).applyfunc(_tidy)
    if not known.curved:
        slopes = sp.Matrix([sp.diff(known.log_density, p) for p in known.symbols])
        curvature = slopes * slopes.T
    return (N * curvature.applyfunc(known.mean)).applyfunc(_tidy)


def _mean(one: Expr, moments: dict[Expr, Expr]) -> Expr:
    total = sp.Integer(0)
    for term in sp.Add.make_args(sp.expand(one)):
        factor, own = term.as_independent(X, as_Add=False)
        total += factor * (moments[own] if own != 1 else 1)
    return total


def _errors(
    known: Symbolic, expected: sp.Matrix | None, solution: Any
) -> dict[Symbol, Expr] | None:
    """By the expected information at the solution, which is the observed one there or stands for
    it.
    """
    if expected is None or solution is None:
        return None
    inverse = expected.inv()
    return {p: _root(_tidy(inverse[k, k])) for k, p in enumerate(known.regular)}


def _root(value: Expr) -> Expr:
    """The square root; of a product with a sum in it, one root and not a product of roots."""
    return sp.Pow(value, sp.S.Half, evaluate=not value.has(sp.Add))


def _tidy(expr: Expr) -> Expr:
    """Simplified, as n / (p (1 - p)) and not as -n / (p (p - 1))."""
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


# ---- In numbers ----------------------------------------------------------------------------------


def _with_data(
    plain: Derivation, found: Fit, values: list[float], given: dict[Symbol, float]
) -> Derivation:
    precise = _statistics(plain, [sp.Float(value, _DIGITS) for value in values], given)
    short = len(values) <= _SHORT and all(len(repr(value)) <= _SHORT for value in values)
    exact = _statistics(plain, list(map(written, values)), given) if short else {}
    shown = {**precise, **{letter: value for letter, value in exact.items() if value.is_Rational}}
    worked = replace(plain, data=tuple(values), found=found, numbers=shown)
    if not found.converged or not bool(found.vector.isfinite().all()):
        return worked
    names = plain.symbolic.symbols
    at = dict(
        zip(names, (sp.Float(value, _DIGITS) for value in found.vector.tolist()), strict=False)
    )
    if plain.solution is not None:
        at = {p: value.subs(precise).evalf(_DIGITS) for p, value in plain.solution.items()}
    verify.check(
        worked, at, {letter: value for letter, value in precise.items() if letter in given}
    )
    if plain.solution is not None and short:
        solved = {p: value.subs(shown) for p, value in plain.solution.items()}
        at = {p: solved[p] if solved[p].is_Rational else value for p, value in at.items()}
    return replace(worked, estimate=at)


def written(value: float) -> Expr:
    """A decimal as it is written."""
    return sp.Rational(repr(value))


def _statistics(
    plain: Derivation, values: list[Expr], given: dict[Symbol, float]
) -> dict[Symbol, Expr]:
    """The letters that a sample gives a value, and n."""
    numbers = {
        N: sp.Integer(len(values)),
        **{letter: written(value) for letter, value in given.items()},
    }
    for letter, own in plain.statistics.items():
        function, fixed = verify.numeric(own.subs(numbers)), own.subs(numbers)
        exactly = values[0].is_Rational
        terms = [fixed.subs(X, value) for value in values] if exactly else map(function, values)
        numbers[letter] = sp.Add(*terms)
    ordered = sorted(values)
    used = set().union(*(value.free_symbols for value in (plain.solution or {}).values()))
    return numbers | {letter: order(ordered) for letter, order in ORDER.items() if letter in used}
