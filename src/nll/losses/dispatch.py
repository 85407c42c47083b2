"""Which backend runs a loss and why: the route of a call, and how to override it."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nll import _torch
from nll.kernels import cpu, reductions, reference
from nll.kernels.layout import class_dim
from nll.kernels.types import Backend
from nll.losses import autograd

# Triton's interpreter runs the kernels on a CPU, slowly.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def _triton_missing() -> str | None:
    if find_spec("triton") is None:
        return "triton is not installed"
    if not INTERPRETED and not torch.cuda.is_available():
        return "there is no CUDA or ROCm device"
    return None


TRITON_MISSING = _triton_missing()

BACKENDS: dict[str, Backend] = {"reference": reference}
if cpu.MISSING is None:
    BACKENDS["cpu"] = autograd.CPU
if TRITON_MISSING is None:
    BACKENDS["triton"] = autograd.TRITON

_OF_A_DEVICE = ("cpu", "triton")  # the others take every tensor

# Below this many logits the compiled loops cost more than they save: PyTorch's operators are called
# from C++, ours from Python, some 30 microseconds later. A row of (N, C) adds some, as PyTorch
# processes rows one at a time.
SMALL, LOGITS_PER_ROW = 1 << 17, 64
SMALL_HALF = 1 << 15  # of a half type, which PyTorch's operator takes in float32

_forced: ContextVar[str | None] = ContextVar("nll backend", default=None)


@_torch.constant_to_compiler
def forced() -> str | None:
    """Return the backend that `use_backend` named in this thread and task."""
    return _forced.get()


# ---- The route of a call -------------------------------------------------------------------------


class Route(NamedTuple):
    """How a call is run: the backend's name, or "pytorch" for PyTorch's own operator; and why."""

    name: str
    backend: Backend  # differentiable
    reason: str

    @property
    def kernels(self) -> Any:
        """The backend's functions outside autograd: `Kernels`; of the reference, `BlockKernels`."""
        return getattr(self.backend, "kernels", self.backend)


PYTORCH = Route(
    "pytorch",
    reference,
    "its own cross_entropy, which is faster for a small problem without options",
)
DEFINITION = Route(
    "reference",
    reference,
    "PyTorch's operators, because forward mode, torch.func or a tracer is active, "
    "or a gradient with respect to the target or weights is requested",
)
_CPU = Route("cpu", autograd.CPU, "the compiled loops")
_TRITON = Route("triton", autograd.TRITON, "Triton kernels")
_FAST = Route("reference", reference, "PyTorch's operators, which are fast on an accelerator")
_FUSED = Route("reference", reference, "PyTorch's operators, which the compiler fuses")


def route(
    input: Tensor,
    target: Tensor | None = None,
    weight: Tensor | None = None,
    row_weights: Tensor | None = None,
    allowed: Tensor | None = None,
) -> Route:
    """Return the route of a loss of these tensors: the kernels of their device if they can run it
    and it pays.
    """
    name = forced()
    if name is not None and name not in _OF_A_DEVICE:
        reason = "PyTorch's operators, because use_backend asks for it"
        return Route(name, BACKENDS[name], reason)
    on_triton = input.device.type == "cuda" or name == "triton"
    missing = _missing_for_triton(input) if on_triton else _missing_for_cpu(input, target, weight)
    obstacle = missing or _obstacle(input, target, weight, row_weights, allowed)
    if obstacle is not None:
        return Route("reference", reference, f"PyTorch's operators, because {obstacle}")
    return _TRITON if on_triton else _CPU


def on_triton(*tensors: Tensor | None) -> bool:
    """Whether the kernels of an accelerator take these tensors, as results of their own."""
    there = [t for t in tensors if t is not None]
    return bool(there) and all(
        t.numel() > 0
        and (forced() == "triton" or (t.device.type == "cuda" and forced() != "reference"))
        and _missing_for_triton(t) is None
        for t in there
    )


def route_of_logits(input: Tensor) -> Route:
    """Return the route of `log_softmax` or `nll_loss`, each one operator of PyTorch's, which the
    compiler handles best itself, and an accelerator at the speed of its memory.
    """
    if torch.compiler.is_compiling():
        return _FUSED
    found = route(input)
    return _FAST if found.backend is autograd.TRITON else found


def is_small(input: Tensor, target: Tensor, weight: Tensor | None) -> bool:
    """Whether PyTorch's own cross entropy of (N, C) or (N, C, d) logits is faster than ours, and
    the same; of uint8 labels it differs.
    """
    return (
        not torch.compiler.is_compiling()
        and _forced.get() is None
        and type(input) in _torch.PLAIN
        and type(target) in _torch.PLAIN
        and 2 <= input.dim() <= 3
        and input.dtype in cpu.TYPES
        and input.numel() + LOGITS_PER_ROW * len(input)
        < (SMALL_HALF if input.dtype in reductions.HALF else SMALL)
        and target.dtype is torch.int64
        and input.device.type == "cpu"
        and (weight is None or _is_readable(weight, input))
    )


def _is_readable(weight: Tensor, input: Tensor) -> bool:
    """Whether class weights are of the right type and constant, and the loss may be looked at."""
    right = weight.dtype is input.dtype or (
        input.dtype in reductions.HALF and weight.dtype is torch.float32
    )
    return right and not weight.requires_grad and _torch.readable(input, weight)


def _obstacle(
    input: Tensor,
    target: Tensor | None,
    weight: Tensor | None,
    row_weights: Tensor | None,
    allowed: Tensor | None,
) -> str | None:
    """Why no kernels take a loss of these tensors; "because ..."."""
    if input.dim() == 0 or _torch.certainly(input.numel() == 0):
        return "there is at most one logit"
    differentiable, exporting = torch.is_grad_enabled(), torch.compiler.is_exporting()
    device, plain = input.device, _torch.PLAIN
    if type(input) not in plain:
        return "the tensors are on different devices, or of a subclass of Tensor"
    for tensor in (target, weight, row_weights, allowed):
        if tensor is None:
            continue
        if differentiable and tensor.requires_grad:
            return "a gradient with respect to the target or weights is requested"
        if exporting and tensor.is_floating_point():
            return "an exported program may need a gradient with respect to the target or weights"
        if tensor.device != device or type(tensor) not in plain:
            return "the tensors are on different devices, or of a subclass of Tensor"
        if tensor.is_floating_point() and not _fits(tensor.dtype, input.dtype):
            return "the target or a weight has a wider type than the logits"
    if _torch.transforming():
        return "forward mode or torch.func is active"
    if not torch.compiler.is_compiling() and _torch.watched():
        return "a tracer or a mode watches PyTorch's operators"
    return None


def _missing_for_cpu(input: Tensor, target: Tensor | None, weight: Tensor | None) -> str | None:
    if cpu.MISSING is not None:
        return cpu.MISSING
    compiling = torch.compiler.is_compiling()
    one_operator = target is None or compiling  # is all that the reference runs
    if one_operator and forced() is None and _torch.certainly(input.numel() < SMALL // 4):
        return "there are so few logits that PyTorch's operator is faster"
    if input.device.type != "cpu":
        return f"there are no kernels for a tensor on {input.device.type}"
    if weight is None or compiling:
        return None
    on_cpu = weight.device.type == "cpu" and _torch.readable(weight)
    # a sum that overflows float32 is as rare as weights that are not finite
    wide = torch.promote_types(weight.dtype, torch.float32) if on_cpu else None
    finite = on_cpu and math.isfinite(weight.detach().sum(dtype=wide).item())
    return None if finite else "class weights are not finite"


def _missing_for_triton(input: Tensor) -> str | None:
    if TRITON_MISSING is not None:
        return TRITON_MISSING
    if input.device.type != ("cpu" if INTERPRETED else "cuda"):
        return f"there are no kernels for a tensor on {input.device.type}"
    return "the kernels do not take float64" if input.dtype is torch.float64 else None


def _fits(dtype: torch.dtype, logits: torch.dtype) -> bool:
    """Whether a weight or a probability of this type leaves the result in the type of the sums."""
    sums = torch.promote_types(logits, torch.float32)
    return torch.promote_types(dtype, sums) == sums


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return memory for a result; on a CPU, that of an earlier one if it is large."""
    if device.type == "cpu" and cpu.MISSING is None:
        return cpu.empty(shape, dtype)
    return torch.empty(shape, dtype=dtype, device=device)


def instruction_set() -> str:
    """Return the instruction set of the compiled loops, or why there are none."""
    return cpu.MISSING or cpu.instruction_set()


def compiled_loops() -> str:
    """Describe the compiled loops, or say why there are none."""
    about = (cpu.__doc__ or "").partition("\n")[0].rstrip(".")
    return cpu.MISSING or f"{about}; instruction set {cpu.instruction_set()}"


# ---- Choosing a backend --------------------------------------------------------------------------


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run the losses inside the `with` block, in this thread and task, on the named backend.

    "cpu" runs the compiled loops for small tensors too; "triton" runs its kernels for tensors on a
    CPU, if they are interpreted (TRITON_INTERPRET=1); what they cannot do still goes to
    "reference". A compiled function keeps the choice that it was compiled with.

    Raises ValueError for a name that is not a backend of this installation.

    Example:
        >>> logits, labels = torch.zeros(2, 4), torch.tensor([0, 3])
        >>> with nll.use_backend("reference"):
        ...     nll.cross_entropy(logits, labels)
        tensor(1.3863)
    """
    if name not in BACKENDS:
        raise ValueError(f"expected a backend among {', '.join(map(repr, BACKENDS))}, got {name!r}")
    with forcing(name):
        yield


@contextmanager
def forcing(name: str | None) -> Iterator[None]:
    """Run the losses on the backend that `forced` returned elsewhere."""
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


# ---- Labels out of range -------------------------------------------------------------------------


def look_at_labels(target: Tensor, classes: int, ignore_index: int) -> None:
    """Raise IndexError for a label out of range; an accelerator reports it later."""
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
        type(target) in _torch.PLAIN and target.numel() > 0 and _missing_for_triton(target) is None
    ):
        from nll.kernels.triton import labels

        labels.look(target, classes, ignore_index)


def guard_labels(route: Route, input: Tensor, target: Tensor, ignore_index: int) -> None:
    """Look at the labels where nothing else does: on a CPU the reference's operators check them as
    they read them, on an accelerator they do not.
    """
    if route.backend is reference and input.device.type != "cpu":
        look_at_labels(target, input.shape[class_dim(input)], ignore_index)


def check_labels() -> None:
    """Wait for the accelerators, and raise IndexError if a loss met a label out of range.

    A loss on an accelerator does not wait to see whether its labels are right. A wrong one is never
    used as an address: its row's loss is NaN, and the first row and label are raised at the next
    loss on that device, or its backward pass. This function asks for them now.

    Example:
        >>> loss = nll.cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]))
        >>> nll.check_labels()
    """
    labels = sys.modules.get("nll.kernels.triton.labels")
    if labels is not None:
        labels.check()
