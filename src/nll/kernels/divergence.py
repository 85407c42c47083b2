"""KL divergences of a block's rows, outside autograd: by the compiled loops, and by PyTorch's
operators.

With z the model's logits and t the target's, each divided by its temperature, p = softmax(z),
q = softmax(t) or given,

  KL(q || p) = sum q (log q - log p):  d/dz = p sum q - q,  d/dt = q (log q - log p - KL),
                                       d/dq = log q - log p + 1
  KL(p || q) = sum p (log p - log q):  d/dz = p (log p - log q - KL),  d/dt = q - p,  d/dq = -p / q

where a term whose first factor is 0 has value and derivatives 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from nll._torch import resolved
from nll.kernels import cpu, reference


class Options(NamedTuple):
    """What is divided, and in which direction."""

    temperature: float
    target_temperature: float
    reverse: bool


# each row's divergence, and the gradients by the logits and by the target that are wanted
Block = tuple[Tensor, Tensor | None, Tensor | None]
Wanted = tuple[bool, bool]


def block_function(
    compiled: bool, layer: bool, wanted: Wanted, options: Options
) -> tuple[Callable[[Tensor, Tensor, Tensor | None], Block], int]:
    """Return the function of a block's logits (N, C), of the target (N, C), which is the logits of
    a `layer` or probabilities, and of what each row's gradients are multiplied by, (N) or None; and
    how many tensors of a block it holds.

    It may overwrite logits whose gradient is wanted.
    """
    if compiled and (layer or not (wanted[1] or options.reverse)):
        return partial(_by_loops, layer, wanted, options), 2
    return partial(_by_operators, layer, wanted, options), 8


def _by_loops(
    layer: bool, wanted: Wanted, options: Options, z: Tensor, t: Tensor, factor: Tensor | None
) -> Block:
    dtype = torch.promote_types(z.dtype, t.dtype)
    z, t = (resolved(tensor).to(dtype).contiguous() for tensor in (z, t))
    divergence = torch.empty(len(z), dtype=cpu.accumulator(dtype), device="cpu")
    factor = None if factor is None else resolved(factor).to(divergence.dtype).contiguous()
    cpu.divergence(
        z.data_ptr(),
        t.data_ptr(),
        cpu.TYPES[dtype],
        *z.shape,
        layer,
        1.0 / options.temperature,
        1.0 / options.target_temperature,
        options.reverse,
        cpu.address(factor),
        *wanted,
        divergence.data_ptr(),
        torch.get_num_threads(),
    )
    return divergence, z if wanted[0] else None, t if wanted[1] else None


def _by_operators(
    layer: bool, wanted: Wanted, options: Options, z: Tensor, t: Tensor, factor: Tensor | None
) -> Block:
    log_p, log_q, q = log_probabilities(layer, options, z, t)
    gradients = [
        function(options, log_p, log_q, q) if want else None
        for function, want in zip((_by_model, _by_target), wanted, strict=True)
    ]
    if factor is not None:
        # a factor of 0 wins over an infinite gradient
        column = factor.unsqueeze(1)
        gradients = [
            None if g is None else (g * column).masked_fill(column == 0.0, 0.0) for g in gradients
        ]
    return terms(log_p, log_q, q, options.reverse).sum(1), gradients[0], gradients[1]


def log_probabilities(
    layer: bool, options: Options, z: Tensor, t: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return log p; log q, where the target is a layer; and q."""
    log_p = _log_softmax(z, options.temperature)
    if not layer:
        return log_p, None, t.to(log_p.dtype)
    log_q = _log_softmax(t, options.target_temperature)
    return log_p, log_q, log_q.exp()


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    return reference.log_softmax(reference.scaled_logits(logits, temperature, None), 1)


def terms(
    log_p: Tensor, log_q: Tensor | None, q: Tensor, reverse: bool, zero_weight: Tensor | None = None
) -> Tensor:
    """Return what is summed over the classes; rows of weight 0 (N) have finite derivatives."""
    first = log_p.exp() if reverse else q
    zero = first == 0.0  # 0 log 0 = 0, and so are its derivatives
    if zero_weight is not None:
        zero = zero | (zero_weight.unsqueeze(1) & (log_p.isinf() | (q == 0.0)))
    log_q = q.masked_fill(zero, 1.0).log() if log_q is None else log_q.masked_fill(zero, 0.0)
    log_p = log_p.masked_fill(zero, 0.0)
    return first.masked_fill(zero, 0.0) * (log_p - log_q if reverse else log_q - log_p)


def _by_model(options: Options, log_p: Tensor, log_q: Tensor | None, q: Tensor) -> Tensor:
    p = log_p.exp()
    if not options.reverse:
        return (p * q.sum(1, keepdim=True) - q) / options.temperature
    each = terms(log_p, log_q, q, options.reverse)
    return (each - p * each.sum(1, keepdim=True)) / options.temperature


def _by_target(options: Options, log_p: Tensor, log_q: Tensor | None, q: Tensor) -> Tensor:
    """The derivative with respect to the target's logits, or to given probabilities."""
    p = log_p.exp()
    if log_q is None:
        by = -(p / q) if options.reverse else q.log() - log_p + 1.0
        return by.masked_fill((p if options.reverse else q) == 0.0, 0.0)
    if options.reverse:
        return (q - p) / options.target_temperature
    each = terms(log_p, log_q, q, options.reverse)
    return (each - q * each.sum(1, keepdim=True)) / options.target_temperature
