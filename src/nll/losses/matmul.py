"""The scores of a linear layer, a block of rows at a time, and the products that make gradients of
theirs.

With g the gradient by a block's scores x W' + b, dx = g W, dW = g' x summed over the blocks, db =
sum g.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nll import _torch
from nll.losses import dispatch
from nll.losses.rowwise import blocks

HALF = (torch.float16, torch.bfloat16)
Wanted = tuple[bool, bool, bool]  # the gradients by input, head and bias
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
NOTHING: Wanted = (False, False, False)


# ---- How much at once ----------------------------------------------------------------------------

# Scores that are there at once by default. More make the products faster, which read the head once
# for each block: with 50 000 classes these are 180 rows. Measured in docs/memory.md. An accelerator
# takes longer to read the head, and the float32 sum of its gradient, than to multiply so few rows.
SCORES, SCORES_OF_ACCELERATOR = 10_000_000, 1 << 28


def default_scores(input: Tensor) -> int:
    """How many scores may be there at once on the input's device."""
    return SCORES if input.device.type in ("cpu", "meta") else SCORES_OF_ACCELERATOR


class Plan(NamedTuple):
    """Blocks of rows, the product of each in slabs of classes, and the memory that they take."""

    rows: int
    classes: int
    dtype: torch.dtype  # that is multiplied in
    scores: torch.dtype  # of a block's scores, and of the gradient by them
    bytes: int  # besides the arguments, the gradients and float32 sums of them


def plan(input: Tensor, head: Tensor | None, max_memory: int | None) -> Plan:
    """Fill a budget of memory: the scores of a block, and what its products need; at least one row
    at a time.

    Without a head the input is scores.
    """
    size = input.element_size()
    budget = default_scores(input) * size if max_memory is None else max_memory
    if head is None:
        by_row = max(1, input.shape[1] * size)
        rows = max(1, min(len(input), budget // by_row))
        return Plan(rows, input.shape[1], input.dtype, input.dtype, rows * by_row)
    classes, features = head.shape
    dtype, scores, slab, fixed = input.dtype, scores_in(input), classes, 0
    by_row = classes * scores.itemsize + 2 * features * size
    if input.dtype in HALF and not _multiplies(input):
        dtype = torch.float32
        slab = min(classes, max(64, min(budget // 24, _SLAB) // (features + 1)))
        fixed = 8 * slab * features  # converted, and laid out anew
        by_row += 8 * features + (4 * slab if scores is not dtype else 0)
    elif input.dtype is torch.float16:
        by_row += classes * size  # the gradient in the type that is multiplied in
    elif input.device.type == "cpu" and input.dtype not in HALF:
        slab = min(classes, max(64, min(budget // 8, _SLAB) // (features + 1)))
        fixed = size * slab * features  # the library lays it out anew
    rows = max(1, min(len(input), (budget - fixed) // max(by_row, 1)))
    return Plan(rows, slab, dtype, scores, fixed + rows * by_row)


def scores_in(input: Tensor) -> torch.dtype:
    """The type of a block's scores; the gradient by them would lose in float16 what the loss is yet
    multiplied by.
    """
    return torch.float32 if input.dtype is torch.float16 else input.dtype


# Numbers of the head that are multiplied at once. What the library for matrix products keeps for
# itself grows with them; its speed does not.
_SLAB = 1 << 20


def _multiplies(input: Tensor) -> bool:
    """Whether the machine multiplies matrices of a half type faster than float32; on processors AMX
    does.
    """
    if input.device.type != "cpu":
        return True
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return input.dtype is torch.bfloat16 and supported is not None and supported()


# ---- The products of one block -------------------------------------------------------------------


class Products:
    """z = x W' + b of a block, and what its gradient adds to those of x, W and b."""

    def __init__(
        self, input: Tensor, head: Tensor, bias: Tensor | None, plan: Plan, wanted: Wanted
    ) -> None:
        self.head, self.bias, self.plan = head, bias, plan
        self.slabs = list(blocks(len(head), plan.classes))
        of_input, of_head, of_bias = wanted
        total, device = summed_in(head), head.device
        self.of_input = (
            torch.zeros(input.shape, dtype=plan.scores, device=device) if of_input else None
        )
        self.of_head = dispatch.empty(head.shape, total, device) if of_head else None
        self.of_bias = torch.zeros(len(head), dtype=total, device=device) if of_bias else None
        self.block = dispatch.empty((plan.rows, len(head)), plan.scores, device)
        self.converted, self.part = None, None
        if plan.dtype is not head.dtype:
            self.converted = dispatch.empty((plan.classes, head.shape[1]), plan.dtype, device)
        if plan.dtype is not plan.scores:
            self.part = dispatch.empty((plan.rows * plan.classes,), plan.dtype, device)
        self.begun = 0  # then 1: the first block overwrites the head's gradient
        self.scores_type = plan.scores

    def _head(self, slab: slice) -> Tensor:
        head = self.head[slab]
        return head if self.converted is None else self.converted[: len(head)].copy_(head)

    def scores(self, x: Tensor) -> Tensor:
        """The scores of a block, to be overwritten with the gradient by them."""
        z = self.block[: len(x)]
        x = x.to(self.plan.dtype)
        for slab in self.slabs:
            head, out = self._head(slab).t(), z[:, slab]
            product = out if self.part is None else self.part[: out.numel()].view(out.shape)
            bias = None if self.bias is None else self.bias[slab].to(product.dtype)
            if bias is None:
                torch.mm(x, head, out=product)
            else:
                torch.addmm(bias, x, head, out=product)
            if self.part is not None:
                out.copy_(product)
        return z

    def add(self, rows: slice | Tensor, x: Tensor, g: Tensor) -> None:
        """Add what a block gives: `rows` of the input have the values x; g is the gradient by their
        scores.
        """
        if self.of_bias is not None:
            self.of_bias += g.sum(0, dtype=self.of_bias.dtype)
        x, of_input = x.to(self.plan.dtype), None
        for slab in self.slabs:
            part = g[:, slab]
            if self.part is not None:
                part = self.part[: part.numel()].view(part.shape).copy_(part)
            if self.of_input is not None:
                head = self._head(slab)
                of_input = part @ head if of_input is None else of_input.addmm_(part, head)
            if self.of_head is not None:
                self._add_to_head(slab, part.t(), x)
        if of_input is not None:
            self.of_input[rows] = of_input.to(g.dtype)  # type: ignore[index]
        self.begun = 1

    def _add_to_head(self, slab: slice, a: Tensor, b: Tensor) -> None:
        total = self.of_head[slab]  # type: ignore[index]
        if total.dtype is a.dtype:
            total.addmm_(a, b, beta=self.begun)
            return
        if _adds_in_float32(a.device, a.dtype):
            torch.addmm(total, a, b, out_dtype=total.dtype, beta=self.begun, out=total)
            return
        for some in blocks(len(a), max(64, _SLAB // (b.shape[1] + 1))):
            total[some] = a[some] @ b if self.begun == 0 else total[some] + a[some] @ b

    @property
    def gradients(self) -> Gradients:
        if self.begun == 0 and self.of_head is not None:  # no row at all
            self.of_head.zero_()
        return self.of_input, self.of_head, self.of_bias


@cache
def _adds_in_float32(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether PyTorch multiplies matrices of a half type and adds the product, unrounded, to one of
    float32.
    """
    if device.type != "cuda":
        return False
    total, a = (torch.zeros(16, 16, dtype=t, device=device) for t in (torch.float32, dtype))
    try:
        torch.addmm(total, a, a, out_dtype=total.dtype, out=total)
    except (RuntimeError, TypeError):  # a version without, or a device without
        return False
    return True


class _Float16Products(Products):
    """Products of float16 as they are, on an accelerator; their results, and the gradient by
    scores, in float32.

    The gradient goes into float16 as shares of each row's largest number: what the loss is
    multiplied by, in all or in a row, then costs it nothing.
    """

    def scores(self, x: Tensor) -> Tensor:
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
            for some in blocks(len(self.head), max(64, _SLAB // (x.shape[1] + 1))):
                part = _in_float32(g[:, some].t(), x) * largest
                self.of_head[some] = part if self.begun == 0 else part + self.of_head[some]
        self.begun = 1


def _in_float32(a: Tensor, b: Tensor) -> Tensor:
    if _adds_in_float32(a.device, a.dtype):
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


class _Given:
    """Scores that are there already, in the place of a layer's products."""

    def __init__(self, input: Tensor, wanted: bool) -> None:
        self.gradient = (
            torch.zeros_like(input, memory_format=torch.contiguous_format) if wanted else None
        )
        self.scores_type = input.dtype

    def scores(self, z: Tensor) -> Tensor:
        """Scores that may be overwritten, if a gradient is wanted."""
        return z if self.gradient is None else z.clone(memory_format=torch.contiguous_format)

    def add(self, rows: slice | Tensor, z: Tensor, g: Tensor) -> None:
        self.gradient[rows] = g  # type: ignore[index]

    @property
    def gradients(self) -> Gradients:
        return self.gradient, None, None


def products_of(
    input: Tensor, head: Tensor | None, bias: Tensor | None, plan: Plan, wanted: Wanted
) -> Products | _Given:
    """The products of a layer; without a head, of scores."""
    if head is None:
        return _Given(input, wanted[0])
    kind = _Float16Products if plan.dtype is torch.float16 else Products
    return kind(input, head, bias, plan, wanted)


def kept_blocks(target: Tensor, ignore_index: int, step: int):
    """Blocks of the rows that are not ignored: ignored rows are not multiplied."""
    if target.dim() == 1 and _torch.readable(target):
        kept = target != ignore_index
        if not bool(kept.all()):
            return kept.nonzero().flatten().split(step) if bool(kept.any()) else ()
    return blocks(len(target), step) if len(target) else ()


def summed_in(input: Tensor) -> torch.dtype:
    return torch.promote_types(input.dtype, torch.float32)


def rows_by_definition(input: Tensor, classes: int, max_memory: int | None) -> tuple[int, int]:
    """A block's rows, and the bytes they take: derivatives keep many tensors of the scores' size at
    once.

    The default grows with the head, several of whose gradients are there too.
    """
    size, features = max(4, input.element_size()), input.shape[1]
    by_row = _KEPT * size * (classes + features)
    budget = (
        max(default_scores(input), 2 * classes * features) * size
        if max_memory is None
        else max_memory
    )
    rows = max(1, min(input.shape[0], budget // max(by_row, 1)))
    return rows, rows * by_row


def linear(x: Tensor, head: Tensor | None, bias: Tensor | None) -> Tensor:
    """The scores of a layer by operators that autograd knows, float16 in float32; without a head,
    x.
    """
    if head is None:
        return x
    if x.dtype is torch.float16:
        x, head, bias = x.float(), head.float(), None if bias is None else bias.float()
    return F.linear(x, head, bias)


_KEPT = 20  # tensors of a block that a derivative holds, with every option of the loss


def autocast(*tensors: Any) -> tuple[Any, ...]:
    """What autocast makes of the arguments of a linear layer."""
    kinds = {tensor.device.type for tensor in tensors if isinstance(tensor, Tensor)}
    dtype = _torch.autocast_dtype(next(iter(kinds))) if len(kinds) == 1 else None
    if dtype is None:
        return tensors
    cast = (torch.float32, *HALF)
    return tuple(t.to(dtype) if isinstance(t, Tensor) and t.dtype in cast else t for t in tensors)
