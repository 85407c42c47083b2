"""Compiled row loops for CPUs, on PyTorch's tensors: `types.Kernels`, by addresses."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from nll._torch import resolved
from nll.kernels import memory
from nll.kernels.layout import class_contiguous, class_dim, outer_class_inner, rows_shape, strided
from nll.kernels.reference import nll_loss
from nll.kernels.types import Options, RowStatistics

try:
    _cpu: Any = import_module("nll.kernels._cpu")
    MISSING = None
except ImportError as error:
    MISSING = (
        f"the compiled library is missing ({error}); installing with a C++ compiler available "
        f"builds it"
    )

TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_FORWARD, _GRADIENT, _BACKWARD = 0, 1, 2
_REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}


# ---- The library ---------------------------------------------------------------------------------


def instruction_set() -> str:
    """Return the instruction set chosen at import: the best that this machine has."""
    return _cpu.isa


def instruction_sets() -> list[str]:
    """Return the instruction sets that this machine can run, the best first; none without the
    library.
    """
    return [] if MISSING else _cpu.instruction_sets()


def use_instructions(name: str) -> None:
    """Run the kernels of this process with another of the `instruction_sets`."""
    _cpu.use_instruction_set(name)


def exponential(x: Tensor) -> Tensor:
    """Return exp of contiguous float32 numbers, as the kernels compute it."""
    out = torch.empty_like(x)
    _cpu.exponential(x.data_ptr(), out.data_ptr(), x.numel())
    return out


def accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a contiguous tensor; a large one in huge pages, which an earlier result of its size
    may have touched.
    """
    return memory.empty(shape, dtype, _cpu.use_huge_pages)


def _result(like: Tensor) -> Tensor:
    """Memory for a contiguous result of a tensor's shape and type."""
    if like.numel() * like.element_size() < memory.POOLED:
        return like.new_empty(like.shape)
    return empty(like.shape, like.dtype)


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


# ---- Cross entropy -------------------------------------------------------------------------------


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,
    allowed: Tensor | None,
    options: Options,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    input = strided(input)
    shape, dtype = rows_shape(input), accumulator(input.dtype)
    new = input.new_empty  # takes half as long as torch.empty
    rows, sums = new(shape, dtype=dtype), new((2, *shape), dtype=dtype)
    loss = rows if options.reduction == "none" else new((), dtype=dtype)
    gradient = _result(input) if with_gradient else None
    mode = _GRADIENT if with_gradient else _FORWARD
    tensors = input, target, weight, row_factor, allowed
    _run(*tensors, options, mode, sums, gradient, loss=loss, rows=rows)
    return loss, sums, gradient


def rescaled(gradient: Tensor, factor: Tensor) -> Tensor:
    number = factor.item()
    return gradient if number == 1.0 else gradient.mul_(number)


def cross_entropy_block(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,
    allowed: Tensor | None,
    options: Options,
    with_gradient: bool,
) -> Tensor:
    dtype = accumulator(logits.dtype)
    shapes = (len(logits),), (2, len(logits)), ()
    rows, sums, loss = (logits.new_empty(shape, dtype=dtype) for shape in shapes)
    _run(
        logits,
        target,
        weight,
        row_factor,
        allowed,
        options,
        _GRADIENT if with_gradient else _FORWARD,
        sums,
        logits if with_gradient else None,
        in_place=with_gradient,
        loss=loss,
        rows=rows,
    )
    return rows


def cross_entropy_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,
    allowed: Tensor | None,
    options: Options,
    sums: Tensor,
    upstream: Tensor | None,
    in_place: bool,
) -> Tensor:
    logits = strided(input)
    overwrite = in_place and logits is input
    gradient = input.detach() if overwrite else _result(input)
    _run(
        logits,
        target,
        weight,
        row_factor,
        allowed,
        options,
        _BACKWARD,
        sums,
        gradient,
        in_place=overwrite,
        upstream=1.0 if upstream is None else upstream.item(),
    )
    return memory.overwritten(input, gradient, overwrite) if in_place else gradient


def _run(
    input,
    target,
    weight,
    row_factor,
    allowed,
    options,
    mode,
    sums,
    gradient,
    *,
    in_place=False,
    upstream=1.0,
    loss=None,
    rows=None,
) -> None:
    of_labels = target.shape != input.shape
    labels = target.contiguous() if of_labels else None
    # Converted tensors need a name: the library sees addresses alone.
    dtype, shift = sums.dtype, sums.data_ptr()
    probabilities = None if of_labels else _converted(target, dtype)
    weight = None if weight is None else _converted(weight, dtype)
    row_factor = None if row_factor is None else _converted(row_factor, dtype)
    sizes, strides = outer_class_inner(input, class_dim(input))
    by_row = allowed is not None and allowed.shape == input.shape
    allowed = None if allowed is None else allowed.contiguous()
    wrong = _cpu.cross_entropy(
        input.data_ptr(),
        TYPES[input.dtype],
        sizes,
        strides,
        mode,
        address(gradient),
        in_place,
        address(labels),
        address(probabilities),
        address(weight),
        address(row_factor),
        address(allowed),
        by_row,
        options.ignore_index,
        options.label_smoothing,
        1.0 / options.temperature,
        options.softcap or 0.0,
        options.z_loss,
        _REDUCTIONS[options.reduction],
        upstream,
        address(loss),
        address(rows),
        shift,
        shift + sums.nbytes // 2,
        torch.get_num_threads(),
    )
    if wrong >= 0:
        raise IndexError(f"label out of range at row {wrong}")


def _converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return resolved(tensor).to(dtype).contiguous()


# ---- Statistics of labels ------------------------------------------------------------------------


def statistics_block(
    logits: Tensor,
    label: Tensor,
    allowed: Tensor | None,
    temperature: float,
    softcap: float | None,
    entropy: bool,
) -> RowStatistics:
    logits = class_contiguous(logits)
    dtype = accumulator(logits.dtype)
    log_prob, lse, h, *sums = torch.empty(5, len(logits), dtype=dtype, device="cpu")
    rank = torch.empty_like(label, memory_format=torch.contiguous_format)
    statistics = RowStatistics(log_prob, lse, h, rank, *sums)
    options = allowed, temperature, softcap
    _statistics(logits, None, label, *options, statistics, (None, None, None))
    return statistics


def statistics_block_backward(
    logits: Tensor,
    label: Tensor,
    allowed: Tensor | None,
    temperature: float,
    softcap: float | None,
    statistics: RowStatistics,
    grads: tuple[Tensor, ...],
) -> None:
    zero = torch.zeros_like(statistics.shift)
    if statistics.entropy is None:
        statistics = statistics._replace(entropy=zero)
    contiguous = (tensor.contiguous() for tensor in statistics)  # type: ignore[union-attr]
    grads = grads if len(grads) == 3 else (*grads, zero)
    options = allowed, temperature, softcap
    _statistics(logits, logits, label, *options, RowStatistics(*contiguous), grads)


def _statistics(logits, gradient, label, allowed, temperature, softcap, statistics, grads) -> None:
    label = label.contiguous()
    allowed = None if allowed is None else allowed.contiguous()
    grads = [None if grad is None else resolved(grad).contiguous() for grad in grads]
    _cpu.statistics(
        logits.data_ptr(),
        TYPES[logits.dtype],
        *logits.shape,
        logits.stride(0),
        address(gradient),
        label.data_ptr(),
        address(allowed),
        allowed is not None and allowed.dim() == 2,
        1.0 / temperature,
        softcap or 0.0,
        statistics.log_prob.data_ptr(),
        statistics.lse.data_ptr(),
        statistics.entropy.data_ptr(),
        statistics.shift.data_ptr(),
        statistics.log_sum.data_ptr(),
        statistics.rank.data_ptr(),
        *map(address, grads),
        torch.get_num_threads(),
    )


# ---- Log softmax and the log-probability of labels -----------------------------------------------


def log_softmax(input: Tensor, dim: int) -> Tensor:
    return _log_softmax(input, None, dim)


def log_softmax_backward(gradient: Tensor, result: Tensor, dim: int) -> Tensor:
    return _log_softmax(gradient, result, dim)


def _log_softmax(input: Tensor, result: Tensor | None, dim: int) -> Tensor:
    out = empty(input.shape, input.dtype)
    input = strided(input, dim)
    sizes, strides = outer_class_inner(input, dim)
    _cpu.log_softmax(
        input.data_ptr(),
        TYPES[input.dtype],
        sizes,
        strides,
        address(result),
        out.data_ptr(),
        torch.get_num_threads(),
    )
    return out


pick = nll_loss  # one number of each row: PyTorch's own operator is as fast


def pick_backward(grad: Tensor, target: Tensor, like: Tensor, ignore_index: int) -> Tensor:
    out = empty(like.shape, like.dtype)
    _cpu.zero(out.data_ptr(), out.numel() * out.element_size(), torch.get_num_threads())
    kept = target != ignore_index
    dim = class_dim(like)
    value = (-grad).masked_fill(~kept, 0.0).to(out.dtype)
    return out.scatter_(dim, target.masked_fill(~kept, 0).unsqueeze(dim), value.unsqueeze(dim))


# ---- KL divergence and softmax regression --------------------------------------------------------


def divergence(*arguments: Any) -> None:
    _cpu.divergence(*arguments)


def softmax_sums(*arguments: Any) -> None:
    _cpu.softmax_sums(*arguments)


def sparse_sums(*arguments: Any) -> None:
    _cpu.sparse_sums(*arguments)
