"""How the compiled losses are differentiated.

First derivatives run in the kernels. A second derivative, asked for with `create_graph=True`, differentiates the
reference's definition at the same point; `_backends.choose` sends forward mode and `torch.func` there from the start.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nll.kernels import cpu, reference


class _CrossEntropyRows(torch.autograd.Function):
    """(input, target) -> each row's loss and squared log-sum-exp.

    Where the slopes of the reduction are known, the forward pass computes the gradient for them in the same pass over
    the logits. The first backward hands it over if they came true; any other computes the gradient anew.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, target: Tensor, weight: Tensor | None, options: tuple, slopes: reference.Slopes
    ):
        by_class = None if weight is None else weight.to(cpu.accumulator(input.dtype)).contiguous()
        scoring = cpu.Scoring(by_class, *options)
        known = slopes.loss if ctx.needs_input_grad[0] else None
        loss, sums, ctx.gradient = cpu.cross_entropy(input, target, scoring, known, slopes.squared)
        ctx.scoring, ctx.slopes, ctx.sums = scoring, slopes, sums
        ctx.save_for_backward(input, target, weight)
        if not slopes.with_lse:
            return loss, None
        return loss, (sums.maximum + sums.total.log()).square()

    @staticmethod
    def backward(ctx: Any, slope: Tensor, z_slope: Tensor | None):  # type: ignore[override]
        if torch.is_grad_enabled():
            return _second(ctx, slope, z_slope), None, None, None, None
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is not None:
            factor = _factor(slope, z_slope, ctx.slopes)
            if factor is not None:
                return gradient if factor == 1.0 else gradient.mul_(factor), None, None, None, None
        input, target, _ = ctx.saved_tensors
        del gradient
        gradient = cpu.cross_entropy_backward(input, target, ctx.scoring, ctx.sums, slope, z_slope)
        return gradient, None, None, None, None


def _factor(slope: Tensor, z_slope: Tensor | None, known: reference.Slopes) -> float | None:
    """The number that makes the known slopes the true ones, if there is one."""
    assert known.loss is not None
    if _same(slope, known.loss, 1.0) and _same(z_slope, known.squared, 1.0):
        return 1.0
    at = int(known.loss.abs().argmax())
    factor = float(slope.reshape(-1)[at] / known.loss.reshape(-1)[at])
    # A power of two moves no digit: other factors would round once more than the gradient's own computation.
    exact = factor != 0.0 and abs(torch.frexp(torch.tensor(factor)).mantissa.item()) == 0.5
    return factor if exact and _same(slope, known.loss, factor) and _same(z_slope, known.squared, factor) else None


def _same(slope: Tensor | None, known: Tensor | None, factor: float) -> bool:
    if slope is None or known is None:
        return known is None
    return torch.equal(slope, known * factor)


def _second(ctx: Any, slope: Tensor, z_slope: Tensor | None) -> Tensor:
    """The gradient as a function that can be differentiated again, by the reference."""
    input, target, weight = ctx.saved_tensors
    it = ctx.scoring
    options = (it.ignore_index, it.label_smoothing, it.temperature, it.softcap, None, ctx.slopes)
    rows, squared = reference.cross_entropy(input, target, weight, *options)
    outputs, slopes = [rows], [slope.to(rows.dtype)]
    if squared is not None and z_slope is not None:
        outputs.append(squared)
        slopes.append(z_slope.to(rows.dtype))
    return torch.autograd.grad(outputs, input, slopes, create_graph=True)[0]


class _LogSoftmax(torch.autograd.Function):
    """(input, dim) -> y = log softmax; the gradient is g - exp(y) sum g."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, dim: int) -> Tensor:
        result = cpu.log_softmax(input, dim)
        ctx.dim = dim
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor):  # type: ignore[override]
        (result,) = ctx.saved_tensors
        if torch.is_grad_enabled():
            return gradient - result.exp() * gradient.sum(ctx.dim, keepdim=True), None
        return cpu.log_softmax_backward(gradient, result, ctx.dim), None


class _Pick(torch.autograd.Function):
    """(log-probabilities, labels) -> -log p of each row's label."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor, ignore_index: int) -> Tensor:
        ctx.ignore_index = ignore_index
        ctx.save_for_backward(input, target)
        return reference.nll_loss(input, target, ignore_index)

    @staticmethod
    def backward(ctx: Any, slope: Tensor):  # type: ignore[override]
        input, target = ctx.saved_tensors
        if torch.is_grad_enabled():
            rows = reference.nll_loss(input, target, ctx.ignore_index)
            return torch.autograd.grad(rows, input, slope, create_graph=True)[0], None, None
        return cpu.pick_backward(slope, target, input, ctx.ignore_index), None, None


def log_softmax(input: Tensor, dim: int, dtype: torch.dtype | None) -> Tensor:
    """As `reference.log_softmax`."""
    input = input if dtype is None else input.to(dtype)
    return _LogSoftmax.apply(input, dim % input.dim())  # type: ignore[return-value]


def nll_loss(input: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """As `reference.nll_loss`."""
    return _Pick.apply(input, target, ignore_index)  # type: ignore[return-value]


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
    temperature: float,
    softcap: float | None,
    allowed: Tensor | None,
    slopes: reference.Slopes,
) -> tuple[Tensor, Tensor | None]:
    """As `reference.cross_entropy`, for all classes allowed."""
    assert allowed is None
    options = (ignore_index, label_smoothing, temperature, softcap)
    return _CrossEntropyRows.apply(input, target, weight, options, slopes)  # type: ignore[return-value]
