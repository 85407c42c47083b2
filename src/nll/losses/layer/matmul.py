"""The logits of a linear layer, one block of rows at a time, and the matrix products that turn
gradients with respect to them into gradients with respect to the layer.

With g the gradient with respect to a block's logits x W' + b, dx = g W, dW = g' x summed over the
blocks, db = sum g.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nll import _torch
from nll.losses import dispatch
from nll.losses.layer.block_sizes import HALF, SLAB, Plan, sum_dtype
from nll.losses.rowwise import blocks

Wanted = tuple[bool, bool, bool]  # the gradients with respect to input, head and bias
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
NOTHING: Wanted = (False, False, False)

_CONVERTED = 1 << 16  # numbers in a half type that PyTorch copies in float32 to add them to a sum


def kept_blocks(target: Tensor, ignore_index: int, step: int):
    """Return blocks of the rows that are not ignored: ignored rows are not multiplied."""
    if target.dim() == 1 and _torch.readable(target):
        kept = target != ignore_index
        if not bool(kept.all()):
            return kept.nonzero().flatten().split(step) if bool(kept.any()) else ()
    return blocks(len(target), step) if len(target) else ()


def mask_of(allowed: Tensor | None, rows: slice | Tensor) -> Tensor | None:
    """Return the mask of allowed classes, (C) or (N, C), of some rows."""
    return allowed if allowed is None or allowed.dim() == 1 else allowed[rows]


# ---- The products of one block -------------------------------------------------------------------


class Products:
    """z = x W' + b of a block, and what its gradient adds to those of x, W and b."""

    def __init__(
        self, input: Tensor, head: Tensor, bias: Tensor | None, plan: Plan, wanted: Wanted
    ) -> None:
        self.head, self.bias, self.plan = head, bias, plan
        self.slabs = list(blocks(len(head), plan.classes))
        of_input, of_head, of_bias = wanted
        total, device = sum_dtype(head), head.device
        self.of_input = (
            torch.zeros(input.shape, dtype=plan.logits, device=device) if of_input else None
        )
        self.of_head = dispatch.empty(head.shape, total, device) if of_head else None
        self.of_bias = torch.zeros(len(head), dtype=total, device=device) if of_bias else None
        self.block = dispatch.empty((plan.rows, len(head)), plan.logits, device)
        self.converted_head, self.converted_block, self.term = None, None, None
        if plan.dtype is not head.dtype:
            shape = plan.classes, head.shape[1]
            self.converted_head = dispatch.empty(shape, plan.dtype, device)
        if plan.dtype is not plan.logits:
            self.converted_block = dispatch.empty((plan.rows * plan.classes,), plan.dtype, device)
        self.started = 0  # then 1: the first block overwrites the head's gradient
        self.dtype = plan.logits

    def _head(self, slab: slice) -> Tensor:
        head = self.head[slab]
        converted = self.converted_head
        return head if converted is None else converted[: len(head)].copy_(head)

    def _converted(self, columns: Tensor) -> Tensor:
        """Memory of a slab's logits in the type of the operands."""
        memory = self.converted_block
        return columns if memory is None else memory[: columns.numel()].view(columns.shape)

    def logits(self, x: Tensor, rows: slice | Tensor) -> Tensor:
        """Return the logits of a block, to be overwritten with their gradient."""
        z = self.block[: len(x)]
        x = x.to(self.plan.dtype)
        for slab in self.slabs:
            head, out = self._head(slab).t(), z[:, slab]
            product = self._converted(out)
            if self.bias is None:
                torch.mm(x, head, out=product)
            else:
                torch.addmm(self.bias[slab].to(product.dtype), x, head, out=product)
            if self.converted_block is not None:
                out.copy_(product)
        return z

    def add(self, rows: slice | Tensor, x: Tensor, g: Tensor) -> None:
        """Add the gradients of a block: rows `rows` of the input, with values x; g is the gradient
        with respect to their logits.
        """
        if self.of_bias is not None:
            self.of_bias += g.sum(0, dtype=self.of_bias.dtype)
        x, of_input = x.to(self.plan.dtype), None
        for slab in self.slabs:
            columns = g[:, slab]
            if self.converted_block is not None:
                columns = self._converted(columns).copy_(columns)
            if self.of_input is not None:
                head = self._head(slab)
                of_input = columns @ head if of_input is None else of_input.addmm_(columns, head)
            if self.of_head is not None:
                self.add_to_head(slab, columns.t(), x)
        if of_input is not None:
            self.of_input[rows] = of_input.to(g.dtype)  # type: ignore[index]
        self.started = 1

    def add_to_head(self, slab: slice, a: Tensor, b: Tensor) -> None:
        total = self.of_head[slab]  # type: ignore[index]
        if total.dtype is a.dtype:
            total.addmm_(a, b, beta=self.started)
            return
        if adds_in_float32(a.device, a.dtype):
            torch.addmm(total, a, b, out_dtype=total.dtype, beta=self.started, out=total)
            return
        for rows in blocks(len(a), self.plan.piece):
            a_piece, piece = a[rows], total[rows]
            term = torch.mm(a_piece, b, out=self._term(a_piece))
            if not self.started:
                piece.copy_(term)
                continue
            for few in blocks(len(term), max(1, _CONVERTED // term.shape[1])):
                piece[few].add_(term[few])  # through a copy of the term in float32

    def _term(self, a: Tensor) -> Tensor:
        """Memory of a product in a half type that is added to the float32 sum."""
        if self.term is None:
            shape = min(self.plan.piece, self.plan.classes), self.head.shape[1]
            self.term = dispatch.empty(shape, a.dtype, a.device)
        return self.term[: len(a)]

    @property
    def gradients(self) -> Gradients:
        if self.started == 0 and self.of_head is not None:  # no row at all
            self.of_head.zero_()
        return self.of_input, self.of_head, self.of_bias


class _Float16Products(Products):
    """Products of float16 operands on an accelerator; their results, and the gradient with respect
    to logits, in float32.

    Each row of the gradient is divided by its largest element before it goes into float16, so the
    loss scale and row weights cost no digits.
    """

    def logits(self, x: Tensor, rows: slice | Tensor) -> Tensor:
        z = self.block[: len(x)].copy_(_in_float32(x, self.head.t()))
        return z if self.bias is None else z.add_(self.bias)

    def add(self, rows: slice | Tensor, x: Tensor, g: Tensor) -> None:
        if self.of_bias is not None:
            self.of_bias += g.sum(0)
        size = g.abs().amax(1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny)
        g = (g / size).to(torch.float16)
        if self.of_input is not None:
            self.of_input[rows] = _in_float32(g, self.head) * size
        if self.of_head is not None:
            largest = size.amax()
            x = (x * (size / largest)).to(torch.float16)
            for slab in blocks(len(self.head), max(64, SLAB // (x.shape[1] + 1))):
                term = _in_float32(g[:, slab].t(), x) * largest
                self.of_head[slab] = term if self.started == 0 else term + self.of_head[slab]
        self.started = 1


class _Logits:
    """Logits supplied by the caller, in place of a layer's products."""

    def __init__(self, input: Tensor, wanted: bool) -> None:
        self.gradient = dispatch.empty(input.shape, input.dtype, input.device) if wanted else None
        self.filled = False  # whether every row is written, or 0
        self.dtype = input.dtype

    def logits(self, z: Tensor, rows: slice | Tensor) -> Tensor:
        """Return logits that may be overwritten: neighbours where their gradient goes."""
        if self.gradient is None:
            return z
        if isinstance(rows, slice):  # and so are all others
            self.filled = True
            return self.gradient[rows].copy_(z)
        self._fill()
        return z.clone(memory_format=torch.contiguous_format)

    def _fill(self) -> None:
        if self.gradient is not None and not self.filled:
            self.gradient.zero_()
            self.filled = True

    def add(self, rows: slice | Tensor, z: Tensor, g: Tensor) -> None:
        assert self.gradient is not None
        if not isinstance(rows, slice) or self.gradient[rows].data_ptr() != g.data_ptr():
            self.gradient[rows] = g

    @property
    def gradients(self) -> Gradients:
        self._fill()
        return self.gradient, None, None


def products_of(
    input: Tensor, head: Tensor | None, bias: Tensor | None, plan: Plan, wanted: Wanted
) -> Products | _Logits:
    """Return the products of a layer; without a head, the input is logits."""
    if head is None:
        return _Logits(input, wanted[0])
    kind = _Float16Products if plan.dtype is torch.float16 else Products
    return kind(input, head, bias, plan, wanted)


@cache
def adds_in_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether PyTorch adds the unrounded product of half-type matrices to float32."""
    if device.type != "cuda":
        return False
    total, a = (torch.zeros(16, 16, dtype=t, device=device) for t in (torch.float32, dtype))
    try:
        torch.addmm(total, a, a, out_dtype=total.dtype, out=total)
    except (RuntimeError, TypeError):  # this version or this device cannot
        return False
    return True


def _in_float32(a: Tensor, b: Tensor) -> Tensor:
    if adds_in_float32(a.device, a.dtype):
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


# ---- The whole layer -----------------------------------------------------------------------------


def linear(x: Tensor, head: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return a layer's logits by operators that autograd knows, float16 in float32; without a head,
    x.
    """
    if head is None:
        return x
    if x.dtype is torch.float16:
        x, head, bias = x.float(), head.float(), None if bias is None else bias.float()
    return F.linear(x, head, bias)


def autocast(*tensors: Any) -> tuple[Any, ...]:
    """Return the arguments of a linear layer as autocast converts them."""
    devices = {tensor.device.type for tensor in tensors if isinstance(tensor, Tensor)}
    dtype = _torch.autocast_dtype(next(iter(devices))) if len(devices) == 1 else None
    if dtype is None:
        return tensors
    cast = (torch.float32, *HALF)
    return tuple(t.to(dtype) if isinstance(t, Tensor) and t.dtype in cast else t for t in tensors)
