"""Derivations in symbols, against the fits in numbers."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from functools import cache
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
import torch
from sympy import symbols
from torch import distributions as td

import nll
from nll.derivation import verify
from nll.derivation.densities import TABLE, N, X
from nll.derivation.densities import of_exponential as mean_by_exponential
from nll.derivation.sentences import WORDS

GOLDEN = Path(__file__).parents[1] / "golden" / "derivation"
CLOSED = [family for family, row in TABLE.items() if row.closed]
OPEN = [family for family, row in TABLE.items() if not row.closed and row.irregular is None]
IRREGULAR = [family for family, row in TABLE.items() if row.irregular is not None]


def tensor(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


DRAWN = {
    td.Bernoulli: td.Bernoulli(tensor(0.3)),
    td.Binomial: td.Binomial(4, tensor(0.3)),
    td.Geometric: td.Geometric(tensor(0.3)),
    td.Poisson: td.Poisson(tensor(3.0)),
    td.NegativeBinomial: td.NegativeBinomial(3.0, tensor(0.6)),
    td.Categorical: td.Categorical(torch.tensor([0.2, 0.3, 0.5])),
    td.Normal: td.Normal(tensor(1.0), 2.0),
    td.Laplace: td.Laplace(tensor(1.0), 2.0),
    td.Uniform: td.Uniform(tensor(-1.0), 2.0),
    td.Cauchy: td.Cauchy(tensor(1.0), 2.0),
    td.StudentT: td.StudentT(tensor(3.0)),
    td.Gumbel: td.Gumbel(tensor(1.0), 2.0),
    td.Beta: td.Beta(tensor(2.0), 3.0),
    td.Kumaraswamy: td.Kumaraswamy(tensor(2.0), 3.0),
    td.VonMises: td.VonMises(tensor(1.0), 2.0),
    nll.GeneralizedExtremeValue: nll.GeneralizedExtremeValue(tensor(0.0), tensor(1.0), tensor(0.2)),
    nll.SkewNormal: nll.SkewNormal(tensor(0.0), tensor(1.0), tensor(4.0)),
}
POSITIVE = td.Gamma(tensor(2.0), 1.0)


def sample(family, n: int = 60, seed: int = 0) -> torch.Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return DRAWN.get(family, POSITIVE).sample((n,)).double()


def given(family) -> dict:
    return {"total_count": 4} if family is td.Binomial else {}


@cache
def derived(family) -> nll.Derivation:
    return nll.derive(family, sample(family), **given(family))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("family", CLOSED + IRREGULAR, ids=lambda family: family.__name__)
def test_the_solution_is_the_fits(family, seed):
    data = sample(family, 200, seed)
    found = nll.derive(family, data, **given(family))
    fitted = nll.fit(family, data, fixed=given(family) or None).vector.tolist()
    ours = [float(value.subs(found.numbers)) for value in found.solution.values()]
    assert ours == pytest.approx(fitted[: len(ours)], rel=1e-9)


@pytest.mark.parametrize("family", OPEN, ids=lambda family: family.__name__)
def test_the_equations_vanish_at_the_fit_and_not_beside_it(family):
    data = sample(family)
    found, fitted = derived(family), nll.fit(family, data)
    names = found.symbolic.symbols
    for k, (name, equation) in enumerate(found.equations.items()):
        slopes = []
        for step in (0, 1):
            moved = fitted.vector.clone()
            moved[k] += step * fitted.covariance[k, k].sqrt()
            at = dict(zip(names, map(sp.Float, moved.tolist()), strict=True))
            slopes.append(abs(valued(equation, at, found, data.tolist())))
        assert slopes[0] < 1e-6 * slopes[1], (name, slopes)


def valued(expr: sp.Expr, at: dict, found: nll.Derivation, data: list[float]) -> float:
    """A formula with the sums written out."""
    for total in expr.atoms(sp.Sum):
        observed = next(iter(total.function.atoms(sp.Indexed)))
        function = sp.lambdify((X, *at), total.function.subs(observed, X), "mpmath")
        expr = expr.xreplace({total: sp.Float(sum(function(x, *at.values()) for x in data))})
    return float(expr.subs({**found.numbers, N: len(data)}).subs(at).evalf(20))


@pytest.mark.parametrize("family", CLOSED + OPEN, ids=lambda family: family.__name__)
def test_the_observed_information_is_the_inverse_of_the_fits_covariance(family):
    data, found = sample(family), derived(family)
    fitted = nll.fit(family, data, fixed=given(family) or None)
    count = len(found.symbolic.symbols)
    at = dict(zip(found.symbolic.symbols, map(sp.Float, fitted.vector.tolist()), strict=False))
    rows = [
        [valued(found.information[i, j], at, found, data.tolist()) for j in range(count)]
        for i in range(count)
    ]
    covariance = fitted.covariance[:count, :count]
    unit = covariance.diagonal().rsqrt()
    away = (
        unit[:, None]
        * (torch.linalg.inv(torch.tensor(rows, dtype=torch.float64)) - covariance)
        * unit
    )
    assert float(away.abs().max()) < 1e-6


@pytest.mark.parametrize(
    "family", [f for f in TABLE if nll.derive(f).expected is not None], ids=lambda f: f.__name__
)
def test_the_expected_information_is_the_covariance_of_drawn_scores(family):
    """Bartlett's identity, by 40 000 draws from the family at the fit of a sample."""
    row = nll.derive(family).symbolic if family is td.Categorical else TABLE[family]
    found = derived(family)
    at = dict(zip(row.symbols, found.fit.vector.tolist(), strict=False))
    at |= {letter: float(given(family)[name]) for name, letter in row.given.items()}
    params = {
        name: tensor(float(value)) for name, value in zip(row.params, at.values(), strict=False)
    }
    params |= {name: tensor(float(value)) for name, value in given(family).items()}
    made = (
        td.Categorical(found.fit.params["probs"]) if family is td.Categorical else family(**params)
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        drawn = made.sample((40_000,)).double()
    if row.irregular == "pareto":  # the score by alpha alone
        drawn = drawn.clamp(min=float(params["scale"]))
    values, counts = np.unique(drawn.numpy(), return_counts=True)
    slopes = [sp.diff(row.log_density, p).subs(at) for p in row.regular]
    slopes = [slope.rewrite(sp.Piecewise) for slope in slopes]
    scores = np.stack(
        [sp.lambdify(X, s, ["numpy", "scipy"])(values) * np.ones(len(values)) for s in slopes]
    )
    mean = (scores * counts) @ scores.T / counts.sum()
    theory = np.array(found.expected.subs({**at, N: 1}).evalf().tolist(), dtype=float)
    unit = 1 / np.sqrt(theory.diagonal())
    assert np.abs(unit[:, None] * (mean - theory) * unit).max() < 0.1


def test_means_of_an_exponential_variable():
    y, a = symbols("y a", positive=True)
    assert sp.simplify(mean_by_exponential(3 * y**2 + y**a, y) - 6 - sp.gamma(1 + a)) == 0
    assert mean_by_exponential(sp.log(y), y) == -sp.EulerGamma
    second = sp.simplify(mean_by_exponential(y * sp.log(y) ** 2, y))
    assert float(second) == pytest.approx(
        float(sp.EulerGamma**2 - 2 * sp.EulerGamma + sp.pi**2 / 6)
    )


def test_bernoulli_step_by_step():
    found = nll.derive(td.Bernoulli, [1, 0, 1, 1])
    p, n, s = found.symbolic.symbols[0], N, next(iter(found.statistics))
    assert found.density == p**X * (1 - p) ** (1 - X)
    assert found.likelihood == p**s * (1 - p) ** (n - s)
    assert found.log_likelihood == s * sp.log(p) + (n - s) * sp.log(1 - p)
    assert found.equations == {p: s / p - (n - s) / (1 - p)}
    assert found.solution == {p: s / n}
    assert sp.simplify(found.expected[0, 0] - n / (p * (1 - p))) == 0
    assert found.numbers == {n: 4, s: 3}
    assert found.estimate == {p: sp.Rational(3, 4)}


@pytest.mark.parametrize("language", list(WORDS))
def test_the_text_is_as_agreed(language):
    text = nll.derive(td.Bernoulli, [1, 0, 1, 1]).text(language)
    assert text + "\n" == (GOLDEN / f"bernoulli_{language}.txt").read_text(encoding="utf-8")


def test_the_languages_say_the_same():
    english, chinese = WORDS["en"], WORDS["zh"]
    assert list(english) == list(chinese)
    for key in english:
        assert re.findall(r"\{\w+\}", english[key]) == re.findall(r"\{\w+\}", chinese[key])
        assert english[key].isascii() or key in (
            "functions",
            *(row.irregular for row in TABLE.values()),
        )


@pytest.mark.parametrize("family", list(TABLE), ids=lambda family: family.__name__)
def test_every_family_is_written_in_every_form(family):
    found = derived(family)
    for language in WORDS:
        assert WORDS[language]["solution"] in found.text(language)
        tex = found.latex(language)
        assert tex.count("{") == tex.count("}")
        assert tex.count(r"\left") == tex.count(r"\right")
        page = found.html(language)
        assert page.startswith(f'<!doctype html>\n<html lang="{language}">')
        assert "http" not in page
        named = page.removeprefix("<!doctype html>\n").replace('<meta charset="utf-8">', "")
        parts = ET.fromstring(
            re.sub(r"&(?!lt;|gt;|amp;)\w+;", lambda entity: unescape(entity[0]), named)
        )
        assert len(list(parts.iter("math"))) > 5
        words = {text for formula in parts.iter("math") for text in formula.itertext()}
        assert {"L", "∏"} <= words
        assert not words & {"l", "idx", "product", "ⅆ", "ⅇ"}


@pytest.mark.parametrize("family", [td.Bernoulli, td.Poisson, td.Gamma, td.Laplace, td.Cauchy])
def test_latex_is_read_by_matplotlib(family):
    from matplotlib.mathtext import MathTextParser

    parser = MathTextParser("path")
    formulas = re.findall(r"\\\[ (.*) \\\]", derived(family).latex())
    formulas = [formula for formula in formulas if "matrix" not in formula]
    assert len(formulas) > 6
    for formula in formulas:
        parser.parse(f"${formula}$")


def test_families_without_a_formula_say_so_and_give_the_numbers():
    text = derived(td.Weibull).text()
    assert "no closed-form solution; nll.fit solved them numerically" in " ".join(text.split())
    assert f"{float(nll.fit(td.Weibull, sample(td.Weibull)).params['scale']):.8g}" in text
    assert "for a sample, nll.fit solves them numerically" in " ".join(
        nll.derive(td.Weibull).text().split()
    )


def test_borders_and_missing_maxima_are_the_fits():
    assert (
        "at the boundary of the parameter space: probs = 1"
        in nll.derive(td.Bernoulli, [1, 1]).text()
    )
    assert "se(p) = 0" not in nll.derive(td.Bernoulli, [1, 1]).text()
    text = nll.derive(td.Normal, [2.0, 2.0]).text()
    assert "no maximum: the data are all equal" in text
    assert "The estimate" not in text
    assert "r = ∞" in nll.derive(td.NegativeBinomial, [2, 3, 2, 3, 2]).text()


@pytest.mark.parametrize(
    ("family", "data"),
    [
        pytest.param(td.Normal, 1e8 + sample(td.Normal, 2000), id="a mean far from the spread"),
        pytest.param(
            td.LogNormal,
            torch.exp(50 + 1e-5 * sample(td.Normal, 2000)),
            id="logarithms far from theirs",
        ),
        pytest.param(
            nll.InverseGaussian, 1000 + sample(td.Gamma, 2000), id="means that nearly agree"
        ),
        pytest.param(td.LogNormal, sample(td.Gamma, 1000), id="many digits"),
        pytest.param(td.Pareto, sample(td.Gamma, 1000), id="many digits and an order"),
        pytest.param(td.Normal, [1e-150, 2e-150, 4e-150], id="small"),
        pytest.param(td.Normal, [0.1, -0.1], id="a mean of zero"),
    ],
)
def test_sums_that_cancel_and_samples_that_are_long(family, data):
    found = nll.derive(family, data)
    theirs = nll.fit(family, data).vector.tolist()
    assert [float(value) for value in found.estimate.values()] == pytest.approx(
        theirs, rel=1e-8, abs=1e-300
    )
    assert found.text()


def test_a_disagreement_with_the_fit_is_raised():
    found = derived(td.Gumbel)
    at = dict(found.estimate)
    data = found.fit, found.data
    verify.check(found.symbolic, found.errors, *data, at, {})
    for p in at:
        moved = {**at, p: at[p] * sp.Float("1.0000001", 30)}
        with pytest.raises(AssertionError):
            verify.check(found.symbolic, found.errors, *data, moved, {})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nll.derive(td.Dirichlet), "known in symbols .Bernoulli, .*, got Dirichlet"),
        (lambda: nll.derive(td.Normal(0.0, 1.0)), "known in symbols .*, got an instance of Normal"),
        (
            lambda: nll.derive(td.Binomial, [1, 2]),
            "expected total_count=... with data for Binomial, got none",
        ),
        (
            lambda: nll.derive(td.Bernoulli, [1, 0], total_count=3),
            "expected no further numbers for Bernoulli",
        ),
        (
            lambda: nll.derive(td.Binomial, [1, 2], total_count=[3, 4]),
            "expected total_count as one number, got",
        ),
        (lambda: nll.derive(td.Poisson, [1.5]), "got 1.5 at row 0"),
        (
            lambda: nll.derive(td.Categorical, list(range(9))),
            "from 2 to 5 categories, numbered from 0, got 9",
        ),
        (lambda: nll.derive(td.Categorical, ["a", "b"]), "expected numbers to work with by hand"),
        (
            lambda: nll.derive(td.Normal, torch.zeros(10_001)),
            "at most 10000 observations .*, got 10001",
        ),
        (
            lambda: nll.derive(td.Poisson).text("fr"),
            "expected language to be one of en, zh, got 'fr'",
        ),
    ],
)
def test_what_cannot_be_derived_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_function_is_what_its_name_gives_wherever_the_package_is():
    from nll import derivation, derive

    assert callable(derive)
    assert derive is nll.derive is derivation.derive
