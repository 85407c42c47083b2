"""Columns as people have them: nothing missing is filled in, no two values are merged, times are no
numbers.
"""

from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from torch import distributions as td

import nll
from nll.data.arrays import absent, array_of, categories_of

DATA = [1.0, 2.0, 4.0]
BIG = 2**60
DATES = [datetime.date(2020, 1, day) for day in (1, 2, 3)]


@pytest.mark.parametrize(
    "data",
    [
        np.array([4.0, 2.0, 1.0])[::-1],
        np.broadcast_to(np.array(DATA)[:, None], (3, 2))[:, 1],
        np.array(DATA, dtype=">f8"),
        np.ma.array(DATA),
        torch.tensor(DATA).flip(0).flip(0),
        torch.tensor(DATA, dtype=torch.bfloat16),
        torch._neg_view(-torch.tensor(DATA, dtype=torch.float64)),
        torch.tensor(DATA, requires_grad=True),
        torch.tensor([1, 2, 4]),
        pd.Series([1, 2, 4], dtype="Int64"),
        pd.Series(DATA, dtype="double[pyarrow]"),
        pd.Series([1, 2, 4], dtype="category"),
        pd.Series(DATA, dtype="Sparse[float]"),
        pl.Series(DATA),
        pa.chunked_array([[1, 2], [4]]),
        [Decimal(1), Decimal(2), Decimal(4)],
    ],
)
def test_numbers_of_any_container(data):
    assert nll.fit(td.Exponential, data).params["rate"] == pytest.approx(3 / 7)


@pytest.mark.parametrize(
    "data",
    [
        np.ma.array([1.0, 9.0, 2.0, 4.0], mask=[0, 1, 0, 0]),
        pd.Series([1, None, 2, 4], dtype="Int64"),
        pd.Series([1, None, 2, 4], dtype="int64[pyarrow]"),
        np.array([1.0, pd.NA, 2.0, 4.0], dtype=object),
        pl.Series([1, None, 2, 4]),
        pa.array([1, None, 2, 4]),
    ],
)
def test_what_is_missing_stays_missing(data):
    with pytest.raises(ValueError, match="expected no missing values, got 1, the first at row 1"):
        nll.fit(td.Exponential, data)
    assert nll.fit(td.Exponential, data, missing="drop").n == 3
    assert absent(array_of(data)).tolist() == [False, True, False, False]
    for what in ("weights", "clusters", "groups"):
        with pytest.raises(ValueError, match=r"at row 1"):
            nll.fit(td.Exponential, [1.0, 2.0, 3.0, 4.0], **{what: data})


@pytest.mark.parametrize(
    "data",
    [
        [BIG, BIG + 1],
        np.array([2**63, 2**63 + 1], dtype=np.uint64),
        torch.tensor([BIG, BIG + 1]),
        pd.Series([BIG, BIG + 1], dtype="Int64"),
        pa.array([BIG, BIG + 1, None]),
        pl.Series([BIG, BIG + 1, None]),
    ],
)
def test_integers_that_float64_would_round_are_refused(data):
    with pytest.raises(
        ValueError,
        match=r"^expected data that float64 holds exactly, got the "
        r"integer \d+ at row 1",
    ):
        nll.fit(td.Normal, data)
    with pytest.raises(ValueError, match="expected"):
        nll.fit(td.Normal, data, missing="drop")


def test_integers_that_float64_holds_are_data_and_all_are_labels():
    assert float(nll.fit(td.Normal, [BIG, BIG + 2048]).params["loc"]) == BIG + 1024
    assert nll.fit(td.Exponential, DATA, groups=[BIG, BIG + 1, BIG]).groups == [BIG, BIG + 1]


@pytest.mark.parametrize(
    "data",
    [
        np.array(DATES, dtype="M8[D]"),
        np.array([1, 2, 3], dtype="m8[s]"),
        pd.Series(pd.date_range("2020", periods=3, tz="UTC")),
        pd.Series(pd.period_range("2020", periods=3, freq="M")),
        pd.Series(pd.date_range("2020", periods=3)).astype("timestamp[ns][pyarrow]"),
        np.array([np.timedelta64(1, "D")], dtype=object),
        pl.Series(DATES),
        pa.array(DATES),
        DATES,
    ],
)
def test_times_are_no_numbers_but_categories(data):
    with pytest.raises(TypeError, match=r"^expected data of real numbers, got "):
        nll.fit(td.Normal, data)
    assert nll.fit(td.Categorical, data).n == len(data)


@pytest.mark.parametrize(
    "data",
    [
        pd.Categorical(["low", "high", "mid"], categories=["low", "mid", "high"]),
        pd.Series(["low", "high", "mid"]).astype(pd.CategoricalDtype(["low", "mid", "high"])),
        pl.Series(["low", "high", "mid"], dtype=pl.Enum(["low", "mid", "high"])),
        pa.DictionaryArray.from_arrays([0, 2, 1], ["low", "mid", "high"], ordered=True),
    ],
)
def test_the_order_of_categories_counts(data):
    assert categories_of(data) == ["low", "mid", "high"]
    assert nll.fit(td.Categorical, data).names == ["probs[low]", "probs[mid]", "probs[high]"]


def test_a_category_without_rows_is_left_out_with_a_word():
    with pytest.warns(UserWarning, match="got none of c: left out"):
        found = nll.fit(td.Categorical, pd.Categorical(["b", "a"], categories=["c", "b", "a"]))
    assert found.names == ["probs[b]", "probs[a]"]


def test_a_sparse_matrix_is_refused_in_words():
    from scipy.sparse import csr_array

    with pytest.raises(
        TypeError,
        match=r"^expected data as a dense array, got a sparse matrix; "
        r"its toarray",
    ):
        nll.fit(td.Normal, csr_array([[1.0]]))


def test_a_regression_does_not_write_into_read_only_columns():
    rng = np.random.default_rng(0)
    x, offset = rng.normal(size=(80, 2)), rng.normal(size=(80, 3))
    y = rng.integers(3, size=80)
    before = [array.copy() for array in (x, offset, y)]
    right = nll.SoftmaxRegression().fit(x.copy(), y.copy(), offset=offset.copy())
    views = [array.view() for array in (x, offset, y)]
    for view in views:
        view.flags.writeable = False
    found = nll.SoftmaxRegression().fit(views[0], views[2], offset=views[1])
    assert np.array_equal(found.coef_, right.coef_)
    for array, old in zip((x, offset, y), before, strict=True):
        assert np.array_equal(array, old)
