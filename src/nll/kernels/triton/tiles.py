"""Tiles of rows by classes: their sizes, and the functions of logits that all kernels share.

A tensor of logits is (outer, classes, inner); row r is the pair (r // inner, r % inner). Sums are
in float32, in an order that depends on the shape alone: no atomics, the same bits each time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy
import torch
import triton
import triton.language as tl
from torch import Tensor

from nll.kernels.layout import outer_class_inner

# The most logits in a tile that is a whole row, a part of one, or several rows. A thread has 32 of
# a whole row, 16 of a part, 8 of several rows, whose other numbers it holds too: with every option
# more do not fit the registers.
WHOLE, TILE, BUNDLE = 8192, 4096, 512


class Tile(NamedTuple):
    """The sizes of a tile and its number of warps; `whole` if it has all the classes."""

    rows: int
    classes: int
    warps: int
    whole: bool


def tile(classes: int, inner: int) -> Tile:
    """Return the tile: long rows one at a time, whole if they fit; short rows together; rows that
    are interleaved in memory in bundles.

    The number of rows does not matter, so a row's sums are the same in any batch.
    """
    wide = triton.next_power_of_2(max(classes, 1))
    if inner > 1:
        at_once = 32
        across = min(wide, BUNDLE // at_once)
    else:
        across = wide if wide <= WHOLE else TILE
        at_once = max(1, BUNDLE // across)
    each = 8 if at_once > 1 else 32 if across >= classes else 16
    return Tile(at_once, across, max(at_once * across // (32 * each), 1), across >= classes)


class Layout(NamedTuple):
    """The number of rows, and the sizes and strides of (outer, classes, inner)."""

    rows: int
    classes: int
    inner: int
    outer_stride: int
    class_stride: int
    inner_stride: int


def layout(input: Tensor, dim: int) -> Layout:
    (outer, classes, inner), strides = outer_class_inner(input, dim)
    return Layout(outer * inner, classes, inner, *strides)


def on(device: torch.device) -> Any:
    """Launch on this device; on a CPU, silence the warnings of the interpreter's NumPy about
    infinities.
    """
    return numpy.errstate(all="ignore") if device.type == "cpu" else torch.cuda.device(device)


@triton.jit
def offsets(row, inner, outer_stride, inner_stride):
    """Where rows begin: divided in 32 bits, enough to count rows, and multiplied in 64."""
    return (row // inner).to(tl.int64) * outer_stride + (row % inner).to(tl.int64) * inner_stride


@triton.jit
def hyperbolic_tangent(x):
    """tanh(x); near 0 its odd series, where the difference would cancel."""
    size = tl.abs(x)
    e = tl.exp(-2.0 * size)
    far = (1.0 - e) / (1.0 + e)
    q = size * size
    near = q * (-1382.0 / 155925.0) + 62.0 / 2835.0
    near = near * q - 17.0 / 315.0
    near = near * q + 2.0 / 15.0
    near = near * q - 1.0 / 3.0
    near = size + size * q * near
    t = tl.where(size < 0.25, near, far)
    return tl.where(x < 0.0, -t, t)


@triton.jit
def scaled(x, inverse_temperature, softcap, CAP: tl.constexpr):
    """z = softcap tanh(x / softcap) / temperature, in float32."""
    z = x.to(tl.float32)
    if CAP:
        z = softcap * hyperbolic_tangent(z / softcap)
    return z * inverse_temperature


@triton.jit
def derivative(x, inverse_temperature, softcap, CAP: tl.constexpr):
    """dz/dx = (1 - tanh(x / softcap)^2) / temperature."""
    if CAP:
        t = hyperbolic_tangent(x.to(tl.float32) / softcap)
        d = 1.0 - t * t
    else:
        d = tl.full(x.shape, 1.0, tl.float32)
    return d * inverse_temperature


@triton.jit
def add_exponentials(top, total, z):
    """Update each row's largest logit and sum exp(z - largest) by a tile; the sum of a row of -inf
    is 0.
    """
    higher = tl.maximum(top, tl.max(z, 1))
    shift = tl.where(higher == float("-inf"), 0.0, higher)
    total = total * tl.exp(top - shift) + tl.sum(tl.exp(z - shift[:, None]), 1)
    return higher, total
