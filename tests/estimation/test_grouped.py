"""Many data sets fitted side by side: each as if it were alone, and intervals that cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import distributions as td

from nll import GeneralizedExtremeValue, SkewNormal, censored, fit, sampling, truncated
from nll.estimation.inference.wald import wald
from nll.estimation.models import search_each
from nll.families.registry import FAMILIES

KINDS = [
    (td.Gamma, {"concentration": 2.0, "rate": 1.0}),
    (td.Weibull, {"scale": 2.0, "concentration": 1.5}),
    (td.NegativeBinomial, {"total_count": 3.0, "probs": 0.4}),
    (td.Normal, {"loc": 1.0, "scale": 2.0}),
    (td.Poisson, {"rate": 3.0}),
]


def drawn(family, truth, *shape, seed=0):
    torch.manual_seed(seed)
    return family(
        **{name: torch.tensor(value, dtype=torch.float64) for name, value in truth.items()}
    ).sample(shape)


@pytest.mark.parametrize(("family", "truth"), KINDS, ids=lambda v: getattr(v, "__name__", ""))
def test_each_group_is_as_if_it_were_alone(family, truth):
    labels = np.random.default_rng(0).choice(
        ["a", "b", "c", "d", "e"], 400, p=[0.5, 0.25, 0.15, 0.08, 0.02]
    )
    x = drawn(family, truth, 400)
    weights = torch.arange(400) % 3
    found = fit(family, x, groups=labels, weights=weights)
    assert found.groups == ["a", "b", "c", "d", "e"]
    for i, name in enumerate(found.groups):
        alone = fit(family, x[labels == name], weights=weights[labels == name])
        assert bool(found.converged[i]) == alone.converged
        assert float(found.n[i]) == alone.n
        assert float(found.log_likelihood[i]) == pytest.approx(alone.log_likelihood, rel=1e-9)
        for parameter, value in alone.params.items():
            assert float(found.params[parameter][i]) == pytest.approx(float(value), rel=1e-6)
            error = float(found.standard_errors[parameter][i])
            assert error == pytest.approx(float(alone.standard_errors[parameter]), rel=1e-6)
            torch.testing.assert_close(
                found.interval(0.9)[parameter][i], alone.interval(0.9)[parameter]
            )
    table = found.to_dict()
    assert table["group"] == found.groups
    assert {len(column) for column in table.values()} == {5}
    assert found.to_pandas().shape == (5, len(table) - 1)


@pytest.mark.parametrize(
    "family", [td.Gumbel, td.StudentT, td.Weibull, td.InverseGamma, GeneralizedExtremeValue]
)
@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1e-6), (0.0, 1e9), (1e6, 1e3)])
def test_units_do_not_matter(family, shift, scale):
    if shift and family in (td.Weibull, td.InverseGamma):
        pytest.skip("positive numbers have no shift")
    rng = np.random.default_rng(0)
    draws = {
        td.StudentT: rng.standard_t(3, 300),
        td.Weibull: rng.weibull(2, 300),
        td.InverseGamma: rng.weibull(2, 300),
    }
    x = shift + scale * draws.get(family, rng.gumbel(size=300))
    found = fit(family, x, groups=np.arange(300) % 3)
    assert bool(found.converged.all())
    for i in range(3):
        alone = fit(family, x[i::3])
        assert float(found.log_likelihood[i]) == pytest.approx(alone.log_likelihood, rel=1e-9)
        for name, value in alone.params.items():
            error = float(alone.standard_errors[name])
            assert float(found.params[name][i]) == pytest.approx(float(value), abs=1e-4 * error)
            assert float(found.standard_errors[name][i]) == pytest.approx(error, rel=1e-4)


def test_groups_without_a_maximum_say_so():
    x = torch.tensor([1.0, 2.0, 4.0, 3.0, 3.0, 5.0, 7.0, 9.0, 8.0, 2.0], dtype=torch.float64)
    found = fit(td.Weibull, x, groups=[0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    assert found.converged.tolist() == [True, False, True, False]
    assert found.standard_errors["scale"].isnan().tolist() == [False, True, False, True]
    assert str(found) == "Weibull: 4 groups, 10 observations; 2 without a maximum"


@pytest.mark.parametrize(
    "of", [censored, lambda x, right: truncated(x, low=0.5)], ids=["censored", "truncated"]
)
def test_groups_of_incomplete_rows_are_as_if_they_were_alone(of):
    draw = np.random.default_rng(0)
    x, right, labels = (
        draw.weibull(1.5, 90) + 0.5,
        draw.random(90) < 0.3,
        draw.choice(["a", "b", "c"], 90),
    )
    weights = draw.integers(0, 3, 90)
    found = fit(td.Weibull, of(x, right=right), groups=labels, weights=weights)
    for i, name in enumerate("abc"):
        own = labels == name
        alone = fit(td.Weibull, of(x[own], right=right[own]), weights=weights[own])
        assert (float(found.n[i]), bool(found.converged[i])) == (alone.n, alone.converged)
        assert float(found.log_likelihood[i]) == alone.log_likelihood
        torch.testing.assert_close(found.covariance[i], alone.covariance)
        assert {name: float(value[i]) for name, value in found.params.items()} == {
            name: float(value) for name, value in alone.params.items()
        }
        assert (found.events is None) == (alone.censoring is None)
        if found.events is not None and alone.censoring is not None:
            assert (
                found.to_dict()["events"][i]
                == alone.censoring.events
                == weights[own & ~right].sum()
            )
            assert (
                found.to_dict()["censored"][i]
                == alone.censoring.right
                == weights[own & right].sum()
            )


def test_missing_rows_leave_their_groups():
    found = fit(td.Poisson, [1.0, math.nan, 3.0, 4.0], groups=list("aabb"), missing="drop")
    assert (found.n.tolist(), found.dropped) == ([1.0, 2.0], 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit(td.Gamma, [1.0, 2.0], groups=[1]), "2 group labels, one for each row"),
        (lambda: fit(td.Gamma, [1.0, -2.0], groups=[1, 2]), "got -2 at row 1"),
        (
            lambda: fit(td.Gamma, censored([1.0, -2.0], left=[0, 1]), groups=[1, 2]),
            r"got \[-inf, -2\] at row 1",
        ),
        (
            lambda: fit(td.Gamma, [1.0, 2.0], weights=sampling([1, 2]), groups=[1, 2]),
            "families of single numbers and frequencies only",
        ),
        (
            lambda: fit(td.Gamma, [1.0, 2.0], fixed={"rate": 1.0}, groups=[1, 2]),
            "families of single numbers and frequencies only",
        ),
        (
            lambda: fit(td.Gamma, [1.0, 2.0], groups=[1, 2]).interval(2.0),
            r"level in \(0, 1\), got "
            r"2.0",
        ),
    ],
)
def test_what_groups_cannot_have_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


REGULAR = [
    *KINDS[:3],
    (td.InverseGamma, {"concentration": 3.0, "rate": 2.0}),
    (td.Chi2, {"df": 3.3}),
    (td.Beta, {"concentration1": 2.0, "concentration0": 5.0}),
    (td.Kumaraswamy, {"concentration1": 2.0, "concentration0": 3.0}),
    (td.StudentT, {"df": 4.0, "loc": 2.0, "scale": 3.0}),
    (td.Cauchy, {"loc": 1.0, "scale": 2.0}),
    (td.Gumbel, {"loc": 1.0, "scale": 2.0}),
    (GeneralizedExtremeValue, {"loc": 1.0, "scale": 2.0, "concentration": 0.2}),
    (SkewNormal, {"loc": 1.0, "scale": 2.0, "skewness": 3.0}),
    (td.VonMises, {"loc": 1.0, "concentration": 2.0}),
    (td.HalfCauchy, {"scale": 2.0}),
    (td.FisherSnedecor, {"df1": 5.0, "df2": 9.0}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "truth"), REGULAR, ids=lambda v: getattr(v, "__name__", ""))
def test_intervals_of_95_percent_cover_in_95_percent(family, truth, record_property):
    """Within three Monte Carlo errors over 2000 samples of 2000."""
    replicates, n = 2000, 2000
    x = drawn(family, truth, replicates, n)
    inside: dict[str, int] = dict.fromkeys(truth, 0)
    for part in x.split(250):
        found = search_each(FAMILIES[family], part, torch.ones_like(part))
        assert bool(found.reached.all())
        errors = found.covariance.diagonal(dim1=1, dim2=2).sqrt()
        for i, (name, value) in enumerate(truth.items()):
            ends = wald(found.params[name], errors[:, i], 0.95)
            inside[name] += int(((ends[:, 0] <= value) & (value <= ends[:, 1])).sum())
    error = math.sqrt(0.95 * 0.05 / replicates)
    for name, count in inside.items():
        record_property(f"coverage of {name}", count / replicates)
        assert abs(count / replicates - 0.95) < 3 * error, (name, count / replicates)
