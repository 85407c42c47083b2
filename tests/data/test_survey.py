"""The first pass over a table in blocks."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest

from nll.data.survey import kind_of, schema_of, survey

TABLE = pd.DataFrame({"a": [1.0, None, 3.0], "g": ["v", "u", None], "k": [3, 1, 2]})


def test_kinds_and_categories():
    found = survey(TABLE, ["a", "g", "k"], ["a", "g", "k"], {"k"})
    assert found.categories == {"g": ["u", "v"], "k": [1, 2, 3]}
    assert found.head["g"].tolist() == ["v"]
    assert schema_of(TABLE).names == ["a", "g", "k"]
    assert schema_of([]).names == []


def test_an_order_of_categories_is_kept():
    table = TABLE.astype({"g": pd.CategoricalDtype(["v", "u"])})
    assert survey(table, ["g"], ["g"], set()).categories == {"g": ["v", "u"]}


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (pa.string(), "texts"),
        (pa.dictionary(pa.int32(), pa.string()), "texts"),
        (pa.int8(), "numbers"),
        (pa.bool_(), "numbers"),
        (pa.date32(), "date32[day] values"),
    ],
)
def test_kinds(kind, name):
    assert kind_of(kind) == name


def test_a_column_of_two_kinds_is_named(tmp_path):
    pd.DataFrame({"a": ["x"]}).to_parquet(tmp_path / "0.parquet")
    pd.DataFrame({"a": [1.0]}).to_parquet(tmp_path / "1.parquet")
    message = "one kind in column 'a', got texts in 0.parquet and numbers in 1.parquet, from row 1"
    with pytest.raises(ValueError, match=message):
        survey(tmp_path, ["a"], ["a"], set())


def test_no_row_is_complete():
    with pytest.raises(ValueError, match="expected at least one complete row, got none"):
        survey(pd.DataFrame({"a": [1.0], "b": [None]}), ["a", "b"], ["a"], set())
