"""What a `Fit` says of itself."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from torch import distributions as td

from nll import Fit, SoftmaxRegression, fit
from nll.data.observations import observe
from nll.regression.design_matrix import Columns
from nll.regression.glm.fit import fit_linear


def regression() -> Fit:
    """Three classes on two columns."""
    draw = np.random.default_rng(0)
    x = draw.normal(size=(80, 2))
    return (
        SoftmaxRegression().fit(x, np.digitize(x[:, 0] + draw.normal(size=80), [-0.5, 0.5])).result_
    )


def counts() -> Fit:
    """Counts on a column, with a second parameter."""
    x = torch.arange(12, dtype=torch.float64)[:, None]
    y = observe([0, 4, 1, 0, 9, 2, 2, 14, 3, 0, 7, 25])
    return fit_linear("negative_binomial", Columns.of(x, ["hour"], intercept=True), y)


MAKERS = {
    "normal": lambda: fit(td.Normal, [1.0, 2.5, 4.0]),
    "uniform": lambda: fit(td.Uniform, [1.0, 2.5, 4.0]),
    "categorical": lambda: fit(td.Categorical, ["a", "b", "a"]),
    "boundary": lambda: fit(td.Poisson, [0, 0]),
    "no maximum": lambda: fit(td.Normal, [1.0, 1.0]),
    "softmax": regression,
    "negative binomial": counts,
}
every = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def plain(value) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(plain, value))
    return value is None or type(value) in (bool, int, float, str)


@every
def test_to_dict_is_plain_python(make):
    """JSON takes it as it is, but for NaN and infinities, which only Python's dialect has."""
    found = make().to_dict()
    assert plain(found)
    assert json.dumps(json.loads(json.dumps(found))) == json.dumps(found)


@every
def test_to_dict_agrees_with_the_attributes(make):
    result = make()
    found = result.to_dict()
    for name in (
        "model",
        "n",
        "df",
        "log_likelihood",
        "aic",
        "bic",
        "status",
        "converged",
        "names",
        "decrement",
    ):
        assert repr(found[name]) == repr(getattr(result, name))
    torch.testing.assert_close(
        torch.tensor(found["covariance"]), result.covariance.float(), equal_nan=True
    )
    for name, value in result.params.items():
        assert found["params"][name] == value.tolist()
        assert repr(found["standard_errors"][name]) == repr(result.standard_errors[name].tolist())
        assert repr(found["interval"][name]) == repr(result.interval()[name].tolist())


@every
def test_pickles(make):
    result = make()
    again = pickle.loads(pickle.dumps(result))
    assert repr(again.to_dict()) == repr(result.to_dict())
    assert again.summary() == result.summary()
    if result.converged:
        assert again.log_likelihood_at(again.vector) == pytest.approx(
            result.log_likelihood, rel=1e-12
        )


@every
def test_is_frozen(make):
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().converged = True


@every
def test_names_are_one_for_each_number(make):
    result = make()
    assert (
        len(result.names) == len(set(result.names)) == len(result.vector) == len(result.covariance)
    )


@pytest.mark.parametrize("make", [MAKERS["softmax"], MAKERS["negative binomial"], MAKERS["normal"]])
def test_the_likelihood_along_a_parameter(make):
    """`along` is the likelihood itself, point by point, and is largest at the estimate."""
    result = make()
    steps = torch.linspace(-1, 1, 5, dtype=torch.float64)
    for index, error in enumerate(result.covariance.diagonal().sqrt()):
        unit = torch.zeros_like(result.vector)
        unit[index] = 1
        along = result.log_likelihood_at.along(result.vector, index, steps * error)
        expected = [result.log_likelihood_at(result.vector + step * error * unit) for step in steps]
        assert along.tolist() == pytest.approx(expected, rel=1e-12)
        assert int(along.argmax()) == 2
        assert float(along[2]) == pytest.approx(result.log_likelihood, rel=1e-12)


def test_names():
    assert fit(td.Normal, [1.0, 2.0]).names == ["loc", "scale"]
    assert fit(td.Categorical, [0, 1, 1]).names == ["probs[0]", "probs[1]"]
    assert regression().names == [
        f"coef[{k}, {column}]" for k in ("1", "2") for column in ("Intercept", "x0", "x1")
    ]
    assert counts().names == ["coef[Intercept]", "coef[hour]", "total_count"]


def test_standard_errors_are_the_roots_of_the_diagonal():
    result = regression()
    assert result.standard_errors["coef"].shape == result.params["coef"].shape == (2, 3)
    assert result.standard_errors["coef"].square().reshape(-1).tolist() == pytest.approx(
        result.covariance.diagonal().tolist(), rel=1e-14
    )


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95, 0.999])
def test_intervals(level):
    result = regression()
    interval = result.interval(level)["coef"]
    assert interval.shape == (2, 3, 2)
    z = stats.norm.ppf((1 + level) / 2)
    for sign, end in ((-1, interval[..., 0]), (1, interval[..., 1])):
        expected = result.params["coef"] + sign * z * result.standard_errors["coef"]
        torch.testing.assert_close(end, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(
        interval, result.interval(level, method="wald")["coef"], rtol=0, atol=0
    )


def test_uniform_has_its_own_interval():
    result = fit(td.Uniform, [1.0, 2.5, 4.0])
    for name, value in result.interval(0.9).items():
        assert value.tolist() == result.interval(0.9, method="exact")[name].tolist()


def test_p_values_are_those_of_the_wald_test():
    result = regression()
    z = (result.params["coef"] / result.standard_errors["coef"]).numpy()
    torch.testing.assert_close(
        result.p_values["coef"], torch.from_numpy(2 * stats.norm.sf(abs(z))), rtol=1e-12, atol=0
    )


def test_criteria():
    result = fit(td.Normal, [1.0, 2.5, 4.0])
    assert result.nll == -result.log_likelihood
    assert result.aic == 2 * 2 - 2 * result.log_likelihood
    assert result.bic == 2 * math.log(3) - 2 * result.log_likelihood


def test_str_is_the_summary():
    result = fit(td.Normal, [1.0, 2.5, 4.0])
    assert str(result) == result.summary()
    assert repr(result).startswith("Fit(model='Normal', ")
