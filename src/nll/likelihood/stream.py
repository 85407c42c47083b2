"""Tables that may be larger than memory, a block of rows at a time, as often as they are asked for."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice, starmap
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from nll.likelihood.blocks import ahead, in_order
from nll.likelihood.csv_files import Dialect

_BLOCK_BYTES = 1 << 24  # of the numbers of a block
_READ_BYTES = 1 << 20  # of a Parquet file at once: whole column chunks would take memory
_READERS = 2  # of a Parquet file, each of its share of the columns
_LANES = 4  # of blocks that are worked on, at the most
_FILES = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".gz": "csv"}


T = TypeVar("T")


class Coded(NamedTuple):
    """Classes as numbers."""

    values: list[Any]  # the different ones
    codes: np.ndarray  # (n) int64, which of them


class Block(NamedTuple):
    """Some rows of the table, in their order."""

    x: Tensor  # (n, q) float32 or float64
    response: Coded
    weights: Tensor | None  # (n) float64
    dropped: int  # rows with missing values that were left out
    ends: tuple[np.ndarray, np.ndarray] | None = None  # (q): the least and largest values, where they are known
    clusters: Coded | None = None


class Stream:
    """The rows of a table, read again for each pass.

    Args:
        data: a Parquet or CSV file, or a folder of such; a pandas, polars or Arrow table, or an Arrow dataset; (X, y)
            or (X, y, weights) of arrays or tensors, memory-mapped ones too; an iterable of any of these, such as a list
            of files, or a function without arguments that returns one.
        response: of tables, the name of the column of classes.
        columns: of tables, the names of the columns of numbers; None: all others.
        weights: of tables, the name of the column of frequencies.
        clusters: of tables, the name of the column of groups of rows that are not independent of each other.
        missing: "raise", or "drop" to leave out rows with a missing value in a column that is used.
        block_rows: how many rows are read at a time, at the most; None: as many as take 16 MB.
        progress: called with the number of rows that a pass has read, again and again.

    Raises: ValueError, when the rows are read, for a column that is not there, a text in a column of numbers, missing
    or infinite values, negative weights; TypeError for data that cannot be gone through twice.
    """

    def __init__(
        self,
        data: Any,
        response: str | None = None,
        columns: Sequence[str] | None = None,
        weights: str | None = None,
        clusters: str | None = None,
        *,
        missing: str = "raise",
        block_rows: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        if missing not in ("raise", "drop"):
            raise ValueError(f"expected missing to be raise or drop, got {missing!r}")
        whole = isinstance(block_rows, int) and not isinstance(block_rows, bool) and block_rows >= 1
        if block_rows is not None and not whole:
            raise ValueError(f"expected block_rows as an integer of at least 1, got {block_rows!r}")
        if isinstance(columns, str):
            raise TypeError(f"expected columns as a list of names, got the text {columns!r}")
        if hasattr(data, "__next__"):
            raise TypeError(
                f"expected data that can be gone through more than once, got a {type(data).__name__}; "
                "a function that returns one can be called again"
            )
        self.data, self.response, self.weights, self.clusters = data, response, weights, clusters
        self.columns = None if columns is None else [str(name) for name in columns]
        self.names = self.columns  # as the first block has them
        self.missing, self.block_rows, self.progress = missing, block_rows, progress
        self._complete = False  # whether all rows have been seen, and nothing was missing

    def __iter__(self) -> Iterator[Block]:
        """The blocks in the order of the rows; empty ones are left out."""
        return (block for block in self.each(lambda block: block) if len(block.x) or block.dropped)

    def each(self, function: Callable[[Block], T], skip: int = 0) -> Iterator[T]:
        """What a function makes of each block but the first few, in their order; several are worked on side by side."""
        dropped, lanes = 0, min(torch.get_num_threads(), _LANES)

        def made(piece: tuple[int, Any]) -> tuple[int, T]:
            block = self._of(*piece)
            return block.dropped, function(block)

        for lost, found in in_order(made, islice(self._numbered(), skip, None), lanes):
            dropped += lost
            yield found
        self._complete = skip == dropped == 0

    def _numbered(self) -> Iterator[tuple[int, Any]]:
        """The number of its first row and each piece of the data; the first tells the names of the columns."""
        first = 0
        for piece in pieces(self.data, self.block_rows, self._wanted):
            if self.names is None:
                self._of(first, piece)
            yield first, piece
            first += len(piece[0]) if isinstance(piece, tuple) else piece.num_rows
            if self.progress is not None:
                self.progress(first)

    def _of(self, first: int, piece: Any) -> Block:
        return self._of_arrays(piece, first) if isinstance(piece, tuple) else self._of_table(piece, first)

    def first(self) -> Block | None:
        """The first block that has rows; None: there are no rows."""
        return next((block for block in starmap(self._of, self._numbered()) if len(block.x)), None)

    def fingerprint(self) -> str:
        """What tells this table from another: its columns and its first rows."""
        first = self.first()
        numbers = (
            b"" if first is None else np.ascontiguousarray(first.x.numpy()).tobytes() + first.response.codes.tobytes()
        )
        names = ", ".join([*(self.names or []), str(self.response), str(self.weights), str(self.clusters)])
        return f"a table of {names} that begins with {zlib.crc32(numbers):08x}"

    @property
    def _wanted(self) -> list[str] | None:
        if self.names is None or self.response is None:
            return None
        more = [name for name in (self.response, self.weights, self.clusters) if name is not None]
        return list(dict.fromkeys([*self.names, *more]))

    def _of_table(self, table: Any, first: int) -> Block:
        if self.response is None:
            raise ValueError(f"expected the name of the response, one of {', '.join(table.schema.names)}, got none")
        if self.names is None:
            self.names = [
                name for name in table.schema.names if name not in (self.response, self.weights, self.clusters)
            ]
        require(self._wanted or [], table.schema.names)
        numbers = [_numbers(table.column(name), name, first) for name in self.names]
        dtype = np.float32 if all(part.dtype == np.float32 for part in numbers) and numbers else np.float64
        x = np.empty((len(numbers), table.num_rows), dtype=dtype)
        for to, part in zip(x, numbers, strict=True):
            to[:] = part
        weights = None if self.weights is None else _numbers(table.column(self.weights), self.weights, first)
        y, known = _classes(table.column(self.response), self.response)
        if self.clusters is None:
            return self._block(first, torch.from_numpy(x).T, y, {self.response: known}, weights)
        groups, of_some = _classes(table.column(self.clusters), self.clusters)
        both = {self.response: known, self.clusters: of_some}
        return self._block(first, torch.from_numpy(x).T, y, both, weights, groups)

    def _of_arrays(self, parts: tuple[Any, ...], first: int) -> Block:
        x, y, *more = parts
        weights = np.asarray(more[0], dtype=np.float64) if more else None
        if x.ndim != 2 or len(y) != len(x) or (weights is not None and weights.shape != (len(x),)):
            shapes = ", ".join(str(tuple(part.shape)) for part in (x, y, *more))
            raise ValueError(f"expected blocks (n, columns), (n) and weights (n), got shapes {shapes}")
        if self.names is None:
            self.names = [f"x{j}" for j in range(x.shape[1])]
        if x.shape[1] != len(self.names):
            raise ValueError(f"expected blocks of {len(self.names)} columns, got {x.shape[1]} at row {first}")
        try:
            numbers = x if x.dtype in (np.float32, np.float64) else x.astype(np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"expected numbers in X, got {x.dtype} at row {first}") from None
        known = np.array([value == value and value is not None for value in y]) if y.dtype.kind in "Of" else None
        kept = y if known is None else y[known]
        codes = np.zeros(len(y), dtype=np.int64)
        found = coded(kept)
        codes[slice(None) if known is None else known] = found.codes
        usable = numbers.flags.writeable and min(numbers.strides, default=0) >= 0  # for PyTorch
        given = torch.from_numpy(numbers if usable else np.array(numbers, order="C"))
        return self._block(first, given, Coded(found.values, codes), {self.response or "y": known}, weights)

    def _block(
        self,
        first: int,
        x: Tensor,
        response: Coded,
        known: dict[str, np.ndarray | None],  # where the classes and clusters are known; None: everywhere
        weights: np.ndarray | None,
        clusters: Coded | None = None,
    ) -> Block:
        """The rows that are complete and weigh something."""
        unknown = {name: ~mask for name, mask in known.items() if mask is not None}
        ends: tuple[np.ndarray, np.ndarray] | None = None
        if len(x) and not self._complete:
            ends = x.numpy().min(0), x.numpy().max(0)
        finite = ends is None or all(bool(np.isfinite(end).all()) for end in ends)
        finite &= weights is None or bool(np.isfinite(weights).all())
        absent = np.zeros(0, dtype=bool)
        if unknown or not finite:
            masks = [*unknown.values(), *([] if weights is None else [np.isnan(weights)])]
            absent = np.logical_or.reduce([np.isnan(x.numpy()).any(1), *masks])
            self._look(first, x.numpy(), unknown, weights, absent)
        kept = np.ones(len(x), dtype=bool) if not absent.any() else ~absent
        if weights is not None:
            if (weights[kept] < 0).any():
                row = int(np.flatnonzero(kept & (weights < 0))[0])
                raise ValueError(f"expected weights of at least 0, got {weights[row]:g} at row {first + row}")
            kept &= weights > 0
        dropped = int(absent.sum())
        own = None if weights is None else torch.from_numpy(np.array(weights, dtype=np.float64))
        if kept.all():
            return Block(x, response, own, dropped, ends, clusters)
        at = torch.from_numpy(kept)
        codes = Coded(response.values, response.codes[kept])
        groups = None if clusters is None else Coded(clusters.values, clusters.codes[kept])
        return Block(x[at], codes, None if own is None else own[at], dropped, None, groups)

    def _look(
        self, first: int, x: np.ndarray, unknown: dict[str, np.ndarray], weights: np.ndarray | None, absent: np.ndarray
    ) -> None:
        """Name what is infinite, and what is missing where it may not be."""
        assert self.names is not None
        parts = list(zip(self.names, x.T, strict=True))
        parts += [] if weights is None else [(self.weights or "weights", weights)]
        for name, part in parts:
            wrong = np.isinf(part)
            if wrong.any():
                row = int(np.flatnonzero(wrong)[0])
                raise ValueError(f"expected finite values in column {name!r}, got {part[row]:g} at row {first + row}")
        if self.missing == "drop" or not absent.any():
            return
        row = int(np.flatnonzero(absent)[0])
        lost = [name for name, part in parts if np.isnan(part[row])]
        lost += [name for name, mask in unknown.items() if mask[row]]
        raise ValueError(
            f"expected no missing values, got one in column {lost[0]!r} at row {first + row}; "
            "missing='drop' leaves them out"
        )


def require(wanted: Iterable[str], present: Sequence[str]) -> None:
    """ValueError for a column that a table has not."""
    for name in wanted:
        if name not in present:
            raise ValueError(f"expected a column of the table ({', '.join(present)}), got {name!r}")


def coded(y: np.ndarray) -> Coded:
    """The different classes, sorted, and each row's; whole numbers near each other are counted, not sorted."""
    if y.dtype.kind in "iu" and len(y):
        low, high = int(y.min()), int(y.max())
        if high - low < max(len(y), 256) and abs(low) < 1 << 62:
            place = y.astype(np.int64) - low  # in a type of its own an int8 may overflow
            seen = np.bincount(place) > 0
            return Coded((np.flatnonzero(seen) + low).astype(y.dtype).tolist(), (np.cumsum(seen) - 1)[place])
    values, codes = np.unique(y, return_inverse=True)
    return Coded(values.tolist(), codes.reshape(-1))


def require_one_type(classes: Iterable[Any]) -> None:
    """Classes are sorted: those of several types have no order."""
    types = sorted({type(value).__name__ for value in classes})
    if len(types) > 1:
        raise TypeError(f"expected classes of one type, got {' and '.join(types)}")


def _classes(column: Any, name: str) -> tuple[Coded, np.ndarray | None]:
    """Of an Arrow column; and where it is known, None: everywhere."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_floating(kind):
        numbers = column.to_numpy(zero_copy_only=False)
        known = ~np.isnan(numbers)
        if (numbers[known] % 1 != 0).any():
            value = numbers[known][numbers[known] % 1 != 0][0]
            raise ValueError(f"expected classes in column {name!r}, got the measurement {value:g}")
        return _coded_where(numbers, known)
    if column.null_count == 0 and pa.types.is_integer(kind):
        return coded(column.to_numpy()), None
    if not pa.types.is_dictionary(kind):
        column = column.dictionary_encode()
    known = np.ones(len(column), dtype=bool) if column.null_count == 0 else column.is_valid().to_numpy(False)
    codes = column.indices.fill_null(0).to_numpy().astype(np.int64)
    return Coded(column.dictionary.to_pylist(), codes), None if known.all() else known


def _coded_where(y: np.ndarray, known: np.ndarray) -> tuple[Coded, np.ndarray | None]:
    found, codes = coded(y[known].astype(np.int64)), np.zeros(len(y), dtype=np.int64)
    codes[known] = found.codes
    return Coded(found.values, codes), None if known.all() else known


def _numbers(column: Any, name: str, first: int) -> np.ndarray:
    """Of an Arrow column; NaN where it is missing."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_floating(kind) and kind != pa.float16():
        return column.to_numpy(zero_copy_only=column.null_count == 0)
    known = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_null)
    if not any(is_one(kind) for is_one in known):
        row = column.is_valid().index(True).as_py()
        got = f"{column[row].as_py()!r} at row {first + row}" if row >= 0 else f"a column of {kind}"
        raise ValueError(f"expected numbers in column {name!r}, got {got}")
    return column.cast(pa.float64()).to_numpy(zero_copy_only=False)


Wanted = list[str] | None
Height = int | None  # of a piece, in rows


def _height(rows: Height, width: int) -> int:
    return rows or max(1, _BLOCK_BYTES // (8 * max(width, 1)))


def pieces(data: Any, rows: Height, wanted: Wanted) -> Iterator[Any]:
    """Arrow batches or tuples of arrays, each of at most so many rows; None: by how wide they are."""
    if isinstance(data, (str, Path)):
        for file in _files(Path(data)):
            yield from _of_file(file, rows, wanted)
    elif isinstance(data, tuple) and data and getattr(data[0], "ndim", 0) == 2 and len(data) in (2, 3):
        parts = [part.detach().cpu().numpy() if isinstance(part, Tensor) else np.asanyarray(part) for part in data]
        rows = _height(rows, parts[0].shape[1])
        for start in range(0, len(parts[0]), rows):
            yield tuple(part[start : start + rows] for part in parts)
    elif _is_table(data):
        yield from _of_table(data, rows, wanted)
    elif callable(data):
        yield from pieces(data(), rows, wanted)
    elif isinstance(data, Iterable) and not isinstance(data, (Tensor, np.ndarray, dict)):
        for part in data:
            yield from pieces(part, rows, wanted)
    else:
        raise TypeError(
            f"expected a file, a folder, a table, (X, y) or an iterable of these, got {type(data).__name__}"
        )


def _is_table(data: Any) -> bool:
    return hasattr(data, "__dataframe__") or hasattr(data, "__arrow_c_stream__") or hasattr(data, "to_batches")


def _of_table(data: Any, rows: Height, wanted: Wanted) -> Iterator[Any]:
    import pyarrow as pa

    if isinstance(data, pa.RecordBatch):
        data = pa.Table.from_batches([data])
    names = data.schema.names if hasattr(data, "to_batches") else [str(name) for name in data.columns]
    require(wanted or [], names)
    used = list(names) if wanted is None else [name for name in names if name in wanted]
    rows = _height(rows, len(used))
    if hasattr(data, "scanner"):  # a dataset
        for batch in data.to_batches(columns=used, batch_size=rows, batch_readahead=1, fragment_readahead=1):
            yield from _cut(batch, rows)
    elif hasattr(data, "to_batches"):
        for batch in data.select(used).to_batches(max_chunksize=rows):
            yield batch
    elif hasattr(data, "iloc"):
        for start in range(0, len(data), rows):
            yield pa.RecordBatch.from_pandas(data[used].iloc[start : start + rows], preserve_index=False)
    elif hasattr(data, "iter_slices"):
        for part in data.select(used).iter_slices(rows):
            yield from _cut(part.to_arrow().combine_chunks(), rows)
    else:
        yield from _of_table(pa.table(data), rows, wanted)


def _cut(table: Any, rows: int) -> Iterator[Any]:
    import pyarrow as pa

    table = table if isinstance(table, pa.Table) else pa.Table.from_batches([table])
    yield from table.to_batches(max_chunksize=rows)


def _files(path: Path) -> list[Path]:
    """The file, or the folder's files in the order of their names."""
    if not path.exists():
        raise ValueError(f"expected a table, got no such file: {path}")
    if not path.is_dir():
        return [path]
    hidden = (".", "_")
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and not file.name.startswith(hidden)]
    known = [file for file in files if file.suffix.lower() in _FILES]
    if not known:
        raise ValueError(f"expected a folder with files named {', '.join(_FILES)}, got {path}")
    return known


def _of_file(path: Path, rows: Height, wanted: Wanted, dialect: Dialect | None = None) -> Iterator[Any]:
    import pyarrow as pa

    kind = _FILES.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"expected a file named {', '.join(_FILES)}, got {path.name}")
    try:
        yield from _of_parquet(path, rows, wanted) if kind == "parquet" else _of_csv(path, rows, wanted, dialect)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"expected a readable table in {path}, got: {error}") from None


def _of_parquet(path: Path, rows: Height, wanted: Wanted) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        schema = file.schema_arrow
    require(wanted or [], schema.names)
    names = [name for name in schema.names if wanted is None or name in wanted]
    shares = [names[k::_READERS] for k in range(min(_READERS, len(names)))]  # decoded side by side
    with ExitStack() as stack:
        readers = []
        for share in shares:
            file = stack.enter_context(ParquetFile(path, buffer_size=_READ_BYTES, pre_buffer=False))
            readers.append(ahead(file.iter_batches(_height(rows, len(names)), columns=share, use_threads=False)))
        for parts in zip(*readers, strict=True):
            columns = {name: column for part in parts for name, column in zip(part.schema.names, part, strict=True)}
            yield pa.RecordBatch.from_pydict({name: columns[name] for name in names})


def _of_csv(path: Path, rows: Height, wanted: Wanted, dialect: Dialect | None) -> Iterator[Any]:
    """The types are those that the whole file needs: a column that starts with whole numbers may go on with others."""
    from pyarrow import csv

    written = (dialect or Dialect()).of(path, path.name)
    with csv.open_csv(path, **written.options()) as reader:
        types = {field.name: _wide(field.type) for field in reader.schema}
    require(wanted or [], list(types))
    used = [name for name in types if wanted is None or name in wanted]
    with csv.open_csv(path, **written.options(column_types=types, include_columns=used)) as reader:
        for batch in ahead(iter(reader)):
            yield from _cut(batch, _height(rows, len(used)))


def blocks_in(path: Path, dialect: Dialect) -> Iterator[Any]:
    """The rows of a file, or of a folder's, in Arrow batches; CSV files are written in the dialect."""
    for file in _files(path):
        yield from _of_file(file, None, None, dialect)


def _wide(kind: Any) -> Any:
    import pyarrow as pa

    return pa.float64() if pa.types.is_integer(kind) or pa.types.is_null(kind) else kind
