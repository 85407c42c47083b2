"""Cross entropy next to PyTorch's own over a grid of sizes, types, layouts and options: where it is
slower, and by how much.

    python benchmarks/grid.py [--rounds 9] [--threads 2] [--largest 67108864]

Loss and gradient, medians of both in turn. Below 100 us of PyTorch's time a call may take 1.3 times
as long, or 10 us more; above, no longer. The plain way to an option that PyTorch lacks is written
with its operators.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from clock import medians
from torch import Tensor

import nll

SIZES = [(8, 10), (64, 10), (512, 10), (65536, 10), (64, 100), (4096, 100), (64, 1000)]
SIZES += [(8192, 1000), (8, 32000), (512, 32000), (64, 131072), (512, 131072), (8192, 131072)]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FEW, MANY = 1e-4, 1.3  # seconds of a short call, and how many times as long it may take
Step = Callable[[], None]


def options_of(rows: int, classes: int) -> dict[str, dict[str, Any]]:
    """Each option alone."""
    return {
        "": {},
        "weight": {"weight": torch.rand(classes)},
        "smoothing": {"label_smoothing": 0.1},
        "ignored": {},
        "sum": {"reduction": "sum"},
        "none": {"reduction": "none"},
        "softcap": {"softcap": 30.0},
        "z-loss": {"z_loss": 1e-4},
        "row weights": {"row_weights": torch.rand(rows)},
        "allowed": {"allowed_classes": torch.arange(classes) < classes - classes // 50 - 1},
    }


def plainly(x: Tensor, y: Tensor, options: dict[str, Any]) -> Tensor:
    """The loss by PyTorch's operators."""
    rest = dict(options)
    softcap, z_loss = rest.pop("softcap", None), rest.pop("z_loss", None)
    weights, allowed = rest.pop("row_weights", None), rest.pop("allowed_classes", None)
    if softcap is not None:
        x = softcap * torch.tanh(x / softcap)
    if allowed is not None:
        x = x.masked_fill(~allowed, -torch.inf)
    if weights is not None:
        return (F.cross_entropy(x, y, reduction="none") * weights).sum() / weights.sum()
    loss = F.cross_entropy(x, y, **rest)
    return loss if z_loss is None else loss + z_loss * x.logsumexp(1).square().mean()


def problem(
    rows: int, classes: int, dtype: torch.dtype, layout: str, name: str
) -> tuple[Step, Step]:
    """One step of PyTorch, and one of ours."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, classes, generator=draw).to(dtype)
    if layout == "classes first":  # as (1, classes, rows)
        x = x.t().contiguous()[None]
    x.requires_grad_()
    y = torch.randint(0, classes - classes // 50 - 1, (rows,), generator=draw)
    if name == "ignored":
        y[::2] = -100
    options = options_of(rows, classes)[name]
    if name == "weight":
        options = {"weight": options["weight"].to(dtype)}
    if layout == "classes first":
        y = y[None]
        if name == "row weights":
            options = {"row_weights": options["row_weights"][None]}
    masks = dict(options)
    if layout == "classes first" and name == "allowed":
        masks = {"allowed_classes": options["allowed_classes"][:, None]}

    def step(loss: Callable[[], Tensor]) -> Step:
        def run() -> None:
            loss().sum().backward()
            x.grad = None  # each frees its own memory

        return run

    return step(lambda: plainly(x, y, masks)), step(lambda: nll.cross_entropy(x, y, **options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--largest", type=int, default=1 << 26, help="logits of the largest size")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    ratios, slow = [], []
    for rows, classes in SIZES:
        if rows * classes > arguments.largest:
            continue
        for type_name, dtype in DTYPES.items():
            for layout in ("classes last", "classes first"):
                for name in options_of(1, 1):
                    steps = problem(rows, classes, dtype, layout, name)
                    repeats = 10 if rows * classes < 1 << 16 else 1
                    eager, ours = medians(steps, arguments.rounds, repeats)
                    room = max(MANY * eager, eager + 1e-5) if eager < FEW else eager
                    what = f"({rows}, {classes}) {type_name}, {layout}{name and ', '}{name}"
                    ratios.append(ours / eager)
                    if ours > room:
                        slow.append(what)
                        print(
                            f"{what}: {1e6 * ours:.0f} us, PyTorch {1e6 * eager:.0f} us", flush=True
                        )
    quarters = ", ".join(f"{q:.2f}" for q in statistics.quantiles(ratios, n=4))
    print(f"{len(ratios)} cases, {len(slow)} slower; quartiles of the ratios {quarters}")


if __name__ == "__main__":
    main()
