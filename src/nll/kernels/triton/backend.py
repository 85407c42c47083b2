"""`types.Kernels` on an accelerator's tensors; on a CPU's, under Triton's interpreter.

Nothing here waits for the device. Wrong labels are reported at the next call: see `labels.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nll._torch import resolved
from nll.kernels import memory
from nll.kernels.layout import class_contiguous, class_dim, rows_shape, strided
from nll.kernels.triton import cross_entropy as _cross_entropy
from nll.kernels.triton import labels
from nll.kernels.triton import log_softmax as _log_softmax
from nll.kernels.triton import statistics as _statistics
from nll.kernels.types import Options, RowStatistics, RowSums


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,
    allowed: Tensor | None,  # None: `dispatch` sends no masks here
    options: Options,
    with_gradient: bool,
) -> tuple[Tensor, RowSums, Tensor | None]:
    labels.poll(input.device)
    input = strided(input)
    target, weight, row_factor = _read(input, target, weight, row_factor)
    rows, shift, total = (
        torch.empty(rows_shape(input), dtype=torch.float32, device=input.device) for _ in range(3)
    )
    sums, gradient = RowSums(shift, total), _empty_like(input) if with_gradient else None
    census = _cross_entropy.run(input, target, weight, row_factor, options, rows, sums, gradient)
    poll_interpreter(input)
    if options.reduction == "none":
        return rows, sums, gradient
    loss = rows.sum(dtype=torch.float64)
    loss = loss / census.total_weight if options.reduction == "mean" else loss
    return loss.float(), sums, gradient


def cross_entropy_backward(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,
    allowed: Tensor | None,  # None: `dispatch` sends no masks here
    options: Options,
    sums: RowSums,
    upstream: Tensor | None,
    in_place: bool,
) -> Tensor:
    labels.poll(input.device)
    logits = strided(input)
    overwrite = in_place and logits is input
    gradient = input.detach() if overwrite else _empty_like(input)
    target, weight, row_factor = _read(logits, target, weight, row_factor)
    by = (
        torch.ones((), dtype=torch.float32, device=input.device)
        if upstream is None
        else resolved(upstream)
    )
    _cross_entropy.run(
        logits.detach(), target, weight, row_factor, options, None, sums, gradient, by
    )
    return memory.overwritten(input, gradient, overwrite) if in_place else gradient


def rescaled(gradient: Tensor, factor: Tensor) -> Tensor:
    labels.poll(gradient.device)
    _cross_entropy.rescale(gradient, resolved(factor))
    return gradient


def cross_entropy_block(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,
    allowed: Tensor | None,  # None: `dispatch` sends no masks here
    options: Options,
    with_gradient: bool,
) -> Tensor:
    labels.poll(logits.device)
    target, weight, row_factor = _read(logits, target, weight, row_factor)
    rows, *sums = torch.empty(3, len(logits), dtype=torch.float32, device=logits.device)
    gradient = logits if with_gradient else None
    _cross_entropy.run(logits, target, weight, row_factor, options, rows, RowSums(*sums), gradient)
    poll_interpreter(logits)
    return rows


def statistics_block(
    logits: Tensor,
    label: Tensor,
    allowed: Tensor | None,
    temperature: float,
    softcap: float | None,
    entropy: bool,
) -> RowStatistics:
    logits = class_contiguous(logits)
    log_prob, lse, h, *sums = torch.empty(5, len(logits), dtype=torch.float32, device=logits.device)
    rank = torch.empty_like(label, memory_format=torch.contiguous_format)
    statistics = RowStatistics(log_prob, lse, h, rank, *sums)
    _statistics.run(logits, label.contiguous(), temperature, softcap, statistics)
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
    grads = tuple(resolved(grad).contiguous() for grad in grads)
    _statistics.run_backward(logits, label.contiguous(), temperature, softcap, statistics, grads)


def log_softmax(input: Tensor, dim: int) -> Tensor:
    input = strided(input, dim)
    out = _empty_like(input)
    _log_softmax.run(input, None, out, dim)
    return out


def log_softmax_backward(gradient: Tensor, result: Tensor, dim: int) -> Tensor:
    out = torch.empty_like(result)
    _log_softmax.run(strided(gradient, dim), result, out, dim)
    return out


def pick(input: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """As `Kernels.pick`, and NaN where the label is out of range."""
    labels.poll(input.device)
    input = strided(input)
    loss = torch.empty(rows_shape(input), dtype=input.dtype, device=input.device)
    _log_softmax.pick(input, target.contiguous(), loss, ignore_index, class_dim(input))
    poll_interpreter(input)
    return loss


def pick_backward(grad: Tensor, target: Tensor, like: Tensor, ignore_index: int) -> Tensor:
    out = _empty_like(like)
    _log_softmax.pick_backward(
        resolved(grad).contiguous(), target.contiguous(), out, ignore_index, class_dim(like)
    )
    return out


def _empty_like(input: Tensor) -> Tensor:
    return torch.empty_like(input, memory_format=torch.contiguous_format)


def _read(input, target, weight, row_factor):
    """As the kernels read them: labels and per-row and per-class numbers contiguous, probabilities
    strided.
    """
    probabilities = target.shape == input.shape
    target = strided(target, class_dim(input)) if probabilities else target.contiguous()
    return target, *(
        None if tensor is None else resolved(tensor).contiguous() for tensor in (weight, row_factor)
    )


def poll_interpreter(input: Tensor) -> None:
    """The interpreter has already finished: report a wrong label at once."""
    if input.device.type == "cpu":
        labels.poll(input.device)
