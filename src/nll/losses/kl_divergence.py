"""KL divergence between the distributions of two linear layers, or from given probabilities, in
blocks of rows.

With z the model's scores and t the target's, each divided by its temperature, p = softmax(z), q =
softmax(t) or given,

  KL(q || p) = sum q (log q - log p):  d/dz = p sum q - q,             d/dt = q (log q - log p -
  KL),
                                       d/dq = log q - log p + 1
  KL(p || q) = sum p (log p - log q):  d/dz = p (log p - log q - KL),  d/dt = q - p,  d/dq = -p / q

where a term whose first factor is 0 has value and derivatives 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from nll import _torch
from nll.kernels import reference
from nll.losses import dispatch
from nll.losses.matmul import linear, plan, products_of, rows_by_definition
from nll.losses.rowwise import Rowwise, blocks, over_blocks

_TENSORS = 6  # of a model and of its target: the input, the head, the bias


class How(NamedTuple):
    """What the divergence is made of besides tensors."""

    temperature: float
    target_temperature: float
    reverse: bool
    max_memory: int | None


# The model's input (N, F), its head (C, F) and bias; those of the target, or probabilities (N, C)
# and twice None.
Tensors = tuple[Tensor | None, ...]


def kl_divergence(how: How, dead: Tensor | None, *tensors: Tensor | None) -> Tensor:
    """The divergence of each row; differentiable any number of times by every tensor.

    Rows that are `dead` will be multiplied by 0: no derivative of theirs is to be infinite.
    """
    if _torch.transforming() or not (torch.compiler.is_compiling() or _torch.ordinary(*tensors)):
        return by_definition(how, dead, *tensors)
    if torch.compiler.is_compiling():
        return _operator(*tensors, *how)
    return _Divergence.apply(how, *tensors)  # type: ignore[return-value]


# ---- By the definition ---------------------------------------------------------------------------


def by_definition(how: How, dead: Tensor | None, *tensors: Any) -> Tensor:
    """The divergence by operators that autograd, torch.func, tracers and modes look into."""
    x, head, bias, y, *target_layer = tensors

    def divergences(rows: Any, shared: Any) -> Any:
        log_p = _log_probabilities(linear(rows[0], *shared[:2]), how.temperature)
        log_q, q = _target(linear(rows[1], *shared[2:]), shared[2] is not None, how, log_p.dtype)
        return (_terms(log_p, log_q, q, how.reverse, rows[2]).sum(1),), ()

    step, _ = rows_by_definition(x, 2 * head.shape[0], how.max_memory)
    return over_blocks(Rowwise(divergences, 1), (x, y, dead), (head, bias, *target_layer), step)[0][
        0
    ]


def _log_probabilities(scores: Tensor, temperature: float) -> Tensor:
    return reference.log_softmax(reference.scores(scores, temperature, None, None), 1)


def _target(
    scores: Tensor, layer: bool, how: How, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor]:
    """log q, where it is there already, and q."""
    if layer:
        log_q = _log_probabilities(scores, how.target_temperature)
        return log_q, log_q.exp()
    return None, scores.to(dtype)


def _terms(
    log_p: Tensor, log_q: Tensor | None, q: Tensor, reverse: bool, dead: Tensor | None = None
) -> Tensor:
    first = log_p.exp() if reverse else q
    nothing = first == 0.0  # 0 log 0 = 0, and so are its derivatives
    if dead is not None:
        nothing = nothing | (dead.unsqueeze(1) & (log_p.isinf() | (q == 0.0)))
    log_q = q.masked_fill(nothing, 1.0).log() if log_q is None else log_q.masked_fill(nothing, 0.0)
    log_p = log_p.masked_fill(nothing, 0.0)
    return first.masked_fill(nothing, 0.0) * (log_p - log_q if reverse else log_q - log_p)


# ---- First derivatives, by their formulas --------------------------------------------------------


class _Divergence(torch.autograd.Function):
    @staticmethod
    @dispatch.as_written
    def forward(ctx: Any, how: How, *tensors: Tensor | None):  # type: ignore[override]
        ctx.how = how
        ctx.save_for_backward(*tensors)
        return _value(how, tensors)

    @staticmethod
    @dispatch.as_forward
    def backward(ctx: Any, slope: Tensor):  # type: ignore[override]
        tensors, wanted = ctx.saved_tensors, ctx.needs_input_grad[1:]
        if torch.is_grad_enabled() or _torch.batched(slope):
            return None, *_gradients_by_definition(ctx.how, tensors, wanted, slope)
        return None, *_gradients(ctx.how, tensors, wanted, slope)


def _gradients_by_definition(how: How, tensors: Tensors, wanted: Any, slope: Tensor) -> Tensors:
    dead = None if _torch.batched(slope) else slope.detach() == 0.0
    return _torch.separate_gradients(
        lambda *points: by_definition(how, dead, *points), tensors, wanted, slope
    )


def _in_blocks(how: How, tensors: Any, wanted: Any) -> Any:
    """For each block its rows, the products of both sides, and log p, log q and q; a step for no
    rows too.
    """
    x, head, _, y, target_head, _ = tensors
    plans = plan(x, head, how.max_memory), plan(y, target_head, how.max_memory)
    step = max(1, min(p.rows for p in plans) // _KEPT)
    sides = [
        products_of(*side, p._replace(rows=min(step, len(x))), wants)  # type: ignore[misc]
        for side, p, wants in zip(
            (tensors[:3], tensors[3:]), plans, (wanted[:3], wanted[3:]), strict=True
        )
    ]
    for rows in blocks(len(x), step):
        log_p = _log_probabilities(sides[0].scores(x[rows]), how.temperature)
        of_target = sides[1].scores(y[rows])
        yield rows, sides, log_p, *_target(of_target, target_head is not None, how, log_p.dtype)


_KEPT = 8  # tensors of a block that are there at once


def _value(how: How, tensors: Any) -> Tensor:
    x = tensors[0]
    found = x.new_zeros(len(x), dtype=torch.promote_types(x.dtype, torch.float32))
    for rows, _, log_p, log_q, q in _in_blocks(how, tensors, [False] * _TENSORS):
        found[rows] = _terms(log_p, log_q, q, how.reverse).sum(1)
    return found


def _gradients(how: How, tensors: Any, wanted: Any, slope: Tensor) -> Tensors:
    """The gradients of slope . divergences by the wanted tensors."""
    sides: Any = ()
    for rows, sides, *point in _in_blocks(how, tensors, wanted):
        by = slope[rows].unsqueeze(1)
        if any(wanted[:3]):
            _add(sides[0], rows, tensors[0], _by_model(how, *point), by)
        if any(wanted[3:]):  # a teacher is frozen as a rule
            _add(sides[1], rows, tensors[3], _by_target(how, *point), by)
    found = *sides[0].gradients, *sides[1].gradients
    return tuple(None if g is None else g.to(t.dtype) for g, t in zip(found, tensors, strict=True))


def _add(side: Any, rows: slice, x: Tensor, gradient: Tensor, by: Tensor) -> None:
    # of a row that counts for nothing, be it infinite
    gradient = (gradient * by).masked_fill(by == 0.0, 0.0)
    side.add(rows, x[rows], gradient.to(side.scores_type))


def _by_model(how: How, log_p: Tensor, log_q: Tensor | None, q: Tensor) -> Tensor:
    """The derivative of a row's divergence by the model's scores."""
    p = log_p.exp()
    if not how.reverse:
        return (p * q.sum(1, keepdim=True) - q) / how.temperature
    terms = _terms(log_p, log_q, q, how.reverse)
    return (terms - p * terms.sum(1, keepdim=True)) / how.temperature


def _by_target(how: How, log_p: Tensor, log_q: Tensor | None, q: Tensor) -> Tensor:
    """The derivative of a row's divergence by the target's scores or, where there are none, by its
    probabilities.
    """
    p = log_p.exp()
    if log_q is None:
        by = -(p / q) if how.reverse else q.log() - log_p + 1.0
        return by.masked_fill((p if how.reverse else q) == 0.0, 0.0)
    if how.reverse:
        return (q - p) / how.target_temperature
    terms = _terms(log_p, log_q, q, how.reverse)
    return (terms - q * terms.sum(1, keepdim=True)) / how.target_temperature


# ---- For torch.compile and torch.export ----------------------------------------------------------

_ARGUMENTS = (
    "Tensor input, Tensor head, Tensor? bias, Tensor target, Tensor? target_head, Tensor? "
    "target_bias, "
    "float temperature, float target_temperature, bool reverse, SymInt? max_memory"
)


@torch.library.custom_op(
    "nll::linear_kl_divergence", mutates_args=(), schema=f"({_ARGUMENTS}) -> Tensor"
)
def _operator(*arguments: Any):
    with torch.no_grad():
        return _torch.without_autocast(_value)(How(*arguments[_TENSORS:]), arguments[:_TENSORS])


@_operator.register_fake
def _(input, *_):
    return input.new_empty(input.shape[0], dtype=torch.promote_types(input.dtype, torch.float32))


@torch.library.custom_op(
    "nll::linear_kl_divergence_backward",
    mutates_args=(),
    schema=f"(Tensor slope, {_ARGUMENTS}, bool[] wanted) -> "
    "(Tensor by_input, Tensor by_head, Tensor by_bias, Tensor by_target, Tensor by_target_head, "
    "Tensor by_target_bias)",
)
def _backward_operator(slope: Tensor, *arguments: Any):
    *arguments, wanted = arguments  # type: ignore[assignment]
    tensors = arguments[:_TENSORS]
    with torch.no_grad():
        found = _torch.without_autocast(_gradients)(
            How(*arguments[_TENSORS:]), tensors, wanted, slope
        )
    return tuple(slope.new_empty(0) if g is None else g for g in found)


@_backward_operator.register_fake
def _(slope: Tensor, *arguments: Any):
    wanted = arguments[-1]
    return tuple(
        t.new_empty(t.shape) if want and t is not None else slope.new_empty(0)
        for t, want in zip(arguments[:_TENSORS], wanted, strict=True)
    )


def _setup(ctx: Any, inputs: tuple, output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:_TENSORS])
    ctx.how = How(*inputs[_TENSORS:])


def _operator_backward(ctx: Any, slope: Tensor):
    tensors, wanted = ctx.saved_tensors, list(ctx.needs_input_grad[:_TENSORS])
    if torch.is_grad_enabled():
        found = _gradients_by_definition(ctx.how, tensors, wanted, slope)
    else:
        found = _backward_operator(slope, *tensors, *ctx.how, wanted)
    return *(g if want else None for g, want in zip(found, wanted, strict=True)), *[None] * len(
        ctx.how
    )


_operator.register_autograd(_operator_backward, setup_context=_setup)
