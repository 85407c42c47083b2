"""Results of the passes over a long stream, kept in a file: a search that was interrupted resumes.

A search is a function of the results of its passes. The file has these in their order, and the sums
of the interrupted pass with the number of its rows. The search runs again, receives the results
from the file, and goes on with the next row. The rows are compared with the earlier ones as they
are read (see `Ledger`).
"""

from __future__ import annotations

import hashlib
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from copy import deepcopy
from datetime import date, datetime, timedelta, timezone
from datetime import time as time_of_day
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nll.data.files import replacing
from nll.data.ledger import Ledger

if TYPE_CHECKING:
    from typing_extensions import Self

_MAGIC = b"nll checkpoint 2\n"
_DIGEST = 64  # characters of SHA-256
_EVERY = 20.0  # seconds between two writings within a pass
# of classes, besides numbers, texts and bytes
_TYPES = [date, datetime, time_of_day, timedelta, timezone]


class Checkpoint:
    """The passes of one search; to be used in a `with` statement.

    Args:
        path: of the file, through links; None: nothing is kept.
        what: what distinguishes this search's data and options from others, by name.
        ledger: of the rows.

    Raises: ValueError for a file that is of another kind, damaged, of another search or in use, or
        cannot be written.
    """

    def __init__(self, path: str | Path | None, what: dict[str, str], ledger: Ledger) -> None:
        self.path = None if path is None else Path(os.path.realpath(path))
        self.what, self.ledger = what, ledger
        self.done: list[dict[str, Any]] = []  # the complete passes: key and sums
        self.part: dict[str, Any] | None = None  # the interrupted one: key, sums and rows
        self.next = 0  # the pass to be asked for next
        self._open = ExitStack()

    def __enter__(self) -> Self:
        if self.path is None:
            return self
        if not self.path.parent.is_dir():
            raise ValueError(
                f"expected a folder that exists for {self.path}, got no such folder: "
                f"{self.path.parent}"
            )
        if self.path.exists() and not self.path.is_file():
            raise ValueError(f"expected a file for the checkpoint, got {self.path}, which is none")
        with ExitStack() as stack:
            stack.enter_context(_alone(self.path))
            _beside(self.path, "new").unlink(missing_ok=True)  # of a process that was killed
            if self.path.exists():
                self._read(self.path)
            stack.enter_context(_stopping())
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def passed(
        self,
        key: Iterable[Tensor],
        parts: Callable[[int], Iterable[tuple[int, Any]]],
        add: Callable[[Any, Any], Any],
    ) -> Any:
        """Add up what the blocks of rows contribute; return the sums.

        Args:
            key: the numbers that a pass depends on. If the file has the same, its sums are taken.
            parts: called with the number of rows to skip; yields the number of rows up to each
                block's end, and what the block contributes.
            add: called with the sums, None at first, and a contribution; returns the new sums, of
                tensors and plain values, without changing the old ones.
        """
        numbers = [tensor.detach().clone() for tensor in key]
        if self.next < len(self.done):
            earlier = self.done[self.next]
            if _same(earlier["key"], numbers):
                self.next += 1
                return deepcopy(earlier["sums"])
            # the search has taken another way: on a machine that rounds differently
            del self.done[self.next :]
        part = {"key": numbers, "sums": None, "rows": 0}
        if self.part is not None and _same(self.part["key"], numbers):
            part = self.part
        self.part = None
        return deepcopy(self._continued(part, parts, add))

    def _continued(self, part: dict[str, Any], parts: Any, add: Any) -> Any:
        written = time.monotonic()
        try:
            for end, contribution in parts(part["rows"]):
                part = part | {"sums": add(part["sums"], contribution), "rows": end}
                if time.monotonic() - written > _EVERY:
                    self._write(part)
                    written = time.monotonic()
            if self.path is not None:
                self.done.append({"key": part["key"], "sums": part["sums"]})
                self._write(None)
                self.next += 1
        except (KeyboardInterrupt, SystemExit):
            self._write(None if len(self.done) > self.next else part)
            raise
        return part["sums"]

    def _write(self, part: dict[str, Any] | None) -> None:
        if self.path is None:
            return
        state = {"what": self.what, "done": self.done, "part": part, "rows": self.ledger.state}
        try:
            with replacing(self.path, _beside(self.path, "new")) as file:
                file.write(packed(state))
        except OSError as error:
            raise ValueError(f"expected a checkpoint that can be written, got: {error}") from None

    def _read(self, path: Path) -> None:
        try:
            state = unpacked(path.read_bytes())
        except OSError as error:
            raise ValueError(f"expected a checkpoint that can be read, got: {error}") from None
        except ValueError as error:
            raise ValueError(
                f"expected a checkpoint in {path}, got {error}; remove it to start anew"
            ) from None
        for name in {**self.what, **state["what"]}:
            before, now = state["what"].get(name), self.what.get(name)
            if before != now:
                raise ValueError(
                    f"expected the checkpoint of this fit in {path}, got that of another: {name} "
                    f"{before}, now {now}"
                )
        self.done, self.part = state["done"], state["part"]
        self.ledger.restore(state["rows"], f"the checkpoint {path}")


def packed(state: dict[str, Any]) -> bytes:
    """Return tensors and plain values as the bytes of a file, with a checksum."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    return _MAGIC + hashlib.sha256(data).hexdigest().encode() + data


def unpacked(data: bytes) -> dict[str, Any]:
    """Invert `packed`; nothing is executed. Raises: ValueError naming what other bytes are."""
    if data[: len(_MAGIC)] != _MAGIC:
        raise ValueError(
            "one of another version" if data.startswith(_MAGIC[:14]) else "another file"
        )
    digest, data = data[len(_MAGIC) : len(_MAGIC) + _DIGEST], data[len(_MAGIC) + _DIGEST :]
    if hashlib.sha256(data).hexdigest().encode() != digest:
        raise ValueError("a damaged file")
    try:
        with torch.serialization.safe_globals(_TYPES):
            return torch.load(io.BytesIO(data), weights_only=True)
    except Exception:  # whatever is wrong with it, it is not ours
        raise ValueError("another file") from None


def can_keep(values: Any) -> bool:
    """Whether values come back from a file as they are."""
    try:
        return unpacked(packed({"values": values}))["values"] == values
    except Exception:  # of a type that cannot be written, or is not read back
        return False


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.nll-{what}")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Lock a file for this process; the lock ends with it. Raises: ValueError if it is in use."""
    try:
        import fcntl
    except ImportError:  # a system without such locks
        yield
        return
    lock = _beside(path, "lock")
    while True:
        try:
            file = open(lock, "ab")  # noqa: SIM115  # until the end
        except OSError as error:
            raise ValueError(f"expected a checkpoint that can be written, got: {error}") from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ValueError(
                f"expected a checkpoint of its own for each fit, got {path}, which is in use"
            ) from None
        except OSError:  # a file system without locks
            pass
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                break
        file.close()  # another process has just ended, and removed it
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        file.close()


@contextmanager
def _stopping() -> Iterator[None]:
    """Raise SystemExit on SIGTERM and SIGHUP, as Ctrl-C raises KeyboardInterrupt, where they would
    kill.
    """

    def stop(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    taken = []
    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
