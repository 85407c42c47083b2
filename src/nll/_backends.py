"""Which implementation runs a loss, and how to override the choice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from nll.kernels import reference

# Every backend by name, in the order in which they are tried.
BACKENDS: dict[str, ModuleType] = {"reference": reference}

_forced: str | None = None


def choose() -> ModuleType:
    """Return the backend that runs the next loss: the one asked for, else the first that can."""
    return BACKENDS[_forced] if _forced is not None else reference


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the losses inside the `with` block on the named backend, in every thread.

    Raises ValueError for a name that is not a backend of this installation.
    """
    global _forced
    if name not in BACKENDS:
        raise ValueError(f"expected a backend among {', '.join(map(repr, BACKENDS))}, got {name!r}")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before
