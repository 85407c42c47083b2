"""Sums over all rows in one launch: parts, whose number the shape fixes, that the last program to
finish adds up in their order. No atomics of floats, the same bits each time.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from nll.kernels.triton.tiles import launch

MOST_PARTS, BLOCK = 1024, 1024


class Scratch(NamedTuple):
    """Memory of one call, never shared between streams or graphs."""

    # float64: the totals of the census (2), its parts (2, parts), those of `total` (parts)
    numbers: Tensor
    # int64: finished programs of the census and of `total`, 0 before; then the census' (parts)
    counters: Tensor


def scratch_of(rows: int, device: torch.device) -> Scratch:
    parts = min(MOST_PARTS, triton.next_power_of_2(max(1, -(-rows // BLOCK))))
    numbers = torch.empty(2 + 3 * parts, dtype=torch.float64, device=device)
    return Scratch(numbers, torch.zeros(2 + parts, dtype=torch.int64, device=device))


@triton.jit
def is_last(counter, PARTS: tl.constexpr):
    """Whether this program is the last to finish; it sees what the others have written before."""
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1, sem="acq_rel") == PARTS - 1
    tl.debug_barrier()
    return last


@triton.jit
def sum_of_parts(parts, PARTS: tl.constexpr):
    """Their sum, read past the cache that this multiprocessor has filled before."""
    return tl.sum(tl.load(parts + tl.arange(0, PARTS), cache_modifier=".cg"), 0)


@triton.jit
def total_kernel(
    losses,  # (rows)
    numbers,
    counters,
    result,  # (1)
    rows,
    step,
    MEAN: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    """The sum of the losses, or by the total weight their mean."""
    part = tl.program_id(0)
    begin = part.to(tl.int64) * step
    sums = tl.zeros([BLOCK], tl.float64)
    for i in range(0, step, BLOCK):
        row = begin + i + tl.arange(0, BLOCK)
        sums += tl.load(losses + row, (row < begin + step) & (row < rows), other=0.0).to(tl.float64)
    parts = numbers + 2 + 2 * PARTS
    tl.store(parts + part, tl.sum(sums, 0))
    if is_last(counters + 1, PARTS):
        value = sum_of_parts(parts, PARTS)
        if MEAN:
            value = value / tl.load(numbers)
        tl.store(result, value.to(tl.float32))


def total(losses: Tensor, scratch: Scratch, mean: bool) -> Tensor:
    """Return the sum or the mean of the losses, float32; the census has the total weight."""
    result = losses.new_empty(())
    rows, parts = losses.numel(), len(scratch.counters) - 2
    step = -(-rows // parts)
    launch(
        total_kernel,
        parts,
        losses.device,
        losses,
        *scratch,
        result,
        rows,
        step,
        MEAN=mean,
        BLOCK=BLOCK,
        PARTS=parts,
    )
    return result
