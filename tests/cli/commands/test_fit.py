"""What `nll fit` refuses, and in which words."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from fit_command import run, tables, write_files


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def in_folder(data, monkeypatch):
    """What the tests write goes where they read."""
    monkeypatch.chdir(data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kind ~ y", "--by", "kind"], "--by can only be used with --column"),
        (
            ["--column", "y", "--family", "normal", "--by", "kind", "--report", "r.html"],
            "--by cannot be combined with --report",
        ),
        (["--column", "y", "--family", "normal", "--by", "nothing"], "nothing"),
    ],
)
def test_groups_and_censoring_are_for_columns(arguments, message):
    found = run("t.csv", *arguments)
    assert found.exit_code == 2
    assert message in found.stderr


KINDS = "expected --family to be one of "
COLUMN_FAMILIES = (
    "bernoulli, geometric, poisson, categorical, normal, log_normal, exponential, laplace, "
    "uniform, gamma, "
    "inverse_gamma, chi2, beta, kumaraswamy, student_t, cauchy, gumbel, generalized_extreme_value, "
    "skew_normal, "
    "von_mises, weibull, half_cauchy, half_normal, pareto, inverse_gaussian, fisher_snedecor, "
    "continuous_bernoulli, "
    "negative_binomial, shifted_gamma, shifted_weibull, shifted_log_normal, "
    "shifted_inverse_gaussian, "
    "shifted_inverse_gamma, zero_inflated_poisson, zero_inflated_negative_binomial, "
    "zero_inflated_geometric, "
    "normal_mixture"
)
SUFFIXES = ".csv, .tsv, .csv.gz, .tsv.gz, .parquet, .pq"
NO_FOLDER = "no such folder: nowhere"
TABLE = tables()
NAMES = ", ".join(TABLE.columns)


def first(mask: pd.Series) -> int:
    return int(mask.to_numpy().argmax())


ROW_3 = "expected a non-negative integer, got -4 at row 3"

TOUR = [
    # The file.
    (["none.csv", "y ~ x"], "no such file: none.csv"),
    (
        ["folder.csv", "y ~ x"],
        f"expected a folder with files named {SUFFIXES}, got folder.csv",
    ),
    (["empty.csv", "y ~ x"], "expected a readable table in empty.csv, got: Empty CSV file"),
    (["header.csv", "y ~ x"], "expected at least one row, got none"),
    (["twice.csv", "y ~ 1"], "expected columns with different names, got 'y' twice"),
    (
        ["ragged.csv", "y ~ x"],
        "expected a readable table in ragged.csv, got: CSV parse error: Expected 2 columns, got 1: "
        "3",
    ),
    (
        ["broken.parquet", "y ~ x"],
        "expected a readable table in broken.parquet, got: "
        "Parquet file size is 2 bytes, smaller than the minimum file footer (8 bytes)",
    ),
    (["table.xlsx", "y ~ x"], f"expected a file named {SUFFIXES}, got table.xlsx"),
    # What to fit.
    (["t.csv"], "expected either a formula or --column, got neither"),
    (["t.csv", "y ~ x", "--column", "x"], "expected either a formula or --column, got both"),
    (["t.csv", "--column", "x"], "--column needs --family"),
    (
        ["t.csv", "y ~ x", "--family", "gamma"],
        KINDS + "softmax, bernoulli, poisson, normal, negative_binomial, got 'gamma'",
    ),
    (
        ["t.csv", "y ~ x", "--family", "laplace"],
        KINDS + "softmax, bernoulli, poisson, normal, negative_binomial, got 'laplace'",
    ),
    (
        ["t.csv", "--column", "x", "--family", "softmax"],
        KINDS + COLUMN_FAMILIES + ", got 'softmax'",
    ),
    (
        ["t.csv", "y ~ x", "--family", "normal", "--baseline", "1"],
        "--baseline can only be used with --family softmax, got normal",
    ),
    (
        ["t.csv", "y ~ x", "--family", "normal", "--alpha", "1"],
        "--alpha can only be used with --family softmax, got normal",
    ),
    (
        ["t.csv", "kind ~ x", "--baseline", "elm"],
        "expected baseline to be one of ash, birch, oak, got elm",
    ),
    (["t.csv", "kind ~ x", "--alpha", "inf"], "expected a finite alpha of at least 0, got inf"),
    # The formula.
    (["t.csv", "x + z"], "expected a formula with one response, like 'y ~ a + b', got 'x + z'"),
    (["t.csv", ""], "expected a formula with one response, like 'y ~ a + b', got ''"),
    (
        ["t.csv", "kind ~ (x"],
        "expected a formula like 'y ~ a + b', got 'kind ~ (x': Could not find matching context "
        "marker.",
    ),
    (
        ["t.csv", "kind ~ two words"],
        "expected a formula like 'y ~ a + b', got 'kind ~ two words': Missing operator between "
        "`two` "
        "and `words`.",
    ),
    (
        ["t.csv", "kind ~ x | z"],
        "expected a formula with one set of columns, like 'y ~ a + b', got 'kind ~ x | z'",
    ),
    (["t.csv", "kind ~ 0"], "expected at least one column or an intercept, got 'kind ~ 0'"),
    # The columns.
    (["t.csv", "kind ~ xx"], "expected a column of the table, got 'xx'; did you mean x?"),
    (["t.csv", "knd ~ x"], "expected a column of the table, got 'knd'; did you mean kind?"),
    (
        ["t.parquet", "kind ~ 1 + mass"],
        f"expected a column of the table, got 'mass'; the table has {NAMES}",
    ),
    (
        ["t.csv", "--column", "counts", "--family", "poisson"],
        "expected a column of the table, got 'counts'; did you mean count?",
    ),
    (
        ["t.csv", "kind ~ gap + hole"],
        "expected no missing values, got 2 incomplete rows (gap: 2, hole: 1); --missing drop "
        "leaves "
        "them out",
    ),
    (
        ["t.csv", "--column", "gap", "--family", "normal"],
        "expected no missing values, got 2 incomplete rows (gap: 2); --missing drop leaves them "
        "out",
    ),
    (["t.csv", "kind ~ x + same"], "expected columns that vary, got constant column 'same'"),
    (["t.csv", "kind ~ only"], "expected columns that vary, got constant column 'only'"),
    (["t.csv", "only ~ x"], "expected at least two classes, got one class: q"),
    (
        ["t.csv", "same ~ x", "--family", "normal"],
        "expected a response that varies, got 1.5 in every row",
    ),
    (
        ["t.csv", "kind ~ texts"],
        "expected numbers in column 'texts', got 'high' at row 0; C(texts) takes its values as "
        "categories",
    ),
    (
        ["t.csv", "kind ~ np.log(w)"],
        f"expected finite values in column 'np.log(w)', got -inf at row {first(TABLE.w == 0)}",
    ),
    (
        ["t.csv", "kind ~ np.log(x)"],
        f"expected finite values in column 'np.log(x)', got nan at row {first(TABLE.x < 0)}",
    ),
    (
        ["t.csv", "kind ~ x + I(2 * x)"],
        "expected linearly independent columns, got 'x' = +0.5 I(2 * x) in every row",
    ),
    (
        ["t.csv", "texts ~ x", "--family", "poisson"],
        "expected numbers in column 'texts', got 'high' at row 0",
    ),
    (
        ["t.csv", "--column", "texts", "--family", "normal"],
        "expected numbers in column 'texts', got 'high' at row 0",
    ),
    (
        ["t.csv", "order ~ x", "--family", "bernoulli"],
        "data outside the support of bernoulli: expected 0 or 1, got 2 at row 2",
    ),
    (
        ["t.csv", "x ~ z"],
        "softmax expects classes, but 'x' has measurements; use family normal",
    ),
    (
        ["t.csv", "--column", "negative", "--family", "poisson"],
        "data outside the support of Poisson: expected a non-negative integer, got -2 at row 0",
    ),
    # The rows, by their number in the file.
    (
        ["rows.csv", "k ~ x", "--family", "poisson", "--missing", "drop"],
        "data outside the support of poisson: " + ROW_3,
    ),
    (
        ["rows.csv", "--column", "k", "--family", "poisson"],
        "data outside the support of Poisson: " + ROW_3,
    ),
    (
        ["rows.csv", "k ~ x", "--weights", "w", "--missing", "drop"],
        "expected finite weights of at least 0, got -6 at row 4",
    ),
    # The weights.
    (
        ["t.csv", "kind ~ x", "--weights", "negative"],
        "expected finite weights of at least 0, got -2 at row 0",
    ),
    (
        ["t.csv", "kind ~ x", "--weights", "g"],
        f"expected numbers in column 'g', got {TABLE.g[0]!r} at row 0",
    ),
    (
        ["t.csv", "kind ~ x", "--weights", "nope"],
        f"expected a column of the table, got 'nope'; the table has {NAMES}",
    ),
    (
        ["t.csv", "kind ~ x", "--weights", "gap"],
        "expected no missing values, got 2 incomplete rows (gap: 2); --missing drop leaves them "
        "out",
    ),
    # Where to write.
    (["t.csv", "kind ~ x", "--json", "nowhere/f"], NO_FOLDER),
    (["t.csv", "kind ~ x", "--report", "nowhere/f"], NO_FOLDER),
    (
        ["t.csv", "kind ~ x", "--json", "folder.csv"],
        "expected a file to write, got the folder folder.csv",
    ),
    (
        ["t.csv", "kind ~ x", "--report", "folder.csv"],
        "expected a file to write, got the folder folder.csv",
    ),
]


@pytest.mark.parametrize(
    ("arguments", "message"), TOUR, ids=[" ".join(arguments) for arguments, _ in TOUR]
)
def test_the_tour_of_bad_input(arguments, message):
    result = run(*arguments)
    assert (result.exit_code, result.stderr, result.stdout) == (2, f"nll: {message}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["t.csv", "y ~ x", "--missing", "keep"], "'keep' is not one of 'error', 'drop'"),
        (["t.csv", "y ~ x", "--level", "1.5"], "Invalid value for '--level'"),
        (["t.csv", "y ~ x", "--level", "most"], "Invalid value for '--level'"),
        (["t.csv", "y ~ x", "--alpha", "-1"], "Invalid value for '--alpha'"),
        (["t.csv", "y ~ x", "--penalty", "1"], "No such option: --penalty"),
        ([], "Missing argument"),
    ],
)
def test_options_that_the_parser_refuses(arguments, message):
    result = run(*arguments)
    assert message in " ".join(re.sub("[│╭╮╰╯─]", " ", result.stderr).split())
    assert (result.exit_code, result.stdout) == (2, "")
