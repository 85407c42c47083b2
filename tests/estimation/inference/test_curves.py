"""Pictures of a fit: which there are, and what they show."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions as td
from torch.distributions import constraints
from truth import ANES96, anes96

from nll import Likelihood, SoftmaxRegression, censored, fit, mixture, shifted, truncated
from nll.estimation.inference.curves import kaplan_meier, normal_scores, profile_curves

torch.manual_seed(0)
REAL = torch.randn(200, dtype=torch.float64)
POSITIVE = td.Weibull(torch.tensor(3.0, dtype=torch.float64), 1.5).sample((150,))
COUNTS = td.Poisson(4.0).sample((100,))


def line():
    model = Likelihood(
        lambda x, y, a, b: td.Normal(a + b * x, 1.0), {"a": constraints.real, "b": constraints.real}
    )
    return fit(model, (REAL, 1 + 2 * REAL))


def anes():
    table = anes96()
    return SoftmaxRegression().fit(table[["age"]], table.PID).result_


FITS = {
    "normal": (lambda: fit(td.Normal, REAL), "distribution, qq, likelihood, profile"),
    "student": (lambda: fit(td.StudentT, REAL), "distribution, qq, likelihood, profile"),
    "uniform": (lambda: fit(td.Uniform, REAL), "distribution, qq"),
    "poisson": (lambda: fit(td.Poisson, COUNTS), "distribution, qq, likelihood, profile"),
    "bernoulli": (lambda: fit(td.Bernoulli, [0, 1, 1]), "distribution, likelihood, profile"),
    "categorical": (lambda: fit(td.Categorical, ["a", "b", "a"]), "distribution, likelihood"),
    "binomial": (
        lambda: fit(td.Binomial, [1, 2, 3], fixed={"total_count": [2, 3, 4]}),
        "likelihood, profile",
    ),
    "shifted": (lambda: fit(shifted(td.Gamma), POSITIVE), "distribution, qq, likelihood, profile"),
    "mixture": (
        lambda: fit(mixture(td.Normal), torch.cat([REAL, REAL + 6])),
        "distribution, qq, likelihood, profile",
    ),
    "censored": (
        lambda: fit(td.Weibull, censored(POSITIVE.clamp(max=4), right=POSITIVE > 4)),
        "distribution, likelihood, profile",
    ),
    "interval": (lambda: fit(td.Weibull, censored(POSITIVE, POSITIVE + 1)), "likelihood, profile"),
    "truncated": (lambda: fit(td.Weibull, truncated(POSITIVE, 0, 20)), "likelihood, profile"),
    "columns": (lambda: fit(td.MultivariateNormal, REAL.reshape(-1, 2)), "likelihood, profile"),
    "line": (line, "likelihood, profile"),
    "regression": (anes, "likelihood, profile"),
    "boundary": (lambda: fit(td.Bernoulli, [1, 1]), "distribution"),
    "nothing": (lambda: fit(td.Normal, [1.0, 1.0]), "there are none"),
}


@pytest.mark.parametrize(("make", "pictures"), FITS.values(), ids=list(FITS))
def test_every_picture_that_there_is_is_drawn(make, pictures):
    found = make()
    known = [] if pictures == "there are none" else pictures.split(", ")
    for what in ("distribution", "qq", "likelihood", "profile"):
        if what in known:
            assert found.plot(what).axes
        else:
            with pytest.raises(
                ValueError,
                match=rf"^expected a figure of {found.model} \({pictures}\), got '{what}'",
            ):
                found.plot(what)
    if known:
        all_of_them = found.plot(level=0.9)
        errors = int((found.covariance.diagonal() > 0).sum())
        assert len(all_of_them.axes) == sum(k in known for k in ("distribution", "qq")) + errors
        all_of_them.savefig("/dev/null", format="png", dpi=20)
    with pytest.raises(
        ValueError,
        match="expected what to be one of distribution, qq, likelihood, profile, or None",
    ):
        found.plot("everything")


def test_the_profile_is_the_fit_with_the_parameter_held():
    found = fit(td.Weibull, POSITIVE)
    (curve, _) = profile_curves(found.search(), 0.95, 12)
    assert curve.name == "scale"
    for at, gain in list(zip(curve.at.tolist(), curve.gain.tolist(), strict=True))[::6]:
        held = fit(td.Weibull, POSITIVE, fixed={"scale": at})
        assert found.log_likelihood + gain == pytest.approx(held.log_likelihood, abs=1e-8)
    interval = found.interval(method="profile")["scale"].tolist()
    assert curve.interval == pytest.approx(interval, rel=1e-9)
    assert float(curve.at[0]) < interval[0]
    assert float(curve.at[-1]) > interval[1]


def test_scores_are_normal_quantiles_of_the_fitted_probabilities():
    found = fit(td.Gumbel, REAL)
    scores = normal_scores(found.sample, found.params)
    x = np.sort(REAL.numpy())
    share = stats.gumbel_r(float(found.params["loc"]), float(found.params["scale"])).cdf(x)
    np.testing.assert_allclose(scores.observed, stats.norm.ppf(share), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        scores.expected, stats.norm.ppf((np.arange(200) + 0.5) / 200), rtol=1e-12
    )
    assert bool(((scores.low < scores.expected) & (scores.expected < scores.high)).all())
    # a value that a distribution function calls 1
    heavy = fit(td.Normal, torch.cat([REAL, torch.tensor([60.0])]))
    top = normal_scores(heavy.sample, heavy.params).observed[-1]
    assert float(top) == pytest.approx(
        (60 - float(heavy.params["loc"])) / float(heavy.params["scale"]), rel=1e-9
    )


def test_weights_are_copies_in_the_scores():
    x, w = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 1.0])
    found = fit(td.Normal, x, weights=w)
    scores = normal_scores(found.sample, found.params)
    np.testing.assert_allclose(scores.expected, stats.norm.ppf([0.125, 0.5, 0.875]), atol=1e-12)


def test_kaplan_and_meier():
    low = torch.tensor([6, 6, 6, 6, 7, 9, 10, 10, 11, 13, 16], dtype=torch.float64)
    right = torch.tensor([0, 0, 0, 1, 0, 1, 0, 1, 1, 0, 0], dtype=torch.bool)
    high = torch.where(right, math.inf, low)
    found = kaplan_meier(low, high, torch.ones(11, dtype=torch.float64))
    # 11 at risk, 3 died; 7 at risk, 1; 5 at risk, 1; 2 at risk, 1; the last one.
    steps = [8 / 11, 6 / 7, 1, 4 / 5, 1, 1 / 2, 0]
    np.testing.assert_allclose(found.share, np.cumprod(steps), rtol=1e-12)


def test_shares_and_symmetric_matrices_move_within_their_constraint():
    shares = fit(td.Categorical, [0, 1, 1, 2, 2, 2])
    gain = (
        shares.log_likelihood_at.along(
            shares.vector, 0, torch.tensor([-0.1, 0.0, 0.1], dtype=torch.float64)
        )
        - shares.log_likelihood
    )
    p = 1 / 6
    for step, value in zip((-0.1, 0.0, 0.1), gain.tolist(), strict=True):
        expected = math.log((p + step) / p) + 5 * math.log((1 - p - step) / (1 - p))
        assert value == pytest.approx(expected, abs=1e-12)
    columns = fit(td.MultivariateNormal, REAL.reshape(-1, 2))
    gain = (
        columns.log_likelihood_at.along(
            columns.vector, 3, torch.tensor([-0.1, 0.0, 0.1], dtype=torch.float64)
        )
        - columns.log_likelihood
    )
    assert gain[1] == pytest.approx(0, abs=1e-9)
    assert bool((gain[[0, 2]] < -0.1).all())


def test_copies_and_pickles_draw_too():
    found = fit(td.Weibull, POSITIVE)
    for again in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert len(again.plot().axes) == 4
    lost = pickle.loads(pickle.dumps(line()))  # a lambda cannot be pickled
    assert lost.search is None
    with pytest.raises(ValueError, match=r"^expected a figure of Likelihood \(there are none\)"):
        lost.plot()


def test_a_table_for_pandas():
    table = fit(td.Normal, REAL).to_pandas()
    assert list(table.index) == ["loc", "scale"]
    assert list(table.columns) == ["estimate", "std err", "z", "p value", "low", "high"]
    assert table.loc["loc", "estimate"] == pytest.approx(float(REAL.mean()))
    regression = SoftmaxRegression().fit(anes96()[list(ANES96.columns)], anes96().PID).result_
    assert regression.to_pandas().shape == (36, 6)
