"""Cross entropy of logits z with labels or probabilities, as `csrc/row_loss.h` defines it:

  l = -sum_c q_c w_c log p_c,  p = softmax(z),  q = (1 - s) target + s / C
  dl/dz_c = (sum_k q_k w_k) p_c - q_c w_c,      dlse^2/dz_c = 2 lse p_c

One launch reads the logits once, updating the largest logit and the sum of exponentials as it goes
(Milakov and Gimelshein 2018, Online normalizer calculation for softmax), and writes the gradient: a
row that fits a tile stays in registers between the two, a longer one is read again from cache.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from nll.kernels.layout import class_dim
from nll.kernels.triton import labels
from nll.kernels.triton.tiles import (
    add_exponentials,
    derivative,
    layout,
    offsets,
    on,
    scaled,
    tile,
)
from nll.kernels.types import Options, RowSums


@triton.jit
def load_tile(x, begin, c, class_stride, classes, read):
    """The numbers of rows that begin at `begin`, in the classes c, and the mask of valid ones."""
    mask = read[:, None] & (c < classes)[None, :]
    return tl.load(
        x + begin[:, None] + c[None, :].to(tl.int64) * class_stride, mask, other=0.0
    ), mask


@triton.jit
def spread_target(
    target,
    begin,
    c,
    class_stride,
    classes,
    read,
    weight,
    smoothing,
    LABELS: tl.constexpr,
    WEIGHT: tl.constexpr,
):
    """u_c = q_c w_c, without the one-hot term at the label."""
    mask = read[:, None] & (c < classes)[None, :]
    u = tl.where(mask, smoothing / classes, 0.0)
    if not LABELS:
        q = tl.load(
            target + begin[:, None] + c[None, :].to(tl.int64) * class_stride, mask, other=0.0
        ).to(tl.float32)
        u += (1.0 - smoothing) * q
    if WEIGHT:
        u *= tl.load(weight + c, c < classes, other=0.0).to(tl.float32)[None, :]
    return u


@triton.jit
def cross_entropy_kernel(
    x,  # the logits
    gradient,  # of their shape, or the logits' own memory
    target,  # (rows) labels, or probabilities of the logits' shape
    weight,  # (classes)
    factor,  # (rows)
    upstream,  # (1) the gradient of the result
    shift,  # (rows) the largest logit, and
    total,  # (rows) sum exp(z - shift)
    loss,  # (rows)
    sums,  # (2, PARTS) of the census
    first,  # (PARTS)
    offender,  # (2) in host memory: the row and the label, or -1
    rows,
    classes,
    inner,
    x_outer,
    x_class,
    x_inner,
    g_outer,
    g_class,
    g_inner,
    q_outer,
    q_class,
    q_inner,
    ignore_index,
    smoothing,
    inverse_temperature,
    softcap,
    z_loss,  # (1)
    # compute loss, shift and total; otherwise read shift and total
    FORWARD: tl.constexpr,
    GRADIENT: tl.constexpr,
    LABELS: tl.constexpr,
    WEIGHT: tl.constexpr,
    FACTOR: tl.constexpr,
    SMOOTH: tl.constexpr,
    CAP: tl.constexpr,
    Z: tl.constexpr,
    MEAN: tl.constexpr,
    WHOLE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    SPREAD: tl.constexpr = SMOOTH or not LABELS
    program = tl.program_id(0)
    row = program * ROWS + tl.arange(0, ROWS)
    there = row < rows
    scale = 1.0
    if not FORWARD:
        scale = tl.load(upstream).to(tl.float32)
    if FORWARD and program == 0:
        labels.report(target, first, offender, classes, ignore_index, PARTS)

    # ---- The rows
    kept = there
    read = there
    column = tl.arange(0, BLOCK)
    begin = offsets(row, inner, x_outer, x_inner)
    q_begin = row
    at_label = tl.zeros([ROWS], tl.float32)
    z_label = tl.zeros([ROWS], tl.float32)
    label = tl.zeros([ROWS], tl.int64)
    if LABELS:
        label = tl.load(target + row, there, other=0)
        kept = there & (label != ignore_index)
        read = kept & (label >= 0) & (label < classes)
        label = tl.where(read, label, 0)
        at_label += 1.0 - smoothing
        if WEIGHT:
            at_label *= tl.load(weight + label, read, other=0.0).to(tl.float32)
        if FORWARD:
            z_label = scaled(
                tl.load(x + begin + label * x_class, read, other=0.0),
                inverse_temperature,
                softcap,
                CAP,
            )
            z_label = tl.where(at_label == 0.0, 0.0, z_label)  # 0 log 0 = 0
    else:
        q_begin = offsets(row, inner, q_outer, q_inner)
    f = tl.full([ROWS], 1.0, tl.float32)
    if FACTOR:
        f = tl.load(factor + row, there, other=0.0).to(tl.float32)
    by_weight = 1.0
    by_count = 1.0
    ratio = 1.0
    if MEAN:
        total_weight = tl.sum(tl.load(sums + tl.arange(0, PARTS)), 0)
        # with total weight 0 the gradient is 0
        by_weight = tl.where(total_weight == 0.0, 0.0, 1.0 / total_weight)
        if Z:
            count = tl.sum(tl.load(sums + PARTS + tl.arange(0, PARTS)), 0)
            by_count = tl.where(count == 0.0, 0.0, 1.0 / count)
            ratio = total_weight * by_count

    # ---- Their sums: expected = sum_c u_c (z_c - top), all_u = sum_c u_c
    if WHOLE:
        x_whole, mask = load_tile(x, begin, column, x_class, classes, read)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    all_e = tl.zeros([ROWS], tl.float32)
    expected = tl.zeros([ROWS], tl.float32)
    all_u = tl.zeros([ROWS], tl.float32)
    if not FORWARD:
        top = tl.load(shift + row, read, other=0.0)
        all_e = tl.load(total + row, read, other=1.0)
    for c in range(0, classes, BLOCK):
        u = tl.zeros([ROWS, BLOCK], tl.float32)
        if SPREAD:
            u = spread_target(
                target,
                q_begin,
                c + column,
                q_class,
                classes,
                read,
                weight,
                smoothing,
                LABELS,
                WEIGHT,
            )
        if FORWARD:
            if WHOLE:
                xs, here = x_whole, mask
            else:
                xs, here = load_tile(x, begin, c + column, x_class, classes, read)
            z = tl.where(here, scaled(xs, inverse_temperature, softcap, CAP), float("-inf"))
            before = top
            top, all_e = add_exponentials(top, all_e, z)
            if SPREAD:
                base = tl.where(top == float("-inf"), 0.0, top)
                moved = tl.where(before == float("-inf"), 0.0, before - base)
                counts = here & (u != 0.0)  # 0 log 0 = 0
                expected += moved * all_u + tl.sum(
                    tl.where(counts, u * (z - base[:, None]), 0.0), 1
                )
        if SPREAD:
            all_u += tl.sum(u, 1)
    top = tl.where(top == float("-inf"), 0.0, top)
    log_sum = tl.log(all_e)
    lse = top + log_sum

    # ---- Their losses
    if FORWARD:
        value = at_label * ((top - z_label) + log_sum)
        if SPREAD:
            spread = log_sum * all_u - expected
            value += spread
        if Z:
            value += tl.load(z_loss) * ratio * lse * lse
        value = tl.where((f == 0.0) & (value == float("inf")), 0.0, f * value)  # 0 log 0 = 0
        value = tl.where(read, value, tl.where(kept, float("nan"), 0.0))
        tl.store(loss + row, value, there)
        tl.store(shift + row, top, there)
        tl.store(total + row, all_e, there)

    # ---- The gradient by z: p * by_p - by_u * u_c, and minus by_u * at_label at the label
    if GRADIENT:
        by_u = scale * f * by_weight
        by_p = by_u * (all_u + at_label)
        if Z:
            by_p += scale * f * by_count * tl.load(z_loss) * 2.0 * lse
        by_p = by_p / all_e
        g_begin = offsets(row, inner, g_outer, g_inner)
        for c in range(0, classes, BLOCK):
            if WHOLE:
                xs, here = x_whole, mask
            else:
                xs, here = load_tile(x, begin, c + column, x_class, classes, read)
            z = scaled(xs, inverse_temperature, softcap, CAP)
            g = tl.exp(z - top[:, None]) * by_p[:, None]
            if SPREAD:
                at = c + column
                u = spread_target(
                    target, q_begin, at, q_class, classes, read, weight, smoothing, LABELS, WEIGHT
                )
                g -= by_u[:, None] * u
            if LABELS:
                g -= tl.where(
                    (c + column)[None, :] == label[:, None], (by_u * at_label)[:, None], 0.0
                )
            g = tl.where(read[:, None], g * derivative(xs, inverse_temperature, softcap, CAP), 0.0)
            to = gradient + g_begin[:, None] + (c + column)[None, :].to(tl.int64) * g_class
            tl.store(
                to,
                g.to(gradient.dtype.element_ty),
                there[:, None] & (c + column < classes)[None, :],
            )


def run(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,
    options: Options,
    rows: Tensor | None,
    sums: RowSums,
    gradient: Tensor | None,
    upstream: Tensor | None = None,
) -> labels.Census:
    """Launch the kernel: fill `rows` and the sums where there are rows, and the gradient for an
    `upstream` where there is one.
    """
    dim = class_dim(input)
    probabilities = target.shape == input.shape
    x, g = layout(input, dim), layout(input if gradient is None else gradient, dim)
    q = layout(target, dim)[3:] if probabilities else (0, 0, 0)
    census = labels.census(
        target, weight, row_factor, x.rows, x.classes, options.ignore_index, not probabilities
    )
    shape = tile(x.classes, x.inner)
    unused, z_loss = census.sums, options.z_loss
    with_z_loss = isinstance(z_loss, Tensor) or z_loss != 0.0
    if not isinstance(z_loss, Tensor):
        z_loss = (
            torch.full((), z_loss, dtype=torch.float32, device=input.device)
            if with_z_loss
            else unused
        )
    with on(input.device):
        cross_entropy_kernel[(triton.cdiv(x.rows, shape.rows),)](
            input,
            input if gradient is None else gradient,
            target,
            unused if weight is None else weight,
            unused if row_factor is None else row_factor,
            unused if upstream is None else upstream,
            sums.shift,
            sums.total,
            unused if rows is None else rows,
            census.sums,
            census.first,
            census.offender,
            *x,
            *g[3:],
            *q,
            options.ignore_index,
            options.label_smoothing,
            1.0 / options.temperature,
            options.softcap or 1.0,
            z_loss,
            FORWARD=rows is not None,
            GRADIENT=gradient is not None,
            LABELS=not probabilities,
            WEIGHT=weight is not None,
            FACTOR=row_factor is not None,
            SMOOTH=options.label_smoothing > 0.0,
            CAP=options.softcap is not None,
            Z=with_z_loss,
            MEAN=options.reduction == "mean",
            WHOLE=shape.whole,
            ROWS=shape.rows,
            BLOCK=shape.classes,
            PARTS=len(census.first),
            num_warps=shape.warps,
        )
    return census


@triton.jit
def rescale_kernel(gradient, factor, count, BLOCK: tl.constexpr):
    """The gradient times a factor, in float32, unless that is 1."""
    by = tl.load(factor).to(tl.float32)
    if by != 1.0:
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        g = tl.load(gradient + at, at < count, other=0.0).to(tl.float32)
        tl.store(gradient + at, (g * by).to(gradient.dtype.element_ty), at < count)


def rescale(gradient: Tensor, factor: Tensor) -> None:
    with on(gradient.device):
        rescale_kernel[(triton.cdiv(gradient.numel(), 4096),)](
            gradient, factor, gradient.numel(), BLOCK=4096
        )
