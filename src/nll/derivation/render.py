"""A derivation as text, as LaTeX and as an HTML page: a writer for each."""

from __future__ import annotations

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

from nll.derivation.lines import Formula, lines_of
from nll.derivation.steps import Steps

_COLUMNS = 100  # of a sentence in a terminal


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
    for kind, content in lines_of(steps, language):
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
        for kind, content in lines_of(steps, language)
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
    lines = lines_of(steps, language)
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
