"""Tiles of rows by classes: their sizes, how they are read, and the functions of logits that all
kernels share.

A tensor of logits is (outer, classes, inner); row r is the pair (r // inner, r % inner). Sums are
in float32, in an order that depends on the shape alone: no atomics, the same bits each time.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy
import torch
import triton
import triton.language as tl
from torch import Tensor

from nll.kernels.layout import outer_class_inner

# The most logits in a tile that is a whole row, a part of one, several rows, or rows side by side;
# with options fewer. Above them registers spill (benchmarks/offline.py).
WHOLE, TILE, BUNDLE, SIDE_BY_SIDE = 32768, 4096, 512, 4096
MOST_SIDE_BY_SIDE = 1024  # rows
LINE = 16  # bytes, the most that a thread reads at once
# From this many classes on rows are read in lines; below, the ends of a row would cost more.
IN_LINES = 256
LOG2E = tl.constexpr(math.log2(math.e))
LN2 = tl.constexpr(math.log(2.0))
# How the classes of a row lie.
STRIDED, ALIGNED, SHIFTED = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


class Tile(NamedTuple):
    """The sizes of a tile and its number of warps; `whole` if it has all the classes."""

    rows: int
    classes: int
    warps: int
    whole: bool


def tile(classes: int, inner: int, itemsize: int = 4, options: bool = True) -> Tile:
    """Return the tile: long rows one at a time, whole if they fit; short rows together; rows that
    are interleaved in memory side by side.

    The number of rows does not matter, so a row's sums are the same in any batch.
    """
    wide = triton.next_power_of_2(max(classes, 1))
    if inner > 1:
        share = 8 if options else 1
        at_once = min(triton.next_power_of_2(inner), MOST_SIDE_BY_SIDE // share)
        across = min(wide, SIDE_BY_SIDE // share // at_once)
        each = 4 if options else 32  # of a thread
    else:
        across = wide if wide <= (TILE if options else WHOLE) else TILE
        at_once = max(1, (BUNDLE // 2 if options else BUNDLE) // across)
        each = 8 if across <= 1024 else 16 if across <= 8192 else 32
        if options and across == TILE and itemsize == 4:
            each = 8
        if across == WHOLE and itemsize == 4:
            each = 64  # 32 warps leave a thread too few registers for the row and its exponentials
    warps = max(1, at_once * across // (32 * each))
    return Tile(at_once, across, warps, across >= classes)


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


def programs(x: Layout, at_once: int) -> int:
    """Return how many programs read all rows, each of one outer index."""
    if x.inner == 1:
        return -(-x.rows // at_once)
    return x.rows // x.inner * -(-x.inner // at_once)


def lines(x: Layout, address: int, itemsize: int, *others: tuple[Layout, int]) -> tuple[int, int]:
    """Return how the classes of each row lie, the same in all tensors, and how many numbers before
    the first one its line begins.
    """
    size = LINE // itemsize
    lead = address % LINE // itemsize
    if x.inner > 1 or x.class_stride != 1 or x.classes < IN_LINES:
        return STRIDED.value, 0
    for other, place in others:
        alike = (other.outer_stride - x.outer_stride) % size == 0 and (place - address) % LINE == 0
        if other.class_stride != 1 or not alike:
            return STRIDED.value, 0
    aligned = lead == 0 and x.outer_stride % size == 0 and x.classes % size == 0
    return (ALIGNED if aligned else SHIFTED).value, lead


def compiled_for(warps: int, options: bool = True, cuda: bool | None = None) -> dict[str, int]:
    """Return how a kernel is compiled: with every option of a loss it may use all registers of a
    thread, which the compiler would rather spill than take from other programs.
    """
    cuda = torch.version.hip is None if cuda is None else cuda
    if not cuda:  # twice the threads in a warp, of 1024 at most
        return {"num_warps": min(warps, 16)}
    return {"num_warps": warps} | ({"maxnreg": 255} if options and warps <= 8 else {})


def launch(kernel: Any, grid: Any, device: torch.device, *arguments: Any, **options: Any) -> None:
    """Run a kernel's programs, a number or a grid of them, on the device of its tensors."""
    grid = grid if isinstance(grid, tuple) else (grid,)
    if device.type == "cpu":
        with numpy.errstate(all="ignore"):  # the interpreter's NumPy warns of infinities
            kernel[grid](*arguments, **options)
    elif device.index == torch.cuda.current_device():
        kernel[grid](*arguments, **options)
    else:
        with torch.cuda.device(device):
            kernel[grid](*arguments, **options)


# ---- Where rows are ------------------------------------------------------------------------------


@triton.jit
def rows_of(program, rows, inner, ROWS: tl.constexpr, SIDE: tl.constexpr):
    """The rows of a program, their outer and inner index, and which there are."""
    at = tl.arange(0, ROWS)
    if SIDE:
        across = tl.cdiv(inner, ROWS)
        i = (program % across) * ROWS + at
        outer = program // across + tl.zeros_like(at)
        row = outer * inner + i
        there = i < inner
    else:
        row = program * ROWS + at
        outer = row
        i = tl.zeros_like(at)
        there = row < rows
    return row, outer, i, there


@triton.jit
def begin_of(outer, i, outer_stride, inner_stride, SIDE: tl.constexpr):
    """Where rows begin: counted in 32 bits, and multiplied in 64."""
    begin = outer.to(tl.int64) * outer_stride
    if SIDE:
        begin += i.to(tl.int64) * inner_stride
    return begin


@triton.jit
def allowed_of(allowed, begin, at, class_stride, mask, ALLOWED: tl.constexpr):
    """Which classes of a tile are allowed."""
    if ALLOWED:
        to = allowed + (begin[:, None] + at.to(tl.int64) * class_stride)
        mask = mask & (tl.load(to, mask, other=0) != 0)
    return mask


@triton.jit
def load_tile(x, begin, c, class_stride, classes, read):
    """The numbers of rows that begin at `begin`, in the classes c, and the mask of valid ones."""
    mask = read[:, None] & (c < classes)[None, :]
    to = x + begin[:, None] + c[None, :].to(tl.int64) * class_stride
    return tl.load(to, mask, other=0.0), mask


# ---- Rows in lines -------------------------------------------------------------------------------
#
# The lines that are wholly of a row are read and written 16 bytes at a time, by masks that are
# constant over each; the numbers before the first line and after the last, fewer than a line of
# each, by themselves. Nothing outside of the row is read or written.


@triton.jit
def lines_of(x, begin, lead, classes, LIE: tl.constexpr):
    """How many numbers of each row come before its first line, and how many its lines have."""
    size: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
    head = tl.zeros_like(begin)
    if LIE == SHIFTED:
        head = (size - (begin + lead) % size) % size
    count = (classes - head) // size
    return head.to(tl.int32), count.to(tl.int32) * size


@triton.jit
def body(
    x, begin, head, full, c, class_stride, classes, there, LIE: tl.constexpr, BLOCK: tl.constexpr
):
    """The addresses of a tile of lines, c numbers after their begin, its classes and its mask."""
    place = (c + tl.arange(0, BLOCK))[None, :]
    at = place + head[:, None]
    if LIE == STRIDED:
        to = x + (begin[:, None] + at.to(tl.int64) * class_stride)
        mask = there[:, None] & (at < classes)
    else:
        to = tl.multiple_of(x + (begin + head), 16)[:, None] + place  # bytes
        size: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
        mask = place < tl.multiple_of(tl.where(there, full, 0), size)[:, None]
    return to, at, mask


@triton.jit
def ends(x, begin, head, full, classes, there):
    """The addresses of the two ends of rows, their classes and the mask of them."""
    size: tl.constexpr = 128 // x.dtype.element_ty.primitive_bitwidth
    i = tl.arange(0, 2 * size)[None, :]
    at = tl.where(i < size, i, (head + full)[:, None] + i - size)
    mask = there[:, None] & tl.where(i < size, i < head[:, None], at < classes)
    return x + (begin[:, None] + at), at, mask


# ---- Functions of logits -------------------------------------------------------------------------


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
def capped(x, softcap, CAP: tl.constexpr):
    """softcap tanh(x / softcap), in float32."""
    if x.dtype == tl.bfloat16:
        y = (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        y = x.to(tl.float32)
    if CAP:
        y = softcap * hyperbolic_tangent(y / softcap)
    return y


@triton.jit
def scaled(x, inverse_temperature, softcap, CAP: tl.constexpr):
    """z = softcap tanh(x / softcap) / temperature, in float32."""
    return capped(x, softcap, CAP) * inverse_temperature


@triton.jit
def derivative(x, inverse_temperature, softcap, CAP: tl.constexpr):
    """dz/dx = (1 - tanh(x / softcap)^2) / temperature."""
    if CAP:
        t = hyperbolic_tangent(x.to(tl.float32) / softcap)
        d = 1.0 - t * t
    else:
        d = tl.full(x.shape, 1.0, tl.float32)
    return d * inverse_temperature
