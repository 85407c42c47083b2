"""Results written to files: whole, or not at all."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write bytes to, beside `path`, which takes its place at the end: a failed write
    leaves the old one.

    Through a link its target is replaced; permissions are kept. Devices, pipes, the process's own
    output, and files in a folder that takes no new ones are written in place. Raises OSError with
    the path as it was given.
    """
    try:
        direct = _in_place(Path(path))
        if direct is not None:
            with direct as file:
                yield file
            return
        target = Path(os.path.realpath(path))
        beside = target.with_name(f".nll-{secrets.token_hex(8)}")
        try:
            with open(
                os.open(
                    beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666
                ),
                "wb",
            ) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            with suppress(OSError):  # there was no file, or it is not ours
                os.chmod(beside, stat.S_IMODE(target.stat().st_mode))
            os.replace(beside, target)
        except BaseException:
            with suppress(OSError):
                beside.unlink()
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def write_text(path: str | Path, text: str) -> None:
    """Write a text as UTF-8, as `replacing` does."""
    with replacing(path) as file:
        file.write(text.encode())


def _in_place(path: Path) -> BinaryIO | None:
    """The file to be written directly; None where a new one is to take its place."""
    try:
        there = path.stat()
    except FileNotFoundError:
        return None
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, AttributeError, ValueError):  # it is closed, or no file
            if os.path.samestat(os.fstat(stream.fileno()), there):
                stream.flush()
                return open(os.dup(stream.fileno()), "wb")
    if stat.S_ISREG(there.st_mode) and os.access(os.path.dirname(os.path.realpath(path)), os.W_OK):
        return None
    return open(path, "wb")
