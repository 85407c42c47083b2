"""Verdicts: "converged" only at a maximum; boundaries, limits and rises without end each have
their own, in any unit.
"""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from pairwise import by_turns
from torch import distributions as td
from torch.distributions import constraints

import nll
from nll import censored, fit, truncated
from nll.estimation.search.search import better
from nll.estimation.search.surroundings import Surroundings
from nll.solvers.outcome import Status

REAL, POSITIVE = constraints.real, constraints.positive
COUNTS = np.array([0, 0, 0, 0, 0, 0, 0, 0, 3, 1, 4, 2, 2, 5, 3, 4, 2, 6, 3, 2])
SPREAD = np.array([0, 1, 9, 2, 0, 4, 14, 3, 1, 7, 2, 5])
ROUGH = np.array([0.13, -0.13, 0.64, 0.1, -0.54, 0.36, 1.3, 0.95, -0.7, -1.27])


DRAW = np.random.default_rng(1).normal(size=(2, 200))
SKEWED = 0.95 * np.abs(DRAW[0]) + (1 - 0.95**2) ** 0.5 * DRAW[1]


def logit(x, y, a, b):
    return torch.nn.functional.logsigmoid((2 * y - 1) * (a + b * x))


LOGIT = nll.Likelihood(logit, {"a": REAL, "b": REAL})
POISSON = nll.Likelihood(
    lambda x, y, a, b: td.Poisson(torch.exp(a + b * x)), {"a": REAL, "b": REAL}
)


# ---- No maximum inside ---------------------------------------------------------------------------

THREE = [1.0, 4.0, 3.0]
SIDES = {
    "right": censored(THREE, right=[1, 1, 1]),
    "left": censored(THREE, left=[1, 1, 1]),
    "common": censored([1.0, 2.0, 1.5], [4.0, 3.0, 6.0]),
}
MOVES = [td.Normal, td.LogNormal, td.Gumbel, td.Cauchy, td.Weibull, td.Gamma, nll.InverseGaussian]


@pytest.mark.parametrize(("family", "side"), by_turns(MOVES, SIDES))
def test_rows_that_one_law_explains_wholly_have_no_maximum(family, side):
    """The log-likelihood rises towards 0, however small the decrement has become."""
    found = fit(family, SIDES[side])
    assert not found.status.startswith("converged"), found.status
    assert found.log_likelihood == pytest.approx(0.0, abs=1e-6)
    assert all(bool(error.isnan().all()) for error in found.standard_errors.values())


@pytest.mark.parametrize(
    ("family", "data", "boundary"),
    [
        (td.Exponential, SIDES["left"], "rate = inf"),
        (td.Exponential, SIDES["right"], "rate = 0"),
        (td.Poisson, SIDES["right"], "rate = inf"),
        (td.Poisson, censored([0, 0, 0], [2, 6, 2]), "rate = 0"),
        (td.HalfNormal, SIDES["left"], "scale = 0"),
        (td.Gumbel, truncated([0.1, 0.2, 0.4, 0.5, 0.9, 1.6, 3.5], low=0.0), "loc = -inf"),
    ],
)
def test_a_limit_at_a_boundary_is_one(family, data, boundary):
    found = fit(family, data)
    assert found.status == (
        f"at the boundary of the parameter space: {boundary}; no standard error there"
    )
    name = boundary.split(" = ")[0]
    assert (found.converged, float(found.params[name])) == (True, float(boundary.split(" = ")[1]))


@pytest.mark.parametrize("unit", [1e-6, 1.0, 100.0, 1e6])
@pytest.mark.parametrize(
    ("model", "x", "y", "words"),
    [
        (
            LOGIT,
            [-2, -1, -0.5, 0.5, 1, 2.0],
            [0, 0, 0, 1, 1, 1.0],
            "no maximum: .* towards b = inf, .* identify a",
        ),
        (
            LOGIT,
            [0, 1, 2, 2, 3, 4.0],
            [0, 0, 0, 1, 1, 1.0],
            "no maximum: .* towards a = -inf, b = inf",
        ),
        (
            POISSON,
            [0, 0, 0, 1, 1.0],
            [1, 3, 2, 0, 0.0],
            "at the boundary of the parameter space: b = -inf",
        ),
    ],
)
def test_separation_in_a_likelihood_has_one_verdict_in_every_unit(model, x, y, words, unit):
    found = fit(model, (unit * np.array(x), np.array(y)))
    assert re.match(words, found.status), found.status
    finite = "a" if model is POISSON else None
    for name, error in found.standard_errors.items():
        assert bool(error.isfinite()) == (name == finite)


@pytest.mark.parametrize(
    ("family", "data"),
    [
        (td.Weibull, censored([13467, 13760, 12011, 7798, 7928.0], right=[1, 0, 1, 1, 1])),
        (td.Beta, censored([0.5, 0.3, 0.8], right=[1, 1, 0])),
        (td.Cauchy, [1.0, 1, 1, 2, 2]),
        (nll.GeneralizedExtremeValue, [0.2, 0.3, 1.9, 2.0]),
        (nll.Likelihood(lambda x, m: m * x.abs(), {"m": REAL}), np.ones(5)),
    ],
)
def test_a_likelihood_without_bound_is_said(family, data):
    found = fit(family, data)
    assert found.status.startswith("no maximum"), found.status
    assert not found.converged


def test_all_rows_equal_are_said_whatever_their_weights():
    for weights in (None, nll.sampling([1.0, 2.0])):
        assert fit(td.Normal, [2.0, 2.0], weights=weights).log_likelihood == math.inf
    singular = fit(
        td.MultivariateNormal,
        np.outer(np.arange(5.0), [1, 2, 3]),
        weights=nll.sampling([1, 2, 3, 4, 5]),
    )
    assert singular.status.startswith("no maximum: a combination of the columns is constant")


# ---- The maximum, from wherever the search starts ------------------------------------------------


@pytest.mark.parametrize(
    ("family", "data", "start"),
    [
        (td.Bernoulli, [1] * 9 + [0], {"probs": 1e-5}),
        (td.Bernoulli, [1] * 999 + [0], {"probs": 0.02}),
        (td.NegativeBinomial, SPREAD, {"total_count": 1e3, "probs": 0.99}),
        (nll.zero_inflated(td.Poisson), COUNTS, {"gate": 0.999999}),
        (td.Gumbel, ROUGH, {"loc": 100.0}),
        (td.Gumbel, ROUGH, {"scale": 0.01}),
        (td.Weibull, SPREAD + 0.5, {"concentration": 1e3}),
        (nll.SkewNormal, SKEWED, {"skewness": -10.0}),
        (
            LOGIT,
            (np.array([0, 1, 2, 2, 3, 4.0]), np.array([0, 1, 0, 1, 0, 1.0])),
            {"a": 1000.0, "b": -50.0},
        ),
        (
            POISSON,
            (np.array([0, 1, 2, 2, 3, 4.0]), np.array([0, 1, 0, 1, 0, 1.0])),
            {"a": -100.0, "b": -5.0},
        ),
    ],
)
def test_a_far_start_ends_at_the_maximum(family, data, start):
    best, found = fit(family, data), fit(family, data, start=start)
    assert best.status.startswith("converged")
    assert found.status.startswith("converged"), found.status
    assert found.log_likelihood == pytest.approx(best.log_likelihood, abs=1e-8)


def test_a_share_inside_of_a_likelihood_is_found_from_beyond_its_boundary():
    draw = np.random.default_rng(0)
    x, t = draw.normal(size=1000), draw.uniform(size=1000)
    y = (
        draw.random(1000) < 1 / (1 + np.exp(-0.5 - 1.2 * x)) * (0.4 + 0.6 * np.exp(-3 * t))
    ).astype(float)

    def rows(x, t, y, b0, b1, p, gamma):
        q = torch.sigmoid(b0 + b1 * x) * (1 - p + p * torch.exp(-gamma * t))
        return torch.where(y == 1, torch.log(q), torch.log1p(-q))

    model = nll.Likelihood(
        rows, {"b0": REAL, "b1": REAL, "p": constraints.unit_interval, "gamma": POSITIVE}
    )
    best = fit(model, (x, t, y))
    found = fit(model, (x, t, y), start={"b0": 5.0, "b1": -5.0, "p": 0.01, "gamma": 50.0})
    assert found.log_likelihood == pytest.approx(best.log_likelihood, abs=1e-6)


def test_trial_steps_beyond_what_a_distribution_takes_are_stepped_back_from():
    draw = np.random.default_rng(7)
    x, y = draw.normal(size=20), 1e-8 * draw.normal(size=20)
    line = nll.Likelihood(
        lambda x, y, a, b, s: td.Normal(a + b * x, s), {"a": REAL, "b": REAL, "s": POSITIVE}
    )
    found = fit(line, (x, y))
    slope, constant = np.polyfit(x, y, 1)
    assert found.converged
    assert [float(found.params[n]) for n in "ab"] == pytest.approx([constant, slope], rel=1e-6)
    # of the data as they are it may complain
    with pytest.raises(ValueError, match="Expected value argument"):
        fit(nll.Likelihood(lambda x, k: td.Weibull(k, k), {"k": POSITIVE}), (-np.ones(3),))
    assert td.Distribution._validate_args


def test_the_highest_of_several_peaks_and_what_each_start_reached():
    """A peak at 0.7 degrees of freedom, below which the likelihood has another limit at infinity:
    the normal law.
    """
    x = np.array([-0.2, -0.1, -0.05, 0.0, 0.02, 0.06, 0.15, 8.0, -9.0])
    found = fit(td.StudentT, x)
    assert found.status.startswith("converged")
    assert float(found.params["df"]) < 2
    assert found.log_likelihood > fit(td.Normal, x).log_likelihood + 1
    assert len(found.starts) > 1
    assert found.starts[0] == pytest.approx(found.log_likelihood, abs=1e-8)
    assert list(found.starts) == sorted(found.starts, reverse=True)
    assert fit(td.Gamma, x[x > 0]).starts == ()


def test_a_limit_that_is_higher_than_the_peak_inside_is_taken():
    """Of a few values the half-normal law, skewness -inf, is more likely than the peak at -1.28
    (log L -11.18).
    """
    found = fit(nll.SkewNormal, ROUGH)
    scale = math.sqrt(np.square(ROUGH - ROUGH.max()).mean())
    assert found.log_likelihood == pytest.approx(
        10 * math.log(math.sqrt(2 / math.pi) / scale) - 5, abs=1e-6
    )
    assert found.status == (
        "at the boundary of the parameter space: skewness = -inf; no standard error there"
    )
    assert float(found.params["loc"]) == pytest.approx(ROUGH.max(), abs=1e-6)
    # the largest value, which has no normal error
    assert bool(found.standard_errors["loc"].isnan())
    assert float(found.standard_errors["scale"]) == pytest.approx(scale / math.sqrt(20), rel=1e-3)


# ---- Degenerate requests -------------------------------------------------------------------------


def test_all_parameters_fixed():
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    mean = nll.Likelihood(lambda x, m: td.Normal(m, 1.0).log_prob(x), {"m": REAL})
    for found in (
        fit(td.Normal, x, fixed={"loc": 0.0, "scale": 1.0}),
        fit(mean, x, fixed={"m": 0.0}),
    ):
        assert found.log_likelihood == pytest.approx(
            float(td.Normal(0.0, 1.0).log_prob(x).sum()), rel=1e-14
        )
        assert (found.df, found.status, found.converged) == (
            0,
            "converged: all parameters are fixed",
            True,
        )
        assert all(bool(error.isnan()) for error in found.standard_errors.values())


@pytest.mark.parametrize(
    ("run", "error", "message"),
    [
        (
            lambda x: nll.Likelihood(lambda x, m: -((x - m.detach()) ** 2), {"m": REAL}),
            ValueError,
            "can differentiate",
        ),
        (
            lambda x: nll.Likelihood(
                lambda x, k: td.Normal(k, 1.0), {"k": constraints.nonnegative_integer}
            ),
            TypeError,
            "a constraint for k that real numbers map onto",
        ),
    ],
)
def test_what_cannot_be_searched_is_said(run, error, message):
    with pytest.raises(error, match=message):
        fit(run(None), [1.0, 2.0])


def test_a_tied_value_stays_within_its_constraint():
    model = nll.Likelihood(
        lambda x, a, b: -0.5 * (x - a) ** 2 - 0.5 * (x - b - 1) ** 2, {"a": REAL, "b": POSITIVE}
    )
    found = fit(model, np.arange(5.0), fixed={"b": lambda p: -(p["a"] ** 2)})
    assert not found.converged
    assert found.status.startswith("outside of the parameter space: fixed['b'] is -0.")


def test_a_window_has_room():
    with pytest.raises(ValueError, match=r"window with room between its ends, got \[2, 2\]"):
        fit(td.Normal, truncated([2.0, 2.0], 2.0, 2.0))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_fits_differentiate_whatever_is_around_them(mode):
    x = np.random.default_rng(4).standard_t(4, 60)
    outside = fit(td.StudentT, x)
    with mode():
        inside = fit(td.StudentT, torch.tensor(x))
        assert inside.log_likelihood == pytest.approx(outside.log_likelihood, rel=1e-12)
        g = fit(td.Gamma, torch.tensor(x).abs())
        assert bool(g.interval(method="profile")["rate"].isfinite().all())
        assert len(g.bootstrap(10)) == 10


# ---- Mechanisms that gave a wrong verdict or a lower peak ----------------------------------------


def test_a_parameter_so_far_out_that_its_curvature_is_rounding_is_at_its_limit():
    data = np.array([2.81, 2.01, 2.11, 2.9, 0.94, 3.01, 2.34, 1.27, 3.86, 2.87, 4.44, 3.68])
    start = {"df1": 1e105, "df2": 2.8}
    there = fit(td.FisherSnedecor, truncated(data, -np.inf, 10.3), start=start)
    assert not there.status.startswith("converged")


def test_a_mixture_is_searched_from_a_narrow_cluster():
    wide = np.linspace(-5.0, 3.0, 60)
    narrow = 2.4 + 0.05 * np.linspace(-1.0, 1.0, 7)
    found = fit(nll.mixture(td.Normal, 2), np.concatenate([wide, narrow]))
    assert found.converged
    assert 0.01 < float(found.params["scale"].min()) < 0.1


def test_a_mixture_is_searched_from_a_small_share_at_an_end():
    values = [0.51, 1.0013675632884258, 2.813222942799308, 0.26, 0.34336948260793826]
    values += [1.2859321747508368, 0.73, 1.1897650972191876]
    left = [True, False, False, True, False, False, True, False]
    values[0], values[3], values[6] = 0.511886451875757, 0.25957304708332735, 0.7304029130135231
    found = fit(nll.mixture(td.Exponential, 2), censored(values, left=left))
    assert found.converged
    assert found.log_likelihood == pytest.approx(-9.6421415895, abs=1e-8)


@pytest.mark.parametrize("scale", [1e-10, 1e-12])
def test_probabilities_of_counts_do_not_exceed_one_near_a_total_count_of_zero(scale):
    fixed = {"total_count": scale, "probs": 1 - 1e-6}
    data = censored([0.0, 0.0], [2.0, 0.0])
    there = fit(td.NegativeBinomial, truncated(data, -np.inf, 3.0), fixed=fixed)
    assert -1e-8 < there.log_likelihood <= 0.0


def test_equal_censored_rows_and_a_common_window_give_the_same_likelihood():
    values = [0.4, 0.7, 1.1, 1.9] + 8 * [2.0]
    right = [value == 2.0 for value in values]
    once = fit(td.Gamma, truncated(censored(values, right=right), 0.1, 9.0))
    window = [0.1] * len(values), [9.0] * len(values)
    again = fit(td.Gamma, truncated(censored(values, right=right), *window))
    assert once.log_likelihood == pytest.approx(again.log_likelihood, abs=1e-9)
    assert once.n == again.n == 12


# ---- Verdicts that neither the start nor the unit changes ----------------------------------------


@pytest.mark.parametrize(("family", "start"), [(td.Gamma, 1e-3), (td.InverseGamma, 1e3)])
def test_a_maximum_far_out_is_the_formulas_from_any_start(family, start):
    """The information is nearly singular there: one curvature is 1e-13 of another."""
    data = 1 + 5e-7 * torch.from_numpy(DRAW[0, :40])
    found = fit(family, data, start={"concentration": 1.0, "rate": start})
    assert found.converged
    assert found.log_likelihood == pytest.approx(fit(family, data).log_likelihood, abs=1e-6)


def test_two_counts_do_not_identify_two_parameters():
    found = fit(nll.zero_inflated(td.Poisson), truncated([0, 0, 0, 1, 1], high=1.0))
    assert not found.converged


@pytest.mark.parametrize("unbounded", [False, True])
def test_a_lower_peak_is_no_maximum_where_a_search_went_higher_without_an_end(unbounded):
    found = fit(td.Weibull, SPREAD + 0.5).search()
    peak = found.optimum
    higher = peak.sums._replace(log_likelihood=peak.sums.log_likelihood + 1)
    top = peak._replace(sums=higher, reached=False)
    assert better(found.objective, peak, top, Surroundings(), unbounded) == unbounded


@pytest.mark.parametrize("unit", [2.0**-20, 1024.0])
def test_a_mixture_has_one_verdict_in_every_unit(unit):
    for data in (np.array([-0.4, 0.7]), SKEWED[:30]):
        usual, other = (fit(nll.mixture(td.Normal), factor * data) for factor in (1.0, unit))
        assert other.status == usual.status
        shift = len(data) * math.log(unit)
        assert other.log_likelihood == pytest.approx(usual.log_likelihood - shift, abs=1e-9)


def test_a_mixture_is_searched_where_values_lie_closer_together_than_around():
    spread = np.random.default_rng(0).normal(size=300)
    data = np.concatenate([spread, 1.7 + 1e-3 * spread[:9]])
    found = fit(nll.mixture(td.Normal), data)
    assert found.converged
    assert float(found.params["scale"].min()) < 2e-3
    assert float(found.params["loc"].max()) == pytest.approx(1.7, abs=2e-3)


@pytest.mark.parametrize(("side", "probs"), [("right", 1.0), ("left", 0.0)])
def test_the_value_at_a_boundary_is_that_of_the_limit(side, probs):
    found = fit(td.ContinuousBernoulli, censored([0.3, 0.9, 0.98, 0.2], **{side: [1] * 4}))
    assert (found.verdict, float(found.params["probs"])) == (Status.BOUNDARY, probs)
    assert found.log_likelihood == 0.0


def test_intervals_of_no_width_that_agree_are_equal_data():
    exact = fit(nll.InverseGaussian, censored([2.0, 2.0], [2.0, 2.0]))
    assert exact.status.startswith("no maximum: the data are all equal")
    wide = fit(td.Weibull, censored([1.0, 1.0], [3.0, 3.0]))
    assert "all equal" not in wide.status
    assert wide.log_likelihood <= 0.0
