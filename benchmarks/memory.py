"""Time and peak memory of the output layer with its loss, in blocks and as a whole; each case in a
process of its own.

    python benchmarks/memory.py [--rounds 3] [--plot docs/memory.png]

Memory is the growth of the resident size at its peak, without the gradients and, for bfloat16,
without one float32 sum of the head's gradient. Linux only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import nll

# (rows, features, classes), type, budget
CASES = [
    ((2048, 768, 50257), "float32", None),
    ((2048, 768, 50257), "bfloat16", None),
    ((4096, 64, 32000), "float32", None),
    *(((rows, 256, 32000), "float32", None) for rows in (1024, 2048, 4096)),
    *(((2048, 256, classes), "float32", None) for classes in (8000, 16000, 64000, 128000)),
    *(((2048, 256, 32000), "float32", budget) for budget in (4_000_000, 16_000_000, 64_000_000)),
]


def status(name: str) -> int:
    """A size of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024


def measure(
    shape: tuple[int, int, int], dtype: torch.dtype, budget: int | None, rounds: int
) -> dict[str, Any]:
    """Peak bytes and median seconds, with a gradient by the features and the head."""
    rows, features, classes = shape
    draw = torch.Generator().manual_seed(0)
    x, head = torch.empty(rows, features, dtype=dtype), torch.empty(classes, features, dtype=dtype)
    x.normal_(generator=draw).requires_grad_()
    head.normal_(0.0, features**-0.5, generator=draw).requires_grad_()
    y = torch.randint(0, classes, (rows,), generator=draw)
    contenders = {
        "nll": lambda x, head, y: nll.linear_cross_entropy(x, head, y, max_memory=budget),
        "eager": lambda x, head, y: F.cross_entropy(F.linear(x, head), y),
    }
    if hasattr(F, "linear_cross_entropy"):  # since 2.13
        contenders["chunked"] = lambda x, head, y: F.linear_cross_entropy(
            x, head, y, options=torch.nn.LinearCrossEntropyOptions()
        )
    kept = head.numel() * head.element_size() + x.numel() * x.element_size()
    in_float32 = head.numel() * 4 if dtype is torch.bfloat16 else 0
    found: dict[str, Any] = {"scores": rows * classes * x.element_size()}
    found["predicted"] = nll.explain(nll.linear_cross_entropy, x, head, y, max_memory=budget).bytes
    for name, loss in contenders.items():
        small = [t[:100].detach().requires_grad_() for t in (x, head)]
        # the libraries' own memory
        torch.autograd.grad(loss(*small, torch.zeros(100, dtype=torch.int64)), small)
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        torch.autograd.grad(loss(x, head, y), (x, head))
        found[name] = {
            "bytes": status("VmHWM") - before - kept - (in_float32 if name == "nll" else 0)
        }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, loss in contenders.items():
            start = time.perf_counter()
            torch.autograd.grad(loss(x, head, y), (x, head))
            times[name].append(time.perf_counter() - start)
    for name, values in times.items():
        found[name]["seconds"] = statistics.median(values)
    return found


def in_a_process(case: tuple, rounds: int) -> dict[str, Any]:
    """Measure in a fresh process."""
    command = [sys.executable, __file__, "--case", json.dumps(case), "--rounds", str(rounds)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def line(case: tuple, found: dict[str, Any]) -> str:
    """A row of the table."""
    shape, dtype, budget = case
    nll_, eager, mega = found["nll"], found["eager"], 1e6
    chunked = found.get("chunked")
    beside = (
        f"{chunked['bytes'] / mega:.0f} | {nll_['seconds'] / chunked['seconds']:.2f}"
        if chunked
        else " | "
    )
    said = "default" if budget is None else f"{budget / mega:.0f}"
    return (
        f"| {tuple(shape)} {dtype} | {said} | {found['predicted'] / mega:.1f} | "
        f"{nll_['bytes'] / mega:.1f} "
        f"| {eager['bytes'] / mega:.0f} | {found['scores'] / mega:.0f} | "
        f"{nll_['bytes'] / found['scores']:.3f} "
        f"| {nll_['seconds']:.2f} | {eager['seconds']:.2f} | "
        f"{nll_['seconds'] / eager['seconds']:.2f} | {beside} |"
    )


def plot(found: list[tuple[tuple, dict[str, Any]]], path: str) -> None:
    """Peak memory against the size of the scores."""
    import matplotlib.pyplot as plt

    chosen = [
        result for (_, dtype, budget), result in found if dtype == "float32" and budget is None
    ]
    figure, axes = plt.subplots(figsize=(6.0, 4.0), layout="constrained")
    for name, marker in (("eager", "s"), ("nll", "o")):
        axes.loglog(
            [result["scores"] / 1e6 for result in chosen],
            [result[name]["bytes"] / 1e6 for result in chosen],
            marker,
            label={"nll": "nll.linear_cross_entropy", "eager": "F.cross_entropy(F.linear(...))"}[
                name
            ],
        )
    axes.set_xlabel("scores, rows x classes (MB)")
    axes.set_ylabel("peak memory besides the gradients (MB)")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", help="write the picture to this file")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        shape, dtype, budget = json.loads(arguments.case)
        print(json.dumps(measure(tuple(shape), getattr(torch, dtype), budget, arguments.rounds)))
        return
    print(
        "| (rows, features, classes) | budget, MB | predicted | nll, MB | eager, MB | scores, MB | "
        "nll / scores "
        "| nll, s | eager, s | nll / eager | chunked, MB | nll / chunked |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    found = []
    for case in CASES:
        found.append((case, in_a_process(case, arguments.rounds)))
        print(line(*found[-1]), flush=True)
    if arguments.plot:
        plot(found, arguments.plot)


if __name__ == "__main__":
    main()
