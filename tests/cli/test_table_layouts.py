"""Tables as people have them: the same result for a file read whole, the same file in blocks, and a
folder.
"""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from nll.cli.app import app

N = 90
RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(
    {
        "x": RNG.normal(size=N),
        "y": RNG.integers(0, 2, N),
        "g": RNG.choice(list("abc"), N),
        "k": RNG.choice(["d", "e", "f", "h"], N),
        "w": RNG.integers(1, 4, N).astype(float),
    }
)


def run(*arguments):
    found = CliRunner().invoke(app, [*map(str, arguments)])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


def result(path, *arguments):
    out = path.parent / "out.json"
    found = run("fit", path, *arguments, "--json", out)
    assert (found.exit_code, found.stderr) == (0, "")
    return json.loads(out.read_text())


def gaps(table):
    """One row without a cluster, one without a weight, one without both."""
    table = table.astype({"k": object})
    table.loc[[3, 7], "k"] = None
    table.loc[[7, 11], "w"] = np.nan
    return table


WRITTEN = {
    "t.csv": lambda table, path: table.to_csv(path, index=False),
    "t.parquet": lambda table, path: table.to_parquet(path),
    "nullable.parquet": lambda table, path: table.convert_dtypes().to_parquet(path),
    "arrow.parquet": lambda table, path: table.convert_dtypes(dtype_backend="pyarrow").to_parquet(
        path
    ),
    "indexed.parquet": lambda table, path: table.set_index(
        pd.Index(np.arange(N)[::-1] * 3, name="i")
    ).to_parquet(path),
    "sliced.parquet": lambda table, path: (
        pd.concat([table, table]).sort_index()[::2].to_parquet(path)
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_rows_with_gaps_are_left_out_alike(name, tmp_path):
    table = gaps(TABLE)
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in (tmp_path / name, folder / name):
        WRITTEN[name](table, path)
    options = ("y ~ x + g", "--weights", "w", "--cluster", "k", "--missing", "drop")
    whole, blocks = result(tmp_path / name, *options), result(folder, *options)
    expected = result_of_complete(table, tmp_path, *options[:-2])
    for found in (whole, blocks):
        assert found["dropped"] == 3
        assert found["names"] == expected["names"]
        assert found["log_likelihood"] == pytest.approx(expected["log_likelihood"], rel=1e-11)
        errors = np.array(found["standard_errors"]["coef"])
        assert errors == pytest.approx(np.array(expected["standard_errors"]["coef"]), rel=1e-8)
    by = result(
        tmp_path / name, "--column", "w", "--family", "normal", "--by", "k", "--missing", "drop"
    )
    assert by["group"] == ["d", "e", "f", "h"]
    assert sum(by["n"]) == N - 3


def result_of_complete(table, folder, *options):
    table.dropna().to_csv(folder / "complete.csv", index=False)
    return result(folder / "complete.csv", *options)


@pytest.mark.parametrize("response", ["g", "k"])
@pytest.mark.parametrize("name", ["nullable.parquet", "arrow.parquet"])
def test_texts_of_every_type_are_classes(name, response, tmp_path):
    WRITTEN[name](TABLE, tmp_path / name)
    WRITTEN["t.csv"](TABLE, tmp_path / "t.csv")
    found, expected = (result(tmp_path / file, f"{response} ~ x") for file in (name, "t.csv"))
    assert found["names"] == expected["names"]
    assert found["log_likelihood"] == pytest.approx(expected["log_likelihood"], rel=1e-12)


def test_integers_that_float64_would_merge(tmp_path):
    ids = pd.array(
        [None if row == 5 else 2**60 + code for row, code in enumerate(TABLE.y)], dtype="Int64"
    )
    for name in ("t.csv", "t.parquet"):
        WRITTEN[name](TABLE.assign(y=ids), tmp_path / name)
        found = result(tmp_path / name, "y ~ x", "--missing", "drop")
        assert found["names"][0] == f"coef[{2**60 + 1}, Intercept]"


FOLDERS = [
    ("y ~ C(y2)", lambda t: t.assign(y2=t.w), lambda t: t.assign(y2="0x"),
     "expected values of one kind in column 'y2', got numbers in 0.csv and texts in 1.csv, from "
     "row 90 on"),
    ("y ~ g", lambda t: t, lambda t: t.assign(g=t.w),
     "expected values of one kind in column 'g', got texts in 0.csv and numbers in 1.csv, from row "
     "90 on"),
    ("y ~ x + g", lambda t: t, lambda t: t.assign(x=["bad", *t.x[1:]]),
     "expected numbers in column 'x', got 'bad' at row 90"),
    ("y ~ x", lambda t: t, lambda t: t.assign(x=["bad", *t.x[1:]]),
     "expected numbers in column 'x', got 'bad' at row 90"),
    ("y ~ x", lambda t: t, lambda t: t.assign(y="yes"), "expected classes of one type, got int and "
                                                        "str"),
    ("y ~ x", lambda t: t, lambda t: t.drop(columns="x"), "expected a column of the table, got "
                                                          "'x'; the table has y, g, k, w"),
    ("y ~ x", lambda t: t.rename(columns={"w": "x"}).iloc[:, ::-1], lambda t: t,
     "expected columns with different names, got 'x' twice"),
]  # fmt: skip


@pytest.mark.parametrize(("formula", "first", "second", "message"), FOLDERS)
def test_folders_whose_files_disagree(formula, first, second, message, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, change in enumerate((first, second)):
        change(TABLE).to_csv(folder / f"{number}.csv", index=False)
    found = run("fit", folder, formula)
    assert (found.exit_code, found.stderr) == (2, f"nll: {message}\n")


def test_a_file_without_values_of_a_column_agrees_with_the_others(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for number, table in enumerate((TABLE[:50], TABLE[50:].assign(g=None))):
        table.to_csv(folder / f"{number}.csv", index=False)
    assert result(folder, "y ~ x + g", "--missing", "drop")["dropped"] == 40


def test_a_column_whose_name_begins_like_a_category_stays_a_number(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    TABLE.assign(w2=TABLE.w).to_csv(folder / "0.csv", index=False)
    assert result(folder, "y ~ w + C(w2)", "--alpha", "1")["names"] == [
        f"coef[1, {name}]" for name in ("Intercept", "w", "C(w2)[T.2]", "C(w2)[T.3]")
    ]


@pytest.mark.parametrize("formula", ["y ~ l", "l ~ x", "y ~ C(l)", "y ~ l + g"])
def test_a_column_of_lists_is_said(formula, tmp_path):
    (tmp_path / "folder").mkdir()
    table = pa.table({"y": TABLE.y, "x": TABLE.x, "g": TABLE.g, "l": [[1, 2]] * N})
    for path in (tmp_path / "t.parquet", tmp_path / "folder" / "t.parquet"):
        pyarrow.parquet.write_table(table, path)
    for path in (tmp_path / "t.parquet", tmp_path / "folder"):
        found = run("fit", path, formula)
        assert found.exit_code == 2
        assert "column 'l'" in found.stderr


def test_times_are_classes_and_groups_by_their_days(tmp_path):
    days = pd.to_datetime("2024-01-01") + pd.to_timedelta(TABLE.y, unit="D")
    table, names = TABLE.assign(t=days, d=days.dt.date), ["2024-01-01", "2024-01-02"]
    for name in ("t.csv", "t.parquet"):
        (tmp_path / name[2:]).mkdir()
        for path in (tmp_path / name, tmp_path / name[2:] / name):
            WRITTEN[name](table, path)
        for column in ("t", "d"):
            for path in (tmp_path / name, tmp_path / name[2:]):
                found = result(path, f"{column} ~ x")
                assert (found["baseline"], found["names"][1]) == (names[0], f"coef[{names[1]}, x]")
            by = result(tmp_path / name, "--column", "w", "--family", "normal", "--by", column)
            assert by["group"] == names


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line(tmp_path):
    warning = "nll: expected rows of every category of y, got none of z: left out\n"
    for ordered, stderr in ((True, warning), (False, "")):
        table = TABLE.assign(g=pd.Categorical(TABLE.g, ["b", "z", "a", "c"], ordered=ordered))
        table.to_parquet(tmp_path / "t.parquet")
        found = run("fit", tmp_path / "t.parquet", "g ~ x")
        assert (found.exit_code, found.stderr) == (0, stderr)


def test_margins_of_blocks_read_the_dialect(tmp_path):
    (tmp_path / "folder").mkdir()
    # the first weighs nothing
    for number, part in enumerate((TABLE[:50].assign(w=0.0), TABLE[50:])):
        part.to_csv(tmp_path / "folder" / f"{number}.csv", index=False, sep="|", decimal=",")
    TABLE[50:].to_csv(tmp_path / "t.csv", index=False)
    options = ["y ~ x + g", "--weights", "w", "--margins"]
    whole, blocks = (
        result(tmp_path / "t.csv", *options),
        result(tmp_path / "folder", *options, "--sep", "|", "--decimal", ","),
    )
    assert blocks["margins"]["columns"] == whole["margins"]["columns"]
    np.testing.assert_allclose(blocks["margins"]["effects"], whole["margins"]["effects"], rtol=1e-7)
