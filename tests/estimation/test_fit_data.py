"""What data a fit takes: containers, types, missing values, texts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import distributions as td

from nll import fit

close = partial(pytest.approx, abs=0.0, nan_ok=True)


VALUES = [2, 0, 3, 1, 3]


def containers() -> list:
    kinds: list[tuple[str, Callable[[], Any]]] = [
        ("tuple", lambda: tuple(VALUES)),
        ("floats", lambda: [float(v) for v in VALUES]),
        ("objects", lambda: np.array(VALUES, dtype=object)),
        ("every other", lambda: np.repeat(VALUES, 2)[::2]),
        ("requires grad", lambda: torch.tensor(VALUES, dtype=torch.float64, requires_grad=True)),
        ("Int64 column", lambda: pd.Series(VALUES, dtype="Int64")),
        ("category column", lambda: pd.Series(VALUES, dtype="category")),
        ("column with an index", lambda: pd.Series(VALUES, index=list("edcba"))),
    ]
    for dtype in (
        "uint8",
        "int8",
        "int16",
        "int32",
        "int64",
        "float16",
        "bfloat16",
        "float32",
        "float64",
    ):
        kinds.append(
            (
                f"torch {dtype}",
                lambda dtype=dtype: torch.tensor(VALUES, dtype=getattr(torch, dtype)),
            )
        )
    for dtype in ("uint8", "int8", "uint64", "int64", "float16", "float32", "longdouble", ">f8"):
        kinds.append((f"numpy {dtype}", lambda dtype=dtype: np.array(VALUES, dtype=dtype)))
    return [pytest.param(make, id=name) for name, make in kinds]


@pytest.mark.parametrize("make", containers())
def test_any_container_of_the_same_numbers(make):
    expected, result = fit(td.Poisson, VALUES), fit(td.Poisson, make())
    assert result.to_dict() == expected.to_dict()
    assert result.params["rate"].dtype == torch.float64
    assert not result.params["rate"].requires_grad


@pytest.mark.parametrize(
    "make",
    [list, np.array, torch.tensor, pd.Series, lambda x: pd.Series(x, dtype="boolean")],
    ids=["list", "array", "tensor", "series", "series of boolean"],
)
def test_truth_values_are_0_and_1(make):
    assert float(fit(td.Bernoulli, make([True, False, True, True])).params["probs"]) == 0.75


def test_polars():
    pl = pytest.importorskip("polars")
    assert fit(td.Poisson, pl.Series(VALUES)).to_dict() == fit(td.Poisson, VALUES).to_dict()
    assert fit(td.Poisson, pl.Series([*VALUES, None]), missing="drop").dropped == 1
    assert fit(td.Categorical, pl.Series(["b", "a", "b"])).labels == {"probs": (("a", "b"),)}
    table = pl.DataFrame({"white": [2, 0], "black": [1, 3]})
    assert fit(td.Multinomial, table).params["probs"].tolist() == close([1 / 3, 2 / 3], rel=1e-15)


def test_float32_data_are_taken_as_they_are():
    data = torch.tensor([0.1, 0.2, 0.4])
    assert fit(td.Normal, data).to_dict() == fit(td.Normal, data.double()).to_dict()


MISSING = {
    "list": [2, None, 0, math.nan],
    "numpy": np.array([2, np.nan, 0, np.nan]),
    "torch": torch.tensor([2, math.nan, 0, math.nan]),
    "column": pd.Series([2, None, 0, None]),
    "Int64 column": pd.Series([2, None, 0, None], dtype="Int64"),
    "boolean column": pd.Series([True, None, False, None], dtype="boolean"),
    "list with pandas.NA": [2, pd.NA, 0, pd.NA],
    "masked": np.ma.masked_array([2.0, 7.0, 0.0, 7.0], mask=[False, True, False, True]),
}


@pytest.mark.parametrize("kind", MISSING)
def test_missing_values_raise_or_are_dropped_and_counted(kind):
    data = MISSING[kind]
    with pytest.raises(
        ValueError,
        match=r"^expected no missing values, got 2, the first at row 1; "
        r"missing='drop'",
    ):
        fit(td.Geometric, data)
    result = fit(td.Geometric, data, missing="drop", weights=[3, 100, 1, 100])
    assert (result.n, result.dropped) == (4, 2)
    assert float(result.params["probs"]) == close(
        1 / (1 + (0.25 * 3 if "bool" in kind else 1.5)), rel=1e-15
    )


def test_missing_values_keep_rows_and_counts_together():
    """Both the weights and the number of trials are those of the rows that stay."""
    dropped = fit(
        td.Binomial,
        [1, None, 2],
        weights=[2, 9, 1],
        fixed={"total_count": [5, 99, 3]},
        missing="drop",
    ).to_dict()
    whole = fit(td.Binomial, [1, 2], weights=[2, 1], fixed={"total_count": [5, 3]}).to_dict()
    assert dropped | {"dropped": 0} == whole


def test_texts_are_categories_in_sorted_order():
    result = fit(td.Categorical, ["pear", "apple", "pear", None, "fig"], missing="drop")
    assert result.labels == {"probs": (("apple", "fig", "pear"),)}
    assert result.names == ["probs[apple]", "probs[fig]", "probs[pear]"]
    assert result.params["probs"].tolist() == [0.25, 0.25, 0.5]
    assert result.df == 2


def test_texts_and_numbers_may_be_mixed():
    result = fit(td.Categorical, ["b", 10, 9, 10.5, "b"])
    assert result.names == ["probs[10]", "probs[10.5]", "probs[9]", "probs[b]"]
    assert result.params["probs"].tolist() == [0.2, 0.2, 0.2, 0.4]


@pytest.mark.parametrize(
    "data", [np.datetime64("2020-01-01") + np.arange(3), np.arange(3).astype("m8[s]")]
)
def test_dates_are_not_numbers(data):
    with pytest.raises(TypeError, match=r"^expected data of real numbers, got "):
        fit(td.Normal, data)
    with pytest.raises(TypeError, match=r"^expected data of real numbers, got "):
        fit(td.Normal, pd.Series(data))
