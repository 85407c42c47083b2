"""Private or version-dependent parts of PyTorch: how a call is run, and what observes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from types import FunctionType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._C import _functorch  # type: ignore[attr-defined]
from torch.autograd import forward_ad

PLAIN = (Tensor, torch.nn.Parameter)  # tensors whose operators are not overridden


def constant_to_compiler(function: Callable[[], Any]) -> Callable[[], Any]:
    """Let torch.compile call a function while it traces, and treat the result as a constant.

    torch.compiler.assume_constant_result does the same, but imports the compiler.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_to_compiler
def transforming() -> bool:
    """Whether a transformation of torch.func or forward mode is active."""
    return forward_ad._current_level >= 0 or _functorch.peek_interpreter_stack() is not None


def tracing() -> bool:
    """Whether a tracer (torch.jit.trace, make_fx) records operators, to run them on other data."""
    mode = torch._C._TorchDispatchModeKey.PROXY  # type: ignore[attr-defined]
    return (
        torch._C._get_tracing_state() is not None or torch._C._get_dispatch_mode(mode) is not None
    )  # type: ignore[attr-defined]


def watched() -> bool:
    """Whether something observes or replaces operators, which kernels that take addresses bypass.

    A tracer, or a dispatch mode: FakeTensorMode, counters of operations, selective checkpointing.
    """
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._get_tracing_state() is not None  # type: ignore[attr-defined]


def batched(tensor: Tensor | None) -> bool:
    """Whether this is a batch of upstream gradients (is_grads_batched, vectorised Jacobians)."""
    return tensor is not None and _functorch.is_legacy_batchedtensor(tensor)


def readable(*tensors: Tensor) -> bool:
    """Whether a program may read the values of these: on a CPU, and not of a trace."""
    if torch.compiler.is_compiling() or watched() or transforming():
        return False
    return all(tensor.device.type == "cpu" and type(tensor) in PLAIN for tensor in tensors)


def ordinary(*tensors: Tensor | None) -> bool:
    """Whether these have values in some memory, and nothing observes their operators."""
    there = (tensor for tensor in tensors if tensor is not None)
    return not watched() and all(
        type(tensor) in PLAIN and tensor.device.type != "meta" for tensor in there
    )


def resolved(tensor: Tensor) -> Tensor:
    """Return the tensor with a lazy negation carried out in memory."""
    return tensor.resolve_neg() if tensor.is_neg() else tensor


def autocast_dtype(device: str) -> torch.dtype | None:
    """Return the type that autocast multiplies in on a type of device; None where it is off."""
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


Function = TypeVar("Function", bound=Callable[..., Any])


def without_autocast(function: Function) -> Function:
    """Run a function without autocast, which applies to a loss as a whole, not to its products."""

    @wraps(function)
    def run(*arguments: Any, **options: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*arguments, **options)
        kinds = [kind for kind in _AUTOCAST if autocast_dtype(kind) is not None]
        with ExitStack() as stack:
            for kind in kinds:
                stack.enter_context(torch.autocast(kind, enabled=False))
            return function(*arguments, **options)

    return run  # type: ignore[return-value]


_AUTOCAST = ("cpu", "cuda", "xpu", "mps")


@contextmanager
def without_saved_tensor_hooks() -> Iterator[None]:
    """Suspend hooks on saved tensors, such as those of checkpoints: no graph outside saves what is
    computed inside.

    The transformations of torch.func refuse to run under such hooks.
    """
    of = torch._C._autograd  # type: ignore[attr-defined]
    waiting = []
    while (hooks := of._top_saved_tensors_default_hooks(True)) is not None:
        waiting.append(hooks)
        of._pop_saved_tensors_default_hooks()
    try:
        yield
    finally:
        for pack, unpack in reversed(waiting):
            of._push_saved_tensors_default_hooks(pack, unpack)


def on_processor(what: Function) -> Function:
    """Create the tensors of a function, or of a class's methods, on the CPU, with autograd on.

    This holds for any default device, and inside `torch.no_grad()` and `torch.inference_mode()`.
    Running out of memory raises MemoryError, whichever library notices it.
    """
    if isinstance(what, type):
        for name, method in vars(what).items():
            if isinstance(method, FunctionType) and not name.startswith("_"):
                setattr(what, name, on_processor(method))
        return what  # type: ignore[return-value]

    @wraps(what)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            with torch.inference_mode(False), torch.enable_grad():
                if torch.get_default_device().type == "cpu":
                    return what(*arguments, **options)
                with torch.device("cpu"):
                    return what(*arguments, **options)
        except (RuntimeError, SystemError) as error:
            if not out_of_memory(error):
                raise
            raise MemoryError(
                f"expected memory for {what.__qualname__}, got too little: {error}"
            ) from error

    return run  # type: ignore[return-value]


# What PyTorch's allocator says, and Python where an import runs out of memory.
_NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "bad_alloc",
    "without exception set",
    "without setting an exception",
)


def multiplies_bfloat16() -> bool:
    """Whether products of bfloat16 matrices use instructions that this processor has for them."""
    names = "_is_amx_tile_supported", "_is_avx512_bf16_supported"
    checks = (getattr(torch.cpu, name, None) for name in names)
    return any(check is not None and check() for check in checks)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory has run out."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY)


def separate_gradients(
    function: Callable[..., Any], tensors: tuple[Tensor | None, ...], wanted: Any, upstream: Any
) -> tuple[Tensor | None, ...]:
    """Return the gradients of upstream . function(*tensors) with respect to the wanted tensors, as
    if these did not depend on each other.

    For a backward pass, whose tensors belong to the graph outside. Each is replaced by an alias, so
    that no gradient reaches what it was computed from (a head may be the embedding too) or the
    hooks on it: the graph outside does that. With create_graph the aliases are part of the graph,
    and the gradients are differentiable.
    """
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        points = [
            _alias(tensor, want, create) for tensor, want in zip(tensors, wanted, strict=True)
        ]
        value = function(*points)
        asked: Any = [point for point, want in zip(points, wanted, strict=True) if want]
        gradients = iter(
            torch.autograd.grad(value, asked, upstream, create_graph=create, allow_unused=True)
        )
    each = [next(gradients) if want else None for want in wanted]
    return tuple(
        torch.zeros_like(tensor) if want and gradient is None else gradient  # type: ignore[arg-type]
        for tensor, want, gradient in zip(tensors, wanted, each, strict=True)
    )


def _alias(tensor: Tensor | None, wanted: bool, create: bool) -> Tensor | None:
    if tensor is None:
        return None
    if create:
        return tensor.view_as(tensor)
    tensor = tensor.detach()
    return tensor.requires_grad_() if wanted else tensor


def matrix(tensor: Tensor) -> Tensor:
    """Return (..., F) as (rows, F); F may be 0."""
    if tensor.dim() == 2:
        return tensor
    width = tensor.shape[-1]
    return (
        tensor.reshape(tensor.shape[:-1].numel(), 0)
        if certainly(width == 0)
        else tensor.reshape(-1, width)
    )


def same_shape(shape: Any, other: Any) -> bool:
    """Whether two shapes are equal, compared size by size where the compiler may not know them."""
    if not torch.compiler.is_compiling():
        return tuple(shape) == tuple(other)
    return len(shape) == len(other) and all(a == b for a, b in zip(shape, other, strict=True))


def certainly(condition: Any) -> bool:
    """Whether a comparison of sizes holds; for the compiler's symbolic sizes, whether it must."""
    if not torch.compiler.is_compiling():
        return bool(condition)
    from torch.fx.experimental.symbolic_shapes import statically_known_true

    return statically_known_true(condition)
