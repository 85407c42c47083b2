"""A derivation as text, as LaTeX and as a page: one list of lines, and a writer for each form."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from textwrap import wrap
from typing import Any

import sympy as sp
from sympy import Expr, Symbol
from sympy.printing.latex import LatexPrinter
from sympy.printing.mathml import MathMLPresentationPrinter
from sympy.printing.pretty.pretty import PrettyPrinter
from sympy.printing.pretty.stringpict import prettyForm, stringPict

from nll.derivation.densities import N, X
from nll.derivation.sentences import WORDS
from nll.derivation.steps import INDEX, OBSERVED, Derivation, written

Formula = tuple[Any, ...]  # expressions, and signs between them
Line = tuple[str, Any]  # ("title" | "head" | "said", a text) or ("formula", a Formula)

_LONG = 150  # operations of an information that is shown
_COLUMNS = 100  # of a sentence in a terminal
_WRITTEN = 45  # operations of a likelihood that is written out factor by factor
_F = sp.Function("f")


def _lines(found: Derivation, language: str) -> Iterator[Line]:
    """Everything that is said, in order."""
    if language not in WORDS:
        raise ValueError(f"expected language to be one of {', '.join(WORDS)}, got {language!r}")
    words, known = WORDS[language], found.symbolic
    likelihood = sp.Function("L")(*known.symbols)
    log_likelihood = sp.log(likelihood)
    comma, colon = ("，", "：") if language == "zh" else (", ", ": ")
    yield "title", words["title"].format(family=found.family)
    pairs = [
        f"{name} = {sp.pretty(letter)}" for name, letter in {**known.params, **known.given}.items()
    ]
    yield "said", words["letters"].format(letters=comma.join(pairs))
    yield "head", words["likelihood"]
    yield "said", words["likelihood_said"]
    yield "formula", (_F(X), "=", found.density)
    collapsed = () if found.likelihood.has(sp.Product) else ("=", found.likelihood)
    yield "formula", (likelihood, "=", sp.Product(_F(OBSERVED), (INDEX, 1, N)), *collapsed)
    if found.statistics:
        yield "said", words["where"]
    for letter, own in found.statistics.items():
        yield "formula", (letter, "=", sp.Sum(own.subs(X, OBSERVED), (INDEX, 1, N)))
    factors = _factors(found)
    if factors:
        yield "said", words["these"]
        yield "formula", (likelihood, "=", *factors)
    yield "head", words["logarithm"]
    yield "said", words["logarithm_said"]
    yield "formula", (log_likelihood, "=", found.log_likelihood)
    yield "head", words["equations"]
    regular = known.irregular is None
    yield "said", words["equations_said" if regular else "slopes_said"]
    zero = ("=", sp.Integer(0)) if regular else ()
    for p, equation in found.equations.items():
        yield "formula", (sp.Derivative(log_likelihood, p), "=", equation, *zero)
    if any(equation.has(sp.polygamma) for equation in found.equations.values()):
        yield "said", words["functions"]
    if (
        found.numbers
        and regular
        and not any(equation.has(sp.Sum) for equation in found.equations.values())
    ):
        yield "said", words["numbers"]
        short = {letter: _short(value) for letter, value in found.numbers.items()}
        for equation in found.equations.values():
            yield "formula", (equation.subs(short), "=", sp.Integer(0))
    yield "head", words["solution"]
    unsolved = "no_closed" if found.found is None else "searched"
    yield "said", words[known.irregular or ("solution_said" if known.closed else unsolved)]
    for p, value in (found.solution or {}).items():
        yield "formula", (p, "=", value)
    yield "head", words["negative"]
    yield "said", words["negative_said"]
    yield "formula", (-log_likelihood, "=", _negative(found.log_likelihood))
    yield from _information(found, words)
    if found.found is not None:
        yield from _sample(found, words, colon)


def _factors(found: Derivation) -> Formula:
    """f(x_1) · f(x_2) · ... = their product, of whole numbers that make no long line."""
    if not 2 <= len(found.data) <= _WRITTEN or found.likelihood.has(sp.Product):
        return ()
    if any(value != round(value) for value in found.data):
        return ()
    given = {letter: found.numbers[letter] for letter in found.symbolic.given.values()}
    parts = [found.density.subs(given).subs(X, written(value)) for value in found.data]
    if sum(int(sp.count_ops(part)) + 1 for part in parts) > _WRITTEN:
        return ()
    pieces = [
        piece for part in parts for piece in ("·", *(("(", part, ")") if part.is_Add else (part,)))
    ]
    return (*pieces[1:], "=", sp.powsimp(sp.Mul(*parts)))


def _information(found: Derivation, words: dict[str, str]) -> Iterator[Line]:
    yield "head", words["information"]
    if found.information is not None:
        long = sp.count_ops(found.information) > _LONG
        yield "said", words["long" if long else "observed"]
        if not long:
            yield "formula", (Symbol("I"), "=", _scalar(found.information))
    if found.expected is not None and found.expected == found.information:
        yield "said", words["same"]
    elif found.expected is not None:
        yield "said", words["expected" if found.information is not None else "expected_scores"]
        yield "formula", (Symbol("J"), "=", _scalar(found.expected))
    if found.information is None and found.expected is None:
        yield "said", words["no_information"]
    elif found.errors is None:
        yield "said", words["inverse"]
    else:
        yield "said", words["errors"]
    for p, error in (found.errors or {}).items():
        yield "formula", (sp.Function("se")(p), "=", error)


def _sample(found: Derivation, words: dict[str, str], colon: str) -> Iterator[Line]:
    fit, known = found.found, found.symbolic
    assert fit is not None
    yield "head", words["sample"]
    yield "said", words["values"]
    for letter, value in found.numbers.items():
        yield "formula", (letter, "=", _short(value))
    if fit.converged:
        at = found.estimate or dict(
            zip(known.symbols, map(_limit, fit.vector.tolist()), strict=False)
        )
        errors = fit.covariance.diagonal().clamp(min=0).sqrt().tolist()
        yield "said", words["estimate"]
        for p, error in zip(known.symbols, errors, strict=False):
            yield "formula", (p, "=", *_both(at[p]))
            if error == error:
                formula = (
                    None if found.errors is None else found.errors[p].subs({**found.numbers, **at})
                )
                exact = () if formula is None or formula.has(sp.Float) else (formula, "=")
                yield "formula", (sp.Function("se")(p), "=", *exact, sp.Float(error, 7))
        yield "said", words["reached"]
        yield "formula", (sp.log(Symbol("L")), "=", sp.Float(fit.log_likelihood, 8))
        yield "formula", (-sp.log(Symbol("L")), "=", sp.Float(fit.nll, 8))
    agreed = found.estimate is not None
    yield "said", words["status" if agreed else "no_maximum"].format(status=fit.status)


def _negative(expr: Expr) -> Expr:
    """The terms with the other sign, which a sum of negative ones in a term takes."""
    total = sp.Integer(0)
    for term in sp.Add.make_args(expr):
        below = (
            f
            for f in sp.Mul.make_args(term)
            if f.is_Add and all(t.as_coeff_Mul()[0].is_negative for t in f.args)
        )
        factor = next(below, sp.Integer(1))
        total += -term if factor == 1 else term / factor * -factor
    return total


def _scalar(matrix: sp.Matrix) -> Any:
    return matrix[0, 0] if matrix.shape == (1, 1) else matrix


def _limit(value: float) -> Expr:
    return sp.Float(value) if abs(value) != float("inf") else sp.oo * (1 if value > 0 else -1)


def _short(value: Expr) -> Expr:
    return value if value.is_Rational and len(str(value)) < 16 else sp.Float(value, 10)


def _both(value: Expr) -> Formula:
    """A fraction with its decimals; else one of them."""
    if value.is_Integer or value.is_infinite:
        return (value,)
    decimal = sp.Float(value, 8)
    return (value, "=", decimal) if value.is_Rational and len(str(value)) < 16 else (decimal,)


def _shown(expr: Any) -> Any:
    """With the names that readers know: log Γ, ψ, ψ₁."""
    return expr.replace(sp.loggamma, lambda a: sp.log(sp.gamma(a))).replace(
        sp.polygamma, lambda k, a: sp.Function("psi" if k == 0 else f"psi_{k}")(a)
    )


class _Ordered:
    """Sums that begin with a term without a minus, and no zeros at the end of decimals."""

    def _as_ordered_terms(self, expr: Any, order: Any = None) -> list[Expr]:
        terms = super()._as_ordered_terms(expr, order=order)  # type: ignore[misc]
        first = next(
            (k for k, term in enumerate(terms) if not term.as_coeff_Mul()[0].is_negative), 0
        )
        return [terms[first], *terms[:first], *terms[first + 1 :]]


# ---- Text ----------------------------------------------------------------------------------------


class _Pretty(_Ordered, PrettyPrinter):
    """Sums and products over the sample on the line of what is added."""

    def _print_Indexed(self, expr: Any) -> prettyForm:
        return prettyForm("xᵢ")

    def _print_Sum(self, expr: Any) -> prettyForm:
        inner = self._print(expr.function)
        if expr.function.is_Add or expr.function.as_coeff_Mul()[0].is_negative:
            inner = prettyForm(*inner.parens())
        return prettyForm(*inner.left("∑ ", ""), binding=prettyForm.MUL)

    def _print_Product(self, expr: Any) -> prettyForm:
        return prettyForm(*self._print(expr.function).left("∏ "), binding=prettyForm.MUL)


def text(found: Derivation, language: str) -> str:
    """For a terminal: formulas in two dimensions."""
    lines: list[str] = []
    for kind, what in _lines(found, language):
        if kind == "formula":
            lines += ["", *("    " + line.rstrip() for line in _drawn(what).splitlines())]
        elif kind == "said":
            apart = len(lines) > 2 and not lines[-1].startswith(("-", "="))
            lines += [""] * apart + (wrap(what, _COLUMNS) if language == "en" else [what])
        else:
            lines += ([""] if lines else []) + [
                what,
                ("=" if kind == "title" else "-") * _width(what),
            ]
    return "\n".join(lines)


def _width(line: str) -> int:
    """Columns on a terminal: Chinese signs take two."""
    return sum(2 if ord(sign) > 0x2E7F else 1 for sign in line)


_SPACED = {"(": "(", ")": ")"}


def _drawn(formula: Formula) -> str:
    printer = _Pretty({"use_unicode": True, "wrap_line": False, "full_prec": False})
    pieces = [
        _SPACED.get(one, f" {one} ") if isinstance(one, str) else printer._print(_shown(one))
        for one in formula
    ]
    signs = [prettyForm(piece) if isinstance(piece, str) else piece for piece in pieces]
    return prettyForm(*stringPict.next(*signs)).render(wrap_line=False)


# ---- LaTeX and HTML ------------------------------------------------------------------------------

_TEX = {"·": r"\cdot"}
_ESCAPED = {
    "_": r"\_",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "ψ": r"$\psi$",
    "₁": "$_1$",
    "Γ": r"$\Gamma$",
}


class _Latex(_Ordered, LatexPrinter):
    pass


class _MathML(_Ordered, MathMLPresentationPrinter):
    """With sums and products over the sample, and functions by their names, which SymPy's printer
    lacks.
    """

    def _print_Idx(self, expr: Any) -> Any:
        return self._print(Symbol(str(expr)))

    def _print_AppliedUndef(self, expr: Any) -> Any:
        row = self._row(self._print(Symbol(expr.func.__name__)), self._sign("("))
        for place, argument in enumerate(expr.args):
            for part in [self._sign(",")] * (place > 0) + [self._print(argument)]:
                row.appendChild(part)
        row.appendChild(self._sign(")"))
        return row

    def _print_Sum(self, expr: Any) -> Any:
        return self._over("∑", expr)

    def _print_Product(self, expr: Any) -> Any:
        return self._over("∏", expr)

    def _over(self, sign: str, expr: Any) -> Any:
        """The sign with its limits, and what is added or multiplied."""
        index, first, last = expr.limits[0]
        over = self.dom.createElement("munderover")
        for part in (
            self._sign(sign),
            self._row(self._print(index), self._sign("="), self._print(first)),
            self._print(last),
        ):
            over.appendChild(part)
        inner = self._print(expr.function)
        if expr.function.is_Add or expr.function.as_coeff_Mul()[0].is_negative:
            inner = self._row(self._sign("("), inner, self._sign(")"))
        return self._row(over, inner)

    def _sign(self, sign: str) -> Any:
        element = self.dom.createElement("mo")
        element.appendChild(self.dom.createTextNode(sign))
        return element

    def _row(self, *parts: Any) -> Any:
        row = self.dom.createElement("mrow")
        for part in parts:
            row.appendChild(part)
        return row


def latex(found: Derivation, language: str) -> str:
    """Sections and displayed formulas."""
    heads = {"title": r"\section*{%s}", "head": r"\subsection*{%s}", "said": "%s"}
    return "\n".join(
        r"\[ "
        + " ".join(
            _TEX.get(p, p)
            if isinstance(p, str)
            else _Latex({"full_prec": False}).doprint(_shown(p))
            for p in what
        )
        + r" \]"
        if kind == "formula"
        else heads[kind] % "".join(_tex(sign) for sign in what)
        for kind, what in _lines(found, language)
    )


def _tex(sign: str) -> str:
    """A sign of a sentence; Greek letters are no text in LaTeX."""
    greek = sp.symbols("mu sigma alpha lambda kappa beta nu xi")
    known = {sp.pretty(letter): f"${sp.latex(letter)}$" for letter in greek}
    return _ESCAPED.get(sign) or known.get(sign) or {"Σ": r"$\sum$"}.get(sign, sign)


_STYLE = (
    "body{font:16px/1.55 system-ui,sans-serif;max-width:54rem;margin:2rem auto;padding:0 "
    "1rem;color:#1c2330}"
    "h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #d8dce3}"
    "div{overflow-x:auto;padding:.35rem 0 .35rem 2rem}"
    "@media(prefers-color-scheme:dark){body{background:#14171c;color:#e6e8ec}}"
)


def html(found: Derivation, language: str) -> str:
    """A page without outside parts, its formulas in MathML."""
    tags = {"title": "h1", "head": "h2", "said": "p"}
    body = [
        f'<div><math display="inline" style="math-style:normal">{_mathml(what)}</math></div>'
        if kind == "formula"
        else f"<{tags[kind]}>{escape(what)}</{tags[kind]}>"
        for kind, what in _lines(found, language)
    ]
    title = escape(WORDS[language]["title"].format(family=found.family))
    return (
        f'<!doctype html>\n<html lang="{language}">\n<head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, '
        f'initial-scale=1"/>\n<title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body>\n</html>\n"
    )


def _mathml(formula: Formula) -> str:
    pieces = [
        f"<mo>{escape(piece)}</mo>" if isinstance(piece, str) else _MathML().doprint(_shown(piece))
        for piece in formula
    ]
    return (
        "<mrow>"
        + "".join(pieces).replace("<mo>&dd;</mo>", "<mi>d</mi>").replace("&ExponentialE;", "e")
        + "</mrow>"
    )
