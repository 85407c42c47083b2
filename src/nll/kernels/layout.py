"""How a tensor of scores lies in memory: (outer, classes, inner), each a size and a stride."""

from __future__ import annotations

import math

from torch import Tensor

from nll._torch import resolved


def outer_class_inner(input: Tensor, dim: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Sizes and strides with the dimensions before `dim`, and those behind it, taken as one
    each.
    """
    size, stride = input.shape, input.stride()
    sizes = math.prod(size[:dim]), size[dim], math.prod(size[dim + 1 :])
    return sizes, (
        _joint_stride(size[:dim], stride[:dim]),
        stride[dim],
        _joint_stride(size[dim + 1 :], stride[dim + 1 :]),
    )


def _joint_stride(size, stride) -> int:
    """The stride of neighbouring dimensions taken as one: that of the last which is not of size
    1.
    """
    for n, step in zip(reversed(size), reversed(stride), strict=True):
        if n != 1:
            return step
    return 1


def strided(input: Tensor, dim: int = 1) -> Tensor:
    """The input as it is read: copied if the dimensions before or behind `dim` do not follow one
    upon the other.
    """
    input = resolved(input)
    size, stride = input.shape, input.stride()
    for part in (range(dim), range(dim + 1, input.dim())):
        expected = None
        for d in reversed(part):
            if size[d] == 1:
                continue
            if expected is not None and stride[d] != expected:
                return input.contiguous()
            expected = stride[d] * size[d]
    return input
