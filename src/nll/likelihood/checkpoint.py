"""What the passes over a long stream have found, kept in a file: a search that was stopped goes on where it was.

A search is a function of what its passes find. The file has the results in their order, and the sums of the pass that
was under way; the search runs again, is given what it found before, and goes on with the next block.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_VERSION = 1
_EVERY = 20.0  # seconds between two writings within a pass


class Checkpoint:
    """The passes of one search.

    Args:
        path: of the file; None: nothing is kept.
        what: a text that tells this search's data and options from others'.

    Raises: ValueError for a file that is none of ours, or of another search.
    """

    def __init__(self, path: str | Path | None, what: str) -> None:
        self.path, self.what = None if path is None else Path(path), what
        self.done: list[dict[str, Any]] = []  # the passes: their keys and sums
        self.part: dict[str, Any] | None = None  # the one that was under way, and how many blocks it had
        self.next = 0  # the pass that is asked for next
        if self.path is None:
            return
        if not self.path.parent.is_dir():
            raise ValueError(f"expected a folder that exists for {path}, got no such folder: {self.path.parent}")
        if self.path.exists():
            self._read(self.path)

    def passed(
        self, key: Iterable[Tensor], parts: Callable[[int], Iterable[Any]], add: Callable[[Any, Any], Any]
    ) -> Any:
        """Add up the parts: `add` takes the sums so far, None at first, and a part.

        Args:
            key: numbers that a pass depends on; where they are those of the file, so are the sums.
            parts: what the blocks of rows add, but for so many of the first.
            add: returns the sums, of tensors and plain values.
        """
        own = [part.detach().clone() for part in key]
        if self.next < len(self.done):
            kept = self.done[self.next]
            if _same(kept["key"], own):
                self.next += 1
                return deepcopy(kept["sums"])
            del self.done[self.next :]  # the search has taken another way: a library of another version
        sums, skipped = None, 0
        if self.part is not None and _same(self.part["key"], own):
            sums, skipped = self.part["sums"], self.part["blocks"]
        self.part = None
        sums = self._go_through(own, parts, add, sums, skipped)
        if self.path is None:
            return sums
        self.done.append({"key": own, "sums": sums})
        self.next += 1
        self._write(None)
        return deepcopy(sums)

    def _go_through(self, key: list[Tensor], parts: Any, add: Any, sums: Any, skipped: int) -> Any:
        written = time.monotonic()
        try:
            for part in parts(skipped):
                sums, skipped = add(sums, part), skipped + 1
                if time.monotonic() - written > _EVERY:
                    self._write({"key": key, "sums": sums, "blocks": skipped})
                    written = time.monotonic()
        except KeyboardInterrupt:
            self._write({"key": key, "sums": sums, "blocks": skipped})
            raise
        return sums

    def _write(self, part: dict[str, Any] | None) -> None:
        """To a file beside it first: a process that is killed meanwhile leaves the one before."""
        if self.path is None:
            return
        beside = self.path.with_name(self.path.name + ".new")
        torch.save({"nll": _VERSION, "what": self.what, "done": self.done, "part": part}, beside)
        os.replace(beside, self.path)

    def _read(self, path: Path) -> None:
        try:
            state = torch.load(path, weights_only=True)
            version = state["nll"]
        except Exception:  # whatever is wrong with it, it is none of ours
            raise ValueError(f"expected a checkpoint in {path}, got another file") from None
        if version != _VERSION:
            raise ValueError(f"expected a checkpoint of version {_VERSION} in {path}, got version {version}")
        if state["what"] != self.what:
            raise ValueError(f"expected the checkpoint of this fit in {path}, got that of {state['what']}")
        self.done, self.part = state["done"], state["part"]


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
