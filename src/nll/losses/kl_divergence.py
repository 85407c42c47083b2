"""KL divergence between the distributions of two linear layers, or from given probabilities, in
blocks of rows.

With z the model's logits and t the target's, each divided by its temperature, p = softmax(z),
q = softmax(t) or given,

  KL(q || p) = sum q (log q - log p):  d/dz = p sum q - q,  d/dt = q (log q - log p - KL),
                                       d/dq = log q - log p + 1
  KL(p || q) = sum p (log p - log q):  d/dz = p (log p - log q - KL),  d/dt = q - p,  d/dq = -p / q

where a term whose first factor is 0 has value and derivatives 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from nll import _torch
from nll.kernels import reductions, reference
from nll.losses import arguments, operators
from nll.losses.matmul import autocast, linear, plan, products_of, rows_by_definition, sum_dtype
from nll.losses.rowwise import Rowwise, blocks, over_blocks

_TENSORS = 6  # the input, the head and the bias of a model, and of its target
_BLOCK_TENSORS = 8  # tensors of a block in memory at once


class Options(NamedTuple):
    """The options of the divergence."""

    temperature: float
    target_temperature: float
    reverse: bool
    max_memory: int | None


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
    options = Options(float(temperature), float(divisor), reverse, max_memory)
    tensors = _torch.matrix(input), linear_weight, linear_bias, y, head, bias
    (flat,) = _LOSS(options, tensors, (None if weights is None else weights.reshape(-1),))
    divergence = flat.reshape(rows)  # type: ignore[union-attr]
    weights = None if weights is None else weights.to(divergence.dtype)
    return reductions.reduce(divergence, torch.ones_like(divergence), reduction, weights)


# The model's input (N, F), head (C, F) and bias; the target's, or probabilities (N, C), None, None.
Tensors = tuple[Tensor | None, ...]


def _definition(options: Options, tensors: Any, factors: Any) -> Tensors:
    """The divergence by operators that autograd, torch.func, tracers and modes see.

    Rows with factor 0 will be multiplied by 0: their derivatives must not be infinite.
    """
    (factor,) = factors
    zero_weight = None if factor is None or _torch.batched(factor) else factor.detach() == 0.0
    x, head, bias, y, *target_layer = tensors

    def divergences(rows: Any, shared: Any) -> Any:
        log_p = _log_probabilities(linear(rows[0], *shared[:2]), options.temperature)
        target = linear(rows[1], *shared[2:])
        log_q, q = _target(target, shared[2] is not None, options, log_p.dtype)
        return (_terms(log_p, log_q, q, options.reverse, rows[2]).sum(1),), ()

    step, _ = rows_by_definition(x, 2 * head.shape[0], options.max_memory)
    rows, shared = (x, y, zero_weight), (head, bias, *target_layer)
    return over_blocks(Rowwise(divergences, 1), rows, shared, step)[0]


def _log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    return reference.log_softmax(reference.scaled_logits(logits, temperature, None), 1)


def _target(
    logits: Tensor, layer: bool, options: Options, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor]:
    """log q, where the target is a layer, and q."""
    if not layer:
        return None, logits.to(dtype)
    log_q = _log_probabilities(logits, options.target_temperature)
    return log_q, log_q.exp()


def _terms(
    log_p: Tensor, log_q: Tensor | None, q: Tensor, reverse: bool, zero_weight: Tensor | None = None
) -> Tensor:
    first = log_p.exp() if reverse else q
    zero = first == 0.0  # 0 log 0 = 0, and so are its derivatives
    if zero_weight is not None:
        zero = zero | (zero_weight.unsqueeze(1) & (log_p.isinf() | (q == 0.0)))
    log_q = q.masked_fill(zero, 1.0).log() if log_q is None else log_q.masked_fill(zero, 0.0)
    log_p = log_p.masked_fill(zero, 0.0)
    return first.masked_fill(zero, 0.0) * (log_p - log_q if reverse else log_q - log_p)


# ---- Value and first derivatives, by their formulas ----------------------------------------------


def _in_blocks(options: Options, tensors: Any, wanted: Any) -> Any:
    """Yield each block's rows, the products of both sides, and log p, log q and q; once for no rows
    too.
    """
    x, head, bias, y, target_head, target_bias = tensors
    plans = plan(x, head, options.max_memory), plan(y, target_head, options.max_memory)
    step = max(1, min(p.rows for p in plans) // _BLOCK_TENSORS)
    rows = min(step, len(x))
    model = products_of(x, head, bias, plans[0]._replace(rows=rows), wanted[:3])
    target = products_of(y, target_head, target_bias, plans[1]._replace(rows=rows), wanted[3:])
    for rows in blocks(len(x), step):
        log_p = _log_probabilities(model.logits(x[rows], rows), options.temperature)
        of_target = _target(
            target.logits(y[rows], rows), target_head is not None, options, log_p.dtype
        )
        yield rows, (model, target), log_p, *of_target


def _forward(options: Options, tensors: Any, wanted: Any) -> tuple[tuple, tuple]:
    x = tensors[0]
    divergences = x.new_zeros(len(x), dtype=sum_dtype(x))
    for rows, _, log_p, log_q, q in _in_blocks(options, tensors, [False] * _TENSORS):
        divergences[rows] = _terms(log_p, log_q, q, options.reverse).sum(1)
    return (divergences,), ()


def _shapes(options: Options, tensors: Any, wanted: Any) -> tuple[tuple, tuple]:
    x = tensors[0]
    return (x.new_empty(x.shape[0], dtype=sum_dtype(x)),), ()


def _gradients(options: Options, tensors: Any, wanted: Any, saved: Any, grads: Any) -> Tensors:
    sides: Any = ()
    for rows, sides, *point in _in_blocks(options, tensors, wanted):
        by = grads[0][rows].unsqueeze(1)
        if any(wanted[:3]):
            _add(sides[0], rows, tensors[0], _by_model(options, *point), by)
        if any(wanted[3:]):  # a teacher is usually frozen
            _add(sides[1], rows, tensors[3], _by_target(options, *point), by)
    gradients = *sides[0].gradients, *sides[1].gradients
    return tuple(
        None if g is None else g.to(t.dtype) for g, t in zip(gradients, tensors, strict=True)
    )


def _add(side: Any, rows: slice, x: Tensor, gradient: Tensor, by: Tensor) -> None:
    # a factor of 0 wins over an infinite gradient
    gradient = (gradient * by).masked_fill(by == 0.0, 0.0)
    side.add(rows, x[rows], gradient.to(side.dtype))


def _by_model(options: Options, log_p: Tensor, log_q: Tensor | None, q: Tensor) -> Tensor:
    p = log_p.exp()
    if not options.reverse:
        return (p * q.sum(1, keepdim=True) - q) / options.temperature
    terms = _terms(log_p, log_q, q, options.reverse)
    return (terms - p * terms.sum(1, keepdim=True)) / options.temperature


def _by_target(options: Options, log_p: Tensor, log_q: Tensor | None, q: Tensor) -> Tensor:
    """The derivative with respect to the target's logits, or to given probabilities."""
    p = log_p.exp()
    if log_q is None:
        by = -(p / q) if options.reverse else q.log() - log_p + 1.0
        return by.masked_fill((p if options.reverse else q) == 0.0, 0.0)
    if options.reverse:
        return (q - p) / options.target_temperature
    terms = _terms(log_p, log_q, q, options.reverse)
    return (terms - q * terms.sum(1, keepdim=True)) / options.target_temperature


_LOSS = operators.Loss(
    name="linear_kl_divergence",
    tensors="Tensor input, Tensor head, Tensor? bias, Tensor target, Tensor? target_head, "
    "Tensor? target_bias",
    options="float temperature, float target_temperature, bool reverse, SymInt? max_memory",
    options_type=Options,
    n_inputs=_TENSORS,
    n_outputs=1,
    outputs=1,
    saved=(),
    forward=_forward,
    shapes=_shapes,
    gradients=_gradients,
    definition=_definition,
)
