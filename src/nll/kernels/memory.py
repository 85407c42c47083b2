"""Memory for large results on a CPU: touching fresh pages costs more than the arithmetic.

The memory of the last large results is retained for the next of the same size. It is PyTorch's own,
so a storage may be resized, freed, shared or saved like any other; one that has been is not reused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from threading import Lock

import torch
from torch import Tensor

POOLED = 1 << 20  # bytes: a tensor that takes longer to touch for the first time than to compute
RETAINED = 3  # log_softmax and nll_loss in two calls have three at once

# a storage, its address and its bytes when it was made
_Span = tuple[torch.UntypedStorage, int, int]
_lock = Lock()
_retained: list[_Span] = []


def empty(shape: Sequence[int], dtype: torch.dtype, touch: Callable[[int, int], None]) -> Tensor:
    """Return a contiguous tensor on the CPU; `touch(address, bytes)` prepares fresh memory."""
    size = math.prod(shape) * dtype.itemsize
    if size < POOLED:
        return torch.empty(shape, dtype=dtype, device="cpu")
    with _lock:
        for i, span in enumerate(_retained):
            if span[2] == size and _is_free(span):
                _retained.append(_retained.pop(i))
                return torch.empty(0, dtype=dtype, device="cpu").set_(span[0], 0, tuple(shape))  # type: ignore[call-overload]
    result = torch.empty(shape, dtype=dtype, device="cpu")
    storage = result.untyped_storage()
    touch(storage.data_ptr(), size)
    with _lock:
        _retained[:] = [span for span in _retained if _is_unchanged(span)][1 - RETAINED :]
        _retained.append((storage, storage.data_ptr(), size))
    return result


def _is_unchanged(span: _Span) -> bool:
    storage, address, size = span
    return storage.nbytes() == size and storage.data_ptr() == address


def _is_free(span: _Span) -> bool:
    """Whether no tensor uses the memory any more."""
    return torch._C._storage_Use_Count(span[0]._cdata) == 1 and _is_unchanged(span)  # type: ignore[attr-defined]


def retained_bytes() -> int:
    with _lock:
        return sum(span[2] for span in _retained if _is_free(span))


def release() -> None:
    with _lock:
        _retained.clear()


def overwritten(input: Tensor, gradient: Tensor, already: bool) -> Tensor:
    """Return the gradient in the memory of the input, which may hold it `already`."""
    if not already:
        return input.detach().copy_(gradient)
    torch.autograd.graph.increment_version(input)
    return gradient
