"""Compiled row loops for processors, on PyTorch's tensors.

Shapes as in `reference.py`. Nothing here knows of autograd; `_autograd.py` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from nll._torch import resolved
from nll.kernels import memory
from nll.kernels.layout import outer_class_inner, strided
from nll.kernels.reference import Options, RowStatistics, RowSums, class_dim, nll_loss, rows_shape

try:
    _cpu: Any = import_module("nll.kernels._cpu")
    MISSING = None
except ImportError as error:
    MISSING = (
        f"the compiled library is not there ({error}); installing with a C++ compiler at "
        f"hand builds it"
    )

_TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_FORWARD, _GRADIENT, _BACKWARD = 0, 1, 2
_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


def instruction_set() -> str:
    """The instruction set that was chosen for this machine."""
    return _cpu.isa


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type that is summed in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,  # multiplies the rows, and counts in "mean"
    options: Options,
    with_gradient: bool,  # for an upstream gradient of 1; not of reduction "none"
) -> tuple[Tensor, RowSums, Tensor | None]:
    """The reduced loss, and each row's sums; in the same pass over the scores, if asked, the
    gradient.

    Raises IndexError for a label out of range.
    """
    input = strided(input)
    shape, dtype = rows_shape(input), accumulator(input.dtype)
    rows, *sums = (torch.empty(shape, dtype=dtype, device="cpu") for _ in range(3))
    sums = RowSums(*sums)
    loss = rows if options.reduction == "none" else torch.empty((), dtype=dtype, device="cpu")
    gradient = empty_like(input) if with_gradient else None
    mode = _GRADIENT if with_gradient else _FORWARD
    _run(input, target, weight, row_factor, options, mode, gradient, False, 1.0, loss, rows, sums)
    return loss, sums, gradient


def rescaled(gradient: Tensor, factor: Tensor) -> Tensor:
    """A stored gradient times a factor, in float32 or better; in place."""
    number = factor.item()
    return gradient if number == 1.0 else gradient.mul_(number)


def cross_entropy_block(
    scores: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,
    options: Options,  # of reduction "sum"
    with_gradient: bool,
) -> Tensor:
    """The rows' losses times their factors; the gradient of their sum, if asked for, overwrites the
    scores.
    """
    rows, shift, total = torch.empty(3, len(scores), dtype=accumulator(scores.dtype), device="cpu")
    mode, loss = (
        _GRADIENT if with_gradient else _FORWARD,
        torch.empty((), dtype=rows.dtype, device="cpu"),
    )
    gradient = scores if with_gradient else None
    sums = RowSums(shift, total)
    _run(
        scores,
        target,
        weight,
        row_factor,
        options,
        mode,
        gradient,
        with_gradient,
        1.0,
        loss,
        rows,
        sums,
    )
    return rows


def cross_entropy_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,
    options: Options,
    sums: RowSums,
    upstream: Tensor | None,
    in_place: bool,
) -> Tensor:
    """`upstream` times the gradient, from the sums of the forward pass; in the memory of the scores
    if asked.
    """
    scores = strided(input)
    here = in_place and scores is input
    gradient = input.detach() if here else empty_like(input)
    factor = 1.0 if upstream is None else upstream.item()
    _run(
        scores,
        target,
        weight,
        row_factor,
        options,
        _BACKWARD,
        gradient,
        here,
        factor,
        None,
        None,
        sums,
    )
    if not in_place:
        return gradient
    if here:
        torch.autograd.graph.increment_version(input)
        return gradient
    return input.detach().copy_(gradient)


def statistics_block(
    scores: Tensor, label: Tensor, temperature: float, softcap: float | None, entropy: bool
) -> RowStatistics:
    """As `reference.statistics_block`; the entropy costs nothing, and is there without being asked
    for.
    """
    scores = resolved(scores)
    scores = scores if scores.stride(1) == 1 else scores.contiguous()
    log_prob, lse, h, *sums = torch.empty(
        5, len(scores), dtype=accumulator(scores.dtype), device="cpu"
    )
    rank = torch.empty_like(label, memory_format=torch.contiguous_format)
    found = RowStatistics(log_prob, lse, h, rank, *sums)
    _statistics(scores, None, label, temperature, softcap, found, (None, None, None))
    return found


def statistics_block_backward(
    scores: Tensor,
    label: Tensor,
    temperature: float,
    softcap: float | None,
    found: RowStatistics,
    slopes: tuple[Tensor, ...],
) -> None:
    """As `reference.statistics_block_backward`; the scores are contiguous."""
    by_log_prob, by_lse, *by_entropy = slopes
    zero = torch.zeros_like(found.shift)
    if found.entropy is None:
        found = found._replace(entropy=zero)
    found = RowStatistics(*(tensor.contiguous() for tensor in found))  # type: ignore[union-attr]
    by = by_log_prob, by_lse, by_entropy[0] if by_entropy else zero
    _statistics(scores, scores, label, temperature, softcap, found, by)


def _statistics(scores, gradient, label, temperature, softcap, found, slopes) -> None:
    label = label.contiguous()
    slopes = [None if slope is None else resolved(slope).contiguous() for slope in slopes]
    _cpu.statistics(
        scores.data_ptr(),
        _TYPES[scores.dtype],
        *scores.shape,
        scores.stride(0),
        _address(gradient),
        label.data_ptr(),
        1.0 / temperature,
        softcap or 0.0,
        found.log_prob.data_ptr(),
        found.lse.data_ptr(),
        found.entropy.data_ptr(),
        found.shift.data_ptr(),
        found.log_sum.data_ptr(),
        found.rank.data_ptr(),
        *map(_address, slopes),
        torch.get_num_threads(),
    )


def softmax_sums(*arguments: Any) -> None:
    """The sums of a softmax regression, as `kernels/softmax_sums.py` calls for them, by
    addresses.
    """
    _cpu.softmax_sums(*arguments)


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


pick = nll_loss  # one number of each row: PyTorch's own operator will do


def pick_backward(slope: Tensor, target: Tensor, like: Tensor, ignore_index: int) -> Tensor:
    """The gradient of -log p of each row's label: -slope there, and 0 elsewhere."""
    out = empty_like(like)
    _cpu.zero(out.data_ptr(), out.numel() * out.element_size(), torch.get_num_threads())
    kept = target != ignore_index
    dim = 0 if like.dim() == 1 else 1
    value = (-slope).masked_fill(~kept, 0.0).to(out.dtype)
    return out.scatter_(dim, target.masked_fill(~kept, 0).unsqueeze(dim), value.unsqueeze(dim))


def empty_like(input: Tensor) -> Tensor:
    """A contiguous tensor of the input's shape and type."""
    return empty(input.shape, input.dtype)


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A contiguous tensor; a large one in huge pages that the last result of its size may have
    touched.
    """
    return memory.empty(shape, dtype, _cpu.use_huge_pages)


def _run(
    input, target, weight, row_factor, options, mode, gradient, in_place, upstream, loss, rows, sums
) -> None:
    labels, probabilities = (
        (None, target) if target.shape == input.shape else (target.contiguous(), None)
    )
    # Converted tensors need a name: the library sees addresses alone.
    probabilities, weight, row_factor = (
        None if tensor is None else resolved(tensor).to(sums.shift.dtype).contiguous()
        for tensor in (probabilities, weight, row_factor)
    )
    sizes, strides = outer_class_inner(input, class_dim(input))
    wrong = _cpu.cross_entropy(
        input.data_ptr(),
        _TYPES[input.dtype],
        sizes,
        strides,
        mode,
        _address(gradient),
        in_place,
        _address(labels),
        _address(probabilities),
        _address(weight),
        _address(row_factor),
        options.ignore_index,
        options.label_smoothing,
        1.0 / options.temperature,
        options.softcap or 0.0,
        options.z_loss,
        _REDUCTIONS[options.reduction],
        upstream,
        _address(loss),
        _address(rows),
        sums.shift.data_ptr(),
        sums.total.data_ptr(),
        torch.get_num_threads(),
    )
    if wrong >= 0:
        raise IndexError(f"label out of range at row {wrong}")


def _log_softmax(input: Tensor, result: Tensor | None, out: Tensor, dim: int) -> None:
    input = strided(input, dim)
    sizes, strides = outer_class_inner(input, dim)
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
