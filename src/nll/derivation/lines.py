"""What a derivation says, line by line, for every form in which it is written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sympy as sp
from sympy import Expr, Symbol

from nll.derivation.densities import N, X
from nll.derivation.sentences import WORDS
from nll.derivation.steps import INDEX, OBSERVED, Steps, written

Formula = tuple[Any, ...]  # expressions, and signs between them
Line = tuple[str, Any]  # ("title" | "head" | "said", text) or ("formula", a Formula)
Words = dict[str, str]

_LONGEST_INFORMATION = 150  # operations
_LONGEST_PRODUCT = 45  # operations of a likelihood that is written factor by factor
_ZERO = ("=", sp.Integer(0))
_F, _SE = sp.Function("f"), sp.Function("se")
_LOG_L = sp.log(Symbol("L"))


def lines_of(steps: Steps, language: str) -> list[Line]:
    """Return everything that is written, in order."""
    if language not in WORDS:
        raise ValueError(f"expected language to be one of {', '.join(WORDS)}, got {language!r}")
    words, symbolic = WORDS[language], steps.symbolic
    likelihood = sp.Function("L")(*symbolic.symbols)
    log_likelihood = sp.log(likelihood)
    regular = symbolic.irregular is None
    slopes = [
        (sp.Derivative(log_likelihood, p), "=", equation, *(_ZERO if regular else ()))
        for p, equation in steps.equations.items()
    ]
    lines: list[Line] = [
        ("title", words["title"].format(family=steps.family)),
        ("said", words["letters"].format(letters=words["comma"].join(_letters(steps)))),
        ("head", words["likelihood"]),
        *_likelihood(steps, likelihood, words),
        ("head", words["logarithm"]),
        *_block(words["logarithm_said"], [(log_likelihood, "=", steps.log_likelihood)]),
        ("head", words["equations"]),
        *_block(words["equations_said" if regular else "slopes_said"], slopes),
        *_equations_in_numbers(steps, words),
        ("head", words["solution"]),
        *_solution(steps, words),
        ("head", words["negative"]),
        *_block(words["negative_said"], [(-log_likelihood, "=", _negative(steps.log_likelihood))]),
        ("head", words["information"]),
        *_information(steps, words),
    ]
    return lines if steps.fit is None else [*lines, *_sample(steps, words)]


def _letters(steps: Steps) -> list[str]:
    names = {**steps.symbolic.params, **steps.symbolic.given}
    return [f"{name} = {sp.pretty(letter)}" for name, letter in names.items()]


def _likelihood(steps: Steps, likelihood: Expr, words: Words) -> list[Line]:
    collapsed = () if steps.likelihood.has(sp.Product) else ("=", steps.likelihood)
    product = sp.Product(_F(OBSERVED), (INDEX, 1, N))
    sums = [
        (letter, "=", sp.Sum(term.subs(X, OBSERVED), (INDEX, 1, N)))
        for letter, term in steps.statistics.items()
    ]
    return [
        *_block(words["likelihood_said"], [(_F(X), "=", steps.density)]),
        ("formula", (likelihood, "=", product, *collapsed)),
        *(_block(words["where"], sums) if sums else []),
        *_written_out(steps, likelihood, words),
    ]


def _solution(steps: Steps, words: Words) -> list[Line]:
    unsolved = "no_closed" if steps.fit is None else "searched"
    said = steps.symbolic.irregular or ("solution_said" if steps.symbolic.closed else unsolved)
    return _block(words[said], [(p, "=", value) for p, value in (steps.solution or {}).items()])


def _block(sentence: str, formulas: Iterable[Formula] = ()) -> list[Line]:
    return [("said", sentence), *(("formula", formula) for formula in formulas)]


def _written_out(steps: Steps, likelihood: Expr, words: Words) -> list[Line]:
    """Write f(x_1) · f(x_2) · ... for whole numbers, unless the line is long."""
    whole = all(value == round(value) for value in steps.data)
    short = 2 <= len(steps.data) <= _LONGEST_PRODUCT and whole
    if not short or steps.likelihood.has(sp.Product):
        return []
    given = {letter: steps.numbers[letter] for letter in steps.symbolic.given.values()}
    factors = [steps.density.subs(given).subs(X, written(value)) for value in steps.data]
    if sum(int(sp.count_ops(factor)) + 1 for factor in factors) > _LONGEST_PRODUCT:
        return []
    signs = [("·", "(", one, ")") if one.is_Add else ("·", one) for one in factors]
    product = sp.powsimp(sp.Mul(*factors))
    return _block(words["these"], [(likelihood, "=", *sum(signs, ())[1:], "=", product)])


def _equations_in_numbers(steps: Steps, words: Words) -> list[Line]:
    equations = steps.equations.values()
    functions = any(equation.has(sp.polygamma) for equation in equations)
    lines = _block(words["functions"]) if functions else []
    if not steps.numbers or steps.symbolic.irregular is not None:
        return lines
    if any(equation.has(sp.Sum) for equation in equations):
        return lines
    short = {letter: _short(value) for letter, value in steps.numbers.items()}
    in_numbers = [(equation.subs(short), *_ZERO) for equation in equations]
    return lines + _block(words["numbers"], in_numbers)


def _information(steps: Steps, words: Words) -> list[Line]:
    observed, expected, lines = steps.information, steps.expected, []
    if observed is not None and sp.count_ops(observed) > _LONGEST_INFORMATION:
        lines += _block(words["long"])
    elif observed is not None:
        lines += _block(words["observed"], [(Symbol("I"), "=", _scalar(observed))])
    if expected is not None and expected == observed:
        lines += _block(words["same"])
    elif expected is not None:
        key = "expected_scores" if observed is None else "expected"
        lines += _block(words[key], [(Symbol("J"), "=", _scalar(expected))])
    if observed is None and expected is None:
        return _block(words["no_information"])
    if steps.errors is None:
        return lines + _block(words["inverse"])
    errors = [(_SE(p), "=", error) for p, error in steps.errors.items()]
    return lines + _block(words["errors"], errors)


def _sample(steps: Steps, words: Words) -> list[Line]:
    fit = steps.fit
    assert fit is not None
    statistics = [(letter, "=", _short(value)) for letter, value in steps.numbers.items()]
    verdict = words["no_maximum" if steps.estimate is None else "status"].format(status=fit.status)
    lines = [("head", words["sample"]), *_block(words["values"], statistics)]
    if not fit.converged:
        return lines + _block(verdict)
    maximum = [
        (_LOG_L, "=", sp.Float(fit.log_likelihood, 8)),
        (-_LOG_L, "=", sp.Float(fit.nll, 8)),
    ]
    return [
        *lines,
        *_block(words["estimate"], _estimates(steps)),
        *_block(words["reached"], maximum),
        *_block(verdict),
    ]


def _estimates(steps: Steps) -> list[Formula]:
    fit, letters = steps.fit, steps.symbolic.symbols
    assert fit is not None
    values = [
        sp.oo * value if value in (float("inf"), float("-inf")) else sp.Float(value)
        for value in fit.vector.tolist()
    ]
    at = steps.estimate or dict(zip(letters, values, strict=False))
    formulas: list[Formula] = []
    standard_errors = fit.covariance.diagonal().clamp(min=0).sqrt().tolist()
    for p, error in zip(letters, standard_errors, strict=False):
        formulas.append((p, "=", *_with_decimals(at[p])))
        if error == error:
            exact = None if steps.errors is None else steps.errors[p].subs({**steps.numbers, **at})
            shown = () if exact is None or exact.has(sp.Float) else (exact, "=")
            formulas.append((_SE(p), "=", *shown, sp.Float(error, 7)))
    return formulas


def _negative(expr: Expr) -> Expr:
    """Flip the sign of each term, inside a factor that is a sum of negative terms."""
    total = sp.Integer(0)
    for term in sp.Add.make_args(expr):
        sums = [
            factor
            for factor in sp.Mul.make_args(term)
            if factor.is_Add and all(part.as_coeff_Mul()[0].is_negative for part in factor.args)
        ]
        total += term / sums[0] * -sums[0] if sums else -term
    return total


def _scalar(matrix: sp.Matrix) -> Any:
    return matrix[0, 0] if matrix.shape == (1, 1) else matrix


def _is_short(value: Expr) -> bool:
    return bool(value.is_Rational) and len(str(value)) < 16


def _short(value: Expr) -> Expr:
    return value if _is_short(value) else sp.Float(value, 10)


def _with_decimals(value: Expr) -> Formula:
    """A fraction with its decimals, or one of them."""
    if value.is_Integer or value.is_infinite:
        return (value,)
    decimal = sp.Float(value, 8)
    return (value, "=", decimal) if _is_short(value) else (decimal,)
