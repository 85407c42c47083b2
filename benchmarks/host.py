"""What a loss on an accelerator asks of the host: operators, memory and views of PyTorch, launches
of kernels, counted without an accelerator, and the time that Python takes.

    python benchmarks/host.py [--rounds 200] [--verbose]

Tensors are fake ones of a CUDA device, kernels are not launched; matrix products are counted by
themselves. The time is that of the same calls, with the fake tensors' share: compare commits by it,
not with PyTorch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.jit import JITFunction

import nll
from nll import _torch
from nll.kernels.triton import labels
from nll.losses import dispatch
from nll.losses.layer import device

PRODUCTS = {"mm", "addmm", "bmm"}
NO_OPERATORS = {"device", "promote_types"}  # questions about tensors
COUNTED = ("launches", "operators", "products")


class Counts(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name not in NO_OPERATORS:
            self.names[name] += 1
        if kind_of(name) == "products":  # which fake tensors do not all know
            return (kwargs or {}).get("out", args[0])
        return func(*args, **kwargs or {})

    def of(self, kind: str) -> int:
        """How many launches, products, or other operators there were."""
        return sum(n for name, n in self.names.items() if kind == kind_of(name))


def kind_of(name: str) -> str:
    if name.startswith("launch "):
        return "launches"
    return "products" if name.split("_")[0] in PRODUCTS else "operators"


class Context:
    """Stands for autograd's context: a CPU build cannot differentiate tensors of a device."""

    last: Context

    def __init__(self, function: Any, arguments: tuple) -> None:
        self.function, self.needs_input_grad = function, [wanted(a) for a in arguments]
        Context.last = self

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.saved_tensors = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        pass


def wanted(argument: Any) -> bool:
    return isinstance(argument, Tensor) and argument.requires_grad


def apply(function: Any, *arguments: Any) -> Any:
    """`Function.apply` without a graph."""
    with torch.no_grad():
        return function.forward(Context(function, arguments), *arguments)


@contextmanager
def accelerator() -> Iterator[Callable[[Counts | None], None]]:
    """Fake tensors of a CUDA device take the way of true ones; launches are counted."""
    counts: list[Counts | None] = [None]

    def run(kernel: Any, *arguments: Any, **options: Any) -> None:
        if counts[0] is not None:
            counts[0].names[f"launch {kernel.__name__}"] += 1

    def into(some: Counts | None) -> None:
        counts[0] = some

    memory = torch.full((4,), -1, dtype=torch.int64)
    differentiable = property(lambda self: getattr(self, "wanted", False))
    with (
        mock.patch.object(JITFunction, "run", run),
        mock.patch.object(_torch, "PLAIN", (*_torch.PLAIN, FakeTensor)),
        mock.patch.object(_torch, "watched", return_value=False),
        mock.patch.object(dispatch, "TRITON_MISSING", None),
        mock.patch.object(torch.autograd.Function, "apply", classmethod(apply)),
        mock.patch.object(device, "adds_in_float32", return_value=True),
        mock.patch.object(torch.cuda, "current_device", return_value=0),
        mock.patch.object(Tensor, "data_ptr", return_value=0),
        mock.patch.object(FakeTensor, "requires_grad", differentiable, create=True),
        mock.patch.dict(
            labels._offenders, {torch.device("cuda:0"): labels._Offender(memory, memory.numpy())}
        ),
        FakeTensorMode(),
    ):
        yield into


class Call:
    """A forward pass, and the first backward pass after it."""

    def __init__(self, loss: Callable[..., Any], *inputs: Tensor) -> None:
        self.loss, self.inputs = loss, inputs
        for tensor in inputs:
            tensor.wanted = True  # type: ignore[attr-defined]

    def forward(self) -> list[Tensor]:
        """Return the gradient of the outputs."""
        outputs = self.loss(*self.inputs)
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    def backward(self, grads: list[Tensor]) -> None:
        context = Context.last
        with torch.no_grad():
            context.function.backward(context, *grads)


def calls() -> dict[str, Call]:
    """What is counted."""

    def draw(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.empty(shape, dtype=dtype, device="cuda:0")

    y = torch.empty(64, dtype=torch.int64, device="cuda:0")
    long = torch.empty(8192, dtype=torch.int64, device="cuda:0")
    mask = torch.empty(700, dtype=torch.bool, device="cuda:0")

    def statistics_of(x: Tensor) -> list[Tensor]:
        done = nll.token_statistics(x, y, entropy=True)
        return [done.log_prob, done.lse, done.entropy]

    def layer(x: Tensor, weight: Tensor, rows: int) -> Tensor:
        memory = rows * weight.shape[0] * 2 + (1 << 16)
        return nll.linear_cross_entropy(x, weight, long, max_memory=memory)

    return {
        "cross_entropy (64, 700)": Call(lambda x: nll.cross_entropy(x, y), draw(64, 700)),
        "cross_entropy (64, 701)": Call(lambda x: nll.cross_entropy(x, y), draw(64, 701)),
        "cross_entropy, sum": Call(
            lambda x: nll.cross_entropy(x, y, reduction="sum"), draw(64, 700)
        ),
        "cross_entropy, each row": Call(
            lambda x: nll.cross_entropy(x, y, reduction="none"), draw(64, 700)
        ),
        "cross_entropy, every option": Call(
            lambda x: nll.cross_entropy(
                x, y, label_smoothing=0.1, softcap=30.0, z_loss=1e-4, allowed_classes=mask
            ),
            draw(64, 700),
        ),
        "linear_cross_entropy, 1 block": Call(
            lambda x, w: layer(x, w, 8192), draw(8192, 256), draw(32768, 256)
        ),
        "linear_cross_entropy, 8 blocks": Call(
            lambda x, w: layer(x, w, 1024), draw(8192, 256), draw(32768, 256)
        ),
    }


def counted(name: str, into: Callable[[Counts | None], None], verbose: bool) -> str:
    """Return a line of the table."""
    call, cells = calls()[name], []
    result: Any = None
    for step in ("forward", "backward"):
        counts = Counts()
        into(counts)
        with counts:
            result = call.forward() if step == "forward" else call.backward(result)
        into(None)
        cells += [f"{counts.of(kind)}" for kind in COUNTED]
        if verbose:
            print(f"  {name}, {step}: {dict(counts.names)}")
    return f"| {name} | " + " | ".join(cells)


def microseconds(name: str, rounds: int) -> list[float]:
    call = calls()[name]
    times = []
    for _ in range(rounds):
        with Counts():
            begin = time.perf_counter()
            outputs = call.forward()
            middle = time.perf_counter()
            call.backward(outputs)
        times.append((middle - begin, time.perf_counter() - middle))
    return [1e6 * statistics.median(column) for column in zip(*times, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--verbose", action="store_true", help="the operators by name")
    options = parser.parse_args()
    heads = " | ".join(f"{step}: {', '.join(COUNTED)}" for step in ("forward", "backward"))
    print(f"| call | {heads} | us |")
    with accelerator() as into:
        for name in calls():
            line = counted(name, into, options.verbose)
            spent = " + ".join(f"{t:.0f}" for t in microseconds(name, options.rounds))
            print(f"{line} | {spent} |", flush=True)


if __name__ == "__main__":
    main()
