"""Which implementation runs a loss, and how to override the choice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch  # type: ignore[attr-defined]
from torch.autograd import forward_ad

from nll import _autograd
from nll.kernels import cpu, reference

# Every backend by name: a module (or the like) with the functions of `kernels/reference.py`.
BACKENDS: dict[str, Any] = {"reference": reference}
if cpu.MISSING is None:
    BACKENDS["cpu"] = _autograd

# Below so many scores a call of the compiled loops costs more than it saves: PyTorch's operators are written in C++,
# the way to ours in Python.
SMALL = 1 << 14

_forced: str | None = None


def choose(input: Tensor, target: Tensor | None = None, weight: Tensor | None = None, allowed: Tensor | None = None):
    """Return the backend that runs a loss of these tensors: the compiled loops if they can and it pays."""
    if _forced is not None:
        backend = BACKENDS[_forced]
        return backend if backend is not _autograd or _compiled_can(input, target, weight, allowed) else reference
    if cpu.MISSING is None and input.numel() >= SMALL and _compiled_can(input, target, weight, allowed):
        return _autograd
    return reference


def _compiled_can(input: Tensor, target: Tensor | None, weight: Tensor | None, allowed: Tensor | None) -> bool:
    """Whether plain tensors in this process's memory are to be differentiated backwards, by the scores alone."""
    if torch.compiler.is_compiling() or input.device.type != "cpu" or input.numel() == 0 or input.dim() == 0:
        return False
    if allowed is not None or forward_ad._current_level >= 0 or _functorch.peek_interpreter_stack() is not None:
        return False
    others = [tensor for tensor in (target, weight) if tensor is not None]
    if any(tensor.requires_grad or tensor.device.type != "cpu" or type(tensor) not in _PLAIN for tensor in others):
        return False
    if weight is not None and not bool(weight.isfinite().all()):
        return False
    floats = [tensor.dtype for tensor in others if tensor.is_floating_point()]
    return type(input) in _PLAIN and all(_fits(dtype, input.dtype) for dtype in floats)


_PLAIN = (Tensor, torch.nn.Parameter)


def _fits(dtype: torch.dtype, scores: torch.dtype) -> bool:
    """Whether a weight or a probability of this type leaves the result in the type that is summed in."""
    return torch.promote_types(dtype, cpu.accumulator(scores)) == cpu.accumulator(scores)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the losses inside the `with` block on the named backend, in every thread.

    "cpu" takes the compiled loops for small tensors too; what they cannot do goes to "reference" as ever.

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
