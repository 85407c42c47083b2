"""Families made of others: shifted, zero-inflated, mixtures."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from scipy import stats
from torch import distributions as td

from nll import InverseGaussian, censored, fit, mixture, shifted, truncated, zero_inflated
from nll.estimation.inference.wald import wald
from nll.families.base import tails_of


def number(*values):
    return torch.tensor(values if len(values) > 1 else values[0], dtype=torch.float64)


TRUTHS = [
    (shifted(td.Gamma), {"loc": 5.0, "concentration": 3.0, "rate": 2.0}),
    (shifted(td.Weibull), {"loc": -5.0, "scale": 2.0, "concentration": 2.5}),
    (shifted(td.LogNormal), {"location": 1.0, "loc": 0.5, "scale": 0.5}),
    (shifted(InverseGaussian), {"location": -1.0, "loc": 2.0, "concentration": 4.0}),
    (shifted(td.InverseGamma), {"loc": 3.0, "concentration": 6.0, "rate": 4.0}),
    (zero_inflated(td.Poisson), {"gate": 0.3, "rate": 2.5}),
    (zero_inflated(td.NegativeBinomial), {"gate": 0.3, "total_count": 4.0, "probs": 0.5}),
    (zero_inflated(td.Geometric), {"gate": 0.4, "probs": 0.3}),
    (mixture(td.Normal), {"probs": [0.3, 0.7], "loc": [-2.0, 3.0], "scale": [1.0, 2.0]}),
    (mixture(td.Poisson, 3), {"probs": [0.3, 0.3, 0.4], "rate": [1.0, 8.0, 25.0]}),
    (mixture(td.Exponential), {"probs": [0.6, 0.4], "rate": [0.1, 2.0]}),
    (mixture(td.Gamma), {"probs": [0.5, 0.5], "concentration": [3.0, 40.0], "rate": [3.0, 5.0]}),
]
IDS = [made.__name__ for made, _ in TRUTHS]


def at(made, truth):
    return made(
        **{
            name: number(*value) if isinstance(value, list) else number(value)
            for name, value in truth.items()
        }
    )


@pytest.mark.parametrize(("made", "truth"), TRUTHS, ids=IDS)
def test_estimates_recover_the_truth(made, truth):
    torch.manual_seed(1)
    found = fit(made, at(made, truth).sample((5000,)))
    assert found.converged
    for name, value in truth.items():
        away = (found.params[name] - torch.tensor(value)) / found.standard_errors[name]
        assert float(away.abs().max()) < 4, name


@pytest.mark.parametrize(("made", "truth"), TRUTHS, ids=IDS)
def test_probabilities_add_to_one_and_the_tails_are_theirs(made, truth):
    known = at(made, truth)
    params = {name: torch.as_tensor(v, dtype=torch.float64) for name, v in truth.items()}
    if made.discrete:
        x = torch.arange(400, dtype=torch.float64)
        mass = known.log_prob(x).exp()
        assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
        torch.testing.assert_close(mass.cumsum(0), known.cdf(x), rtol=1e-9, atol=1e-12)
        return
    low = truth.get("location", truth.get("loc", 0.0))
    low = low if not isinstance(low, list) else -12.0
    x = torch.linspace(low, low + 60.0, 60_001, dtype=torch.float64)
    density = known.log_prob(x).exp().nan_to_num(0.0)
    below, above = tails_of(made)(x, **params)
    total = torch.cumulative_trapezoid(density, x)
    torch.testing.assert_close(total[1000:], below.exp()[1001:] - below.exp()[0], rtol=0, atol=2e-4)
    inside = (below > -700) & (above > -700)
    torch.testing.assert_close(
        (below.exp() + above.exp())[inside], torch.ones_like(x)[inside], rtol=0, atol=1e-9
    )


def test_gamma_with_a_free_location_is_at_least_as_likely_as_scipys():
    torch.manual_seed(0)
    x = td.Gamma(number(2.0), 1.0).sample((254,)) + 5
    found = fit(shifted(td.Gamma), x)
    shape, loc, scale = stats.gamma.fit(x.numpy())
    assert found.log_likelihood >= stats.gamma.logpdf(x.numpy(), shape, loc, scale).sum() - 1e-9
    again = stats.gamma(
        float(found.params["concentration"]),
        float(found.params["loc"]),
        1 / float(found.params["rate"]),
    )
    assert found.log_likelihood == pytest.approx(again.logpdf(x.numpy()).sum(), rel=1e-12)
    assert "unbounded as loc nears the smallest value" in found.status


def test_zero_inflated_poisson_is_that_of_statsmodels():
    torch.manual_seed(0)
    x = at(*TRUTHS[5]).sample((1000,))
    other = sm.ZeroInflatedPoisson(x.numpy(), np.ones(1000)).fit(
        disp=0, method="newton", maxiter=200
    )
    found = fit(zero_inflated(td.Poisson), x)
    assert found.log_likelihood == pytest.approx(other.llf, rel=1e-12)
    gate, log_rate = other.params
    assert float(found.params["gate"]) == pytest.approx(1 / (1 + math.exp(-gate)), rel=1e-6)
    assert float(found.params["rate"]) == pytest.approx(math.exp(log_rate), rel=1e-6)


def test_no_excess_of_zeros_is_a_boundary():
    found = fit(zero_inflated(td.Poisson), [1, 2, 3, 4, 2, 1, 2])
    assert found.status.startswith("at the boundary of the parameter space: gate = 0")
    assert float(found.params["gate"]) == 0
    assert bool(found.standard_errors["gate"].isnan())
    plain = fit(td.Poisson, [1, 2, 3, 4, 2, 1, 2])
    assert float(found.standard_errors["rate"]) == pytest.approx(
        float(plain.standard_errors["rate"]), rel=1e-4
    )


def test_a_mixture_is_at_least_as_likely_as_many_restarts_of_em():
    mixtures = pytest.importorskip("sklearn.mixture")
    torch.manual_seed(3)
    x = at(
        mixture(td.Normal, 3),
        {"probs": [0.2, 0.5, 0.3], "loc": [-3.0, 0.0, 2.0], "scale": [0.5, 1.0, 0.4]},
    )
    x = x.sample((1000,))
    other = mixtures.GaussianMixture(3, tol=1e-9, max_iter=2000, n_init=10, random_state=0).fit(
        x.numpy()[:, None]
    )
    found = fit(mixture(td.Normal, 3), x)
    assert found.log_likelihood >= 1000 * other.score(x.numpy()[:, None]) - 1e-3
    assert bool((found.params["loc"].diff() > 0).all())


def test_a_mixture_started_at_one_point_is_searched_elsewhere_too():
    torch.manual_seed(0)
    x = at(*TRUTHS[8]).sample((500,))
    found = fit(
        mixture(td.Normal), x, start={"probs": [0.5, 0.5], "loc": [0.0, 0.0], "scale": [1.0, 1.0]}
    )
    best = fit(mixture(td.Normal), x)
    assert found.converged
    assert found.log_likelihood == pytest.approx(best.log_likelihood, rel=1e-9)
    assert len(found.starts) > len(best.starts)


def test_censored_truncated_and_weighted_rows():
    torch.manual_seed(0)
    x = at(*TRUTHS[5]).sample((4000,))
    for data in (censored(x.clamp(max=4.0), right=x >= 4), truncated(x[x >= 1], 1, math.inf)):
        found = fit(zero_inflated(td.Poisson), data, fixed={"gate": 0.3})
        assert abs(float(found.params["rate"]) - 2.5) < 4 * float(found.standard_errors["rate"])
    values, counts = x.unique(return_counts=True)
    once, often = (
        fit(zero_inflated(td.Poisson), x),
        fit(zero_inflated(td.Poisson), values, weights=counts),
    )
    assert once.log_likelihood == pytest.approx(often.log_likelihood, rel=1e-12)


def test_side_by_side_and_pickled():
    torch.manual_seed(0)
    made, truth = TRUTHS[8]
    x = at(made, truth).sample((900,))
    again = pickle.loads(pickle.dumps(fit(made, x)))
    assert again.log_likelihood_at(again.vector) == pytest.approx(again.log_likelihood, rel=1e-12)
    assert pickle.loads(pickle.dumps(made)) == made
    each = fit(
        zero_inflated(td.Poisson), at(*TRUTHS[5]).sample((900,)), groups=torch.arange(900) % 3
    )
    assert bool(each.converged.all())


def test_intervals_of_a_mixture():
    torch.manual_seed(0)
    made, truth = TRUTHS[8]
    found = fit(made, at(made, truth).sample((2000,)))
    profile, plain = found.interval(method="profile"), found.interval()
    torch.testing.assert_close(profile["loc"], plain["loc"], rtol=0.05, atol=0.05)
    assert bool(profile["probs"].isnan().all())
    boot = found.bootstrap(100)
    torch.testing.assert_close(
        boot.standard_errors["loc"], found.standard_errors["loc"], rtol=0.3, atol=0
    )
    torch.testing.assert_close(
        wald(found.params["loc"], found.standard_errors["loc"], 0.95), plain["loc"]
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shifted(td.Normal), "a family to shift .Gamma, .* got 'Normal'"),
        (lambda: zero_inflated(td.Gamma), "a family of counts .* got 'Gamma'"),
        (lambda: mixture(td.Dirichlet), "a family of plain numbers to mix, got 'Dirichlet'"),
        (lambda: mixture("Normal"), "to mix, got 'Normal'"),
        (lambda: mixture(td.Normal, 1), "an integer of at least 2, got 1"),
        (
            lambda: fit(mixture(td.Normal), [1.0, 2.0], groups=[0, 1]),
            "families of single numbers and frequencies only",
        ),
        (
            lambda: fit(zero_inflated(td.Poisson), [1.5, 2.0]),
            "a non-negative integer, got 1.5 at row 0",
        ),
    ],
)
def test_what_cannot_be_made_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wrong_arguments_of_a_made_class_are_named():
    with pytest.raises(TypeError, match="expected gate, rate, got gate, speed"):
        zero_inflated(td.Poisson)(gate=0.3, speed=2.0)


def test_columns_of_normal_numbers():
    torch.manual_seed(0)
    x = (
        torch.randn(500, 3, dtype=torch.float64)
        @ number([1.0, 0.5, 0.0], [0.0, 1.0, 0.2], [0.0, 0.0, 2.0])
        + 5
    )
    found = fit(td.MultivariateNormal, x)
    assert found.df == 9
    other = stats.multivariate_normal(x.mean(0).numpy(), np.cov(x.numpy().T, bias=True))
    assert found.log_likelihood == pytest.approx(other.logpdf(x.numpy()).sum(), rel=1e-12)
    searched = fit(td.MultivariateNormal, x, start={"loc": [0.0, 0.0, 0.0]})
    torch.testing.assert_close(searched.covariance, found.covariance, rtol=1e-7, atol=1e-12)
    assert fit(td.MultivariateNormal, x[:3]).status.startswith(
        "no maximum: a combination of the columns is constant"
    )
    assert "column 1 is constant" in fit(td.MultivariateNormal, x * number(1.0, 0.0, 1.0)).status


def test_a_boundary_of_a_mixture_is_that_of_its_component():
    """Zeros and a Poisson law: one rate is 0, whichever component the search had it in."""
    x = torch.tensor([0.0] * 60 + [5.0, 7.0, 6.0, 4.0, 9.0, 5.0, 6.0, 8.0] * 5)
    found = fit(mixture(td.Poisson), x)
    assert found.status.startswith("at the boundary of the parameter space: rate[0] = 0")
    assert found.params["rate"].tolist() == pytest.approx([0.0, 6.24], abs=0.05)
    assert found.params["probs"].tolist() == pytest.approx([0.6, 0.4], abs=0.01)
    at = mixture(td.Poisson)(**found.params, validate_args=False)
    assert float(at.log_prob(x.double()).sum()) == pytest.approx(found.log_likelihood, abs=1e-5)
