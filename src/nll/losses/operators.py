"""The cross entropy of scores as an operator that torch.compile and torch.export do not look into.

Two operators, rather than one that returns the gradient with the loss: between forward and backward
the graph then holds two numbers for each row. Which backend runs is chosen when they run. No output
shares memory with another.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nll.kernels import reference
from nll.kernels.reference import Options, RowSums
from nll.losses import arguments, autograd, dispatch

_ARGUMENTS = (
    "Tensor input, Tensor target, Tensor? weight, Tensor? row_weights, SymInt ignore_index, str "
    "reduction, "
    "float label_smoothing, float temperature, float? softcap, float z_loss"
)


@torch.library.custom_op(
    "nll::cross_entropy", mutates_args=(), schema=f"({_ARGUMENTS}) -> (Tensor loss, Tensor sums)"
)
def cross_entropy(input, target, weight, row_weights, *options):
    """The loss, and what the backward pass needs of each row, (2, rows)."""
    options = Options(*options)
    with torch.no_grad():
        backend = dispatch.choose(input, target, weight, row_weights)
        try:
            if backend is not reference:
                loss, sums, _ = backend.kernels.cross_entropy(
                    input, target, weight, row_weights, options, False
                )
                return loss, torch.stack(sums)
            dispatch.look_at_labels(
                target, input.shape[reference.class_dim(input)], options.ignore_index
            )
            loss = reference.cross_entropy(input, target, weight, row_weights, None, options)
        except IndexError as error:
            classes = input.shape[reference.class_dim(input)]
            raise arguments.label_error(target, classes, options.ignore_index) or error from None
    return loss.clone(), _sums_like(input)


def _sums_like(input: Tensor) -> Tensor:
    dtype = torch.promote_types(input.dtype, torch.float32)
    return input.new_zeros((2, *reference.rows_shape(input)), dtype=dtype)


@cross_entropy.register_fake
def _(input, target, weight, row_weights, ignore_index, reduction, *_):
    sums = _sums_like(input)
    return sums.new_empty(sums.shape[1:] if reduction == "none" else ()), sums


@torch.library.custom_op(
    "nll::cross_entropy_backward",
    mutates_args=(),
    schema=f"(Tensor slope, Tensor sums, {_ARGUMENTS}) -> Tensor",
)
def cross_entropy_backward(slope, sums, input, target, weight, row_weights, *options):
    """`slope` times the gradient by the input."""
    saved, options = (input, target, weight, row_weights), Options(*options)
    with torch.no_grad():
        backend = dispatch.choose(*saved)
        if backend is reference:
            return reference.cross_entropy_gradient(slope, *saved, options)
        return autograd.gradient_anew(backend.kernels, slope, saved, options, RowSums(*sums), False)


@cross_entropy_backward.register_fake
def _(slope, sums, input, *_):
    return input.new_empty(input.shape)


def _setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(output[1], *inputs[:4])
    ctx.options = inputs[4:]
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, slope: Tensor, *_: Tensor | None):
    sums, *saved = ctx.saved_tensors
    if any(ctx.needs_input_grad[1:4]):
        raise RuntimeError(
            "expected no gradient by the target or by weights in a program exported without one"
        )
    if torch.is_grad_enabled():
        gradient = autograd.gradient_by_definition(slope, tuple(saved), Options(*ctx.options))
    else:
        gradient = cross_entropy_backward(slope, sums, *saved, *ctx.options)
    return gradient, *[None] * 9


cross_entropy.register_autograd(_backward, setup_context=_setup)
