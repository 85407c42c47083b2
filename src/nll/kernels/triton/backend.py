"""The functions of `kernels/cpu.py` on an accelerator's tensors; on a processor's, under Triton's
interpreter.

Nothing here waits for the device. Wrong labels are told of at the next call: see `labels.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nll._torch import resolved
from nll.kernels.layout import strided
from nll.kernels.reference import Options, RowStatistics, RowSums, class_dim, rows_shape
from nll.kernels.triton import cross_entropy as _cross_entropy
from nll.kernels.triton import labels
from nll.kernels.triton import log_softmax as _log_softmax
from nll.kernels.triton import statistics as _statistics


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type that is summed in."""
    return torch.float32


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,
    options: Options,
    with_gradient: bool,
) -> tuple[Tensor, RowSums, Tensor | None]:
    """The reduced loss, and each row's sums; in the same launch, if asked, the gradient."""
    labels.poll(input.device)
    input = strided(input)
    target, weight, row_factor = _read(input, target, weight, row_factor)
    rows, shift, total = (
        torch.empty(rows_shape(input), dtype=torch.float32, device=input.device) for _ in range(3)
    )
    gradient = (
        torch.empty_like(input, memory_format=torch.contiguous_format) if with_gradient else None
    )
    found = _cross_entropy.run(
        input, target, weight, row_factor, options, rows, RowSums(shift, total), gradient
    )
    _poll_at_once(input)
    if options.reduction == "none":
        return rows, RowSums(shift, total), gradient
    loss = rows.sum(dtype=torch.float64)
    loss = loss / found.mass if options.reduction == "mean" else loss
    return loss.float(), RowSums(shift, total), gradient


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
    labels.poll(input.device)
    scores = strided(input)
    here = in_place and scores is input
    gradient = (
        input.detach() if here else torch.empty_like(input, memory_format=torch.contiguous_format)
    )
    target, weight, row_factor = _read(scores, target, weight, row_factor)
    by = (
        torch.ones((), dtype=torch.float32, device=input.device)
        if upstream is None
        else resolved(upstream)
    )
    _cross_entropy.run(
        scores.detach(), target, weight, row_factor, options, None, sums, gradient, by
    )
    if not in_place:
        return gradient
    if here:
        torch.autograd.graph.increment_version(input)
        return gradient
    return input.detach().copy_(gradient)


def rescaled(gradient: Tensor, factor: Tensor) -> Tensor:
    """A stored gradient times a factor, in float32; in place."""
    labels.poll(gradient.device)
    _cross_entropy.rescale(gradient, resolved(factor))
    return gradient


def cross_entropy_block(
    scores: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,
    options: Options,
    with_gradient: bool,
) -> Tensor:
    """The rows' losses times their factors; the gradient of their sum, if asked for, overwrites the
    scores.
    """
    labels.poll(scores.device)
    target, weight, row_factor = _read(scores, target, weight, row_factor)
    rows, shift, total = torch.empty(3, len(scores), dtype=torch.float32, device=scores.device)
    gradient = scores if with_gradient else None
    _cross_entropy.run(
        scores, target, weight, row_factor, options, rows, RowSums(shift, total), gradient
    )
    _poll_at_once(scores)
    return rows


def statistics_block(
    scores: Tensor, label: Tensor, temperature: float, softcap: float | None, entropy: bool
) -> RowStatistics:
    """As `reference.statistics_block`; the entropy is there without being asked for."""
    scores = resolved(scores)
    scores = scores if scores.stride(1) == 1 else scores.contiguous()
    log_prob, lse, h, *sums = torch.empty(5, len(scores), dtype=torch.float32, device=scores.device)
    rank = torch.empty_like(label, memory_format=torch.contiguous_format)
    found = RowStatistics(log_prob, lse, h, rank, *sums)
    _statistics.run(scores, label.contiguous(), temperature, softcap, found)
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
    slopes = tuple(resolved(t).contiguous() for t in slopes)
    _statistics.run_backward(scores, label.contiguous(), temperature, softcap, found, slopes)


def log_softmax(input: Tensor, dim: int) -> Tensor:
    """x - log sum exp x along a dimension; the result is contiguous."""
    input = strided(input, dim)
    out = torch.empty_like(input, memory_format=torch.contiguous_format)
    _log_softmax.run(input, None, out, dim)
    return out


def log_softmax_backward(gradient: Tensor, result: Tensor, dim: int) -> Tensor:
    """g - exp(y) sum g, for the contiguous result y."""
    out = torch.empty_like(result)
    _log_softmax.run(strided(gradient, dim), result, out, dim)
    return out


def pick(input: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """-log p of each row's label, 0 where it is ignored, NaN where it is out of range."""
    labels.poll(input.device)
    input = strided(input)
    loss = torch.empty(rows_shape(input), dtype=input.dtype, device=input.device)
    _log_softmax.pick(input, target.contiguous(), loss, ignore_index, class_dim(input))
    _poll_at_once(input)
    return loss


def pick_backward(slope: Tensor, target: Tensor, like: Tensor, ignore_index: int) -> Tensor:
    """The gradient of -log p of each row's label: -slope there, and 0 elsewhere."""
    out = torch.empty_like(like, memory_format=torch.contiguous_format)
    _log_softmax.pick_backward(
        resolved(slope).contiguous(), target.contiguous(), out, ignore_index, class_dim(like)
    )
    return out


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A contiguous tensor; PyTorch keeps the device's memory for the next."""
    return torch.empty(shape, dtype=dtype, device=device)


def _read(input, target, weight, row_factor):
    """As the kernels read them: labels and numbers of rows and of classes one after another,
    probabilities strided.
    """
    target = (
        strided(target, class_dim(input)) if target.shape == input.shape else target.contiguous()
    )
    return target, *(
        None if tensor is None else resolved(tensor).contiguous() for tensor in (weight, row_factor)
    )


def _poll_at_once(input: Tensor) -> None:
    """The interpreter is done by now."""
    if input.device.type == "cpu":
        labels.poll(input.device)
