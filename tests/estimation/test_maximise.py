"""Fits by search: families without a closed form, any likelihood, censored and truncated rows, and
honest verdicts.
"""

from __future__ import annotations

import math
import pickle
from functools import partial

import numpy as np
import pytest
import scipy.stats as st
import torch
from statsmodels.datasets import spector
from torch import distributions as td
from torch.distributions import constraints

from nll import (
    GeneralizedExtremeValue,
    InverseGaussian,
    Likelihood,
    SkewNormal,
    censored,
    fit,
    importance,
    sampling,
    truncated,
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
EVERY = pytest.mark.parametrize(
    ("family", "truth", "peer"), FAMILIES, ids=lambda v: getattr(v, "__name__", "")
)


def tensors(params):
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in params.items()}


def drawn(family, truth, n=2000, seed=0):
    torch.manual_seed(seed)
    return family(**tensors(truth)).sample((n,)).double()


def log_prob(family, params, fixed, x):
    if family is td.VonMises:  # PyTorch's Bessel function has seven digits
        loc, k = params.values()
        return (k * (x - loc).cos() - math.log(2 * math.pi) - torch.special.i0e(k).log() - k).sum()
    if family is td.GeneralizedPareto:  # PyTorch's takes no float64
        scale, c = params.values()
        return (-scale.log() - (1 + 1 / c) * torch.log1p(c * (x - fixed["loc"]) / scale)).sum()
    return family(**params, **fixed, validate_args=False).log_prob(x).sum()


def given(family, truth):
    return {"loc": truth["loc"]} if family is td.GeneralizedPareto else {}


@EVERY
def test_estimates_are_near_the_truth_and_the_score_is_nothing(family, truth, peer):
    x = drawn(family, truth)
    found = fit(family, x, fixed=given(family, truth))
    assert found.converged
    assert found.status.startswith("converged")
    for name, value in found.params.items():
        z = (value - torch.tensor(truth[name])) / found.standard_errors[name]
        assert float(z.abs().max()) < 4.0, name
    at = {name: value.clone().requires_grad_() for name, value in found.params.items()}
    total = log_prob(family, at, tensors(given(family, truth)), x)
    assert found.log_likelihood == close(float(total.detach()), rel=1e-10)
    for name, slope in zip(at, torch.autograd.grad(total, list(at.values())), strict=True):
        assert float((slope * found.standard_errors[name]).abs().max()) < 1e-6, name


@EVERY
def test_errors_are_those_of_the_observed_information(family, truth, peer):
    x = drawn(family, truth)
    found = fit(family, x, fixed=given(family, truth))
    names, fixed = list(found.params), tensors(given(family, truth))

    def total(*values):
        return log_prob(family, dict(zip(names, values, strict=True)), fixed, x)

    rows = torch.autograd.functional.hessian(total, tuple(found.params.values()))
    size = sum(value.numel() for value in found.params.values())
    hessian = torch.cat(
        [
            torch.cat(
                [
                    part.reshape(-1, p.numel())
                    for part, p in zip(row, found.params.values(), strict=True)
                ],
                1,
            )
            for row in rows
        ]
    )
    assert hessian.shape == (size, size)
    if bool(hessian.isfinite().all()):  # PyTorch's own formulas: NaN for some
        unit = found.covariance.diagonal().rsqrt()
        expected = unit * torch.linalg.inv(-hessian) * unit[:, None]
        torch.testing.assert_close(
            unit * found.covariance * unit[:, None], expected, rtol=0.0, atol=1e-6
        )
    else:
        assert family is td.ContinuousBernoulli


@EVERY
def test_scipy_finds_no_higher_likelihood(family, truth, peer):
    if peer is None:
        return
    x = drawn(family, truth, 300)
    found = fit(family, x, fixed=given(family, truth))
    params = {**truth, **{name: float(value) for name, value in found.params.items()}}
    frozen = peer(params)
    log_prob = frozen.logpmf if family is td.NegativeBinomial else frozen.logpdf
    assert found.log_likelihood == close(float(log_prob(x.numpy()).sum()), rel=1e-9)
    if family is td.NegativeBinomial:
        return
    free = {
        td.StudentT: {},
        td.Cauchy: {},
        td.Gumbel: {},
        GeneralizedExtremeValue: {},
        SkewNormal: {},
    }
    held = free.get(
        family, {"floc": truth["loc"]} if family is td.GeneralizedPareto else {"floc": 0}
    )
    held = held | (
        {"fscale": 1} if family in (td.Chi2, td.Beta, td.FisherSnedecor, td.VonMises) else {}
    )
    held.pop("floc", None) if family is td.VonMises else None
    theirs = frozen.dist.fit(x.numpy(), **held)
    assert float(frozen.dist.logpdf(x.numpy(), *theirs).sum()) <= found.log_likelihood + 1e-6


@pytest.mark.parametrize("kind", ["frequency", "doubled"])
def test_weights_are_rows(kind):
    x = drawn(td.Weibull, {"scale": 2.0, "concentration": 1.5}, 100)
    counts = torch.arange(100) % 3
    weighted = fit(td.Weibull, x, weights=counts)
    repeated = fit(td.Weibull, x.repeat_interleave(counts))
    assert weighted.n == repeated.n
    torch.testing.assert_close(weighted.covariance, repeated.covariance)
    for way in ("sandwich", "opg"):
        torch.testing.assert_close(
            fit(td.Weibull, x, weights=counts, covariance=way).covariance,
            fit(td.Weibull, x.repeat_interleave(counts), covariance=way).covariance,
        )


def test_sampling_and_importance_weights_have_the_sandwich():
    x = drawn(td.Normal, {"loc": 1.0, "scale": 2.0}, 500)
    w = torch.rand(500, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.1
    found = fit(td.Normal, x, weights=sampling(7 * w))
    mean = (w @ x) / w.sum()
    assert float(found.params["loc"]) == close(float(mean), rel=1e-12)
    # of a weighted mean (Cochran 1977, section 6.3)
    error = ((w * (x - mean)).square().sum()).sqrt() / w.sum()
    assert float(found.standard_errors["loc"]) == close(float(error), rel=1e-10)
    assert (found.n, found.information) == (500, "sandwich")
    kish = fit(td.Normal, x, weights=importance(w))
    assert kish.n == close(float(w.sum() ** 2 / w.square().sum()), rel=1e-12)
    assert float(kish.standard_errors["loc"]) == close(float(error), rel=1e-10)


# ---- Censored and truncated ----------------------------------------------------------------------

# NIST/SEMATECH e-Handbook of Statistical Methods, section 8.4.1.3; estimates computed with 40
# digits.
HOURS = [54, 187, 216, 240, 244, 335, 361, 373, 375, 386] + [500] * 10
NIST = [
    (
        td.Weibull,
        {
            "concentration": (1.7207972608013569, 0.5021506034947794),
            "scale": (606.527558003572, 124.91065620403559),
        },
        -75.13461816447487,
    ),
    (
        td.LogNormal,
        {
            "loc": (6.226015068561739, 0.2504395164769047),
            "scale": (0.9089140394328975, 0.2257941858972348),
        },
        -75.19627077888438,
    ),
]


@pytest.mark.parametrize(("family", "truth", "log_likelihood"), NIST, ids=["Weibull", "LogNormal"])
def test_a_life_test_that_ended_early(family, truth, log_likelihood):
    found = fit(family, censored(HOURS, right=np.array(HOURS) == 500))
    assert found.log_likelihood == close(log_likelihood, rel=1e-12)
    for name, (value, error) in truth.items():
        assert float(found.params[name]) == close(value, rel=1e-10)
        assert float(found.standard_errors[name]) == close(error, rel=1e-10)


KNOWN_TAILS = [
    (f, p) for f, p, _ in FAMILIES if f not in (td.VonMises, td.ContinuousBernoulli, td.Dirichlet)
]
KNOWN_TAILS += [
    (td.Normal, {"loc": 0.0, "scale": 2.0}),
    (td.Exponential, {"rate": 2.0}),
    (td.Poisson, {"rate": 3.0}),
    (td.Geometric, {"probs": 0.3}),
    (td.LogNormal, {"loc": 0.0, "scale": 1.0}),
    (td.Laplace, {"loc": 0.0, "scale": 1.0}),
]


@pytest.mark.parametrize(("family", "truth"), KNOWN_TAILS, ids=lambda v: getattr(v, "__name__", ""))
@pytest.mark.parametrize("how", ["right", "left", "interval", "truncated"])
def test_what_is_not_seen_exactly_is_accounted_for(family, truth, how):
    if family is td.Laplace:
        with pytest.raises(ValueError, match="closed form only"):
            fit(family, censored([1.0, 2.0, 3.0], right=[0, 0, 1]))
        return
    x = drawn(family, truth, 3000, seed=3).contiguous()
    low, high = (float(x.quantile(q)) for q in (0.1, 0.7))
    if how == "right":
        data = censored(x.clamp(max=high), right=x >= high)
    elif how == "left":
        data = censored(x.clamp(min=low), left=x <= low)
    elif how == "interval":
        edges = torch.tensor(
            sorted({math.ceil(float(x.quantile(q)) * 8) / 8 for q in (0.2, 0.4, 0.6, 0.8)})
        ).double()
        step = 1.0 if family in (td.Poisson, td.Geometric, td.NegativeBinomial) else 0.0
        at = torch.searchsorted(edges.contiguous(), x, right=True)
        lows = torch.cat([torch.tensor([-math.inf]).double(), edges])[at]
        highs = torch.cat([edges - step, torch.tensor([math.inf]).double()])[at]
        data = censored(lows, highs)
    else:
        data = truncated(x[(x >= low) & (x <= high)], low, high)
    found = fit(family, data, fixed=given(family, truth))
    assert found.converged, found.status
    for name, value in found.params.items():
        error = found.standard_errors[name]
        if not math.isnan(float(error)):  # at a boundary, as a truncated sample may tell
            assert float(((value - torch.tensor(truth[name])) / error).abs()) < 4.5, name


def test_counts_that_are_capped_hold_the_cap():
    """P(X >= 2) = 1 - P(0) - P(1), and an interval of counts holds both ends."""
    found = fit(td.Poisson, censored([0, 1, 2, 2], right=[0, 0, 1, 1]))
    rate = float(found.params["rate"])
    expected = -2 * rate + math.log(rate) + 2 * math.log(1 - math.exp(-rate) * (1 + rate))
    assert found.log_likelihood == close(expected, rel=1e-12)
    assert found.log_likelihood_at(found.vector) == close(expected, rel=1e-12)
    interval = fit(td.Poisson, censored([0, 1], [1, 1]))
    rate = float(interval.params["rate"])
    assert interval.log_likelihood == close(
        math.log(1 + rate) + math.log(rate) - 2 * rate, rel=1e-12
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: censored([1.0, 2.0], [0.5, 3.0]),
            "at least the lower ones, got 1.0 and 0.5 at row 0",
        ),
        (lambda: censored([1.0, 2.0], [2.0]), r"upper ends of shape \(2,\), got \(1,\)"),
        (lambda: censored([1.0], [2.0], right=[True]), "either upper, or left and right, got both"),
        (lambda: censored([1.0], left=[True], right=[True]), "on one side, got both at row 0"),
        (lambda: censored([1.0], right=[2.0]), "right as a mask"),
        (lambda: fit(td.Normal, censored([1.0, -math.inf], [1.0, math.inf])), "got none at row 1"),
        (lambda: fit(td.Gamma, censored([1.0, -2.0], [1.0, -1.0])), r"got \[-2, -1\] at row 1"),
        (
            lambda: fit(td.VonMises, censored([1.0, 2.0], right=[0, 1])),
            "censored or truncated rows, got VonMises",
        ),
        (
            lambda: fit(td.Normal, truncated([1.0, 5.0], 0.0, 3.0)),
            r"inside the window \[0, 3\], "
            r"got 5 at row 1",
        ),
        (
            lambda: fit(td.Normal, truncated([1.0, 2.0], [0.0, 0.0, 0.0])),
            "a number, or one for each row",
        ),
    ],
)
def test_wrong_intervals_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- Restrictions, covariances, any likelihood ---------------------------------------------------


def test_fixed_bounded_and_tied():
    x = drawn(td.Normal, {"loc": 0.0, "scale": 1.0}, 200)
    held = fit(td.Normal, x, fixed={"loc": 0.0})
    assert float(held.params["scale"]) == close(float(x.square().mean().sqrt()), rel=1e-12)
    assert (held.df, math.isnan(float(held.standard_errors["loc"]))) == (1, True)
    bounded = fit(td.Normal, x, bounds={"loc": (1.0, 2.0)})
    assert bounded.status == (
        "at the boundary of the parameter space: loc = 1; no standard error there"
    )
    assert float(bounded.params["scale"]) == pytest.approx(
        float((x - 1).square().mean().sqrt()), rel=1e-6
    )
    assert math.isfinite(float(bounded.standard_errors["scale"]))
    u = drawn(td.Beta, {"concentration1": 2.0, "concentration0": 2.0}, 200)
    tied = fit(td.Beta, u, fixed={"concentration1": "concentration0"})
    assert tied.df == 1
    assert float(tied.params["concentration1"]) == float(tied.params["concentration0"])
    assert float(tied.standard_errors["concentration1"]) == float(
        tied.standard_errors["concentration0"]
    )


def logit():
    data = spector.load_pandas().data
    x = torch.tensor(np.column_stack([np.ones(len(data)), data[["GPA", "TUCE", "PSI"]]]))
    y = torch.tensor(data["GRADE"].to_numpy())

    def log_prob(x, y, coef):
        score = x @ coef
        return y * score - torch.nn.functional.softplus(score)

    return Likelihood(log_prob, {"coef": (constraints.real, 4)}, "logit"), (x, y)


def test_a_likelihood_of_ones_own_against_published_estimates():
    model, data = logit()
    found = fit(model, data)
    coef = [-13.02134685811569, 2.8261125948893215, 0.0951576613179093, 2.378687655093354]
    errors = [4.931324213602732, 1.262941075629083, 0.14155420567369542, 1.0645642544971312]
    assert found.params["coef"].tolist() == close(coef, rel=1e-8)
    assert found.standard_errors["coef"].tolist() == close(errors, rel=1e-8)
    assert found.log_likelihood == close(-12.889634222131415, rel=1e-12)
    robust = fit(model, data, covariance="sandwich")
    hc0 = [5.197585410299329, 1.2675459820157335, 0.1179222677493933, 0.9644192096528781]
    assert robust.standard_errors["coef"].tolist() == close(hc0, rel=1e-7)
    alone = fit(model, data, clusters=np.arange(32))
    assert alone.standard_errors["coef"].tolist() == close(
        [e * math.sqrt(32 / 31) for e in hc0], rel=1e-7
    )
    assert alone.information == "sandwich, 32 clusters"


def test_the_four_covariances_agree_where_the_model_is_right():
    for family in (td.Weibull, td.Gumbel, td.Cauchy, td.StudentT, td.Gamma):
        truth = next(p for f, p, _ in FAMILIES if f is family)
        x = drawn(family, truth, 100_000)
        kinds = {
            kind: fit(family, x, covariance=kind)
            for kind in ("observed", "expected", "opg", "sandwich")
        }
        for kind, found in kinds.items():
            assert found.information == {"opg": "outer product of scores"}.get(kind, kind)
            unit = kinds["observed"].covariance.diagonal().rsqrt()
            scaled = unit * (found.covariance - kinds["observed"].covariance) * unit[:, None]
            assert float(scaled.abs().max()) < 0.06, (family, kind)


def test_a_function_to_a_distribution_and_a_module():
    torch.manual_seed(0)
    x = torch.randn(300, dtype=torch.float64)
    y = 1 + 2 * x + 0.5 * torch.randn(300, dtype=torch.float64)

    def line(x, y, a, b, scale):
        return td.Normal(a + b * x, scale)

    real, positive = constraints.real, constraints.positive
    found = fit(Likelihood(line, {"a": real, "b": real, "scale": positive}), (x, y))

    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(1, 1)
            self.log_scale = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return td.Normal(self.linear(x[:, None])[:, 0], self.log_scale.exp())

    module = Line()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    again = fit(module, (x, y))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert again.log_likelihood == close(found.log_likelihood, rel=1e-12)
    assert float(again.params["linear_weight"]) == close(float(found.params["b"]), rel=1e-9)
    assert float(again.standard_errors["linear_bias"]) == close(
        float(found.standard_errors["a"]), rel=1e-6
    )


def test_a_sum_shares_parameters_by_name():
    x, y = (
        drawn(td.Normal, {"loc": 1.0, "scale": 2.0}, 80),
        drawn(td.Normal, {"loc": 1.0, "scale": 0.5}, 50),
    )
    real, positive = constraints.real, constraints.positive
    one = Likelihood(
        lambda x, mu, s: td.Normal(mu, s).log_prob(x), {"mu": real, "s": positive}, "A"
    )
    two = Likelihood(
        lambda x, mu, t: td.Normal(mu, t).log_prob(x), {"mu": real, "t": positive}, "B"
    )
    found = fit(one + two, (x, y))
    assert (found.model, found.n, list(found.params)) == ("A + B", 130, ["mu", "s", "t"])
    s, t, mu = (float(found.params[name]) for name in ("s", "t", "mu"))
    precise = 80 / s**2, 50 / t**2
    assert mu == close(
        (precise[0] * float(x.mean()) + precise[1] * float(y.mean())) / sum(precise), rel=1e-9
    )
    robust = fit(one + two, (x, y), covariance="sandwich")
    assert bool((robust.covariance.diagonal() / found.covariance.diagonal() - 1).abs().max() < 1.0)
    with pytest.raises(ValueError, match="expected data as a tuple of 2"):
        fit(one + two, x)
    with pytest.raises(ValueError, match="same constraint and shape of mu"):
        one + Likelihood(lambda x, mu: -mu * x, {"mu": positive})


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: Likelihood(3, {"a": constraints.real}),
            TypeError,
            "log_prob as a function, got int",
        ),
        (lambda: Likelihood(abs, {}), TypeError, "parameters as a dict"),
        (lambda: Likelihood(abs, {"a": 3}), TypeError, "a constraint for a, .* got int"),
        (
            lambda: Likelihood(abs, {"a": (constraints.real, -1)}),
            ValueError,
            "a shape of positive integers for a",
        ),
        (
            lambda: fit(Likelihood(lambda x, a: a, {"a": constraints.real}), [1.0, 2.0]),
            ValueError,
            r"2 log-probabilities from Likelihood, got shape \(\)",
        ),
        (
            lambda: fit(Likelihood(lambda x, a: 3.0, {"a": constraints.real}), [1.0]),
            TypeError,
            "got float",
        ),
        (
            lambda: fit(logit()[0], (torch.ones(3, 4), torch.ones(2))),
            ValueError,
            "a row per observation, 3, got shape",
        ),
        (
            lambda: fit(td.Weibull, [1.0, 2.0], start={"shape": 1.0}),
            ValueError,
            "one of scale, concentration in start",
        ),
        (
            lambda: fit(td.Weibull, [1.0, 2.0], start={"scale": -1.0}),
            ValueError,
            "expected scale to be positive",
        ),
        (
            lambda: fit(td.Weibull, [1.0, 2.0], covariance="robust"),
            ValueError,
            "one of observed, expected, opg",
        ),
        (
            lambda: fit(td.Beta, [0.1, 0.2], covariance="expected", fixed={"concentration1": 1.0}),
            ValueError,
            "free",
        ),
        (lambda: fit(td.Weibull, [1.0, 2.0], clusters=[1]), ValueError, "2 cluster labels"),
        (lambda: fit(td.Weibull, [1.0, 2.0], clusters=[1, 1]), ValueError, "at least two clusters"),
        (lambda: fit(td.Uniform, [1.0, 2.0], fixed={"low": 0.0}), ValueError, "a closed form only"),
    ],
)
def test_what_cannot_be_fitted_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ---- Verdicts ------------------------------------------------------------------------------------

MU = {"mu": constraints.real}


def never(message, *arguments, **options):
    found = fit(*arguments, **options)
    assert not found.converged
    assert found.status.startswith(message), found.status
    assert bool(found.covariance.isnan().all())
    assert message.split(":")[0] in found.summary()


@pytest.mark.parametrize(
    "family",
    [
        f
        for f, p, _ in FAMILIES
        if len(p) > 1
        and f
        not in (
            td.NegativeBinomial,
            td.GeneralizedPareto,
            td.Dirichlet,
            td.FisherSnedecor,
            InverseGaussian,
        )
    ],
)
@pytest.mark.parametrize("n", [1, 3])
def test_data_that_are_all_equal_have_no_maximum(family, n):
    never("no maximum: the data are all equal", family, [0.5] * n)


def test_flat_directions_are_named():
    x = drawn(td.Normal, {"loc": 0.0, "scale": 1.0}, 50)
    real = constraints.real
    twin = Likelihood(lambda x, a, b: td.Normal(a + b, 1.0).log_prob(x), {"a": real, "b": real})
    never("flat direction: the data do not tell a - b;", twin, x)
    idle = Likelihood(
        lambda x, mu, nu: td.Normal(mu, 1.0).log_prob(x) + 0 * nu, {"mu": real, "nu": real}
    )
    never("flat direction: the data do not tell nu;", idle, x)


def test_a_likelihood_that_is_nan_at_the_start_names_the_row():
    model = Likelihood(lambda x, mu: torch.log(mu - x), MU)
    never(
        "not finite: the log-probability of row 1 is nan at the starting values", model, [-1.0, 2.0]
    )


def test_a_likelihood_that_is_nan_in_a_region_is_searched_beside_it():
    x = torch.tensor([2.0, 2.5, 4.0], dtype=torch.float64)
    found = fit(
        Likelihood(
            lambda x, mu: td.Normal(mu, 1.0, validate_args=False).log_prob(x) + torch.log(3 - mu),
            MU,
        ),
        x,
    )
    mu = float(found.params["mu"])
    assert found.converged
    assert 8.5 - 3 * mu == pytest.approx(3 / (3 - mu), rel=1e-9)


def test_two_equal_components_part():
    """Started on a saddle point, where the score is 0."""
    x = torch.cat([drawn(td.Normal, {"loc": at, "scale": 1.0}, 200) for at in (-3.0, 3.0)])
    x -= x.mean()
    both = Likelihood(
        lambda x, a, b: torch.logsumexp(
            torch.stack([td.Normal(m, 1.0).log_prob(x) for m in (a, b)]), 0
        ),
        {"a": constraints.real, "b": constraints.real},
    )
    found = fit(both, x)
    assert found.converged
    assert sorted(round(float(v)) for v in found.params.values()) == [-3, 3]


@pytest.mark.parametrize("family", [td.StudentT, td.NegativeBinomial])
def test_at_an_infinite_parameter_it_is_another_family(family):
    data = [1, 2, 3, 2, 1, 2] if family is td.NegativeBinomial else torch.linspace(-1, 1, 30)
    found = fit(family, data)
    other = fit(td.Poisson if family is td.NegativeBinomial else td.Normal, data)
    assert found.status.startswith(
        f"at the boundary of the parameter space: {next(iter(found.params))} = inf, where"
    )
    assert found.log_likelihood == other.log_likelihood
    if family is td.StudentT:
        assert float(found.standard_errors["loc"]) == float(other.standard_errors["loc"])


@pytest.mark.parametrize("unit", [1e300, 1e-300, 1e8])
@pytest.mark.parametrize("family", [td.StudentT, td.Gumbel, SkewNormal, td.Weibull])
def test_units_do_not_matter(family, unit):
    truth = next(p for f, p, _ in FAMILIES if f is family)
    x = drawn(family, truth, 300)
    plain, scaled = fit(family, x), fit(family, x * unit)
    assert scaled.converged
    for name, value in plain.params.items():
        factor = unit if name in ("loc", "scale") else 1.0
        assert float(scaled.params[name]) == close(float(value) * factor, rel=1e-7)
    beyond = "beyond float64: rescale the data" in scaled.status
    assert beyond == (unit != 1e8) == bool(scaled.covariance.isnan().any())
    assert scaled.log_likelihood == close(plain.log_likelihood - 300 * math.log(unit), rel=1e-9)


def test_columns_of_very_different_units():
    draw = torch.Generator().manual_seed(0)
    x = torch.stack([torch.ones(200), 1e8 * torch.randn(200, generator=draw)], 1).double()
    y = (
        x @ torch.tensor([1.0, 2e-8], dtype=torch.float64)
        + torch.randn(200, generator=draw).double()
    )
    model = Likelihood(
        lambda x, y, coef, scale: td.Normal(x @ coef, scale),
        {"coef": (constraints.real, 2), "scale": constraints.positive},
    )
    found = fit(model, (x, y))
    expected = torch.linalg.lstsq(x / torch.tensor([1.0, 1e8]), y[:, None]).solution[
        :, 0
    ] / torch.tensor([1.0, 1e8])
    assert found.converged
    torch.testing.assert_close(found.params["coef"], expected, rtol=1e-9, atol=0.0)


def test_many_rows_start_from_some():
    x = drawn(td.StudentT, {"df": 4.0, "loc": 2.0, "scale": 3.0}, 200_000)
    found = fit(td.StudentT, x)
    assert found.steps <= 5
    assert found.converged


def test_missing_rows_and_their_numbers():
    with pytest.raises(ValueError, match="expected no missing values, got 1, the first at row 1"):
        fit(td.Weibull, [1.0, math.nan, 2.0])
    found = fit(td.Weibull, [1.0, math.nan, 2.0, 4.0], missing="drop")
    assert (found.n, found.dropped) == (3, 1)
    with pytest.raises(ValueError, match="got -1 at row 2"):
        fit(td.Weibull, [1.0, math.nan, -1.0], missing="drop")


def test_a_fit_by_search_pickles():
    found = fit(td.Weibull, censored(HOURS, right=np.array(HOURS) == 500))
    again = pickle.loads(pickle.dumps(found))
    assert again.log_likelihood_at(again.vector) == found.log_likelihood_at(found.vector)
    assert again.summary() == found.summary()
