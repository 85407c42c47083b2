"""Labels on an accelerator, counted and checked without waiting for it.

A label that is neither a class nor ignored is never used as an address: its row's loss is NaN. The
first such row and its label are written to host memory that the device sees; the next call reads
them there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from nll.kernels.triton.tiles import on

MOST_PARTS, BLOCK = 64, 1024
NOWHERE = tl.constexpr(0x7FFFFFFFFFFFFFFF)


@triton.jit
def census_kernel(
    target,  # (rows)
    weight,  # (classes)
    factor,  # (rows)
    sums,  # (2, PARTS): the rows' total weight in the mean of the loss, and of the z-loss
    first,  # (PARTS): the first row whose label is wrong
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
            label = tl.load(target + row, here, other=0)
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
    tl.store(sums + part, tl.sum(total, 0))
    tl.store(sums + PARTS + part, tl.sum(count, 0))
    tl.store(first + part, tl.min(wrong_at, 0))


@triton.jit
def report(target, first, offender, classes, ignore_index, PARTS: tl.constexpr):
    """Report the first wrong label to the host, unless an earlier one is still unread; the row is
    written last.
    """
    row = tl.min(tl.load(first + tl.arange(0, PARTS)), 0)
    if row != NOWHERE:
        if tl.load(offender) < 0:
            tl.store(offender + 1, tl.load(target + row))
            # A launch turns a 1 into a constant, which has no `.to`.
            tl.store(offender + 2, tl.cast(classes, tl.int64))
            tl.store(offender + 3, tl.cast(ignore_index, tl.int64))
            tl.store(offender, row)


@triton.jit
def report_kernel(target, first, offender, classes, ignore_index, PARTS: tl.constexpr):
    """`report`, where no loss kernel does it."""
    report(target, first, offender, classes, ignore_index, PARTS)


class Census(NamedTuple):
    """The results of `census_kernel`."""

    sums: Tensor  # (2, parts), float32
    first: Tensor  # (parts), int64
    offender: Tensor  # (4) in host memory: row, label, classes, ignore_index

    @property
    def total_weight(self) -> Tensor:
        return self.sums[0].sum(dtype=torch.float64)


def census(
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,
    rows: int,
    classes: int,
    ignore_index: int,
    labelled: bool = True,
) -> Census:
    """Count the labels and find the first wrong one."""
    device = target.device
    parts = min(MOST_PARTS, triton.next_power_of_2(triton.cdiv(rows, BLOCK)))
    sums = torch.empty(2, parts, dtype=torch.float32, device=device)
    first = torch.empty(parts, dtype=torch.int64, device=device)
    with on(device):
        census_kernel[(parts,)](
            target,
            sums if weight is None else weight,
            sums if row_factor is None else row_factor,
            sums,
            first,
            rows,
            triton.cdiv(rows, parts),
            classes,
            ignore_index,
            LABELS=labelled,
            WEIGHT=weight is not None,
            FACTOR=row_factor is not None,
            BLOCK=BLOCK,
            PARTS=parts,
        )
    return Census(sums, first, offender_of(device))


def look(target: Tensor, classes: int, ignore_index: int) -> None:
    target = target.contiguous()
    poll(target.device)
    result = census(target, None, None, target.numel(), classes, ignore_index)
    with on(target.device):
        report_kernel[(1,)](
            target, result.first, result.offender, classes, ignore_index, PARTS=len(result.first)
        )


offenders: dict[torch.device, Tensor] = {}


def offender_of(device: torch.device) -> Tensor:
    """Return the host memory that a device reports to."""
    if device not in offenders:
        offenders[device] = torch.full(
            (4,), -1, dtype=torch.int64, device="cpu", pin_memory=device.type != "cpu"
        )
    return offenders[device]


def poll(device: torch.device) -> None:
    """Raise IndexError for a wrong label that the device has reported, without waiting for it."""
    row, label, classes, ignore_index = offender_of(device).tolist()
    if row >= 0:
        offender_of(device).fill_(-1)
        where = "" if device.type == "cpu" else f" of an earlier call, on {device}"
        raise IndexError(
            f"expected labels in [0, {classes - 1}] or ignore_index={ignore_index}, got "
            f"{label} at row {row}{where}"
        )


def check() -> None:
    for device in list(offenders):
        if device.type != "cpu":
            torch.cuda.synchronize(device)
        poll(device)
