"""Choices whose likelihood has no finite maximum."""

import numpy as np
import pytest
from choices import draw
from sklearn.exceptions import ConvergenceWarning

from nll import ConditionalLogit
from nll.solvers.outcome import Status


def test_separated_choices():
    x, y, available = draw(200, q=2, seed=11)
    x[:, :, 1] = 0.0
    x[np.arange(200), y, 1] = 1.0  # the chosen one always has it
    x[:50, :, 1] = 0.0
    with pytest.warns(
        ConvergenceWarning,
        match=r"no finite estimate: .* along \+1 x1; .* rises "
        r"towards",
    ):
        fitted = ConditionalLogit(constants=False).fit(x, y, available=available).result_
    few = (
        ConditionalLogit(constants=False)
        .fit(x[:50, :, :1], y[:50], available=available[:50])
        .result_
    )
    assert not fitted.converged
    assert fitted.verdict is Status.SEPARATED
    assert float(fitted.vector[0]) == pytest.approx(float(few.vector[0]), rel=1e-5)
    assert float(fitted.standard_errors["coef"][0]) == pytest.approx(
        float(few.standard_errors["coef"][0]), rel=1e-5
    )
    assert bool(fitted.standard_errors["coef"][1].isnan())
    assert f"{few.log_likelihood:.8g}" in fitted.status


def test_an_alternative_that_nobody_chose_has_no_constant():
    x, y, available = draw(200, seed=12)
    kept = y != 3
    with pytest.warns(ConvergenceWarning, match="constant, 3"):
        fitted = ConditionalLogit().fit(x[kept], y[kept], available=available[kept])
    assert np.isnan(fitted.constants_log_likelihood_)
