"""The tour of bad input to a choice of hypotheses: each call, the exception, its exact message."""

from __future__ import annotations

import math

import pytest
import torch
from bad_input import case, raises
from torch import distributions as td

from nll import most_likely

FAIR = td.Bernoulli(0.5)


@pytest.mark.parametrize(
    ("arguments", "options", "expected", "message"),
    [
        case(
            TypeError,
            "expected hypotheses as a dict of name -> distribution, got Bernoulli",
            FAIR,
            [1],
        ),
        case(
            TypeError,
            "expected hypotheses as a dict of name -> distribution, got list",
            [FAIR],
            [1],
        ),
        case(ValueError, "expected at least one hypothesis, got none", {}, [1]),
        case(
            TypeError,
            "expected a distribution or a function for hypothesis 'p', got float",
            {"fair": FAIR, "p": 0.5},
            [1],
        ),
        case(
            TypeError,
            "expected a distribution or a function for hypothesis 'p', got the class Bernoulli; "
            "give its parameters",
            {"p": td.Bernoulli},
            [1],
        ),
        case(
            ValueError,
            "expected one distribution for hypothesis 'p', got a batch of (2,)",
            {"p": td.Bernoulli(torch.tensor([0.1, 0.9]))},
            [1, 0],
        ),
        case(
            ValueError,
            "expected one distribution for hypothesis 'p', got a batch of (1,)",
            {"p": td.Bernoulli(torch.tensor([0.1]))},
            [1],
        ),
        case(
            ValueError,
            "expected rows of shape () for hypothesis 'p', got (2,)",
            {"p": FAIR},
            [[1, 0]],
        ),
        case(
            ValueError,
            "expected rows of shape (2,) for hypothesis 'p', got ()",
            {"p": td.MultivariateNormal(torch.zeros(2), torch.eye(2))},
            [1, 0],
        ),
        case(ValueError, "expected at least one observation, got none", {"p": FAIR}, []),
        case(
            ValueError,
            "expected no missing values, got 1, the first at row 0",
            {"p": FAIR},
            [math.nan],
        ),
        case(
            TypeError,
            "expected data of real numbers, got 'white' at row 0",
            {"p": FAIR},
            ["white"],
        ),
        case(
            ValueError,
            "expected log-probabilities below +inf under hypothesis 'f', got nan at row 1",
            {"f": lambda x: torch.tensor([-1.0, math.nan])},
            [1, 0],
        ),
        case(
            ValueError,
            "expected log-probabilities below +inf under hypothesis 'f', got inf",
            {"f": lambda x: math.inf},
            [1, 0],
        ),
        case(
            ValueError,
            "expected 2 log-probabilities under hypothesis 'f', got shape (3,)",
            {"f": lambda x: [-1.0, -1.0, -1.0]},
            [1, 0],
        ),
        case(
            TypeError,
            "expected log-probabilities under hypothesis 'f', got NoneType",
            {"f": lambda x: None},
            [1, 0],
        ),
    ],
)
def test_most_likely(arguments, options, expected, message):
    raises(most_likely, arguments, options, expected, message)
