"""Formulas against the fit of the same data: a derivation that disagrees with it is our error,
never an answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import sympy as sp
import torch
from mpmath import mp
from sympy import Expr, Symbol

from nll.derivation.densities import N, X

if TYPE_CHECKING:
    from nll.derivation.steps import Derivation

Numbers = dict[Symbol, Expr]

_SAME = 1e-8  # relative, of a formula and the fit
# what is left of a sum that is zero at an estimate that was searched for, and of its covariance
_FLAT = 1e-6
_DIGITS = 50


def numeric(expr: Expr, *more: Symbol) -> Callable[..., Any]:
    """A function of x, and of more symbols, in as many digits as its arguments have."""
    own = {"KroneckerDelta": lambda a, b: mp.mpf(a == b)}
    function = sp.lambdify((X, *more), expr, [own, "mpmath"])

    def at(*arguments: Any) -> Any:
        with mp.workdps(_DIGITS):
            return sp.Float(
                function(*(sp.Float(a, _DIGITS)._to_mpmath(mp.prec) for a in arguments)), _DIGITS
            )

    return at


def check(derived: Derivation, at: Numbers, given: Numbers) -> None:
    """Estimate, log-likelihood, likelihood equations and covariance, each against the fit.
    AssertionError.
    """
    found, known = derived.found, derived.symbolic
    assert found is not None
    count = len(known.symbols)
    theirs, covariance = found.vector[:count], found.covariance[:count, :count]
    errors = covariance.diagonal().clamp(min=0).sqrt()
    for p, value, error in zip(
        known.symbols, theirs.tolist(), errors.nan_to_num(0.0).tolist(), strict=True
    ):
        assert abs(float(at[p]) - value) <= _SAME * (abs(value) + error), (p, at[p], value)
    boundary = bool(errors.isnan().any())
    if boundary and known.irregular is None:  # where log 0 stands, times 0
        return

    def terms(expr: Expr) -> list[float]:
        function = numeric(expr.subs(given), *known.symbols)
        return [float(function(x, *at.values())) for x in derived.data]

    parts = terms(known.log_density)
    scale = 1.0 + sum(map(abs, parts))
    assert abs(sum(parts) - found.log_likelihood) <= _SAME * scale, (
        sum(parts),
        found.log_likelihood,
    )
    if known.irregular is None:
        for p in known.symbols:
            slopes = terms(sp.diff(known.log_density, p))
            assert abs(sum(slopes)) <= _FLAT * sum(map(abs, slopes)), (p, sum(slopes))
        _covariance(-_sums(sp.hessian(known.log_density, known.symbols), terms), covariance)
    elif derived.errors is not None:
        for p, formula in derived.errors.items():
            ours, error = (
                float(formula.subs({**at, N: len(derived.data)})),
                float(errors[known.symbols.index(p)]),
            )
            assert abs(ours - error) <= _SAME * error, (p, ours, error)


def _sums(matrix: sp.Matrix, terms: Callable[[Expr], list[float]]) -> torch.Tensor:
    sums = [[sum(terms(matrix[i, j])) for j in range(matrix.cols)] for i in range(matrix.rows)]
    return torch.tensor(sums, dtype=torch.float64)


def _covariance(information: torch.Tensor, theirs: torch.Tensor) -> None:
    """Inverses lose as many digits as the condition of the information, in units of the errors,
    says.
    """
    ours = torch.linalg.inv(information)
    unit = theirs.diagonal().rsqrt()
    loss = float(torch.linalg.cond(unit[:, None] * theirs * unit))
    away = unit[:, None] * (ours - theirs) * unit
    assert float(away.abs().max()) <= _FLAT + 1e-13 * loss, (ours, theirs)
