"""Derivations of a family; with data, also in numbers, which are checked against the fit."""

from __future__ import annotations

from typing import Any

import sympy as sp
import torch
from sympy import Expr, Symbol
from torch.distributions import Categorical

from nll.derivation import render, verify
from nll.derivation.densities import CATEGORIES, ORDER, TABLE, N, Symbolic, X, categorical
from nll.derivation.steps import Steps, symbols, written
from nll.estimation.fit import fit
from nll.estimation.result import Fit

_DIGITS = 50  # of the sums: what cancels in n Q - S^2 leaves enough of them
_MOST = 10_000  # observations
_SHORT = 12  # observations, and characters of each, for exact fractions


class Derivation(Steps):
    """The maximum-likelihood estimator of a family, step by step; see `derive`.

    Example:
        >>> import torch, nll
        >>> steps = nll.derive(torch.distributions.Exponential)
        >>> steps.log_likelihood, steps.solution
        (-S*lambda + n*log(lambda), {lambda: n/S})
    """

    def text(self, language: str = "en") -> str:
        """Return text for a terminal in a language, "en" or "zh"."""
        return render.text(self, language)

    def latex(self, language: str = "en") -> str:
        """Return a piece of a LaTeX document (with ctex for Chinese)."""
        return render.latex(self, language)

    def html(self, language: str = "en") -> str:
        """Return a self-contained page, its formulas in MathML."""
        return render.html(self, language)

    def __str__(self) -> str:
        return self.text()


def derive(family: Any, data: Any = None, **given: float) -> Derivation:
    """Derive the maximum-likelihood estimator of a family step by step.

    Args:
        family: a class of torch.distributions, or one of nll's, that has a symbolic density.
        data: (n) numbers, at most 10 000: the steps are also worked out in numbers, which are
            checked against `nll.fit`.
        given: with data, parameters that are not estimated: total_count=10 for Binomial.

    Raises: ValueError for a family without a symbolic density, or data that `fit` refuses;
    AssertionError if the formulas disagree with the fit, which is a bug.

    Example:
        >>> import torch, nll
        >>> steps = nll.derive(torch.distributions.Bernoulli, [1, 0, 1, 1])
        >>> steps.solution, steps.estimate
        ({p: S/n}, {p: 3/4})
    """
    if not isinstance(family, type) or family not in TABLE:
        name = getattr(family, "__name__", None) or f"an instance of {type(family).__name__}"
        names = ", ".join(known.__name__ for known in TABLE)
        raise ValueError(f"expected a family that is known in symbols ({names}), got {name}")
    symbolic = TABLE[family]
    _check_given(family, symbolic, given, data is not None)
    if data is None:
        return Derivation(**symbols(family.__name__, symbolic))
    if len(data) > _MOST:
        raise ValueError(
            f"expected at most {_MOST} observations to work with by hand, got {len(data)}; nll.fit "
            f"takes more"
        )
    fitted = fit(family, data, fixed=given or None)
    try:
        values = torch.as_tensor(data, dtype=torch.float64).reshape(-1).tolist()
    except (ValueError, TypeError):  # categories of texts
        raise ValueError(
            f"expected numbers to work with by hand, got {data[0]!r} at row 0"
        ) from None
    if family is Categorical:
        count = len(fitted.vector)
        if not 2 <= count <= CATEGORIES:
            raise ValueError(
                f"expected from 2 to {CATEGORIES} categories, numbered from 0, got {count}"
            )
        symbolic = categorical(count)
    letters = {symbolic.given[name]: float(value) for name, value in given.items()}
    return _with_data(symbols(family.__name__, symbolic), fitted, values, letters)


def _check_given(family: type, symbolic: Symbolic, given: dict[str, Any], data: bool) -> None:
    unknown = sorted(set(given) - set(symbolic.given))
    if unknown:
        wanted = " or ".join(symbolic.given) or "no further numbers"
        raise ValueError(f"expected {wanted} for {family.__name__}, got {', '.join(unknown)}")
    missing = sorted(set(symbolic.given) - set(given))
    if data and missing:
        raise ValueError(f"expected {missing[0]}=... with data for {family.__name__}, got none")
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"expected {name} as one number, got {value!r}")


def _with_data(
    fields: dict[str, Any], fitted: Fit, values: list[float], given: dict[Symbol, float]
) -> Derivation:
    """Add the numbers, the fit and, where that converged, the estimate."""
    steps = Steps(**fields)
    precise = _statistics(steps, [sp.Float(value, _DIGITS) for value in values], given)
    short = len(values) <= _SHORT and all(len(repr(value)) <= _SHORT for value in values)
    exact = _statistics(steps, list(map(written, values)), given) if short else {}
    rational = {letter: value for letter, value in exact.items() if value.is_Rational}
    fields |= {"data": tuple(values), "fit": fitted, "numbers": precise | rational}
    if not fitted.converged or not bool(fitted.vector.isfinite().all()):
        return Derivation(**fields)
    letters, solution = steps.symbolic.symbols, steps.solution
    numbers = [sp.Float(value, _DIGITS) for value in fitted.vector.tolist()]
    estimate = dict(zip(letters, numbers, strict=False))
    if solution is not None:
        estimate = {p: value.subs(precise).evalf(_DIGITS) for p, value in solution.items()}
    constants = {letter: precise[letter] for letter in given}
    verify.check(steps.symbolic, steps.errors, fitted, values, estimate, constants)
    if solution is not None and short:
        solved = {p: value.subs(fields["numbers"]) for p, value in solution.items()}
        estimate |= {p: value for p, value in solved.items() if value.is_Rational}
    return Derivation(**fields, estimate=estimate)


def _statistics(steps: Steps, values: list[Expr], given: dict[Symbol, float]) -> dict[Symbol, Expr]:
    """Return the value of each letter that the sample determines, n included."""
    numbers = {N: sp.Integer(len(values))}
    numbers |= {letter: written(value) for letter, value in given.items()}
    for letter, term in steps.statistics.items():
        function = term.subs(numbers)
        if values[0].is_Rational:
            terms = [function.subs(X, value) for value in values]
        else:
            terms = map(verify.numeric(function), values)
        numbers[letter] = sp.Add(*terms)
    used = set().union(*(value.free_symbols for value in (steps.solution or {}).values()))
    ordered = sorted(values)
    return numbers | {letter: order(ordered) for letter, order in ORDER.items() if letter in used}
