"""Columns that are constant, nearly others, or determined by them."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from softmax_cases import same, sample

from nll import SoftmaxRegression


@pytest.mark.parametrize("noise", [1e-3, 1e-6, 1e-8, 1e-9])
def test_columns_that_are_nearly_each_other(noise):
    """x and x + noise * z span what x and z do: the likelihood is the same, and z's coefficient
    noise times that.
    """
    x, y = sample(columns=2)
    z = np.random.default_rng(5).normal(size=len(x))
    near = x[:, 0] + noise * z
    z = (near - x[:, 0]) / noise  # with the digits that are left of it
    plain, found = (
        SoftmaxRegression().fit(np.c_[x, z], y).result_,
        SoftmaxRegression().fit(np.c_[x, near], y).result_,
    )
    assert found.converged
    assert found.decrement <= 1e-10
    digits = max(1e-8, 1e-13 / noise)  # those of the difference, which rounding leaves
    assert found.log_likelihood == pytest.approx(plain.log_likelihood, rel=digits)
    same(found.params["coef"][:, 3] * noise, plain.params["coef"][:, 3], digits)
    for column, unit in ((2, 1.0), (3, noise)):
        same(
            found.standard_errors["coef"][:, column] * unit,
            plain.standard_errors["coef"][:, column],
            digits,
        )


def test_a_column_that_is_another_one_to_rounding_is_refused():
    x, y = sample()
    near = x[:, 0] + 1e-14 * np.random.default_rng(5).normal(size=len(x))
    with pytest.raises(
        ValueError,
        match=r"^expected linearly independent columns, got 'x2' = \+1 "
        r"x0 in every row$",
    ):
        SoftmaxRegression().fit(np.c_[x, near], y)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        pytest.param(
            lambda x: {"a": x[0], "b": x[1], "c": 2 * x[0] - x[1] + 3},
            "expected linearly independent columns, got 'a' = -1.5 +0.5 b +0.5 c in every row",
            id="a combination",
        ),
        pytest.param(
            lambda x: {"a": x[0], "b": x[1], "again": x[1]},
            "expected linearly independent columns, got 'again' = +1 b in every row",
            id="twice",
        ),
        pytest.param(
            lambda x: {"a": x[0], "b": x[1] * 1e9 + 1e12, "c": x[0] / 1e9},
            "expected linearly independent columns, got 'c' = +1e-09 a in every row",
            id="in other units",
        ),
        pytest.param(
            lambda x: {"a": x[0], "one": 1.0 + 0 * x[0], "0": 0 * x[0]},
            "expected columns that vary, got constant column 'one', '0'",
            id="constant",
        ),
    ],
)
def test_what_the_columns_lack_is_named(columns, message):
    x, y = sample()
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        SoftmaxRegression().fit(pd.DataFrame(columns(x.T)), y)


def test_a_constant_column_is_an_intercept_where_there_is_none():
    x, y = sample()
    own = SoftmaxRegression(fit_intercept=False).fit(np.c_[np.ones(len(x)), x], y).result_
    same(own.params["coef"], SoftmaxRegression().fit(x, y).result_.params["coef"])
