"""Distribution and survival functions against 30 digits, far out in both tails, and their
derivatives.
"""

from __future__ import annotations

import math

import mpmath as mp
import pytest
import torch
from torch import distributions as td

from nll.families.distributions import GeneralizedExtremeValue, InverseGaussian, SkewNormal
from nll.families.log_cdf import log_probability
from nll.families.numerics import log1mexp
from nll.families.registry import FAMILIES

mp.mp.dps = 30


def log_gamma_tails(a, x):
    lower, upper = (
        mp.gammainc(a, 0, x, regularized=True),
        mp.gammainc(a, x, mp.inf, regularized=True),
    )
    return mp.log(lower), mp.log(upper)


def log_beta_tails(a, b, p):
    return mp.log(mp.betainc(a, b, 0, p, regularized=True)), mp.log(
        mp.betainc(b, a, 0, 1 - p, regularized=True)
    )


def student(x, df, loc, scale):
    z = (x - loc) / scale
    tail = mp.betainc(df / 2, mp.mpf(1) / 2, 0, df / (df + z * z), regularized=True) / 2
    low, high = mp.log(tail), mp.log1p(-tail)
    return (low, high) if z < 0 else (high, low)


def integral(density):
    def tails(x, **params):
        def f(t):
            return density(t, **params)

        below = mp.quad(
            f, [x - 40, *(p for p in (-4, -1, -0.3, 0, 0.3, 1) if p < x), x], maxdegree=5
        )
        above = mp.quad(
            f, [x, *(p for p in (-1, -0.3, 0, 0.3, 1, 4) if p > x), x + 40], maxdegree=5
        )
        return mp.log(below), mp.log(above)

    return tails


def skew_normal(t, loc, scale, skewness):
    z = (t - loc) / scale
    return 2 / scale * mp.npdf(z) * mp.ncdf(skewness * z)


def laplace(z):
    return mp.exp(z) / 2 if z < 0 else 1 - mp.exp(-z) / 2


def extreme(x, loc, scale, concentration):
    return mp.exp(-mp.log1p(concentration * (x - loc) / scale) / concentration)


def of_cdf(cdf, sf):
    return lambda x, **params: (mp.log(cdf(x, **params)), mp.log(sf(x, **params)))


def swapped(tails):
    return tails[1], tails[0]


def inverse_gaussian(x, loc, concentration):
    root, ratio = mp.sqrt(concentration / x), x / loc
    factor = mp.exp(2 * concentration / loc)
    below = mp.ncdf(root * (ratio - 1)) + factor * mp.ncdf(-root * (ratio + 1))
    above = mp.ncdf(-root * (ratio - 1)) - factor * mp.ncdf(-root * (ratio + 1))
    return mp.log(below), mp.log(above)


# family, parameters, where, the two logarithms with 30 digits
CASES = [
    (
        td.Normal,
        {"loc": 1.0, "scale": 2.0},
        (-80.0, -3.0, 1.0, 5.0, 90.0),
        of_cdf(
            lambda x, loc, scale: mp.ncdf((x - loc) / scale),
            lambda x, loc, scale: mp.ncdf((loc - x) / scale),
        ),
    ),
    (
        td.Gamma,
        {"concentration": 0.05, "rate": 2.0},
        (1e-12, 0.01, 1.0, 30.0),
        lambda x, concentration, rate: log_gamma_tails(concentration, rate * x),
    ),
    (
        td.Gamma,
        {"concentration": 2.5, "rate": 0.5},
        (1e-9, 0.5, 5.0, 90.0),
        lambda x, concentration, rate: log_gamma_tails(concentration, rate * x),
    ),
    (
        td.Gamma,
        {"concentration": 700.0, "rate": 1.0},
        (400.0, 690.0, 710.0, 1000.0),
        lambda x, concentration, rate: log_gamma_tails(concentration, rate * x),
    ),
    (
        td.Gamma,
        {"concentration": 1500.0, "rate": 1.0},
        (1300.0, 3e4, 1e5),
        lambda x, concentration, rate: log_gamma_tails(concentration, rate * x),
    ),
    (
        td.InverseGamma,
        {"concentration": 3.0, "rate": 2.0},
        (0.02, 0.5, 9.0, 1e4),
        lambda x, concentration, rate: swapped(log_gamma_tails(concentration, rate / x)),
    ),
    (td.Chi2, {"df": 3.0}, (1e-6, 2.0, 150.0), lambda x, df: log_gamma_tails(df / 2, x / 2)),
    (
        td.Beta,
        {"concentration1": 0.01, "concentration0": 0.02},
        (1e-9, 0.3, 0.999),
        lambda x, concentration1, concentration0: log_beta_tails(concentration1, concentration0, x),
    ),
    (
        td.Beta,
        {"concentration1": 20.0, "concentration0": 300.0},
        (1e-3, 0.06, 0.3),
        lambda x, concentration1, concentration0: log_beta_tails(concentration1, concentration0, x),
    ),
    (
        td.FisherSnedecor,
        {"df1": 3.0, "df2": 7.0},
        (1e-4, 1.0, 1e4),
        lambda x, df1, df2: log_beta_tails(df1 / 2, df2 / 2, df1 * x / (df1 * x + df2)),
    ),
    (td.StudentT, {"df": 0.5, "loc": 1.0, "scale": 2.0}, (-1e8, 0.0, 1.0, 1.5, 1e9), student),
    (td.StudentT, {"df": 30.0, "loc": 0.0, "scale": 1.0}, (-60.0, -0.5, 3.0), student),
    (
        SkewNormal,
        {"loc": 0.0, "scale": 1.0, "skewness": 4.0},
        (-2.0, 0.0, 0.5, 6.0),
        integral(skew_normal),
    ),
    (
        InverseGaussian,
        {"loc": 2.0, "concentration": 3.0},
        (0.02, 1.0, 5.0, 150.0),
        inverse_gaussian,
    ),
    (
        td.Poisson,
        {"rate": 30.0},
        (0.0, 5.0, 30.0, 120.0),
        lambda x, rate: swapped(log_gamma_tails(x + 1, rate)),
    ),
    (
        td.NegativeBinomial,
        {"total_count": 0.3, "probs": 0.9},
        (0.0, 4.0, 200.0),
        lambda x, total_count, probs: log_beta_tails(total_count, x + 1, 1 - probs),
    ),
    (
        td.Binomial,
        {"probs": 0.3, "total_count": 20.0},
        (0.0, 6.0, 19.0),
        lambda x, probs, total_count: log_beta_tails(total_count - x, x + 1, 1 - probs),
    ),
    (
        td.Cauchy,
        {"loc": 1.0, "scale": 2.0},
        (-1e12, 0.0, 1e12),
        of_cdf(
            lambda x, loc, scale: mp.atan2(1, (loc - x) / scale) / mp.pi,
            lambda x, loc, scale: mp.atan2(1, (x - loc) / scale) / mp.pi,
        ),
    ),
    (
        td.HalfCauchy,
        {"scale": 2.0},
        (1e-9, 1.0, 1e12),
        of_cdf(
            lambda x, scale: 2 * mp.atan(x / scale) / mp.pi,
            lambda x, scale: 2 * mp.atan2(1, x / scale) / mp.pi,
        ),
    ),
    (
        td.HalfNormal,
        {"scale": 2.0},
        (1e-9, 1.0, 60.0),
        of_cdf(
            lambda x, scale: mp.erf(x / scale / mp.sqrt(2)),
            lambda x, scale: mp.erfc(x / scale / mp.sqrt(2)),
        ),
    ),
    (
        td.Weibull,
        {"scale": 2.0, "concentration": 1.5},
        (1e-9, 1.0, 40.0),
        of_cdf(
            lambda x, scale, concentration: -mp.expm1(-((x / scale) ** concentration)),
            lambda x, scale, concentration: mp.exp(-((x / scale) ** concentration)),
        ),
    ),
    (
        td.Gumbel,
        {"loc": 1.0, "scale": 2.0},
        (-8.0, 1.0, 90.0),
        of_cdf(
            lambda x, loc, scale: mp.exp(-mp.exp((loc - x) / scale)),
            lambda x, loc, scale: -mp.expm1(-mp.exp((loc - x) / scale)),
        ),
    ),
    (
        GeneralizedExtremeValue,
        {"loc": 0.0, "scale": 1.0, "concentration": 1e-9},
        (-3.0, 0.1, 60.0),
        of_cdf(
            lambda *x, **p: mp.exp(-extreme(*x, **p)), lambda *x, **p: -mp.expm1(-extreme(*x, **p))
        ),
    ),
    (
        td.Kumaraswamy,
        {"concentration1": 2.0, "concentration0": 3.0},
        (1e-9, 0.5, 1 - 1e-6),
        of_cdf(
            lambda x, concentration1, concentration0: (
                -mp.expm1(concentration0 * mp.log1p(-(x**concentration1)))
            ),
            lambda x, concentration1, concentration0: (1 - x**concentration1) ** concentration0,
        ),
    ),
    (
        td.Laplace,
        {"loc": 0.0, "scale": 1.0},
        (-700.0, -0.1, 0.1, 700.0),
        of_cdf(
            lambda x, loc, scale: laplace((x - loc) / scale),
            lambda x, loc, scale: laplace((loc - x) / scale),
        ),
    ),
    (
        td.Geometric,
        {"probs": 0.3},
        (0.0, 4.0, 900.0),
        of_cdf(
            lambda x, probs: -mp.expm1((x + 1) * mp.log1p(-probs)),
            lambda x, probs: (1 - probs) ** (x + 1),
        ),
    ),
]
EVERY = pytest.mark.parametrize(
    ("family", "params", "points", "truth"), CASES, ids=lambda v: getattr(v, "__name__", "")
)


def tensors(params):
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in params.items()}


@EVERY
def test_both_tails(family, params, points, truth):
    found = FAMILIES[family].tails(torch.tensor(points, dtype=torch.float64), **tensors(params))
    exact = {name: mp.mpf(value) for name, value in params.items()}
    for i, x in enumerate(points):
        for ours, expected in zip(found, truth(mp.mpf(x), **exact), strict=True):
            if expected > -700:
                assert mp.fabs(mp.expm1(mp.mpf(float(ours[i])) - expected)) < 2e-11, (
                    x,
                    float(ours[i]),
                    expected,
                )
            else:
                assert float(ours[i]) == pytest.approx(float(expected), rel=1e-12)


@EVERY
def test_first_and_second_derivatives(family, params, points, truth):
    """By every parameter, against differences in 30 digits; the parameters that the data do not
    tell have none.
    """
    given = FAMILIES[family].given
    middle = points[len(points) // 2]
    for name, value in params.items():
        if name in given:
            continue
        x = torch.tensor([middle], dtype=torch.float64)
        at = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        exact, h = {n: mp.mpf(v) for n, v in params.items()}, mp.mpf("1e-6")
        nearby = [
            truth(mp.mpf(middle), **{**exact, name: exact[name] + step}) for step in (-h, 0, h)
        ]
        for side, ours in enumerate(FAMILIES[family].tails(x, **{**tensors(params), name: at})):
            (first,) = torch.autograd.grad(ours.sum(), at, create_graph=True)
            linear = not first.requires_grad
            second = (
                torch.zeros(()) if linear else torch.autograd.grad(first, at, retain_graph=True)[0]
            )
            unit = max(1.0, abs(value))
            below, here, above = (tails[side] for tails in nearby)
            slope, bend = (above - below) / (2 * h), (above - 2 * here + below) / h**2
            for order, found, expected in ((1, first.detach(), slope), (2, second, bend)):
                assert float(found) * unit**order == pytest.approx(
                    float(expected) * unit**order, rel=1e-8, abs=1e-9
                )


@pytest.mark.parametrize("family", [td.Normal, td.Gamma, td.StudentT])
def test_intervals_are_differences_and_may_be_open(family):
    params = {td.Normal: (0.0, 1.0), td.Gamma: (2.0, 1.0), td.StudentT: (3.0, 0.0, 1.0)}[family]
    names = FAMILIES[family].parameters
    known = {
        n: torch.tensor(v, dtype=torch.float64, requires_grad=True)
        for n, v in zip(names, params, strict=True)
    }
    tails = FAMILIES[family].tails
    low, high = (
        torch.tensor([0.5, 0.5, -math.inf, -math.inf, 40.0]),
        torch.tensor([0.6, math.inf, 0.5, math.inf, 41.0]),
    )
    found = log_probability(tails, low.double(), high.double(), known)
    below = tails(torch.tensor([0.5, 0.6], dtype=torch.float64), **known).below.exp()
    expected = torch.stack(
        [(below[1] - below[0]).log(), (1 - below[0]).log(), below[0].log(), torch.zeros(())]
    )
    torch.testing.assert_close(found[:4], expected)
    far = tails(torch.tensor([40.0, 41.0], dtype=torch.float64), **known).above
    torch.testing.assert_close(found[4], far[0] + (1 - (far[1] - far[0]).exp()).log())
    for gradient in torch.autograd.grad(found.sum(), list(known.values()), create_graph=True):
        assert bool(gradient.isfinite())
        second = torch.autograd.grad(gradient, list(known.values()), retain_graph=True)
        assert all(bool(s.isfinite()) for s in second)


def test_log1mexp_keeps_its_digits():
    for x in (1e-300, 1e-9, 0.5, 0.7, 3.0, 40.0, 700.0):
        exact = mp.log(-mp.expm1(-mp.mpf(x)))
        assert float(log1mexp(torch.tensor(x, dtype=torch.float64))) == pytest.approx(
            float(exact), rel=1e-14
        )
