"""Average marginal effects: against statsmodels and automatic differentiation, in little memory."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch
from sklearn.exceptions import ConvergenceWarning
from truth import ANES96, anes96, iris

from nll import SoftmaxRegression


def data() -> tuple:
    table = anes96()
    return table[list(ANES96.columns)], table[ANES96.response]


def sample(n: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Three classes, and columns of which the last is 0 or 1."""
    draw = np.random.default_rng(3)
    x = np.column_stack([draw.normal(size=n), draw.normal(2.0, 3.0, n), draw.integers(0, 2, n)])
    return x, (x @ draw.normal(size=(3, 3)) + draw.gumbel(size=(n, 3))).argmax(1)


@pytest.mark.parametrize("at", ["overall", "mean"])
@pytest.mark.parametrize("baseline", [None, 3])
def test_against_statsmodels(at, baseline):
    x, y = data()
    theirs = (
        sm.MNLogit(y, sm.add_constant(x)).fit(disp=0, tol=1e-12, maxiter=100).get_margeff(at=at)
    )
    found = SoftmaxRegression(baseline=baseline).fit(x, y).margins(x, at=at)
    np.testing.assert_allclose(found.effects, theirs.margeff.T, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found.standard_errors, theirs.margeff_se.T, rtol=1e-6)
    np.testing.assert_allclose(found.p_values, theirs.pvalues.T, rtol=1e-4, atol=1e-12)
    assert (found.classes, found.columns) == (tuple("0123456"), ANES96.columns)


def by_autograd(
    model: SoftmaxRegression, x: np.ndarray, w: np.ndarray, at: str, discrete: list
) -> tuple:
    """The definition, differentiated by all coefficients."""
    result, intercept = model.result_, model.fit_intercept
    base = model.classes_.tolist().index(int(result.baseline))
    rows = torch.from_numpy(np.c_[np.ones(len(x)), x] if intercept else x)
    weights = torch.from_numpy(w / w.sum())
    if at == "mean":
        rows, weights = (weights @ rows)[None], weights[:1] * 0 + 1

    def effects(flat):
        coef = flat.reshape(result.params["coef"].shape)
        coef = torch.cat([coef[:base], torch.zeros_like(coef[:1]), coef[base:]])
        p = (rows @ coef.T).softmax(1)
        each = p[:, :, None] * (coef[None] - (p @ coef)[:, None])
        found = torch.einsum("n,nkj->kj", weights, each)[:, intercept:].clone()
        for j in discrete:
            one, zero = rows.clone(), rows.clone()
            one[:, j + intercept], zero[:, j + intercept] = 1.0, 0.0
            found[:, j] = weights @ ((one @ coef.T).softmax(1) - (zero @ coef.T).softmax(1))
        return found.reshape(-1)

    slope = torch.autograd.functional.jacobian(effects, result.vector)
    return effects(result.vector), slope @ result.covariance @ slope.T


@pytest.mark.parametrize("at", ["overall", "mean"])
@pytest.mark.parametrize("discrete", [[], [2]])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"baseline": 1, "covariance": "sandwich"},
        {"fit_intercept": False, "baseline": 2, "alpha": 1.0},
    ],
)
def test_against_automatic_differentiation(at, discrete, options):
    x, y = sample()
    w = np.random.default_rng(0).integers(0, 4, len(y)).astype(float)
    model = SoftmaxRegression(**options).fit(x, y)
    found = model.margins(x, w, at=at, discrete=discrete)
    effects, covariance = by_autograd(model, x, w, at, discrete)
    torch.testing.assert_close(found.effects.reshape(-1), effects, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(found.covariance, covariance, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("at", ["overall", "mean"])
def test_dummies_of_a_logit(at):
    x, y = sample()
    theirs = (
        sm.Logit(y == 1, sm.add_constant(x)).fit(disp=0, tol=1e-12).get_margeff(at=at, dummy=True)
    )
    found = SoftmaxRegression().fit(x, y == 1).margins(x, at=at, discrete=["x2"])
    np.testing.assert_allclose(found.effects[1], theirs.margeff, rtol=1e-6)
    np.testing.assert_allclose(found.standard_errors[1], theirs.margeff_se, rtol=1e-6)


@pytest.mark.parametrize(
    "discrete", [[["n", "s"], "f"], {"region": ["n", "s"], "sex": "f"}, [[0, 1], [2]]]
)
def test_dummies_of_one_variable_switch_together(discrete):
    """The effect of one level is against the reference: the other dummies are 0."""
    draw = np.random.default_rng(1)
    region = draw.integers(0, 3, 200)
    x = pd.DataFrame(
        {
            "n": region == 1,
            "s": region == 2,
            "f": draw.random(200) < 0.5,
            "a": draw.normal(size=200),
        }
    )
    x, y = x.astype(float), (0.7 * (region == 1) - region + draw.logistic(size=200) > 0).astype(int)
    model = SoftmaxRegression().fit(x, y)
    found = model.margins(x, discrete=discrete)
    none = model.predict_proba(x.assign(n=0.0, s=0.0)).mean(0)
    np.testing.assert_allclose(
        found.effects[:, 0], model.predict_proba(x.assign(n=1.0, s=0.0)).mean(0) - none
    )
    np.testing.assert_allclose(
        found.effects[:, 1], model.predict_proba(x.assign(n=0.0, s=1.0)).mean(0) - none
    )
    assert found.discrete == ("n", "s", "f")
    with pytest.raises(
        ValueError, match="expected at most one 1 among n, f of one variable, got more at row 1"
    ):
        model.margins(x, discrete=[["n", "f"]])
    with pytest.raises(ValueError, match="expected each discrete column once, got 'n' twice"):
        model.margins(x, discrete=["n", ["n", "s"]])


def test_effects_are_slopes_of_the_mean_probability():
    x, y = data()
    model = SoftmaxRegression().fit(x, y)
    found = model.margins(x)
    step = 1e-5
    up, down = (
        model.predict_proba(x.assign(age=x["age"] + side * step)).mean(0) for side in (1, -1)
    )
    np.testing.assert_allclose(found.effects[:, 2], (up - down) / (2 * step), rtol=1e-6)
    np.testing.assert_allclose(found.effects.sum(0), np.zeros(5), atol=1e-15)


def test_blocks_of_rows(monkeypatch):
    x, y = sample()
    model = SoftmaxRegression().fit(x, y)
    whole = model.margins(x, discrete=[2])
    monkeypatch.setattr("nll.data.prefetch._BLOCK_BYTES", 1)
    torch.testing.assert_close(
        model.margins(x, discrete=[2]).covariance, whole.covariance, rtol=1e-10, atol=1e-18
    )


def test_tables():
    x, y = sample()
    found = SoftmaxRegression().fit(x, y).margins(x, discrete=["x2"])
    table = found.to_pandas(level=0.9)
    assert table.loc[("1", "x0"), "effect"] == float(found.effects[1, 0])
    assert table.loc[("2", "x2"), "high"] == float(found.interval(0.9)[2, 2, 1])
    text = str(found)
    assert text.startswith("Marginal effects, averaged over the rows\n\nP(0)\n")
    assert text.count("x2 (0 to 1)") == 3


def test_without_errors_there_are_none():
    table = iris()
    with pytest.warns(ConvergenceWarning):
        model = SoftmaxRegression().fit(table.iloc[:, :4], table.iloc[:, 4])
    found = model.margins(table.iloc[:, :4])
    assert bool(found.standard_errors.isnan().all())
    assert bool(found.effects.isfinite().all())


def test_misuse():
    x, y = sample()
    model = SoftmaxRegression().fit(x, y)
    with pytest.raises(
        ValueError,
        match=r"expected 0 or 1 in discrete column 'x0', got .* at row "
        r"0",
    ):
        model.margins(x, discrete=["x0"])
    with pytest.raises(ValueError, match=r"expected discrete columns among x0, x1, x2, got 'x7'"):
        model.margins(x, discrete=["x7"])
    with pytest.raises(ValueError, match=r"expected at to be overall or mean, got 'median'"):
        model.margins(x, at="median")
    with pytest.raises(ValueError, match=r"expected 150 weights"):
        model.margins(x, [1.0])
    with pytest.raises(ValueError, match=r"got nan at row 1"):
        model.margins(x, [1.0, math.nan] + [1.0] * 148)


def test_memory():
    """A tensor of rows, classes and coefficients would take 43 gigabytes; here some tens of
    megabytes are added.
    """
    code = """
    import torch
    from nll.regression.after.margins import margins
    torch.set_num_threads(1)
    n, p, k = 30_000, 21, 10
    x = torch.randn(n, p, dtype=torch.float64)
    x[:, 0] = 1.0
    coef = torch.randn(k, p, dtype=torch.float64) / 4
    eye = torch.eye((k - 1) * p, dtype=torch.float64)
    margins(x[:100], torch.ones(100, dtype=torch.float64), coef, eye, 0, True)
    def peak():  # not ru_maxrss, which starts from that of the process that started this one
        status = open("/proc/self/status")
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    before = peak()
    margins(x, torch.ones(n, dtype=torch.float64), coef, eye, 0, True, discrete=[[3]])
    print((peak() - before) // 1024)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 100
