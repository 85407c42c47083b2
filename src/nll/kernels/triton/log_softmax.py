"""log softmax along a dimension, y = x - max - log sum exp(x - max), and its gradient, g - exp(y)
sum g; the log-probability of each row's label, and its gradient.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from nll.kernels.triton import labels
from nll.kernels.triton.cross_entropy import load_tile
from nll.kernels.triton.tiles import add_exponentials, layout, offsets, on, tile


@triton.jit
def log_softmax_kernel(
    x,  # the logits, or the gradient of the result
    y,  # the result, for its gradient
    out,
    rows,
    classes,
    inner,
    x_outer,
    x_class,
    x_inner,
    o_outer,  # of y and out
    o_class,
    o_inner,
    BACKWARD: tl.constexpr,
    WHOLE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    column = tl.arange(0, BLOCK)
    begin = offsets(row, inner, x_outer, x_inner)
    o_begin = offsets(row, inner, o_outer, o_inner)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    if WHOLE:
        x_whole, mask = load_tile(x, begin, column, x_class, classes, there)
    for c in range(0, classes, BLOCK):
        if WHOLE:
            xs, here = x_whole, mask
        else:
            xs, here = load_tile(x, begin, c + column, x_class, classes, there)
        if BACKWARD:
            total += tl.sum(xs.to(tl.float32), 1)
        else:
            top, total = add_exponentials(
                top, total, tl.where(here, xs.to(tl.float32), float("-inf"))
            )
    log_sum = tl.log(total)
    for c in range(0, classes, BLOCK):
        if WHOLE:
            xs, here = x_whole, mask
        else:
            xs, here = load_tile(x, begin, c + column, x_class, classes, there)
        to = o_begin[:, None] + (c + column)[None, :].to(tl.int64) * o_class
        if BACKWARD:
            p = tl.exp(tl.load(y + to, here, other=0.0).to(tl.float32))
            value = xs.to(tl.float32) - p * total[:, None]
        else:
            value = (xs.to(tl.float32) - top[:, None]) - log_sum[:, None]
        tl.store(out + to, value.to(out.dtype.element_ty), here)


def run(input: Tensor, result: Tensor | None, out: Tensor, dim: int) -> None:
    """Fill `out`, contiguous, with the logarithms, or with the gradient of a contiguous result with
    respect to the logits.
    """
    x, o = layout(input, dim), layout(out, dim)
    shape = tile(x.classes, x.inner)
    with on(input.device):
        log_softmax_kernel[(triton.cdiv(x.rows, shape.rows),)](
            input,
            out if result is None else result,
            out,
            *x,
            *o[3:],
            BACKWARD=result is not None,
            WHOLE=shape.whole,
            ROWS=shape.rows,
            BLOCK=shape.classes,
            num_warps=shape.warps,
        )


@triton.jit
def pick_kernel(
    x,
    target,
    loss,
    first,
    offender,
    rows,
    classes,
    inner,
    x_outer,
    x_class,
    x_inner,
    ignore_index,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
):
    """-x of each row's label, NaN where that is out of range."""
    if tl.program_id(0) == 0:
        labels.report(target, first, offender, classes, ignore_index, PARTS)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    label = tl.load(target + row, there, other=0)
    kept = there & (label != ignore_index)
    read = kept & (label >= 0) & (label < classes)
    at = offsets(row, inner, x_outer, x_inner) + tl.where(read, label, 0) * x_class
    value = -tl.load(x + at, read, other=0.0).to(tl.float32)
    value = tl.where(read, value, tl.where(kept, float("nan"), 0.0))
    tl.store(loss + row, value.to(loss.dtype.element_ty), there)


@triton.jit
def pick_backward_kernel(
    grad,  # (rows)
    target,
    out,  # contiguous
    rows,
    classes,
    inner,
    o_outer,
    o_class,
    o_inner,
    ignore_index,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """-grad at each row's label, and 0 elsewhere."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < rows
    label = tl.load(target + row, there, other=0)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at_label = (c[None, :] == label[:, None]) & (label != ignore_index)[:, None]
    value = tl.where(at_label, -tl.load(grad + row, there, other=0.0).to(tl.float32)[:, None], 0.0)
    to = offsets(row, inner, o_outer, o_inner)[:, None] + c[None, :].to(tl.int64) * o_class
    tl.store(out + to, value.to(out.dtype.element_ty), there[:, None] & (c < classes)[None, :])


def pick(input: Tensor, target: Tensor, loss: Tensor, ignore_index: int, dim: int) -> None:
    x = layout(input, dim)
    census = labels.census(target, None, None, x.rows, x.classes, ignore_index)
    with on(input.device):
        pick_kernel[(triton.cdiv(x.rows, 1024),)](
            input,
            target,
            loss,
            census.first,
            census.offender,
            *x,
            ignore_index,
            ROWS=1024,
            PARTS=len(census.first),
        )


def pick_backward(grad: Tensor, target: Tensor, out: Tensor, ignore_index: int, dim: int) -> None:
    o = layout(out, dim)
    shape = tile(o.classes, o.inner)
    block = min(shape.classes, 4096)
    with on(out.device):
        pick_backward_kernel[(triton.cdiv(o.rows, shape.rows), triton.cdiv(o.classes, block))](
            grad,
            target,
            out,
            *o,
            ignore_index,
            ROWS=shape.rows,
            BLOCK=block,
            num_warps=min(shape.warps, 4),
        )
