"""What the command writes, and how it says that something cannot be done: one line on stderr, exit
code 2.
"""

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

from nll._torch import out_of_memory
from nll.data.files import write_text
from nll.data.observations import label


class Commands(TyperGroup):
    """The subcommands; whatever stops one of them is reported in one line."""

    def invoke(self, ctx: Any) -> Any:
        """Run one."""
        with _reported(), warnings.catch_warnings():
            warnings.showwarning = _warned
            try:
                return super().invoke(ctx)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()


def _warned(message: Warning | str, *_: Any) -> None:
    _say(str(message))


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        with suppress(
            OSError, AttributeError
        ):  # a pipe that is closed, or a full disk, is not to be tried again at the exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        fail(f"expected files that can be read and written, got: {error}")
    except (ValueError, TypeError) as error:
        fail(str(error).replace("missing='drop' leaves them out", "--missing drop leaves them out"))
    except (MemoryError, RuntimeError, SystemError) as error:
        if not out_of_memory(error):
            raise
        fail(
            "expected memory for the table and its fit, got too little; a softmax regression also "
            "reads in blocks"
        )


def fail(message: str) -> NoReturn:
    """Say what was expected and what was found, and stop with 2."""
    _say(message)
    raise typer.Exit(2)


def _say(message: str) -> None:
    typer.echo(f"nll: {' '.join(message.splitlines())}", err=True)


def require_places(
    inputs: list[Path | None], outputs: list[Path | None], printed: Path | None = None
) -> None:
    """Complain before the work, not after it, about results that cannot be written or would
    overwrite one another.

    Args:
        inputs: what is read: files, folders, or - for the standard input.
        outputs: where results go.
        printed: where another goes; - prints it.

    Raises ValueError for a folder, one that does not exist or takes no files, and for a file that
    is read or is the place of another result, under whatever name.
    """
    taken = [path for path in map(_read, inputs) for path in path]
    for file in [*outputs, printed]:
        if file is None or (file is printed and str(file) == "-"):
            continue
        if str(file) == "-":
            raise ValueError("expected a file for this result, got -, which prints others")
        if file.is_dir():
            raise ValueError(f"expected a file to write, got the folder {file}")
        if not file.parent.is_dir():
            raise ValueError(
                f"expected a folder that exists for {file}, got no such folder: {file.parent}"
            )
        if any(_same(file, other) for other in taken):
            raise ValueError(f"expected a file of its own for each result, got {file} again")
        if not os.access(file if file.exists() else file.resolve().parent, os.W_OK):
            raise ValueError(
                f"expected a file that can be written, got {file} without the permission"
            )
        taken.append(file)


def _read(path: Path | None) -> list[Path]:
    """A file, or those of a folder."""
    if path is None or str(path) == "-":
        return []
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def _same(a: Path, b: Path) -> bool:
    """Whether two names are of one file, through links too; devices take any number of results."""
    if a.exists() and b.exists():
        return a.is_file() and os.path.samefile(a, b)
    return os.path.realpath(a) == os.path.realpath(b)


def write_json(result: dict[str, Any], file: Path) -> None:
    """Write a result, or print it where the file is `-`."""
    text = json.dumps(_finite(result), indent=1, allow_nan=False) + "\n"
    if str(file) == "-":
        show(text)
    else:
        write_text(file, text)


def show(text: str) -> None:
    """Print a result that is asked for on the standard output. OSError where that is closed."""
    if sys.stdout is None:
        raise OSError("the standard output is closed")
    typer.echo(text, nl=False)


def _finite(value: Any) -> Any:
    """What JSON has: NaN and infinity become null, and times texts."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else label(value)
