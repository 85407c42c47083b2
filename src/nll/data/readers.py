"""Data of a stream in pieces: Arrow batches or tuples of arrays of a limited number of rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nll.data.arrays import require_dense
from nll.data.csv_dialect import Dialect
from nll.data.files import files_of
from nll.data.prefetch import height_of

_TABLES = ("__dataframe__", "__arrow_c_stream__", "to_batches")  # what tables have, one of these


def pieces(data: Any, rows: int | None, wanted: list[str] | None) -> Iterator[Any]:
    """Yield Arrow batches or tuples of arrays, each with at most `rows` rows.

    Args:
        data: as `Stream` takes it.
        rows: None for blocks of about 16 MB.
        wanted: the columns to read from tables; None: all.

    Raises: ValueError for a table that cannot be read or lacks a column; TypeError for other data.
    """
    if isinstance(data, (str, Path)):
        yield from blocks_in(Path(data), Dialect(), rows, wanted)
    elif is_arrays(data):
        arrays = [_array(part) for part in data]
        rows = height_of(rows, arrays[0].shape[1])
        for start in range(0, len(arrays[0]), rows):
            yield tuple(array[start : start + rows] for array in arrays)
    elif any(hasattr(data, name) for name in _TABLES):
        from nll.data import arrow

        yield from arrow.from_table(data, rows, wanted)
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


def blocks_in(
    path: Path, dialect: Dialect, rows: int | None = None, wanted: list[str] | None = None
) -> Iterator[Any]:
    """Yield the rows of a file or a folder in Arrow batches; CSV files are in the dialect."""
    from nll.data import arrow

    for file in files_of(path):
        yield from arrow.from_file(file, rows, wanted, dialect)


def is_arrays(data: Any) -> bool:
    """Whether the data are (X, y) or (X, y, weights)."""
    return isinstance(data, tuple) and len(data) in (2, 3) and getattr(data[0], "ndim", 0) == 2


def _array(part: Any) -> np.ndarray:
    require_dense(part, "columns in a stream")
    if isinstance(part, Tensor):
        part = part.detach().cpu()
        return (part.float() if part.dtype == torch.bfloat16 else part).numpy()
    return np.asanyarray(part)  # a mask is kept


def stamps(data: Any) -> list[tuple[str, int, int]]:
    """Return the name, size and time of each file in the data; for a partial function, of those in
    its first argument.
    """
    if isinstance(data, partial):
        return stamps(data.args[0])
    if isinstance(data, (list, tuple)):
        memory_mapped = [part for part in data if isinstance(part, np.memmap)]
        parts = memory_mapped if is_arrays(data) else data
        return [stamp for part in parts for stamp in stamps(part)]
    files: list[Any] = []
    if isinstance(data, (str, Path)):
        files = files_of(Path(data))
    elif isinstance(data, np.memmap) and data.filename is not None:
        files = [data.filename]
    elif hasattr(data, "scanner"):
        files = getattr(data, "files", [])  # a dataset's may lie elsewhere
    stats = [(str(file), Path(file).stat()) for file in files if Path(file).exists()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
