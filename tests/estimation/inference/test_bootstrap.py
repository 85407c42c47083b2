"""The bootstrap: replicates that vary as the estimate does, drawn and fitted side by side."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions as td
from torch.distributions import constraints

import nll
from nll import Likelihood, censored, fit, sampling
from nll.estimation.inference.bootstrap import resampled

N = 400


def drawn(family, seed=0, **truth):
    torch.manual_seed(seed)
    return family(
        **{name: torch.tensor(value, dtype=torch.float64) for name, value in truth.items()}
    ).sample((N,))


CASES = [
    (td.Normal, drawn(td.Normal, loc=1.0, scale=2.0)),
    (td.Gamma, drawn(td.Gamma, concentration=2.0, rate=3.0)),
    (td.Exponential, drawn(td.Exponential, rate=3.0)),
    (td.Poisson, drawn(td.Poisson, rate=3.0)),
    (td.Weibull, drawn(td.Weibull, scale=2.0, concentration=1.5)),
    (td.Beta, drawn(td.Beta, concentration1=2.0, concentration0=5.0)),
    (td.NegativeBinomial, drawn(td.NegativeBinomial, total_count=3.0, probs=0.4)),
    (td.StudentT, drawn(td.StudentT, df=4.0, loc=1.0, scale=2.0)),
]


@pytest.mark.parametrize("parametric", [False, True])
@pytest.mark.parametrize(("family", "x"), CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_errors_and_intervals_are_about_those_of_the_information(family, x, parametric):
    found = fit(family, x)
    drawn = found.bootstrap(1000, parametric=parametric)
    assert len(drawn) + drawn.failed == 1000
    assert drawn.failed <= 10
    for name, error in found.standard_errors.items():
        spread = (drawn.params[name].quantile(0.84) - drawn.params[name].quantile(0.16)) / 2
        assert float(spread) == pytest.approx(float(error), rel=0.2)
        low, high = drawn.interval(0.68)[name]
        assert float(low) < float(found.params[name]) < float(high)
        assert float(high - low) == pytest.approx(2 * 0.994 * float(error), rel=0.3)


def test_each_replicate_is_the_fit_of_its_rows():
    x = CASES[4][1]
    found = fit(td.Weibull, x).bootstrap(5, seed=3)
    weights = resampled(torch.ones(N, dtype=torch.float64), 5, np.random.default_rng(3))
    for i in range(5):
        again = fit(td.Weibull, x, weights=weights[i])
        for name, value in again.params.items():
            assert float(found.params[name][i]) == pytest.approx(float(value), rel=1e-8)


def test_intervals_are_those_of_scipy():
    x = CASES[2][1]
    found = fit(td.Exponential, x).bootstrap(4000)
    for method in ("percentile", "basic", "bca"):
        other = stats.bootstrap(
            (x.numpy(),),
            lambda v, axis: 1 / v.mean(axis),
            n_resamples=4000,
            method=method,
            rng=np.random.default_rng(1),
        ).confidence_interval
        ends = (
            fit(td.Gamma, x, fixed={"concentration": 1.0})
            .bootstrap(4000)
            .interval(method=method)["rate"]
        )
        width = other.high - other.low
        assert float(ends[0]) == pytest.approx(other.low, abs=0.05 * width)
        assert float(ends[1]) == pytest.approx(other.high, abs=0.05 * width)
    assert found.bias["rate"].abs() < found.standard_errors["rate"]


def test_a_seed_repeats_and_the_generator_of_pytorch_stays():
    found = fit(td.Weibull, CASES[4][1])
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = found.interval(method="bootstrap", replicates=50, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    torch.testing.assert_close(
        first, found.interval(method="bootstrap", replicates=50, seed=1), rtol=0, atol=0
    )
    assert not torch.equal(
        first["scale"], found.interval(method="bootstrap", replicates=50, seed=2)["scale"]
    )


def test_frequencies_are_rows():
    x, weights = torch.tensor([1.0, 2.0, 5.0, 9.0]), torch.tensor([30.0, 60.0, 30.0, 10.0])
    few = fit(td.Exponential, x, weights=weights).bootstrap(2000, seed=1).standard_errors["rate"]
    many = (
        fit(td.Exponential, x.repeat_interleave(weights.long()))
        .bootstrap(2000, seed=2)
        .standard_errors["rate"]
    )
    assert float(few) == pytest.approx(float(many), rel=0.1)


def test_sampling_weights_go_with_their_rows():
    x = CASES[2][1]
    found = fit(td.Gamma, x, weights=sampling(1 + torch.arange(N) % 5))
    errors = found.bootstrap(1000).standard_errors
    for name, error in found.standard_errors.items():  # the sandwich
        assert float(errors[name]) == pytest.approx(float(error), rel=0.2)


def test_censored_rows_and_any_likelihood():
    x = CASES[4][1]
    found = fit(td.Weibull, censored(x.clamp(max=2.0), right=x > 2.0))
    errors = found.bootstrap(500).standard_errors
    for name, error in found.standard_errors.items():
        assert float(errors[name]) == pytest.approx(float(error), rel=0.25)
    z = torch.linspace(0, 1, N, dtype=torch.float64)
    line = Likelihood(
        lambda z, y, a, b, s: td.Normal(a + b * z, s),
        {"a": constraints.real, "b": constraints.real, "s": constraints.positive},
    )
    found = fit(line, (z, 1 + 2 * z + 0.3 * torch.randn(N)))
    for parametric in (False, True):
        errors = found.bootstrap(500, parametric=parametric).standard_errors
        for name, error in found.standard_errors.items():
            assert float(errors[name]) == pytest.approx(float(error), rel=0.25)
    both = fit(line + line, ((z, 1 + 2 * z), (z, 2 * z + 0.1 * torch.randn(N))))
    assert len(both.bootstrap(20)) == 20


def test_closed_forms_of_shares_trials_and_corners():
    found = fit(td.Categorical, ["a", "b", "a", "c"] * 50)
    for parametric in (False, True):
        drawn = found.bootstrap(1000, parametric=parametric)
        torch.testing.assert_close(drawn.covariance, found.covariance, rtol=0.25, atol=2e-4)
    trials = torch.arange(1, 101)
    torch.manual_seed(0)
    hits = td.Binomial(trials, torch.tensor(0.3)).sample()
    found = fit(td.Binomial, hits, fixed={"total_count": trials})
    for parametric in (False, True):
        error = found.bootstrap(1000, parametric=parametric).standard_errors["probs"]
        assert float(error) == pytest.approx(float(found.standard_errors["probs"]), rel=0.25)
    corner = fit(td.Laplace, CASES[0][1]).bootstrap(200)
    assert corner.acceleration is None
    with pytest.raises(ValueError, match="'percentile' or 'basic', got 'bca'"):
        corner.interval(method="bca")


def test_replicates_without_a_maximum_are_counted():
    found = fit(td.Gamma, [1.0, 2.0, 2.5]).bootstrap(2000)  # nine in 81 draw one value three times
    assert 100 < found.failed < 350
    assert f"{found.failed} without a maximum" in str(found)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.bootstrap(1), "at least 2, got 1"),
        (lambda f: f.bootstrap(True), "at least 2, got True"),
        (lambda f: f.bootstrap(10).interval(1.5), r"level in \(0, 1\), got 1.5"),
        (
            lambda f: fit(td.Normal, [1.0, 1.0]).bootstrap(),
            "a converged fit .* got Normal: no maximum",
        ),
        (
            lambda f: fit(td.Weibull, censored([1.0, 2.0, 3.0], right=[0, 0, 1])).bootstrap(
                10, parametric=True
            ),
            "parametric=False for rows that are censored",
        ),
    ],
)
def test_what_cannot_be_drawn_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(fit(td.Exponential, [1.0, 2.0, math.pi]))


def test_replicates_without_a_maximum_are_counted_and_left_out():
    """Some replicates have no failure, or none below the largest time: the shape of those would be
    infinite.
    """
    data = nll.censored([5.0, 8.0, 9.0, 12.0, 12.0, 12.0], right=[0, 0, 0, 1, 1, 1])
    found = fit(td.Weibull, data).bootstrap(200)
    assert found.failed > 0
    assert len(found) + found.failed == 200
    assert float(found.standard_errors["concentration"]) < 50
    assert "without a maximum" in str(found)


def test_a_distribution_that_is_the_same_for_every_row_can_be_drawn():
    x = np.random.default_rng(0).normal(2, 1.5, size=60)
    model = nll.Likelihood(
        lambda x, m, s: td.Normal(m, s), {"m": constraints.real, "s": constraints.positive}
    )
    errors = fit(model, (x,)).bootstrap(200, parametric=True).standard_errors
    assert float(errors["m"]) == pytest.approx(x.std() / math.sqrt(60), rel=0.2)
    assert float(errors["s"]) == pytest.approx(x.std() / math.sqrt(120), rel=0.2)
