"""How the compiled losses are differentiated, and what the compiler sees of them.

First derivatives run in the kernels. A second derivative, asked for with `create_graph=True`, differentiates the
reference's definition at the same point; `_backends.choose` sends forward mode and `torch.func` there from the start.
"""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch  # type: ignore[attr-defined]
from torch.autograd import forward_ad

from nll.kernels import reference
from nll.kernels.reference import Options, RowSums


def transforming() -> bool:
    """Whether a transformation of torch.func, or forward mode, is at work."""
    return forward_ad._current_level >= 0 or _functorch.peek_interpreter_stack() is not None


# While torch.compile traces, it is to call this and believe the answer. torch.compiler.assume_constant_result does
# the same, and would import the compiler to do it.
transforming._dynamo_marked_constant = True  # type: ignore[attr-defined]


def overwrites(input: Tensor) -> bool:
    """Whether a backward pass is to come that can overwrite its input."""
    return torch.is_grad_enabled() and input.requires_grad and not torch.compiler.is_compiling() and not transforming()


class _CrossEntropy(torch.autograd.Function):
    """(input, target) -> the loss.

    Where the loss is reduced to a number, the forward pass computes the gradient in the same pass over the scores.
    The first backward hands it over if it is asked for as it is; any other computes the gradient anew.
    """

    @staticmethod
    def forward(
        ctx: Any, kernels: Any, input: Tensor, target: Tensor, weight, row_weights, options: Options, in_place: bool
    ) -> Tensor:
        at_once = options.reduction != "none" and not in_place and input.dtype in kernels.AT_ONCE
        loss, ctx.sums, ctx.gradient = kernels.cross_entropy(input, target, weight, row_weights, options, at_once)
        ctx.kernels, ctx.options, ctx.in_place, ctx.spent = kernels, options, in_place, False
        ctx.save_for_backward(input, target, weight, row_weights)
        return loss

    @staticmethod
    def backward(ctx: Any, slope: Tensor):  # type: ignore[override]
        return None, _gradient(ctx, slope), None, None, None, None, None


def _gradient(ctx: Any, slope: Tensor) -> Tensor:
    if ctx.in_place:
        _spend(ctx)
    if torch.is_grad_enabled():
        input, target, weight, row_weights = ctx.saved_tensors
        loss = reference.cross_entropy(input, target, weight, row_weights, None, ctx.options)
        return torch.autograd.grad(loss, input, slope, create_graph=True)[0]
    gradient, ctx.gradient = ctx.gradient, None
    if gradient is not None:
        return ctx.kernels.rescaled(gradient, slope, *ctx.saved_tensors, ctx.options, ctx.sums)
    return _gradient_anew(ctx.kernels, slope, ctx.saved_tensors, ctx.options, ctx.sums, ctx.in_place)


def _gradient_anew(kernels: Any, slope: Tensor, saved: Any, options: Options, sums: RowSums, in_place: bool) -> Tensor:
    """The gradient from the sums of the forward pass."""
    input, target, weight, factor = saved
    upstream: Tensor | None = slope
    if options.reduction == "none":
        factor, upstream = slope if factor is None else slope * factor, None
    return kernels.cross_entropy_backward(input, target, weight, factor, options, sums, upstream, in_place)


def _spend(ctx: Any) -> None:
    """Allow one backward pass, without derivatives of its own."""
    if torch.is_grad_enabled():
        raise RuntimeError("expected no second derivative with inplace_backward, which overwrites the scores")
    if ctx.spent:
        raise RuntimeError("expected one backward pass with inplace_backward, got a second: the scores are overwritten")
    ctx.spent = True


class _Overwritten(torch.autograd.Function):
    """The identity; backward writes the gradient into the input's memory, for losses that cannot do so themselves."""

    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        ctx.input, ctx.spent = input.detach(), False  # of the same memory and version
        return input.view_as(input)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor):  # type: ignore[override]
        _spend(ctx)
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
        if torch.is_grad_enabled():
            return None, gradient - result.exp() * gradient.sum(ctx.dim, keepdim=True), None
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
        if torch.is_grad_enabled():
            rows = reference.nll_loss(input, target, ctx.ignore_index)
            return None, torch.autograd.grad(rows, input, slope, create_graph=True)[0], None, None
        return None, ctx.kernels.pick_backward(slope, target, input, ctx.ignore_index), None, None


class Backend:
    """The functions of `kernels/reference.py` by one set of kernels, for all classes allowed, with derivatives."""

    def __init__(self, module: str) -> None:
        self.module = module

    @cached_property
    def kernels(self) -> Any:
        """The kernels, imported when they are first needed."""
        return import_module(self.module)

    def log_softmax(self, input: Tensor, dim: int) -> Tensor:
        """As `reference.log_softmax`."""
        if torch.compiler.is_compiling():
            return reference.log_softmax(input, dim)
        return _LogSoftmax.apply(self.kernels, input, dim % input.dim())  # type: ignore[return-value]

    def nll_loss(self, input: Tensor, target: Tensor, ignore_index: int) -> Tensor:
        """As `reference.nll_loss`."""
        if torch.compiler.is_compiling():
            return reference.nll_loss(input, target, ignore_index)
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
        """As `reference.cross_entropy`; in place, its backward pass overwrites the input with the gradient."""
        assert allowed is None
        tensors = input, target, weight, row_weights
        if torch.compiler.is_compiling():
            return _operator(*tensors, *options)[0]
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
        return self.kernels.cross_entropy_block(scores, target, weight, row_factor, options, with_gradient)

    def statistics_block(self, *arguments: Any) -> reference.RowStatistics:
        """As `reference.statistics_block`."""
        return self.kernels.statistics_block(*arguments)

    def statistics_block_backward(self, *arguments: Any) -> None:
        """As `reference.statistics_block_backward`."""
        self.kernels.statistics_block_backward(*arguments)


CPU, TRITON = Backend("nll.kernels.cpu"), Backend("nll.kernels.triton.backend")


def kernels_of(input: Tensor) -> Any:
    """The kernels of a tensor's device."""
    return (CPU if input.device.type == "cpu" else TRITON).kernels


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


# ---- For torch.compile: operators that it does not look into. Two of them, rather than one that returns the gradient
# with the loss: between forward and backward the graph then holds two numbers for each row.


_ARGUMENTS = (
    "Tensor input, Tensor target, Tensor? weight, Tensor? row_weights, SymInt ignore_index, str reduction, "
    "float label_smoothing, float temperature, float? softcap, float z_loss"
)


@torch.library.custom_op(
    "nll::cross_entropy", mutates_args=(), schema=f"({_ARGUMENTS}) -> (Tensor loss, Tensor shift, Tensor total)"
)
def _operator(input, target, weight, row_weights, *options):
    kernels = kernels_of(input)
    loss, sums, _ = kernels.cross_entropy(input, target, weight, row_weights, Options(*options), with_gradient=False)
    return loss, *sums


@_operator.register_fake
def _(input, target, weight, row_weights, ignore_index, reduction, *_):
    rows = input.new_empty(reference.rows_shape(input), dtype=torch.promote_types(input.dtype, torch.float32))
    return rows if reduction == "none" else rows.new_empty(()), torch.empty_like(rows), torch.empty_like(rows)


@torch.library.custom_op(
    "nll::cross_entropy_backward",
    mutates_args=(),
    schema=f"(Tensor slope, Tensor shift, Tensor total, {_ARGUMENTS}) -> Tensor",
)
def _backward_operator(slope, shift, total, input, target, weight, row_weights, *options):
    saved = input, target, weight, row_weights
    return _gradient_anew(kernels_of(input), slope, saved, Options(*options), RowSums(shift, total), False)


@_backward_operator.register_fake
def _(slope, shift, total, input, *_):
    return input.new_empty(input.shape)


def _setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    _, shift, total = output
    ctx.save_for_backward(shift, total, *inputs[:4])
    ctx.options = inputs[4:]
    ctx.mark_non_differentiable(shift, total)


def _operator_backward(ctx: Any, slope: Tensor, *_: Tensor | None):
    return _backward_operator(slope, *ctx.saved_tensors, *ctx.options), *[None] * 9


_operator.register_autograd(_operator_backward, setup_context=_setup)
