"""Marginal effects of the variables of formulas: against differences of the fitted means, and their
derivatives.
"""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from nll.cli.app import app
from nll.regression.after.margins import elementwise, softmax
from nll.regression.formula.design import design, parse
from nll.regression.formula.margins import formula_margins
from nll.regression.formula.terms import Terms
from nll.regression.glm.responses import RESPONSES

RNG = np.random.default_rng(5)
N = 90
TABLE = pd.DataFrame(
    {
        "y": RNG.integers(0, 3, N),
        "a": RNG.normal(5.0, 1.0, N),
        "b": RNG.normal(size=N),
        "p": RNG.gamma(2.0, 1.0, N) + 0.1,
        "g": RNG.choice(["u", "v", "w"], N),
        "k": RNG.integers(1, 4, N),
        "s": RNG.integers(0, 2, N),
        "w": RNG.integers(1, 4, N).astype(float),
    }
)
# Of each effect: the part that moves, and its values; None: by a derivative.
U, V, W = ({"g": level} for level in "uvw")
EFFECTS = {
    "a * b": {"a": None, "b": None},
    "a + I(a**2) + b:s": {"a": None, "b": None, "s": ({"s": 1}, {"s": 0})},
    "np.log(p) * g": {"p": None, "g[T.v]": (V, U), "g[T.w]": (W, U)},
    "bs(p, df=5) * s": {"p": None, "s": ({"s": 1}, {"s": 0})},
    "poly(a, 3) + scale(p):center(b)": {"a": None, "p": None, "b": None},
    "cr(p, df=4) + poly(a, 2, raw=True)": {"p": None, "a": None},
    "C(k) * b": {"C(k)[T.2]": ({"k": 2}, {"k": 1}), "C(k)[T.3]": ({"k": 3}, {"k": 1}), "b": None},
    "C(g, Treatment('v'))": {
        "C(g, Treatment('v'))[T.u]": (U, V),
        "C(g, Treatment('v'))[T.w]": (W, V),
    },
    "C(g, contr.sum):a + g": {"g[T.v]": (V, U), "g[T.w]": (W, U), "a": None},
    "0 + g:b": {"g[T.v]": (V, U), "g[T.w]": (W, U), "b": None},
    "I(p > 2) + np.exp(-b / 3) / a": {"I(p > 2)": ({"p": 3.0}, {"p": 1.0}), "b": None, "a": None},
    "I((p > 2) * p) + np.where(a > 5, b, b**2)": {"p": None, "b": None},
    "k": {"k": None},
}


def means(kind: str, terms: Terms, table: pd.DataFrame, coef: torch.Tensor) -> torch.Tensor:
    z = terms.design(table) @ coef.reshape(-1, len(terms.columns)).T
    if kind != "softmax":
        return RESPONSES[kind].mean(z)
    return torch.cat([torch.zeros(len(z), 1, dtype=torch.float64), z], 1).softmax(1)


def reference(
    kind: str, terms: Terms, coef: torch.Tensor, moves: tuple | str, weights: torch.Tensor
) -> torch.Tensor:
    """The effect by its definition, central differences that stay within the range of the
    column.
    """
    if not isinstance(moves, str):
        high, low = (means(kind, terms, TABLE.assign(**values), coef) for values in moves)
        return weights @ (high - low) / weights.sum()
    column, step = TABLE[moves].astype(float), 1e-5
    high, low = (column + step).clip(upper=column.max()), (column - step).clip(lower=column.min())
    change = means(kind, terms, TABLE.assign(**{moves: high}), coef) - means(
        kind, terms, TABLE.assign(**{moves: low}), coef
    )
    return (
        weights
        @ (change / torch.tensor((high - low).tolist(), dtype=torch.float64)[:, None])
        / weights.sum()
    )


@pytest.mark.parametrize(
    ("kind", "formula"),
    [("softmax", formula) for formula in EFFECTS]
    + [
        (kind, formula)
        for kind in ("bernoulli", "poisson", "normal")
        for formula in list(EFFECTS)[1:4:2]
    ],
)
def test_by_the_definition(kind, formula):
    """Effects and their errors at any coefficients, the derivative of the definition by these taken
    numerically.
    """
    terms = Terms.of(design(TABLE, parse(f"y ~ {formula}")).spec, f"y ~ {formula}")
    p, weights = len(terms.columns), torch.tensor(TABLE.w.tolist(), dtype=torch.float64)
    coef = (
        torch.from_numpy(np.random.default_rng(0).normal(size=(2 if kind == "softmax" else 1, p)))
        / 4
    )
    covariance = torch.eye(coef.numel(), dtype=torch.float64)
    full = torch.cat([torch.zeros(1, p, dtype=torch.float64), coef]) if kind == "softmax" else coef
    response = softmax if kind == "softmax" else elementwise(RESPONSES[kind].mean)
    names = ("0", "1", "2")[: len(full)]
    parts = [(TABLE[:40], weights[:40]), (TABLE[40:], weights[40:])]
    baseline = 0 if kind == "softmax" else None
    found = formula_margins(lambda: parts, terms, response, full, covariance, names, baseline)
    assert set(found.columns) == set(EFFECTS[formula])
    for at, name in enumerate(found.columns):
        moves = EFFECTS[formula][name] or name
        expected = reference(kind, terms, coef, moves, weights)
        np.testing.assert_allclose(found.effects[:, at], expected, rtol=2e-5, atol=1e-8)
        slopes = []
        for j in range(coef.numel()):
            step = torch.zeros(coef.numel(), dtype=torch.float64)
            step[j] = 1e-4
            up, down = (
                reference(kind, terms, coef + sign * step.reshape(coef.shape), moves, weights)
                for sign in (1, -1)
            )
            slopes.append((up - down) / 2e-4)
        errors = torch.stack(slopes).square().sum(0).sqrt()
        np.testing.assert_allclose(found.standard_errors[:, at], errors, rtol=1e-4, atol=1e-7)


def test_derivatives_of_polynomials_are_exact():
    """Also at the ends, where a difference would leave the range of the spline."""
    terms = Terms.of(design(TABLE, parse("y ~ bs(p, df=3)")).spec, "y ~ bs(p, df=3)")
    low, high = TABLE.p.min(), TABLE.p.max()
    u = torch.tensor(((TABLE.p - low) / (high - low)).tolist(), dtype=torch.float64)
    # of Bernstein's polynomials
    rates = [3 * (1 - u) ** 2 - 6 * u * (1 - u), 6 * u * (1 - u) - 3 * u**2, 3 * u**2]
    found = terms.slope(TABLE, "p")
    assert found is not None
    torch.testing.assert_close(
        found[:, 1:], torch.stack(rates, 1) / (high - low), rtol=1e-10, atol=1e-13
    )


@pytest.mark.parametrize(
    "formula", ["y ~ a * s + C(k) + I(b**2) + C(p > 2)", "y ~ 1", "y ~ g:b + np.log(p)"]
)
def test_folders_have_the_effects_of_memory(formula, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    TABLE.to_csv("t.csv", index=False)
    (tmp_path / "parts").mkdir()
    TABLE[:70].to_parquet("parts/0.parquet")
    TABLE[70:].to_parquet("parts/1.parquet")
    found = []
    for where in ("t.csv", "parts"):
        done = CliRunner().invoke(
            app, ["fit", where, formula, "--weights", "w", "--margins", "--json", "out.json"]
        )
        assert done.exit_code == 0, done.output
        found.append(json.loads((tmp_path / "out.json").read_text())["margins"])
    assert found[0]["columns"] == found[1]["columns"]
    for part in ("effects", "standard_errors"):
        np.testing.assert_allclose(found[0][part], found[1][part], rtol=1e-6, atol=1e-9)
