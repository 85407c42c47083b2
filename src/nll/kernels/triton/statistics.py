"""Statistics of labels and their gradient, as `csrc/statistics.cpp` computes them on a CPU."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from nll.kernels.triton.tiles import (
    allowed_of,
    compiled_for,
    derivative,
    launch,
    load_tile,
    scaled,
    tile,
)
from nll.kernels.types import RowStatistics

MOST = 2048  # classes in a tile


@triton.jit
def statistics_kernel(
    x,  # (rows, classes), neighbours along the classes
    target,  # (rows) labels that are classes
    log_prob,
    lse,
    entropy,
    rank,
    shifts,
    log_sums,
    allowed,  # (rows, classes)
    rows,
    classes,
    stride,
    a_outer,
    a_class,
    inverse_temperature,
    softcap,
    CAP: tl.constexpr,
    ALLOWED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    begin, column = row.to(tl.int64) * stride, tl.arange(0, BLOCK)
    a_begin = row.to(tl.int64) * a_outer
    label = tl.load(target + row, there, other=0)
    x_label = tl.load(x + begin + label, there, other=0.0)
    if ALLOWED:
        may_label = tl.load(allowed + a_begin + label * a_class, there, other=0) != 0
        x_label = tl.where(may_label, x_label, float("-inf"))  # all others come before it
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    expected = tl.zeros([ROWS], tl.float32)  # sum exp(z - top) (z - top)
    rank_sum = tl.zeros([ROWS], tl.int64)
    for c in range(0, classes, BLOCK):
        place = c + column
        xs, here = load_tile(x, begin, place, 1, classes, there)
        may = allowed_of(allowed, a_begin, place[None, :], a_class, here, ALLOWED)
        z = tl.where(may, scaled(xs, inverse_temperature, softcap, CAP), float("-inf"))
        higher = tl.maximum(top, tl.max(z, 1))
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        moved = tl.where(top == float("-inf"), 0.0, top - shift)
        shrink = tl.exp(top - shift)
        e = tl.exp(z - shift[:, None])
        expected = (expected + moved * total) * tl.where(total == 0.0, 0.0, shrink)
        expected += tl.sum(tl.where(e == 0.0, 0.0, e * (z - shift[:, None])), 1)  # 0 log 0 = 0
        total = total * shrink + tl.sum(e, 1)
        top = higher
        first = (xs > x_label[:, None]) | (
            (xs == x_label[:, None]) & (place[None, :] < label[:, None])
        )
        rank_sum += tl.sum((first & may).to(tl.int32), 1)
    top = tl.where(top == float("-inf"), 0.0, top)
    log_sum = tl.log(total)
    z_label = scaled(x_label, inverse_temperature, softcap, CAP)
    if ALLOWED:
        z_label = tl.where(may_label, z_label, float("-inf"))
    tl.store(log_prob + row, (z_label - top) - log_sum, there)
    tl.store(lse + row, top + log_sum, there)
    tl.store(entropy + row, log_sum - expected / total, there)
    tl.store(rank + row, rank_sum, there)
    tl.store(shifts + row, top, there)
    tl.store(log_sums + row, log_sum, there)


@triton.jit
def statistics_backward_kernel(
    x,  # (rows, classes), contiguous; overwritten
    target,
    shifts,
    log_sums,
    entropy,
    by_log_prob,
    by_lse,
    by_entropy,
    allowed,  # (rows, classes)
    rows,
    classes,
    a_outer,
    a_class,
    inverse_temperature,
    softcap,
    ENTROPY: tl.constexpr,
    CAP: tl.constexpr,
    ALLOWED: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    label = tl.load(target + row, there, other=0)
    a = tl.load(by_log_prob + row, there, other=0.0)[:, None]
    b = tl.load(by_lse + row, there, other=0.0)[:, None]
    shift = tl.load(shifts + row, there, other=0.0)[:, None]
    log_sum = tl.load(log_sums + row, there, other=0.0)[:, None]
    begin = row.to(tl.int64) * classes
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    xs, here = load_tile(x, begin, c, 1, classes, there)
    may = allowed_of(allowed, row.to(tl.int64) * a_outer, c[None, :], a_class, here, ALLOWED)
    log_p = (scaled(xs, inverse_temperature, softcap, CAP) - shift) - log_sum
    p = tl.exp(log_p)
    g = p * (b - a)
    if ENTROPY:
        by_h = tl.load(by_entropy + row, there, other=0.0)[:, None]
        h = tl.load(entropy + row, there, other=0.0)[:, None]
        g -= tl.where(p == 0.0, 0.0, p * by_h * (log_p + h))
    g += tl.where(c[None, :] == label[:, None], a, 0.0)
    g *= derivative(xs, inverse_temperature, softcap, CAP)
    if ALLOWED:
        g = tl.where(may, g, 0.0)
    tl.store(x + begin[:, None] + c[None, :], g.to(x.dtype.element_ty), here)


def run(
    logits: Tensor,
    label: Tensor,
    allowed: Tensor | None,  # (rows, classes)
    temperature: float,
    softcap: float | None,
    statistics: RowStatistics,
) -> None:
    shape = tile(logits.shape[1], 1)
    block = min(shape.classes, MOST)
    launch(
        statistics_kernel,
        -(-len(logits) // shape.rows),
        logits.device,
        logits,
        label,
        *statistics,
        logits if allowed is None else allowed,
        *logits.shape,
        logits.stride(0),
        *((0, 0) if allowed is None else allowed.stride()),
        1.0 / temperature,
        softcap or 1.0,
        CAP=softcap is not None,
        ALLOWED=allowed is not None,
        ROWS=shape.rows,
        BLOCK=block,
        **compiled_for(min(shape.warps, 4)),
    )


def run_backward(
    logits: Tensor,
    label: Tensor,
    allowed: Tensor | None,  # (rows, classes)
    temperature: float,
    softcap: float | None,
    statistics: RowStatistics,
    grads: tuple[Tensor, ...],
) -> None:
    by_log_prob, by_lse, *by_entropy = grads
    shape = tile(logits.shape[1], 1)
    block = min(shape.classes, MOST)
    launch(
        statistics_backward_kernel,
        (-(-len(logits) // shape.rows), -(-logits.shape[1] // block)),
        logits.device,
        logits,
        label,
        statistics.shift,
        statistics.log_sum,
        statistics.shift if statistics.entropy is None else statistics.entropy,
        by_log_prob,
        by_lse,
        by_entropy[0] if by_entropy else by_lse,
        logits if allowed is None else allowed,
        *logits.shape,
        *((0, 0) if allowed is None else allowed.stride()),
        1.0 / temperature,
        softcap or 1.0,
        ENTROPY=bool(by_entropy),
        CAP=softcap is not None,
        ALLOWED=allowed is not None,
        ROWS=shape.rows,
        BLOCK=block,
        **compiled_for(min(shape.warps, 4)),
    )
