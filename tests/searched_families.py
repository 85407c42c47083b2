"""Families that are fitted by search, with SciPy's, and samples of them."""

from __future__ import annotations

from functools import partial

import pytest
import scipy.stats as st
import torch
from torch import distributions as td

from nll import (
    GeneralizedExtremeValue,
    InverseGaussian,
    SkewNormal,
)

close = partial(pytest.approx, abs=0.0)

# Family, parameters, and its name and parameters in SciPy.
FAMILIES = [
    (
        td.Gamma,
        {"concentration": 2.5, "rate": 0.7},
        lambda p: st.gamma(p["concentration"], scale=1 / p["rate"]),
    ),
    (
        td.InverseGamma,
        {"concentration": 3.0, "rate": 2.0},
        lambda p: st.invgamma(p["concentration"], scale=p["rate"]),
    ),
    (td.Chi2, {"df": 3.3}, lambda p: st.chi2(p["df"])),
    (td.Beta, {"concentration1": 2.0, "concentration0": 5.0}, lambda p: st.beta(*p.values())),
    (td.Kumaraswamy, {"concentration1": 2.0, "concentration0": 3.0}, None),
    (td.StudentT, {"df": 4.0, "loc": 2.0, "scale": 3.0}, lambda p: st.t(*p.values())),
    (td.Cauchy, {"loc": 1.0, "scale": 2.0}, lambda p: st.cauchy(*p.values())),
    (td.Gumbel, {"loc": 1.0, "scale": 2.0}, lambda p: st.gumbel_r(*p.values())),
    (
        GeneralizedExtremeValue,
        {"loc": 1.0, "scale": 2.0, "concentration": 0.2},
        lambda p: st.genextreme(-p["concentration"], p["loc"], p["scale"]),
    ),
    (
        GeneralizedExtremeValue,
        {"loc": 1.0, "scale": 2.0, "concentration": -0.2},
        lambda p: st.genextreme(-p["concentration"], p["loc"], p["scale"]),
    ),
    (
        SkewNormal,
        {"loc": 1.0, "scale": 2.0, "skewness": 3.0},
        lambda p: st.skewnorm(p["skewness"], p["loc"], p["scale"]),
    ),
    (
        InverseGaussian,
        {"loc": 2.0, "concentration": 3.0},
        lambda p: st.invgauss(p["loc"] / p["concentration"], scale=p["concentration"]),
    ),
    (
        td.VonMises,
        {"loc": 1.0, "concentration": 2.0},
        lambda p: st.vonmises(p["concentration"], p["loc"]),
    ),
    (
        td.Weibull,
        {"scale": 2.0, "concentration": 1.5},
        lambda p: st.weibull_min(p["concentration"], scale=p["scale"]),
    ),
    (td.HalfCauchy, {"scale": 2.0}, lambda p: st.halfcauchy(scale=p["scale"])),
    (td.HalfNormal, {"scale": 2.0}, lambda p: st.halfnorm(scale=p["scale"])),
    (
        td.GeneralizedPareto,
        {"loc": 1.0, "scale": 2.0, "concentration": 0.2},
        lambda p: st.genpareto(p["concentration"], p["loc"], p["scale"]),
    ),
    (td.FisherSnedecor, {"df1": 5.0, "df2": 9.0}, lambda p: st.f(*p.values())),
    (td.ContinuousBernoulli, {"probs": 0.3}, None),
    (
        td.NegativeBinomial,
        {"total_count": 3.0, "probs": 0.4},
        lambda p: st.nbinom(p["total_count"], 1 - p["probs"]),
    ),
    (td.Dirichlet, {"concentration": [1.0, 2.0, 3.0]}, None),
]


def tensors(params):
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in params.items()}


def drawn(family, truth, n=2000, seed=0):
    torch.manual_seed(seed)
    return family(**tensors(truth)).sample((n,)).double()


def given(family, truth):
    return {"loc": truth["loc"]} if family is td.GeneralizedPareto else {}
