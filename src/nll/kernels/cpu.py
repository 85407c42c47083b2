"""Compiled row loops for processors, on PyTorch's tensors.

Shapes as in `reference.py`. Nothing here knows of autograd; `_autograd.py` does.
"""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import Tensor

try:
    _cpu: Any = import_module("nll.kernels._cpu")
    MISSING = None
except ImportError as error:
    MISSING = f"the compiled library is not there ({error}); installing with a C++ compiler at hand builds it"

_TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_FORWARD, _GRADIENT, _BACKWARD = 0, 1, 2
_POOLED = 1 << 22  # bytes: a tensor that takes longer to touch for the first time than to compute


class Scoring(NamedTuple):
    """What a cross entropy is made of besides scores and targets."""

    weight: Tensor | None  # (C) in the accumulator's type
    ignore_index: int
    label_smoothing: float
    temperature: float
    softcap: float | None


class RowSums(NamedTuple):
    """What the forward pass leaves for the backward: log-sum-exp = maximum + log(total), row by row."""

    maximum: Tensor
    total: Tensor


def instruction_set() -> str:
    """The instruction set that was chosen for this machine."""
    return _cpu.isa


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type that is summed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def cross_entropy(
    input: Tensor, target: Tensor, scoring: Scoring, slope: Tensor | None, z_slope: Tensor | None
) -> tuple[Tensor, RowSums, Tensor | None]:
    """Each row's loss and sums; with slopes, in the same pass, the gradient for them.

    Raises IndexError for a label out of range.
    """
    input = _strided(input)
    shape = input.shape[:1] + input.shape[2:] if input.dim() > 1 else input.shape[:0]
    loss, maximum, total = torch.empty((3, *shape), dtype=accumulator(input.dtype)).unbind()
    gradient = None if slope is None else empty_like(input)
    _run(
        input, target, scoring, _FORWARD if slope is None else _GRADIENT, gradient, loss, maximum, total, slope, z_slope
    )
    return loss, RowSums(maximum, total), gradient


def cross_entropy_backward(
    input: Tensor, target: Tensor, scoring: Scoring, sums: RowSums, slope: Tensor, z_slope: Tensor | None
) -> Tensor:
    """The gradient of sum_i slope_i loss_i + z_slope_i lse_i^2, from the sums of the forward pass."""
    input = _strided(input)
    gradient = empty_like(input)
    _run(input, target, scoring, _BACKWARD, gradient, None, sums.maximum, sums.total, slope, z_slope)
    return gradient


def log_softmax(input: Tensor, dim: int) -> Tensor:
    """x - log sum exp x along a dimension; the result is contiguous."""
    out = empty_like(input)
    _log_softmax(input, None, out, dim)
    return out


def log_softmax_backward(gradient: Tensor, result: Tensor, dim: int) -> Tensor:
    """g - exp(y) sum g, for the contiguous result y."""
    out = empty_like(gradient)
    _log_softmax(gradient, result, out, dim)
    return out


def pick_backward(slope: Tensor, target: Tensor, like: Tensor, ignore_index: int) -> Tensor:
    """The gradient of -log p of each row's label: -slope there, and 0 elsewhere."""
    out = empty_like(like)
    _cpu.zero(out.data_ptr(), out.numel() * out.element_size(), torch.get_num_threads())
    kept = target != ignore_index
    dim = 0 if like.dim() == 1 else 1
    value = torch.where(kept, -slope, 0.0).to(out.dtype)
    return out.scatter_(dim, torch.where(kept, target, 0).unsqueeze(dim), value.unsqueeze(dim))


def empty_like(input: Tensor) -> Tensor:
    """A contiguous tensor of the input's shape; a large one in huge pages that the last gradient may have touched."""
    size = input.numel() * input.element_size()
    if size < _POOLED:
        return torch.empty(input.shape, dtype=input.dtype)
    return torch.frombuffer(_cpu.Block(size), dtype=input.dtype, count=input.numel()).view(input.shape)


def _run(input, target, scoring, mode, gradient, loss, maximum, total, slope, z_slope) -> None:
    labels, probabilities = (None, target) if target.shape == input.shape else (target.contiguous(), None)
    if probabilities is not None:
        probabilities = probabilities.to(maximum.dtype).contiguous()
    slope = None if slope is None else slope.to(maximum.dtype).contiguous()
    z_slope = None if z_slope is None else z_slope.to(maximum.dtype).contiguous()
    sizes, strides = _outer_class_inner(input, 0 if input.dim() == 1 else 1)
    wrong = _cpu.cross_entropy(
        input.data_ptr(),
        _TYPES[input.dtype],
        sizes,
        strides,
        mode,
        _address(gradient),
        False,
        _address(labels),
        _address(probabilities),
        _address(scoring.weight),
        scoring.ignore_index,
        scoring.label_smoothing,
        1.0 / scoring.temperature,
        scoring.softcap or 0.0,
        _address(loss),
        maximum.data_ptr(),
        total.data_ptr(),
        _address(slope),
        _address(z_slope),
        0.0,
        0.0,
        torch.get_num_threads(),
    )
    if wrong >= 0:
        raise IndexError(f"label out of range at row {wrong}")


def _log_softmax(input: Tensor, result: Tensor | None, out: Tensor, dim: int) -> None:
    input = _strided(input, dim)
    sizes, strides = _outer_class_inner(input, dim)
    _cpu.log_softmax(
        input.data_ptr(),
        _TYPES[input.dtype],
        sizes,
        strides,
        _address(result),
        out.data_ptr(),
        torch.get_num_threads(),
    )


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _outer_class_inner(input: Tensor, dim: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Sizes and strides with the dimensions before `dim`, and those behind it, taken as one each."""
    size, stride = input.shape, input.stride()
    sizes = math.prod(size[:dim]), size[dim], math.prod(size[dim + 1 :])
    return sizes, (
        _joint_stride(size[:dim], stride[:dim]),
        stride[dim],
        _joint_stride(size[dim + 1 :], stride[dim + 1 :]),
    )


def _joint_stride(size, stride) -> int:
    """The stride of neighbouring dimensions taken as one: that of the last which is not of size 1."""
    for n, step in zip(reversed(size), reversed(stride), strict=True):
        if n != 1:
            return step
    return 1


def _strided(input: Tensor, dim: int = 1) -> Tensor:
    """The input, copied if the dimensions before or behind `dim` do not follow one upon the other."""
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
