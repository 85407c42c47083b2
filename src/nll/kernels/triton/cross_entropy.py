"""Cross entropy of logits z with labels or probabilities, as `csrc/row_loss.h` defines it:

  l = -sum_c q_c w_c log p_c,  p = softmax(z),  q = (1 - s) target + s / A
  dl/dz_c = (sum_k q_k w_k) p_c - q_c w_c,      dlse^2/dz_c = 2 lse p_c

over the A allowed classes. One launch reads the logits once, updating the largest logit and the sum
of exponentials as it goes (Milakov and Gimelshein 2018, Online normalizer calculation for softmax),
and writes the gradient: a row that fits a tile stays in registers between the two, in its own type,
a longer one is read again from cache. Exponentials are powers of 2, p_c = 2^d_c / total.

In general d = (y - m) log2(e) / temperature with m the largest capped logit y: the largest has
d = 0, and no digit is lost. Of half types and labels alone d = y log2(e) / temperature - m is one
instruction less ("fused"), with m the largest product: its rounding error is the same in all
classes, and leaves p alone.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from nll.kernels.layout import class_dim
from nll.kernels.triton.row_terms import (
    add_tile,
    class_weights_of,
    exponent,
    gradient_of,
    logits_of,
)
from nll.kernels.triton.tiles import (
    LN2,
    LOG2E,
    SHIFTED,
    allowed_of,
    begin_of,
    body,
    compiled_for,
    derivative,
    ends,
    launch,
    layout,
    lines,
    lines_of,
    programs,
    rows_of,
    tile,
)
from nll.kernels.types import Options


@triton.jit
def cross_entropy_kernel(
    x,  # the logits
    gradient,  # of their shape, or the logits' own memory
    target,  # (rows) labels, or probabilities of the logits' shape
    weight,  # (classes)
    factor,  # (rows)
    allowed,  # of the logits' shape
    upstream,  # (1) the gradient of the result
    sums,  # (2, rows) m and the total of 2^d
    loss,  # (rows)
    totals,  # (2) the rows' total weight in the mean of the loss, and of the z-loss
    z_loss,  # a number, or (1)
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
    a_outer,
    a_class,
    a_inner,
    lead,
    start,  # the first row's place in everything but the logits, the gradient and the sums
    ignore_index,
    smoothing,
    inverse_temperature,
    softcap,
    # compute loss and sums; otherwise read the sums
    FORWARD: tl.constexpr,
    GRADIENT: tl.constexpr,
    LABELS: tl.constexpr,
    WEIGHT: tl.constexpr,
    FACTOR: tl.constexpr,
    SMOOTH: tl.constexpr,
    ALLOWED: tl.constexpr,
    CAP: tl.constexpr,
    Z: tl.constexpr,
    Z_TENSOR: tl.constexpr,
    SAVED: tl.constexpr,  # whether the sums are stored
    MEAN: tl.constexpr,
    UPSTREAM: tl.constexpr,
    LIE: tl.constexpr,
    WHOLE: tl.constexpr,
    SIDE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, outer, i, there = rows_of(tl.program_id(0), rows, inner, ROWS, SIDE)
    begin = begin_of(outer, i, x_outer, x_inner, SIDE)
    place = row + start
    q_begin = begin_of(outer + start, i, q_outer, q_inner, SIDE)
    a_begin = begin_of(outer + start, i, a_outer, a_inner, SIDE)
    FUSED: tl.constexpr = x.dtype.element_ty.primitive_bitwidth == 16 and LABELS and not SMOOTH

    # ---- The rows
    kept = there
    read = there
    at_label = tl.zeros([ROWS], tl.float32)
    label = tl.zeros([ROWS], tl.int32)
    if LABELS:
        long = tl.load(target + place, there, other=0).to(tl.int64)
        kept = there & (long != ignore_index)
        read = kept & (long >= 0) & (long < classes)
        label = tl.where(read, long, 0).to(tl.int32)
        at_label += 1.0 - smoothing
        if WEIGHT:
            at_label *= tl.load(weight + label, read, other=0.0).to(tl.float32)
        x_label = tl.load(x + begin + label.to(tl.int64) * x_class, read, other=0.0)
        label_may = allowed_of(allowed, a_begin, label[:, None], a_class, read[:, None], ALLOWED)
    f = tl.full([ROWS], 1.0, tl.float32)
    if FACTOR:
        f = tl.load(factor + place, there, other=0.0).to(tl.float32)
    by_weight, by_count, ratio = 1.0, 1.0, 1.0
    if MEAN:
        # with total weight 0 the gradient is 0
        total_weight = tl.load(totals).to(tl.float32)
        by_weight = tl.where(total_weight == 0.0, 0.0, 1.0 / total_weight)
        if Z:
            n = tl.load(totals + 1).to(tl.float32)
            by_count = tl.where(n == 0.0, 0.0, 1.0 / n)
            ratio = total_weight * by_count

    # ---- Their sums
    # Rows side by side are read whatever their labels, several by one instruction.
    reads = there if SIDE else read
    head, full = lines_of(x, begin, lead, classes, LIE)
    if WHOLE:
        whole, at_whole, mask_whole = body(
            x, begin, head, full, 0, x_class, classes, reads, LIE, BLOCK
        )
        x_whole = tl.load(whole, mask_whole, other=float("-inf"))
    if LIE == SHIFTED:
        both, at_ends, mask_ends = ends(x, begin, head, full, classes, reads)
        both_ends = (tl.load(both, mask_ends, other=float("-inf")), at_ends, mask_ends)
    others = (target, q_begin, q_class, allowed, a_begin, a_class)
    others += (weight, smoothing, inverse_temperature, softcap)
    none = tl.zeros([ROWS], tl.float32)
    row_sums = (none + float("-inf"), none, none, none, none, none, none)
    if FORWARD or SMOOTH or not LABELS:
        if LIE == SHIFTED:
            row_sums = add_tile(
                row_sums, both_ends, others, FUSED, FORWARD, LABELS, WEIGHT, SMOOTH, ALLOWED, CAP
            )
        for c in range(0, classes, BLOCK):
            if WHOLE:
                xs, at, mask = x_whole, at_whole, mask_whole
            else:
                to, at, mask = body(x, begin, head, full, c, x_class, classes, reads, LIE, BLOCK)
                xs = tl.load(to, mask, other=float("-inf"))
            row_sums = add_tile(
                row_sums,
                (xs, at, mask),
                others,
                FUSED,
                FORWARD,
                LABELS,
                WEIGHT,
                SMOOTH,
                ALLOWED,
                CAP,
            )
    m, total, all_q, all_qd, all_w, all_wd, n_allowed = row_sums
    if not FORWARD:
        m = tl.load(sums + row, read, other=0.0)
        total = tl.load(sums + rows + row, read, other=1.0)
    m = tl.where(m == float("-inf"), 0.0, m)
    share = none + smoothing / classes
    if SMOOTH and ALLOWED:
        share = smoothing / n_allowed
    all_u = all_q + share * all_w
    if LABELS:
        y_label = tl.sum(logits_of(x_label[:, None], label_may, softcap, CAP, ALLOWED), 1)
        d_label = exponent(y_label, inverse_temperature * LOG2E, m, FUSED)

    # ---- Their losses
    largest = m * (LN2 if FUSED else inverse_temperature)
    log_total = tl.log2(total) * LN2
    lse = largest + log_total
    by_z = z_loss
    if Z_TENSOR:
        by_z = tl.load(z_loss).to(tl.float32)
    if FORWARD:
        value = all_u * log_total - (all_qd + share * all_wd)
        if LABELS:
            if FUSED:  # in float64, once a row: a loss of float32 loses no digit to log2
                scale = (none + inverse_temperature * LOG2E).to(tl.float64)
                d = y_label.to(tl.float64) * scale - m.to(tl.float64)
                of_label = ((tl.log2(total).to(tl.float64) - d) * LN2).to(tl.float32)
            else:
                of_label = log_total - (y_label - m) * inverse_temperature
            of_label = tl.where(of_label < 0.0, 0.0, of_label)  # by rounding alone
            of_label = tl.where((at_label == 0.0) & (of_label == float("inf")), 0.0, of_label)
            value += at_label * of_label
        if Z:
            value += by_z * ratio * lse * lse
        value = tl.where((f == 0.0) & (value == float("inf")), 0.0, f * value)  # 0 log 0 = 0
        value = tl.where(read, value, tl.where(kept, float("nan"), 0.0))
        tl.store(loss + place, value, there)
        if SAVED:
            tl.store(sums + row, m, there)
            tl.store(sums + rows + row, total, there)

    # ---- The gradient by x: by_p 2^d - by_u u, and minus by_u at_label at the label
    if GRADIENT:
        tl.debug_barrier()  # every thread has read the label's number, which may be overwritten
        by_u = f * inverse_temperature
        if UPSTREAM:
            by_u *= tl.load(upstream).to(tl.float32)
        by_p = by_u * by_weight * (all_u + at_label)
        if Z:
            by_p += by_u * by_count * by_z * 2.0 * lse
        by_u = tl.where(read, by_u * by_weight, 0.0)
        by_p = tl.where(read, by_p / total, 0.0)
        g_begin = begin_of(outer, i, g_outer, g_inner, SIDE)
        # by_p > 0: one instruction less for each number
        FOLDED: tl.constexpr = FUSED and FORWARD and not (WEIGHT or FACTOR or Z)
        factors = (m - tl.log2(by_p) if FOLDED else m, by_p, by_u, share)
        if LIE == SHIFTED:
            g_ends = gradient_of(
                both_ends, factors, others, FUSED, LABELS, WEIGHT, SMOOTH, ALLOWED, CAP, FOLDED
            )
            both, at_ends, mask_ends = ends(gradient, g_begin, head, full, classes, there)
            tl.store(both, g_ends.to(gradient.dtype.element_ty), mask_ends)
        for c in range(0, classes, BLOCK):
            if WHOLE:
                xs, at, mask = x_whole, at_whole, mask_whole
            else:
                to, at, mask = body(x, begin, head, full, c, x_class, classes, reads, LIE, BLOCK)
                xs = tl.load(to, mask, other=0.0)
            g = gradient_of(
                (xs, at, mask), factors, others, FUSED, LABELS, WEIGHT, SMOOTH, ALLOWED, CAP, FOLDED
            )
            if SIDE:
                g = tl.where(read[:, None], g, 0.0)
            to, at, mask = body(
                gradient, g_begin, head, full, c, g_class, classes, there, LIE, BLOCK
            )
            tl.store(to, g.to(gradient.dtype.element_ty), mask)
        if LABELS:  # the label's number once more, when all are written
            tl.debug_barrier()
            g_label = tl.exp2(d_label) * by_p - by_u * at_label
            if SMOOTH:
                w = class_weights_of(weight, label[:, None], label_may, WEIGHT)
                g_label -= by_u * share * tl.sum(w, 1)
            if CAP:
                g_label *= derivative(x_label, 1.0, softcap, CAP)
            if ALLOWED:
                g_label = tl.where(tl.max(label_may.to(tl.int32), 1) > 0, g_label, 0.0)
            at_label_of = gradient + g_begin + label.to(tl.int64) * g_class
            tl.store(at_label_of, g_label.to(gradient.dtype.element_ty), read)


def run(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,
    allowed: Tensor | None,
    options: Options,
    rows: Tensor | None,
    sums: Tensor | None,
    gradient: Tensor | None,
    totals: Tensor | None,  # of the census; for no mean, None
    upstream: Tensor | None = None,
    start: int = 0,
) -> None:
    """Launch the kernel: fill `rows` and the sums where there are rows, and the gradient for an
    `upstream` where there is one. The logits may be those of some rows, from `start` on.
    """
    dim = class_dim(input)
    probabilities = target.dim() == input.dim()
    to = input if gradient is None else gradient
    x, g = layout(input, dim), layout(to, dim)
    q = layout(target, dim)[3:] if probabilities else (0, 0, 0)
    a = (0, 0, 0) if allowed is None else layout(allowed, dim)[3:]
    smooth, capped = options.label_smoothing > 0.0, options.softcap is not None
    spread = probabilities or smooth or weight is not None or allowed is not None
    shape = tile(x.classes, x.inner, input.itemsize, spread or capped)
    lie, lead = lines(x, input.data_ptr(), input.itemsize, (g, to.data_ptr()))
    others = weight, row_factor, allowed, upstream, sums, rows, totals
    z_loss, z_tensor = options.z_loss, isinstance(options.z_loss, Tensor)
    launch(
        cross_entropy_kernel,
        programs(x, shape.rows),
        input.device,
        input,
        to,
        target,
        *(target if tensor is None else tensor for tensor in others),
        z_loss,
        *x,
        *g[3:],
        *q,
        *a,
        lead,
        start,
        options.ignore_index,
        options.label_smoothing,
        1.0 / options.temperature,
        options.softcap or 1.0,
        FORWARD=rows is not None,
        GRADIENT=gradient is not None,
        LABELS=not probabilities,
        WEIGHT=weight is not None,
        FACTOR=row_factor is not None,
        SMOOTH=smooth,
        ALLOWED=allowed is not None,
        CAP=capped,
        Z=z_tensor or z_loss != 0.0,
        Z_TENSOR=z_tensor,
        SAVED=sums is not None,
        MEAN=options.reduction == "mean",
        UPSTREAM=upstream is not None,
        LIE=lie,
        WHOLE=shape.whole,
        SIDE=x.inner > 1,
        ROWS=shape.rows,
        BLOCK=shape.classes,
        **compiled_for(shape.warps, spread or capped),
    )
