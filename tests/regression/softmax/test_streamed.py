"""Rows that are read for each pass: the same fit from every source, block size and after every
interruption.
"""

from functools import partial
from itertools import count
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

import nll
from nll.data import checkpoint as checkpoints
from nll.data.checkpoint import Checkpoint
from nll.data.ledger import Ledger
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


@pytest.fixture(scope="module")
def whole():
    return nll.SoftmaxRegression().fit(TABLE[NAMES], TABLE["kind"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("rows")
    (path / "parts").mkdir()
    TABLE.to_parquet(path / "rows.parquet", row_group_size=1111)
    TABLE.to_csv(path / "rows.csv", index=False)
    TABLE.to_csv(path / "rows.tsv.gz", index=False, sep="\t")
    TABLE[:5000].to_parquet(path / "parts" / "0.parquet")
    TABLE[5000:].to_csv(path / "parts" / "1.csv", index=False)
    return path


def slices(size):
    return lambda: ((X[i : i + size], Y[i : i + size]) for i in range(0, N, size))


SOURCES = {
    "arrays": lambda folder: Stream((X, Y), block_rows=700),
    "tensors": lambda folder: Stream(
        (torch.from_numpy(X), torch.from_numpy(Y)), block_rows=1 << 20
    ),
    "columns of Fortran": lambda folder: Stream((np.asfortranarray(X), Y), block_rows=999),
    "function": lambda folder: Stream(slices(513)),
    "list of arrays": lambda folder: Stream(list(slices(4000)())),
    "pandas": lambda folder: Stream(TABLE, "kind", block_rows=1000),
    "polars": lambda folder: Stream(pl.from_pandas(TABLE), "kind", block_rows=5000),
    "arrow": lambda folder: Stream(pa.Table.from_pandas(TABLE), "kind"),
    "arrow batches": lambda folder: Stream(pa.Table.from_pandas(TABLE).to_batches(777), "kind"),
    "arrow dataset": lambda folder: Stream(
        pyarrow.dataset.dataset(folder / "rows.parquet"), "kind"
    ),
    "parquet": lambda folder: Stream(folder / "rows.parquet", "kind", block_rows=1000),
    "csv": lambda folder: Stream(str(folder / "rows.csv"), "kind", block_rows=3000),
    "tsv.gz": lambda folder: Stream(folder / "rows.tsv.gz", "kind"),
    "folder": lambda folder: Stream(folder / "parts", "kind"),
    "files and tables": lambda folder: Stream(
        [folder / "parts" / "0.parquet", TABLE[5000:]], "kind"
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_fit_of_the_rows_in_memory(source, folder, whole):
    stream = SOURCES[source](folder)
    model = nll.SoftmaxRegression().fit(stream)
    found, expected = model.result_, whole.result_
    assert found.converged
    assert found.n == N
    torch.testing.assert_close(found.vector, expected.vector, rtol=1e-10, atol=0)
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=1e-9, atol=0)
    assert found.log_likelihood == pytest.approx(expected.log_likelihood, rel=1e-12)
    assert found.null_log_likelihood == pytest.approx(expected.null_log_likelihood, rel=1e-12)
    if stream.response is not None:
        assert list(model.classes_) == CLASSES
        assert list(model.feature_names_in_) == NAMES
        np.testing.assert_allclose(
            model.predict_proba(TABLE[NAMES]), whole.predict_proba(TABLE[NAMES]), rtol=1e-9
        )
    else:
        assert list(model.classes_) == [0, 1, 2, 3]


@pytest.mark.parametrize("rows", [1, 37, 256, N])
def test_the_size_of_the_blocks_does_not_matter(rows):
    few = X[:600], Y[:600]
    expected = nll.SoftmaxRegression().fit(*few).result_
    found = nll.SoftmaxRegression().fit(Stream(few, block_rows=rows)).result_
    torch.testing.assert_close(found.vector, expected.vector, rtol=1e-10, atol=0)
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 3.0},
        {"baseline": "cedar"},
        {"fit_intercept": False},
        {"covariance": "sandwich"},
        {"covariance": "hc1"},
    ],
)
def test_options_mean_the_same(options):
    expected = nll.SoftmaxRegression(**options).fit(TABLE[NAMES], TABLE["kind"]).result_
    found = nll.SoftmaxRegression(**options).fit(Stream(TABLE, "kind", block_rows=5000)).result_
    torch.testing.assert_close(found.vector, expected.vector, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=1e-9, atol=0)
    assert found.labels == expected.labels


@pytest.mark.parametrize("weights", ["frequency", "sampling"])
def test_weights_are_a_column(weights):
    w = np.random.default_rng(1).integers(0, 4, N).astype(float)
    expected = nll.SoftmaxRegression(weights=weights).fit(TABLE[NAMES], TABLE["kind"], w).result_
    table = TABLE.assign(w=w)
    found = (
        nll.SoftmaxRegression(weights=weights)
        .fit(Stream(table, "kind", weights="w", block_rows=1000))
        .result_
    )
    torch.testing.assert_close(found.vector, expected.vector, rtol=1e-10, atol=0)
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=1e-9, atol=0)
    assert found.n == (w.sum() if weights == "frequency" else (w > 0).sum())
    arrays = nll.SoftmaxRegression(weights=weights).fit(Stream((X, Y, w), block_rows=1000)).result_
    torch.testing.assert_close(arrays.vector, expected.vector, rtol=1e-10, atol=0)


def test_many_parameters_go_by_products():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(6000, 30))
    y = (x @ rng.normal(size=(30, 12)) / 3 + rng.gumbel(size=(6000, 12))).argmax(1)
    expected = nll.SoftmaxRegression().fit(x, y).result_
    found = nll.SoftmaxRegression().fit(Stream((x, y), block_rows=2500)).result_
    assert found.converged
    torch.testing.assert_close(found.vector, expected.vector, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=1e-8, atol=1e-12)


def test_columns_that_are_nearly_each_other_cost_no_digits():
    near = np.c_[X[:, :2], X[:, 0] + 1e-6 * X[:, 2]]
    expected = nll.SoftmaxRegression().fit(near, Y)
    found = nll.SoftmaxRegression().fit(Stream((near, Y), block_rows=1000))
    assert found.result_.converged
    np.testing.assert_allclose(found.predict_proba(near), expected.predict_proba(near), rtol=1e-7)
    assert found.result_.log_likelihood == pytest.approx(expected.result_.log_likelihood, rel=1e-11)


def test_collinear_columns_are_named():
    table = TABLE.assign(both=TABLE.c0 + 2 * TABLE.c1)[["c0", "c1", "both", "kind"]]
    with pytest.raises(
        ValueError,
        match=r"got 'c1' = .*c0.*both in every row|got 'both' = "
        r".*c0.*c1 in every row",
    ):
        nll.SoftmaxRegression().fit(Stream(table, "kind", block_rows=1000))


def test_rows_in_the_order_of_their_classes_and_columns():
    order = np.lexsort((X[:, 4], Y))
    expected = nll.SoftmaxRegression().fit(X, Y).result_
    found = nll.SoftmaxRegression().fit(Stream((X[order], Y[order]), block_rows=500)).result_
    torch.testing.assert_close(found.vector, expected.vector, rtol=1e-9, atol=0)


def test_separated_classes_get_the_verdict_of_the_rows_in_memory():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(50_000, 2))
    y = np.where(x[:, 0] > 0.3, 2, (x[:, 1] + rng.gumbel(size=50_000) > 0).astype(int))
    with pytest.warns(ConvergenceWarning, match="no finite estimate"):
        expected = nll.SoftmaxRegression().fit(x, y).result_.separation
    with pytest.warns(ConvergenceWarning, match="class 2 is separated from 0 and 1"):
        fitted = nll.SoftmaxRegression().fit(Stream((x, y), block_rows=7000)).result_
    found = fitted.separation
    assert not fitted.converged
    assert found is not None
    assert found.separated == expected.separated
    assert found.supremum == pytest.approx(expected.supremum, rel=1e-10)
    torch.testing.assert_close(
        found.contrasts[0].estimate, expected.contrasts[0].estimate, rtol=1e-8, atol=1e-10
    )
    torch.testing.assert_close(
        found.contrasts[0].standard_errors,
        expected.contrasts[0].standard_errors,
        rtol=1e-8,
        atol=1e-10,
    )


def test_one_row_that_overlaps_is_found():
    rng = np.random.default_rng(4)
    x = rng.normal(size=(50_000, 1))
    y = (x[:, 0] > 0).astype(int)
    y[np.argmax(x[:, 0])] = 0
    found = nll.SoftmaxRegression().fit(Stream((x, y), block_rows=7000)).result_
    assert found.converged
    assert float(found.vector.abs().max()) < 100


class Interrupted:
    """Rows that stop coming after so many blocks."""

    def __init__(self, blocks):
        self.left, self.read = blocks, 0

    def __call__(self):
        for block in slices(1000)():
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            self.read += 1
            yield block


@pytest.mark.parametrize("blocks", [5, 15, 27, 40, 62])
def test_a_search_that_was_stopped_goes_on_where_it_was(blocks, tmp_path):
    kept = tmp_path / "passes"
    expected, every = nll.SoftmaxRegression(), Interrupted(-1)
    expected.fit(Stream(every))
    with pytest.raises(KeyboardInterrupt):
        nll.SoftmaxRegression().fit(Stream(Interrupted(blocks)), checkpoint=kept)
    rest = Interrupted(-1)
    found = nll.SoftmaxRegression().fit(Stream(rest), checkpoint=kept)
    assert torch.equal(found.result_.vector, expected.result_.vector)
    assert torch.equal(found.result_.covariance, expected.result_.covariance)
    passes = blocks // (N // 1000)
    # of blocks under way
    assert rest.read <= every.read - passes * (N // 1000) + 2 + torch.get_num_threads()
    # all is in the file: the rows are compared with those of before, once
    again = Interrupted(2 + N // 1000)
    found = nll.SoftmaxRegression().fit(Stream(again), checkpoint=kept)
    assert torch.equal(found.result_.vector, expected.result_.vector)


def test_a_pass_is_written_while_it_is_under_way(tmp_path, monkeypatch):
    clock = SimpleNamespace(monotonic=count(0.0, 100.0).__next__)  # 100 seconds for each block
    monkeypatch.setattr(checkpoints, "time", clock)
    rows = Ledger(Stream((X, Y)))

    def numbers(until, skip):
        for value in range(skip, 10):
            if value == until:
                raise RuntimeError("killed")
            yield value + 1, torch.tensor(float(value))

    def add(sums, value):
        return [value] if sums is None else [sums[0] + value]

    with Checkpoint(tmp_path / "passes", {}, rows) as kept, pytest.raises(RuntimeError):
        kept.passed([torch.zeros(1)], partial(numbers, 7), add)
    seen = []

    def noted(sums, value):
        seen.append(float(value))
        return add(sums, value)

    with Checkpoint(tmp_path / "passes", {}, rows) as kept:
        assert kept.passed([torch.zeros(1)], partial(numbers, -1), noted) == [45.0]
    assert seen == [7.0, 8.0, 9.0]


@pytest.mark.filterwarnings("ignore:expected rows of every category of y, got none of yew")
def test_numbers_of_every_type_and_classes_of_several():
    table = pd.DataFrame(
        {
            "i": np.arange(N, dtype=np.int16) % 7,
            "b": np.arange(N) % 3 == 0,
            "f": X[:, 0].astype(np.float32),
            "whole": Y.astype(float),
            "flag": Y > 1,
            "kind": pd.Categorical(np.array(CLASSES)[Y], categories=["yew", *CLASSES]),
        }
    )
    for response in ("whole", "flag", "kind"):
        model = nll.SoftmaxRegression().fit(
            Stream(table, response, ["i", "b", "f"], block_rows=999)
        )
        x = table[["i", "b", "f"]].to_numpy(dtype=np.float64)
        expected = nll.SoftmaxRegression().fit(x, np.asarray(table[response]))
        assert list(model.classes_) == list(expected.classes_)
        torch.testing.assert_close(
            model.result_.vector, expected.result_.vector, rtol=1e-9, atol=1e-12
        )
    with pytest.raises(TypeError, match="expected classes of one type, got int and str"):
        nll.SoftmaxRegression().fit(Stream([(X, Y), (X, np.array(CLASSES)[Y])]))


def test_the_rows_that_were_read_are_reported():
    seen = []
    nll.SoftmaxRegression().fit(Stream((X, Y), block_rows=5000, progress=seen.append))
    assert seen[:3] == [5000, 10_000, 12_000]
    assert seen.count(12_000) > 2


@pytest.mark.parametrize("kind", ["text", "number", "categories"])
def test_errors_of_clusters(kind, tmp_path):
    firm = np.random.default_rng(3).integers(0, 70, N) ** 2
    weights = np.random.default_rng(4).integers(0, 3, N).astype(float)
    table = TABLE.assign(
        firm=firm if kind == "number" else [f"firm {number}" for number in firm], w=weights
    )
    if kind == "categories":
        table = table.assign(
            firm=pd.Categorical(table.firm, [*sorted(set(table.firm)), "none has this one"])
        )
    stream = Stream(table, "kind", NAMES, weights="w", clusters="firm", block_rows=1500)
    found = nll.SoftmaxRegression().fit(stream, checkpoint=tmp_path / "passes").result_
    expected = nll.SoftmaxRegression().fit(X, np.array(CLASSES)[Y], weights, clusters=firm).result_
    assert found.information == expected.information == "sandwich, 70 clusters"
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=1e-7, atol=0.0)
    again = nll.SoftmaxRegression().fit(stream, checkpoint=tmp_path / "passes").result_
    assert torch.equal(again.covariance, found.covariance)


def test_clusters_that_cannot_be_used():
    with pytest.raises(ValueError, match="expected at least two clusters, got one"):
        nll.SoftmaxRegression().fit(Stream(TABLE.assign(firm=1), "kind", clusters="firm"))
    lost = TABLE.assign(firm=np.where(np.arange(N) == 77, None, "a"))
    with pytest.raises(
        ValueError, match="expected no missing values, got one in column 'firm' at row 77"
    ):
        nll.SoftmaxRegression().fit(Stream(lost, "kind", clusters="firm"))
