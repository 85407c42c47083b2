"""Data of a stream in pieces, from every source."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pytest
import torch

from nll.data.csv_dialect import Dialect
from nll.data.readers import blocks_in, pieces, stamps

TABLE = pd.DataFrame({"a": np.arange(10.0), "b": list("uvuvuvuvuv"), "c": np.arange(10) / 4})


def whole(data, rows=4, wanted=("c", "b")):
    batches = list(pieces(data, rows, list(wanted)))
    assert all(batch.num_rows <= rows for batch in batches)
    return pd.concat([batch.to_pandas() for batch in batches])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tables") / "t"
    path.mkdir()
    TABLE[:6].to_csv(path / "0.csv", index=False)
    TABLE[6:].to_parquet(path / "1.parquet")
    (path / "_notes.csv").write_text("not a table\n")
    return path


@pytest.mark.parametrize(
    "source",
    [
        lambda folder: TABLE,
        lambda folder: pl.from_pandas(TABLE),
        lambda folder: pa.Table.from_pandas(TABLE),
        lambda folder: pa.Table.from_pandas(TABLE).to_batches(),
        lambda folder: pyarrow.dataset.dataset(pa.Table.from_pandas(TABLE)),
        lambda folder: folder,
        lambda folder: str(folder),
        lambda folder: [folder / "0.csv", TABLE[6:]],
        lambda folder: lambda: [TABLE[:3], TABLE[3:]],
    ],
)
def test_every_source_gives_the_rows_in_their_order(source, folder):
    found = whole(source(folder))
    assert found.b.tolist() == TABLE.b.tolist()
    assert found.c.tolist() == TABLE.c.tolist()
    assert "a" not in found


def test_arrays_come_as_they_are():
    x, y = np.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 1])
    first, second = pieces((x, y), 2, None)
    assert first[0].base is not None
    assert [part.tolist() for part in second] == [[[4.0, 5.0]], [1]]


def test_a_column_that_starts_with_integers_may_go_on_with_other_numbers(tmp_path):
    rows = ["x,y", *["1,2"] * 200_000, "0.5,2"]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    last = list(blocks_in(tmp_path / "t.csv", Dialect()))[-1]
    assert last.column("x")[-1].as_py() == 0.5


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (3.0, TypeError, "expected a file, a folder, a table, .* got float"),
        ("no.csv", ValueError, "no such file: no.csv"),
        (__file__, ValueError, "expected a file named .csv, .* got .*test_readers.py"),
        (TABLE.assign(b=[1, "a"] * 5), ValueError, "expected columns of values of one type"),
        (pd.concat([TABLE, TABLE], axis=1), ValueError, "different names, got 'b', 'c' twice"),
        (TABLE.drop(columns="c"), ValueError, "a column of the table, got 'c'; the table has a, b"),
    ],
)
def test_data_that_cannot_be_read(data, error, message):
    with pytest.raises(error, match=message):
        whole(data)


def test_a_folder_without_tables(tmp_path):
    with pytest.raises(ValueError, match="expected a folder with files named"):
        whole(tmp_path)


def test_the_files_of_data_have_stamps(folder, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 2)))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    names = [str(folder / "0.csv"), str(folder / "1.parquet")]
    assert [name for name, _, _ in stamps(folder)] == names
    assert stamps(partial(blocks_in, folder, Dialect())) == stamps(folder)
    assert [name for name, _, _ in stamps((x, np.zeros(3)))] == [str(tmp_path / "x.npy")]
    assert stamps([TABLE, folder / "0.csv"]) == stamps(folder)[:1]
    assert stamps(pyarrow.dataset.dataset(str(folder / "1.parquet"))) == stamps(folder)[1:]
    assert stamps(TABLE) == []
