"""Tables that are fitted without being held in memory."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from nll.cli.tables import known_file
from nll.data.csv_files import Dialect
from nll.data.stream import Stream, blocks_in
from nll.regression.formula.parser import Parsed, parse, response_of, variables
from nll.regression.formula.streamed import formula_stream
from nll.regression.formula.terms import Terms

# From this size in memory on; a smaller table is read at once, which is faster.
_LARGE_BYTES = 1 << 28


def stream(
    path: Path,
    formula: str,
    weights: str | None,
    cluster: str | None,
    missing: str,
    wanted: bool,
    dialect: Dialect,
) -> tuple[Stream, Terms] | None:
    """The table in blocks, and the formula's terms; None: it is to be read at once.

    Args:
        path: a file, or a folder of files.
        formula: of a softmax regression.
        weights: the column of frequencies.
        cluster: the column of groups of rows that go together.
        missing: "raise" or "drop".
        wanted: whether it must be in blocks.
        dialect: how CSV files are written.

    Raises: ValueError where the table must be in blocks and the formula has terms that depend on
        all rows.
    """
    parsed = parse(formula)
    if wanted and not (path.is_file() or path.is_dir()) and (path.exists() or str(path) == "-"):
        raise ValueError(
            f"expected a file or a folder to be read in blocks, again for each step, got {path}"
        )
    if not (wanted or (known_file(path) and _size(path, parsed) > _LARGE_BYTES)):
        return None
    data = source(path, dialect)
    response = response_of(parsed)
    if response not in variables(parsed):
        raise ValueError(
            f"expected a column as the response of a table that is read in blocks, got {response!r}"
        )
    found = formula_stream(data, formula, weights, cluster, missing)
    if not isinstance(found, str):
        return found
    if not wanted:
        return None
    raise ValueError(
        f"expected terms of single rows in the formula of a table that is read in "
        f"blocks, got {found}"
    )


def source(path: Path, dialect: Dialect) -> Any:
    """A file or folder as streams take it."""
    return path if dialect == Dialect() else partial(blocks_in, path, dialect)


def _size(path: Path, formula: Parsed) -> int:
    """Of the columns in memory, about: a number in a CSV file takes a few characters."""
    if path.suffix.lower() in (".parquet", ".pq"):
        import pyarrow as pa
        from pyarrow.parquet import read_metadata

        try:
            return read_metadata(path).num_rows * 8 * len(variables(formula))
        except (pa.ArrowException, OSError):
            return 0  # who reads it says what is wrong
    return path.stat().st_size * (4 if path.suffix.lower() == ".gz" else 1)
