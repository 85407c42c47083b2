"""Derivatives of the compiled losses.

First derivatives run in the kernels. Second derivatives, requested with `create_graph=True`, and
batches of upstream gradients differentiate the reference's definition at the same point;
`dispatch.route` sends forward mode and `torch.func` there from the start.
"""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from nll import _torch
from nll.kernels import reference
from nll.kernels.types import Backend, Kernels, LogKernels, Options

# Types whose gradient may be stored before its factor is known: float16 would lose digits.
STORABLE = frozenset({torch.float32, torch.float64, torch.bfloat16})


class Compiled:
    """A `types.Backend` made of compiled kernels."""

    def __init__(self, module: str) -> None:
        self.module = module

    @cached_property
    def kernels(self) -> Kernels:
        """The kernels, imported when they are first needed."""
        return import_module(self.module)  # type: ignore[return-value]

    def log_softmax(self, input: Tensor, dim: int) -> Tensor:
        return _LogSoftmax.apply(self.kernels, input, dim % input.dim())  # type: ignore[return-value]

    def nll_loss(self, input: Tensor, target: Tensor, ignore_index: int) -> Tensor:
        return _Pick.apply(self.kernels, input, target, ignore_index)  # type: ignore[return-value]

    def cross_entropy(
        self,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        row_weights: Tensor | None,
        allowed: Tensor | None,
        options: Options,
        in_place: bool = False,  # the backward pass overwrites the input with the gradient
    ) -> Tensor:
        tensors: Any = input, target, weight, row_weights, allowed
        if not (torch.is_grad_enabled() and input.requires_grad):
            return self.kernels.cross_entropy(*tensors, options=options, with_gradient=False)[0]
        return _CrossEntropy.apply(self.kernels, *tensors, options, in_place)  # type: ignore[return-value]


CPU, TRITON = Compiled("nll.kernels.cpu"), Compiled("nll.kernels.triton.backend")


# ---- Cross entropy -------------------------------------------------------------------------------


class _CrossEntropy(torch.autograd.Function):
    """(input, target) -> the loss.

    Where the loss is reduced to a number, the forward pass computes the gradient in the same pass
    over the logits, and the first backward pass multiplies it by the upstream gradient. Any other
    backward pass recomputes the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        input: Tensor,
        target: Tensor,
        weight,
        row_weights,
        allowed,
        options: Options,
        in_place: bool,
    ) -> Tensor:
        store = options.reduction != "none" and not in_place and input.dtype in STORABLE
        loss, ctx.sums, ctx.gradient = kernels.cross_entropy(
            input, target, weight, row_weights, allowed, options, store
        )
        ctx.kernels, ctx.options, ctx.in_place, ctx.spent = kernels, options, in_place, False
        ctx.save_for_backward(input, target, weight, row_weights, allowed)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor):  # type: ignore[override]
        return None, _gradient(ctx, grad), None, None, None, None, None, None


def _gradient(ctx: Any, grad: Tensor) -> Tensor:
    batched = _torch.batched(grad)
    if ctx.in_place:
        _spend(ctx, batched)
    if not torch.is_grad_enabled() and ctx.gradient is not None:
        if batched:
            return times(ctx.gradient, grad)
        gradient, ctx.gradient = ctx.gradient, None
        return ctx.kernels.rescaled(gradient, grad)
    saved = ctx.saved_tensors
    if torch.is_grad_enabled() or batched:
        return gradient_by_definition(grad, saved, ctx.options)
    return gradient_from_sums(ctx.kernels, grad, saved, ctx.options, ctx.sums, ctx.in_place)


def times(gradient: Tensor, factor: Tensor) -> Tensor:
    """Return a gradient times a factor, computed in float32 or better and rounded once."""
    precise = torch.promote_types(gradient.dtype, torch.float32)
    return (gradient.to(precise) * factor).to(gradient.dtype)


def gradient_by_definition(grad: Tensor, saved: Any, options: Options) -> Tensor:
    """Return the gradient by the reference's formula: differentiable, and for batched `grad`."""

    def loss(input: Any, target: Any, weight: Any, row_weights: Any, allowed: Any) -> Tensor:
        return reference.cross_entropy(input, target, weight, row_weights, allowed, options)

    wanted = True, *[False] * (len(saved) - 1)
    return _torch.separate_gradients(loss, saved, wanted, grad)[0]  # type: ignore[return-value]


def gradient_from_sums(
    kernels: Kernels, grad: Tensor, saved: Any, options: Options, sums: Tensor, in_place: bool
) -> Tensor:
    """Return the gradient, recomputed from the sums of the forward pass."""
    input, target, weight, factor, allowed = saved
    upstream: Tensor | None = grad
    if options.reduction == "none":
        factor, upstream = grad if factor is None else grad * factor, None
    return kernels.cross_entropy_backward(
        input, target, weight, factor, allowed, options, sums, upstream, in_place
    )


# ---- In place ------------------------------------------------------------------------------------


def overwrites(input: Tensor) -> bool:
    """Whether there will be a backward pass that can overwrite its input."""
    unsupported = torch.compiler.is_compiling() or _torch.watched() or _torch.transforming()
    return torch.is_grad_enabled() and input.requires_grad and not unsupported


def cross_entropy_in_place(
    backend: Backend,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_weights: Tensor | None,
    allowed: Tensor | None,
    options: Options,
) -> Tensor:
    """As `backend.cross_entropy`; the backward pass overwrites the input with the gradient."""
    if overwrites(input):
        if isinstance(backend, Compiled):
            return backend.cross_entropy(input, target, weight, row_weights, allowed, options, True)
        input = _Overwritten.apply(input)  # type: ignore[assignment]
    return backend.cross_entropy(input, target, weight, row_weights, allowed, options)


def _spend(ctx: Any, batched: bool) -> None:
    """Allow one backward pass, for one upstream gradient and without derivatives of its own."""
    if batched:
        raise RuntimeError(
            "expected one upstream gradient with inplace_backward, got a batch of them"
        )
    if torch.is_grad_enabled():
        raise RuntimeError(
            "expected no second derivative with inplace_backward, which overwrites the logits"
        )
    if ctx.spent:
        raise RuntimeError(
            "expected one backward pass with inplace_backward, got a second: the "
            "logits are overwritten"
        )
    ctx.spent = True


class _Overwritten(torch.autograd.Function):
    """The identity; backward writes the gradient into the input's memory, for losses that cannot
    themselves.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        ctx.input, ctx.spent = input.detach(), False  # of the same memory and version
        return input.view_as(input)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor):  # type: ignore[override]
        _spend(ctx, _torch.batched(gradient))
        return ctx.input.copy_(gradient)


# ---- Log softmax and the log-probability of labels -----------------------------------------------


class _LogSoftmax(torch.autograd.Function):
    """(input, dim) -> y = log softmax; the gradient is g - exp(y) sum g."""

    @staticmethod
    def forward(ctx: Any, kernels: LogKernels, input: Tensor, dim: int) -> Tensor:
        result = kernels.log_softmax(input, dim)
        ctx.kernels, ctx.dim = kernels, dim
        ctx.save_for_backward(result)
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor):  # type: ignore[override]
        (result,) = ctx.saved_tensors
        if not (torch.is_grad_enabled() or _torch.batched(gradient)):
            return None, ctx.kernels.log_softmax_backward(gradient, result, ctx.dim), None
        precise = torch.promote_types(result.dtype, torch.float32)
        g = gradient.to(precise)
        g = g - result.to(precise).exp() * g.sum(ctx.dim, keepdim=True)
        return None, g.to(result.dtype), None


class _Pick(torch.autograd.Function):
    """(log-probabilities, labels) -> -log p of each row's label."""

    @staticmethod
    def forward(
        ctx: Any, kernels: LogKernels, input: Tensor, target: Tensor, ignore_index: int
    ) -> Tensor:
        ctx.kernels, ctx.ignore_index = kernels, ignore_index
        ctx.save_for_backward(input, target)
        return kernels.pick(input, target, ignore_index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):  # type: ignore[override]
        input, target = ctx.saved_tensors
        if not (torch.is_grad_enabled() or _torch.batched(grad)):
            gradient = ctx.kernels.pick_backward(grad, target, input, ctx.ignore_index)
            return None, gradient, None, None

        def rows(x: Tensor) -> Tensor:
            return reference.nll_loss(x, target, ctx.ignore_index)

        return None, *_torch.separate_gradients(rows, (input,), (True,), grad), None, None
