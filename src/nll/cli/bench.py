"""`nll bench`: the losses against PyTorch's, on this machine.

Every case is measured as a user would meet it: forward, then the gradient of the scores. The
    contenders take turns
within one run, and medians are compared: on a machine that others use too, times come and go,
    ratios stay.
"""

from __future__ import annotations

import gc
import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from rich import box
from rich.table import Table
from torch import Tensor

import nll
from nll.cli import clock, terminal
from nll.cli.output import require_places, write_json
from nll.kernels import cpu


@dataclass(frozen=True)
class Case:
    """Scores, targets and what is done with them."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    in_place: bool = False  # ours alone: the gradient overwrites the scores
    two_calls: bool = False  # nll_loss(log_softmax(x))
    scale: float = 1.0  # of the normal scores
    ignored: float = 0.0  # the share of rows
    gap: int = 0  # numbers between one row and the next
    factor: float = 1.0  # the loss is multiplied with it
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, device: str = "cpu") -> Problem:
        """Draw the scores and labels, and the upstream gradient."""
        draw = torch.Generator().manual_seed(0)
        *rest, last = self.shape
        whole = torch.empty(*rest, last + self.gap, dtype=self.dtype)
        scores = whole.normal_(0.0, self.scale, generator=draw).to(device)[..., :last]
        rows = (self.shape[0], *self.shape[2:])
        labels = torch.randint(0, self.shape[1], rows, generator=draw)
        if self.ignored:
            labels[torch.rand(rows, generator=draw) < self.ignored] = -100
        shape = rows if self.options.get("reduction") == "none" else ()
        slope = torch.rand(shape, generator=draw) if shape else torch.tensor(self.factor)
        return Problem(scores, labels.to(device), slope.to(device))

    def loss(self, library: Any, x: Tensor, y: Tensor, **ours: Any) -> Tensor:
        """The loss by `torch.nn.functional` or by `nll`."""
        if self.two_calls:
            return library.nll_loss(library.log_softmax(x, 1), y, **self.options)
        return library.cross_entropy(x, y, **self.options, **ours)


@dataclass(frozen=True)
class Problem:
    """What a case's loss is given."""

    scores: Tensor
    labels: Tensor
    slope: Tensor  # the upstream gradient

    def fresh(self, computed: bool) -> Tensor:
        """The scores to differentiate by: a leaf, or a copy that may be overwritten."""
        leaf = self.scores.detach().requires_grad_()
        return leaf.clone() if computed else leaf


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
    Case("scores times 30", LARGE, scale=30.0),
    Case("90 % of the rows ignored", LARGE, ignored=0.9),
    Case("rows C + 8 apart", LARGE, gap=8),
    Case("a batch of 32", (32, 1000)),
    Case("the smallest", (3, 5)),
]

_JUDGED = 1 << 24  # scores whose gradient is compared with float64

Step = Callable[[Tensor], Tensor]  # scores -> their gradient


def contenders(case: Case, problem: Problem, compiled: bool) -> dict[str, Step]:
    """What is compared, by name."""

    def step(loss: Callable[[Tensor, Tensor], Tensor]) -> Step:
        slope, labels = problem.slope, problem.labels

        def run(x: Tensor) -> Tensor:
            value = loss(x, labels)
            return torch.autograd.grad(value, x, slope.to(value.dtype))[0]

        return run

    ours = {"inplace_backward": True} if case.in_place else {}
    found = {
        "nll": step(lambda x, y: case.loss(nll, x, y, **ours)),
        "eager": step(lambda x, y: case.loss(F, x, y)),
    }
    if compiled:
        torch.compiler.reset()
        found["compile"] = step(torch.compile(lambda x, y: case.loss(F, x, y), dynamic=False))
    return found


def measure(case: Case, rounds: int, compiled: bool, device: str = "cpu") -> dict[str, Any]:
    """Times in seconds, extra memory in bytes, and errors of one case."""
    problem = case.build(device)
    steps = contenders(case, problem, compiled)
    found: dict[str, Any] = {
        "case": case.name,
        "shape": list(case.shape),
        "dtype": str(case.dtype).removeprefix("torch."),
        "bytes": 2 * problem.scores.numel() * problem.scores.element_size(),
    }
    found["errors"] = errors(
        case, problem, {name: step for name, step in steps.items() if name != "compile"}
    )
    found["extra_bytes"] = {name: extra_memory(step, case, problem) for name, step in steps.items()}
    source, copy = problem.scores, torch.zeros_like(problem.scores)
    repeats = max(1, min(1000, (1 << 17) // source.numel()))
    device = source.device.type
    measures = {
        name: partial(timed, step, problem, case.in_place and name == "nll", repeats)
        for name, step in steps.items()
    }
    measures["copy"] = partial(clock.seconds, device, lambda: copy.copy_(source), repeats)
    times = clock.in_turn(measures, rounds)
    found["seconds"] = {name: statistics.median(values) for name, values in times.items()}
    found["quartiles"] = {name: statistics.quantiles(values)[::2] for name, values in times.items()}
    return found


def timed(step: Step, problem: Problem, computed: bool, repeats: int) -> float:
    """Seconds of one call; copying the scores that are to be overwritten is not counted."""
    x = problem.fresh(computed)
    return clock.seconds(problem.scores.device.type, lambda: step(x), 1 if computed else repeats)


def errors(case: Case, problem: Problem, steps: dict[str, Step]) -> dict[str, float]:
    """The largest error of each gradient against float64, in units of its largest element; over the
    first rows.
    """
    gradients = {
        name: step(problem.fresh(case.in_place and name == "nll")).detach()
        for name, step in steps.items()
    }
    worst, largest = dict.fromkeys(steps, 0.0), 0.0
    kept = (problem.labels != -100).sum() if problem.slope.dim() == 0 else 1
    options = {**case.options, "reduction": "none"}
    some = max(1, _JUDGED // 8 // problem.scores[0].numel())
    for begin in range(0, min(8 * some, len(problem.scores)), some):
        part = slice(begin, begin + some)
        x = problem.scores[part].double().requires_grad_()
        rows = F.cross_entropy(x, problem.labels[part], **options)
        slope = problem.slope if problem.slope.dim() == 0 else problem.slope[part]
        (truth,) = torch.autograd.grad(rows, x, (slope.double() / kept).expand_as(rows))
        largest = max(largest, float(truth.abs().max()))
        for name, gradient in gradients.items():
            worst[name] = max(worst[name], float((gradient[part].double() - truth).abs().max()))
    return {name: error / largest for name, error in worst.items()}


def extra_memory(step: Step, case: Case, problem: Problem) -> int | None:
    """The most memory that one call holds besides the scores, the gradient included."""
    step(problem.fresh(case.in_place))  # what the first call alone allocates
    x = problem.fresh(case.in_place)
    return clock.held(problem.scores.device.type, lambda: step(x))


def machine(device: str) -> dict[str, Any]:
    """What the figures hold for."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
            model,
        )
    return {
        "processor": model,
        "accelerator": torch.cuda.get_device_name() if device == "cuda" else None,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instruction_set": cpu.MISSING or cpu.instruction_set(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "nll": nll.__version__,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def table(results: list[dict[str, Any]]) -> Table:
    """The results side by side."""
    compiled = any("compile" in result["seconds"] for result in results)
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    made.add_column("Forward and gradient", min_width=26)
    headings = [
        "nll",
        "eager",
        *["compile"] * compiled,
        "eager\n/ nll",
        *["compile\n/ nll"] * compiled,
    ]
    for heading in [*headings, "nll\n/ copy", "GB/s", "MiB\nnll, eager", "error\nnll, eager"]:
        made.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        made.add_row(*row(result, compiled))
    return made


def row(result: dict[str, Any], compiled: bool) -> list[str]:
    """One case as text."""
    seconds, size = result["seconds"], result["bytes"]
    names = ["nll", "eager", *["compile"] * compiled]
    title = f"{result['case']}\n{tuple(result['shape'])} {result['dtype']}"
    times = [terminal.seconds(seconds[name]) for name in names]
    ratios = [f"{seconds[name] / seconds['nll']:.1f}" for name in names[1:]]
    rate = f"{size / seconds['nll'] / 1e9:.1f}"
    extra = [result["extra_bytes"][name] for name in names[:2]]
    memory = ", ".join("-" if n is None else f"{n / 2**20:.0f}" for n in extra)
    errors = ", ".join(f"{result['errors'][name]:.0e}" for name in names[:2])
    return [title, *times, *ratios, f"{seconds['nll'] / seconds['copy']:.2f}", rate, memory, errors]


def bench(
    only: Annotated[str, typer.Option(help="Cases whose name or type contains this text.")] = "",
    rounds: Annotated[int, typer.Option(min=2, help="Turns that each contender has.")] = 9,
    device: Annotated[
        str, typer.Option(help="cpu, or cuda for an accelerator of PyTorch's, of whichever make.")
    ] = "cpu",
    compiled: Annotated[
        bool, typer.Option("--compile/--no-compile", help="Compare with torch.compile too.")
    ] = True,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file; - is stdout.")
    ] = None,
) -> None:
    """Compare the losses with PyTorch's on this machine: time, memory, error against float64."""
    require_places([], [], json_path)
    chosen = [case for case in CASES if only in f"{case.name} {case.dtype}"]
    if not chosen:
        names = ", ".join(case.name for case in CASES)
        raise typer.BadParameter(
            f"expected a part of one of: {names}; got {only!r}", param_hint="--only"
        )
    if device not in clock.devices():
        there = " or ".join(clock.devices())
        raise typer.BadParameter(
            f"expected a device that is there, {there}; got {device!r}", param_hint="--device"
        )
    console, about = terminal.console(stderr=True), machine(device)
    results = []
    for case in chosen:
        console.print(f"{case.name} {case.shape}", style="dim")
        results.append(measure(case, rounds, compiled, device))
        gc.collect()
    if json_path is None or str(json_path) != "-":
        out = terminal.console(stderr=False)
        out.print(table(results))
        place = about["accelerator"] or (
            f"{about['processor']}, {about['threads']} threads, {about['instruction_set']}"
        )
        out.print(
            f"\n{place}; PyTorch {about['torch']}.\n"
            "Medians of times taken in turn. GB/s: the scores once and the gradient once. MiB: the "
            "most that a call "
            "holds besides the scores. Error: of the gradient, in units of its largest element."
        )
    if json_path is not None:
        write_json({"machine": about, "results": results}, json_path)
