"""Candidates ranked: criteria by statsmodels and by hand, and an honest word on the best of
them.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from statsmodels.tools import eval_measures
from torch import distributions as td

import nll
from nll import compare, fit
from nll.data.observations import observe
from nll.regression.design_matrix import Columns
from nll.regression.glm.fit import fit_linear

RNG = np.random.default_rng(0)
POSITIVE, REAL, COUNTS = RNG.gamma(2.0, 3.0, 300), RNG.normal(2.0, 3.0, 300), RNG.poisson(3.0, 300)
CENSORED = nll.censored(REAL, right=REAL > 4)
NORMAL = fit(td.Normal, REAL)
LINE = nll.Likelihood(lambda x, m: td.Normal(m, torch.ones_like(m)), {"m": td.constraints.real})


def row(comparison, name):
    return next(row for row in comparison.table if row.name == name)


# The criteria.


def test_criteria_are_those_of_statsmodels():
    found = compare([td.Normal, td.StudentT, td.Gumbel], REAL, replicates=0)
    for at in found.table:
        arguments = (at.log_likelihood, len(REAL), at.df)
        assert at.log_likelihood == fit(getattr(td, at.name), REAL).log_likelihood
        assert at.aic == pytest.approx(eval_measures.aic(*arguments), rel=1e-14)
        assert at.aicc == pytest.approx(eval_measures.aicc(*arguments), rel=1e-14)
        assert at.bic == pytest.approx(eval_measures.bic(*arguments), rel=1e-14)
        assert at.goodness is None


def test_differences_and_weights_by_hand():
    found = compare([td.Weibull, td.Gamma, td.Exponential], POSITIVE, criterion="bic", replicates=0)
    bic = np.array([at.bic for at in found.table])
    assert (np.diff(bic) > 0).all()
    share = np.exp(-(bic - bic[0]) / 2)
    np.testing.assert_allclose([at.delta for at in found.table], bic - bic[0])
    np.testing.assert_allclose([at.weight for at in found.table], share / share.sum())


@pytest.mark.parametrize("criterion", ["aic", "aicc", "bic"])
def test_each_criterion_ranks_by_itself(criterion):
    x = np.array([-1.5, -0.5, -0.1, 0.0, 0.2, 0.6, 9.0])
    found = compare([td.Normal, td.StudentT, td.Cauchy], x, criterion=criterion, replicates=0)
    values = {at.name: getattr(at, criterion) for at in found.table}
    assert found.best == min(values, key=values.__getitem__)
    assert list(values.values()) == sorted(values.values())


def test_aicc_leaves_out_what_has_too_few_rows():
    found = compare([td.StudentT, td.Normal], [1.0, 2.0, 4.0, 9.0], criterion="aicc", replicates=0)
    assert row(found, "StudentT").aicc == math.inf
    assert math.isnan(row(found, "StudentT").delta)
    assert [at.name for at in found.ranked] == ["Normal"]


def test_weights_are_copies():
    w = np.arange(300) % 3
    weighted = compare([td.Gamma, td.Weibull], POSITIVE, weights=w, replicates=0)
    copied = compare([td.Gamma, td.Weibull], np.repeat(POSITIVE, w), replicates=0)
    assert weighted.n == copied.n == w.sum()
    for one, other in zip(weighted.table, copied.table, strict=True):
        assert (one.name, one.bic, one.aicc) == (
            other.name,
            pytest.approx(other.bic, rel=1e-12),
            pytest.approx(other.aicc, rel=1e-12),
        )


# Which one wins.


@pytest.mark.parametrize(
    ("truth", "x"),
    [
        ("Gamma", POSITIVE),
        ("LogNormal", np.random.default_rng(1).lognormal(1.0, 1.0, 300)),
        ("Weibull", np.random.default_rng(2).weibull(3.0, 600)),
        ("Exponential", np.random.default_rng(3).exponential(2.0, 300)),
    ],
)
def test_the_right_family_wins(truth, x):
    families = [td.Exponential, td.Gamma, td.LogNormal, td.Weibull, td.Normal]
    found = compare(families, x, criterion="bic", replicates=99)
    assert found.best == truth
    assert row(found, truth).goodness.p_values["anderson_darling"] > 0.05
    assert "does not reject it (Anderson-Darling, p = " in found.status


def test_counts():
    found = compare([td.NegativeBinomial, td.Poisson, td.Geometric], COUNTS)
    assert found.best == "Poisson"
    assert row(found, "Geometric").goodness.p_values["kolmogorov_smirnov"] == pytest.approx(1 / 200)


def test_the_best_of_the_wrong_is_still_wrong():
    found = compare([td.Normal, td.Laplace, td.Uniform], POSITIVE**2)
    assert found.status.endswith("p = 0.005): even the best candidate does not describe the data")


def test_what_is_near_is_named():
    x = stats.weibull_min.rvs(1.3, size=60, random_state=0)
    found = compare([td.Weibull, td.Gamma], x, replicates=0)
    assert 0 < found.table[1].delta < 2
    first, second = (at.name for at in found.table)
    assert found.status == (
        f"{first} has the smallest AIC, but {second} is within 2 units of it: the data do not "
        f"decide between them"
    )


def test_a_tie():
    found = compare({"one": td.Normal, "other": td.Normal, "third": td.Gumbel}, REAL, replicates=0)
    assert found.status == "a tie: the smallest AIC is that of one and other"
    assert (found.best, found.table[1].delta) == ("one", 0.0)


# What is not ranked.


def test_a_support_without_the_data_is_no_error():
    found = compare([td.Gamma, td.Normal, td.Beta], REAL, replicates=0)
    assert [at.name for at in found.ranked] == ["Normal"]
    assert list(found.fits) == ["Normal"]
    at = row(found, "Gamma")
    assert at.status.startswith(
        "not possible: data outside the support of Gamma: expected a positive number, got -"
    )
    assert (at.df, math.isnan(at.aic)) == (None, True)


def test_tails_that_are_not_known_are_no_error():
    found = compare(
        [td.Uniform, td.Gamma], nll.censored(POSITIVE, right=POSITIVE > 9), replicates=19
    )
    assert found.best == "Gamma"
    assert row(found, "Uniform").status.startswith("not possible: expected ")
    assert found.status == (
        "Gamma has the smallest AIC. Its fit is not tested: not for censored or truncated "
        "observations"
    )


def test_without_a_maximum():
    found = compare([td.Normal, td.Cauchy], [1.0, 1.0, 1.0])
    assert (found.best, found.status) == (None, "no candidate can be ranked")
    assert row(found, "Normal").status.startswith("no maximum")
    assert math.isnan(row(found, "Normal").aic)


def test_borders_are_ranked_and_told():
    x = np.random.default_rng(0).normal(size=200)
    found = compare([td.StudentT, td.Normal, td.Uniform], x, replicates=0)
    assert [at.name for at in found.ranked] == ["Normal", "StudentT", "Uniform"]
    assert row(found, "StudentT").delta == pytest.approx(2.0)
    assert "\nStudentT: at the boundary of the parameter space: df = inf" in str(found)
    assert "\nUniform: not regular: " in str(found)


def test_angles_next_to_numbers():
    """On the line the density of an angle adds up to more than 1."""
    found = compare([td.VonMises, td.Normal], 10 * REAL, replicates=0)
    assert found.best == "Normal"
    assert row(found, "VonMises").status == (
        "not possible: expected angles within one turn, next to models of numbers"
    )
    assert compare([td.VonMises], 10 * REAL, replicates=0).best == "VonMises"
    assert len(compare([td.VonMises, td.Normal], REAL / 10, replicates=0).ranked) == 2


def test_weights_of_a_design_are_told():
    found = compare([td.Gamma, td.Weibull], POSITIVE, weights=nll.sampling(POSITIVE), replicates=19)
    assert "Its fit is not tested: not for sampling weights" in found.status
    assert found.status.endswith("The weights are no frequencies: the criteria are a rough guide")


# Models of other kinds.


def test_fixed_is_of_one_model():
    found = compare(
        {"gamma": td.Gamma, "chi": td.Gamma, "tail": td.GeneralizedPareto},
        POSITIVE,
        fixed={"chi": {"rate": 0.5}, "tail": {"loc": 0.0}},
        replicates=19,
    )
    assert {at.name: at.df for at in found.table} == {"gamma": 2, "chi": 1, "tail": 2}
    assert float(found.fits["chi"].params["rate"]) == 0.5
    assert row(found, "chi").goodness.note == "no p-values: parameters are given, fixed or bounded"


def test_a_likelihood_next_to_a_family():
    found = compare({"unit": LINE, "free": td.Normal}, REAL / 3)
    assert row(found, "unit").goodness is None
    assert row(found, "unit").log_likelihood == pytest.approx(
        stats.norm(REAL.mean() / 3).logpdf(REAL / 3).sum()
    )
    assert {at.name: at.df for at in found.table} == {"unit": 1, "free": 2}


def test_regressions_next_to_a_family():
    x = torch.from_numpy(REAL)[:, None]
    counts = observe(COUNTS)
    line = fit_linear("poisson", Columns.of(x, None, True), counts, response="k")
    found = compare({"line": line, "alone": fit(td.Poisson, COUNTS)}, replicates=19)
    assert row(found, "line").df == 2
    assert row(found, "line").log_likelihood - row(found, "alone").log_likelihood == pytest.approx(
        line.log_likelihood - line.null_log_likelihood, rel=1e-6
    )
    assert row(found, "line").goodness is None
    assert row(found, "alone").goodness is not None
    normal = fit_linear("normal", Columns.of(x, None, True), counts, response="k")
    with pytest.raises(ValueError, match="counts or of measurements, got line and normal"):
        compare({"line": line, "normal": normal})


def test_fits_are_taken_as_they_are():
    gamma = fit(td.Gamma, POSITIVE)
    found = compare([gamma, fit(td.Weibull, POSITIVE)], replicates=0)
    assert found.fits["Gamma"] is gamma
    assert found.table == compare([td.Gamma, td.Weibull], POSITIVE, replicates=0).table


def test_rows_that_are_missing_are_counted():
    found = compare([td.Gamma, td.Weibull], [math.nan, *POSITIVE], missing="drop", replicates=0)
    assert found.n == 300
    assert str(found).endswith("\nrows with missing values that were left out: 1")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare([], REAL), "at least one model, got none"),
        (
            lambda: compare([td.Normal, td.Normal], REAL),
            "different names, got 'Normal' twice; a dict names them",
        ),
        (
            lambda: compare([td.Normal, td.Poisson], COUNTS),
            "counts or of measurements, got Poisson and Normal",
        ),
        (
            lambda: compare([td.Normal], REAL, criterion="mdl"),
            "criterion to be one of aic, aicc, bic, got 'mdl'",
        ),
        (
            lambda: compare([td.Gamma, td.Beta], REAL),
            "a family that can be fitted, got none: data outside the support",
        ),
        (lambda: compare([td.Normal]), "expected data, as not all models are fits, got None"),
        (
            lambda: compare([td.Normal, td.Gamma], [1.0, math.nan]),
            "no missing values, got 1, the first at row 1",
        ),
        (
            lambda: compare([td.Normal], REAL, weights=-np.ones(300)),
            "finite weights of at least 0, got -1 at row 0",
        ),
        (lambda: compare([td.Normal], REAL, weights=[1]), "expected 300 weights"),
        (
            lambda: compare([td.Normal], REAL, missing="keep"),
            "missing to be 'raise' or 'drop', got 'keep'",
        ),
        (
            lambda: compare([td.Normal], REAL, replicates=-1),
            "replicates as an integer of at least 0, got -1",
        ),
        (
            lambda: compare([td.GeneralizedPareto], POSITIVE),
            r"expected "
            r"fixed=\{'GeneralizedPareto': "
            r"\{'loc': ...\}\}",
        ),
        (
            lambda: compare([td.Normal], REAL, fixed={"Gamma": {}}),
            r"one of the models to fit "
            r"\(Normal\), got 'Gamma'",
        ),
        (
            lambda: compare([td.Normal], REAL, fixed={"Normal": {"rate": 1}}),
            "scale in fixed for Normal, got 'rate'",
        ),
        (
            lambda: compare({"a": NORMAL, "b": fit(td.Normal, REAL[1:])}),
            "got n = 300 for a and 299 for b",
        ),
        (
            lambda: compare({"a": NORMAL, "b": fit(td.Normal, -REAL)}),
            "got other data for a than for b",
        ),
        (
            lambda: compare({"a": NORMAL, "b": fit(td.Normal, CENSORED)}),
            "got other data for a than for b",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: compare(td.Normal, REAL),
            "models as a list, or a dict of name -> model, got type",
        ),
        (lambda: compare("normal", REAL), "models as a list, or a dict of name -> model, got str"),
        (
            lambda: compare([LINE], REAL),
            "classes or fits, or a dict of name -> model, got Likelihood",
        ),
        (
            lambda: compare([dict], REAL),
            "a class of torch.distributions such as Normal, or a Likelihood, got dict",
        ),
        (lambda: compare([td.Normal], ["a", "b"]), "real numbers, got 'a' at row 0"),
    ],
)
def test_what_is_no_model_is_named(call, message):
    with pytest.raises(TypeError, match=message):
        call()


# What is shown.


def test_the_table():
    found = compare([td.Normal, td.Gamma, td.Beta], [1.0, 2.0, 3.0, 5.0, 4.0], replicates=0)
    assert str(found) == (
        "n = 5   df  log-likelihood     AIC    AICc     BIC  delta  weight\n"
        "Normal   2          -8.828  21.655  27.655  20.874  0.000   0.502\n"
        "Gamma    2          -8.834  21.669  27.669  20.887  0.013   0.498\n"
        "Beta\n"
        "Normal has the smallest AIC, but Gamma is within 2 units of it: the data do not decide "
        "between them.\n"
        "Beta: not possible: data outside the support of Beta: expected a number between 0 and 1, "
        "got 1 at row 0"
    )


def test_p_values_are_in_the_table():
    found = compare([td.Normal, td.Uniform], REAL, replicates=19)
    head, first, second, *_ = str(found).splitlines()
    assert head.split()[-6:] == ["KS", "p", "CvM", "p", "AD", "p"]
    shown = [f"{p:.3f}" for p in found.table[0].goodness.p_values.values()]
    assert first.split()[-3:] == shown
    # Uniform has no Anderson-Darling statistic
    assert len(second.split()) == len(first.split()) - 1
    assert "\nUniform: the Anderson-Darling statistic is infinite" in str(found)


def test_plain_values_and_a_frame():
    found = compare([td.Gamma, td.Normal, td.Beta], POSITIVE, replicates=19)
    told = json.loads(json.dumps(found.to_dict()))
    assert (told["best"], told["criterion"], told["n"]) == ("Gamma", "aic", 300)
    assert told["candidates"][0]["goodness"]["replicates"] == 19
    assert told["candidates"][2]["goodness"] is None
    frame = found.to_pandas()
    assert frame.index.tolist() == ["Gamma", "Normal", "Beta"]
    assert frame.loc["Gamma", "AD"] == found.table[0].goodness.statistics["anderson_darling"]
    assert frame.loc["Normal", "KS p"] == found.table[1].goodness.p_values["kolmogorov_smirnov"]
    assert frame.loc["Beta"].drop("status").isna().all()
