"""From a table and a formula to numbers."""

from __future__ import annotations

import datetime
import re
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch

from nll.regression.formula.design import Design, design, parse, variables


def table() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "y": [0.0, 1.0, 1.0, 0.0, 1.0, 0.0],
            "a": [1.0, 2.0, 3.0, 5.0, 8.0, 13.0],
            "b": [2, 0, 1, 3, 0, 1],
            "pos": [0.5, 1.5, 2.5, 1.0, 2.0, 4.0],
            "g": ["u", "v", "w", "u", "v", "w"],
            "flag": [True, False, True, True, False, False],
            "two words": [1.0, 0.0, 2.0, 0.0, 1.0, 0.0],
            "größe": [1.0, 0.0, 0.0, 3.0, 1.0, 0.0],
            "a-b": [4.0, 0.0, 0.0, 3.0, 1.0, 0.0],
            "texts": ["1", "2", "x", "3", "1", "2"],
            "day": [datetime.date(2020, 1, day) for day in range(1, 7)],
            "when": pd.date_range("2020-01-01", periods=6),
            "price": [Decimal(n) / 8 for n in (1, 5, 2, 8, 3, 4)],
            "same": ["q"] * 6,
            "gap": [np.nan, 1.0, np.nan, 2.0, 0.5, 4.0],
            "hole": ["u", None, "w", "u", "v", "w"],
            "answer": [True, None, False, True, False, True],
            "far": [1.0, np.inf, 2.0, 3.0, -np.inf, 0.0],
            "n": [1, 2, 0, 3, 1, 0],
            "Intercept": [3.0, 1.0, 4.0, 1.0, 5.0, 9.0],
        }
    )


def built(formula: str, **options) -> Design:
    return design(table(), parse(formula), **options)


@pytest.mark.parametrize(
    ("formula", "names", "columns"),
    [
        ("y ~ a", ["a"], lambda t: [t.a]),
        ("y ~ a + b:a", ["a", "b:a"], lambda t: [t.a, t.a * t.b]),
        ("y ~ a * b", ["a", "b", "a:b"], lambda t: [t.a, t.b, t.a * t.b]),
        ("y ~ g", ["g[T.v]", "g[T.w]"], lambda t: [t.g == "v", t.g == "w"]),
        (
            "y ~ C(b)",
            ["C(b)[T.1]", "C(b)[T.2]", "C(b)[T.3]"],
            lambda t: [t.b == 1, t.b == 2, t.b == 3],
        ),
        ("y ~ g:a", ["g[u]:a", "g[v]:a", "g[w]:a"], lambda t: [t.a * (t.g == k) for k in "uvw"]),
        ("y ~ flag", ["flag"], lambda t: [t.flag]),
        (
            "y ~ C(texts)",
            ["C(texts)[T.2]", "C(texts)[T.3]", "C(texts)[T.x]"],
            lambda t: [t.texts == k for k in "23x"],
        ),
        (
            "y ~ np.log(pos) + I(a**2)",
            ["np.log(pos)", "I(a ** 2)"],
            lambda t: [np.log(t.pos), t.a**2],
        ),
        ("y ~ `two words`", ["two words"], lambda t: [t["two words"]]),
        ("y ~ größe", ["größe"], lambda t: [t["größe"]]),
        ("y ~ `a-b`", ["a-b"], lambda t: [t["a-b"]]),
        ("y ~ a + a", ["a"], lambda t: [t.a]),
        ("y ~ 1", [], lambda t: []),
        ("y ~", [], lambda t: []),
    ],
)
def test_columns(formula, names, columns):
    found = built(formula)
    assert list(found.x.columns) == names
    assert found.intercept
    for name, expected in zip(names, columns(table()), strict=True):
        np.testing.assert_allclose(found.x[name].astype(float), expected.astype(float), rtol=1e-14)
    assert found.columns().names == ["Intercept", *names]


@pytest.mark.parametrize(
    ("formula", "names"),
    [
        ("y ~ 0 + a", ["a"]),
        ("y ~ a - 1", ["a"]),
        ("y ~ 0 + g", ["g[u]", "g[v]", "g[w]"]),
        ("y ~ a + g - 1", None),
    ],
)
def test_no_intercept(formula, names):
    found = built(formula)
    assert not found.intercept
    assert found.columns().names == (names or ["a", "g[u]", "g[v]", "g[w]"])


def test_columns_come_back_in_their_own_units():
    """Standardised for the search, and returned: one column, or all of them."""
    columns = built("y ~ a + pos").columns()
    expected = np.c_[np.ones(6), table().a, table().pos]
    np.testing.assert_allclose(columns.given(), expected, rtol=1e-14)
    np.testing.assert_allclose(columns.given()[:, 2], table().pos, rtol=1e-14)
    np.testing.assert_allclose(columns.x.mean(0), [1, 0, 0], atol=1e-15)
    np.testing.assert_allclose(columns.x.square().mean(0), [1, 1, 1], rtol=1e-14)
    # b_given = to_data b: the same scores.
    coefficients = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    np.testing.assert_allclose(
        columns.x @ coefficients,
        expected @ (columns.to_data @ coefficients).numpy(),
        rtol=1e-13,
    )


@pytest.mark.parametrize(
    ("formula", "name", "values"),
    [
        ("y ~ a", "y", [0, 1, 1, 0, 1, 0]),
        ("g ~ a", "g", ["u", "v", "w", "u", "v", "w"]),
        ("flag ~ a", "flag", [True, False, True, True, False, False]),
        ("`two words` ~ a", "two words", [1, 0, 2, 0, 1, 0]),
        ("I(b + 1) ~ a", "I(b + 1)", [3, 1, 2, 4, 1, 2]),
        ("np.sqrt(a - 1) ~ b", "np.sqrt(a - 1)", [0, 1, 2**0.5, 2, 7**0.5, 12**0.5]),
    ],
)
def test_responses(formula, name, values):
    found = built(formula)
    assert found.response == name
    assert (
        found.y.tolist() == pytest.approx(values)
        if not isinstance(values[0], str)
        else found.y.tolist() == values
    )


def test_variables():
    assert variables(parse("np.log(y) ~ a*`two words` + C(g, contr.sum)")) == [
        "a",
        "g",
        "two words",
        "y",
    ]


# Weights and missing values.


def test_weights_of_zero_leave_rows_out():
    found = built("y ~ a", weights="n")
    assert found.weights.tolist() == [1, 2, 3, 1]
    assert found.x.a.tolist() == [1, 2, 5, 8]
    assert found.y.tolist() == [0, 1, 0, 1]
    assert found.dropped == 0


def test_missing_values_are_dropped_where_a_column_is_used():
    found = built("y ~ gap + hole", missing="drop")
    assert found.dropped == 3
    assert found.x.gap.tolist() == [2, 0.5, 4]
    assert found.y.tolist() == [0, 1, 0]
    assert built("y ~ a", missing="drop").dropped == 0


def test_truth_values_stay_truth_values_when_the_missing_are_dropped():
    found = built("y ~ answer", missing="drop")
    assert found.x.iloc[:, 0].astype(float).tolist() == [1, 0, 1, 0, 1]


def test_decimals_are_numbers():
    assert built("y ~ price").x.price.astype(float).tolist() == [
        0.125,
        0.625,
        0.25,
        1.0,
        0.375,
        0.5,
    ]


def test_the_table_is_left_alone():
    given = table()
    design(given, parse("y ~ np.log(pos) + g"), weights="n")
    pd.testing.assert_frame_equal(given, table())


# What cannot be.

NAMES = ", ".join(table().columns)
WANTED = "expected a formula like 'y ~ a + b', got "
ONE_RESPONSE = "expected a formula with one response, like 'y ~ a + b', got "


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        # The formula itself.
        ("a + b", ONE_RESPONSE + "'a + b'"),
        ("~ a", ONE_RESPONSE + "'~ a'"),
        ("", ONE_RESPONSE + "''"),
        ("y + b ~ a", ONE_RESPONSE + "'y + b ~ a'"),
        ("y ~ a | b", "expected a formula with one set of columns, like 'y ~ a + b', got 'y ~ a | "
                      "b'"),
        ("y ~ 0", "expected at least one column or an intercept, got 'y ~ 0'"),
        ("y ~ a +", WANTED + "'y ~ a +': Operator `+` has insuffient arguments and/or is "
                             "misplaced."),
        ("y ~ two words", WANTED + "'y ~ two words': Missing operator between `two` and `words`."),
        ("y ~ (a", WANTED + "'y ~ (a': Could not find matching context marker."),
        ('y ~ "a"', WANTED + "'y ~ \"a\"': String literals are not valid in formulae."),
        # The columns that it names.
        ("y ~ aa", "expected a column of the table, got 'aa'; did you mean a?"),
        ("y ~ qqqq", f"expected a column of the table, got 'qqqq'; the table has {NAMES}"),
        ("nope ~ a", f"expected a column of the table, got 'nope'; the table has {NAMES}"),
        ("y ~ Intercept",
         "expected columns with names other than 'Intercept', which is the constant's, got "
         "'Intercept'"),
        # What stands in them.
        ("y ~ texts",
         "expected numbers in column 'texts', got 'x' at row 2; C(texts) takes its values as "
         "categories"),
        ("y ~ day",
         "expected numbers in column 'day', got datetime.date(2020, 1, 1) at row 0; "
         "C(day) takes its values as categories"),
        ("y ~ when",
         "expected numbers in column 'when', got Timestamp('2020-01-01 00:00:00') at row 0; "
         "C(when) takes its values as categories"),
        ("y ~ same", "expected columns that vary, got constant column 'same'"),
        ("y ~ C(same)", "expected columns that vary, got constant column 'same'"),
        ("y ~ far", "expected finite values in column 'far', got inf at row 1"),
        ("far ~ a", "expected finite values in column 'far', got inf at row 1"),
        ("y ~ gap", "expected no missing values, got 2 incomplete rows (gap: 2); missing='drop' "
                    "leaves them out"),
        ("hole ~ gap + a",
         "expected no missing values, got 3 incomplete rows (gap: 2, hole: 1); missing='drop' "
         "leaves them out"),
        ("y ~ hole", "expected no missing values, got 1 incomplete row (hole: 1); missing='drop' "
                     "leaves them out"),
        # What becomes of them.
        ("y ~ np.log(b)", "expected finite values in column 'np.log(b)', got -inf at row 1"),
        ("y ~ np.log(a - 3)", "expected finite values in column 'np.log(a - 3)', got nan at row 0"),
        ("np.log(a - 3) ~ b", "expected finite values in column 'np.log(a - 3)', got nan at row 0"),
        ("np.log(b) ~ a", "expected finite values in column 'np.log(b)', got -inf at row 1"),
        ("C(g) ~ a", "expected a response of one column, got C(g)[u], C(g)[v], C(g)[w]"),
        ("y ~ bs(a, df=1)",
         "expected a table that the formula can take, got Invalid value for `df`. `df` must be "
         "greater than 3 "
         "[`degree` (+ 1 if `include_intercept` is `True`)]."),
    ],
)  # fmt: skip
def test_bad_formulas(formula, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        built(formula)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "nn"}, "expected a column of the table, got 'nn'; did you mean n?"),
        ({"weights": "g"}, "expected numbers in column 'g', got 'u' at row 0"),
        ({"weights": "far"}, "expected finite weights of at least 0, got inf at row 1"),
        (
            {"weights": "gap"},
            "expected no missing values, got 2 incomplete rows (gap: 2); missing='drop' leaves "
            "them out",
        ),
    ],
)
def test_bad_weights(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        built("y ~ a", **options)


def test_rows_are_those_of_the_table_when_some_were_left_out():
    given = table().assign(w=[1.0, 1.0, 1.0, 1.0, -2.0, 1.0], c=[1, 2, 3, np.inf, 5, 6])
    with pytest.raises(
        ValueError,
        match=r"^expected finite weights of at least 0, got -2 at row "
        r"4$",
    ):
        design(given, parse("y ~ gap"), weights="w", missing="drop")
    with pytest.raises(
        ValueError,
        match=r"^expected finite values in column 'c', got inf at row "
        r"3$",
    ):
        design(given, parse("y ~ gap + c"), missing="drop")
    with pytest.raises(
        ValueError,
        match=r"^expected finite values in column 'np.log\(a - 8\)', "
        r"got nan at row 1$",
    ):
        design(given, parse("y ~ np.log(a - 8) + gap"), missing="drop")


def test_no_row_is_complete():
    given = table().assign(gap=np.nan)
    with pytest.raises(ValueError, match=r"^expected at least one complete row, got none$"):
        design(given, parse("y ~ gap"), missing="drop")
