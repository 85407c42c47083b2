"""The definition of each loss in plain PyTorch: every device, every dtype, every derivative.

Shapes as in `types.py`. Callers have checked the arguments, except for labels: a PyTorch operator
checks those as it reads them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import nll_loss as _nll_loss

from nll.kernels.layout import class_dim
from nll.kernels.reductions import HALF, denominators, label_weights, product, reduce_losses
from nll.kernels.types import Options, RowStatistics

# Bound at import: a program may replace PyTorch's functions by ours.
_log_softmax = torch.log_softmax


# ---- Losses --------------------------------------------------------------------------------------


def log_softmax(input: Tensor, dim: int) -> Tensor:
    """x - log sum exp x along `dim`; half types accumulate in float32 inside PyTorch's operator."""
    return _log_softmax(input, dim)


def nll_loss(input: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """-log p of each row's label, 0 where it is ignored; IndexError for a label out of range."""
    if input.device.type != "cpu":
        return pick_or_nan(input, target, ignore_index)
    if input.dim() == 4:  # the gradient of PyTorch's nll_loss2d assumes one layout
        input = input.contiguous()
    return _nll_loss(input, target, ignore_index=ignore_index, reduction="none")


def pick_or_nan(log_p: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """-log p of each row's label, NaN where the label is out of range.

    PyTorch's own check on an accelerator ends the process's context, and reading the labels back
    would wait for the device.
    """
    wrong = (target != ignore_index) & ((target < 0) | (target >= log_p.shape[class_dim(log_p)]))
    rows = _nll_loss(
        log_p, target.masked_fill(wrong, ignore_index), ignore_index=ignore_index, reduction="none"
    )
    return rows.masked_fill(wrong, torch.nan)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_weights: Tensor | None,
    allowed: Tensor | None,
    options: Options,
) -> Tensor:
    """-sum_c q_c w_c log p_c + z_loss logsumexp^2 of each row, where p = softmax(z) and q is the
    smoothed target; reduced.
    """
    zero_weight = None if row_weights is None else row_weights == 0.0
    rows, squared_lse = row_losses(input, target, weight, allowed, options, zero_weight)
    return reduce_losses(rows, squared_lse, input, target, weight, row_weights, options)


def row_losses(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    allowed: Tensor | None,
    options: Options,
    # rows that will be multiplied by 0: their loss must not be infinite
    zero_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """-sum_c q_c w_c log p_c of each row and, for a z-loss, logsumexp^2; 0 where it is ignored."""
    z = scaled_logits(input, options.temperature, options.softcap, allowed)
    dim = class_dim(input)
    log_p = _log_softmax(z, dim)
    if zero_weight is not None:
        log_p = log_p.masked_fill(zero_weight.unsqueeze(dim) & log_p.isinf(), 0.0)
    by_class = None if weight is None else along(weight, z)
    if target.shape == input.shape:
        rows = _expected_nll(log_p, target, by_class, options.label_smoothing, allowed)
    else:
        rows = _label_nll(log_p, target, weight, by_class, options, allowed)
    if not _has_z_loss(options):
        return rows, None
    squared_lse = log_sum_exp(z, dim).square()
    if target.shape != input.shape:
        squared_lse = squared_lse.masked_fill(target == options.ignore_index, 0.0)
    return rows, squared_lse


def _label_nll(log_p, target, weight, by_class, options, allowed):
    """-w_y log p_y, of which label smoothing moves a share to the mean of -w_c log p_c over the
    classes.
    """
    loss = nll_loss(log_p, target, options.ignore_index)
    if weight is not None:
        loss = product(label_weights(log_p, target, weight, options.ignore_index), loss)
    smoothing = options.label_smoothing
    if smoothing == 0.0:
        return loss
    uniform = _uniform_nll(log_p, by_class, allowed)
    uniform = uniform.masked_fill(target == options.ignore_index, 0.0)
    # with smoothing 1 the label has factor 0
    return uniform if smoothing == 1.0 else (1.0 - smoothing) * loss + smoothing * uniform


def _expected_nll(log_p, q, by_class, label_smoothing, allowed):
    """-sum_c q_c w_c log p_c for class probabilities q."""
    dim = class_dim(log_p)
    if label_smoothing > 0.0 or by_class is not None:
        q = q.to(torch.promote_types(q.dtype, log_p.dtype))  # not in half precision
    if label_smoothing > 0.0:
        q = _smooth(q, dim, allowed, label_smoothing)
    return -product(q if by_class is None else q * by_class, log_p).sum(dim)


def _uniform_nll(log_p, by_class, allowed):
    dim = class_dim(log_p)
    if allowed is not None:
        allowed = allowed.expand_as(log_p)
        log_p = log_p.masked_fill(~allowed, 0.0)
    terms = log_p if by_class is None else product(by_class, log_p)
    return -terms.mean(dim) if allowed is None else -terms.sum(dim) / allowed.sum(dim)


def _smooth(q: Tensor, dim: int, allowed: Tensor | None, label_smoothing: float) -> Tensor:
    """Move a share of the probabilities to all allowed classes equally."""
    may = torch.ones_like(q) if allowed is None else allowed.expand_as(q).to(q.dtype)
    return (1.0 - label_smoothing) * q + label_smoothing * may / may.sum(dim, keepdim=True)


def _has_z_loss(options: Options) -> bool:
    """A tensor always counts as one: its value is not read back."""
    return isinstance(options.z_loss, Tensor) or options.z_loss != 0.0


# ---- Logits --------------------------------------------------------------------------------------


def scaled_logits(
    input: Tensor, temperature: float, softcap: float | None, allowed: Tensor | None = None
) -> Tensor:
    """z = softcap * tanh(x / softcap) / temperature, in float32 or better; -inf for classes that
    are not allowed.
    """
    z = input.float() if input.dtype in HALF else input
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    if temperature != 1.0:
        z = z / temperature
    return masked(z, allowed)


def masked(z: Tensor, allowed: Tensor | None) -> Tensor:
    """-inf for classes that are not allowed."""
    return z if allowed is None else z.masked_fill(~allowed, -torch.inf)


def log_sum_exp(z: Tensor, dim: int) -> Tensor:
    """log sum exp z with the derivative exp(z - m) / sum exp(z - m), m the largest: no digits are
    lost to the size of m.

    The derivative of torch.logsumexp is exp(z - lse), with lse rounded.
    """
    if z.shape[dim] == 0:
        return torch.logsumexp(z, dim)
    shift = _largest(z, dim)
    total = (z - shift.unsqueeze(dim)).exp().sum(dim)
    empty = total == 0.0  # no class is possible
    return (total.masked_fill(empty, 1.0).log() + shift).masked_fill(empty, -torch.inf)


def _largest(z: Tensor, dim: int) -> Tensor:
    """The largest number along a dimension, as a constant; 0 where it is not finite."""
    top = z.detach().amax(dim)
    return top.masked_fill(~top.isfinite(), 0.0)


def along(per_class: Tensor, input: Tensor) -> Tensor:
    """View a vector over the classes so that it broadcasts against the input."""
    return per_class if input.dim() <= 2 else per_class.view(-1, *[1] * (input.dim() - 2))


# ---- Gradients by their formulas, where autograd is not available --------------------------------


def cross_entropy_block(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,
    allowed: Tensor | None,
    options: Options,
    with_gradient: bool,
) -> Tensor:
    rows, squared_lse = row_losses(logits, target, weight, allowed, options)
    rows = rows if squared_lse is None else rows + options.z_loss * squared_lse
    if with_gradient:
        gradient = _row_gradients(logits, target, weight, allowed, options)
        logits.copy_(gradient if row_factor is None else gradient.mul_(row_factor.unsqueeze(1)))
    return rows if row_factor is None else product(row_factor, rows)


def cross_entropy_gradient(
    grad: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_weights: Tensor | None,
    allowed: Tensor | None,
    options: Options,
) -> Tensor:
    """`grad` times the gradient of `cross_entropy` with respect to its input."""
    dim = class_dim(input)
    x = input.movedim(dim, -1)
    y = target if target.shape != input.shape else target.movedim(dim, -1).reshape(-1, x.shape[-1])
    of_loss, of_z_loss = denominators(input, target, weight, options.ignore_index)
    factor = grad.to(of_loss.dtype)
    if row_weights is not None:
        of_loss, of_z_loss = of_loss * row_weights, of_z_loss * row_weights
        factor = factor * row_weights
    if options.reduction == "mean":  # with total weight 0 the gradient is 0
        total, kept = of_loss.sum(), of_z_loss.sum()
        factor = factor / total.masked_fill(total == 0.0, torch.inf)
        z_loss = options.z_loss * total / kept.masked_fill(kept == 0.0, torch.inf)
        options = options._replace(z_loss=z_loss)
    y = y if y.dim() == 2 else y.reshape(-1)
    if allowed is not None:
        allowed = allowed.expand_as(input).movedim(dim, -1).reshape(-1, x.shape[-1])
    rows = _row_gradients(x.reshape(-1, x.shape[-1]), y, weight, allowed, options)
    return (rows.view(x.shape) * factor.unsqueeze(-1)).movedim(-1, dim).to(input.dtype)


def _row_gradients(
    input: Tensor, target: Tensor, weight: Tensor | None, allowed: Tensor | None, options: Options
) -> Tensor:
    """p sum_c u_c - u, where u_c = w_c q_c, plus 2 z_loss lse p; then times dz/dx, for (N, C)."""
    z = scaled_logits(input, options.temperature, options.softcap, allowed)
    q, kept = _as_probabilities(input, target, options.ignore_index)
    u = _smooth(q, 1, allowed, options.label_smoothing) if options.label_smoothing else q
    u = u.to(z.dtype)
    u = u if weight is None else u * weight
    total = u.sum(1, keepdim=True)
    if _has_z_loss(options):
        total = total + 2.0 * options.z_loss * torch.logsumexp(z, 1, keepdim=True)
    gradient = torch.softmax(z, 1).mul_(total).sub_(u)
    if options.softcap is not None:
        gradient *= 1.0 - torch.tanh(input.to(z.dtype) / options.softcap).square()
    if allowed is not None:
        gradient.masked_fill_(~allowed, 0.0)
    if kept is not None:
        gradient.masked_fill_(~kept.unsqueeze(1), 0.0)
    return gradient.div_(options.temperature)


def _as_probabilities(
    input: Tensor, target: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor | None]:
    """The target as (N, C) and, for labels, which rows are neither ignored nor out of range."""
    if target.shape == input.shape:
        return target, None
    kept = (target != ignore_index) & (target >= 0) & (target < input.shape[1])
    label = target.masked_fill(~kept, 0).unsqueeze(1)
    dtype = torch.promote_types(input.dtype, torch.float32)
    return torch.zeros_like(input, dtype=dtype).scatter_(1, label, 1.0), kept


# ---- Statistics of labels ------------------------------------------------------------------------


def statistics_block(
    logits: Tensor,
    label: Tensor,
    allowed: Tensor | None,
    temperature: float,
    softcap: float | None,
    entropy: bool,
) -> RowStatistics:
    z = scaled_logits(logits, temperature, softcap, allowed)
    shift = _largest(z, 1)
    above = z - shift.unsqueeze(1)
    log_sum = above.exp().sum(1).log()
    log_p = above - log_sum.unsqueeze(1)
    label = label.unsqueeze(1)
    place = torch.arange(logits.shape[1], device=logits.device)
    logits = masked(logits, allowed)
    of_label = logits.gather(1, label)
    before = (logits > of_label) | ((logits == of_label) & (place < label))
    rank = (before if allowed is None else before & allowed).sum(1)
    h = _entropy(log_p) if entropy else None
    return RowStatistics(
        log_p.gather(1, label).squeeze(1), shift + log_sum, h, rank, shift, log_sum
    )


def _entropy(log_p: Tensor) -> Tensor:
    p = log_p.exp()
    return -(p * log_p.masked_fill(p == 0.0, 0.0)).sum(1)  # 0 log 0 = 0


def statistics_block_backward(
    logits: Tensor,
    label: Tensor,
    allowed: Tensor | None,
    temperature: float,
    softcap: float | None,
    statistics: RowStatistics,
    grads: tuple[Tensor, ...],
) -> None:
    a, b, *c = grads
    z = scaled_logits(logits, temperature, softcap, allowed)
    log_p = (z - statistics.shift.unsqueeze(1)) - statistics.log_sum.unsqueeze(1)
    factor = (b - a).unsqueeze(1)
    p = log_p.exp()
    if c:
        assert statistics.entropy is not None
        finite = log_p.masked_fill(p == 0.0, 0.0)  # 0 log 0 = 0
        factor = factor - c[0].unsqueeze(1) * (finite + statistics.entropy.unsqueeze(1))
    gradient = (p * factor).scatter_add_(1, label.unsqueeze(1), a.unsqueeze(1))
    if softcap is not None:
        gradient *= 1.0 - torch.tanh(logits.to(p.dtype) / softcap).square()
    if allowed is not None:
        gradient.masked_fill_(~allowed, 0.0)
    logits.copy_(gradient.div_(temperature))


def differentiable_statistics(
    input: Tensor,
    label: Tensor,
    allowed: Tensor | None,
    temperature: float,
    softcap: float | None,
    entropy: bool,
) -> tuple[Tensor, ...]:
    """log p of the label, lse and, if requested, the entropy, by operators that autograd knows."""
    z = scaled_logits(input, temperature, softcap, allowed)
    log_p = _log_softmax(z, 1)
    log_prob, lse = log_p.gather(1, label.unsqueeze(1)).squeeze(1), log_sum_exp(z, 1)
    return (log_prob, lse, _entropy(log_p)) if entropy else (log_prob, lse)
