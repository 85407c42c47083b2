"""The losses compared with PyTorch's on this machine: the cases of `nll bench`.

Each case runs the loss and the gradient of the logits. The contenders take turns and medians are
compared: on a shared machine the times vary, the ratios hardly do.
"""

from __future__ import annotations

import gc
import os
import platform
import re
import statistics
import timeit
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import benchmark

import nll
from nll.cli import terminal
from nll.kernels import memory
from nll.losses import dispatch

Step = Callable[[Tensor], Tensor]  # logits -> their gradient


@dataclass(frozen=True)
class Case:
    """A loss with its options, and the logits and labels that it gets."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    in_place: bool = False  # nll only: the gradient overwrites the logits
    two_calls: bool = False  # nll_loss(log_softmax(x))
    scale: float = 1.0  # of the normal logits
    ignored: float = 0.0  # share of rows
    gap: int = 0  # numbers between one row and the next
    factor: float = 1.0  # of the loss
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, device: str = "cpu") -> Problem:
        """Draw the logits, the labels and the upstream gradient."""
        draw = torch.Generator().manual_seed(0)
        *rest, last = self.shape
        padded = torch.empty(*rest, last + self.gap, dtype=self.dtype)
        logits = padded.normal_(0.0, self.scale, generator=draw).to(device)[..., :last]
        rows = (self.shape[0], *self.shape[2:])
        labels = torch.randint(0, self.shape[1], rows, generator=draw)
        labels[torch.rand(rows, generator=draw) < self.ignored] = -100
        per_row = self.options.get("reduction") == "none"
        grad = torch.rand(rows, generator=draw) if per_row else torch.tensor(self.factor)
        return Problem(logits, labels.to(device), grad.to(device))

    def loss(self, library: Any, **ours: Any) -> Callable[[Tensor, Tensor], Tensor]:
        """Return the loss by `torch.nn.functional` or by `nll`."""

        if self.two_calls:
            return lambda x, y: library.nll_loss(library.log_softmax(x, 1), y)
        return lambda x, y: library.cross_entropy(x, y, **self.options, **ours)


@dataclass(frozen=True)
class Problem:
    """The data of a case."""

    logits: Tensor
    labels: Tensor
    grad: Tensor  # upstream

    def fresh(self, copied: bool) -> Tensor:
        """Return the logits as a leaf, or as a copy that may be overwritten."""
        leaf = self.logits.detach().requires_grad_()
        return leaf.clone() if copied else leaf

    def gradient_of(self, loss: Callable[[Tensor, Tensor], Tensor]) -> Step:
        """Return the gradient of a loss with respect to the logits, as a function of them."""

        def step(x: Tensor) -> Tensor:
            value = loss(x, self.labels)
            return torch.autograd.grad(value, x, self.grad.to(value.dtype))[0]

        return step


LARGE = (4096, 32000)
CASES = [
    Case("float32", LARGE),
    Case("float32, in place", LARGE, in_place=True),
    Case("bfloat16", LARGE, torch.bfloat16),
    Case("bfloat16, in place", LARGE, torch.bfloat16, in_place=True),
    Case("a vocabulary of 128 256", (512, 128256)),
    Case("1000 classes", (65536, 1000)),
    Case("10 classes", (65536, 10)),
    Case("images, class second", (8, 21, 512, 512)),
    Case("label_smoothing=0.1", LARGE, options={"label_smoothing": 0.1}),
    Case("nll_loss(log_softmax(x))", LARGE, two_calls=True),
    Case('reduction="none", random upstream gradient', LARGE, options={"reduction": "none"}),
    Case("(loss / 4).backward()", LARGE, factor=0.25),
    Case("logits times 30", LARGE, scale=30.0),
    Case("90 % of the rows ignored", LARGE, ignored=0.9),
    Case("rows C + 8 apart", LARGE, gap=8),
    Case("a batch of 32", (32, 1000)),
    Case("the smallest", (3, 5)),
]

_CHECKED = 1 << 22  # logits whose gradient is compared with float64
_WARM_UP = 2  # rounds
_NOTE = (
    "Medians of times taken in turn. GB/s: the logits read once and the gradient written once. "
    "MiB: peak memory of a call besides the logits. Error: of the gradient, relative to its "
    "largest element."
)


def contenders(case: Case, problem: Problem, compiled: bool) -> dict[str, Step]:
    """Return what is compared, by name."""
    ours = {"inplace_backward": True} if case.in_place else {}
    losses = {"nll": case.loss(nll, **ours), "eager": case.loss(F)}
    if compiled:
        torch.compiler.reset()
        losses["compile"] = torch.compile(case.loss(F), dynamic=False)
    return {name: problem.gradient_of(loss) for name, loss in losses.items()}


def measure(case: Case, rounds: int, compiled: bool, device: str = "cpu") -> dict[str, Any]:
    """Return times in seconds, extra memory in bytes, and errors of one case."""
    problem = case.build(device)
    steps = contenders(case, problem, compiled)
    logits, copy = problem.logits, torch.zeros_like(problem.logits)
    repeats = max(1, min(1000, (1 << 17) // logits.numel()))
    times: dict[str, list[float]] = {name: [] for name in (*steps, "copy")}
    for _ in range(rounds + _WARM_UP):
        for name, step in (*steps.items(), ("copy", copy.copy_)):
            overwrites = case.in_place and name == "nll"
            timer = timeit.Timer(
                "step(x)",
                "x = fresh(overwrites)",  # not counted
                timer=benchmark.timer,
                globals={"step": step, "fresh": problem.fresh, "overwrites": overwrites},
            )
            number = 1 if overwrites else repeats
            times[name].append(timer.timeit(number) / number)
    times = {name: values[_WARM_UP:] for name, values in times.items()}
    eager = {name: step for name, step in steps.items() if name != "compile"}
    return {
        "case": case.name,
        "shape": list(case.shape),
        "dtype": str(case.dtype).removeprefix("torch."),
        "bytes": 2 * logits.numel() * logits.element_size(),
        "errors": errors(case, problem, eager),
        "extra_bytes": {name: extra_memory(step, case, problem) for name, step in steps.items()},
        "seconds": {name: statistics.median(values) for name, values in times.items()},
        "quartiles": {name: statistics.quantiles(values)[::2] for name, values in times.items()},
    }


def errors(case: Case, problem: Problem, steps: dict[str, Step]) -> dict[str, float]:
    """Return the largest error of each gradient against float64, relative to its largest element,
    over the first rows.
    """
    first = slice(max(1, _CHECKED // problem.logits[0].numel()))
    x = problem.logits[first].double().requires_grad_()
    losses = F.cross_entropy(x, problem.labels[first], **{**case.options, "reduction": "none"})
    counted = (problem.labels != -100).sum() if problem.grad.dim() == 0 else 1
    grad = problem.grad if problem.grad.dim() == 0 else problem.grad[first]
    (exact,) = torch.autograd.grad(losses, x, (grad.double() / counted).expand_as(losses))
    largest = {}
    for name, step in steps.items():
        gradient = step(problem.fresh(case.in_place and name == "nll"))[first]
        largest[name] = float((gradient.double() - exact).abs().max() / exact.abs().max())
    return largest


def extra_memory(step: Step, case: Case, problem: Problem) -> int | None:
    """Return the peak memory of a call besides the logits; None if that is unknown."""
    step(problem.fresh(case.in_place))  # what only the first call allocates
    x = problem.fresh(case.in_place)
    gc.collect()
    if problem.logits.device.type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(x)
        return torch.cuda.max_memory_allocated() - before
    memory.release()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = _read("/proc/self/status", "VmRSS")
        step(x)
        peak = _read("/proc/self/status", "VmHWM")
        return max(0, int(peak.split()[0]) - int(before.split()[0])) * 1024
    return None


def _read(path: str, name: str) -> str:
    """Return the value of the first line 'name: value' of a file, if there is any."""
    text = Path(path).read_text() if Path(path).exists() else ""
    return "".join(re.findall(rf"^{name}\s*:\s*(.*)$", text, re.MULTILINE)[:1])


def machine(device: str) -> dict[str, Any]:
    """Describe where the figures were taken."""
    model = _read("/proc/cpuinfo", "model name")
    return {
        "processor": model or platform.processor() or platform.machine(),
        "accelerator": torch.cuda.get_device_name() if device == "cuda" else None,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instruction_set": dispatch.instruction_set(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "nll": nll.__version__,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def row(result: dict[str, Any], compiled: bool) -> dict[str, str]:
    """Return one case as text, by heading."""
    seconds, nll_seconds = result["seconds"], result["seconds"]["nll"]
    others = ["eager", "compile"] if compiled else ["eager"]
    extra = [result["extra_bytes"][name] for name in ("nll", "eager")]
    title = f"{result['case']}\n{tuple(result['shape'])} {result['dtype']}"
    return {
        "Forward and gradient": title,
        **{name: terminal.seconds(seconds[name]) for name in ("nll", *others)},
        **{f"{name}\n/ nll": f"{seconds[name] / nll_seconds:.1f}" for name in others},
        "nll\n/ copy": f"{nll_seconds / seconds['copy']:.2f}",
        "GB/s": f"{result['bytes'] / nll_seconds / 1e9:.1f}",
        "MiB\nnll, eager": ", ".join("-" if n is None else f"{n / 2**20:.0f}" for n in extra),
        "error\nnll, eager": ", ".join(f"{result['errors'][n]:.0e}" for n in ("nll", "eager")),
    }


def devices() -> list[str]:
    """Return the devices that can be measured here."""
    return ["cpu", *["cuda"] * torch.cuda.is_available()]


def run(cases: list[Case], rounds: int, compiled: bool, device: str) -> dict[str, Any]:
    """Measure the cases, naming each on stderr; return the machine and the results."""
    console, about = terminal.console(stderr=True), machine(device)
    results = []
    for case in cases:
        console.print(f"{case.name} {case.shape}", style="dim")
        results.append(measure(case, rounds, compiled, device))
        gc.collect()
    return {"machine": about, "results": results}


def show(figures: dict[str, Any], compiled: bool) -> None:
    """Print the figures as a table, with the machine."""
    out, about = terminal.console(stderr=False), figures["machine"]
    rows = [row(result, compiled) for result in figures["results"]]
    cells = [list(one.values()) for one in rows]
    out.print(terminal.grid(list(rows[0]), cells, narrowest=26))
    cpu = "{processor}, {threads} threads, {instruction_set}".format(**about)
    out.print(f"\n{about['accelerator'] or cpu}; PyTorch {about['torch']}.\n{_NOTE}")
