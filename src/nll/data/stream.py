"""Tables that may be larger than memory, a block of rows at a time, as often as they are asked
for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from nll.data import classes
from nll.data.arrays import categories_of
from nll.data.classes import Coded, coded, require_one_type
from nll.data.csv_files import Dialect
from nll.data.ledger import sums_of
from nll.data.missing import MissingValuesError
from nll.data.prefetch import ahead, in_order

_BLOCK_BYTES = 1 << 24  # of the numbers of a block
_READ_BYTES = 1 << 20  # of a Parquet file at once: whole column chunks would take memory
_READERS = 2  # of a Parquet file, each of its share of the columns
_LANES = 4  # of blocks that are worked on, at the most
_FILES = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".gz": "csv"}


T = TypeVar("T")


__all__ = ["Block", "Coded", "Stream", "coded", "pieces", "require", "require_one_type"]


class Block(NamedTuple):
    """Some rows of the table, in their order."""

    x: Tensor  # (n, q) float32 or float64
    response: Coded
    weights: Tensor | None  # (n) float64
    dropped: int  # rows with missing values that were left out
    along: Tensor  # (n), a product of the columns with one vector
    clusters: Coded | None = None


class Stream:
    """The rows of a table, read again for each pass.

    Args:
        data: a Parquet or CSV file, or a folder of such; a pandas, polars or Arrow table, or an
            Arrow dataset; (X, y) or (X, y, weights) of arrays or tensors, memory-mapped ones too;
            an iterable of any of these, such as a list of files, or a function without arguments
            that returns one.
        response: of tables, the name of the column of classes.
        columns: of tables, the names of the columns of numbers; None: all others.
        weights: of tables, the name of the column of frequencies.
        clusters: of tables, the name of the column of groups of rows that are not independent of
            each other.
        missing: "raise", or "drop" to leave out rows with a missing value in a column that is used.
        block_rows: how many rows are read at a time, at the most; None: as many as take 16 MB.
        progress: called with the number of rows that a pass has read, again and again.

    Raises: ValueError, when the rows are read, for a column that is not there, a text in a column
    of numbers, missing or infinite values, negative weights; TypeError for data that cannot be gone
    through twice.
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
                f"expected data that can be gone through more than once, got a "
                f"{type(data).__name__}; "
                "a function that returns one can be called again"
            )
        self.data, self.response, self.weights, self.clusters = data, response, weights, clusters
        self.columns = None if columns is None else [str(name) for name in columns]
        named = (
            [str(name) for name in data[0].columns]
            if _is_arrays(data) and hasattr(data[0], "columns")
            else None
        )
        self.names = named if columns is None else self.columns  # None: as the first block has them
        # of the response, where it has an order
        self.levels = categories_of(data[1]) if _is_arrays(data) else None
        self.missing, self.block_rows, self.progress = missing, block_rows, progress

    def __iter__(self) -> Iterator[Block]:
        """The blocks in the order of the rows; empty ones are left out."""
        blocks = (block for _, _, block in self.read(lambda block: block))
        return (block for block in blocks if block is not None and (len(block.x) or block.dropped))

    def read(
        self,
        function: Callable[[Block], T],
        along: Tensor | None = None,
        skip: int = 0,
        clusters: bool = False,
    ) -> Iterator[tuple[int, np.ndarray, T | None]]:
        """Go through the blocks in their order; several are worked on side by side.

        Args:
            function: what is made of each block.
            along: (q), of the sums of the rows; None: ones.
            skip: so many rows at the start, for which there is None in place of the function's
                result.
            clusters: whether they count in the sums.

        Yields: the number of rows up to the block's end, its sums (see `sums_of`), and the
            function's result.
        """

        def made(piece: tuple[int, Any]) -> tuple[int, np.ndarray, T | None]:
            end, block = piece[0] + _length(piece[1]), self._of(*piece, along)
            groups = block.clusters if clusters else None
            sums = sums_of(block.along, block.response, block.weights, groups, block.dropped)
            return end, sums, function(block) if end > skip else None

        return in_order(made, self._numbered(skip), min(torch.get_num_threads(), _LANES))

    def _numbered(self, cut: int = 0) -> Iterator[tuple[int, Any]]:
        """The number of its first row and each piece of the data; the first tells the names of the
        columns.
        """
        first = 0
        for whole in pieces(self.data, self.block_rows, self._wanted):
            inside = first < cut < first + _length(whole)
            if first == 0 and not isinstance(whole, tuple) and self.response in whole.schema.names:
                self.levels = categories_of(whole.column(self.response))
            for piece in (
                (_rows(whole, 0, cut - first), _rows(whole, cut - first, None))
                if inside
                else (whole,)
            ):
                if self.names is None:
                    self._of(first, piece)
                yield first, piece
                first += _length(piece)
                if self.progress is not None:
                    self.progress(first)

    def _of(self, first: int, piece: Any, along: Tensor | None = None) -> Block:
        make = self._of_arrays if isinstance(piece, tuple) else self._of_table
        return make(piece, first, along)

    def first(self) -> Block | None:
        """The first block that has rows; None: there are no rows."""
        return next(
            (block for block in (self._of(*piece) for piece in self._numbered()) if len(block.x)),
            None,
        )

    def stamps(self) -> list[tuple[str, int, int]]:
        """The name, the size and the time of each file of the data."""
        return stamps(self.data)

    @property
    def _wanted(self) -> list[str] | None:
        if self.names is None or self.response is None:
            return None
        more = [name for name in (self.response, self.weights, self.clusters) if name is not None]
        return list(dict.fromkeys([*self.names, *more]))

    def _of_table(self, table: Any, first: int, along: Tensor | None) -> Block:
        if self.response is None:
            raise ValueError(
                f"expected the name of the response, one of "
                f"{', '.join(table.schema.names)}, got none"
            )
        if self.names is None:
            self.names = [
                name
                for name in table.schema.names
                if name not in (self.response, self.weights, self.clusters)
            ]
        require(self._wanted or [], table.schema.names)
        numbers = [numbers_of(table.column(name), name, first) for name in self.names]
        dtype = (
            np.float32
            if all(part.dtype == np.float32 for part in numbers) and numbers
            else np.float64
        )
        x = np.empty((len(numbers), table.num_rows), dtype=dtype)
        for to, part in zip(x, numbers, strict=True):
            to[:] = part
        weights = (
            None
            if self.weights is None
            else numbers_of(table.column(self.weights), self.weights, first)
        )
        y, present = classes.of_arrow(table.column(self.response), self.response)
        known, groups = {self.response: present}, None
        if self.clusters is not None:
            groups, known[self.clusters] = classes.of_arrow(
                table.column(self.clusters), self.clusters
            )
        return self._block(first, torch.from_numpy(x).T, y, known, weights, along, groups)

    def _of_arrays(self, parts: tuple[Any, ...], first: int, along: Tensor | None) -> Block:
        x, y, *more = parts
        y = y.reshape(-1) if y.shape == (len(x), 1) else y
        weights = _floats(more[0], "weights", first) if more else None
        if (
            x.ndim != 2
            or y.shape != (len(x),)
            or (weights is not None and weights.shape != (len(x),))
        ):
            shapes = ", ".join(str(tuple(part.shape)) for part in (x, y, *more))
            raise ValueError(
                f"expected blocks (n, columns), (n) and weights (n), got shapes {shapes}"
            )
        if self.names is None:
            self.names = [f"x{j}" for j in range(x.shape[1])]
        if x.shape[1] != len(self.names):
            raise ValueError(
                f"expected blocks of {len(self.names)} columns, got {x.shape[1]} at row {first}"
            )
        numbers = _floats(x, "X", first)
        # which PyTorch has not
        if not numbers.flags.writeable or any(stride < 0 for stride in numbers.strides):
            numbers = np.array(numbers)
        name = self.response or "y"
        response, present = classes.of_array(y, name)
        return self._block(
            first, torch.from_numpy(numbers), response, {name: present}, weights, along
        )

    def _block(
        self,
        first: int,
        x: Tensor,
        response: Coded,
        # where the classes and clusters are known; None: everywhere
        known: dict[str, np.ndarray | None],
        weights: np.ndarray | None,
        along: Tensor | None,
        clusters: Coded | None = None,
    ) -> Block:
        """The rows that are complete and weigh something."""
        unknown = {name: ~mask for name, mask in known.items() if mask is not None}
        product = x @ (
            torch.ones(x.shape[1], dtype=x.dtype) if along is None else along.to(x.dtype)
        )
        finite = bool(product.sum().isfinite()) and (
            weights is None or bool(np.isfinite(weights.sum()))
        )
        absent = np.zeros(0, dtype=bool)
        if unknown or not finite:
            masks = [*unknown.values(), *([] if weights is None else [np.isnan(weights)])]
            absent = np.logical_or.reduce([np.isnan(x.numpy()).any(1), *masks])
            self._look(first, x.numpy(), unknown, weights, absent)
        kept = np.ones(len(x), dtype=bool) if not absent.any() else ~absent
        if weights is not None:
            if (weights[kept] < 0).any():
                row = int(np.flatnonzero(kept & (weights < 0))[0])
                raise ValueError(
                    f"expected weights of at least 0, got {weights[row]:g} at row {first + row}"
                )
            kept &= weights > 0
        dropped = int(absent.sum())
        own = None if weights is None else torch.from_numpy(np.array(weights, dtype=np.float64))
        if kept.all():
            return Block(x, response, own, dropped, product, clusters)
        at = torch.from_numpy(kept)
        codes = Coded(response.values, response.codes[kept])
        groups = None if clusters is None else Coded(clusters.values, clusters.codes[kept])
        return Block(x[at], codes, None if own is None else own[at], dropped, product[at], groups)

    def _look(
        self,
        first: int,
        x: np.ndarray,
        unknown: dict[str, np.ndarray],
        weights: np.ndarray | None,
        absent: np.ndarray,
    ) -> None:
        """Name what is infinite, and what is missing where it may not be."""
        assert self.names is not None
        parts = list(zip(self.names, x.T, strict=True))
        parts += [] if weights is None else [(self.weights or "weights", weights)]
        for name, part in parts:
            wrong = np.isinf(part)
            if wrong.any():
                row = int(np.flatnonzero(wrong)[0])
                raise ValueError(
                    f"expected finite values in column {name!r}, got {part[row]:g} at "
                    f"row {first + row}"
                )
        if self.missing == "drop" or not absent.any():
            return
        row = int(np.flatnonzero(absent)[0])
        lost = [name for name, part in parts if np.isnan(part[row])]
        lost += [name for name, mask in unknown.items() if mask[row]]
        raise MissingValuesError(f"one in column {lost[0]!r} at row {first + row}")


def require(wanted: Iterable[str], present: Sequence[str]) -> None:
    """ValueError for a column that a table has not."""
    for name in wanted:
        if name not in present:
            raise ValueError(f"expected a column of the table ({', '.join(present)}), got {name!r}")


def require_different(names: Sequence[str]) -> None:
    """ValueError for a name that several columns have."""
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(
            f"expected columns with different names, got {', '.join(map(repr, twice))} twice"
        )


def _length(piece: Any) -> int:
    return len(piece[0]) if isinstance(piece, tuple) else piece.num_rows


def _rows(piece: Any, start: int, end: int | None) -> Any:
    if isinstance(piece, tuple):
        return tuple(part[start:end] for part in piece)
    return piece.slice(start, None if end is None else end - start)


def _floats(array: np.ndarray, what: str, first: int) -> np.ndarray:
    """An array's numbers; NaN where they are missing."""
    if array.dtype in (np.float32, np.float64) and not np.ma.isMaskedArray(array):
        return array
    try:
        if array.dtype.kind in "cmMV":
            raise TypeError
        numbers = array.astype(np.float64)
        if array.dtype.kind in "iu" and array.size and float(np.abs(numbers).max()) > 1 << 53:
            for column in array.reshape(len(array), -1).T:
                _require_exact(column.tolist(), what, first)
    except (TypeError, ValueError) as error:
        if str(error).startswith("expected"):
            raise
        raise ValueError(f"expected numbers in {what}, got {array.dtype} at row {first}") from None
    return np.ma.filled(numbers, np.nan) if np.ma.isMaskedArray(numbers) else numbers


def numbers_of(column: Any, name: str, first: int) -> np.ndarray:
    """Of an Arrow column; NaN where it is missing."""
    import pyarrow as pa

    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    kind = column.type
    if pa.types.is_floating(kind) and kind != pa.float16():
        return column.to_numpy(zero_copy_only=column.null_count == 0)
    known = (
        pa.types.is_floating,
        pa.types.is_integer,
        pa.types.is_boolean,
        pa.types.is_decimal,
        pa.types.is_null,
    )
    if not any(is_one(kind) for is_one in known):
        row = column.is_valid().index(True).as_py()
        got = f"{column[row].as_py()!r} at row {first + row}" if row >= 0 else f"a column of {kind}"
        raise ValueError(f"expected numbers in column {name!r}, got {got}")
    if pa.types.is_integer(kind) and rounds(column):
        _require_exact(column.to_pylist(), f"column {name!r}", first)
    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _require_exact(integers: list[int | None], what: str, first: int) -> None:
    for row, value in enumerate(integers):
        if value is not None and int(float(value)) != value:
            raise ValueError(
                f"expected numbers that float64 holds exactly in {what}, got the integer {value} "
                f"at row {first + row}; "
                "subtract a constant, or pass floats"
            )


Wanted = list[str] | None
Height = int | None  # of a piece, in rows


def _height(rows: Height, width: int) -> int:
    return rows or max(1, _BLOCK_BYTES // (8 * max(width, 1)))


def pieces(data: Any, rows: Height, wanted: Wanted) -> Iterator[Any]:
    """Arrow batches or tuples of arrays, each of at most so many rows; None: by how wide they
    are.
    """
    if isinstance(data, (str, Path)):
        for file in files_of(Path(data)):
            yield from _of_file(file, rows, wanted)
    elif _is_arrays(data):
        parts = [_array(part) for part in data]
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
            f"expected a file, a folder, a table, (X, y) or an iterable of these, got "
            f"{type(data).__name__}"
        )


def _array(part: Any) -> np.ndarray:
    if hasattr(part, "tocsr"):
        raise TypeError("expected dense columns in a stream, got a sparse matrix")
    if isinstance(part, Tensor):
        part = part.detach().cpu()
        return (part.float() if part.dtype == torch.bfloat16 else part).numpy()
    return np.asanyarray(part)


def _is_arrays(data: Any) -> bool:
    return isinstance(data, tuple) and len(data) in (2, 3) and getattr(data[0], "ndim", 0) == 2


def _is_table(data: Any) -> bool:
    return (
        hasattr(data, "__dataframe__")
        or hasattr(data, "__arrow_c_stream__")
        or hasattr(data, "to_batches")
    )


def _of_table(data: Any, rows: Height, wanted: Wanted) -> Iterator[Any]:
    import pyarrow as pa

    if isinstance(data, pa.RecordBatch):
        data = pa.Table.from_batches([data])
    names = (
        data.schema.names if hasattr(data, "to_batches") else [str(name) for name in data.columns]
    )
    require(wanted or [], names)
    used = [name for name in names if wanted is None or name in wanted]
    require_different(used)
    rows = _height(rows, len(used))
    if hasattr(data, "scanner"):  # a dataset
        for batch in data.to_batches(
            columns=used, batch_size=rows, batch_readahead=1, fragment_readahead=1
        ):
            yield from _cut(batch, rows)
    elif hasattr(data, "to_batches"):
        for batch in data.select(used).to_batches(max_chunksize=rows):
            yield batch
    elif hasattr(data, "iloc"):
        at = [j for j, name in enumerate(names) if name in used]
        for start in range(0, len(data), rows):
            yield from _cut(_of_pandas(data.iloc[start : start + rows, at], start), rows)
    elif hasattr(data, "iter_slices"):
        for part in data.select(used).iter_slices(rows):
            yield from _cut(part.to_arrow().combine_chunks(), rows)
    else:
        yield from _of_table(pa.table(data), rows, wanted)


def _of_pandas(table: Any, first: int) -> Any:
    import pyarrow as pa

    try:
        found = pa.Table.from_pandas(table, preserve_index=False).combine_chunks()
    except (pa.ArrowException, TypeError) as error:
        said = "; ".join(map(str, error.args))
        raise ValueError(
            f"expected columns of values of one type, got: {said} (from row {first} on)"
        ) from None
    for at, column in enumerate(found.columns):
        if pa.types.is_dictionary(column.type):  # the order of a Categorical counts
            part = column.chunk(0)
            named = pa.DictionaryArray.from_arrays(part.indices, part.dictionary, ordered=True)
            found = found.set_column(at, found.schema.names[at], named)
    return found


def _cut(table: Any, rows: int) -> Iterator[Any]:
    import pyarrow as pa

    table = table if isinstance(table, pa.Table) else pa.Table.from_batches([table])
    yield from table.to_batches(max_chunksize=rows)


def files_of(path: Path) -> list[Path]:
    """The file, or the folder's files in the order of their names."""
    if not path.exists():
        raise ValueError(f"expected a table, got no such file: {path}")
    if not path.is_dir():
        return [path]
    hidden = (".", "_")
    files = [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not file.name.startswith(hidden)
    ]
    known = [file for file in files if file.suffix.lower() in _FILES]
    if not known:
        raise ValueError(f"expected a folder with files named {', '.join(_FILES)}, got {path}")
    return known


def stamps(data: Any) -> list[tuple[str, int, int]]:
    """The name, the size and the time of each file of some data; what is made by a function is
    asked for its first argument.
    """
    if isinstance(data, partial):
        return stamps(data.args[0])
    if isinstance(data, (str, Path)):
        files = files_of(Path(data))
    elif isinstance(data, np.memmap):
        files = [] if data.filename is None else [Path(data.filename)]
    elif isinstance(data, (list, tuple)):
        parts = [part for part in data if isinstance(part, np.memmap)] if _is_arrays(data) else data
        return [stamp for part in parts for stamp in stamps(part)]
    else:
        files = (
            [Path(name) for name in data.files]
            if hasattr(data, "scanner") and hasattr(data, "files")
            else []
        )
    # a dataset's may lie elsewhere
    found = [(file, file.stat()) for file in files if file.exists()]
    return [(str(file), stat.st_size, stat.st_mtime_ns) for file, stat in found]


def _of_file(
    path: Path, rows: Height, wanted: Wanted, dialect: Dialect | None = None
) -> Iterator[Any]:
    import pyarrow as pa

    kind = _FILES.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"expected a file named {', '.join(_FILES)}, got {path.name}")
    try:
        yield from (
            _of_parquet(path, rows, wanted)
            if kind == "parquet"
            else _of_csv(path, rows, wanted, dialect)
        )
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"expected a readable table in {path}, got: {error}") from None


def _of_parquet(path: Path, rows: Height, wanted: Wanted) -> Iterator[Any]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        schema = file.schema_arrow
    require(wanted or [], schema.names)
    names = [name for name in schema.names if wanted is None or name in wanted]
    require_different(names)
    shares = [names[k::_READERS] for k in range(min(_READERS, len(names)))]  # decoded side by side
    with ExitStack() as stack:
        readers = []
        for share in shares:
            file = stack.enter_context(ParquetFile(path, buffer_size=_READ_BYTES, pre_buffer=False))
            readers.append(
                ahead(
                    file.iter_batches(_height(rows, len(names)), columns=share, use_threads=False)
                )
            )
        for parts in zip(*readers, strict=True):
            columns = {
                name: column
                for part in parts
                for name, column in zip(part.schema.names, part, strict=True)
            }
            yield pa.RecordBatch.from_pydict({name: columns[name] for name in names})


def _of_csv(path: Path, rows: Height, wanted: Wanted, dialect: Dialect | None) -> Iterator[Any]:
    """The types are those that the whole file needs: a column that starts with whole numbers may go
    on with others.
    """
    from pyarrow import csv

    written = (dialect or Dialect()).of(path, path.name)
    with csv.open_csv(path, **written.options()) as reader:
        require_different(reader.schema.names)
        start = next(iter(reader), None)
        types = {
            field.name: _wide(field.type, start and start.column(field.name))
            for field in reader.schema
        }
    require(wanted or [], list(types))
    used = [name for name in types if wanted is None or name in wanted]
    with csv.open_csv(path, **written.options(column_types=types, include_columns=used)) as reader:
        for batch in ahead(iter(reader)):
            yield from _cut(batch, _height(rows, len(used)))


def blocks_in(path: Path, dialect: Dialect) -> Iterator[Any]:
    """The rows of a file, or of a folder's, in Arrow batches; CSV files are written in the
    dialect.
    """
    for file in files_of(path):
        yield from _of_file(file, None, None, dialect)


def _wide(kind: Any, start: Any) -> Any:
    """The type of a column that starts so."""
    import pyarrow as pa

    if pa.types.is_null(kind):
        return pa.float64()
    return pa.float64() if pa.types.is_integer(kind) and not (start and rounds(start)) else kind


def rounds(column: Any) -> bool:
    """Whether float64 would merge whole numbers of an Arrow column: some are above 2^53."""
    import pyarrow.compute as pc

    ends = [end.as_py() or 0 for end in pc.call_function("min_max", [column]).values()]
    return max(map(abs, ends)) > 1 << 53
