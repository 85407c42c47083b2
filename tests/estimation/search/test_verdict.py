"""Honest verdicts of a search: no maximum, flat directions, NaN, infinite parameters, units."""

from __future__ import annotations

import math

import pytest
import torch
from searched_families import FAMILIES, close, drawn
from torch import distributions as td
from torch.distributions import constraints

from nll import (
    InverseGaussian,
    Likelihood,
    SkewNormal,
    fit,
)

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
    never("flat direction: the data do not identify a - b;", twin, x)
    idle = Likelihood(
        lambda x, mu, nu: td.Normal(mu, 1.0).log_prob(x) + 0 * nu, {"mu": real, "nu": real}
    )
    never("flat direction: the data do not identify nu;", idle, x)


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
