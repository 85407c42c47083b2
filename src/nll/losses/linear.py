"""Losses of a linear layer's logits z = x W' + b, one block of rows at a time: the full logits are
never materialised.

With g the gradient of a block's losses with respect to its logits, dx = g W, dW = g' x summed over
the blocks, db = sum g. Where the loss is reduced to a number the forward pass does all of that while
the block is in memory, three products in all; otherwise the backward pass recomputes the logits.
Everything else (derivatives of derivatives, of class weights, of class probabilities, forward mode,
torch.func) follows from the definition, by `rowwise.over_blocks`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from nll import _torch
from nll.kernels import reference
from nll.kernels.types import Options
from nll.losses import autograd, dispatch, operators
from nll.losses.matmul import (
    HALF,
    NOTHING,
    Gradients,
    Plan,
    Wanted,
    kept_blocks,
    linear,
    logits_dtype,
    plan,
    products_of,
    rows_by_definition,
    sum_dtype,
)
from nll.losses.rowwise import Rowwise, over_blocks


class Problem(NamedTuple):
    """Rows and a head: the tensors that the loss is a function of."""

    input: Tensor  # (N, F)
    head: Tensor  # (C, F)
    bias: Tensor | None  # (C)
    target: Tensor  # (N) labels, or (N, C) probabilities
    weight: Tensor | None  # (C)
    row_weights: Tensor | None  # (N)
    allowed: Tensor | None  # (C) or (N, C)


# ---- The route -----------------------------------------------------------------------------------


def cross_entropy(problem: Problem, options: Options, max_memory: int | None) -> Tensor:
    """Return the loss of a linear layer's logits; IndexError for a label out of range."""
    if needs_definition(problem):
        return by_definition(problem, options, max_memory)
    if torch.compiler.is_compiling():
        # An exported program does not know yet which gradients it will be asked for.
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
    """As `cross_entropy`; the caller may know an upper bound of the rows that are not ignored."""
    on_cpu = problem.target.device.type in ("cpu", "meta")
    if valid_rows is None or valid_rows >= len(problem.target) or on_cpu:
        return cross_entropy(problem, options, max_memory)
    return cross_entropy_of_first(problem, options, max_memory, valid_rows)


def cross_entropy_of_first(
    problem: Problem, options: Options, max_memory: int | None, count: int
) -> Tensor:
    """Move the rows that are not ignored to the front and return the loss of the first `count`; NaN
    if there are more.
    """
    # before the row numbers change
    dispatch.look_at_labels(problem.target, len(problem.head), options.ignore_index)
    ignored = problem.target == options.ignore_index
    index = torch.argsort(ignored.to(torch.uint8), stable=True)[:count]
    weights = problem.row_weights
    first = problem._replace(
        input=problem.input[index],
        target=problem.target[index],
        row_weights=None if weights is None else weights[index],
        allowed=_of_rows(problem.allowed, index),
    )
    loss = cross_entropy(first, options, max_memory)
    if options.reduction == "none":
        loss = loss.new_zeros(len(ignored)).index_copy(0, index, loss)
    return loss.masked_fill((~ignored).sum() > count, torch.nan)


def needs_definition(problem: Problem) -> bool:
    """Whether autograd, torch.func, a tracer or a mode has to see the operators of the loss."""
    if _torch.transforming():
        return True
    others = problem.target, problem.weight, problem.row_weights
    if torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in others
    ):
        return True
    return not torch.compiler.is_compiling() and not _torch.ordinary(*problem)


@torch.no_grad()
def route_of_blocks(problem: Problem, options: Options) -> dispatch.Route:
    """Return the route of the blocks, which autograd does not see."""
    logits = like(problem, logits_dtype(problem.input))
    allowed = None if _mask(problem, options) else problem.allowed
    factor = problem.row_weights
    factor = None if factor is None else factor.to(sum_dtype(problem.input))
    return dispatch.route(logits, problem.target, problem.weight, factor, allowed)


def _mask(problem: Problem, options: Options) -> bool:
    """Whether a logit of -inf is enough to exclude a class."""
    return (
        problem.allowed is not None
        and problem.target.dim() == 1
        and options.softcap is None
        and options.label_smoothing == 0.0
    )


# ---- The loss and its first derivatives ----------------------------------------------------------


def _one_pass(
    problem: Problem, factor: Tensor | None, options: Options, plan: Plan, wanted: Wanted
) -> tuple[Tensor, Gradients]:
    """The rows' losses times their factors and, where requested, the gradients of their sum.

    Gradients of half types are left in the types that they are summed in.
    """
    x, with_gradient = problem.input, any(wanted)
    products = products_of(x, problem.head, problem.bias, plan, wanted)
    losses = x.new_zeros(len(x), dtype=sum_dtype(x))
    mask, kernels = _mask(problem, options), route_of_blocks(problem, options).kernels
    options = options._replace(reduction="sum")
    for rows in kept_blocks(problem.target, options.ignore_index, plan.rows):
        block = x[rows]
        logits = products.logits(block)
        allowed = _of_rows(problem.allowed, rows)
        if mask:
            logits.masked_fill_(~allowed, -torch.inf)  # type: ignore[operator]
        elsewhere = {} if mask or allowed is None else {"allowed": allowed}
        losses[rows] = kernels.cross_entropy_block(
            logits,
            problem.target[rows],
            problem.weight,
            None if factor is None else factor[rows],
            options,
            with_gradient,
            **elsewhere,
        )
        if mask and with_gradient:  # a label that is not allowed has a gradient, but a fixed logit
            logits.masked_fill_(~allowed, 0.0)  # type: ignore[operator]
        if with_gradient:
            products.add(rows, block, logits)
    return losses, products.gradients


def _of_rows(allowed: Tensor | None, rows: slice | Tensor) -> Tensor | None:
    return allowed if allowed is None or allowed.dim() == 1 else allowed[rows]


class _Normalised(NamedTuple):
    """The loss as a sum over rows: scale * sum_i factor_i (l_i + z_loss lse_i^2)."""

    factor: Tensor | None
    scale: Tensor | float
    gradient_scale: Tensor | float  # with total weight 0 the loss is NaN and its gradient 0
    z_loss: Tensor | float


def _normalised(problem: Problem, options: Options) -> _Normalised:
    """Half types divide by the total weight last: the gradients by logits would underflow float16."""
    x, factor = problem.input, problem.row_weights
    if factor is not None:
        factor = factor.to(sum_dtype(x))
    if options.reduction != "mean":
        return _Normalised(factor, 1.0, 1.0, options.z_loss)
    of_loss, kept = reference.denominators(
        like(problem), problem.target, problem.weight, options.ignore_index
    )
    same = kept is of_loss
    if factor is not None:
        of_loss, kept = of_loss * factor, kept * factor
    total, z_loss = of_loss.sum(dtype=_precise(of_loss)), options.z_loss
    if z_loss and not same:
        ratio = z_loss * total / kept.sum(dtype=total.dtype)
        # an accelerator is not waited for
        z_loss = float(ratio) if x.device.type == "cpu" else ratio.to(of_loss.dtype)
    inverse = (1.0 / total).masked_fill(total == 0.0, 0.0)
    if x.dtype in HALF:
        return _Normalised(factor, 1.0 / total, inverse, z_loss)
    each = inverse.expand_as(of_loss) if factor is None else factor * inverse
    return _Normalised(each.to(sum_dtype(x)), total / total, 1.0, z_loss)


def _precise(numbers: Tensor) -> torch.dtype:
    """The type to add many numbers in."""
    return torch.float64 if numbers.device.type in ("cpu", "cuda") else numbers.dtype


def like(problem: Problem, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor of the logits' shape and type that takes no memory."""
    return problem.input.new_zeros((), dtype=dtype).expand(
        problem.input.shape[0], problem.head.shape[0]
    )


def _value(
    problem: Problem, options: Options, max_memory: int | None, wanted: Wanted
) -> tuple[Tensor, Gradients, Tensor | float]:
    """The loss and, for a reduction to a number, the wanted gradients and their factor; in one pass
    over the rows.

    The factor is left until the upstream gradient is known: float16 would lose digits to either.
    """
    normalised = _normalised(problem, options)
    options = options._replace(z_loss=normalised.z_loss)
    blocks = plan(problem.input, problem.head, max_memory)
    rows, gradients = _one_pass(problem, normalised.factor, options, blocks, wanted)
    if options.reduction == "none":
        return rows, gradients, 1.0
    loss = (rows.sum(dtype=_precise(rows)) * normalised.scale).to(rows.dtype)
    return loss, gradients, normalised.gradient_scale


class _LinearCrossEntropy(torch.autograd.Function):
    """The loss of a `Problem`; the first backward pass returns the gradients that the forward pass
    has computed.
    """

    @staticmethod
    @dispatch.as_written
    def forward(ctx: Any, options: Options, max_memory: int | None, *tensors: Tensor | None):  # type: ignore[override]
        ctx.options, ctx.max_memory, ctx.dtype = options, max_memory, tensors[1].dtype  # type: ignore[union-attr]
        ctx.save_for_backward(*tensors)
        stored = ctx.needs_input_grad[2:5] if options.reduction != "none" else NOTHING
        loss, gradients, ctx.scale = _value(Problem(*tensors), options, max_memory, stored)  # type: ignore[arg-type]
        ctx.gradients = gradients if any(stored) else None
        return loss

    @staticmethod
    @dispatch.as_forward
    def backward(ctx: Any, grad: Tensor):  # type: ignore[override]
        wanted, batched = ctx.needs_input_grad[2:5], _torch.batched(grad)
        if not torch.is_grad_enabled() and ctx.gradients is not None:
            gradients = _scaled(ctx.gradients, grad * ctx.scale, ctx.dtype)
            ctx.gradients = ctx.gradients if batched else None
            return None, None, *gradients, None, None, None, None
        by_definition = torch.is_grad_enabled() or batched
        gradients_of = _gradients_by_definition if by_definition else _gradients
        problem = Problem(*ctx.saved_tensors)
        gradients = gradients_of(problem, ctx.options, ctx.max_memory, wanted, grad)
        return None, None, *gradients, None, None, None, None


def _gradients_by_definition(
    problem: Problem, options: Options, max_memory: int | None, wanted: Any, grad: Tensor
) -> Gradients:
    def loss(*tensors: Any) -> Tensor:
        return by_definition(Problem(*tensors), options, max_memory)

    every = (*wanted, *[False] * (len(problem) - len(wanted)))
    return _torch.separate_gradients(loss, problem, every, grad)[:3]  # type: ignore[return-value]


def _gradients(
    problem: Problem, options: Options, max_memory: int | None, wanted: Wanted, grad: Tensor
) -> Gradients:
    """The gradients of grad . loss, from recomputed logits."""
    by: Tensor | float = grad
    if options.reduction == "none":  # the same as the sum with `grad` as weights
        factor = grad if problem.row_weights is None else grad * problem.row_weights
        problem, options = problem._replace(row_weights=factor), options._replace(reduction="sum")
        by = 1.0
    _, gradients, scale = _value(problem, options, max_memory, wanted)
    return _scaled(gradients, by * scale, problem.head.dtype)


def _scaled(gradients: Gradients, factor: Tensor | float, dtype: torch.dtype) -> Gradients:
    """The gradients times a factor, in float32 or better, in the type of the layer; without waiting
    for an accelerator.
    """
    if isinstance(factor, Tensor) and (factor.device.type != "cpu" or _torch.batched(factor)):
        scaled = (None if g is None else autograd.times(g, factor).to(dtype) for g in gradients)
        return tuple(scaled)  # type: ignore[return-value]
    number = float(factor)
    if number != 1.0:
        gradients = tuple(None if g is None else g.mul_(number) for g in gradients)  # type: ignore[assignment]
    return tuple(None if g is None else g.to(dtype) for g in gradients)  # type: ignore[return-value]


def by_definition(problem: Problem, options: Options, max_memory: int | None) -> Tensor:
    """Return the loss by the reference's formula for a block of rows: differentiable with respect to
    every tensor, any number of times.
    """

    def losses(rows: Any, shared: Any) -> Any:
        (x, target, mask, zero_weight), (head, bias, weight, by_class) = rows, shared
        allowed = by_class if mask is None else mask
        logits = linear(x, head, bias)
        results = reference.row_losses(logits, target, weight, allowed, options, zero_weight)
        return tuple(result for result in results if result is not None), ()

    x, head, bias, target, weight, row_weights, allowed = problem
    by_row = allowed is not None and allowed.dim() == 2
    zero_weight = None if row_weights is None else row_weights == 0.0
    rows = x, target, allowed if by_row else None, zero_weight
    shared = head, bias, weight, None if by_row else allowed
    function = Rowwise(losses, 1 if options.z_loss == 0.0 else 2)
    step, _ = rows_by_definition(x, head.shape[0], max_memory)
    (loss, *squared_lse), _ = over_blocks(function, rows, shared, step)
    return reference.reduce_losses(
        loss,
        squared_lse[0] if squared_lse else None,
        like(problem),
        target,
        weight,
        row_weights,
        options,
    )


# ---- For torch.compile and torch.export ----------------------------------------------------------

_TENSORS, _OPTIONS = len(Problem._fields), len(Options._fields)


def _forward(*arguments: Any) -> tuple[Tensor, ...]:
    """The loss and, where it is a number, the wanted gradients and their factor."""
    problem, options, max_memory, wanted = _unpacked(arguments)
    dispatch.look_at_labels(problem.target, len(problem.head), options.ignore_index)
    loss, gradients, scale = _value(problem, options, max_memory, wanted)
    if not isinstance(scale, Tensor):
        scale = loss.new_full((), scale)
    return loss, *operators.present(gradients, problem.input), scale.to(loss.dtype)


def _shapes(*arguments: Any) -> tuple[Tensor, ...]:
    problem, options, _, wanted = _unpacked(arguments)
    x, dtype = problem.input, sum_dtype(problem.input)
    loss = x.new_empty(x.shape[:1] if options.reduction == "none" else (), dtype=dtype)
    stored = operators.unfilled(problem[:3], wanted, x, logits_dtype(x), dtype, dtype)
    return loss, *stored, loss.new_empty(())


def _unpacked(arguments: Any) -> tuple[Problem, Options, int | None, Wanted]:
    options = Options(*arguments[_TENSORS : _TENSORS + _OPTIONS])
    max_memory, wanted = arguments[_TENSORS + _OPTIONS :]
    stored = NOTHING if options.reduction == "none" else tuple(wanted)
    return Problem(*arguments[:_TENSORS]), options, max_memory, stored


def _operator_gradients(grads, saved, tensors, options, wanted):
    problem, options, max_memory, _ = _unpacked((*tensors, *options))
    return _gradients(problem, options, max_memory, wanted, *grads)


def _operator_definition(grads, tensors, options, wanted):
    problem, options, max_memory, _ = _unpacked((*tensors, *options))
    return _gradients_by_definition(problem, options, max_memory, wanted, *grads)


def _stored(grads, saved, tensors, options, wanted):
    problem, *_, stored = _unpacked((*tensors, *options))
    if any(want and not there for there, want in zip(stored, wanted, strict=True)):
        return None
    *gradients, scale = saved
    return [autograd.times(g, grads[0] * scale).to(problem.head.dtype) for g in gradients]


_operator = operators.register(
    operators.Loss(
        name="linear_cross_entropy",
        tensors="Tensor input, Tensor head, Tensor? bias, Tensor target, Tensor? weight, "
        "Tensor? row_weights, Tensor? allowed",
        options=f"{operators.OPTIONS}, SymInt? max_memory, bool[] stored",
        outputs="Tensor loss, Tensor grad_input, Tensor grad_head, Tensor grad_bias, Tensor scale",
        n_inputs=3,
        n_outputs=1,
        saved=(1, 2, 3, 4),
        forward=_forward,
        shapes=_shapes,
        gradients=_operator_gradients,
        definition=_operator_definition,
        stored=_stored,
    )
)
