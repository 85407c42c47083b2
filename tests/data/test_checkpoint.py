"""A checkpoint belongs to its rows, options and version; it is whole, or refused; one fit has it at
a time.
"""

import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch

import nll
from nll.data import checkpoint as checkpoints

N = 2000
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 3))
Y = (X @ RNG.normal(size=(3, 3)) + RNG.gumbel(size=(N, 3))).argmax(1)
TABLE = pd.DataFrame(X, columns=list("abc")).assign(
    k=np.array(["u", "v", "w"])[Y], w=1.0, firm=np.arange(N) // 20
)
ARGUMENTS = {
    "response": "k",
    "columns": list("abc"),
    "weights": "w",
    "clusters": "firm",
    "block_rows": 300,
}


def fit(path, table=TABLE, options=None, **arguments):
    return nll.SoftmaxRegression(**(options or {})).fit(
        nll.Stream(table, **ARGUMENTS | arguments), checkpoint=path
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "passes"
    fit(path)
    return path.read_bytes()


@pytest.fixture
def path(written, tmp_path):
    (tmp_path / "passes").write_bytes(written)
    return tmp_path / "passes"


def changed(column, value, rows=slice(N - 5, None)):
    table = TABLE.copy()
    table.loc[table.index[rows], column] = value
    return table


OTHERS = {
    "classes renamed": ({"table": TABLE.assign(k=TABLE.k.str.upper())}, "first row"),
    "classes later on": (
        {"table": changed("k", "u")},
        "other classes or weights in rows 1800 to 1999",
    ),
    "numbers later on": ({"table": changed("c", 0.25)}, "other numbers in rows 1800 to 1999"),
    "weights later on": ({"table": changed("w", 2.0)}, "other classes or weights"),
    "clusters later on": ({"table": changed("firm", 3)}, "other clusters in rows 1800 to 1999"),
    "fewer rows": ({"table": TABLE[:-7]}, "expected the 2000 rows of the checkpoint .* got 1993"),
    "more rows": ({"table": pd.concat([TABLE, TABLE])}, "got more than 2000"),
    "another column": ({"columns": list("ab")}, "another: columns"),
    "another order of columns": ({"columns": list("bac")}, "another: columns"),
    "no clusters": ({"clusters": None}, "another: clusters firm, now None"),
    "no weights": ({"weights": None}, "another: weights w, now None"),
    "missing": ({"missing": "drop"}, "another: missing raise, now drop"),
    "alpha": ({"options": {"alpha": 1.0}}, "another: alpha"),
    "baseline": ({"options": {"baseline": "w"}}, "another: baseline None, now w"),
    "intercept": ({"options": {"fit_intercept": False}}, "another: intercept"),
    "covariance": ({"options": {"covariance": "hc1"}}, "another: covariance observed, now hc1"),
    "kind of weights": ({"options": {"weights": "sampling"}}, "another: kind of weights"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_the_checkpoint_of_another_fit_is_refused_and_kept(other, path, written):
    arguments, message = OTHERS[other]
    with pytest.raises(ValueError, match=message):
        fit(path, **arguments)
    assert path.read_bytes() == written


def test_another_version_and_changed_files_are_refused(tmp_path, path, monkeypatch):
    from nll.regression.softmax import streamed

    monkeypatch.setattr(streamed, "__version__", "0.0.1")
    with pytest.raises(ValueError, match=r"another: nll .*, now 0\.0\.1"):
        fit(path)
    TABLE.to_parquet(tmp_path / "t.parquet")
    fit(tmp_path / "own", tmp_path / "t.parquet")
    os.utime(tmp_path / "t.parquet", ns=(1, 1))
    with pytest.raises(ValueError, match="another: files"):
        fit(tmp_path / "own", tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:], "a damaged file"),
        (lambda data: data[:-1], "a damaged file"),
        (lambda data: data[:40], "a damaged file"),
        (lambda data: b"", "another file"),
        (lambda data: b"hello", "another file"),
        (lambda data: data.replace(b"checkpoint 2", b"checkpoint 9", 1), "another version"),
    ],
)
def test_a_damaged_file_is_refused(damage, message, path, written):
    path.write_bytes(damage(written))
    with pytest.raises(ValueError, match=f"expected a checkpoint in .*, got .*{message}"):
        fit(path)
    assert path.read_bytes() == damage(written)


def test_nothing_in_a_file_is_executed(path):
    class Run:
        def __reduce__(self):
            return os.mkdir, (str(path.parent / "made"),)

    path.write_bytes(checkpoints.packed({"what": Run()}))
    with pytest.raises(ValueError, match="got another file"):
        fit(path)
    assert not (path.parent / "made").exists()


class Stopped:
    """Rows during which a signal comes."""

    def __init__(self, number, after):
        self.number, self.left = number, after

    def __call__(self, _):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


@pytest.fixture(scope="module")
def expected():
    return fit(None)


@pytest.mark.parametrize(
    ("number", "after"), [(signal.SIGTERM, 4), (signal.SIGHUP, 12), (signal.SIGINT, 20)]
)
def test_a_signal_leaves_what_another_block_size_goes_on_from(number, after, tmp_path, expected):
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else SystemExit) as stopped:
        fit(tmp_path / "passes", progress=Stopped(number, after))
    assert number == signal.SIGINT or stopped.value.code == 128 + number
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert os.listdir(tmp_path) == ["passes"]
    found = fit(tmp_path / "passes", block_rows=470)
    torch.testing.assert_close(found.result_.vector, expected.result_.vector, rtol=1e-10, atol=0.0)
    torch.testing.assert_close(
        found.result_.covariance, expected.result_.covariance, rtol=1e-9, atol=0.0
    )


def test_one_fit_at_a_time(path):
    (path.parent / "link").symlink_to(path)
    path.unlink()
    refused = []

    def another(*_):
        with pytest.raises(ValueError, match="expected a checkpoint of its own for each fit") as no:
            fit(path.parent / "link")
        refused.append(str(no.value))

    fit(path, progress=another)
    assert refused
    assert all(message.endswith("passes, which is in use") for message in refused)
    fit(path.parent / "link")
    assert (path.parent / "link").is_symlink()
    assert sorted(os.listdir(path.parent)) == ["link", "passes"]


@pytest.mark.parametrize("place", [".", "no/passes", "/dev/null", "/proc/passes"])
def test_places_that_cannot_be_used(place, tmp_path):
    with pytest.raises(ValueError, match="expected"):
        fit(tmp_path / place)


def test_a_failed_write_leaves_the_old_file(path, written, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    fresh = path.parent / "fresh"
    monkeypatch.setattr(checkpoints.os, "fsync", full)
    with pytest.raises(
        ValueError,
        match=r"expected a checkpoint that can be written, got: .*No "
        r"space left",
    ):
        fit(fresh)
    assert os.listdir(path.parent) == ["passes"]


def test_classes_that_a_file_cannot_keep_are_said_before_the_first_pass(tmp_path):
    with pytest.raises(
        ValueError, match="expected classes and clusters of numbers, texts, bytes or times"
    ):
        fit(tmp_path / "passes", TABLE.assign(k=pd.PeriodIndex.from_ordinals(Y, freq="M")))
    assert not os.listdir(tmp_path)
