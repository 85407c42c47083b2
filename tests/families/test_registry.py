"""All families: data that are nearly equal, starts for data of any size, uninformative rows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import distributions as td

import nll
from nll import censored, fit, truncated
from nll.estimation.samples import family_start
from nll.families.distributions import InverseGaussian
from nll.families.registry import FAMILIES, family_of

Z = np.array([-1.5, -0.7, -0.2, 0.1, 0.4, 0.8, 1.6])

# The maximum and its parameters by Newton's method with 100 digits (mpmath), for the data m (1 + s
# Z).
NEARLY_EQUAL = [
    (td.Gamma, 1e6, 1e-7, 6.6590135899944192, (114485982523229.28, 114485981.70547227)),
    (td.Gamma, 1e-6, 1e-9, 232.31235286737022, (1.1448598626722649e18, 1.1448598625904893e24)),
    (td.InverseGamma, 1.0, 1e-7, 103.36758748290336, (114485982103197.36, 114485982920953.37)),
    (td.LogNormal, 1e6, 1e-9, 38.895204930030697, (13.815510558035703, 9.3459583849211051e-10)),
    (InverseGaussian, 1e6, 1e-9, 38.895204930030697, (1000000.0000714286, 1.1448598215915269e24)),
    (td.Weibull, 1.0, 1e-7, 103.08377401074926, (1.0000000535338042, 11546838.771167592)),
    (td.VonMises, 0.5, 1e-7, 108.21961777473892, (0.50000000357142856, 457943925523288.92)),
    (td.Beta, 1e-6, 1e-5, 167.83996871656112, (11448598470.741522, 11448578844578557.0)),
    (td.Beta, 0.5, 1e-5, 75.983426470726279, (5724303153.895199, 5724294976.3251064)),
    (td.Chi2, 1e6, 1e-7, -57.212871274219847, (1000001.007142686,)),
    (td.Gumbel, 1e6, 1e-7, 6.2421548167773686, (999999.96016547871, 0.088914568809082566)),
]


@pytest.mark.parametrize(
    ("family", "mean", "spread", "log_likelihood", "params"),
    NEARLY_EQUAL,
    ids=[f"{f.__name__}-{m:g}-{s:g}" for f, m, s, *_ in NEARLY_EQUAL],
)
def test_data_that_are_nearly_equal_keep_their_digits(family, mean, spread, log_likelihood, params):
    found = fit(family, mean * (1 + spread * Z))
    assert found.converged
    assert found.log_likelihood == pytest.approx(log_likelihood, rel=1e-12, abs=1e-10)
    assert [float(value) for value in found.params.values()] == pytest.approx(params, rel=1e-9)


def test_the_errors_of_a_gamma_distribution_far_from_zero():
    """shape / sqrt(n / 2) for a large shape: the determinant of the information cancels in its
    plain form.
    """
    found = fit(td.Gamma, 1e6 * (1 + 1e-7 * Z))
    expected = float(found.params["concentration"]) * math.sqrt(2 / len(Z))
    assert float(found.standard_errors["concentration"]) == pytest.approx(expected, rel=1e-12)


def test_the_closed_form_of_the_inverse_gamma_is_its_search():
    x = 1 / np.array([0.3, 0.8, 1.1, 2.0, 0.6])
    found, searched = fit(td.InverseGamma, x), fit(td.InverseGamma, x, start={"rate": 3.0})
    assert found.log_likelihood == pytest.approx(searched.log_likelihood, rel=1e-13)
    torch.testing.assert_close(found.covariance, searched.covariance, rtol=1e-8, atol=0.0)


SETS = {
    "equal": [0.5] * 4,
    "one": [0.3],
    "an outlier": [1.0, 2.0, 3.0, 1e300],
    "denormal": [5e-324, 1e-310, 2e-320],
    "largest": [1e308, 1.5e308, 1.7e308],
    "mixed": [1e-300, 1e-5, 1.0, 1e5, 1e200],
    "zeros": [0.0, 0.0, 0.0],
    "far from zero": [1e15, 1e15 + 2, 1e15 + 4],
    "negative": [-3.0, -2.0, -1.0],
    "to both ends": [1e-300, 0.5, 1 - 1e-16],
}
STARTED = [
    f for f in FAMILIES if not (FAMILIES[f].columns or FAMILIES[f].simplex) and f is not td.Uniform
]
STARTED += [
    nll.shifted(td.Gamma),
    nll.zero_inflated(td.Poisson),
    nll.mixture(td.Normal),
    nll.mixture(td.Gamma),
]


@pytest.mark.parametrize("family", STARTED, ids=lambda f: f.__name__)
def test_a_start_lies_inside_whatever_the_data(family):
    known = family_of(family)
    given = {"loc": torch.tensor(-4.0), "total_count": torch.tensor(9.0)}
    for values in SETS.values():
        x = torch.tensor(values, dtype=torch.float64)
        if bool(known.inside(x, **{name: given[name] for name in known.given}).all()):
            start = family_start(known, x[None], torch.ones(1, len(x), dtype=torch.float64))
            for name, parameter in known.constraints(1).items():
                assert bool(
                    start[name].isfinite().all() & parameter.constraint.check(start[name]).all()
                ), values


# ---- Rows that tell little -----------------------------------------------------------------------

POSITIVE, SHARES = [0.5, 1.2, 2.0, 3.3, 0.9, 1.7], [0.1, 0.2, 0.35, 0.8, 0.6]


@pytest.mark.parametrize(
    ("family", "x", "support"),
    [
        (td.Weibull, POSITIVE, (0, math.inf)),
        (td.Gamma, POSITIVE, (0, math.inf)),
        (td.InverseGamma, POSITIVE, (0, math.inf)),
        (td.LogNormal, POSITIVE, (0, math.inf)),
        (td.Beta, SHARES, (0, 1)),
        (td.Kumaraswamy, SHARES, (0, 1)),
        (td.Poisson, [0, 2, 5], (0, math.inf)),
    ],
)
def test_a_row_or_a_window_of_the_whole_support_tells_nothing(family, x, support):
    right = fit(family, x)
    for data in (censored([support[0], *x], [support[1], *x]), truncated(x, *support)):
        found = fit(family, data)
        assert found.converged == right.converged
        assert found.log_likelihood == pytest.approx(right.log_likelihood, abs=1e-9)


def test_a_censored_row_lies_inside_of_its_window():
    """P(5 < X | X <= 6) for a row that is censored at 5 and would not be there above 6."""
    found = fit(td.Exponential, truncated(censored([1.0, 2.0, 5.0], right=[0, 0, 1]), 0.0, 6.0))
    rate = float(found.params["rate"])
    window = -math.expm1(-6 * rate)
    expected = (
        2 * math.log(rate)
        - 3 * rate
        + math.log(math.exp(-5 * rate) - math.exp(-6 * rate))
        - 3 * math.log(window)
    )
    assert found.log_likelihood == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match=r"inside the window \[0, 6\], got \[6, inf\] at row 1"):
        fit(td.Exponential, truncated(censored([1.0, 6.0], right=[0, 1]), 0.0, 6.0))


def test_a_support_that_ends_where_an_interval_does():
    """A Frechet distribution: the scale is tied so that the support begins at 0, as an interval
    does.
    """
    tied = {
        "fixed": {"scale": lambda q: q["loc"] * q["concentration"]},
        "start": {"loc": 2.0, "concentration": 1.0},
    }
    low, high = [0.0, 1.5, 4.0, 7.0], [1.2, 1.5, 4.0, math.inf]
    found = fit(nll.GeneralizedExtremeValue, censored(low, high), **tied)
    right = fit(nll.GeneralizedExtremeValue, censored([-math.inf, *low[1:]], high), **tied)
    assert found.converged
    assert found.log_likelihood == pytest.approx(right.log_likelihood, rel=1e-13)


def test_a_fixed_corner_lets_a_closed_form_take_censored_rows():
    """With loc = 0 or scale = 1 known, the scale and the tail index are total time over events, and
    the inverse.
    """
    x, right = [1.0, 2.0, 4.0], [0, 0, 1]
    laplace = fit(td.Laplace, censored(x, right=right), fixed={"loc": 0.0})
    # P(X > x) = exp(-x / scale) / 2
    assert float(laplace.params["scale"]) == pytest.approx(7 / 2, rel=1e-9)
    pareto = fit(td.Pareto, censored(x, right=right), fixed={"scale": 1.0})
    assert float(pareto.params["alpha"]) == pytest.approx(2 / math.log(8), rel=1e-9)
    assert fit(td.Laplace, x, start={"loc": 1.0}).status == "converged: closed form"


@pytest.mark.parametrize(
    ("family", "data", "options", "message"),
    [
        (
            td.Laplace,
            censored([1.0, 2.0], right=[0, 1]),
            {},
            "not support censored rows; with a fixed loc it supports them",
        ),
        (
            td.Pareto,
            truncated([1.0, 2.0], 0.0, 3.0),
            {},
            "not support a window; with a fixed scale it supports them",
        ),
        (
            td.Laplace,
            [1.0, 2.0],
            {"covariance": "opg", "bounds": {"loc": (0, 1)}},
            "not support bounds and covariance='opg'",
        ),
        (td.Laplace, [1.0, 2.0], {"weights": nll.sampling([1, 2])}, "not support sampling weights"),
        (
            td.Laplace,
            [1.0, 2.0],
            {"start": {"mean": 1.0}},
            "one of loc, scale in start, got 'mean'",
        ),
        (
            td.Uniform,
            censored([1.0, 2.0], right=[0, 1]),
            {},
            "censored or truncated rows, got Uniform",
        ),
        (
            td.MultivariateNormal,
            censored([[1.0, 2.0]]),
            {},
            "censored or truncated rows, got MultivariateNormal",
        ),
    ],
)
def test_what_a_closed_form_does_not_take_is_named(family, data, options, message):
    with pytest.raises(ValueError, match=message):
        fit(family, data, **options)


def test_memory_in_any_order_gives_the_same():
    x = np.array(POSITIVE)
    right = fit(td.Weibull, censored(x, right=x > 2))
    for view in (
        x[::-1],
        np.repeat(x, 2)[::2],
        np.stack([x, x], 1)[:, 1],
        x.astype(">f8"),
        torch.tensor(x).flip(0),
    ):
        found = fit(td.Weibull, censored(view, right=np.asarray(view) > 2))
        assert found.params["scale"].dtype == torch.float64
        assert found.log_likelihood == pytest.approx(right.log_likelihood, rel=1e-13)
        assert fit(td.Gamma, view).log_likelihood == pytest.approx(
            fit(td.Gamma, x).log_likelihood, rel=1e-13
        )


MANY = 70_001


def many(scale: float = 2.0, shift: float = 3.0) -> np.ndarray:
    return shift + scale * np.random.default_rng(0).normal(size=MANY)


@pytest.mark.parametrize(
    "data",
    [many(), many(1e-3, 1e8), many(1e300, 0.0), many(1e-300, 0.0), many(1e-90, 0.0), many(1.0, 50)],
    ids=["near 0", "far from 0", "huge", "tiny", "small", "off 0"],
)
def test_rows_that_count_once_give_a_normal_distribution_what_weights_of_1_give(data):
    once, weighted = fit(td.Normal, data), fit(td.Normal, data, weights=np.ones(MANY))
    close = pytest.approx(float(weighted.params["scale"]), rel=2e-15, abs=0.0)
    assert float(once.params["scale"]) == close
    slack = 4e-16 * np.abs(data).mean()
    assert float(once.params["loc"]) == pytest.approx(float(weighted.params["loc"]), abs=slack)
    assert once.status == weighted.status
    assert once.log_likelihood == pytest.approx(weighted.log_likelihood, rel=1e-14)


def test_many_equal_values_have_no_normal_distribution():
    found = fit(td.Normal, np.full(MANY, 0.1))
    assert (float(found.params["loc"]), float(found.params["scale"])) == (0.1, 0.0)
    assert found.status.startswith("no maximum: the data are all equal")


def test_many_values_in_any_memory_have_one_normal_distribution():
    whole = np.round(many() * 100)
    right = fit(td.Normal, whole)
    table = torch.tensor(np.stack([whole, whole], 1))
    for data in (whole.astype(np.int32), whole.astype(np.float32), whole[::-1], table[:, 1]):
        found = fit(td.Normal, data)
        assert float(found.params["loc"]) == float(right.params["loc"])
        assert float(found.params["scale"]) == pytest.approx(
            float(right.params["scale"]), rel=1e-15
        )


INSIDE = 0.02 + 0.96 * np.random.default_rng(0).beta(2, 3, 60)  # of every support but integers


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.__name__)
def test_no_fit_writes_into_its_data(family):
    known = FAMILIES[family]
    data = np.floor(2 * INSIDE) if known.discrete else INSIDE.copy()
    if known.columns:  # shares that add to 1; or a curve in the plane
        data = np.stack([data, (1 if family is not td.MultivariateNormal else data**2) - data], 1)
    before = data.copy()
    view = data.view()
    view.flags.writeable = False
    given = {name: 5 if name == "total_count" else 0.0 for name in known.given}
    found = fit(family, view, fixed=given)
    assert family.__name__ in found.summary()
    assert np.array_equal(data, before)
