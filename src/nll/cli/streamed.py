"""Tables that are read in blocks instead of being held in memory."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from nll.cli.observed import Source
from nll.cli.tables import known_file
from nll.data.csv_dialect import Dialect
from nll.data.readers import blocks_in

# Bytes in memory from which a table is read in blocks; a smaller one is faster to read at once.
_LARGE_BYTES = 1 << 28


def blocks_of(source: Source) -> Any:
    """Return a file or folder as streams take it."""
    if source.dialect == Dialect():
        return source.path
    return partial(blocks_in, source.path, source.dialect)


def require_rereadable(path: Path) -> None:
    """Raise ValueError for a pipe: each pass reads the table again."""
    if str(path) == "-" or (path.exists() and not (path.is_file() or path.is_dir())):
        raise ValueError(f"only a file or a folder can be read in blocks, got {path}")


def is_large(path: Path, names: list[str] | None) -> bool:
    """Whether these columns of a file (None: all) take much memory."""
    return known_file(path) and _size(path, names) > _LARGE_BYTES


def _size(path: Path, names: list[str] | None) -> int:
    """Estimate the bytes in memory: a number in a CSV file takes a few characters."""
    if path.suffix.lower() not in (".parquet", ".pq"):
        return path.stat().st_size * (4 if path.suffix.lower() == ".gz" else 1)
    import pyarrow as pa
    from pyarrow.parquet import read_metadata

    try:
        metadata = read_metadata(path)
    except (pa.ArrowException, OSError):
        return 0  # reported when it is read
    return metadata.num_rows * 8 * (metadata.num_columns if names is None else len(names))
