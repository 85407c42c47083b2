"""Read a table from a file or the standard input: CSV (also compressed) or Parquet."""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import typer

from nll.data.csv_files import Dialect
from nll.data.stream import rounds

Table = Annotated[
    Path, typer.Argument(help="A CSV or Parquet file; - is the standard input.", show_default=False)
]
Sep = Annotated[
    str | None, typer.Option(help="What separates the columns of a CSV file; , or ; is recognised.")
]
Decimal = Annotated[str | None, typer.Option(help="The decimal sign of a CSV file, . or a comma.")]
Encoding = Annotated[
    str | None, typer.Option(help="Of a CSV file, such as latin-1; UTF-8 unless given.")
]

_CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_PARQUET = (".parquet", ".pq")
_PLAIN = Dialect()


def dialect_of(sep: str | None, decimal: str | None, encoding: str | None) -> Dialect:
    """How a CSV file is written, from the options; ValueError for what cannot be meant."""
    return Dialect("\t" if sep in ("\\t", "tab") else sep, decimal, encoding).check()


def known_file(path: Path) -> bool:
    """Whether it is there, of a kind that can be read."""
    return path.is_file() and path.name.lower().endswith((*_CSV, *_PARQUET))


def name_of(path: Path) -> str:
    """A table as a title has it."""
    return "standard input" if is_piped(path) else path.name


def is_piped(path: Path) -> bool:
    """Whether it can be read once only, and has no name that tells its kind."""
    return str(path) == "-" or path.is_fifo() or path.is_char_device()


def read_table(
    path: Path, wanted: list[str] | None = None, dialect: Dialect = _PLAIN
) -> pd.DataFrame:
    """Read a table; of a Parquet file, only the columns `wanted` that it has.

    Raises ValueError for a file that is not there, is of another kind, or cannot be read as what it
    says it is.
    """
    name, piped = path.name.lower(), is_piped(path)
    if not piped and not path.exists():
        raise ValueError(f"expected a table, got no such file: {path}")
    if path.is_dir():
        raise ValueError(f"expected a file, got the folder {path}")
    try:
        source: Any = _drained(path) if piped else path
        parquet = source[:4] == b"PAR1" if isinstance(source, bytes) else name.endswith(_PARQUET)
        if parquet and dialect != _PLAIN:
            raise ValueError(
                f"expected --sep, --decimal and --encoding with a CSV file, got {name_of(path)}"
            )
        if parquet:
            return _frame(_parquet(source, wanted))
        if piped or name.endswith(_CSV):
            return _frame(_csv(source, dialect.of(source, path.name)))
    except UnicodeDecodeError as error:
        raise ValueError(_not_readable(path, error)) from None
    except (pa.ArrowException, OSError) as error:
        raise ValueError(_not_readable(path, error)) from None
    raise ValueError(f"expected a file named {', '.join((*_CSV, *_PARQUET))}, got {path.name}")


def _not_readable(path: Path, error: Exception) -> str:
    hint = "; --encoding latin-1 or another may be right" if "utf" in str(error).lower() else ""
    return f"expected a readable table in {name_of(path)}, got: {error}{hint}"


def _drained(path: Path) -> bytes:
    """All bytes of a pipe, unpacked."""
    if str(path) == "-" and sys.stdin is None:
        raise ValueError("expected a table on the standard input, got none: it is closed")
    data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def _open(source: Any) -> Any:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _parquet(source: Any, wanted: list[str] | None) -> pa.Table:
    schema = pyarrow.parquet.read_schema(_open(source))
    present = schema.names
    for name in wanted or []:
        if name in present and pa.types.is_nested(schema.field(name).type):
            raise ValueError(
                f"expected numbers, texts or times in column {name!r}, got "
                f"{schema.field(name).type}"
            )
    # All columns when one is not there, so that the error can name those that are.
    columns = wanted if wanted is not None and set(wanted) <= set(present) else None
    return pyarrow.parquet.read_table(_open(source), columns=columns)


def _csv(source: Any, dialect: Dialect) -> pa.Table:
    options = dialect.options()
    try:
        return pyarrow.csv.read_csv(_open(source), **options)
    except pa.ArrowInvalid:
        # A column's type is guessed from the first block; guess again from all rows.
        size = len(source) if isinstance(source, bytes) else source.stat().st_size * 16
        options["read_options"].block_size = min(max(size, 1 << 20), (1 << 31) - 1)
        return pyarrow.csv.read_csv(_open(source), **options)


def _frame(table: pa.Table) -> pd.DataFrame:
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise ValueError(
            f"expected columns with different names, got {', '.join(map(repr, twice))} twice"
        )
    if table.num_rows == 0:
        raise ValueError("expected at least one row, got none")
    # rows are numbered from 0, types are those of the file
    frame = table.to_pandas(ignore_metadata=True)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count and pa.types.is_integer(column.type) and rounds(column):
            frame[name] = pd.array(column.to_pylist(), dtype="Int64")
    return frame
