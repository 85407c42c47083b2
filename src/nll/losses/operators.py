"""Losses computed in blocks: how autograd, torch.compile and torch.export see them.

A `Loss` is written three times: the formulas of its value and of its first derivatives, and the
definition, whose operators autograd sees. A call takes the formulas in an autograd function, or in
two operators that the compiler does not look into; or the definition, where derivatives of
derivatives, forward mode, torch.func, tracers or modes need it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nll import _torch
from nll.kernels import reference
from nll.kernels.layout import class_dim, rows_shape
from nll.kernels.types import Options
from nll.losses import arguments, autograd, dispatch

Tensors = Sequence[Tensor | None]


def _never(options: Any) -> bool:
    return False


@dataclass(frozen=True, eq=False)
class Loss:
    """A loss of tensors, the differentiable ones first, and of options, a named tuple."""

    name: str
    tensors: str  # their schema
    options: str  # their schema
    options_type: Any
    n_inputs: int  # differentiable
    n_outputs: int  # differentiable
    outputs: int  # of `forward`, without the stored ones
    saved: tuple[int, ...]  # the outputs that `gradients` needs
    # (options, tensors, wanted) -> outputs, and gradients with whatever scales them ("stored")
    forward: Callable[..., tuple[Tensors, Tensors]]
    # the same of empty tensors
    shapes: Callable[..., tuple[Tensors, Tensors]]
    # (options, tensors, wanted, saved, grads) -> gradients
    gradients: Callable[..., Tensors]
    # (options, tensors, factors) -> outputs; the derivatives of rows with factor 0 must be finite
    definition: Callable[..., Tensors]
    stores: Callable[[Any], bool] = _never  # whether the forward pass computes gradients
    # (dtype, stored, grads, consume) -> gradients; may overwrite what is stored to consume it
    scaled: Callable[..., Tensors] | None = None
    n_stored: int = 0
    operator: Any = field(init=False)
    backward_operator: Any = field(init=False)

    def __post_init__(self) -> None:
        operator, backward_operator = _register(self)
        object.__setattr__(self, "operator", operator)
        object.__setattr__(self, "backward_operator", backward_operator)

    @property
    def n_tensors(self) -> int:
        return self.tensors.count("Tensor")

    def __call__(self, options: Any, tensors: Tensors, factors: Any = None) -> Tensors:
        if self.needs_definition(tensors):
            return self.definition(options, tensors, factors)
        if torch.compiler.is_compiling():
            # An exported program does not know yet which gradients it will be asked for.
            known = not torch.compiler.is_exporting() and torch.is_grad_enabled()
            inputs = tensors[: self.n_inputs]
            wanted = [known and t is not None and t.requires_grad for t in inputs]
            outputs = self.operator(*tensors, *options, *([wanted] if self.n_stored else []))
            return outputs[: self.outputs] if isinstance(outputs, tuple) else (outputs,)
        if not torch.is_grad_enabled():
            return _torch.without_autocast(self.forward)(options, tensors, self.nothing)[0]
        return _Function.apply(self, options, *tensors)  # type: ignore[return-value]

    @property
    def nothing(self) -> tuple[bool, ...]:
        return (False,) * self.n_inputs

    def stored(self, options: Any, wanted: Sequence[bool]) -> tuple[bool, ...]:
        """Which gradients the forward pass computes."""
        return tuple(wanted) if self.stores(options) else self.nothing

    def needs_definition(self, tensors: Tensors) -> bool:
        """Whether autograd, torch.func, a tracer or a mode has to see the operators of the loss."""
        if _torch.transforming():
            return True
        if torch.is_grad_enabled() and any(
            t is not None and t.requires_grad for t in tensors[self.n_inputs :]
        ):
            return True
        return not torch.compiler.is_compiling() and not _torch.ordinary(*tensors)

    def gradients_by_definition(
        self, options: Any, tensors: Tensors, wanted: Sequence[bool], grads: Sequence[Tensor]
    ) -> Tensors:
        def outputs(*points: Any) -> Tensors:
            return self.definition(options, points, grads)[: self.n_outputs]

        every = (*wanted, *[False] * (self.n_tensors - self.n_inputs))
        gradients = _torch.separate_gradients(outputs, tuple(tensors), every, tuple(grads))
        return gradients[: self.n_inputs]


class _Function(torch.autograd.Function):
    """A loss in eager mode; the first backward pass returns the gradients that the forward pass has
    stored.
    """

    @staticmethod
    @_torch.without_autocast
    def forward(ctx: Any, loss: Loss, options: Any, *tensors: Tensor | None):  # type: ignore[override]
        ctx.backend = dispatch.forced()
        flags = loss.stored(options, ctx.needs_input_grad[2 : 2 + loss.n_inputs])
        outputs, stored = loss.forward(options, tensors, flags)
        ctx.loss, ctx.options, ctx.stored = loss, options, stored if any(flags) else None
        ctx.dtype = tensors[0].dtype  # type: ignore[union-attr]
        ctx.mark_non_differentiable(*outputs[loss.n_outputs :])
        ctx.save_for_backward(*tensors, *(outputs[i] for i in loss.saved))
        return tuple(outputs)

    @staticmethod
    @_torch.without_autocast
    def backward(ctx: Any, *grads: Tensor):  # type: ignore[override]
        with dispatch.forcing(ctx.backend):  # this may be another thread
            return _backward(ctx, grads)


def _backward(ctx: Any, grads: Any) -> tuple:
    loss: Loss = ctx.loss
    n = loss.n_inputs
    wanted, grads = ctx.needs_input_grad[2 : 2 + n], grads[: loss.n_outputs]
    batched = any(map(_torch.batched, grads))
    if ctx.stored is not None and not torch.is_grad_enabled():  # the tensors may have changed since
        gradients = loss.scaled(ctx.dtype, ctx.stored, grads, not batched)  # type: ignore[misc]
        ctx.stored = ctx.stored if batched else None
        return None, None, *gradients, *[None] * (loss.n_tensors - n)
    saved = ctx.saved_tensors  # to be read once, for checkpoints
    tensors, saved = saved[: loss.n_tensors], saved[loss.n_tensors :]
    if torch.is_grad_enabled() or batched:
        gradients = loss.gradients_by_definition(ctx.options, tensors, wanted, grads)
    else:
        gradients = loss.gradients(ctx.options, tensors, wanted, saved, grads)
    return None, None, *gradients, *[None] * (loss.n_tensors - n)


# ---- Operators -----------------------------------------------------------------------------------


def _register(loss: Loss) -> tuple[Any, Any]:
    """The loss as two operators, between which the graph holds only what is saved.

    Which backend runs is chosen when they run. An empty tensor stands for a gradient that is not
    requested.
    """
    run = _Operator(loss)
    schema, wanted = f"{loss.tensors}, {loss.options}", ", bool[] wanted"
    returned = ", ".join(["Tensor"] * (loss.outputs + loss.n_stored))
    operator = torch.library.custom_op(
        f"nll::{loss.name}",
        _untracked(run.forward),
        mutates_args=(),
        schema=f"({schema}{wanted if loss.n_stored else ''}) -> ({returned})",
    )
    backward_operator = torch.library.custom_op(
        f"nll::{loss.name}_backward",
        _untracked(run.gradients),
        mutates_args=(),
        schema=f"(Tensor[] grads, Tensor[] saved, {schema}{wanted}) -> Tensor[]",
    )
    operator.register_fake(run.shapes)
    operator.register_autograd(run.backward, setup_context=run.setup)
    backward_operator.register_fake(run.gradient_shapes)
    return operator, backward_operator


class _Operator:
    """What the operators of a loss do; their arguments are its tensors, options and `wanted`."""

    def __init__(self, loss: Loss) -> None:
        self.loss = loss

    def unpacked(self, values: Any) -> tuple[Any, Any, Sequence[bool]]:
        loss, n = self.loss, self.loss.n_tensors
        options = loss.options_type(*values[n : n + len(loss.options_type._fields)])
        return options, values[:n], loss.stored(options, values[-1])

    def forward(self, *values: Any) -> Any:
        return _joined(*self.loss.forward(*self.unpacked(values)), values[0])

    def shapes(self, *values: Any) -> Any:
        return _joined(*self.loss.shapes(*self.unpacked(values)), values[0])

    def gradients(self, grads: Any, saved: Any, *values: Any) -> list[Tensor]:
        options, tensors, _ = self.unpacked(values)
        gradients = self.loss.gradients(options, tensors, tuple(values[-1]), saved, grads)
        return _present(gradients, values[0])

    def gradient_shapes(self, grads: Any, saved: Any, *values: Any) -> list[Tensor]:
        return _present(unfilled(values[: self.loss.n_inputs], values[-1]), values[0])

    def setup(self, ctx: Any, inputs: tuple, output: Any) -> None:
        loss, n = self.loss, self.loss.n_tensors
        outputs = output if isinstance(output, tuple) else (output,)
        ctx.arguments = *[None] * n, *inputs[n:]
        ctx.mark_non_differentiable(*outputs[loss.n_outputs :])
        saved = *(outputs[i] for i in loss.saved), *outputs[loss.outputs :]
        ctx.save_for_backward(*inputs[:n], *saved)

    def backward(self, ctx: Any, *grads: Tensor) -> tuple:
        loss, n, n_inputs = self.loss, self.loss.n_tensors, self.loss.n_inputs
        saved = list(ctx.saved_tensors)  # to be read once, for checkpoints
        tensors, saved = saved[:n], saved[n:]
        wanted, grads = list(ctx.needs_input_grad[:n_inputs]), grads[: loss.n_outputs]
        if any(ctx.needs_input_grad[n_inputs:n]):
            raise RuntimeError(
                "expected no gradient with respect to the target or weights in a program exported "
                "without one"
            )
        options, _, stored = self.unpacked(ctx.arguments)
        if torch.is_grad_enabled():
            results = loss.gradients_by_definition(options, tensors, wanted, grads)
        elif all(there or not want for there, want in zip(stored, wanted, strict=True)):
            results = loss.scaled(tensors[0].dtype, saved[-loss.n_stored :], grads, False)  # type: ignore[misc]
        else:
            saved = saved[: len(loss.saved)]
            results = loss.backward_operator(list(grads), saved, *tensors, *options, wanted)
        of_inputs = (g if want else None for g, want in zip(results, wanted, strict=True))
        return *of_inputs, *[None] * (len(ctx.arguments) - n_inputs)


def _joined(outputs: Tensors, stored: Tensors, like: Tensor) -> Any:
    results: Any = (*outputs, *_present(stored, like))
    return results if len(results) > 1 else results[0]


def _untracked(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.no_grad()(_torch.without_autocast(function))


def _present(tensors: Any, like: Tensor) -> list[Tensor]:
    numbers = [number(t, like) if isinstance(t, float) else t for t in tensors]
    return [like.new_empty(0) if t is None else t for t in numbers]


def number(value: float, like: Tensor) -> Tensor:
    """Return a number as the operators store it, in float64 where the device has it."""
    wide = like.device.type in ("cpu", "cuda")
    return like.new_full((), value, dtype=torch.float64 if wide else torch.float32)


def unfilled(tensors: Tensors, wanted: Sequence[bool], *dtypes: torch.dtype) -> Tensors:
    """Return tensors of the shapes of the wanted gradients, by default of the tensors' dtypes."""
    types = dtypes or [None if t is None else t.dtype for t in tensors]
    return [
        t.new_empty(t.shape, dtype=dtype) if want and t is not None else None
        for t, want, dtype in zip(tensors, wanted, types, strict=True)
    ]


# ---- Cross entropy of logits, an operator for the compiler alone ---------------------------------


def _forward(options: Options, tensors: Any, wanted: Any) -> tuple[Tensors, Tensors]:
    """The loss, and each row's sums (2, rows) for the backward pass."""
    input, target = tensors[:2]
    route = dispatch.route(*tensors)
    try:
        if route.backend is not reference:
            loss, sums, _ = route.kernels.cross_entropy(*tensors, options, False)
            return (loss, sums), ()
        dispatch.guard_labels(route, input, target, options.ignore_index)
        loss = reference.cross_entropy(*tensors, options=options)
    except IndexError as error:
        classes = input.shape[class_dim(input)]
        raise arguments.label_error(target, classes, options.ignore_index) or error from None
    return (loss.clone(), _sums_like(input)), ()


def _sums_like(input: Tensor) -> Tensor:
    dtype = torch.promote_types(input.dtype, torch.float32)
    return input.new_zeros((2, *rows_shape(input)), dtype=dtype)


def _shapes(options: Options, tensors: Any, wanted: Any) -> tuple[Tensors, Tensors]:
    sums = _sums_like(tensors[0])
    return (sums.new_empty(sums.shape[1:] if options.reduction == "none" else ()), sums), ()


def _gradients(options: Options, tensors: Any, wanted: Any, saved: Any, grads: Any) -> Tensors:
    route, (grad,) = dispatch.route(*tensors), grads
    if route.backend is reference:
        return (reference.cross_entropy_gradient(grad, *tensors, options=options),)
    return (autograd.gradient_from_sums(route.kernels, grad, tensors, options, saved[0], False),)


def _definition(options: Options, tensors: Any, factors: Any) -> Tensors:
    return (reference.cross_entropy(*tensors, options=options),)


OPTIONS = (
    "SymInt ignore_index, str reduction, float label_smoothing, float temperature, "
    "float? softcap, float z_loss"
)
cross_entropy = Loss(
    name="cross_entropy",
    tensors="Tensor input, Tensor target, Tensor? weight, Tensor? row_weights, Tensor? allowed",
    options=OPTIONS,
    options_type=Options,
    n_inputs=1,
    n_outputs=1,
    outputs=2,
    saved=(1,),
    forward=_forward,
    shapes=_shapes,
    gradients=_gradients,
    definition=_definition,
)
