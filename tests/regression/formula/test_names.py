"""Columns of any name."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from nll.regression.formula.design import design, parse
from nll.regression.formula.names import quoted
from nll.regression.formula.terms import Terms

RNG = np.random.default_rng(0)
N = 40
TABLE = pd.DataFrame(
    {
        "y": RNG.integers(0, 2, N),
        "x": RNG.gamma(2.0, 1.0, N),
        "k": RNG.integers(0, 3, N),
        "g": RNG.choice(["a)", "b", "c"], N),
    }
)
NAMES = [
    "a b",
    "y~2",
    "~",
    "[x]",
    "(",
    "it's",
    'say "x"',
    "a,b",
    "a\\b",
    "a\\",
    "a`b",
    "µ",
    "ﬁ",
    "e\u0301",
    "中文",
    "class",
    "None",
    "np",
    "C",
    "I",
    "Sum",
    "a:b",
    "{x}",
    "%",
    "1st",
    "1",
    ".",
    "a.b",
    "self",
    "quoted_61_",
    "I(x)",
    " x",
    "x\ny",
    "__class__",
    "",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "formula",
    [
        "y ~ {} * x",
        "y ~ np.log({0}) + center({0})",
        "y ~ bs({}, df=4) + g",
        "y ~ C({} > 2)",
        "{} ~ x + g",
    ],
)
def test_names_of_any_character(name, formula):
    table = TABLE.copy()
    table[name] = table["plain"] = RNG.gamma(2.0, 1.0, N)
    built = []
    for column in (name, "plain"):
        text = formula.format("`" + column.replace("`", "``") + "`")
        data = design(table, parse(text))
        again = Terms.from_dict(json.loads(json.dumps(Terms.of(data.spec, text).to_dict())))
        np.testing.assert_allclose(again.design(table)[:, 1:], data.x.to_numpy(float), rtol=1e-12)
        built.append((data.x.to_numpy(float), data.y.to_numpy(float)))
        assert data.response == (column if formula.startswith("{") else "y")
    np.testing.assert_array_equal(built[0][0], built[1][0])
    np.testing.assert_array_equal(built[0][1], built[1][1])
    assert list(parse(f"y ~ {quoted(name)}").rhs) == list(
        parse("y ~ `" + name.replace("`", "``") + "`").rhs
    )
