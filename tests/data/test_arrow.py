"""Columns of Arrow, and files that are read whole."""

from __future__ import annotations

import gzip
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from nll.data.arrow import classes_of, numbers_of, read_whole, rounds
from nll.data.csv_dialect import Dialect

BIG = 2**60 + 1


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, None, 3]), [1.0, np.nan, 3.0]),
        (pa.array([1.5, None]), [1.5, np.nan]),
        (pa.array([True, False]), [1.0, 0.0]),
        (pa.array([Decimal("1.5"), None]), [1.5, np.nan]),
        (pa.array([None, None]), [np.nan, np.nan]),
        (pa.array([2.0, 1.0]).dictionary_encode(), [2.0, 1.0]),
        (pa.array(np.array([1.5], dtype=np.float16)), [1.5]),
    ],
)
def test_numbers(column, expected):
    np.testing.assert_array_equal(numbers_of(column, "x", 0), expected)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([None, "a"]), "expected numbers in column 'x', got 'a' at row 101"),
        (pa.array([None], pa.string()), "expected numbers in column 'x', got a column of string"),
        (
            pa.array([1, None, BIG]),
            "expected numbers in column 'x' that float64 holds exactly, got the integer "
            f"{BIG} at row 102",
        ),
    ],
)
def test_columns_that_are_no_numbers(column, message):
    with pytest.raises(ValueError, match=message):
        numbers_of(column, "x", 100)


def test_float_columns_are_not_copied():
    column = pa.array(np.arange(3.0))
    assert not numbers_of(column, "x", 0).flags.owndata
    assert not rounds(pa.array([2**53]))
    assert rounds(pa.array([-(2**53) - 1]))


def test_levels_without_rows_are_left_out():
    column = pa.DictionaryArray.from_arrays(pa.array([2, None, 0]), ["u", "v", "w"])
    (values, codes), present = classes_of(column, "k")
    assert values == ["u", "w"]
    assert codes[present].tolist() == [1, 0]


TABLE = pd.DataFrame({"a": [1, 2], "b": ["u", "v"]})


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "t.parquet"])
def test_files_and_their_bytes(name, tmp_path):
    path = tmp_path / name
    if name.endswith("parquet"):
        TABLE.to_parquet(path)
    else:
        TABLE.to_csv(path, index=False, sep="\t" if "tsv" in name else ",")
    assert read_whole(path, name).to_pandas().equals(TABLE)
    assert read_whole(path.read_bytes(), "standard input").to_pandas().equals(TABLE)


def test_types_are_guessed_from_all_rows(tmp_path):
    text = "\n".join(["x", *["1"] * 600_000, "word"])
    assert read_whole(gzip.compress(text.encode()), "t").column("x").type == pa.string()


def test_only_the_wanted_columns_of_a_parquet_file(tmp_path):
    TABLE.to_parquet(tmp_path / "t.parquet")
    assert read_whole(tmp_path / "t.parquet", "t", ["b"]).column_names == ["b"]
    assert read_whole(tmp_path / "t.parquet", "t", ["c"]).column_names == ["a", "b"]
    with pytest.raises(ValueError, match="expected --sep, --decimal and --encoding with a CSV"):
        read_whole(tmp_path / "t.parquet", "t", None, Dialect(";"))
    pd.DataFrame({"a": [[1], [2]]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="expected numbers, texts or times in column 'a', got li"):
        read_whole(tmp_path / "t.parquet", "t", ["a"])
