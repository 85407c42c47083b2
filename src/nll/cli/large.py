"""Tables that are fitted without being held in memory."""

from __future__ import annotations

from pathlib import Path

from formulaic import StructuredFormula

from nll.cli.tables import known_file
from nll.likelihood.stream import Stream
from nll.regression.design import variables

# From this size in memory on; a smaller table is read at once, which is faster.
_LARGE_BYTES = 1 << 28


def stream(path: Path, formula: StructuredFormula, weights: str | None, missing: str, wanted: bool) -> Stream | None:
    """The table in blocks; None: it is to be read at once.

    Args:
        path: a file, or a folder of files.
        formula: of the regression.
        weights: the column of frequencies.
        missing: "raise" or "drop".
        wanted: whether it must be in blocks.

    Raises: ValueError where the table must be in blocks and the formula has more than plain columns.
    """
    if not (wanted or path.is_dir() or (known_file(path) and _size(path, formula) > _LARGE_BYTES)):
        return None
    names = [str(term) for term in formula.rhs if str(term) != "1"]
    response = str(next(iter(formula.lhs)))
    plain = set(variables(formula))
    for name in [response, *names]:
        if name.strip("`") not in plain:
            if not (wanted or path.is_dir()):
                return None
            raise ValueError(f"expected plain columns in the formula of a table that is read in blocks, got {name!r}")
    columns = [name.strip("`") for name in names]
    return Stream(path, response.strip("`"), columns, weights, missing=missing)


def _size(path: Path, formula: StructuredFormula) -> int:
    """Of the columns in memory, about: a number in a CSV file takes a few characters."""
    if path.suffix.lower() in (".parquet", ".pq"):
        import pyarrow as pa
        from pyarrow.parquet import read_metadata

        try:
            return read_metadata(path).num_rows * 8 * len(variables(formula))
        except (pa.ArrowException, OSError):
            return 0  # who reads it says what is wrong
    return path.stat().st_size * (4 if path.suffix.lower() == ".gz" else 1)
