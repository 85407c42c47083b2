"""A derivation as text, as LaTeX and as an HTML page: one list of lines, and a writer for each."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from textwrap import wrap
from typing import Any

import sympy as sp
from sympy import Expr, Symbol
from sympy.core.function import AppliedUndef
from sympy.printing.latex import LatexPrinter
from sympy.printing.mathml import MathMLPresentationPrinter
from sympy.printing.pretty.pretty import PrettyPrinter
from sympy.printing.pretty.stringpict import prettyForm, stringPict

from nll.derivation.densities import N, X
from nll.derivation.sentences import WORDS
from nll.derivation.steps import INDEX, OBSERVED, Steps, written

Formula = tuple[Any, ...]  # expressions, and signs between them
Line = tuple[str, Any]  # ("title" | "head" | "said", text) or ("formula", a Formula)
Words = dict[str, str]

_LONGEST_INFORMATION = 150  # operations
_LONGEST_PRODUCT = 45  # operations of a likelihood that is written factor by factor
_COLUMNS = 100  # of a sentence in a terminal
_ZERO = ("=", sp.Integer(0))
_F, _SE = sp.Function("f"), sp.Function("se")
_LOG_L = sp.log(Symbol("L"))


def _lines(steps: Steps, language: str) -> list[Line]:
    """Return everything that is written, in order."""
    if language not in WORDS:
        raise ValueError(f"expected language to be one of {', '.join(WORDS)}, got {language!r}")
    words, symbolic = WORDS[language], steps.symbolic
    likelihood = sp.Function("L")(*symbolic.symbols)
    log_likelihood = sp.log(likelihood)
    letters = [
        f"{name} = {sp.pretty(letter)}"
        for name, letter in {**symbolic.params, **symbolic.given}.items()
    ]
    collapsed = () if steps.likelihood.has(sp.Product) else ("=", steps.likelihood)
    product = sp.Product(_F(OBSERVED), (INDEX, 1, N))
    sums = [
        (letter, "=", sp.Sum(term.subs(X, OBSERVED), (INDEX, 1, N)))
        for letter, term in steps.statistics.items()
    ]
    regular = symbolic.irregular is None
    slopes = [
        (sp.Derivative(log_likelihood, p), "=", equation, *(_ZERO if regular else ()))
        for p, equation in steps.equations.items()
    ]
    unsolved = "no_closed" if steps.fit is None else "searched"
    solution = symbolic.irregular or ("solution_said" if symbolic.closed else unsolved)
    lines: list[Line] = [
        ("title", words["title"].format(family=steps.family)),
        ("said", words["letters"].format(letters=words["comma"].join(letters))),
        ("head", words["likelihood"]),
        *_block(words["likelihood_said"], [(_F(X), "=", steps.density)]),
        ("formula", (likelihood, "=", product, *collapsed)),
        *(_block(words["where"], sums) if sums else []),
        *_written_out(steps, likelihood, words),
        ("head", words["logarithm"]),
        *_block(words["logarithm_said"], [(log_likelihood, "=", steps.log_likelihood)]),
        ("head", words["equations"]),
        *_block(words["equations_said" if regular else "slopes_said"], slopes),
        *_equations_in_numbers(steps, words),
        ("head", words["solution"]),
        *_block(words[solution], [(p, "=", value) for p, value in (steps.solution or {}).items()]),
        ("head", words["negative"]),
        *_block(words["negative_said"], [(-log_likelihood, "=", _negative(steps.log_likelihood))]),
        ("head", words["information"]),
        *_information(steps, words),
    ]
    return lines if steps.fit is None else [*lines, *_sample(steps, words)]


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


def _familiar(expr: Any) -> Any:
    """Rename functions as readers know them: log Γ, ψ, ψ₁."""
    return expr.replace(sp.loggamma, lambda a: sp.log(sp.gamma(a))).replace(
        sp.polygamma, lambda k, a: sp.Function("psi" if k == 0 else f"psi_{k}")(a)
    )


class _Ordered:
    """Sums begin with a term without a minus."""

    def _as_ordered_terms(self, expr: Any, order: Any = None) -> list[Expr]:
        terms = super()._as_ordered_terms(expr, order=order)  # type: ignore[misc]
        positive = [k for k, t in enumerate(terms) if not t.as_coeff_Mul()[0].is_negative]
        first = positive[0] if positive else 0
        return [terms[first], *terms[:first], *terms[first + 1 :]]


# ---- Text ----------------------------------------------------------------------------------------


class _Pretty(_Ordered, PrettyPrinter):
    """Sums and products over the sample stand on one line."""

    def _print_Indexed(self, expr: Any) -> prettyForm:
        return prettyForm("xᵢ")

    def _print_Sum(self, expr: Any) -> prettyForm:
        term = self._print(expr.function)
        if expr.function.is_Add or expr.function.as_coeff_Mul()[0].is_negative:
            term = prettyForm(*term.parens())
        return prettyForm(*term.left("∑ ", ""), binding=prettyForm.MUL)

    def _print_Product(self, expr: Any) -> prettyForm:
        return prettyForm(*self._print(expr.function).left("∏ "), binding=prettyForm.MUL)


def text(steps: Steps, language: str = "en") -> str:
    """Return text for a terminal, its formulas in two dimensions.

    Raises: ValueError for a language other than "en" or "zh".
    """
    lines: list[str] = []
    for kind, content in _lines(steps, language):
        if kind == "formula":
            lines += ["", *("    " + line.rstrip() for line in _pretty(content).splitlines())]
        elif kind == "said":
            below_head = len(lines) <= 2 or lines[-1].startswith(("-", "="))
            sentence = wrap(content, _COLUMNS) if language == "en" else [content]
            lines += sentence if below_head else ["", *sentence]
        else:
            rule = ("=" if kind == "title" else "-") * _width(content)
            lines += [*([""] if lines else []), content, rule]
    return "\n".join(lines)


def _width(line: str) -> int:
    """Columns on a terminal: Chinese characters take two."""
    return sum(2 if ord(sign) > 0x2E7F else 1 for sign in line)


def _pretty(formula: Formula) -> str:
    printer = _Pretty({"use_unicode": True, "wrap_line": False, "full_prec": False})
    parts = [
        prettyForm(part if part in "()" else f" {part} ")
        if isinstance(part, str)
        else printer._print(_familiar(part))
        for part in formula
    ]
    return prettyForm(*stringPict.next(*parts)).render(wrap_line=False)


# ---- LaTeX and HTML ------------------------------------------------------------------------------

_GREEK = sp.symbols("mu sigma alpha lambda kappa beta nu xi psi Gamma")
_TEX = {
    **{sp.pretty(letter): f"${sp.latex(letter)}$" for letter in _GREEK},
    **{sign: "\\" + sign for sign in "_&%#"},
    "₁": "$_1$",
    "Σ": r"$\sum$",
}
_HEADS = {"title": r"\section*{%s}", "head": r"\subsection*{%s}", "said": "%s"}


class _Latex(_Ordered, LatexPrinter):
    pass


class _MathML(_Ordered, MathMLPresentationPrinter):
    """SymPy's, with products and functions under their own names, which it lacks."""

    _print_Product = MathMLPresentationPrinter._print_Sum

    def mathml_tag(self, e: Any) -> str:
        if isinstance(e, AppliedUndef):
            return sp.pretty(Symbol(e.func.__name__))
        return "∏" if isinstance(e, sp.Product) else super().mathml_tag(e)

    def _print_Idx(self, expr: Any) -> Any:
        return self._print(Symbol(str(expr)))


def latex(steps: Steps, language: str = "en") -> str:
    """Return a piece of a LaTeX document (with ctex for Chinese): sections and formulas.

    Raises: ValueError for a language other than "en" or "zh".
    """
    return "\n".join(
        rf"\[ {_tex(content)} \]"
        if kind == "formula"
        else _HEADS[kind] % "".join(_TEX.get(sign, sign) for sign in content)
        for kind, content in _lines(steps, language)
    )


def _tex(formula: Formula) -> str:
    printer = _Latex({"full_prec": False})
    return " ".join(
        part.replace("·", r"\cdot") if isinstance(part, str) else printer.doprint(_familiar(part))
        for part in formula
    )


_PAGE = """<!doctype html>
<html lang="{language}">
<head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>{title}</title><style>\
body{{font:16px/1.55 system-ui,sans-serif;max-width:54rem;margin:2rem auto;padding:0 1rem;\
color:#1c2330}}\
h2{{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #d8dce3}}\
div{{overflow-x:auto;padding:.35rem 0 .35rem 2rem}}\
@media(prefers-color-scheme:dark){{body{{background:#14171c;color:#e6e8ec}}}}</style></head>
<body>
{body}
</body>
</html>
"""
_TAGS = {
    "title": "<h1>%s</h1>",
    "head": "<h2>%s</h2>",
    "said": "<p>%s</p>",
    "formula": '<div><math display="inline" style="math-style:normal">%s</math></div>',
}


def html(steps: Steps, language: str = "en") -> str:
    """Return a self-contained page, its formulas in MathML.

    Raises: ValueError for a language other than "en" or "zh".
    """
    lines = _lines(steps, language)
    body = "\n".join(
        _TAGS[kind] % (_mathml(content) if kind == "formula" else escape(content))
        for kind, content in lines
    )
    return _PAGE.format(language=language, title=escape(lines[0][1]), body=body)


def _mathml(formula: Formula) -> str:
    row = "".join(
        f"<mo>{escape(part)}</mo>" if isinstance(part, str) else _MathML().doprint(_familiar(part))
        for part in formula
    )
    row = row.replace("<mo>&dd;</mo>", "<mi>d</mi>").replace("&ExponentialE;", "e")
    return f"<mrow>{row}</mrow>"
