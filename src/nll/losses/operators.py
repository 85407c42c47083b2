"""Losses as operators that torch.compile and torch.export do not look into.

An operator's forward and backward pass are two operators: between them the graph holds only what
the forward pass saves. Which backend runs is chosen when they run. No output shares memory with
another; an empty tensor stands for a gradient that is not requested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nll import _torch
from nll.kernels import reference
from nll.kernels.layout import class_dim, rows_shape
from nll.kernels.types import Options, RowSums
from nll.losses import arguments, autograd, dispatch

Gradients = Sequence[Tensor | None]


def _none_stored(*_: Any) -> None:
    """No gradient is saved."""


class Loss(NamedTuple):
    """A loss of tensors and options, and how to differentiate it.

    The arguments are all tensors, the differentiable ones first, and then the options.
    """

    name: str
    tensors: str  # the schema of the tensors
    options: str  # and that of the options
    outputs: str  # and that of the outputs, the differentiable ones first
    n_inputs: int  # differentiable
    n_outputs: int
    saved: tuple[int, ...]  # the outputs that the backward pass needs
    # (*tensors, *options) -> outputs; and the same of their shapes alone
    forward: Callable[..., Any]
    shapes: Callable[..., Any]
    # (grads, saved, tensors, options, wanted) -> gradients by the formulas
    gradients: Callable[..., Gradients]
    # (grads, tensors, options, wanted) -> differentiable gradients
    definition: Callable[..., Gradients]
    # as `gradients`, from what is saved: by operators that the compiler sees; None if they are not
    stored: Callable[..., Gradients | None] = _none_stored


def register(loss: Loss) -> Any:
    """Return a loss as an operator."""
    n_tensors, n_inputs = loss.tensors.count("Tensor"), loss.n_inputs
    schema = f"{loss.tensors}, {loss.options}"
    name = f"nll::{loss.name}"
    operator = torch.library.custom_op(
        name,
        _without_gradients(loss.forward),
        mutates_args=(),
        schema=f"({schema}) -> ({loss.outputs})",
    )
    operator.register_fake(loss.shapes)

    def gradients(grads: Any, saved: Any, wanted: Any, *arguments: Any) -> list[Tensor]:
        tensors, options = arguments[:n_tensors], arguments[n_tensors:]
        return present(loss.gradients(grads, saved, tensors, options, tuple(wanted)), tensors[0])

    backward_operator = torch.library.custom_op(
        f"{name}_backward",
        _without_gradients(gradients),
        mutates_args=(),
        schema=f"(Tensor[] grads, Tensor[] saved, bool[] wanted, {schema}) -> Tensor[]",
    )

    @backward_operator.register_fake
    def _(grads: Any, saved: Any, wanted: Any, *arguments: Any) -> list[Tensor]:
        return unfilled(arguments[:n_inputs], wanted, arguments[0])

    def setup(ctx: Any, inputs: tuple, output: Any) -> None:
        outputs = output if isinstance(output, tuple) else (output,)
        ctx.options = inputs[n_tensors:]
        ctx.mark_non_differentiable(*outputs[loss.n_outputs :])
        ctx.save_for_backward(*inputs[:n_tensors], *(outputs[i] for i in loss.saved))

    def backward(ctx: Any, *grads: Tensor) -> tuple:
        tensors, saved = ctx.saved_tensors[:n_tensors], list(ctx.saved_tensors[n_tensors:])
        wanted, grads = list(ctx.needs_input_grad[:n_inputs]), grads[: loss.n_outputs]
        if any(ctx.needs_input_grad[n_inputs:n_tensors]):
            raise RuntimeError(
                "expected no gradient with respect to the target or weights in a program exported "
                "without one"
            )
        if torch.is_grad_enabled():
            results = loss.definition(grads, tensors, ctx.options, wanted)
        else:
            results = loss.stored(grads, saved, tensors, ctx.options, wanted)
            if results is None:
                results = backward_operator(list(grads), saved, wanted, *tensors, *ctx.options)
        of_inputs = (g if want else None for g, want in zip(results, wanted, strict=True))
        return *of_inputs, *[None] * (n_tensors - n_inputs + len(ctx.options))

    operator.register_autograd(backward, setup_context=setup)
    return operator


def _without_gradients(function: Callable[..., Any]) -> Callable[..., Any]:
    run = _torch.without_autocast(function)

    def without_gradients(*arguments: Any) -> Any:
        with torch.no_grad():
            return run(*arguments)

    return without_gradients


def present(gradients: Gradients, like: Tensor) -> list[Tensor]:
    """Return the gradients with empty tensors for those that are not requested."""
    return [like.new_empty(0) if g is None else g for g in gradients]


def unfilled(
    tensors: Gradients, wanted: Sequence[bool], like: Tensor, *dtypes: torch.dtype
) -> list[Tensor]:
    """Return tensors of the shapes of `present` gradients, by default of the tensors' dtypes."""
    return [
        t.new_empty(t.shape, dtype=dtypes[i] if dtypes else t.dtype)
        if want and t is not None
        else like.new_empty(0)
        for i, (t, want) in enumerate(zip(tensors, wanted, strict=True))
    ]


# ---- Cross entropy of logits ---------------------------------------------------------------------


def _forward(input, target, weight, row_weights, *options):
    """The loss, and each row's sums (2, rows) for the backward pass."""
    options = Options(*options)
    route = dispatch.route(input, target, weight, row_weights)
    try:
        if route.backend is not reference:
            loss, sums, _ = route.kernels.cross_entropy(
                input, target, weight, row_weights, options, False
            )
            return loss, torch.stack(sums)
        dispatch.guard_labels(route, input, target, options.ignore_index)
        loss = reference.cross_entropy(input, target, weight, row_weights, None, options)
    except IndexError as error:
        classes = input.shape[class_dim(input)]
        raise arguments.label_error(target, classes, options.ignore_index) or error from None
    return loss.clone(), _sums_like(input)


def _sums_like(input: Tensor) -> Tensor:
    dtype = torch.promote_types(input.dtype, torch.float32)
    return input.new_zeros((2, *rows_shape(input)), dtype=dtype)


def _shapes(input, target, weight, row_weights, ignore_index, reduction, *_):
    sums = _sums_like(input)
    return sums.new_empty(sums.shape[1:] if reduction == "none" else ()), sums


def _gradients(grads, saved, tensors, options, wanted):
    route, options = dispatch.route(*tensors), Options(*options)
    if route.backend is reference:
        return [reference.cross_entropy_gradient(*grads, *tensors, options)]
    sums = RowSums(*saved[0])
    return [autograd.gradient_from_sums(route.kernels, *grads, tensors, options, sums, False)]


def _definition(grads, tensors, options, wanted):
    return [autograd.gradient_by_definition(*grads, tensors, Options(*options))]


OPTIONS = (
    "SymInt ignore_index, str reduction, float label_smoothing, float temperature, "
    "float? softcap, float z_loss"
)
cross_entropy = register(
    Loss(
        name="cross_entropy",
        tensors="Tensor input, Tensor target, Tensor? weight, Tensor? row_weights",
        options=OPTIONS,
        outputs="Tensor loss, Tensor sums",
        n_inputs=1,
        n_outputs=1,
        saved=(1,),
        forward=_forward,
        shapes=_shapes,
        gradients=_gradients,
        definition=_definition,
    )
)
