"""Functions of parameters and contrasts, against the delta method by hand and statsmodels."""

from __future__ import annotations

import pytest
import statsmodels.api as sm
import torch
from torch import distributions as td

from nll import fit
from nll.regression.softmax.estimator import SoftmaxRegression

X = torch.tensor([1.0, 2.0, 2.5, 4.0, 7.0, 9.0], dtype=torch.float64)


def test_a_ratio_has_the_error_of_the_delta_method():
    found = fit(td.Normal, X)
    ratio = found.derived(lambda params: params["scale"] / params["loc"])
    loc, scale = (float(found.params[name]) for name in ("loc", "scale"))
    variance = (scale / loc) ** 2 * (scale**2 / 6 / loc**2 + 1 / 12)
    assert float(ratio.value) == pytest.approx(scale / loc)
    assert float(ratio.standard_error) == pytest.approx(variance**0.5)
    low, high = ratio.interval(0.9)
    assert float(high - low) == pytest.approx(2 * 1.6448536269514722 * variance**0.5)
    assert float(ratio.p_value) == pytest.approx(ratio.test(0.0).p_value)
    assert str(ratio) == f"{scale / loc:.8g} ({variance**0.5:.5g})"


def test_contrasts_of_a_regression_are_those_of_statsmodels():
    data = sm.datasets.anes96.load_pandas()
    x = data.exog[["age", "educ"]]
    model = SoftmaxRegression().fit(x, data.endog)
    other = sm.MNLogit(data.endog, sm.add_constant(x)).fit(disp=0, method="newton")
    found = model.result_.derived({"coef[3, age]": 1.0, "coef[6, age]": -1.0})
    weights = torch.zeros(18, dtype=torch.float64).numpy()
    weights[[2 * 3 + 1, 5 * 3 + 1]] = 1, -1
    theirs = other.params.to_numpy().T.reshape(-1) @ weights
    assert float(found.value) == pytest.approx(theirs, rel=1e-6)
    error = (weights @ other.cov_params().to_numpy() @ weights) ** 0.5
    assert float(found.standard_error) == pytest.approx(error, rel=1e-6)


def test_several_numbers_at_once_and_unknown_errors():
    found = fit(td.Normal, X)
    both = found.derived(lambda p: torch.stack([p["loc"], p["scale"] ** 2]))
    assert both.interval().shape == (2, 2)
    torch.testing.assert_close(both.covariance.diagonal(), both.standard_error.square())
    boundary = fit(td.Bernoulli, [1, 1, 1])
    assert bool(boundary.derived({"probs": 1.0}).standard_error.isnan())
    pareto = fit(td.Pareto, X)  # its scale has no error
    assert bool(pareto.derived(lambda p: p["alpha"].log()).standard_error.isfinite())
    assert bool(pareto.derived(lambda p: p["alpha"] * p["scale"]).standard_error.isnan())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda f: f.derived({"speed": 1.0}),
            ValueError,
            "expected one of loc, scale, got 'speed'",
        ),
        (lambda f: f.derived(3), TypeError, "a function of the parameters, or a dict"),
        (
            lambda f: f.derived(lambda p: 3.0),
            TypeError,
            "a tensor computed from the parameters, got float",
        ),
        (lambda f: f.derived({"loc": 1}).interval(0), ValueError, r"level in \(0, 1\), got 0"),
    ],
)
def test_wrong_questions_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call(fit(td.Normal, X))
