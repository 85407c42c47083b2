"""The first pass over a stream: missing rows, and rows and arguments that cannot be used."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pytest
import torch

import nll
from nll.data.stream import Stream

N, P, CLASSES = 12_000, 5, ["ash", "birch", "cedar", "elm"]


def draw(n=N, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, P))
    scores = x @ rng.normal(size=(P, len(CLASSES)))
    y = (scores + rng.gumbel(size=scores.shape)).argmax(1)
    return x * 10.0 ** np.arange(-2, 3) + 7.0, y


X, Y = draw()
TABLE = pd.DataFrame(X, columns=[f"c{j}" for j in range(P)]).assign(kind=np.array(CLASSES)[Y])
NAMES = list(TABLE.columns[:-1])


def changed(row, column, value):
    table = TABLE.astype({"kind": object, "c1": object}) if isinstance(value, str) else TABLE.copy()
    table.loc[row, column] = value
    return table


def test_missing_rows_are_named_or_left_out():
    table = changed(2000, "c2", np.nan)
    table.loc[7, "kind"] = None
    with pytest.raises(
        ValueError,
        match=r"missing values, got one in column 'kind' at row 7; "
        r"missing='drop'",
    ):
        nll.SoftmaxRegression().fit(Stream(table, "kind", block_rows=1000))
    found = (
        nll.SoftmaxRegression().fit(Stream(table, "kind", missing="drop", block_rows=1000)).result_
    )
    left = table.dropna()
    expected = nll.SoftmaxRegression().fit(left[NAMES], left["kind"]).result_
    torch.testing.assert_close(found.vector, expected.vector, rtol=1e-10, atol=0)
    assert found.dropped == 2
    assert found.n == N - 2


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (
            lambda: changed(3000, "c3", np.inf),
            {"response": "kind"},
            "finite values in column 'c3', got inf at row 3000",
        ),
        (lambda: TABLE, {"response": "kin"}, "expected a column of the table, got 'kin'"),
        (lambda: TABLE, {"response": "kind", "columns": ["c0", "c9"]}, "got 'c9'"),
        (lambda: TABLE, {}, "expected the name of the response"),
        (
            lambda: TABLE,
            {"response": "c1", "columns": ["c0"]},
            "expected classes in column 'c1', got the measurement",
        ),
        (
            lambda: TABLE,
            {"response": "c0", "columns": ["kind"]},
            "expected numbers in column 'kind', got 'cedar' at row 0",
        ),
        (
            lambda: TABLE.assign(w=-1.0),
            {"response": "kind", "weights": "w"},
            "expected weights of at least 0, got -1",
        ),
        (
            lambda: TABLE.assign(kind="ash"),
            {"response": "kind"},
            "at least two classes, got one class: ash",
        ),
        (lambda: TABLE.assign(c4=2.0), {"response": "kind"}, "got constant column 'c4'"),
        (lambda: TABLE[:0], {"response": "kind"}, "expected at least one row, got none"),
        (lambda: (X, Y[:-1]), {}, "expected blocks"),
        (lambda: [(X, Y), (X[:, :2], Y)], {}, "expected blocks of 5 columns, got 2 at row 12000"),
        (lambda: "no/such.parquet", {"response": "kind"}, "no such file"),
        (lambda: __file__, {"response": "kind"}, "expected a file named"),
    ],
)
def test_rows_that_cannot_be_used(data, arguments, message):
    with pytest.raises(ValueError, match=message):
        nll.SoftmaxRegression().fit(Stream(data(), **arguments))


@pytest.mark.parametrize(
    "data", [iter([(X, Y)]), pa.RecordBatchReader.from_batches(pa.schema([]), []), 3.0]
)
def test_data_that_cannot_be_gone_through_twice(data):
    with pytest.raises(TypeError, match="expected"):
        nll.SoftmaxRegression().fit(Stream(data, "kind"))


def test_arguments_beside_a_stream():
    with pytest.raises(ValueError, match="expected a Stream alone"):
        nll.SoftmaxRegression().fit(Stream((X, Y)), Y)
    with pytest.raises(ValueError, match="missing to be raise or drop"):
        Stream((X, Y), missing="ignore")
    with pytest.raises(ValueError, match="block_rows"):
        Stream((X, Y), block_rows=0)
    with pytest.raises(TypeError, match="columns as a list"):
        Stream(TABLE, "kind", columns="c1")
