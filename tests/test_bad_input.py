"""The tour of bad input to the estimators: each call, the exception and its exact message."""

from __future__ import annotations

import datetime
import math

import numpy as np
import pandas as pd
import pytest
import torch
from bad_input import case, raises
from torch import distributions as td

from nll import fit

CLASS = "expected a class of torch.distributions such as Normal, or a Likelihood, got "
OUTSIDE = "data outside the support of "
NUMBERS = "expected data of real numbers, got "
COUNT = "expected a non-negative integer, got "
MISSING = "expected no missing values, got 1, the first at row {}; missing='drop' leaves them out"
TRIALS = "expected total_count to be a positive integer, got "


@pytest.mark.parametrize(
    ("arguments", "options", "expected", "message"),
    [
        # The model.
        case(TypeError, CLASS + "str", "Normal", [1.0]),
        case(TypeError, CLASS + "an instance of Normal", td.Normal(0.0, 1.0), [1.0]),
        case(TypeError, CLASS + "NoneType", None, [1.0]),
        case(TypeError, CLASS + "int", int, [1.0]),
        case(
            ValueError,
            "expected a family with plain numbers as parameters, got LowRankMultivariateNormal; "
            "write a Likelihood",
            td.LowRankMultivariateNormal,
            [1.0],
        ),
        case(
            ValueError,
            "expected a family whose class declares its parameters (arg_constraints), got "
            "Independent",
            td.Independent,
            [1.0],
        ),
        case(
            ValueError,
            "expected a family that its parameters alone make, got RelaxedBernoulli; write a "
            "Likelihood",
            td.RelaxedBernoulli,
            [0.5],
        ),
        # The data.
        case(TypeError, NUMBERS + "'x' at row 1", td.Normal, [1.0, "x"]),
        case(TypeError, NUMBERS + "'one' at row 0", td.Normal, "one"),
        case(TypeError, NUMBERS + "complex64", td.Normal, torch.tensor([1j])),
        case(TypeError, NUMBERS + "complex128", td.Normal, np.array([1j])),
        case(
            TypeError,
            NUMBERS + "datetime.date(2020, 1, 1) at row 0",
            td.Normal,
            [datetime.date(2020, 1, 1)],
        ),
        case(
            TypeError, NUMBERS + "datetime64[D]", td.Normal, np.array(["2020-01-01"], dtype="M8[D]")
        ),
        case(TypeError, NUMBERS + "{'a': 1} at row 0", td.Normal, {"a": 1}),
        case(
            ValueError,
            "expected data of shape (n) for Normal, got (2, 2)",
            td.Normal,
            [[1.0, 2.0], [3.0, 4.0]],
        ),
        case(
            ValueError,
            "expected data of shape (n) for Normal, got (2, 1)",
            td.Normal,
            pd.DataFrame({"a": [1, 2]}),
        ),
        case(
            ValueError,
            "expected data of shape (n, K) for Multinomial, got (2,)",
            td.Multinomial,
            [1, 2],
        ),
        case(
            ValueError, "expected data of shape (n) or (n, k), got (1, 1, 1)", td.Normal, [[[1.0]]]
        ),
        case(
            ValueError,
            "expected data of shape (n) or (n, k), got rows of different lengths",
            td.Normal,
            [[1], [2, 3]],
        ),
        case(ValueError, "expected at least one observation, got none", td.Normal, []),
        case(
            ValueError,
            "expected at least one observation, got none",
            td.Poisson,
            [math.nan],
            missing="drop",
        ),
        case(
            ValueError,
            "expected at least one trial for Multinomial, got none",
            td.Multinomial,
            [[0, 0]],
        ),
        case(
            ValueError,
            "expected numbers within float64, got an integer beyond 1e308 at row 1",
            td.Normal,
            [1, 10**400],
        ),
        case(
            ValueError,
            "expected at most 1000000 categories, got the number 1000000000000 at row 1; text "
            "labels may be any",
            td.Categorical,
            [0, 10**12],
        ),
        # The support.
        case(
            ValueError, OUTSIDE + "Bernoulli: expected 0 or 1, got 2 at row 1", td.Bernoulli, [1, 2]
        ),
        case(
            ValueError,
            OUTSIDE + "Bernoulli: expected 0 or 1, got 0.5 at row 0",
            td.Bernoulli,
            [0.5, 7],
        ),
        case(ValueError, OUTSIDE + "Geometric: " + COUNT + "-1 at row 2", td.Geometric, [0, 1, -1]),
        case(ValueError, OUTSIDE + "Poisson: " + COUNT + "0.1 at row 0", td.Poisson, [0.1]),
        case(ValueError, OUTSIDE + "Poisson: " + COUNT + "inf at row 0", td.Poisson, [math.inf]),
        case(
            ValueError, OUTSIDE + "Categorical: " + COUNT + "1.5 at row 1", td.Categorical, [1, 1.5]
        ),
        case(
            ValueError,
            OUTSIDE + "Normal: expected a finite number, got -inf at row 1",
            td.Normal,
            [1.0, -math.inf],
        ),
        case(
            ValueError,
            OUTSIDE + "LogNormal: expected a positive number, got 0 at row 0",
            td.LogNormal,
            [0.0, 1.0],
        ),
        case(
            ValueError,
            OUTSIDE + "Exponential: expected a non-negative number, got -2 at row 0",
            td.Exponential,
            [-2],
        ),
        case(
            ValueError,
            OUTSIDE + "Multinomial: expected non-negative integers, got [3, -1] at row 1",
            td.Multinomial,
            [[1, 2], [3, -1]],
        ),
        case(
            ValueError,
            OUTSIDE + "Binomial: expected an integer from 0 to total_count, got 4 at row 1",
            td.Binomial,
            [1, 4],
            fixed={"total_count": 3},
        ),
        # Rows are those of the data as given, whatever was left out before them.
        case(
            ValueError,
            OUTSIDE + "Poisson: " + COUNT + "-1 at row 3",
            td.Poisson,
            [None, 1, 2, -1],
            missing="drop",
            weights=[1, 0, 1, 1],
        ),
        # Missing values.
        case(ValueError, MISSING.format(1), td.Normal, [1.0, None]),
        case(ValueError, MISSING.format(0), td.Multinomial, [[1, math.nan], [1, 2]]),
        case(ValueError, MISSING.format(1), td.Categorical, ["a", None]),
        case(
            ValueError,
            "expected missing to be 'raise' or 'drop', got 'skip'",
            td.Normal,
            [1.0],
            missing="skip",
        ),
        # The weights.
        case(
            ValueError,
            "expected finite weights of at least 0, got -1 at row 1",
            td.Normal,
            [1.0, 2.0],
            weights=[1, -1],
        ),
        case(
            ValueError,
            "expected finite weights of at least 0, got nan at row 0",
            td.Normal,
            [1.0, 2.0],
            weights=[math.nan, 1],
        ),
        case(
            ValueError,
            "expected weights with a positive sum, got all zero",
            td.Normal,
            [1.0],
            weights=[0],
        ),
        case(
            ValueError,
            "expected 2 weights, one for each row, got shape (1,)",
            td.Normal,
            [1.0, 2.0],
            weights=[1],
        ),
        case(
            ValueError,
            "expected 1 weights, one for each row, got shape (1, 1)",
            td.Normal,
            [1.0],
            weights=[[1]],
        ),
        case(
            TypeError,
            "expected weights of real numbers, got 'x' at row 0",
            td.Normal,
            [1.0],
            weights=["x"],
        ),
        # What is fixed.
        case(
            ValueError,
            "expected fixed={'total_count': ...} for Binomial, got no total_count",
            td.Binomial,
            [1],
        ),
        case(
            ValueError,
            "expected one of loc, scale in fixed, got 'mean'",
            td.Normal,
            [1.0],
            fixed={"mean": 0.0},
        ),
        case(
            ValueError,
            "expected one of probs in fixed, got 'n'",
            td.Binomial,
            [1],
            fixed={"total_count": 3, "n": 3},
        ),
        case(ValueError, TRIALS + "0", td.Binomial, [0], fixed={"total_count": 0}),
        case(ValueError, TRIALS + "2.5", td.Binomial, [0], fixed={"total_count": 2.5}),
        case(TypeError, TRIALS + "'three'", td.Binomial, [0], fixed={"total_count": "three"}),
        case(TypeError, TRIALS + "None", td.Binomial, [0], fixed={"total_count": None}),
        case(
            TypeError,
            "expected fixed as a dict of name -> value, got list",
            td.Binomial,
            [0],
            fixed=[3],
        ),
        case(
            ValueError,
            "expected one total_count, or one for each row, got shape (1,)",
            td.Binomial,
            [1, 2],
            fixed={"total_count": [3]},
        ),
        case(
            ValueError,
            "expected one total_count, or one for each row, got shape (3,)",
            td.Binomial,
            [1, 2],
            fixed={"total_count": [3, 4, 5]},
        ),
        case(
            ValueError,
            "expected one total_count, or one for each row, got shape (2,)",
            td.Binomial,
            [1, 2, None],
            fixed={"total_count": [3, 4]},
            missing="drop",
        ),
    ],
)
def test_fit(arguments, options, expected, message):
    raises(fit, arguments, options, expected, message)


@pytest.mark.parametrize(
    ("arguments", "options", "expected", "message"),
    [
        case(ValueError, "expected level in (0, 1), got 0", 0),
        case(ValueError, "expected level in (0, 1), got 1.0", 1.0),
        case(ValueError, "expected level in (0, 1), got 95", 95),
        case(ValueError, "expected level in (0, 1), got nan", math.nan),
        case(TypeError, "expected level to be a number, got str", "95%"),
        case(
            ValueError,
            "expected method 'wald' or 'profile' or 'bootstrap' for Normal, got 'exact'",
            method="exact",
        ),
        case(
            ValueError,
            "expected method 'wald' or 'profile' or 'bootstrap' for Normal, got 'bayes'",
            method="bayes",
        ),
    ],
)
def test_interval(arguments, options, expected, message):
    raises(fit(td.Normal, [1.0, 2.0]).interval, arguments, options, expected, message)


def test_interval_of_uniform():
    with pytest.raises(
        ValueError,
        match=r"^expected method 'exact' or 'bootstrap' for Uniform, "
        r"got 'wald'$",
    ):
        fit(td.Uniform, [1.0, 2.0]).interval(method="wald")
