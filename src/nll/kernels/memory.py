"""Memory for large results on a processor: touching fresh pages costs more than the arithmetic.

The memory of the last large results is kept for the next of the same size. It is PyTorch's own, so
that a storage may be resized, freed, shared or saved like any other; one that has been is not used
again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from threading import Lock

import torch
from torch import Tensor

POOLED = 1 << 20  # bytes: a tensor that takes longer to touch for the first time than to compute
KEPT = 3  # log_softmax and nll_loss in two calls have three at once

# a storage, its address and its bytes when it was made
_Span = tuple[torch.UntypedStorage, int, int]
_lock = Lock()
_kept: list[_Span] = []


def empty(shape: Sequence[int], dtype: torch.dtype, touch: Callable[[int, int], None]) -> Tensor:
    """A contiguous tensor on the processor; `touch(address, bytes)` prepares memory that nobody has
    used yet.
    """
    size = math.prod(shape) * dtype.itemsize
    if size < POOLED:
        return torch.empty(shape, dtype=dtype, device="cpu")
    with _lock:
        for i, span in enumerate(_kept):
            if span[2] == size and _is_free(span):
                _kept.append(_kept.pop(i))
                return torch.empty(0, dtype=dtype, device="cpu").set_(span[0], 0, tuple(shape))  # type: ignore[call-overload]
    result = torch.empty(shape, dtype=dtype, device="cpu")
    storage = result.untyped_storage()
    touch(storage.data_ptr(), size)
    with _lock:
        _kept[:] = [span for span in _kept if _is_unchanged(span)][1 - KEPT :]
        _kept.append((storage, storage.data_ptr(), size))
    return result


def _is_unchanged(span: _Span) -> bool:
    storage, address, size = span
    return storage.nbytes() == size and storage.data_ptr() == address


def _is_free(span: _Span) -> bool:
    """Whether no tensor uses the memory any more."""
    return torch._C._storage_Use_Count(span[0]._cdata) == 1 and _is_unchanged(span)  # type: ignore[attr-defined]


def kept_bytes() -> int:
    """How many bytes are kept that no tensor uses."""
    with _lock:
        return sum(span[2] for span in _kept if _is_free(span))


def release() -> None:
    """Give the memory back that is kept for the next result."""
    with _lock:
        _kept.clear()
