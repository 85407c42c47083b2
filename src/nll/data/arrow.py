"""Arrow: its readers of files, tables in memory as batches of a limited size, and its columns."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet, types

from nll.data.arrays import (
    array_of,
    is_pandas,
    require_columns,
    require_different,
    require_exact,
)
from nll.data.classes import Coded, object_array, of_array, plain_class
from nll.data.csv_dialect import Dialect
from nll.data.files import PARQUET, files_of
from nll.data.prefetch import ahead, height_of

_READ_BYTES = 1 << 20  # of a Parquet file at once: whole column chunks would take memory
_PLAIN = Dialect()
NUMERIC = (types.is_floating, types.is_integer, types.is_boolean, types.is_decimal)

Height = int | None  # rows of a batch, at most; None: about 16 MB of them
Names = list[str] | None  # of the columns to read; None: all


def _used(names: list[str], wanted: Names) -> list[str]:
    require_columns(wanted or [], names)
    used = [name for name in names if wanted is None or name in wanted]
    require_different(used)
    return used


def _cut(part: Any, rows: int) -> list[Any]:
    table = part if isinstance(part, pa.Table) else pa.Table.from_batches([part])
    return table.to_batches(max_chunksize=rows)


# ---- Tables in memory ----------------------------------------------------------------------------


def from_table(data: Any, rows: Height, wanted: Names) -> Iterator[Any]:
    """Yield a table of pandas, polars or Arrow, or an Arrow dataset, in batches."""
    frame = hasattr(data, "iloc") or hasattr(data, "iter_slices")
    data = data if frame or hasattr(data, "to_batches") else pa.table(data)
    names = [str(name) for name in data.columns] if frame else data.schema.names
    used = _used(names, wanted)
    height = height_of(rows, len(used))
    if hasattr(data, "scanner"):  # a dataset
        parts = data.to_batches(
            columns=used, batch_size=height, batch_readahead=1, fragment_readahead=1
        )
    elif hasattr(data, "iloc"):
        parts = _from_pandas(data.iloc[:, [names.index(name) for name in used]], height)
    elif frame:
        slices = data.select(used).iter_slices(height)
        parts = (part.to_arrow().combine_chunks() for part in slices)
    else:
        parts = [data.select(used)]
    for part in parts:
        yield from _cut(part, height)


def _from_pandas(data: Any, rows: int) -> Iterator[Any]:
    for start in range(0, len(data), rows):
        rows_here = data.iloc[start : start + rows]
        try:
            table = pa.Table.from_pandas(rows_here, preserve_index=False).combine_chunks()
        except (pa.ArrowException, TypeError) as error:
            reason = "; ".join(map(str, error.args))
            raise ValueError(
                f"expected columns of values of one type, got: {reason} (from row {start} on)"
            ) from None
        for at, column in enumerate(table.columns):
            if types.is_dictionary(column.type):  # the order of a Categorical counts
                part = column.chunk(0)
                ordered = pa.DictionaryArray.from_arrays(
                    part.indices, part.dictionary, ordered=True
                )
                table = table.set_column(at, table.schema.names[at], ordered)
        yield table


# ---- Files ---------------------------------------------------------------------------------------


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Raise a ValueError with the table's name where it cannot be read."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        hint = "; --encoding latin-1 or another may be right" if "utf" in str(error).lower() else ""
        raise ValueError(f"expected a readable table in {name}, got: {error}{hint}") from None


def from_file(path: Path, rows: Height, wanted: Names, dialect: Dialect = _PLAIN) -> Iterator[Any]:
    """Yield a Parquet or CSV file in batches."""
    with readable(str(path)):
        if path.suffix.lower() in PARQUET:
            with parquet.ParquetFile(path, buffer_size=_READ_BYTES, pre_buffer=False) as file:
                used = _used(file.schema_arrow.names, wanted)
                for batch in ahead(file.iter_batches(height_of(rows, len(used)), columns=used)):
                    yield batch.replace_schema_metadata()  # types are those of the file
        else:
            yield from _from_csv(path, rows, wanted, dialect.of(path, path.name))


def _from_csv(path: Path, rows: Height, wanted: Names, dialect: Dialect) -> Iterator[Any]:
    """Yield batches with the types that the whole file may need: a column that starts with integers
    may go on with other numbers.
    """
    with csv.open_csv(path, **dialect.options()) as reader:
        names = reader.schema.names
        require_different(names)
        start = next(iter(reader), None)
    kinds = {}
    for name, kind in zip(names, reader.schema.types, strict=True):
        integer = types.is_integer(kind) and not (start and rounds(start.column(name)))
        kinds[name] = pa.float64() if integer or types.is_null(kind) else kind
    used = _used(names, wanted)
    with csv.open_csv(path, **dialect.options(column_types=kinds, include_columns=used)) as reader:
        for batch in ahead(iter(reader)):
            yield from _cut(batch, height_of(rows, len(used)))


def read_whole(
    source: Path | bytes, name: str, wanted: Names = None, dialect: Dialect = _PLAIN
) -> Any:
    """Return a Parquet or CSV file, or its bytes, as an Arrow table.

    Args:
        source: a path, or what a file contains.
        name: how messages call it.
        wanted: the columns to read from a Parquet file. If one is missing, all are read: the error
            can then name them.
        dialect: how a CSV file is written.

    Raises: ValueError for a file that does not exist, or is of another kind.
    """
    if isinstance(source, Path):
        (path,) = files_of(source)
        is_parquet = path.suffix.lower() in PARQUET
    else:
        source = gzip.decompress(source) if source[:2] == b"\x1f\x8b" else source
        is_parquet = source[:4] == b"PAR1"
    if not is_parquet:
        return _whole_csv(source, dialect.of(source, name))
    if dialect != _PLAIN:
        raise ValueError(f"expected --sep, --decimal and --encoding with a CSV file, got {name}")
    schema = parquet.read_schema(_opened(source))
    for column in wanted or []:
        if column in schema.names and types.is_nested(schema.field(column).type):
            kind = schema.field(column).type
            raise ValueError(f"expected numbers, texts or times in column {column!r}, got {kind}")
    complete = wanted is not None and set(wanted) <= set(schema.names)
    return parquet.read_table(_opened(source), columns=wanted if complete else None)


def _opened(source: Path | bytes) -> Any:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _whole_csv(source: Path | bytes, dialect: Dialect) -> Any:
    options = dialect.options()
    try:
        return csv.read_csv(_opened(source), **options)
    except pa.ArrowInvalid:  # the types were guessed from the first block: take all rows
        size = len(source) if isinstance(source, bytes) else source.stat().st_size * 16
        options["read_options"].block_size = min(max(size, 1 << 20), (1 << 31) - 1)
        return csv.read_csv(_opened(source), **options)


# ---- Columns -------------------------------------------------------------------------------------


def numbers_of(column: Any, name: str, first: int) -> np.ndarray:
    """Return the numbers of a column, NaN where one is missing; `first`: the first row's number."""
    column = column.dictionary_decode() if types.is_dictionary(column.type) else column
    kind = column.type
    if types.is_floating(kind) and kind != pa.float16():
        return column.to_numpy(zero_copy_only=column.null_count == 0)
    if not any(is_one(kind) for is_one in (*NUMERIC, types.is_null)):
        row = column.is_valid().index(True).as_py()
        got = f"{column[row].as_py()!r} at row {first + row}" if row >= 0 else f"a column of {kind}"
        raise ValueError(f"expected numbers in column {name!r}, got {got}")
    if types.is_integer(kind) and rounds(column):
        require_exact(array_of(column), f"numbers in column {name!r}", first)
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def rounds(column: Any) -> bool:
    """Whether a column has integers beyond 2^53, some of which float64 would merge."""
    ends = [end.as_py() or 0 for end in pc.call_function("min_max", [column]).values()]
    return max(map(abs, ends)) > 1 << 53


def classes_of(column: Any, name: str) -> tuple[Coded, np.ndarray | None]:
    """Return the classes of a column as `of_array` does; levels without rows are left out."""
    kind = column.type
    if types.is_floating(kind) or (types.is_integer(kind) and not column.null_count):
        return of_array(column.to_numpy(zero_copy_only=False), name)
    if types.is_dictionary(kind):
        levels = column.dictionary
        if levels.null_count or is_pandas(levels.type):
            column = column.dictionary_decode()
    if is_pandas(column.type):
        return of_array(column.to_pandas().to_numpy(dtype=object), name)
    if not types.is_dictionary(column.type):
        try:
            column = column.dictionary_encode()
        except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # values that Arrow cannot compare
            return of_array(object_array(column.to_pylist()), name)
    present = None if not column.null_count else column.is_valid().to_numpy(False)
    codes = column.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    counted = codes if present is None else codes[present]
    used = np.bincount(counted, minlength=len(column.dictionary)) > 0
    levels = column.dictionary.take(pa.array(np.flatnonzero(used))).to_pylist()
    values = [plain_class(value, name) for value in levels]
    place = np.maximum(np.cumsum(used) - 1, 0)
    return Coded(values, place[codes] if len(place) else codes), present
