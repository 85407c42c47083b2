"""KL divergence between the distributions of two linear layers, or from given probabilities, in
blocks of rows. The formulas are in `kernels/divergence.py`.

Where it is reduced to a number the forward pass computes the gradients while the block is in
memory; otherwise the backward pass recomputes the logits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from nll import _torch
from nll.kernels import cpu, divergence, reductions
from nll.losses import arguments, dispatch, operators
from nll.losses.layer.block_sizes import logits_dtype, plan, rows_by_definition, sum_dtype
from nll.losses.layer.linear import multiplied
from nll.losses.layer.matmul import autocast, linear, products_of
from nll.losses.rowwise import Rowwise, blocks, over_blocks

_LAYERS = 6  # the input, the head and the bias of a model, and of its target


class _Options(NamedTuple):
    """The options of the loss: those of its blocks, the reduction and the memory."""

    temperature: float
    target_temperature: float
    reverse: bool
    reduction: str
    max_memory: int | None

    @property
    def of_block(self) -> divergence.Options:
        return divergence.Options(*self[:3])


# ---- The divergence ------------------------------------------------------------------------------


def linear_kl_divergence(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    target_weight: Tensor | None = None,
    *,
    linear_bias: Tensor | None = None,
    target_bias: Tensor | None = None,
    temperature: float = 1.0,
    target_temperature: float | None = None,
    reverse: bool = False,
    reduction: str = "mean",
    row_weights: Tensor | None = None,
    max_memory: int | None = None,
) -> Tensor:
    """Return the KL divergence KL(q || p) of a linear layer's distribution p from a target q, for
    distillation.

    p = softmax((input @ linear_weight.T + linear_bias) / temperature). Neither model's logits are
    materialised.

    Args:
        input: (..., F).
        linear_weight: (C, F), of the input's dtype.
        target: probabilities (..., C), or with `target_weight` the features (..., G) of another
            model.
        target_weight: (C, G), the other model's head.
        linear_bias, target_bias: (C).
        temperature, target_temperature: divide the logits; the target's defaults to the same value.
            The customary factor temperature^2 (Hinton et al. 2015) is left to the caller.
        reverse: return KL(p || q) instead.
        reduction: "none", "sum", or "mean", the sum over the sum of the row weights.
        row_weights: (...); multiply the rows.
        max_memory: as for `linear_cross_entropy`.

    Returns: the divergence in nats, in float32 for float16 and bfloat16 inputs. Differentiable any
        number of times with respect to every tensor, those of the target included.

    Raises: ValueError, RuntimeError and TypeError for shapes, types and options that do not fit.

    Example:
        >>> hidden, head = torch.zeros(1, 8), torch.zeros(2, 8)
        >>> nll.linear_kl_divergence(hidden, head, torch.tensor([[0.25, 0.75]]))
        tensor(0.1308)
    """
    reduction = arguments.reduction(reduction, None, None)
    arguments.cross_entropy_options(temperature=temperature)
    input, linear_weight, linear_bias = autocast(input, linear_weight, linear_bias)
    rows = arguments.linear(input, linear_weight, linear_bias, max_memory)
    classes = linear_weight.shape[0]
    divisor = temperature if target_temperature is None else target_temperature
    if target_weight is None:
        y, head, bias = arguments.probabilities(target, target_bias, rows, classes), None, None
    else:
        arguments.cross_entropy_options(temperature=divisor)
        y, head, bias = autocast(target, target_weight, target_bias)
        arguments.same_rows(arguments.linear(y, head, bias, None), rows, head, classes)
        y = _torch.matrix(y)
    weights = arguments.row_weights(row_weights, rows)
    weights = None if weights is None else weights.reshape(-1).to(sum_dtype(input))
    options = _Options(float(temperature), float(divisor), reverse, reduction, max_memory)
    tensors = _torch.matrix(input), linear_weight, linear_bias, y, head, bias, weights
    (loss,) = _LOSS(options, tensors)
    return loss.reshape(rows) if reduction == "none" else loss  # type: ignore[union-attr,return-value]


# The model's input (N, F), head (C, F) and bias; the target's, or probabilities (N, C), None, None;
# the row weights (N).
Tensors = tuple[Tensor | None, ...]


def _definition(options: _Options, tensors: Any, factors: Any) -> Tensors:
    """The divergence by operators that autograd, torch.func, tracers and modes see.

    Rows with factor 0 will be multiplied by 0: their derivatives must not be infinite.
    """
    x, head, bias, y, *target_layer, weights = tensors
    known = [f for f in (weights, *(factors or ())) if f is not None and not _torch.batched(f)]
    zeros = [(f.detach() == 0.0).expand(len(x)) for f in known]
    zero_weight = torch.stack(zeros).any(0) if zeros else None

    def divergences(rows: Any, shared: Any) -> Any:
        logits = linear(rows[0], *shared[:2]), linear(rows[1], *shared[2:])
        point = divergence.log_probabilities(shared[2] is not None, options.of_block, *logits)
        return (divergence.terms(*point, options.reverse, rows[2]).sum(1),), ()

    step, _ = rows_by_definition(x, 2 * head.shape[0], options.max_memory)
    rows, shared = (x, y, zero_weight), (head, bias, *target_layer)
    (result,), _ = over_blocks(Rowwise(divergences, 1), rows, shared, step)
    return (_reduced(result, options, weights),)


def _reduced(divergences: Tensor, options: _Options, weights: Tensor | None) -> Tensor:
    ones = torch.ones_like(divergences)
    return reductions.reduce(divergences, ones, options.reduction, weights)


# ---- Value and first derivatives, block by block -------------------------------------------------


def _one_pass(
    options: _Options, tensors: Any, factor: Tensor | None, wanted: Any
) -> tuple[Tensor, Tensors]:
    """Each row's divergence, and the wanted gradients of their sum with the factors."""
    x, head, bias, y, target_head, target_bias, _ = tensors
    by, compiled = (any(wanted[:3]), any(wanted[3:])), dispatch.route(x, y).kernels is cpu
    block, held = divergence.block_function(compiled, target_head is not None, by, options.of_block)
    budget = None if options.max_memory is None else max(1, options.max_memory // 2)
    plans = plan(x, head, budget), plan(y, target_head, budget)
    step = max(1, 2 * min(p.rows for p in plans) // held)  # both sides' logits are 2 of them
    model = products_of(x, head, bias, plans[0]._replace(rows=step), wanted[:3])
    target = products_of(y, target_head, target_bias, plans[1]._replace(rows=step), wanted[3:])
    divergences = x.new_zeros(len(x), dtype=sum_dtype(x))
    for rows in blocks(len(x), step):
        sides = (model, x[rows]), (target, y[rows])
        logits = [side.logits(features, rows) for side, features in sides]
        factors = None if factor is None else factor[rows]
        divergences[rows], *gradients = block(logits[0], logits[1], factors)
        for (side, features), gradient in zip(sides, gradients, strict=True):
            if gradient is not None:
                side.add(rows, features, gradient.to(side.dtype))
    return divergences, (*model.gradients, *target.gradients)


def _factor(options: _Options, tensors: Any, grad: Tensor | None = None) -> Tensor | None:
    """What each row's divergence is multiplied by: its weight, as a share of all for the mean; and
    the upstream gradient. With total weight 0 the mean is NaN and its gradient 0.
    """
    x, weights = tensors[0], tensors[-1]
    if options.reduction == "mean":
        ones = x.new_ones(len(x), dtype=sum_dtype(x)) if weights is None else weights
        total = ones.sum()
        weights = ones * (1.0 / total).masked_fill(total == 0.0, 0.0)
    if grad is None or weights is None:
        return weights if grad is None else grad.expand(len(x))
    return grad * weights


def _forward(options: _Options, tensors: Any, wanted: Any) -> tuple[tuple, tuple]:
    factor = _factor(options, tensors) if any(wanted) else None
    divergences, gradients = _one_pass(options, tensors, factor, wanted)
    return (_reduced(divergences, options, tensors[-1]),), gradients


def _shapes(options: _Options, tensors: Any, wanted: Any) -> tuple[tuple, tuple]:
    x, y = tensors[0], tensors[3]
    shape = x.shape[:1] if options.reduction == "none" else ()
    dtypes = *_stored_dtypes(x, True), *_stored_dtypes(y, tensors[4] is not None)
    stored = operators.unfilled(tensors[:_LAYERS], wanted, *dtypes)
    return (x.new_empty(shape, dtype=sum_dtype(x)),), tuple(stored)


def _stored_dtypes(x: Tensor, layer: bool) -> tuple[torch.dtype, ...]:
    return logits_dtype(x) if layer else x.dtype, sum_dtype(x), sum_dtype(x)


def _gradients(options: _Options, tensors: Any, wanted: Any, saved: Any, grads: Any) -> Tensors:
    _, gradients = _one_pass(options, tensors, _factor(options, tensors, grads[0]), wanted)
    return tuple(
        None if g is None else g.to(t.dtype)
        for g, t in zip(gradients, tensors[:_LAYERS], strict=True)
    )


def _scaled(dtype: torch.dtype, stored: Any, grads: Any, consume: bool) -> Tensors:
    """Autograd brings the gradients into the tensors' types."""
    return multiplied(stored, grads[0], None, consume)


_LOSS = operators.Loss(
    name="linear_kl_divergence",
    tensors="Tensor input, Tensor head, Tensor? bias, Tensor target, Tensor? target_head, "
    "Tensor? target_bias, Tensor? row_weights",
    options="float temperature, float target_temperature, bool reverse, str reduction, "
    "SymInt? max_memory",
    options_type=_Options,
    n_inputs=_LAYERS,
    n_outputs=1,
    outputs=1,
    saved=(),
    forward=_forward,
    shapes=_shapes,
    gradients=_gradients,
    definition=_definition,
    stores=lambda options: options.reduction != "none",
    scaled=_scaled,
    n_stored=_LAYERS,
)
