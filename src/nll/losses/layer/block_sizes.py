"""How many rows of a linear layer's logits are in memory at once, and what they take of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nll import _torch

HALF = (torch.float16, torch.bfloat16)

# Logits in memory at once by default, and at least so many rows: each block reads the head and the
# sum of its gradient twice, which takes a CPU as long as multiplying about 50 rows. Measured in
# docs/memory.md. An accelerator multiplies faster by more than it reads faster: blocks of its rows
# are as large as its products need, and equal.
LOGITS, ROWS, LOGITS_ON_ACCELERATOR, ROWS_ON_ACCELERATOR = 10_000_000, 256, 1 << 29, 4096

# Numbers of the head that are multiplied at once. The workspace of the library for matrix products
# grows with them; its speed does not.
SLAB = 1 << 20

_DERIVATIVE_TENSORS = 20  # of a block that a derivative holds, with every option of the loss


def default_logits(input: Tensor, classes: int) -> int:
    if input.device.type in ("cpu", "meta"):
        return max(LOGITS, ROWS * classes)
    return min(LOGITS_ON_ACCELERATOR, ROWS_ON_ACCELERATOR * classes)


class Plan(NamedTuple):
    """Blocks of rows, each multiplied in slabs of classes, and the memory that they take."""

    rows: int
    classes: int
    piece: int  # classes whose gradient in a half type is added to the float32 sum at once
    dtype: torch.dtype  # of the operands
    logits: torch.dtype  # of a block's logits, and of the gradient with respect to them
    bytes: int  # besides the arguments, the gradients and float32 sums of them


def plan(input: Tensor, head: Tensor | None, max_memory: int | None) -> Plan:
    """Return the largest blocks, of at least one row, whose logits and products fit a budget.

    Without a head the input is logits.
    """
    size = input.element_size()
    classes = input.shape[1] if head is None else head.shape[0]
    budget = default_logits(input, classes) * size if max_memory is None else max_memory
    if head is None:
        by_row = max(1, input.shape[1] * size)
        rows = max(1, min(len(input), budget // by_row))
        return Plan(rows, classes, classes, input.dtype, input.dtype, rows * by_row)
    features, on_cpu = head.shape[1], input.device.type == "cpu"
    dtype, logits, slab, constant = input.dtype, logits_dtype(input), classes, 0
    piece = _slab(classes, features, budget // 24 if on_cpu else SLAB)
    by_row = classes * logits.itemsize + 2 * features * size
    if not on_cpu and input.dtype is not torch.float16:
        by_row = classes * size  # the products read and write where rows belong
        rows = _equal(len(input), budget // by_row)
        return Plan(rows, classes, piece, dtype, logits, rows * by_row)
    if input.dtype in HALF and not multiplies_fast(input):
        dtype = torch.float32
        slab = piece
        constant = 8 * slab * features  # converted, and repacked
        by_row += 8 * features + (4 * slab if logits is not dtype else 0)
    elif input.dtype is torch.float16:
        by_row += classes * size  # the gradient in the type of the operands
    elif on_cpu and input.dtype in HALF:
        slab = _slab(classes, features, budget // 8)
        by_row += size * slab  # the library copies columns
        constant = size * slab * features + size * piece * features  # and a product
    elif on_cpu:
        slab = _slab(classes, features, budget // 8)
        constant = size * slab * features  # the library repacks it
    rows = max(1, min(len(input), (budget - constant) // max(by_row, 1)))
    return Plan(rows, slab, piece, dtype, logits, constant + rows * by_row)


def _equal(rows: int, most: int) -> int:
    """Return the rows of equal blocks, a multiple of 64 where that fits."""
    count = -(-rows // max(1, most))
    each = -(-rows // count)
    return min(max(1, most), rows, -(-each // 64) * 64)


def _slab(classes: int, features: int, budget: int) -> int:
    return min(classes, max(64, min(budget, SLAB) // (features + 1)))


def rows_by_definition(input: Tensor, classes: int, max_memory: int | None) -> tuple[int, int]:
    """Return a block's rows, and the bytes they take, where derivatives hold many tensors of the
    logits' size at once.

    The default grows with the head: several of its gradients are in memory too.
    """
    size, features = max(4, input.element_size()), input.shape[1]
    by_row = _DERIVATIVE_TENSORS * size * (classes + features)
    budget = max_memory
    if budget is None:
        budget = max(default_logits(input, classes), 2 * classes * features) * size
    rows = max(1, min(input.shape[0], budget // max(by_row, 1)))
    return rows, rows * by_row


def logits_dtype(input: Tensor) -> torch.dtype:
    """Return the type of a block's logits: in float16 the gradient with respect to them would lose
    digits before the loss scale is known.
    """
    return torch.float32 if input.dtype is torch.float16 else input.dtype


def sum_dtype(input: Tensor) -> torch.dtype:
    """Return the type that rows and gradients are summed in."""
    return torch.promote_types(input.dtype, torch.float32)


def multiplies_fast(input: Tensor) -> bool:
    """Whether the device multiplies matrices of a half type faster than float32; a CPU does with
    instructions for bfloat16.
    """
    if input.device.type != "cpu":
        return True
    return input.dtype is torch.bfloat16 and _torch.multiplies_bfloat16()
