"""The same columns from other tables: categories, transforms and interactions as they were
fitted.
"""

import json

import numpy as np
import pandas as pd
import pytest

from nll.regression.formula import design as designs
from nll.regression.formula.terms import Terms

RNG = np.random.default_rng(0)
N = 60
TABLE = pd.DataFrame(
    {
        "y": RNG.integers(0, 2, N),
        "a": RNG.normal(5.0, 2.0, N),
        "b c": RNG.normal(size=N),
        "g": RNG.choice(["u", "v", "w"], N),
        "k": RNG.choice([10, 20, 30], N),
        "t": RNG.random(N) > 0.5,
    }
)

FORMULAS = [
    "y ~ a + `b c`",
    "y ~ 0 + a",
    "y ~ a + g",
    "y ~ a * g",
    "y ~ C(k) + a",
    "y ~ C(k, contr.treatment(20)) + g:a",
    "y ~ C(g, contr.sum) + t",
    "y ~ C(a > 5) + a",
    "y ~ center(a) + scale(`b c`)",
    "y ~ poly(a, 2)",
    "y ~ bs(a, df=4)",
    "y ~ np.log(a + 10) + a:`b c`",
]


def terms_of(formula):
    built = designs.design(TABLE, designs.parse(formula))
    return built, Terms.of(built.spec, formula)


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("rows", [slice(None), slice(3, 4), slice(10, 14)])
def test_some_rows_have_the_columns_that_they_had_among_all(formula, rows):
    built, terms = terms_of(formula)
    again = Terms.from_dict(json.loads(json.dumps(terms.to_dict())))
    assert again == terms
    given = built.x.to_numpy(dtype=np.float64)
    expected = np.c_[np.ones(N), given] if built.intercept else given
    shuffled = TABLE[rows].drop(columns="y")[["t", "k", "g", "b c", "a"]].assign(more="unused")
    np.testing.assert_allclose(again.design(shuffled), expected[rows], rtol=1e-12, atol=1e-14)
    assert again.intercept == built.intercept


@pytest.mark.parametrize(
    ("formula", "change", "message"),
    [
        (
            "y ~ a + g",
            {"g": "z"},
            "a category of 'g' that the fit has seen (u, v, w), got 'z' at row 0",
        ),
        (
            "y ~ a + C(k)",
            {"k": 11},
            "a category of 'k' that the fit has seen (10, 20, 30), got 11 at row 0",
        ),
        ("y ~ a + g", {"a": "much"}, "expected numbers in column 'a', got 'much' at row 0"),
        (
            "y ~ np.log(a)",
            {"a": -1.0},
            "expected finite values in column 'np.log(a)', got nan at row 0",
        ),
        ("y ~ C(np.round(a / 4)) + a", {"a": 99.0}, "outside of the nominated levels"),
    ],
)
def test_rows_that_the_fit_cannot_know(formula, change, message):
    _, terms = terms_of(formula)
    with pytest.raises(ValueError) as error:  # noqa: PT011  (the message has brackets, and is looked at below)
        terms.design(TABLE.assign(**change))
    assert message in str(error.value)
