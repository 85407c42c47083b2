"""A gradient times a factor."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from nll.kernels.triton.tiles import launch


@triton.jit
def rescale_kernel(gradient, factor, result, count, COPY: tl.constexpr, BLOCK: tl.constexpr):
    """The gradient times a factor, in float32; into its own memory unless that is 1."""
    by = tl.load(factor).to(tl.float32)
    if COPY or by != 1.0:
        at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        g = tl.load(gradient + at, at < count, other=0.0).to(tl.float32)
        tl.store(result + at, (g * by).to(result.dtype.element_ty), at < count)


def rescale(gradient: Tensor, factor: Tensor, result: Tensor) -> None:
    """Fill `result`, of the layout of a contiguous gradient, or the gradient itself, whose rows may
    be apart: what lies between them is multiplied too.
    """
    size, stride = gradient.shape, gradient.stride()
    count = 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    launch(
        rescale_kernel,
        -(-count // 4096),
        gradient.device,
        gradient,
        factor,
        result,
        count,
        COPY=result is not gradient,
        BLOCK=4096,
    )
