"""Labels on an accelerator, counted and checked without waiting for it.

A label that is neither a class nor ignored is never used as an address: its row's loss is NaN. The
first such row and its label are written to host memory that the device sees; the next call reads
them there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from nll.kernels.triton.tiles import launch
from nll.kernels.triton.totals import BLOCK, Scratch, is_last, scratch_of, sum_of_parts

NOWHERE = tl.constexpr(0x7FFFFFFFFFFFFFFF)


@triton.jit
def census_kernel(
    target,  # (rows)
    weight,  # (classes)
    factor,  # (rows)
    numbers,  # see `totals.Scratch`
    counters,  # then (PARTS): the first row of each part whose label is wrong
    offender,  # (4) in host memory
    rows,
    step,
    classes,
    ignore_index,
    LABELS: tl.constexpr,
    WEIGHT: tl.constexpr,
    FACTOR: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    part = tl.program_id(0)
    begin = part.to(tl.int64) * step
    total = tl.zeros([BLOCK], tl.float32)
    count = tl.zeros([BLOCK], tl.float32)
    wrong_at = tl.full([BLOCK], NOWHERE, tl.int64)
    for i in range(0, step, BLOCK):
        row = begin + i + tl.arange(0, BLOCK)
        here = (row < begin + step) & (row < rows)
        one = here.to(tl.float32)
        of_loss = one
        if LABELS:
            label = tl.load(target + row, here, other=0).to(tl.int64)
            kept = here & (label != ignore_index)
            wrong = kept & ((label < 0) | (label >= classes))
            wrong_at = tl.minimum(wrong_at, tl.where(wrong, row, NOWHERE))
            one = kept.to(tl.float32)
            of_loss = one
            if WEIGHT:
                of_loss = tl.load(weight + label, kept & ~wrong, other=0.0).to(tl.float32)
        if FACTOR:
            f = tl.load(factor + row, here, other=0.0).to(tl.float32)
            one = one * f
            of_loss = of_loss * f
        total += of_loss
        count += one
    sums = numbers + 2
    first = counters + 2
    tl.store(sums + part, tl.sum(total, 0).to(tl.float64))
    tl.store(sums + PARTS + part, tl.sum(count, 0).to(tl.float64))
    tl.store(first + part, tl.min(wrong_at, 0))
    if is_last(counters, PARTS):
        tl.store(numbers, sum_of_parts(sums, PARTS))
        tl.store(numbers + 1, sum_of_parts(sums + PARTS, PARTS))
        wrong_row = tl.min(tl.load(first + tl.arange(0, PARTS), cache_modifier=".cg"), 0)
        if wrong_row != NOWHERE:
            # To the host, unless it has not read an earlier one; the row is written last.
            if tl.load(offender) < 0:
                tl.store(offender + 1, tl.load(target + wrong_row).to(tl.int64))
                # A launch turns a 1 into a constant, which has no `.to`.
                tl.store(offender + 2, tl.cast(classes, tl.int64))
                tl.store(offender + 3, tl.cast(ignore_index, tl.int64))
                tl.store(offender, wrong_row)


def census(
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,
    rows: int,
    classes: int,
    ignore_index: int,
    labelled: bool = True,
) -> Scratch:
    """Count the labels and report the first wrong one; the totals are the first two numbers."""
    scratch = scratch_of(rows, target.device)
    numbers, counters = scratch
    parts = len(counters) - 2
    launch(
        census_kernel,
        parts,
        target.device,
        target,
        numbers if weight is None else weight,
        numbers if row_factor is None else row_factor,
        numbers,
        counters,
        _offender(target.device).memory,
        rows,
        -(-rows // parts),
        classes,
        ignore_index,
        LABELS=labelled,
        WEIGHT=weight is not None,
        FACTOR=row_factor is not None,
        BLOCK=BLOCK,
        PARTS=parts,
    )
    return scratch


def look(target: Tensor, classes: int, ignore_index: int) -> None:
    target = target.contiguous()
    poll(target.device)
    census(target, None, None, target.numel(), classes, ignore_index)


class _Offender(NamedTuple):
    """Host memory that a device reports to, (4): row, label, classes and ignore_index."""

    memory: Tensor
    view: Any  # the same as a NumPy array, which is read without PyTorch


_offenders: dict[torch.device, _Offender] = {}


def _offender(device: torch.device) -> _Offender:
    if device not in _offenders:
        pinned = device.type != "cpu"
        memory = torch.full((4,), -1, dtype=torch.int64, device="cpu", pin_memory=pinned)
        _offenders[device] = _Offender(memory, memory.numpy())
    return _offenders[device]


def poll(device: torch.device) -> None:
    """Raise IndexError for a wrong label that the device has reported, without waiting for it."""
    view = _offender(device).view
    if view[0] >= 0:
        row, label, classes, ignore_index = view.tolist()
        view[0] = -1
        where = "" if device.type == "cpu" else f" of an earlier call, on {device}"
        raise IndexError(
            f"expected labels in [0, {classes - 1}] or ignore_index={ignore_index}, got "
            f"{label} at row {row}{where}"
        )


def check() -> None:
    for device in list(_offenders):
        if device.type != "cpu":
            torch.cuda.synchronize(device)
        poll(device)
