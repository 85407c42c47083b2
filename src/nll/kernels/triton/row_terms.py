"""What the tiles of a row add to its sums, and their gradient: see `cross_entropy.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from nll.kernels.triton.tiles import LOG2E, allowed_of, capped, derivative


@triton.jit
def logits_of(xs, may, softcap, CAP: tl.constexpr, ALLOWED: tl.constexpr):
    """The capped logits of a tile, -inf where there is no allowed class."""
    y = capped(xs, softcap, CAP)
    if CAP or ALLOWED:
        y = tl.where(may, y, float("-inf"))
    return y  # what is not read is -inf


@triton.jit
def exponent(y, scale, m, FUSED: tl.constexpr):
    return tl.fma(y, scale, -m) if FUSED else (y - m) * scale


@triton.jit
def class_weights_of(weight, at, may, WEIGHT: tl.constexpr):
    """w_c of the allowed classes, over which label smoothing is spread."""
    w = may.to(tl.float32)
    if WEIGHT:
        w = tl.load(weight + at, may, other=0.0).to(tl.float32)
    return w


@triton.jit
def targets_of(target, begin, at, class_stride, mask, weight, smoothing, WEIGHT: tl.constexpr):
    """(1 - s) q_c w_c of class probabilities q."""
    q = tl.load(target + (begin[:, None] + at.to(tl.int64) * class_stride), mask, other=0.0)
    q = q.to(tl.float32) * (1.0 - smoothing)
    if WEIGHT:
        q *= tl.load(weight + at, mask, other=0.0).to(tl.float32)
    return q


@triton.jit
def add_products(all_u, all_ud, u, d, moved):
    """Add a tile to sum u and sum u d, where all d of the sums so far have moved; 0 log 0 = 0."""
    all_ud += moved * all_u + tl.sum(tl.where(u != 0.0, u * d, 0.0), 1)
    return all_u + tl.sum(u, 1), all_ud


@triton.jit
def add_tile(
    row_sums,
    part,
    others,
    FUSED: tl.constexpr,
    FORWARD: tl.constexpr,
    LABELS: tl.constexpr,
    WEIGHT: tl.constexpr,
    SMOOTH: tl.constexpr,
    ALLOWED: tl.constexpr,
    CAP: tl.constexpr,
):
    """Add a tile to the sums of its rows: m, total, and with z - max z for d the sums of
    (1 - s) q w, (1 - s) q w d, w, w d and 1, the last three over the allowed classes.
    """
    xs, at, mask = part
    m, total, all_q, all_qd, all_w, all_wd, n_allowed = row_sums
    target, q_begin, q_class, allowed, a_begin, a_class, weight, smoothing, unit, softcap = others
    may = allowed_of(allowed, a_begin, at, a_class, mask, ALLOWED)
    y = logits_of(xs, may, softcap, CAP, ALLOWED)
    moved = tl.zeros_like(m)
    d = y
    if FORWARD:
        scale = unit * LOG2E
        largest = tl.max(y, 1)
        higher = tl.maximum(m, largest * scale if FUSED else largest)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        moved = tl.where(m == float("-inf"), 0.0, m - base)
        e = tl.exp2(exponent(y, scale, base[:, None], FUSED))
        total = total * tl.exp2(moved if FUSED else moved * scale) + tl.sum(e, 1)
        m = higher
        moved *= unit
        d = (y - base[:, None]) * unit
    if not LABELS:
        q = targets_of(target, q_begin, at, q_class, mask, weight, smoothing, WEIGHT)
        all_q, all_qd = add_products(all_q, all_qd, q, d, moved)
    if SMOOTH:
        w = class_weights_of(weight, at, may, WEIGHT)
        all_w, all_wd = add_products(all_w, all_wd, w, d, moved)
        if ALLOWED:
            n_allowed += tl.sum(may.to(tl.float32), 1)
    return m, total, all_q, all_qd, all_w, all_wd, n_allowed


@triton.jit
def gradient_of(
    part,
    factors,
    others,
    FUSED: tl.constexpr,
    LABELS: tl.constexpr,
    WEIGHT: tl.constexpr,
    SMOOTH: tl.constexpr,
    ALLOWED: tl.constexpr,
    CAP: tl.constexpr,
    FOLDED: tl.constexpr,
):
    """by_p 2^d - by_u u of a tile, as if no class were the label; folded, m has log2(by_p)."""
    xs, at, mask = part
    m, by_p, by_u, share = factors
    target, q_begin, q_class, allowed, a_begin, a_class, weight, smoothing, unit, softcap = others
    may = allowed_of(allowed, a_begin, at, a_class, mask, ALLOWED)
    y = logits_of(xs, may, softcap, CAP, ALLOWED)
    d = exponent(y, unit * LOG2E, m[:, None], FUSED)
    g = tl.exp2(d) if FOLDED else tl.exp2(d) * by_p[:, None]
    if SMOOTH:
        g -= (by_u * share)[:, None] * class_weights_of(weight, at, may, WEIGHT)
    if not LABELS:
        q = targets_of(target, q_begin, at, q_class, mask, weight, smoothing, WEIGHT)
        g -= by_u[:, None] * q
    if CAP:
        g *= derivative(xs, 1.0, softcap, CAP)
    if CAP or ALLOWED:
        g = tl.where(may, g, 0.0)
    return g
