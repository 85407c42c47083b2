"""Read a table from a file or the standard input: CSV (also compressed) or Parquet."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa

from nll.data.arrays import require_different
from nll.data.arrow import read_whole, readable, rounds
from nll.data.csv_dialect import Dialect
from nll.data.files import SUFFIXES

_PLAIN = Dialect()


def known_file(path: Path) -> bool:
    """Whether this is an existing file of a kind that can be read."""
    return path.is_file() and path.suffix.lower() in SUFFIXES


def name_of(path: Path) -> str:
    """Return the table's name for titles and messages."""
    return "standard input" if is_piped(path) else path.name


def is_piped(path: Path) -> bool:
    """Whether the table can be read only once, and has no name that identifies its kind."""
    return str(path) == "-" or path.is_fifo() or path.is_char_device()


def read_table(
    path: Path, wanted: list[str] | None = None, dialect: Dialect = _PLAIN
) -> pd.DataFrame:
    """Read a table; from a Parquet file, only the columns `wanted` if it has them all.

    Raises: ValueError for a file that does not exist, is of another kind, or cannot be read.
    """
    if path.is_dir():
        raise ValueError(f"expected a file, got the folder {path}")
    with readable(name_of(path)):
        source = _drained(path) if is_piped(path) else path
        return _frame(read_whole(source, name_of(path), wanted, dialect))


def _frame(table: pa.Table) -> pd.DataFrame:
    require_different(table.column_names)
    if table.num_rows == 0:
        raise ValueError("expected at least one row, got none")
    # rows are numbered from 0, types are those of the file
    frame = table.to_pandas(ignore_metadata=True)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count and pa.types.is_integer(column.type) and rounds(column):
            frame[name] = pd.array(column.to_pylist(), dtype="Int64")
    return frame


def _drained(path: Path) -> bytes:
    if str(path) != "-":
        return path.read_bytes()
    if sys.stdin is None:
        raise ValueError("expected a table on the standard input, got none: it is closed")
    return sys.stdin.buffer.read()
