"""The output layer with its loss and all gradients, next to the plain pair (a product, PyTorch's
cross entropy) and to the same product with our cross entropy; in turn within one run.

    python benchmarks/layer.py [--rounds 5] [--threads 2]

Ratios to the plain pair: with the default memory, and with a tenth of the logits'.
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

# (rows, features, classes)
CASES = [
    *(((n, f, c), torch.bfloat16) for n, f, c in ((1024, 768, 50257), (1024, 256, 50000))),
    *(((n, f, c), torch.bfloat16) for n, f, c in ((2048, 256, 50000), (1024, 512, 128256))),
    *(((n, f, c), torch.float32) for n, f, c in ((1024, 256, 50000), (1024, 512, 32000))),
    *(((n, f, c), torch.float32) for n, f, c in ((512, 2048, 32000), (512, 4096, 16000))),
]


def step(loss: Callable[[Tensor, Tensor, Tensor], Tensor], *tensors: Tensor) -> None:
    for tensor in tensors:
        tensor.grad = None
    loss(*tensors).backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    draw = torch.Generator().manual_seed(0)
    print("| rows, features, classes | | plain pair | product, our loss | default | a tenth |")
    print("|---" * 6 + "|")
    for (rows, features, classes), dtype in CASES:
        x = torch.randn(rows, features, generator=draw).to(dtype).requires_grad_()
        head = torch.randn(classes, features, generator=draw) / features**0.5
        head = head.to(dtype).requires_grad_()
        y = torch.randint(0, classes, (rows,), generator=draw)
        tenth = rows * classes * x.element_size() // 10
        losses = (
            lambda x, head, y: F.cross_entropy(F.linear(x, head), y),
            lambda x, head, y: nll.cross_entropy(F.linear(x, head), y),
            nll.linear_cross_entropy,
            partial(nll.linear_cross_entropy, max_memory=tenth),
        )
        calls = (partial(step, loss, x, head, y) for loss in losses)
        plain, *others = medians(calls, arguments.rounds)
        ratios = " | ".join(f"{t / plain:.2f}" for t in others)
        kind = str(dtype)[6:]
        print(
            f"| {rows}, {features}, {classes} | {kind} | {1e3 * plain:.0f} ms | {ratios} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
