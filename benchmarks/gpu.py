"""The losses on an accelerator: checked against float64 first, then measured beside what else there
is.

    python benchmarks/gpu.py [--json gpu.json] [--rounds 20]

Beside PyTorch, eager and compiled, its chunked linear_cross_entropy, liger-kernel,
cut-cross-entropy and quack, where they are installed. Times are medians of events, the contenders
in turn; rates are against a copy and a matrix product measured here; memory is what is held at most
besides the arguments. With `--device cpu` small shapes run under Triton's
interpreter: a check of this script, no measurement.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

if "cpu" in sys.argv:
    os.environ.setdefault("TRITON_INTERPRET", "1")

import clock

import nll

SCORES = [
    ((8192, 32768), torch.bfloat16),
    ((8192, 131072), torch.bfloat16),
    ((32768, 50257), torch.bfloat16),
    ((8192, 32768), torch.float32),
    ((65536, 1000), torch.bfloat16),
    ((16, 21, 512, 512), torch.bfloat16),
]
LAYERS = [((8192, 4096, 128256), torch.bfloat16), ((8192, 2048, 32768), torch.bfloat16)]
SMALL_SCORES = [((64, 700), torch.bfloat16), ((2, 5, 8, 8), torch.float32)]
SMALL_LAYERS = [((32, 16, 200), torch.bfloat16)]
Step = Callable[[], tuple[Tensor, ...]]  # one forward and backward pass: the loss and the gradients


def optional(module: str) -> Any:
    """A package, or None with a word."""
    try:
        return importlib.import_module(module)
    except Exception as error:
        print(f"without {module}: {type(error).__name__}: {str(error)[:80]}")
        return None


def medians(device: str, steps: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Seconds of each step, taken in turn."""
    times = clock.in_turn(
        {name: partial(clock.seconds, device, step) for name, step in steps.items()}, rounds
    )
    return {name: statistics.median(values) for name, values in times.items()}


def rates(device: str, rounds: int) -> tuple[float, float]:
    """Bytes that a copy reads and writes in a second, and operations of a bfloat16 product."""
    size, n = (1 << 30, 8192) if device == "cuda" else (1 << 20, 128)
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    copy = torch.empty_like(source)
    a = torch.randn(n, n, device=device).bfloat16()
    found = medians(device, {"copy": lambda: copy.copy_(source), "product": lambda: a @ a}, rounds)
    return 2 * size / found["copy"], 2 * n**3 / found["product"]


def usable(steps: dict[str, Step], truth: tuple[Tensor, ...]) -> dict[str, dict[str, Any]]:
    """The steps that run, each with its largest errors in units of the largest element of the
    truth.
    """
    found = {}
    for name, step in list(steps.items()):
        try:
            ours = step()
        except Exception as error:  # of a peer, on this device or in this version
            print(f"  without {name}: {type(error).__name__}: {str(error)[:100]}")
            del steps[name]
            continue
        found[name] = {"errors": [largest_error(a, t) for a, t in zip(ours, truth, strict=True)]}
    return found


def largest_error(a: Tensor, truth: Tensor) -> float:
    """The largest, in units of the truth's largest element; of the first rows where the truth has
    no more.
    """
    a = a if a.dim() == 0 else a[: len(truth)]
    return float((a.double() - truth).abs().max() / truth.abs().max())


def measure(
    steps: dict[str, Step], truth: tuple[Tensor, ...], device: str, rounds: int
) -> dict[str, dict[str, Any]]:
    """Errors, memory and time of each step."""
    found = usable(steps, truth)
    for name, step in steps.items():
        found[name]["bytes"] = clock.held(device, step)
    for name, seconds in medians(device, steps, rounds).items():
        found[name]["seconds"] = seconds
    return found


def of_scores(
    shape: tuple[int, ...], dtype: torch.dtype, device: str, rounds: int
) -> dict[str, Any]:
    """cross_entropy, forward and gradient."""
    x = torch.randn(shape, device=device).to(dtype).requires_grad_()
    y = torch.randint(0, shape[1], (shape[0], *shape[2:]), device=device)

    def step(loss: Callable[[Tensor], Tensor]) -> Step:
        def run() -> tuple[Tensor, ...]:
            value = loss(x)
            return value.detach(), torch.autograd.grad(value, x)[0]

        return run

    scratch = x.detach().clone()

    def in_place() -> tuple[Tensor, ...]:
        # What was overwritten serves as scores again: their values cost no time.
        computed = _Computed.apply(x, scratch)
        value = nll.cross_entropy(computed, y, inplace_backward=True)
        return value.detach(), torch.autograd.grad(value, computed)[0]

    steps: dict[str, Step] = {
        "nll": step(lambda x: nll.cross_entropy(x, y)),
        "nll, in place": in_place,
        "eager": step(lambda x: F.cross_entropy(x, y)),
    }
    if device == "cuda":
        steps["compile"] = step(torch.compile(lambda x: F.cross_entropy(x, y), dynamic=False))
        if len(shape) == 2 and (liger := optional("liger_kernel.transformers.functional")):
            steps["liger"] = step(lambda x: liger.liger_cross_entropy(1.0 * x, y))
        if len(shape) == 2 and (quack := optional("quack.cross_entropy")):
            steps["quack"] = step(lambda x: quack.cross_entropy(x, y.int(), reduction="mean"))
    return measure(steps, in_float64(x, y), device, rounds)


class _Computed(torch.autograd.Function):
    """Scores as a computation leaves them, without its cost: memory that autograd takes for new."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scratch: Tensor) -> Tensor:
        return scratch.new_empty(0).set_(scratch)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor):  # type: ignore[override]
        return gradient, None


def in_float64(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The loss, and its gradient for the first rows: as many as one block holds."""
    some = max(1, (1 << 27) // x[0].numel())
    total, first = torch.zeros((), dtype=torch.float64, device=x.device), None
    for rows, labels in zip(x.detach().split(some), y.split(some), strict=True):
        z = rows.double().requires_grad_(first is None)
        loss = F.cross_entropy(z, labels, reduction="sum") / y.numel()
        total += loss.detach()
        if first is None:
            (first,) = torch.autograd.grad(loss, z)
    assert first is not None
    return total, first


def of_layer(
    shape: tuple[int, int, int], dtype: torch.dtype, device: str, rounds: int
) -> dict[str, Any]:
    """linear_cross_entropy, with gradients by the features and the head."""
    rows, features, classes = shape
    x = torch.randn(rows, features, device=device).to(dtype).requires_grad_()
    head = (
        (torch.randn(classes, features, device=device) / features**0.5).to(dtype).requires_grad_()
    )
    y = torch.randint(0, classes, (rows,), device=device)

    def step(loss: Callable[[], Tensor]) -> Step:
        def run() -> tuple[Tensor, ...]:
            value = loss()
            return value.detach(), *torch.autograd.grad(value, (x, head))

        return run

    steps = {
        "nll": step(lambda: nll.linear_cross_entropy(x, head, y)),
        "nll, half the memory": step(
            lambda: nll.linear_cross_entropy(x, head, y, max_memory=1 << 28)
        ),
        "eager": step(lambda: F.cross_entropy(F.linear(x, head), y)),
    }
    if device == "cuda":
        steps["compile"] = step(
            torch.compile(lambda: F.cross_entropy(F.linear(x, head), y), dynamic=False)
        )
        if hasattr(torch.nn, "LinearCrossEntropyOptions"):
            options = torch.nn.LinearCrossEntropyOptions()
            steps["chunked"] = step(lambda: F.linear_cross_entropy(x, head, y, options=options))
        if liger := optional("liger_kernel.transformers.functional"):
            steps["liger"] = step(lambda: liger.liger_fused_linear_cross_entropy(x, head, y))
        if cce := optional("cut_cross_entropy"):
            steps["cut-cross-entropy"] = step(lambda: cce.linear_cross_entropy(x, head, y))
    return measure(steps, layer_in_float64(x, head, y), device, rounds)


def layer_in_float64(x: Tensor, head: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """The loss and both gradients, some rows at a time."""
    x64, head64 = x.detach().double(), head.detach().double()
    loss, by_x, by_head = (
        torch.zeros((), dtype=torch.float64, device=x.device),
        torch.empty_like(x64),
        0.0 * head64,
    )
    for rows in torch.arange(len(x), device=x.device).split(max(1, (1 << 28) // len(head))):
        z = (x64[rows] @ head64.T).requires_grad_()
        part = F.cross_entropy(z, y[rows], reduction="sum") / len(x)
        (g,) = torch.autograd.grad(part, z)
        loss += part.detach()
        by_x[rows] = g @ head64
        by_head.addmm_(g.T, x64[rows])
    return loss, by_x, by_head


def line(
    name: str, found: dict[str, Any], moved: float, made: float, speed: tuple[float, float]
) -> str:
    """A row of the table: time, its rates against those of a copy and of a product, memory,
    errors.
    """
    seconds = found["seconds"]
    held = "-" if found["bytes"] is None else f"{found['bytes'] / 1e6:.0f}"
    errors = " ".join(f"{error:.0e}" for error in found["errors"])
    share = f"{moved / seconds / speed[0]:.2f}" if moved else f"{made / seconds / speed[1]:.2f}"
    return f"| {name} | {seconds * 1e3:.3f} | {share} | {held} | {errors} |"


def captured(device: str) -> str:
    """What a replayed graph of both losses gives, against the same calls outside of it."""
    x = torch.randn(256, 64, device=device).bfloat16().requires_grad_()
    head = torch.randn(1000, 64, device=device).bfloat16().requires_grad_()
    y = torch.randint(0, 1000, (256,), device=device)

    def step() -> tuple[Tensor, ...]:
        loss = nll.cross_entropy(F.linear(x, head), y) + nll.linear_cross_entropy(x, head, y)
        return loss.detach(), *torch.autograd.grad(loss, (x, head))

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        inside = step()
    with torch.no_grad():
        x.normal_()
    graph.replay()
    same = all(torch.equal(a, b) for a, b in zip(inside, step(), strict=True))
    return "a CUDA graph replays the losses " + (
        "with the same bits" if same else "WITH OTHER NUMBERS"
    )


def jobs(
    real: bool,
) -> list[tuple[str, Callable[..., dict[str, Any]], tuple[int, ...], torch.dtype]]:
    """What is measured: the loss's name, its function, shape and type."""
    scores, layers = (SCORES, LAYERS) if real else (SMALL_SCORES, SMALL_LAYERS)
    found = [("cross_entropy", of_scores, *job) for job in scores]
    return found + [("linear_cross_entropy", of_layer, *job) for job in layers]  # type: ignore[operator]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("expected a CUDA or ROCm device, got none; --device cpu checks the script")
    torch.manual_seed(0)
    device = options.device
    name = (
        torch.cuda.get_device_name()
        if device == "cuda"
        else platform.processor() or platform.machine()
    )
    speed = rates(device, options.rounds)
    report: dict[str, Any] = {
        "device": name,
        "torch": torch.__version__,
        "copy": speed[0],
        "product": speed[1],
    }
    speeds = f"copy {speed[0] / 1e9:.0f} GB/s, product {speed[1] / 1e12:.1f} TFLOP/s"
    lines = [f"{name}, PyTorch {torch.__version__}: {speeds}"]
    with nll.use_backend("triton"):
        if device == "cuda":
            lines.append(captured(device))
        for loss, function, shape, dtype in jobs(device == "cuda"):
            title = f"{loss} {shape} {str(dtype).removeprefix('torch.')}"
            print(title, flush=True)
            report[title] = found = function(shape, dtype, device, options.rounds)
            size = torch.Size(shape).numel()
            bytes_moved, operations = (
                (0.0, 6.0 * size) if function is of_layer else (2.0 * size * dtype.itemsize, 0.0)
            )
            lines += [f"\n{title}\n", "| | ms | rate | MB | errors |", "|---|---|---|---|---|"]
            lines += [line(*row, bytes_moved, operations, speed) for row in found.items()]
            if device == "cuda":
                torch.cuda.empty_cache()
    print("\n".join(lines))
    print(
        "\nrate: of a layer, three products against the product; else scores and gradient "
        "against the copy"
    )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
