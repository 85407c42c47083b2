"""Rows that change between the passes of a fit are noticed, and said."""

import os

import numpy as np
import pandas as pd
import pytest

import nll

N = 2000
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3))
Y = (X @ RNG.normal(size=(3, 3)) + RNG.gumbel(size=(N, 3))).argmax(1)
W = 1.0 + np.arange(N) % 3


def blocks(x=X, y=Y, w=W, rows=250):
    return [(x[i : i + rows], y[i : i + rows], w[i : i + rows]) for i in range(0, len(x), rows)]


def but(array, at, value):
    changed = array.copy()
    changed[at] = value
    return changed


def swapped(array, rows=slice(1500, 1600)):
    return but(array, rows, array[rows][::-1])


class Changing:
    """Rows that are others from a pass on."""

    def __init__(self, later, since):
        self.later, self.since, self.passes = later, since, 0

    def __iter__(self):
        self.passes += 1
        return iter(blocks() if self.passes < self.since else self.later)


CHANGES = {
    "fewer": (blocks()[:4], "expected the 2000 rows of the first pass again, got 1000"),
    "none": ([], "expected the 2000 rows of the first pass again, got 0"),
    "more": (
        blocks() + blocks(),
        "expected the 2000 rows of the first pass again, got more than 2000",
    ),
    "other classes": (
        blocks(y=Y + 10),
        r"expected the classes of the first pass again \(0, 1, "
        r"2\), got 1[012]",
    ),
    "renamed": (blocks(y=Y.astype(str)), "expected the classes of the first pass again"),
    "classes of other rows": (
        blocks(y=swapped(Y)),
        "got other classes or weights in rows 1500 to 1749",
    ),
    "one class": (
        blocks(y=but(Y, 1700, (Y[1700] + 1) % 3)),
        "got other classes or weights in rows 1500 to 1749",
    ),
    "one number": (blocks(x=but(X, (1700, 2), 0.5)), "got other numbers in rows 1500 to 1749"),
    "a column of other rows": (
        blocks(x=np.c_[X[:, :2], swapped(X[:, 2])]),
        "got other numbers in rows 1500 to 1749",
    ),
    "weights": (blocks(w=W + 1), "got other classes or weights in rows 0 to 249"),
    "a row of no weight": (blocks(w=but(W, 300, 0.0)), "got other rows in rows 250 to 499"),
    "a missing value": (blocks(x=but(X, (300, 1), np.nan)), "got other rows in rows 250 to 499"),
    "infinite": (
        blocks(x=but(X, (300, 1), np.inf)),
        "expected finite values in column 'x1', got inf at row 300",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_rows_that_change(change):
    later, message = CHANGES[change]
    with pytest.raises(ValueError, match=message):
        nll.SoftmaxRegression().fit(nll.Stream(Changing(later, 4), missing="drop"))


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_blocks_may_be_cut_otherwise_in_each_pass(dtype):
    rows = iter(range(90, 10_000, 13))
    stream = nll.Stream(lambda: blocks(X.astype(dtype), rows=next(rows)))
    expected = nll.SoftmaxRegression().fit(X.astype(dtype), Y, W).result_
    assert nll.SoftmaxRegression().fit(stream).result_.log_likelihood == pytest.approx(
        expected.log_likelihood
    )


@pytest.mark.parametrize("many", [1, 8])
def test_an_iterable_that_does_not_start_anew(many):
    once = iter(blocks(rows=N // many))
    with pytest.raises(
        ValueError,
        match=r"again, got (0|none).* data are read several "
        r"times",
    ):
        nll.SoftmaxRegression().fit(nll.Stream(lambda: once))


@pytest.mark.parametrize("when", [1, 4])
@pytest.mark.parametrize("what", ["grown", "replaced", "touched", "one more"])
def test_files_that_change(what, when, tmp_path):
    table = pd.DataFrame(X, columns=list("abc")).assign(k=Y)
    table.to_parquet(tmp_path / "t.parquet")
    change = {
        "grown": lambda: pd.concat([table, table]).to_parquet(tmp_path / "t.parquet"),
        "replaced": lambda: table.assign(a=-table.a).to_parquet(tmp_path / "t.parquet"),
        "touched": lambda: os.utime(tmp_path / "t.parquet", ns=(1, 1)),
        "one more": lambda: table.to_parquet(tmp_path / "u.parquet"),
    }[what]
    calls = iter(range(1, 1000))
    stream = nll.Stream(tmp_path, "k", progress=lambda _: change() if next(calls) == when else None)
    with pytest.raises(
        ValueError,
        match=r"expected files that stay as they are during a fit, got changes in "
        r".*/[tu]\.",
    ):
        nll.SoftmaxRegression().fit(stream)
