"""How the compiled losses are differentiated.

First derivatives run in the kernels. A second derivative, asked for with `create_graph=True`,
differentiates the reference's definition at the same point, and so do many upstream gradients at
once; `_backends.choose` sends forward mode and `torch.func` there from the start.
"""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from nll import _torch
from nll.kernels import reference
from nll.kernels.reference import Options, RowSums

# Types whose gradient may be stored before what multiplies it is known: float16 would lose digits.
AT_ONCE = frozenset({torch.float32, torch.float64, torch.bfloat16})


def overwrites(input: Tensor) -> bool:
    """Whether a backward pass is to come that can overwrite its input."""
    elsewhere = torch.compiler.is_compiling() or _torch.watched() or _torch.transforming()
    return torch.is_grad_enabled() and input.requires_grad and not elsewhere


class _CrossEntropy(torch.autograd.Function):
    """(input, target) -> the loss.

    Where the loss is reduced to a number, the forward pass computes the gradient in the same pass
    over the scores, and the first backward pass multiplies it by whatever factor comes. Any other
    pass computes the gradient anew.
    """

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Any,
        input: Tensor,
        target: Tensor,
        weight,
        row_weights,
        options: Options,
        in_place: bool,
    ) -> Tensor:
        at_once = options.reduction != "none" and not in_place and input.dtype in AT_ONCE
        loss, ctx.sums, ctx.gradient = kernels.cross_entropy(
            input, target, weight, row_weights, options, at_once
        )
        ctx.kernels, ctx.options, ctx.in_place, ctx.spent = kernels, options, in_place, False
        ctx.save_for_backward(input, target, weight, row_weights)
        return loss

    @staticmethod
    def backward(ctx: Any, slope: Tensor):  # type: ignore[override]
        return None, _gradient(ctx, slope), None, None, None, None, None


def _gradient(ctx: Any, slope: Tensor) -> Tensor:
    many = _torch.batched(slope)
    if ctx.in_place:
        _spend(ctx, many)
    if not torch.is_grad_enabled() and ctx.gradient is not None:
        if many:
            return times(ctx.gradient, slope)
        gradient, ctx.gradient = ctx.gradient, None
        return ctx.kernels.rescaled(gradient, slope)
    saved = ctx.saved_tensors
    if torch.is_grad_enabled() or many:
        return gradient_by_definition(slope, saved, ctx.options)
    return gradient_anew(ctx.kernels, slope, saved, ctx.options, ctx.sums, ctx.in_place)


def times(gradient: Tensor, factor: Tensor) -> Tensor:
    """A gradient times a factor in float32 or better, rounded once."""
    precise = torch.promote_types(gradient.dtype, torch.float32)
    return (gradient.to(precise) * factor).to(gradient.dtype)


def gradient_by_definition(slope: Tensor, saved: Any, options: Options) -> Tensor:
    """The gradient by the reference's formula: differentiable, and of many slopes at once."""

    def loss(input: Tensor, target: Tensor, weight: Any, row_weights: Any) -> Tensor:
        return reference.cross_entropy(input, target, weight, row_weights, None, options)

    return _torch.separate_gradients(loss, saved, (True, False, False, False), slope)[0]  # type: ignore[return-value]


def gradient_anew(
    kernels: Any, slope: Tensor, saved: Any, options: Options, sums: RowSums, in_place: bool
) -> Tensor:
    """The gradient from the sums of the forward pass."""
    input, target, weight, factor = saved
    upstream: Tensor | None = slope
    if options.reduction == "none":
        factor, upstream = slope if factor is None else slope * factor, None
    return kernels.cross_entropy_backward(
        input, target, weight, factor, options, sums, upstream, in_place
    )


def _spend(ctx: Any, many: bool) -> None:
    """Allow one backward pass of one upstream gradient, without derivatives of its own."""
    if many:
        raise RuntimeError(
            "expected one upstream gradient with inplace_backward, got a batch of them"
        )
    if torch.is_grad_enabled():
        raise RuntimeError(
            "expected no second derivative with inplace_backward, which overwrites the scores"
        )
    if ctx.spent:
        raise RuntimeError(
            "expected one backward pass with inplace_backward, got a second: the "
            "scores are overwritten"
        )
    ctx.spent = True


class _Overwritten(torch.autograd.Function):
    """The identity; backward writes the gradient into the input's memory, for losses that cannot do
    so themselves.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        ctx.input, ctx.spent = input.detach(), False  # of the same memory and version
        return input.view_as(input)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor):  # type: ignore[override]
        _spend(ctx, _torch.batched(gradient))
        return ctx.input.copy_(gradient)


class _LogSoftmax(torch.autograd.Function):
    """(input, dim) -> y = log softmax; the gradient is g - exp(y) sum g."""

    @staticmethod
    def forward(ctx: Any, kernels: Any, input: Tensor, dim: int) -> Tensor:
        result = kernels.log_softmax(input, dim)
        ctx.kernels, ctx.dim = kernels, dim
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor):  # type: ignore[override]
        (result,) = ctx.saved_tensors
        if torch.is_grad_enabled() or _torch.batched(gradient):
            precise = torch.promote_types(result.dtype, torch.float32)
            g = gradient.to(precise)
            g = g - result.to(precise).exp() * g.sum(ctx.dim, keepdim=True)
            return None, g.to(result.dtype), None
        return None, ctx.kernels.log_softmax_backward(gradient, result, ctx.dim), None


class _Pick(torch.autograd.Function):
    """(log-probabilities, labels) -> -log p of each row's label."""

    @staticmethod
    def forward(ctx: Any, kernels: Any, input: Tensor, target: Tensor, ignore_index: int) -> Tensor:
        ctx.kernels, ctx.ignore_index = kernels, ignore_index
        ctx.save_for_backward(input, target)
        return kernels.pick(input, target, ignore_index)

    @staticmethod
    def backward(ctx: Any, slope: Tensor):  # type: ignore[override]
        input, target = ctx.saved_tensors
        if torch.is_grad_enabled() or _torch.batched(slope):

            def rows(x: Tensor) -> Tensor:
                return reference.nll_loss(x, target, ctx.ignore_index)

            return None, *_torch.separate_gradients(rows, (input,), (True,), slope), None, None
        return None, ctx.kernels.pick_backward(slope, target, input, ctx.ignore_index), None, None


class Backend:
    """The functions of `kernels/reference.py` by one set of kernels, for all classes allowed, with
    derivatives.
    """

    def __init__(self, module: str) -> None:
        self.module = module

    @cached_property
    def kernels(self) -> Any:
        """The kernels, imported when they are first needed."""
        return import_module(self.module)

    def log_softmax(self, input: Tensor, dim: int) -> Tensor:
        """As `reference.log_softmax`."""
        return _LogSoftmax.apply(self.kernels, input, dim % input.dim())  # type: ignore[return-value]

    def nll_loss(self, input: Tensor, target: Tensor, ignore_index: int) -> Tensor:
        """As `reference.nll_loss`."""
        return _Pick.apply(self.kernels, input, target, ignore_index)  # type: ignore[return-value]

    def cross_entropy(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        row_weights: Tensor | None,
        allowed: Tensor | None,
        options: Options,
        in_place: bool = False,
    ) -> Tensor:
        """As `reference.cross_entropy`; in place, its backward pass overwrites the input with the
        gradient.
        """
        assert allowed is None
        tensors = input, target, weight, row_weights
        if not (torch.is_grad_enabled() and input.requires_grad):
            return self.kernels.cross_entropy(*tensors, options, with_gradient=False)[0]
        return _CrossEntropy.apply(self.kernels, *tensors, options, in_place)  # type: ignore[return-value]

    def cross_entropy_block(
        self,
        scores: Tensor,
        target: Tensor,
        weight: Tensor | None,
        row_factor: Tensor | None,
        allowed: Tensor | None,
        options: Options,
        with_gradient: bool,
    ) -> Tensor:
        """As `reference.cross_entropy_block`; nothing is differentiated by autograd."""
        assert allowed is None
        return self.kernels.cross_entropy_block(
            scores, target, weight, row_factor, options, with_gradient
        )

    def statistics_block(self, *arguments: Any) -> reference.RowStatistics:
        """As `reference.statistics_block`."""
        return self.kernels.statistics_block(*arguments)

    def statistics_block_backward(self, *arguments: Any) -> None:
        """As `reference.statistics_block_backward`."""
        self.kernels.statistics_block_backward(*arguments)


CPU, TRITON = Backend("nll.kernels.cpu"), Backend("nll.kernels.triton.backend")


def cross_entropy_in_place(
    backend: Any,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_weights: Tensor | None,
    allowed: Tensor | None,
    options: Options,
) -> Tensor:
    """As `backend.cross_entropy`; its backward pass overwrites the input with the gradient."""
    if overwrites(input):
        if backend is not reference:
            return backend.cross_entropy(input, target, weight, row_weights, allowed, options, True)
        input = _Overwritten.apply(input)  # type: ignore[assignment]
    return backend.cross_entropy(input, target, weight, row_weights, allowed, options)
