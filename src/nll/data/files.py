"""Files: those of a table, and results that are written whole or not at all."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PARQUET = (".parquet", ".pq")
SUFFIXES = (".csv", ".tsv", ".gz", *PARQUET)  # of tables
_NAMED = ".csv, .tsv, .csv.gz, .tsv.gz, .parquet, .pq"


def files_of(path: Path) -> list[Path]:
    """Return the table's file, or the folder's files in the order of their names.

    Raises: ValueError for a path that does not exist, or files of other kinds.
    """
    if not path.exists():
        raise ValueError(f"no such file: {path}")
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    tables = [file for file in files if file.suffix.lower() in SUFFIXES]
    if path.is_dir():
        tables = [file for file in tables if file.is_file() and file.name[0] not in "._"]
    if not tables:
        kind = "folder with files" if path.is_dir() else "file"
        raise ValueError(f"expected a {kind} named {_NAMED}, got {path}")
    return tables


@contextmanager
def replacing(path: str | Path, temporary: Path | None = None) -> Iterator[BinaryIO]:
    """Open a file for bytes which takes the place of `path` at the end: a failed write leaves the
    old one.

    The target of a link is replaced; permissions are kept. Devices, pipes, the process's own
    output, and files in a folder that accepts no new ones are written in place.

    `temporary`: the file to write first, in the same folder; None for one with a random name.
    Raises: OSError with the path as passed.
    """
    try:
        direct = _in_place(Path(path))
        if direct is not None:
            with direct as file:
                yield file
            return
        target = Path(os.path.realpath(path))
        new = temporary or target.with_name(f".nll-{os.urandom(8).hex()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        try:
            with open(os.open(new, flags, 0o666), "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            with suppress(OSError):  # there was no file, or it is not ours
                os.chmod(new, stat.S_IMODE(target.stat().st_mode))
            os.replace(new, target)
        except BaseException:
            with suppress(OSError):
                new.unlink()
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def write_text(path: str | Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text.encode())


def _in_place(path: Path) -> BinaryIO | None:
    """Return the file to write directly; None where a new one takes its place."""
    if not path.exists():
        return None
    present = path.stat()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, AttributeError, ValueError):  # it is closed, or no file
            if os.path.samestat(os.fstat(stream.fileno()), present):
                stream.flush()
                return open(os.dup(stream.fileno()), "wb")
    if stat.S_ISREG(present.st_mode) and os.access(
        os.path.dirname(os.path.realpath(path)), os.W_OK
    ):
        return None
    return open(path, "wb")
