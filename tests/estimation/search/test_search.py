"""Fits by search: families without a closed form, any likelihood, censored and truncated rows, and
honest verdicts.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from searched_families import FAMILIES, close, drawn, given, tensors
from statsmodels.datasets import spector
from torch import distributions as td
from torch.distributions import constraints

from nll import (
    GeneralizedExtremeValue,
    Likelihood,
    SkewNormal,
    fit,
    importance,
    sampling,
)

EVERY = pytest.mark.parametrize(
    ("family", "truth", "peer"), FAMILIES, ids=lambda v: getattr(v, "__name__", "")
)


def log_prob(family, params, fixed, x):
    if family is td.VonMises:  # PyTorch's Bessel function has seven digits
        loc, k = params.values()
        return (k * (x - loc).cos() - math.log(2 * math.pi) - torch.special.i0e(k).log() - k).sum()
    if family is td.GeneralizedPareto:  # PyTorch's takes no float64
        scale, c = params.values()
        return (-scale.log() - (1 + 1 / c) * torch.log1p(c * (x - fixed["loc"]) / scale)).sum()
    return family(**params, **fixed, validate_args=False).log_prob(x).sum()


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
