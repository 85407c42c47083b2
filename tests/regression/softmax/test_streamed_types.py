"""Classes of every type, in every layout of a table: the fit of the classes 0 and 1 in memory."""

import datetime as dt
import json
import uuid
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from typer.testing import CliRunner

import nll
from nll.cli.app import app

N = 240
RNG = np.random.default_rng(0)
X = RNG.normal(size=N)
Y = (X + RNG.logistic(size=N) > 0).astype(int)
EXPECTED = nll.SoftmaxRegression().fit(X[:, None], Y).result_
UTC = dt.timezone(dt.timedelta(hours=2))
CLASSES = {
    "texts": ("a", "b"),
    "truth values": (False, True),
    "floats": (1.0, 2.0),
    "integers that float64 merges": (2**60 + 1, 2**60 + 2),
    "decimals": (Decimal(9), Decimal(10)),
    "dates": (dt.date(2024, 1, 1), dt.date(2024, 1, 2)),
    "instants": (dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, 5)),
    "instants of a zone": (
        dt.datetime(2024, 1, 1, tzinfo=UTC),
        dt.datetime(2024, 1, 1, 5, tzinfo=UTC),
    ),
    "nanoseconds": (pd.Timestamp(1), pd.Timestamp(2)),
    "times": (dt.time(1), dt.time(2, 30)),
    "durations": (dt.timedelta(1), dt.timedelta(2)),
    "bytes": (b"a", b"b"),
    "periods": (pd.Period("2024-01"), pd.Period("2024-02")),
    "identifiers": (uuid.UUID(int=1), uuid.UUID(int=2)),
}


def table(kind):
    return pd.DataFrame({"x": X, "c": pd.Series([CLASSES[kind][k] for k in Y])})


def in_files(rows, folder):
    """Two files, of each kind that can hold the classes."""
    for name, write in (("parquet", rows.__class__.to_parquet), ("csv", rows.__class__.to_csv)):
        (folder / name).mkdir()
        for number, part in enumerate((rows[:100], rows[100:])):
            write(part, folder / name / f"{number}.{name}", index=False)
        yield folder / name


def layouts(kind, folder):
    rows = table(kind)
    yield rows
    yield rows.assign(c=pd.Categorical(rows.c))
    yield rows.convert_dtypes()
    if kind != "identifiers":  # polars has none
        yield pa.Table.from_pandas(rows)
        yield pl.from_arrow(pa.Table.from_pandas(rows)) if kind != "periods" else rows
    yield from in_files(rows, folder)


@pytest.mark.parametrize("kind", CLASSES)
def test_the_fit_is_that_of_numbered_classes(kind, tmp_path):
    streams = [nll.Stream(data, "c", ["x"], block_rows=70) for data in layouts(kind, tmp_path)]
    streams.append(nll.Stream((X[:, None], table(kind).c.to_numpy()), block_rows=70))
    for stream in streams:
        model = nll.SoftmaxRegression().fit(stream)
        assert model.result_.log_likelihood == pytest.approx(EXPECTED.log_likelihood, rel=1e-12)
        assert model.result_.vector.numpy() == pytest.approx(EXPECTED.vector.numpy(), rel=1e-9)
        if "csv" not in str(stream.data):  # which has no such types
            assert list(model.classes_) == list(CLASSES[kind])


@pytest.mark.parametrize(
    "kind", [kind for kind in CLASSES if not kind.startswith(("instants", "nano"))]
)
def test_the_command_names_them_alike_in_a_file_and_in_a_folder(kind, tmp_path):
    *_, csv = in_files(table(kind), tmp_path)
    whole = tmp_path / "t.csv"
    table(kind).to_csv(whole, index=False)
    results = []
    for path in (whole, csv):
        found = CliRunner().invoke(
            app, ["fit", str(path), "c ~ x", "--json", str(tmp_path / "out.json")]
        )
        assert (found.exit_code, found.stderr) == (0, "")
        results.append(json.loads((tmp_path / "out.json").read_text()))
    assert results[0]["names"] == results[1]["names"]
    assert results[1]["log_likelihood"] == pytest.approx(EXPECTED.log_likelihood, rel=1e-10)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([[1], [2]], r"expected classes in column 'c', got \[[12]\]"),
        ([1.5, 2.0], "expected classes in column 'c', got the measurement 1.5"),
        ([Decimal("0.5"), Decimal("1.5")], r"got the measurement [01]\.5"),
        ([2.0**60, 2.0**61], "a float to which other numbers round"),
        ([1, "a"], "expected columns of values of one type"),
        ([{"a": 1}, {"a": 2}], "expected classes in column 'c'"),
    ],
)
def test_values_that_are_no_classes(classes, message):
    rows = pd.DataFrame({"x": X, "c": [classes[k] for k in Y]})
    with pytest.raises(ValueError, match=message):
        nll.SoftmaxRegression().fit(nll.Stream(rows, "c"))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (X[::-1, None], Y[::-1]),
        (np.c_[X, X**2][:, ::-1], Y),
        (X[:, None].astype(">f8"), Y.astype(">i2")),
        (np.ma.array(X[:, None], mask=X[:, None] > 2), Y),
        (X[:, None], Y[:, None]),
        (X[:, None], np.where(X > 2, np.datetime64("NaT"), Y.astype("M8[D]"))),
        (X[:, None], np.where(X > 2, pd.NA, Y.astype(object))),
        (X[:, None].astype(object), pd.Series(Y, dtype="int64[pyarrow]")),
    ],
)
def test_layouts_of_arrays(x, y):
    kept = (
        X <= 2 if np.ma.is_masked(x) or np.asarray(y).dtype.kind in "MO" else np.ones(N, dtype=bool)
    )
    columns = np.asarray(np.ma.filled(x, 0.0), dtype=np.float64)[kept]
    of_rows = Y[::-1] if x.base is X and x.strides[0] < 0 else Y
    expected = nll.SoftmaxRegression().fit(columns, of_rows[kept]).result_
    found = nll.SoftmaxRegression().fit(nll.Stream((x, y), block_rows=70, missing="drop")).result_
    assert found.vector.numpy() == pytest.approx(expected.vector.numpy(), rel=1e-9)
    assert found.dropped == N - kept.sum()


def test_columns_of_a_table():
    rows = pd.DataFrame({0: X, 1: pd.Categorical(Y + 3), "c": Y})
    found = nll.SoftmaxRegression().fit(nll.Stream(rows, "c", ["0"], block_rows=70)).result_
    assert found.log_likelihood == pytest.approx(EXPECTED.log_likelihood)
    numbers = nll.Stream(rows.assign(c=np.arange(N) % 2), "c", ["1"])  # categories that are numbers
    assert nll.SoftmaxRegression().fit(numbers).result_.converged
    pair = nll.SoftmaxRegression().fit(nll.Stream((rows[[0]].rename(columns={0: "dose"}), rows.c)))
    assert pair.result_.labels["coef"][1] == ("Intercept", "dose")
    with pytest.raises(ValueError, match="expected columns with different names, got 'c' twice"):
        nll.SoftmaxRegression().fit(nll.Stream(pd.concat([rows, rows.c], axis=1), "c"))


LEVELS = ["low", "mid", "high"]


@pytest.mark.parametrize(
    "source",
    [
        lambda c: nll.Stream(pd.DataFrame({"x": X, "c": c}), "c", block_rows=70),
        lambda c: nll.Stream(pa.table({"x": X, "c": pa.array(c.as_ordered())}), "c", block_rows=70),
        lambda c: nll.Stream((X[:, None], pd.Series(c)), block_rows=70),
        lambda c: nll.Stream(
            pl.DataFrame({"x": X, "c": pl.Series(list(c), dtype=pl.Enum([*LEVELS, "none"]))}), "c"
        ),
    ],
)
def test_the_order_of_categories_counts(source):
    codes = RNG.integers(0, 3, N)
    with pytest.warns(
        UserWarning, match="expected rows of every category of y, got none of none: left out"
    ):
        model = nll.SoftmaxRegression().fit(
            source(pd.Categorical.from_codes(codes, [*LEVELS, "none"]))
        )
    expected = nll.SoftmaxRegression().fit(X[:, None], codes).result_
    assert model.result_.baseline == "low"
    assert list(model.classes_) == sorted(LEVELS)
    assert model.result_.log_likelihood == pytest.approx(expected.log_likelihood)
    assert model.result_.params["coef"][1].numpy() == pytest.approx(
        expected.params["coef"][0].numpy(), rel=1e-7
    )


@pytest.mark.parametrize("table", [False, True])
def test_integers_that_float64_would_round_are_named(table):
    x = 2**60 + np.arange(N)
    stream = (
        nll.Stream(pd.DataFrame({"x": x, "c": Y}), "c") if table else nll.Stream((x[:, None], Y))
    )
    with pytest.raises(
        ValueError,
        match=r"numbers in .* that float64 holds exactly, got the integer "
        r"1152921504606846977 at row 1",
    ):
        nll.SoftmaxRegression().fit(stream)
