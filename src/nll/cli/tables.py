"""Read a table from a file: CSV (also compressed) or Parquet."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from nll.likelihood.stream import rounds

_CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_PARQUET = (".parquet", ".pq")


def known_file(path: Path) -> bool:
    """Whether it is there, of a kind that can be read."""
    return path.is_file() and path.name.lower().endswith((*_CSV, *_PARQUET))


def read_table(path: Path, wanted: list[str] | None = None) -> pd.DataFrame:
    """Read a table; of a Parquet file, only the columns `wanted` that it has.

    Raises ValueError for a file that is not there, is of another kind, or cannot be read as what it says it is.
    """
    if not path.exists():
        raise ValueError(f"expected a table, got no such file: {path}")
    if path.is_dir():
        raise ValueError(f"expected a file, got the folder {path}")
    name = path.name.lower()
    try:
        if name.endswith(_PARQUET):
            return _frame(_parquet(path, wanted))
        if name.endswith(_CSV):
            return _frame(_csv(path, "\t" if ".tsv" in name else ","))
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"expected a readable table in {path}, got: {error}") from None
    raise ValueError(f"expected a file named {', '.join((*_CSV, *_PARQUET))}, got {path.name}")


def _parquet(path: Path, wanted: list[str] | None) -> pa.Table:
    schema = pyarrow.parquet.read_schema(path)
    present = schema.names
    for name in wanted or []:
        if name in present and pa.types.is_nested(schema.field(name).type):
            raise ValueError(f"expected numbers, texts or times in column {name!r}, got {schema.field(name).type}")
    # All columns when one is not there, so that the error can name those that are.
    columns = wanted if wanted is not None and set(wanted) <= set(present) else None
    return pyarrow.parquet.read_table(path, columns=columns)


def _csv(path: Path, delimiter: str) -> pa.Table:
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter)
    convert = pyarrow.csv.ConvertOptions(strings_can_be_null=True)
    try:
        return pyarrow.csv.read_csv(path, parse_options=parse, convert_options=convert)
    except pa.ArrowInvalid:
        # A column's type is guessed from the first block; guess again from all rows.
        block = min(max(path.stat().st_size * 16, 1 << 20), (1 << 31) - 1)
        read = pyarrow.csv.ReadOptions(block_size=block)
        return pyarrow.csv.read_csv(path, read_options=read, parse_options=parse, convert_options=convert)


def _frame(table: pa.Table) -> pd.DataFrame:
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise ValueError(f"expected columns with different names, got {', '.join(map(repr, twice))} twice")
    if table.num_rows == 0:
        raise ValueError("expected at least one row, got none")
    frame = table.to_pandas(ignore_metadata=True)  # rows are numbered from 0, types are those of the file
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count and pa.types.is_integer(column.type) and rounds(column):
            frame[name] = pd.array(column.to_pylist(), dtype="Int64")
    return frame
