"""What a mask of allowed classes costs: cross entropy with one next to the same call without, in
turn within one run.

    python benchmarks/masks.py [--rounds 15] [--threads 2]

A mask of the first 95 % of the classes (a padded vocabulary), of a random 90 %, of a random 90 % in
each row, and one for each row that allows all.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from clock import medians
from torch import Tensor

import nll

SIZES = [(512, 32000), (256, 128256), (8192, 1000), (4096, 100), (65536, 10)]
DTYPES = [torch.float32, torch.bfloat16]


def masks(rows: int, classes: int, labels: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
    """By name; every label is allowed."""
    some = torch.rand(rows, classes, generator=draw) < 0.9
    by_class = torch.rand(classes, generator=draw) < 0.9
    return {
        "padded": torch.arange(classes) < classes - classes // 20,
        "90 %": by_class.index_fill(0, labels[:1], True),
        "90 % by row": some.scatter_(1, labels[:, None], True),
        "all by row": torch.ones(rows, classes, dtype=torch.bool),
    }


def step(x: Tensor, labels: Tensor, mask: Tensor | None, with_gradient: bool) -> None:
    x.grad = None
    loss = nll.cross_entropy(x, labels, allowed_classes=mask)
    if with_gradient:
        loss.backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    draw = torch.Generator().manual_seed(0)
    print("| logits | | without | padded | 90 % | 90 % by row | all by row |\n" + "|---" * 7 + "|")
    for dtype in DTYPES:
        for rows, classes in SIZES:
            labels = torch.randint(0, max(classes - classes // 20, 1), (rows,), generator=draw)
            few = [None, *masks(rows, classes, labels, draw).values()]
            for with_gradient in (False, True):
                x = torch.randn(rows, classes, generator=draw).to(dtype)
                x.requires_grad_(with_gradient)
                calls = [partial(step, x, labels, m, with_gradient) for m in few]
                without, *others = medians(calls, arguments.rounds)
                ratios = " | ".join(f"{t / without:.2f}" for t in others)
                name = f"({rows}, {classes}) {str(dtype)[6:]}"
                kind = "with gradient" if with_gradient else "loss"
                print(f"| {name} | {kind} | {1e3 * without:.2f} ms | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
