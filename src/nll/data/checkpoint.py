"""What the passes over a long stream have found, kept in a file: a search that was stopped goes on
where it was.

A search is a function of what its passes find. The file has the results in their order, and the
sums of the pass that was under way with the number of its rows; the search runs again, is given
what it found before, and goes on with the next row. The rows are compared with those of before as
they are read (see `Ledger`).
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
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self

    from nll.data.ledger import Ledger

_MAGIC = b"nll checkpoint 2\n"
_DIGEST = 64  # characters of SHA-256
_EVERY = 20.0  # seconds between two writings within a pass
# of classes, besides numbers, texts and bytes
_TYPES = [date, datetime, time_of_day, timedelta, timezone]


class _Part(NamedTuple):
    """A pass that is under way."""

    sums: Any
    rows: int  # that are in the sums


class Checkpoint:
    """The passes of one search; to be used in a `with` statement.

    Args:
        path: of the file, through links; None: nothing is kept.
        what: what tells this search's data and options from others', by name.
        ledger: of the rows.

    Raises: ValueError for a file that is none of ours, damaged, of another search or in use, or
        cannot be written.
    """

    def __init__(self, path: str | Path | None, what: dict[str, str], ledger: Ledger) -> None:
        self.path = None if path is None else Path(os.path.realpath(path))
        self.what, self.ledger = what, ledger
        self.done: list[dict[str, Any]] = []  # the passes: their keys and sums
        # the one that was under way, and how many rows it had
        self.part: dict[str, Any] | None = None
        self.next = 0  # the pass that is asked for next
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Take the file, and read what it has."""
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
            if self.path.exists():
                self._read(self.path)
            stack.enter_context(_stopping())
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        """Give the file back."""
        self._open.close()

    def passed(
        self,
        key: Iterable[Tensor],
        parts: Callable[[int], Iterable[tuple[int, Any]]],
        add: Callable[[Any, Any], Any],
    ) -> Any:
        """Add up the parts: `add` takes the sums so far, None at first, and a part.

        Args:
            key: numbers that a pass depends on; where they are those of the file, so are the sums.
            parts: what the blocks of rows add, but for so many rows at the start, with the rows up
                to their ends.
            add: returns the sums, of tensors and plain values, and leaves those that it was given
                as they are.
        """
        own = [part.detach().clone() for part in key]
        if self.next < len(self.done):
            kept = self.done[self.next]
            if _same(kept["key"], own):
                self.next += 1
                return deepcopy(kept["sums"])
            # the search has taken another way: a machine that rounds otherwise
            del self.done[self.next :]
        start = _Part(None, 0)
        if self.part is not None and _same(self.part["key"], own):
            start = _Part(self.part["sums"], self.part["rows"])
        self.part = None
        return deepcopy(self._go_through(own, parts, add, start))

    def _go_through(self, key: list[Tensor], parts: Any, add: Any, part: _Part) -> Any:
        written = time.monotonic()
        try:
            for end, more in parts(part.rows):
                part = _Part(add(part.sums, more), end)
                if time.monotonic() - written > _EVERY:
                    self._write({"key": key, **part._asdict()})
                    written = time.monotonic()
            if self.path is not None:
                self.done.append({"key": key, "sums": part.sums})
                self._write(None)
                self.next += 1
        except (KeyboardInterrupt, SystemExit):
            self._write(None if len(self.done) > self.next else {"key": key, **part._asdict()})
            raise
        return part.sums

    def _write(self, part: dict[str, Any] | None) -> None:
        """To a file beside it first: a process that is killed meanwhile leaves the one before."""
        if self.path is None:
            return
        state = {"what": self.what, "done": self.done, "part": part, "rows": self.ledger.state}
        beside = _beside(self.path, "new")
        try:
            with open(beside, "wb") as file:
                file.write(packed(state))
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self.path)
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
    """Tensors and plain values as the bytes of a file, with a checksum."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    return _MAGIC + hashlib.sha256(data).hexdigest().encode() + data


def unpacked(data: bytes) -> dict[str, Any]:
    """The inverse of `packed`; nothing is executed. ValueError, which says what they are, for other
    bytes.
    """
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
    except Exception:  # whatever is wrong with it, it is none of ours
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
    """A file for this process alone, by a lock that ends with it. ValueError where another has
    it.
    """
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
        file.close()  # the one before has just ended, and removed it
    try:
        yield
    finally:
        for left in (_beside(path, "new"), lock):
            with suppress(OSError):
                left.unlink()
        file.close()


@contextmanager
def _stopping() -> Iterator[None]:
    """SIGTERM and SIGHUP raise SystemExit, as Ctrl-C raises KeyboardInterrupt, where they would
    have killed.
    """

    def stop(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
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
