"""Losses of a linear layer's logits z = x W' + b, one block of rows at a time: the full logits are
never materialised.

With g the gradient of a block's losses with respect to its logits, dx = g W, dW = g' x summed over
the blocks, db = sum g. Where the loss is reduced to a number the forward pass computes these while
the block is in memory, three products in all; otherwise the backward pass recomputes the logits.
Everything else (derivatives of derivatives, of class weights, of class probabilities, forward mode,
torch.func) follows from the definition, by `rowwise.over_blocks`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from nll.kernels import reductions, reference
from nll.kernels.types import BlockKernels, Options
from nll.losses import autograd, dispatch, operators
from nll.losses.layer import device
from nll.losses.layer.block_sizes import (
    HALF,
    Plan,
    logits_dtype,
    plan,
    rows_by_definition,
    sum_dtype,
)
from nll.losses.layer.matmul import (
    Gradients,
    Wanted,
    kept_blocks,
    linear,
    mask_of,
    products_of,
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


class _Options(NamedTuple):
    """The options of a loss in blocks: those of `Options`, and the memory."""

    ignore_index: int
    reduction: str
    label_smoothing: float
    temperature: float
    softcap: float | None
    z_loss: float
    max_memory: int | None

    @property
    def loss(self) -> Options:
        return Options(*self[:-1])  # type: ignore[arg-type]


# ---- The loss ------------------------------------------------------------------------------------


def cross_entropy(problem: Problem, options: Options, max_memory: int | None) -> Tensor:
    """Return the loss of a linear layer's logits; IndexError for a label out of range."""
    return LOSS(_Options(*options, max_memory), problem)[0]  # type: ignore[arg-type,return-value]


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
        allowed=mask_of(problem.allowed, index),
    )
    loss = cross_entropy(first, options, max_memory)
    if options.reduction == "none":
        loss = loss.new_zeros(len(ignored)).index_copy(0, index, loss)
    return loss.masked_fill((~ignored).sum() > count, torch.nan)


@torch.no_grad()
def route_of_blocks(problem: Problem) -> dispatch.Route:
    """Return the route of the blocks, which autograd does not see."""
    on_cpu = problem.input.device.type == "cpu"
    # an accelerator's kernels take any number of rows, of the head's type
    logits = like(problem, logits_dtype(problem.input)) if on_cpu else problem.head
    factor = problem.row_weights
    factor = None if factor is None else factor.to(sum_dtype(problem.input))
    return dispatch.route(logits, problem.target, problem.weight, factor, problem.allowed)


# ---- The loss and its first derivatives ----------------------------------------------------------


def _one_pass(
    problem: Problem,
    factor: Tensor | None,
    options: Options,
    kernels: BlockKernels,
    plan: Plan,
    wanted: Wanted,
) -> tuple[Tensor, Gradients]:
    """The rows' losses times their factors and, where requested, the gradients of their sum.

    Gradients of half types are left in the types that they are summed in.
    """
    x, with_gradient = problem.input, any(wanted)
    products = products_of(x, problem.head, problem.bias, plan, wanted)
    losses = x.new_zeros(len(x), dtype=sum_dtype(x))
    options = options._replace(reduction="sum")
    for rows in kept_blocks(problem.target, options.ignore_index, plan.rows):
        block = x[rows]
        logits = products.logits(block, rows)
        losses[rows] = kernels.cross_entropy_block(
            logits,
            problem.target[rows],
            problem.weight,
            None if factor is None else factor[rows],
            mask_of(problem.allowed, rows),
            options,
            with_gradient,
        )
        if with_gradient:
            products.add(rows, block, logits)
    return losses, products.gradients


class _Normalised(NamedTuple):
    """The loss as a sum over rows: scale * sum_i factor_i (l_i + z_loss lse_i^2)."""

    factor: Tensor | None
    scale: Tensor | float
    gradient_scale: Tensor | float  # with total weight 0 the loss is NaN and its gradient 0
    z_loss: Tensor | float


def _normalised(problem: Problem, options: Options) -> _Normalised:
    """Half types divide by the total weight last: float16 gradients would underflow."""
    x, factor = problem.input, problem.row_weights
    if factor is not None:
        factor = factor.to(sum_dtype(x))
    if options.reduction != "mean":
        return _Normalised(factor, 1.0, 1.0, options.z_loss)
    of_loss, kept = reductions.denominators(
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
    return torch.float64 if numbers.device.type in ("cpu", "cuda") else numbers.dtype


def like(problem: Problem, dtype: torch.dtype | None = None) -> Tensor:
    """Return a tensor of the logits' shape and type, without values, that takes no memory."""
    shape = problem.input.shape[0], problem.head.shape[0]
    return problem.input.new_empty_strided(shape, (0, 0), dtype=dtype)


def _value(
    problem: Problem, options: Options, max_memory: int | None, wanted: Wanted
) -> tuple[Tensor, Gradients, Tensor | float]:
    """The loss and, for a reduction to a number, the wanted gradients and their factor; in one pass
    over the rows.

    The factor is left until the upstream gradient is known: float16 would lose digits to either.
    """
    blocks, route = plan(problem.input, problem.head, max_memory), route_of_blocks(problem)
    if (
        route.name == "triton"
        and len(problem.input)
        and blocks.logits is blocks.dtype is problem.input.dtype
    ):
        x, head, bias, *others = problem
        all_rows = route.kernels.rows_of(x, len(head), *others, options)
        gradients = device.value(x, head, bias, all_rows, blocks, wanted)
        return all_rows.loss(), gradients, 1.0
    dispatch.look_at_labels(problem.target, len(problem.head), options.ignore_index)
    normalised = _normalised(problem, options)
    options = options._replace(z_loss=normalised.z_loss)
    rows, gradients = _one_pass(problem, normalised.factor, options, route.kernels, blocks, wanted)
    if options.reduction == "none":
        return rows, gradients, 1.0
    loss = (rows.sum(dtype=_precise(rows)) * normalised.scale).to(rows.dtype)
    return loss, gradients, normalised.gradient_scale


def _forward(flat: _Options, tensors: Any, wanted: Wanted) -> tuple[tuple, tuple]:
    loss, gradients, scale = _value(Problem(*tensors), flat.loss, flat.max_memory, wanted)
    return (loss,), (*gradients, scale)


def _shapes(flat: _Options, tensors: Any, wanted: Wanted) -> tuple[tuple, tuple]:
    x, dtype = tensors[0], sum_dtype(tensors[0])
    loss = x.new_empty(x.shape[:1] if flat.reduction == "none" else (), dtype=dtype)
    gradients = operators.unfilled(tensors[:3], wanted, logits_dtype(x), dtype, dtype)
    return (loss,), (*gradients, operators.number(1.0, x))


def _gradients(flat: _Options, tensors: Any, wanted: Wanted, saved: Any, grads: Any) -> Gradients:
    """The gradients of grad . loss, from recomputed logits."""
    problem, options, (grad,) = Problem(*tensors), flat.loss, grads
    by = grad
    if options.reduction == "none":  # the same as the sum with `grad` as weights
        factor = grad if problem.row_weights is None else grad * problem.row_weights
        problem, options = problem._replace(row_weights=factor), options._replace(reduction="sum")
        by = 1.0
    _, gradients, scale = _value(problem, options, flat.max_memory, wanted)
    return multiplied(gradients, by * scale, problem.head.dtype, consume=True)  # type: ignore[return-value]


def _scaled(dtype: torch.dtype, stored: Any, grads: Any, consume: bool) -> Gradients:
    *gradients, scale = stored
    by = grads[0] if isinstance(scale, float) else grads[0] * scale
    return multiplied(gradients, by, dtype, consume)  # type: ignore[return-value]


def multiplied(
    gradients: Any, factor: Tensor | float, dtype: torch.dtype | None, consume: bool
) -> tuple[Tensor | None, ...]:
    """Return gradients times a factor, multiplied in float32 or better, in the type of the layer or
    in their own; without waiting for an accelerator.
    """
    kernels: Any = autograd.TRITON.kernels if consume and dispatch.on_triton(*gradients) else None
    if kernels is not None and isinstance(factor, Tensor):
        return tuple(None if g is None else kernels.rescaled(g, factor, dtype) for g in gradients)
    if isinstance(factor, Tensor) and (factor.device.type != "cpu" or not consume):
        results = (None if g is None else autograd.times(g, factor) for g in gradients)
    elif float(factor) == 1.0:
        results = gradients
    else:
        number = float(factor)
        results = (None if g is None else g.mul_(number) for g in gradients)
    return tuple(None if g is None else g.to(dtype or g.dtype) for g in results)


def _stores(flat: _Options) -> bool:
    return flat.reduction != "none"


def _definition(flat: _Options, tensors: Any, factors: Any) -> tuple[Tensor]:
    """The loss by the reference's formula: differentiable by every tensor, any number of times."""
    options = flat.loss

    def losses(rows: Any, shared: Any) -> Any:
        (x, target, mask, zero_weight), (head, bias, weight, by_class) = rows, shared
        allowed = by_class if mask is None else mask
        logits = linear(x, head, bias)
        results = reference.row_losses(logits, target, weight, allowed, options, zero_weight)
        return tuple(result for result in results if result is not None), ()

    problem = Problem(*tensors)
    x, head, bias, target, weight, row_weights, allowed = problem
    by_row = allowed is not None and allowed.dim() == 2
    zero_weight = None if row_weights is None else row_weights == 0.0
    rows = x, target, allowed if by_row else None, zero_weight
    shared = head, bias, weight, None if by_row else allowed
    function = Rowwise(losses, 1 if options.z_loss == 0.0 else 2)
    step, _ = rows_by_definition(x, head.shape[0], flat.max_memory)
    (loss, *squared_lse), _ = over_blocks(function, rows, shared, step)
    squared = squared_lse[0] if squared_lse else None
    of_rows = target, weight, row_weights
    return (reductions.reduce_losses(loss, squared, like(problem), *of_rows, options),)


LOSS = operators.Loss(
    name="linear_cross_entropy",
    tensors="Tensor input, Tensor head, Tensor? bias, Tensor target, Tensor? weight, "
    "Tensor? row_weights, Tensor? allowed",
    options=f"{operators.OPTIONS}, SymInt? max_memory",
    options_type=_Options,
    n_inputs=3,
    n_outputs=1,
    outputs=1,
    saved=(),
    forward=_forward,
    shapes=_shapes,
    gradients=_gradients,
    definition=_definition,
    stores=_stores,
    scaled=_scaled,
    n_stored=4,
)
