"""A line on the terminal during a long search."""

from __future__ import annotations

import sys
import time

_PATIENCE, _EVERY = 2.0, 0.1  # seconds before the first line, and between two


class Line:
    """The state of a search on one line, removed at the end; silent unless stderr is a terminal."""

    def __init__(self, model: str) -> None:
        self.model, self.next, self.width = model, time.monotonic() + _PATIENCE, 0

    def __call__(self, step: int, log_likelihood: float, decrement: float) -> None:
        if time.monotonic() < self.next or not sys.stderr.isatty():
            return
        self.next = time.monotonic() + _EVERY
        self._write(
            f"{self.model}: step {step}, log-likelihood {log_likelihood:.6f}, expected "
            f"gain {decrement:.1e}"
        )

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        if self.width:
            self._write("")
            sys.stderr.write("\r")

    def _write(self, text: str) -> None:
        sys.stderr.write("\r" + text.ljust(self.width))
        sys.stderr.flush()
        self.width = len(text)
