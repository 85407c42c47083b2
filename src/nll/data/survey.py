"""A first pass over a table in blocks: which columns are of numbers, and the categories of the
others.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from nll.data.arrays import require_columns
from nll.data.arrow import numbers_of
from nll.data.files import files_of
from nll.data.readers import pieces

MOST_CATEGORIES = 10_000
_HEAD = 50  # complete rows that are kept


class Survey:
    """What the blocks of a table show of some of its columns.

    Args:
        columns: names of columns of numbers, or of texts and other categories.
        categorical: those whose values are categories, whatever their type.
    """

    def __init__(self, columns: Sequence[str], categorical: Collection[Any]) -> None:
        self.columns, self.categorical = columns, categorical
        self.head: Any = None  # the first complete rows, of pandas; None: there are none yet
        self._kinds: dict[str, tuple[str, str]] = {}  # of each column, and the file that shows it
        self._levels: dict[str, list[Any]] = {}
        self._ordered: set[str] = set()  # columns whose type has the order of their categories

    @property
    def categories(self) -> dict[str, list[Any]]:
        """The categories of each column that has some, in their order."""
        return {
            name: values if name in self._ordered else _sorted(values)
            for name, values in self._levels.items()
        }

    def add(self, block: Any, file: str, first: int) -> None:
        """Look at a block of which the first row has the number `first`."""
        for name in self.columns:
            column = block.column(name)
            if name not in self.categorical and self._kind(name) == "numbers":
                numbers_of(column, name, first)
            self._require_one_kind(column, name, file, first)
            if name in self.categorical or self._kind(name) == "texts":
                self._add_levels(column, name)
        if self.head is None:
            rows = block.to_pandas().dropna().head(_HEAD)
            self.head = rows if len(rows) else None

    def _kind(self, name: str) -> str | None:
        return self._kinds[name][0] if name in self._kinds else None

    def _require_one_kind(self, column: Any, name: str, file: str, first: int) -> None:
        """Raise ValueError for a column that has numbers in one file and texts in another."""
        if pa.types.is_nested(column.type):
            raise ValueError(
                f"expected numbers or categories in column {name!r}, got {column.type}"
            )
        if column.null_count == len(column):
            return
        kind = kind_of(column.type)
        before, where = self._kinds.setdefault(name, (kind, file))
        if before != kind:
            got = f"{before} in {where} and {kind} in {file}, from row {first} on"
            raise ValueError(f"expected values of one kind in column {name!r}, got {got}")

    def _add_levels(self, column: Any, name: str) -> None:
        dictionary = pa.types.is_dictionary(column.type)
        if dictionary and name not in self._levels:
            self._ordered.add(name)
        levels = self._levels.setdefault(name, [])
        seen = set(levels)
        try:
            new = [value for value in column.unique().drop_null().to_pylist() if value not in seen]
        except (pa.ArrowNotImplementedError, TypeError):
            raise ValueError(f"expected categories in column {name!r}, got {column.type}") from None
        if dictionary and name in self._ordered:
            place = {value: at for at, value in enumerate(column.dictionary.to_pylist())}
            new.sort(key=place.__getitem__)
        levels += new
        if len(levels) > MOST_CATEGORIES:
            raise ValueError(
                f"expected at most {MOST_CATEGORIES} categories in column {name!r}, got more"
            )


def survey(
    data: Any, wanted: list[str], columns: Sequence[str], categorical: Collection[Any]
) -> Survey:
    """Look at all blocks of a table; ValueError where no row has a value in each wanted column."""
    seen, first = Survey(columns, categorical), 0
    for file, block in _with_files(data, wanted):
        require_columns(wanted, block.schema.names)
        seen.add(block, file, first)
        first += block.num_rows
    if seen.head is None:
        raise ValueError("expected at least one complete row, got none")
    return seen


def schema_of(data: Any) -> Any:
    """Return the Arrow schema of the first block; empty where there is none."""
    first = next(pieces(data, None, None), None)
    return pa.schema([]) if first is None else first.schema


def kind_of(kind: Any) -> str:
    """Return "texts" for categories too, "numbers", or another type as it is named."""
    types = pa.types
    texts = (types.is_dictionary, types.is_string, types.is_large_string, types.is_string_view)
    numbers = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)
    if any(is_one(kind) for is_one in texts):
        return "texts"
    return "numbers" if any(is_one(kind) for is_one in numbers) else f"{kind} values"


def _with_files(data: Any, wanted: list[str]) -> Iterator[tuple[str, Any]]:
    """Yield the blocks of the data, each with the name of its file."""
    path = data.args[0] if isinstance(data, partial) else data
    for file in files_of(Path(path)) if isinstance(path, (str, Path)) else [data]:
        source = partial(data.func, file, *data.args[1:]) if isinstance(data, partial) else file
        for block in pieces(source, None, wanted):
            yield getattr(file, "name", "the table"), block


def _sorted(values: list[Any]) -> list[Any]:
    """Sort values; whole numbers of a file without types become integers."""
    whole = all(isinstance(value, float) and value.is_integer() for value in values)
    return sorted(map(int, values) if whole else values)
