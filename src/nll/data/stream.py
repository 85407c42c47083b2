"""Tables that may be larger than memory, a block of rows at a time, as often as they are needed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from nll.data.arrays import (
    MissingValuesError,
    array_of,
    categories_of,
    floats,
    require_columns,
    require_exact,
)
from nll.data.classes import Coded, coded, key, of_array, require_one_type
from nll.data.files import files_of
from nll.data.prefetch import in_order
from nll.data.readers import blocks_in, is_arrays, pieces

_LANES = 4  # blocks in work at the same time, at most
# What `Block.sums` adds up, in its order.
SUMS = (
    "rows",
    "rows with missing values",
    *["classes or weights"] * 2,
    *["numbers"] * 3,
    "clusters",
)

T = TypeVar("T")
# x, response, weights, clusters, levels, and where classes and clusters are missing
_Columns = tuple[
    np.ndarray, Coded, np.ndarray | None, Coded | None, list[Any] | None, dict[str, np.ndarray]
]

__all__ = [
    "Block",
    "Coded",
    "Stream",
    "blocks_in",
    "coded",
    "files_of",
    "pieces",
    "require_one_type",
]


class Block(NamedTuple):
    """Some rows of the table, in their order."""

    x: Tensor  # (n, q) float32 or float64
    response: Coded
    weights: Tensor | None  # (n) float64
    along: Tensor  # (n), the product of the columns with one vector, by default of ones
    clusters: Coded | None
    names: list[str]  # of the columns
    levels: list[Any] | None  # of the response, where its type orders them
    dropped: int = 0  # rows with missing values that were left out

    def sums(self, clusters: bool) -> np.ndarray:
        """Return the sums that identify the rows (see `SUMS` and `Ledger`)."""
        s, t = self.along.double().numpy(), _tags(self.response)
        t = t if self.weights is None else t * self.weights.numpy()
        groups = float(_tags(self.clusters) @ t) if clusters and self.clusters else np.nan
        with np.errstate(all="ignore"):  # huge values may overflow, in every pass alike
            moments = [t.sum(), t @ t, s.sum(), s @ t, s @ s]
            return np.array([len(s), self.dropped, *moments, groups])

    def some(self, which: np.ndarray) -> Block:
        rows = torch.from_numpy(which)
        clusters = self.clusters
        return self._replace(
            x=self.x[rows],
            response=self.response._replace(codes=self.response.codes[which]),
            weights=None if self.weights is None else self.weights[rows],
            clusters=clusters and clusters._replace(codes=clusters.codes[which]),
            along=self.along[rows],
        )


def _tags(rows: Coded) -> np.ndarray:
    """Return a number in [1, 2) for each row's class, the same in every process."""
    tags = [1.0 + zlib.crc32(repr(key(value)).encode()) / 2.0**32 for value in rows.values]
    return np.array(tags or [1.0])[rows.codes]


@dataclass(eq=False, repr=False)
class Stream:
    """The rows of a table, read again for each pass.

    Args:
        data: a Parquet or CSV file, or a folder of such; a pandas, polars or Arrow table, or an
            Arrow dataset; (X, y) or (X, y, weights) of arrays or tensors, memory-mapped ones too;
            an iterable of any of these, such as a list of files, or a function without arguments
            that returns one.
        response: for tables, the name of the column of classes.
        columns: for tables, the names of the numeric columns; None: all others.
        weights: for tables, the name of the column of frequencies.
        clusters: for tables, the name of the column that identifies groups of dependent rows.
        missing: "raise", or "drop" to leave out rows with a missing value in a column that is used.
        block_rows: the largest number of rows read at a time; None: as many as take 16 MB.
        progress: called with the number of rows that a pass has read, repeatedly.

    Raises: ValueError, when the rows are read, for a missing column, text in a numeric column,
    missing or infinite values, negative weights; TypeError for data that can be read only once.

    Example:
        >>> import nll, pandas
        >>> table = pandas.DataFrame({"x": [0.0, 1.0, 2.0, 3.0], "mode": ["bus", "car"] * 2})
        >>> stream = nll.Stream(table, response="mode", block_rows=2)
        >>> [len(block.x) for block in stream]
        [2, 2]
        >>> nll.SoftmaxRegression().fit(stream).classes_.tolist()
        ['bus', 'car']
    """

    data: Any
    response: str | None = None
    columns: Sequence[str] | None = None
    weights: str | None = None
    clusters: str | None = None
    _: KW_ONLY
    missing: str = "raise"
    block_rows: int | None = None
    progress: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        if self.missing not in ("raise", "drop"):
            raise ValueError(f"expected missing to be raise or drop, got {self.missing!r}")
        rows = self.block_rows
        if rows is not None and (type(rows) is not int or rows < 1):
            raise ValueError(f"expected block_rows as an integer of at least 1, got {rows!r}")
        if isinstance(self.columns, str):
            raise TypeError(f"expected columns as a list of names, got the text {self.columns!r}")
        if hasattr(self.data, "__next__"):
            raise TypeError(
                f"expected data that can be read more than once, got a {type(self.data).__name__}; "
                "a function that returns one can be called again"
            )
        if self.columns is None and is_arrays(self.data):
            self.columns = getattr(self.data[0], "columns", None)
        if self.columns is not None:
            self.columns = [str(name) for name in self.columns]

    @property
    def names(self) -> list[str]:
        """The names of the numeric columns: as passed, or as the first rows have them."""
        if self.columns is not None:
            return list(self.columns)
        first = next(self._pieces(), None)
        return [] if first is None else self._names(first)

    def __iter__(self) -> Iterator[Block]:
        """Yield the blocks in the order of the rows, without empty ones."""
        blocks = (block for _, _, block in self.read(lambda block: block))
        return (block for block in blocks if block is not None and (len(block.x) or block.dropped))

    def read(
        self,
        function: Callable[[Block], T],
        along: Tensor | None = None,
        skip: int = 0,
        clusters: bool = False,
    ) -> Iterator[tuple[int, np.ndarray, T | None]]:
        """Apply a function to the blocks, several at the same time, and yield in their order.

        Args:
            function: called with each block.
            along: (q), for the sums of the rows; None: ones.
            skip: rows at the start for which the function is not called; its result is None.
            clusters: whether they enter the sums.

        Yields: the number of rows up to the block's end, its sums (see `Block.sums`), and the
            function's result.
        """

        def applied(piece: tuple[int, list[str], Any]) -> tuple[int, np.ndarray, T | None]:
            end, block = piece[0] + _length(piece[2]), self._block(*piece, along)
            return end, block.sums(clusters), function(block) if end > skip else None

        return in_order(applied, self._numbered(skip), min(torch.get_num_threads(), _LANES))

    def first(self) -> Block | None:
        """Return the first block that has rows."""
        blocks = (self._block(*piece) for piece in self._numbered())
        return next((block for block in blocks if len(block.x)), None)

    def _pieces(self) -> Iterator[Any]:
        wanted = None
        if self.columns is not None and self.response is not None:
            wanted = list(dict.fromkeys([*self.columns, *self._others]))
        return pieces(self.data, self.block_rows, wanted)

    @property
    def _others(self) -> list[str]:
        """The columns that are not numeric ones of the model."""
        names = (self.response, self.weights, self.clusters)
        return [name for name in names if name is not None]

    def _names(self, piece: Any) -> list[str]:
        if self.columns is not None:
            return list(self.columns)
        if isinstance(piece, tuple):
            return [f"x{j}" for j in range(piece[0].shape[1])]
        return [name for name in piece.schema.names if name not in self._others]

    def _numbered(self, cut: int = 0) -> Iterator[tuple[int, list[str], Any]]:
        """Yield the number of the first row, the names of the columns, and each piece of the data;
        a piece that has the row `cut` inside is divided there.
        """
        first, names = 0, None
        for whole in self._pieces():
            names = self._names(whole) if names is None else names
            inside = first < cut < first + _length(whole)
            for piece in _divided(whole, cut - first) if inside else [whole]:
                yield first, names, piece
                first += _length(piece)
                if self.progress is not None:
                    self.progress(first)

    def _block(
        self, first: int, names: list[str], piece: Any, along: Tensor | None = None
    ) -> Block:
        """Return the rows of a piece that are complete and weigh something."""
        columns_of = self._of_arrays if isinstance(piece, tuple) else self._of_table
        x, response, weights, clusters, levels, lacking = columns_of(first, names, piece)
        if not x.flags.writeable or any(stride < 0 for stride in x.strides):
            x = np.array(x)  # PyTorch has no such memory
        numbers = torch.from_numpy(x)
        product = numbers @ (torch.ones(len(names)) if along is None else along).to(numbers.dtype)
        weight = None if weights is None else torch.from_numpy(np.array(weights, np.float64))
        block = Block(numbers, response, weight, product, clusters, names, levels)
        weights = np.ones(1) if weights is None else weights
        absent = np.zeros(len(x), dtype=bool)
        if lacking or not (product.sum().isfinite() and np.isfinite(weights.sum())):
            absent = np.isnan(x).any(1) | np.isnan(weights)
            for mask in lacking.values():
                absent = absent | mask
            self._require_usable(first, block, lacking, absent)
        negative = np.flatnonzero(~absent & (weights < 0))
        if len(negative):
            got = f"{weights[negative[0]]:g} at row {first + negative[0]}"
            raise ValueError(f"expected weights of at least 0, got {got}")
        retained = ~absent & (weights > 0)
        block = block if retained.all() else block.some(retained)
        return block._replace(dropped=int(absent.sum()))

    def _of_table(self, first: int, names: list[str], table: Any) -> _Columns:
        from nll.data import arrow

        if self.response is None:
            got = ", ".join(table.schema.names)
            raise ValueError(f"expected the name of the response, one of {got}, got none")
        require_columns([*names, *self._others], table.schema.names)
        columns = [arrow.numbers_of(table.column(name), name, first) for name in names]
        single = bool(columns) and all(column.dtype == np.float32 for column in columns)
        x = np.empty((len(columns), table.num_rows), np.float32 if single else np.float64)
        for to, column in zip(x, columns, strict=True):
            to[:] = column
        weights, clusters, lacking = None, None, {}
        if self.weights is not None:
            weights = arrow.numbers_of(table.column(self.weights), self.weights, first)
        response = table.column(self.response)
        classes, lacking[self.response] = arrow.classes_of(response, self.response)
        if self.clusters is not None:
            column = table.column(self.clusters)
            clusters, lacking[self.clusters] = arrow.classes_of(column, self.clusters)
        return x.T, classes, weights, clusters, categories_of(response), _some_lacking(lacking)

    def _of_arrays(self, first: int, names: list[str], arrays: tuple[Any, ...]) -> _Columns:
        x, y, *more = arrays
        y = y.reshape(-1) if y.shape == (len(x), 1) else y
        if x.ndim != 2 or any(part.shape != (len(x),) for part in (y, *more)):
            shapes = ", ".join(str(tuple(part.shape)) for part in (x, y, *more))
            raise ValueError(
                f"expected blocks (n, columns), (n) and weights (n), got shapes {shapes}"
            )
        if x.shape[1] != len(names):
            raise ValueError(
                f"expected blocks of {len(names)} columns, got {x.shape[1]} at row {first}"
            )
        name = self.response or "y"
        classes, present = of_array(y, name)
        weights = _numbers(more[0], "weights", first) if more else None
        levels = categories_of(self.data[1]) if is_arrays(self.data) else None
        x = _numbers(x, "X", first)
        return x, classes, weights, None, levels, _some_lacking({name: present})

    def _require_usable(
        self, first: int, block: Block, lacking: dict[str, np.ndarray], absent: np.ndarray
    ) -> None:
        """Name what is infinite, and what is missing where it may not be."""
        columns = dict(zip(block.names, block.x.numpy().T, strict=True))
        if block.weights is not None:
            columns[self.weights or "weights"] = block.weights.numpy()
        for name, column in columns.items():
            wrong = np.flatnonzero(np.isinf(column))
            if len(wrong):
                raise ValueError(
                    f"expected finite values in column {name!r}, got {column[wrong[0]]:g} at "
                    f"row {first + wrong[0]}"
                )
        if self.missing == "raise" and absent.any():
            row = int(absent.argmax())
            empty = [name for name, column in columns.items() if np.isnan(column[row])]
            empty += [name for name, mask in lacking.items() if mask[row]]
            raise MissingValuesError(f"one in column {empty[0]!r} at row {first + row}")


def _some_lacking(present: dict[str, np.ndarray | None]) -> dict[str, np.ndarray]:
    return {name: ~mask for name, mask in present.items() if mask is not None}


def _numbers(array: np.ndarray, what: str, first: int) -> np.ndarray:
    if array.dtype in (np.float32, np.float64) and not np.ma.isMaskedArray(array):
        return array
    array = array_of(array, what)
    try:
        numbers = floats(array, what)
    except TypeError:
        raise ValueError(f"expected numbers in {what}, got {array.dtype} at row {first}") from None
    require_exact(array, f"numbers in {what}", first)
    return numbers


def _length(piece: Any) -> int:
    return len(piece[0]) if isinstance(piece, tuple) else piece.num_rows


def _divided(piece: Any, at: int) -> list[Any]:
    if isinstance(piece, tuple):
        return [tuple(part[:at] for part in piece), tuple(part[at:] for part in piece)]
    return [piece.slice(0, at), piece.slice(at)]
