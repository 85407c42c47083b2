"""Losses of a linear layer's scores z = x W' + b, a block of rows at a time: the scores as a whole
are never there.

With g the gradient of a block's losses by its scores, dx = g W, dW = g' x summed over the blocks,
db = sum g. Where the loss is reduced to a number the forward pass does all of that while the block
is at hand, three products in all; else the backward pass computes the scores again. What else is
asked for (derivatives of derivatives, of class weights, of class probabilities, forward mode,
torch.func) is derived from the definition, by `_blocks.over_blocks`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from nll import _torch
from nll.kernels import reference
from nll.kernels.reference import Options
from nll.losses import autograd, dispatch
from nll.losses.matmul import (
    HALF,
    NOTHING,
    Gradients,
    Plan,
    Wanted,
    kept_blocks,
    linear,
    plan,
    products_of,
    rows_by_definition,
    scores_in,
    summed_in,
)
from nll.losses.rowwise import Rowwise, over_blocks


class Problem(NamedTuple):
    """Rows and a head: what the loss is a function of."""

    input: Tensor  # (N, F)
    head: Tensor  # (C, F)
    bias: Tensor | None  # (C)
    target: Tensor  # (N) labels, or (N, C) probabilities
    weight: Tensor | None  # (C)
    row_weights: Tensor | None  # (N)
    allowed: Tensor | None  # (C) or (N, C)


# ---- The loss and its first derivatives ----------------------------------------------------------


def _one_pass(
    problem: Problem, factor: Tensor | None, options: Options, plan: Plan, wanted: Wanted
) -> tuple[Tensor, Gradients]:
    """The rows' losses times their factors and, where wanted, the gradients of the sum of those.

    Gradients of half types are left in the types that they are added up in.
    """
    x, with_gradient = problem.input, any(wanted)
    products = products_of(x, problem.head, problem.bias, plan, wanted)
    losses = x.new_zeros(len(x), dtype=summed_in(x))
    options = options._replace(reduction="sum")
    mask = _mask(problem, options)
    for rows in kept_blocks(problem.target, options.ignore_index, plan.rows):
        block = x[rows]
        scores = products.scores(block)
        target, weights = problem.target[rows], None if factor is None else factor[rows]
        allowed = _of_rows(problem.allowed, rows)
        if mask:
            scores.masked_fill_(~allowed, -torch.inf)  # type: ignore[operator]
        backend = dispatch.choose(
            scores, target, problem.weight, weights, None if mask else allowed
        )
        losses[rows] = backend.cross_entropy_block(
            scores,
            target,
            problem.weight,
            weights,
            None if mask else allowed,
            options,
            with_gradient,
        )
        # a label that is not allowed has the slope of its score, which is fixed
        if mask and with_gradient:
            scores.masked_fill_(~allowed, 0.0)  # type: ignore[operator]
        if with_gradient:
            products.add(rows, block, scores)
    return losses, products.gradients


def _of_rows(allowed: Tensor | None, rows: slice | Tensor) -> Tensor | None:
    return allowed if allowed is None or allowed.dim() == 1 else allowed[rows]


def tensors_of_block(problem: Problem, options: Options) -> tuple[Tensor | None, ...]:
    """What a block's backend is chosen by, of all rows."""
    scores = like(problem, scores_in(problem.input))
    allowed = None if _mask(problem, options) else problem.allowed
    factor = problem.row_weights
    return (
        scores,
        problem.target,
        problem.weight,
        None if factor is None else factor.to(scores.dtype),
        allowed,
    )


def _mask(problem: Problem, options: Options) -> bool:
    """Whether a score of -inf is all that it takes to rule a class out."""
    labels = problem.target.dim() == 1
    return (
        problem.allowed is not None
        and labels
        and options.softcap is None
        and options.label_smoothing == 0.0
    )


class _Normalised(NamedTuple):
    """The loss as a sum over rows: scale * sum_i factor_i (l_i + z_loss lse_i^2)."""

    factor: Tensor | None
    scale: Tensor | float
    scale_of_gradient: Tensor | float  # where nothing counts the loss is NaN, its gradient 0
    z_loss: Tensor | float


def _normalised(problem: Problem, options: Options) -> _Normalised:
    """Half types take the mean last: its gradients by scores would be too small for float16."""
    x, factor = problem.input, problem.row_weights
    if factor is not None:
        factor = factor.to(summed_in(x))
    if options.reduction != "mean":
        return _Normalised(factor, 1.0, 1.0, options.z_loss)
    mass, kept = reference.masses(
        like(problem), problem.target, problem.weight, options.ignore_index
    )
    if factor is not None:
        weighted = mass * factor
        mass, kept = weighted, weighted if kept is mass else kept * factor
    total, z_loss = mass.sum(dtype=_precise(mass)), options.z_loss
    if z_loss and kept is not mass:
        ratio = z_loss * total / kept.sum(dtype=total.dtype)
        # an accelerator is not waited for
        z_loss = float(ratio) if x.device.type == "cpu" else ratio.to(mass.dtype)
    of_gradient = (1.0 / total).masked_fill(total == 0.0, 0.0)  # where nothing counts
    if x.dtype in HALF:
        return _Normalised(factor, 1.0 / total, of_gradient, z_loss)
    each = of_gradient.expand_as(mass) if factor is None else factor * of_gradient
    return _Normalised(each.to(summed_in(x)), total / total, 1.0, z_loss)


def _precise(numbers: Tensor) -> torch.dtype:
    """The type that many numbers are added in."""
    return torch.float64 if numbers.device.type in ("cpu", "cuda") else numbers.dtype


def like(problem: Problem, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of the scores' shape and type that takes no memory."""
    return problem.input.new_zeros((), dtype=dtype).expand(
        problem.input.shape[0], problem.head.shape[0]
    )


def _value(
    problem: Problem, options: Options, max_memory: int | None, wanted: Wanted
) -> tuple[Tensor, Gradients, Tensor | float]:
    """The loss and, of reductions to a number, the wanted gradients but for a factor; in one pass
    over the rows.

    The factor is left to the moment when the upstream gradient is known: float16 would lose digits
        to either alone.
    """
    counts = _normalised(problem, options)
    by_row = options._replace(z_loss=counts.z_loss)
    rows, gradients = _one_pass(
        problem, counts.factor, by_row, plan(problem.input, problem.head, max_memory), wanted
    )
    if options.reduction == "none":
        return rows, gradients, 1.0
    return (
        (rows.sum(dtype=_precise(rows)) * counts.scale).to(rows.dtype),
        gradients,
        counts.scale_of_gradient,
    )


class _LinearCrossEntropy(torch.autograd.Function):
    """The loss of a `Problem`; the first backward hands over the gradients that the forward pass
    has computed.
    """

    @staticmethod
    @dispatch.as_written
    def forward(ctx: Any, options: Options, max_memory: int | None, *tensors: Tensor | None):  # type: ignore[override]
        ctx.options, ctx.max_memory, ctx.dtype = options, max_memory, tensors[1].dtype  # type: ignore[union-attr]
        ctx.save_for_backward(*tensors)
        at_once = ctx.needs_input_grad[2:5] if options.reduction != "none" else NOTHING
        loss, gradients, ctx.scale = _value(Problem(*tensors), options, max_memory, at_once)  # type: ignore[arg-type]
        ctx.gradients = gradients if any(at_once) else None
        return loss

    @staticmethod
    @dispatch.as_forward
    def backward(ctx: Any, slope: Tensor):  # type: ignore[override]
        wanted, many = ctx.needs_input_grad[2:5], _torch.batched(slope)
        if not torch.is_grad_enabled() and ctx.gradients is not None:
            gradients = _scaled(ctx.gradients, slope * ctx.scale, ctx.dtype)
            ctx.gradients = ctx.gradients if many else None
            return None, None, *gradients, None, None, None, None
        by_definition = torch.is_grad_enabled() or many
        gradients_of = _gradients_by_definition if by_definition else _gradients
        gradients = gradients_of(
            Problem(*ctx.saved_tensors), ctx.options, ctx.max_memory, wanted, slope
        )
        return None, None, *gradients, None, None, None, None


def _gradients_by_definition(
    problem: Problem, options: Options, max_memory: int | None, wanted: Any, slope: Tensor
) -> Gradients:
    def loss(*tensors: Any) -> Tensor:
        return by_definition(Problem(*tensors), options, max_memory)

    every = (*wanted, *[False] * (len(problem) - len(wanted)))
    return _torch.separate_gradients(loss, problem, every, slope)[:3]  # type: ignore[return-value]


def _gradients(
    problem: Problem, options: Options, max_memory: int | None, wanted: Wanted, slope: Tensor
) -> Gradients:
    """The gradients of slope . loss, the scores being computed again."""
    by: Tensor | float = slope
    if options.reduction == "none":  # is the sum with the slopes as weights
        factor = slope if problem.row_weights is None else slope * problem.row_weights
        problem, options, by = (
            problem._replace(row_weights=factor),
            options._replace(reduction="sum"),
            1.0,
        )
    _, gradients, scale = _value(problem, options, max_memory, wanted)
    return _scaled(gradients, by * scale, problem.head.dtype)


def _scaled(gradients: Gradients, factor: Tensor | float, dtype: torch.dtype) -> Gradients:
    """The gradients times a factor, in float32 or better, in the type of the layer; an accelerator
    is not asked.
    """
    if isinstance(factor, Tensor) and (factor.device.type != "cpu" or _torch.batched(factor)):
        scaled = (None if g is None else autograd.times(g, factor).to(dtype) for g in gradients)
        return tuple(scaled)  # type: ignore[return-value]
    number = float(factor)
    if number != 1.0:
        gradients = tuple(None if g is None else g.mul_(number) for g in gradients)  # type: ignore[assignment]
    return tuple(None if g is None else g.to(dtype) for g in gradients)  # type: ignore[return-value]


def by_definition(problem: Problem, options: Options, max_memory: int | None) -> Tensor:
    """The loss by the reference's formula for a block of rows: differentiable by every tensor, any
    number of times.
    """

    def losses(rows: Any, shared: Any) -> Any:
        (x, target, mask, dead), (head, bias, weight, by_class) = rows, shared
        allowed = by_class if mask is None else mask
        found = reference.row_losses(linear(x, head, bias), target, weight, allowed, options, dead)
        return tuple(part for part in found if part is not None), ()

    by_row = problem.allowed is not None and problem.allowed.dim() == 2
    dead = None if problem.row_weights is None else problem.row_weights == 0.0
    rows = problem.input, problem.target, problem.allowed if by_row else None, dead
    shared = problem.head, problem.bias, problem.weight, None if by_row else problem.allowed
    function = Rowwise(losses, 1 if options.z_loss == 0.0 else 2)
    step, _ = rows_by_definition(problem.input, problem.head.shape[0], max_memory)
    (loss, *more), _ = over_blocks(function, rows, shared, step)
    squared = more[0] if more else None
    _, _, _, target, weight, row_weights, _ = problem
    return reference.reduce_losses(
        loss, squared, like(problem), target, weight, row_weights, options
    )


def cross_entropy(problem: Problem, options: Options, max_memory: int | None) -> Tensor:
    """The loss of a linear layer's scores; IndexError for a label out of range."""
    if needs_definition(problem):
        return by_definition(problem, options, max_memory)
    if torch.compiler.is_compiling():
        # A program that is exported does not know yet which gradients will be asked for.
        known = not torch.compiler.is_exporting() and torch.is_grad_enabled()
        wanted = [known and tensor is not None and tensor.requires_grad for tensor in problem[:3]]
        return _operator(*problem, *options, max_memory, wanted)[0]
    dispatch.look_at_labels(problem.target, len(problem.head), options.ignore_index)
    if not torch.is_grad_enabled():
        return _torch.without_autocast(_value)(problem, options, max_memory, NOTHING)[0]
    return _LinearCrossEntropy.apply(options, max_memory, *problem)  # type: ignore[return-value]


def cross_entropy_of_rows(
    problem: Problem, options: Options, max_memory: int | None, valid_rows: int | None
) -> Tensor:
    """As `cross_entropy`, of the rows that are not ignored, where the caller knows how many they
    are at most.
    """
    if (
        valid_rows is None
        or valid_rows >= len(problem.target)
        or problem.target.device.type in ("cpu", "meta")
    ):
        return cross_entropy(problem, options, max_memory)
    return cross_entropy_of_first(problem, options, max_memory, valid_rows)


def cross_entropy_of_first(
    problem: Problem, options: Options, max_memory: int | None, count: int
) -> Tensor:
    """With the rows that are not ignored brought to the front, the loss of the first rows; NaN if
    they are not all.
    """
    # by their own row numbers
    dispatch.look_at_labels(problem.target, len(problem.head), options.ignore_index)
    ignored = problem.target == options.ignore_index
    index = torch.argsort(ignored.to(torch.uint8), stable=True)[:count]
    weights, allowed = problem.row_weights, problem.allowed
    loss = cross_entropy(
        problem._replace(
            input=problem.input[index],
            target=problem.target[index],
            row_weights=None if weights is None else weights[index],
            allowed=None if allowed is None else _of_rows(allowed, index),
        ),
        options,
        max_memory,
    )
    if options.reduction == "none":
        loss = loss.new_zeros(len(ignored)).index_copy(0, index, loss)
    return loss.masked_fill((~ignored).sum() > count, torch.nan)


def needs_definition(problem: Problem) -> bool:
    """Whether the loss is to be made of operators that autograd, torch.func, tracers and modes look
    into.
    """
    if _torch.transforming():
        return True
    others = problem.target, problem.weight, problem.row_weights
    if torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in others
    ):
        return True
    return not torch.compiler.is_compiling() and not _torch.ordinary(*problem)


# ---- For torch.compile: two operators that it does not look into ---------------------------------

_ARGUMENTS = (
    "Tensor input, Tensor head, Tensor? bias, Tensor target, Tensor? weight, Tensor? row_weights, "
    "Tensor? allowed, "
    "SymInt ignore_index, str reduction, float label_smoothing, float temperature, float? softcap, "
    "float z_loss, "
    "SymInt? max_memory"
)
_TENSORS = len(Problem._fields)


@torch.library.custom_op(
    "nll::linear_cross_entropy",
    mutates_args=(),
    schema=f"({_ARGUMENTS}, bool[] wanted) -> "
    "(Tensor loss, Tensor by_input, Tensor by_head, Tensor by_bias, Tensor scale)",
)
def _operator(*arguments: Any):
    """The loss and, where it is a number, the wanted gradients but for a factor and that; empty
    tensors for others.
    """
    *arguments, wanted = arguments  # type: ignore[assignment]
    problem, options, max_memory = _unpacked(arguments)
    at_once = tuple(wanted) if options.reduction != "none" else NOTHING
    with torch.no_grad():
        loss, gradients, scale = _labelled_value(problem, options, max_memory, at_once)
        if not isinstance(scale, Tensor):
            scale = loss.new_full((), scale)
    return loss, *_filled(gradients, problem), scale.to(loss.dtype)


@_torch.without_autocast
def _labelled_value(problem: Problem, options: Options, max_memory: int | None, wanted: Any):
    dispatch.look_at_labels(problem.target, len(problem.head), options.ignore_index)
    return _value(problem, options, max_memory, wanted)


@_operator.register_fake
def _(*arguments: Any):
    *arguments, wanted = arguments  # type: ignore[assignment]
    problem, options, _ = _unpacked(arguments)
    loss = problem.input.new_empty(problem.input.shape[0], dtype=summed_in(problem.input))
    number = loss.new_empty(())
    if options.reduction == "none":
        wanted = NOTHING
    types = scores_in(problem.input), loss.dtype, loss.dtype
    return (
        loss if options.reduction == "none" else number,
        *_unfilled(problem, wanted, types),
        loss.new_empty(()),
    )


@torch.library.custom_op(
    "nll::linear_cross_entropy_backward",
    mutates_args=(),
    schema=f"(Tensor slope, {_ARGUMENTS}, bool[] wanted) -> (Tensor by_input, Tensor by_head, "
    f"Tensor by_bias)",
)
def _backward_operator(slope: Tensor, *arguments: Any):
    *arguments, wanted = arguments  # type: ignore[assignment]
    problem, options, max_memory = _unpacked(arguments)
    with torch.no_grad():
        gradients = _torch.without_autocast(_gradients)(
            problem, options, max_memory, tuple(wanted), slope
        )
    return _filled(gradients, problem)


@_backward_operator.register_fake
def _(slope: Tensor, *arguments: Any):
    problem = _unpacked(arguments[:-1])[0]
    return _unfilled(problem, arguments[-1], [problem.head.dtype] * 3)


def _unpacked(arguments: Any) -> tuple[Problem, Options, int | None]:
    *rest, max_memory = arguments
    return Problem(*rest[:_TENSORS]), Options(*rest[_TENSORS:]), max_memory


def _filled(gradients: Gradients, problem: Problem) -> tuple[Tensor, ...]:
    return tuple(problem.input.new_empty(0) if g is None else g for g in gradients)


def _unfilled(problem: Problem, wanted: Any, types: Any) -> tuple[Tensor, ...]:
    return tuple(
        t.new_empty(t.shape, dtype=dtype) if want and t is not None else problem.input.new_empty(0)
        for t, want, dtype in zip(problem[:3], wanted, types, strict=True)
    )


def _setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    *ctx.arguments, ctx.stored = inputs[_TENSORS:]
    if ctx.arguments[1] == "none":
        ctx.stored = NOTHING
    ctx.save_for_backward(*inputs[:_TENSORS], *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _operator_backward(ctx: Any, slope: Tensor, *_: Tensor | None):
    problem, (*gradients, scale) = (
        Problem(*ctx.saved_tensors[:_TENSORS]),
        ctx.saved_tensors[_TENSORS:],
    )
    wanted = list(ctx.needs_input_grad[:3])
    if any(ctx.needs_input_grad[3:_TENSORS]):
        raise RuntimeError(
            "expected no gradient by the target or by weights in a program exported without one"
        )
    if torch.is_grad_enabled():
        *options, max_memory = ctx.arguments
        gradients = _gradients_by_definition(problem, Options(*options), max_memory, wanted, slope)
    elif all(stored or not want for stored, want in zip(ctx.stored, wanted, strict=True)):
        gradients = [autograd.times(g, slope * scale).to(problem.head.dtype) for g in gradients]
    else:
        gradients = _backward_operator(slope, *problem, *ctx.arguments, wanted)
    found = (g if want else None for g, want in zip(gradients, wanted, strict=True))
    return *found, *[None] * (_TENSORS - 3 + len(ctx.arguments) + 1)


_operator.register_autograd(_operator_backward, setup_context=_setup)
