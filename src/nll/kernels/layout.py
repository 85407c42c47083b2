"""How a tensor of logits lies in memory: (outer, classes, inner), each with a size and a stride."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nll._torch import resolved


def class_dim(input: Tensor) -> int:
    """Return the dimension of the classes: the first of (C), the second of (N, C, ...)."""
    return 0 if input.dim() == 1 else 1


def rows_shape(input: Tensor) -> torch.Size:
    dim = class_dim(input)
    return input.shape[:dim] + input.shape[dim + 1 :]


def outer_class_inner(input: Tensor, dim: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return sizes and strides, the dimensions before `dim` and those after it each merged."""
    size, stride = input.shape, input.stride()
    if len(size) == 2 and dim == 1:  # the same, sooner
        return (size[0], size[1], 1), (stride[0] if size[0] != 1 else 1, stride[1], 1)
    sizes = math.prod(size[:dim]), size[dim], math.prod(size[dim + 1 :])
    return sizes, (
        _joint_stride(size[:dim], stride[:dim]),
        stride[dim],
        _joint_stride(size[dim + 1 :], stride[dim + 1 :]),
    )


def _joint_stride(size, stride) -> int:
    """The stride of merged dimensions: that of the last one whose size is not 1."""
    return next(
        (step for n, step in zip(reversed(size), reversed(stride), strict=True) if n != 1), 1
    )


def strided(input: Tensor, dim: int = 1) -> Tensor:
    """Return the input as the kernels read it: copied if the dimensions before or after `dim`
    cannot be merged.
    """
    input = resolved(input)
    if input.dim() <= 2:
        return input
    size, stride = input.shape, input.stride()
    for group in (range(dim), range(dim + 1, input.dim())):
        expected = None
        for d in reversed(group):
            if size[d] == 1:
                continue
            if expected is not None and stride[d] != expected:
                return input.contiguous()
            expected = stride[d] * size[d]
    return input


def class_contiguous(logits: Tensor) -> Tensor:
    """Return a block of logits (N, C) with each row's classes adjacent in memory."""
    logits = resolved(logits)
    return logits if logits.stride(1) == 1 else logits.contiguous()
