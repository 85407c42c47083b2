"""Output and errors of the command: an error is one line on stderr and exit code 2."""

from __future__ import annotations

import json
import math
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from nll.data.files import write_text


class Commands(TyperGroup):
    """The subcommands, whose errors and warnings are reported in one line each."""

    def invoke(self, ctx: Any) -> Any:
        """Run a subcommand."""
        with _reported(), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: _say(str(message))
            try:
                return super().invoke(ctx)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except (typer.Exit, typer.Abort):  # RuntimeErrors, but no mistakes
        raise
    except OSError as error:
        # A closed pipe, or a full disk, must not be tried again at exit.
        with suppress(OSError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _fail(f"cannot read or write: {error}")
    except (ValueError, TypeError) as error:
        remedied = getattr(error, "with_remedy", None)  # of a MissingValuesError
        _fail(str(error) if remedied is None else remedied("--missing drop"))
    except (MemoryError, RuntimeError, SystemError) as error:
        from nll._torch import out_of_memory

        if not out_of_memory(error):
            raise
        _fail("out of memory; softmax regression can read the table in blocks (--checkpoint)")


def _fail(message: str) -> NoReturn:
    _say(message)
    raise typer.Exit(2)


def _say(message: str) -> None:
    typer.echo(f"nll: {' '.join(message.splitlines())}", err=True)


def require_places(
    inputs: list[Path | None], outputs: list[Path | None], printed: Path | None = None
) -> None:
    """Raise ValueError, before any work is done, for results that cannot be written or would
    overwrite one another or the input, also through links.

    Args:
        inputs: files, folders, or - for the standard input.
        outputs: files of results.
        printed: file of another result; - prints it.
    """
    taken = [file for path in inputs for file in _files(path)]
    for file in [*outputs, printed]:
        if file is None or (file is printed and str(file) == "-"):
            continue
        if str(file) == "-":
            raise ValueError("this result cannot be printed: expected a file, got -")
        if file.is_dir():
            raise ValueError(f"expected a file to write, got the folder {file}")
        if not file.parent.is_dir():
            raise ValueError(f"no such folder: {file.parent}")
        if any(_same(file, other) for other in taken):
            raise ValueError(f"expected a file of its own for each result, got {file} again")
        if not os.access(file if file.exists() else file.resolve().parent, os.W_OK):
            raise ValueError(f"no permission to write {file}")
        taken.append(file)


def _files(path: Path | None) -> list[Path]:
    if path is None or str(path) == "-":
        return []
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def _same(a: Path, b: Path) -> bool:
    """Whether two names refer to one file; devices take any number of results."""
    if a.exists() and b.exists():
        return a.is_file() and os.path.samefile(a, b)
    return os.path.realpath(a) == os.path.realpath(b)


def write_json(result: dict[str, Any], file: Path) -> None:
    """Write a result, or print it if the file is `-`."""
    text = json.dumps(_finite(result), indent=1, allow_nan=False) + "\n"
    if str(file) == "-":
        show(text)
    else:
        write_text(file, text)


def show(text: str) -> None:
    """Print a result. OSError if the standard output is closed."""
    if sys.stdout is None:
        raise OSError("the standard output is closed")
    typer.echo(text, nl=False)


def _finite(value: Any) -> Any:
    """Convert to what JSON can hold: NaN and infinity become null, times become text."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    from nll.data.classes import label

    return label(value)
