"""Distillation of an output layer, `nll.linear_kl_divergence` with the gradients of the student's
features and head, next to PyTorch's kl_div of two log_softmax; in turn within one run.

    python benchmarks/divergence.py [--rounds 5] [--threads 2]

Ratios to PyTorch: with the default memory, and with a fifth of one model's logits'.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from clock import medians
from torch import Tensor

import nll

# (rows, the student's features, the teacher's, classes)
CASES = [
    (1024, 768, 1024, 50257),
    (1024, 256, 256, 50000),
    (2048, 256, 512, 32000),
    (4096, 64, 64, 8000),
    (256, 512, 512, 128000),
]


def plain(x: Tensor, head: Tensor, y: Tensor, other: Tensor, reverse: bool) -> Tensor:
    log_p, log_q = (F.linear(a, b).float().log_softmax(-1) for a, b in ((x, head), (y, other)))
    if reverse:
        log_p, log_q = log_q, log_p
    return F.kl_div(log_p, log_q, log_target=True, reduction="batchmean")


def step(loss: Callable[[], Tensor], x: Tensor, head: Tensor) -> None:
    torch.autograd.grad(loss(), (x, head))


def compared(layers: tuple[Tensor, ...], reverse: bool, rounds: int) -> list[float]:
    """Median seconds of PyTorch, of ours and of ours with a fifth of the logits' memory."""
    x, head, *_ = layers
    fifth = len(x) * len(head) * x.element_size() // 5
    ours = partial(nll.linear_kl_divergence, *layers, reverse=reverse)
    losses = partial(plain, *layers, reverse), ours, partial(ours, max_memory=fifth)
    return medians((partial(step, loss, x, head) for loss in losses), rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    draw = torch.Generator().manual_seed(0)
    print("| rows, features, teacher's, classes | type | direction | PyTorch | default | a fifth |")
    print("|---" * 6 + "|")
    for dtype in (torch.float32, torch.bfloat16):
        for rows, features, others, classes in CASES:
            x = torch.randn(rows, features, generator=draw).to(dtype).requires_grad_()
            head = (torch.randn(classes, features, generator=draw) / features**0.5).to(dtype)
            y = torch.randn(rows, others, generator=draw).to(dtype)
            other = (torch.randn(classes, others, generator=draw) / others**0.5).to(dtype)
            for reverse in (False, True):
                layers = x, head.requires_grad_(), y, other
                base, *ours = compared(layers, reverse, asked.rounds)
                ratios = " | ".join(f"{t / base:.2f}" for t in ours)
                print(
                    f"| {rows}, {features}, {others}, {classes} | {str(dtype)[6:]} | "
                    f"{'KL(p, q)' if reverse else 'KL(q, p)'} | {1e3 * base:.0f} ms | {ratios} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
