"""`types.Kernels` on an accelerator's tensors; on a CPU's, under Triton's interpreter.

Nothing here waits for the device. Wrong labels are reported at the next call: see `labels.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from nll._torch import resolved
from nll.kernels import memory
from nll.kernels.layout import class_contiguous, class_dim, rows_shape, strided
from nll.kernels.triton import cross_entropy as _cross_entropy
from nll.kernels.triton import labels
from nll.kernels.triton import statistics as _statistics
from nll.kernels.triton.rescale import rescale
from nll.kernels.triton.totals import Scratch, total
from nll.kernels.types import Options, RowStatistics


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,
    allowed: Tensor | None,
    options: Options,
    with_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    labels.poll(input.device)
    input = strided(input)
    tensors = _read(input, target, weight, row_factor, allowed)
    shape = rows_shape(input)
    rows = torch.empty(shape, dtype=torch.float32, device=input.device)
    sums = torch.empty((2, *shape), dtype=torch.float32, device=input.device)
    gradient = _empty_like(input) if with_gradient else None
    scratch = _census(input, *tensors, options)
    _cross_entropy.run(input, *tensors, options, rows, sums, gradient, scratch.numbers)
    poll_interpreter(input)
    if options.reduction == "none":
        return rows, sums, gradient
    return total(rows, scratch, options.reduction == "mean"), sums, gradient


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
    labels.poll(input.device)
    logits = strided(input)
    overwrite = in_place and logits is input
    gradient = input.detach() if overwrite else _empty_like(input)
    tensors = _read(logits, target, weight, row_factor, allowed)
    mean = options.reduction == "mean"
    totals = _census(logits, *tensors, options).numbers if mean else None
    by = None if upstream is None else resolved(upstream)
    _cross_entropy.run(logits, *tensors, options, None, sums, gradient, totals, by)
    return memory.overwritten(input, gradient, overwrite) if in_place else gradient


def rescaled(gradient: Tensor, factor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    labels.poll(gradient.device)
    same = dtype is None or dtype is gradient.dtype
    result = gradient if same else torch.empty_like(gradient, dtype=dtype)
    rescale(gradient, resolved(factor), result)
    return result


def cross_entropy_block(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,
    allowed: Tensor | None,
    options: Options,
    with_gradient: bool,
) -> Tensor:
    rows = rows_of(logits, logits.shape[1], target, weight, row_factor, allowed, options)
    rows.add(logits, 0, with_gradient)
    poll_interpreter(logits)
    return rows.losses


class Rows(NamedTuple):
    """The rows of a layer whose logits come in blocks, and their losses."""

    tensors: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]
    options: Options
    losses: Tensor  # (N)
    scratch: Scratch

    def add(self, logits: Tensor, start: int, with_gradient: bool) -> None:
        """Compute the losses of a block of rows; their gradient overwrites its logits."""
        gradient = logits if with_gradient else None
        numbers = self.scratch.numbers
        _cross_entropy.run(
            logits, *self.tensors, self.options, self.losses, None, gradient, numbers, start=start
        )

    def loss(self) -> Tensor:
        poll_interpreter(self.losses)
        if self.options.reduction == "none":
            return self.losses
        return total(self.losses, self.scratch, self.options.reduction == "mean")


def rows_of(
    input: Tensor,
    classes: int,
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,
    allowed: Tensor | None,
    options: Options,
) -> Rows:
    """Return the rows of a layer's input, their labels checked."""
    labels.poll(input.device)
    if allowed is not None:
        allowed = allowed.expand(len(input), classes)
    if target.dim() == 1:
        target = target.contiguous()
    tensors = target, *_contiguous(weight, row_factor), allowed
    losses = torch.empty(len(input), dtype=torch.float32, device=input.device)
    scratch = labels.census(
        *tensors[:3], len(input), classes, options.ignore_index, target.dim() == 1
    )
    return Rows(tensors, options, losses, scratch)


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
    _statistics.run(
        logits, label.contiguous(), _mask(allowed, logits), temperature, softcap, statistics
    )
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
    mask = _mask(allowed, logits)
    _statistics.run_backward(
        logits, label.contiguous(), mask, temperature, softcap, statistics, grads
    )


def _empty_like(input: Tensor) -> Tensor:
    """Return memory for a gradient, contiguous; rows a little apart as those of the logits, whose
    lines then begin at the same classes.
    """
    if input.dim() == 2 and input.stride(1) == 1 and 0 <= input.stride(0) - input.shape[1] <= 256:
        return torch.empty_strided(
            input.shape, input.stride(), dtype=input.dtype, device=input.device
        )
    return torch.empty_like(input, memory_format=torch.contiguous_format)


def _read(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,
    allowed: Tensor | None,
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """As the kernels read them: labels and per-row and per-class numbers contiguous, probabilities
    strided, the mask of the logits' shape.
    """
    probabilities = target.shape == input.shape
    target = strided(target, class_dim(input)) if probabilities else target.contiguous()
    return target, *_contiguous(weight, row_factor), _mask(allowed, input)


def _contiguous(*tensors: Tensor | None) -> Any:
    return (None if tensor is None else resolved(tensor).contiguous() for tensor in tensors)


def _mask(allowed: Tensor | None, input: Tensor) -> Tensor | None:
    return None if allowed is None else strided(resolved(allowed).expand_as(input))


def _census(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,
    allowed: Tensor | None,
    options: Options,
) -> Scratch:
    classes = input.shape[class_dim(input)]
    labelled = target.shape != input.shape
    rows = input.numel() // classes
    return labels.census(target, weight, row_factor, rows, classes, options.ignore_index, labelled)


def poll_interpreter(input: Tensor) -> None:
    """The interpreter has already finished: report a wrong label at once."""
    if input.device.type == "cpu":
        labels.poll(input.device)
