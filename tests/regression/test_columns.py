"""Tables and arrays as columns: every container, and what is wrong with one named exactly."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from nll import SoftmaxRegression

N = 90
DRAW = np.random.default_rng(0)
X, Y = DRAW.normal(size=(N, 2)), DRAW.integers(0, 3, N)
W = DRAW.uniform(0.5, 4.0, N)
WIDE = DRAW.normal(size=(N, 3, 2))
TABLE = pd.DataFrame(X, columns=["a", "b"])
BIG = 2**60
COEF = SoftmaxRegression().fit(X, Y).result_.vector


def backwards(array):
    return np.ascontiguousarray(array[::-1])[::-1]


# Columns.


@pytest.mark.parametrize(
    "given",
    [
        backwards(X),
        np.flip(np.ascontiguousarray(np.flip(X, 1)), 1),
        np.asfortranarray(X),
        X.astype(">f8"),
        np.ma.array(X),
        torch.from_numpy(np.repeat(X, 2, 0))[::2],
        torch._neg_view(torch.from_numpy(-X)),
        TABLE.iloc[::-1].iloc[::-1],
        TABLE.astype("Float64"),
        TABLE.astype("double[pyarrow]"),
        pl.DataFrame(TABLE),
        pa.table(TABLE),
    ],
)
def test_columns_of_any_container(given):
    model = SoftmaxRegression().fit(given, Y)
    torch.testing.assert_close(model.result_.vector, COEF, rtol=1e-9, atol=1e-12)
    for method in (model.predict_proba, model.predictions, model.margins, model.result_.predict):
        method(given)
    assert float(model.influence(given, backwards(Y)).leverage.sum()) == pytest.approx(6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            TABLE["a"],
            r"expected X as a table, got a Series; X\[\['a'\]\] or X.to_frame\(\) has its "
            r"column",
        ),
        (pl.Series("a", X[:, 0]), "expected X as a table, got a Series"),
        (X[:, 0], r"expected X of two dimensions \(rows, columns\), got shape \(90,\)"),
        (None, "expected X of two dimensions .*, got NoneType"),
        (np.ma.masked_greater(X, 1.5), "expected finite values in X, got NaN at row "),
        (
            TABLE.astype("Float64").mask(TABLE > 1.5),
            "expected finite values in X, got NaN at row .* of column 'a'",
        ),
        (
            pa.table({"a": pa.array([None, *X[1:, 0]])}),
            "expected finite values in X, got NaN at row 0 of column 'a'",
        ),
        (X.astype("m8[s]"), r"expected numbers in X, got timedelta64\[s\]"),
        (
            TABLE.assign(b=pd.date_range("2020", periods=N)),
            r"expected numbers in column 'b', got "
            r"datetime64",
        ),
        (
            TABLE.assign(b=pd.period_range("2020", periods=N, freq="D")),
            "expected numbers in X, got Period",
        ),
        (
            pl.DataFrame({"a": [datetime.date(2020, 1, 1)] * N}),
            "expected numbers in column 'a', got datetime64",
        ),
        (
            np.c_[Y, BIG + Y],
            "expected numbers that float64 holds exactly in X, got the integer .* of column 1",
        ),
        (
            TABLE.assign(b=pd.array(BIG + Y, dtype="Int64")),
            "holds exactly in X, got the integer .* of column 'b'",
        ),
        (TABLE.set_axis(["a", "a"], axis=1), "expected columns of different names, got 'a' twice"),
    ],
)
def test_columns_that_are_no_numbers(given, message):
    with pytest.raises(ValueError, match=f"^.*{message}"):
        SoftmaxRegression().fit(given, Y)
    with pytest.raises(ValueError, match="expected"):
        SoftmaxRegression().fit(X, Y).predict_proba(given)
