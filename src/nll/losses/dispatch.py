"""Which implementation runs a loss, and how to override the choice."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from nll import _torch
from nll.kernels import cpu, reference
from nll.losses import autograd

# Triton's kernels run on a processor then, slowly
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def _triton_missing() -> str | None:
    if find_spec("triton") is None:
        return "triton is not installed"
    if not INTERPRETED and not torch.cuda.is_available():
        return "there is no CUDA or ROCm device"
    return None


TRITON_MISSING = _triton_missing()

# Every backend by name: a module (or the like) with the functions of `kernels/reference.py`.
BACKENDS: dict[str, Any] = {"reference": reference}
if cpu.MISSING is None:
    BACKENDS["cpu"] = autograd.CPU
if TRITON_MISSING is None:
    BACKENDS["triton"] = autograd.TRITON

_OF_A_DEVICE = ("cpu", "triton")  # the others take every tensor

# Below so many scores a call of the compiled loops costs more than it saves: PyTorch's operators
# are written in C++, the way to ours in Python, some 30 microseconds long. A row counts too, as
# PyTorch takes each by itself.
SMALL, SCORES_IN_A_ROW = 1 << 17, 64

_forced: ContextVar[str | None] = ContextVar("nll backend", default=None)


@_torch.constant_to_compiler
def forced() -> str | None:
    """The backend that `use_backend` has named, in this thread and task."""
    return _forced.get()


def is_small(input: Tensor, target: Tensor) -> bool:
    """Whether PyTorch's own cross entropy takes this call, of (N, C) scores and no option of ours,
    as it is.

    Ours costs microseconds of Python where PyTorch's operator is done in a few. Its result must be
    the same: in float16 and bfloat16 it is not, nor for labels of one byte.
    """
    return (
        not torch.compiler.is_compiling()
        and _forced.get() is None
        and type(input) in _torch.PLAIN
        and type(target) in _torch.PLAIN
        and input.dim() == 2
        and input.numel() + SCORES_IN_A_ROW * input.shape[0] < SMALL
        and (input.dtype is torch.float32 or input.dtype is torch.float64)
        and target.dtype is torch.int64
        and input.device.type == "cpu"
    )


def choose(
    input: Tensor,
    target: Tensor | None = None,
    weight: Tensor | None = None,
    row_weights: Tensor | None = None,
    allowed: Tensor | None = None,
) -> Any:
    """Return the backend that runs a loss of these tensors: the kernels of their device if they can
    and it pays.
    """
    name = forced()
    if name is not None and name not in _OF_A_DEVICE:
        return BACKENDS[name]
    if obstacle(input, target, weight, row_weights, allowed) is not None:
        return reference
    return autograd.TRITON if _for_triton(input) else autograd.CPU


def _for_triton(input: Tensor) -> bool:
    return input.device.type == "cuda" or forced() == "triton"


def obstacle(
    input: Tensor,
    target: Tensor | None = None,
    weight: Tensor | None = None,
    row_weights: Tensor | None = None,
    allowed: Tensor | None = None,
) -> str | None:
    """Why a loss of these tensors does not go to the kernels of their device, if it does not;
    "because ...".
    """
    others = [tensor for tensor in (target, weight, row_weights) if tensor is not None]
    if forced() not in (None, *_OF_A_DEVICE):
        return "use_backend asks for it"
    of_device = (
        _obstacle_for_triton(input)
        if _for_triton(input)
        else _obstacle_for_cpu(input, target, weight)
    )
    if of_device is not None:
        return of_device
    if allowed is not None:
        return "the kernels do not take allowed_classes"
    if input.dim() == 0 or _torch.certainly(input.numel() == 0):
        return "there are no scores, or a single one"
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in others):
        return "a gradient by the target or by weights is wanted"
    if torch.compiler.is_exporting() and any(tensor.is_floating_point() for tensor in others):
        return "an exported program may be asked for a gradient by the target or by weights"
    if any(
        tensor.device != input.device or type(tensor) not in _torch.PLAIN
        for tensor in (input, *others)
    ):
        return "the tensors are on different devices, or are of a subclass of Tensor"
    if not all(_fits(tensor.dtype, input.dtype) for tensor in others if tensor.is_floating_point()):
        return "the target or a weight has a wider type than the scores"
    if _torch.transforming():
        return "forward mode or torch.func is at work"
    if not torch.compiler.is_compiling() and _torch.watched():
        return "a tracer or a mode watches PyTorch's operators"
    return None


def _obstacle_for_cpu(input: Tensor, target: Tensor | None, weight: Tensor | None) -> str | None:
    if cpu.MISSING is not None:
        return cpu.MISSING
    compiling = torch.compiler.is_compiling()
    one_operator = target is None or compiling  # is all that the reference takes
    if one_operator and forced() is None and _torch.certainly(input.numel() < SMALL // 4):
        return "there are so few scores that PyTorch's operator takes less time"
    if input.device.type != "cpu":
        return f"there are no kernels for a tensor on {input.device.type}"
    if weight is None or compiling:
        return None
    if weight.device.type != "cpu" or not (
        _torch.readable(weight) and bool(weight.isfinite().all())
    ):
        return "class weights are not finite"
    return None


def _obstacle_for_triton(input: Tensor) -> str | None:
    if TRITON_MISSING is not None:
        return TRITON_MISSING
    if input.device.type != ("cpu" if INTERPRETED else "cuda"):
        return f"there are no kernels for a tensor on {input.device.type}"
    return "the kernels do not take float64" if input.dtype is torch.float64 else None


def _fits(dtype: torch.dtype, scores: torch.dtype) -> bool:
    """Whether a weight or a probability of this type leaves the result in the type that is summed
    in.
    """
    sums = torch.promote_types(scores, torch.float32)
    return torch.promote_types(dtype, sums) == sums


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Memory for a result; on a processor, that of an earlier one if it is large."""
    if device.type == "cpu" and cpu.MISSING is None:
        return cpu.empty(shape, dtype)
    return torch.empty(shape, dtype=dtype, device=device)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the losses inside the `with` block, in this thread and task, on the named backend.

    "cpu" takes the compiled loops for small tensors too, "triton" its kernels for tensors of a
    processor, if they are interpreted (TRITON_INTERPRET=1); what they cannot do goes to "reference"
    as ever. A compiled function keeps the choice with which it was compiled.

    Raises ValueError for a name that is not a backend of this installation.
    """
    if name not in BACKENDS:
        raise ValueError(f"expected a backend among {', '.join(map(repr, BACKENDS))}, got {name!r}")
    with _choice(name):
        yield


@contextmanager
def _choice(name: str | None) -> Iterator[None]:
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def as_written(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Run the forward pass of an autograd function in the types that it is given, whatever autocast
    says.
    """
    run = _torch.without_autocast(forward)

    @wraps(forward)
    def remembering(ctx: Any, *arguments: Any) -> Any:
        ctx.backend = forced()
        return run(ctx, *arguments)

    return remembering


def as_forward(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Run the backward pass, which may be in another thread, as its forward pass ran."""
    run = _torch.without_autocast(backward)

    @wraps(backward)
    def remembered(ctx: Any, *gradients: Any) -> Any:
        with _choice(ctx.backend):
            return run(ctx, *gradients)

    return remembered


def look_at_labels(target: Tensor, classes: int, ignore_index: int) -> None:
    """Raise IndexError for a label out of range; an accelerator is not waited for, and tells of it
    later.
    """
    if (
        target.is_floating_point()
        or torch.compiler.is_compiling()
        or _torch.transforming()
        or _torch.watched()
    ):
        return
    if _torch.readable(target):
        wrong = (target < 0) | (target >= classes)
        if bool((wrong & (target != ignore_index)).any()):
            raise IndexError("label out of range")
    elif (
        type(target) in _torch.PLAIN and target.numel() > 0 and _obstacle_for_triton(target) is None
    ):
        from nll.kernels.triton import labels

        labels.look(target, classes, ignore_index)


def check_labels() -> None:
    """Wait for the accelerators, and raise IndexError for a label that a loss has met out of range.

    A loss on an accelerator does not wait to see whether its labels are right. A wrong one is never
    read through: its row's loss is NaN, and the first row and label are raised at the next loss on
    that device, or its backward pass. This asks for them now.
    """
    labels = sys.modules.get("nll.kernels.triton.labels")
    if labels is not None:
        labels.check()
