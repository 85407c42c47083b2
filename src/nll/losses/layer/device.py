"""A linear layer's loss by kernels that find a block's rows themselves, on an accelerator: one
launch for each block beside its three products, which write and add where their results belong.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nll.losses.layer.block_sizes import Plan, sum_dtype
from nll.losses.layer.matmul import Gradients, Wanted, adds_in_float32


def value(
    x: Tensor, head: Tensor, bias: Tensor | None, rows: Any, plan: Plan, wanted: Wanted
) -> Gradients:
    """Compute the losses of the rows; return the wanted gradients of the reduced loss."""
    of_input = torch.empty_like(x) if wanted[0] else None
    of_head = head.new_empty(head.shape, dtype=sum_dtype(head)) if wanted[1] else None
    of_bias = head.new_zeros(len(head), dtype=sum_dtype(head)) if wanted[2] else None
    block, transposed = x.new_empty(plan.rows, len(head)), head.t()
    for start in range(0, len(x), plan.rows):
        size = min(plan.rows, len(x) - start)
        xs = x if size == len(x) else x.narrow(0, start, size)
        z = block if size == plan.rows else block.narrow(0, 0, size)
        if bias is None:
            torch.mm(xs, transposed, out=z)
        else:
            torch.addmm(bias, xs, transposed, out=z)
        rows.add(z, start, any(wanted))
        if of_input is not None:
            out = of_input if size == len(x) else of_input.narrow(0, start, size)
            torch.mm(z, head, out=out)
        if of_head is not None:
            add_product(of_head, z.t(), xs, add=start > 0)
        if of_bias is not None:
            of_bias += z.sum(0, dtype=of_bias.dtype)
    return of_input, of_head, of_bias


def add_product(total: Tensor, a: Tensor, b: Tensor, add: bool) -> None:
    """Add a product to a sum, in the sum's type, or overwrite the sum."""
    if total.dtype is a.dtype:
        torch.addmm(total, a, b, beta=int(add), out=total)
    elif adds_in_float32(a.device, a.dtype):
        torch.addmm(total, a, b, out_dtype=total.dtype, beta=int(add), out=total)
    elif add:
        total += a @ b
    else:
        total.copy_(a @ b)
