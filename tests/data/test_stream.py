"""Streams: blocks of complete rows, and nothing that changes while they are read."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import nll
from nll.data.stream import SUMS

TABLE = pd.DataFrame({"a": [1.0, np.nan, 3.0, 4.0], "k": list("uvuv"), "w": [1.0, 1.0, 0.0, 2.0]})


def test_blocks_have_the_rows_that_are_complete_and_weigh_something():
    (first, second) = nll.Stream(TABLE, "k", weights="w", missing="drop", block_rows=2)
    assert (first.x.tolist(), first.dropped) == ([[1.0]], 1)
    assert (second.x.tolist(), second.weights.tolist()) == ([[4.0]], [2.0])
    assert [second.response.values[code] for code in second.response.codes] == ["v"]
    assert len(second.sums(clusters=False)) == len(SUMS)


def test_reading_changes_nothing():
    stream = nll.Stream(TABLE.drop(columns="w"), "k", missing="drop")
    before = dict(vars(stream))
    assert len(list(stream)) == 1
    assert stream.first().names == stream.names == ["a"]
    assert vars(stream) == before


def test_progress_belongs_to_a_copy():
    rows = []
    stream = nll.Stream(TABLE.dropna(), "k", ["a"], block_rows=2)
    list(replace(stream, progress=rows.append))
    assert rows == [2, 3]
    assert stream.progress is None


@pytest.mark.parametrize(
    ("data", "columns", "names"),
    [
        (TABLE, None, ["a", "w"]),
        (TABLE, ["w"], ["w"]),
        ((np.zeros((2, 2)), np.zeros(2)), None, ["x0", "x1"]),
        ((TABLE[["w"]], TABLE.k), None, ["w"]),
        ((np.zeros((2, 2)), np.zeros(2)), ["p", "q"], ["p", "q"]),
        ([], None, []),
    ],
)
def test_names(data, columns, names):
    assert nll.Stream(data, "k", columns).names == names


def test_the_function_is_not_called_for_rows_that_are_skipped():
    x = np.arange(10.0)[:, None]
    stream = nll.Stream((x, np.zeros(10)), block_rows=4)
    read = list(stream.read(lambda block: block.x[:, 0].tolist(), skip=5))
    assert [end for end, _, _ in read] == [4, 5, 8, 10]
    assert [values for _, _, values in read] == [None, None, [5.0, 6.0, 7.0], [8.0, 9.0]]
    total = sum(sums for _, sums, _ in read)
    assert total[0] == 10
    assert total[4] == x.sum()


def test_numbers_of_other_types_and_masks():
    x = np.ma.array([[1, 2], [3, 4]], mask=[[0, 0], [1, 0]])
    (block,) = nll.Stream((x, ["u", "v"]), missing="drop")
    assert (block.x.tolist(), block.dropped) == ([[1.0, 2.0]], 1)
    assert block.x.dtype == torch.float64
    with pytest.raises(ValueError, match="expected numbers in X, got <U1 at row 0"):
        list(nll.Stream((np.array([["a"], ["b"]]), [0, 1])))


def test_arrays_need_no_arrow():
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "import numpy as np, nll\n"
        "print(len(list(nll.Stream((np.zeros((5, 1)), np.arange(5)), block_rows=2))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "3\n"
