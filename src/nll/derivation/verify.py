"""Check formulas against the fit of the same data: a disagreement is a bug, never an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy as sp
import torch
from mpmath import mp
from sympy import Expr, Symbol

from nll.derivation.densities import N, Symbolic, X
from nll.estimation.result import Fit

Numbers = dict[Symbol, Expr]

_SAME = 1e-8  # relative difference of a formula and the fit
# relative remainder of a sum that is zero at a numerical estimate, and of its covariance
_FLAT = 1e-6
_DIGITS = 50


def numeric(expr: Expr, *more: Symbol) -> Callable[..., Any]:
    """Compile a function of x, and of more symbols, with as many digits as its arguments have."""
    delta = {"KroneckerDelta": lambda a, b: mp.mpf(a == b)}
    function = sp.lambdify((X, *more), expr, [delta, "mpmath"])

    def evaluate(*arguments: Any) -> Any:
        with mp.workdps(_DIGITS):
            numbers = [sp.Float(a, _DIGITS)._to_mpmath(mp.prec) for a in arguments]
            return sp.Float(function(*numbers), _DIGITS)

    return evaluate


def check(
    symbolic: Symbolic,
    formulas: Numbers | None,  # of the standard errors
    fit: Fit,
    data: Sequence[float],
    at: Numbers,
    given: Numbers,
) -> None:
    """Check the estimate, the log-likelihood, its equations and the covariance.

    Raises: AssertionError.
    """
    count, regular = len(symbolic.symbols), symbolic.irregular is None
    covariance = fit.covariance[:count, :count]
    standard_errors = covariance.diagonal().clamp(min=0).sqrt()
    rows = zip(
        symbolic.symbols,
        fit.vector[:count].tolist(),
        standard_errors.nan_to_num(0.0).tolist(),
        strict=True,
    )
    for p, value, error in rows:
        assert abs(float(at[p]) - value) <= _SAME * (abs(value) + error), (p, at[p], value)
    if regular and bool(standard_errors.isnan().any()):  # at the boundary: 0 * log(0)
        return

    def terms(expr: Expr) -> list[float]:
        function = numeric(expr.subs(given), *symbolic.symbols)
        return [float(function(x, *at.values())) for x in data]

    losses = terms(symbolic.log_density)
    scale = 1.0 + sum(map(abs, losses))
    assert abs(sum(losses) - fit.log_likelihood) <= _SAME * scale, (sum(losses), fit)
    if regular:
        for p in symbolic.symbols:
            slopes = terms(sp.diff(symbolic.log_density, p))
            assert abs(sum(slopes)) <= _FLAT * sum(map(abs, slopes)), (p, sum(slopes))
        hessian = sp.hessian(symbolic.log_density, symbolic.symbols)
        sums = [sum(terms(entry)) for entry in hessian]
        information = -torch.tensor(sums, dtype=torch.float64).reshape(count, count)
        return _check_covariance(information, covariance)
    for p, formula in (formulas or {}).items():
        ours = float(formula.subs({**at, N: len(data)}))
        theirs = float(standard_errors[symbolic.symbols.index(p)])
        assert abs(ours - theirs) <= _SAME * theirs, (p, ours, theirs)


def _check_covariance(information: torch.Tensor, covariance: torch.Tensor) -> None:
    """An inverse loses as many digits as the condition number, in units of the standard errors."""
    unit = covariance.diagonal().rsqrt()
    scale = unit[:, None] * unit
    loss = float(torch.linalg.cond(scale * covariance))
    difference = scale * (torch.linalg.inv(information) - covariance)
    assert float(difference.abs().max()) <= _FLAT + 1e-13 * loss, (information, covariance)
