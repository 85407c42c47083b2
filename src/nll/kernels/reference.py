"""The definition of each loss in plain PyTorch: every device, every dtype, every derivative.

Shapes: `input` is (C), (N, C) or (N, C, d1, ..., dk); "the rows" are what is left without the class
dimension: (), (N) or (N, d1, ..., dk). Arguments have been checked by the caller, labels excepted:
an operator of PyTorch checks those as it reads them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import nll_loss as _nll_loss

from nll._torch import certainly

# as at import: a program may put our functions in the place of PyTorch's
_log_softmax = torch.log_softmax
_HALF = (torch.float16, torch.bfloat16)


class Options(NamedTuple):
    """What a cross entropy is made of besides tensors."""

    ignore_index: int = -100
    reduction: str = "mean"
    label_smoothing: float = 0.0
    temperature: float = 1.0
    softcap: float | None = None
    z_loss: float = 0.0  # or a tensor of one number, on an accelerator that is not to be waited for


class RowSums(NamedTuple):
    """What a forward pass leaves for the backward: log-sum-exp = shift + log(total), row by row."""

    shift: Tensor
    total: Tensor


def class_dim(input: Tensor) -> int:
    """The dimension of the classes: the first of (C), the second of (N, C, ...)."""
    return 0 if input.dim() == 1 else 1


def log_softmax(input: Tensor, dim: int) -> Tensor:
    """x - log sum exp x along `dim`; half types accumulate in float32 inside PyTorch's operator."""
    return _log_softmax(input, dim)


def nll_loss(input: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """-log p of each row's label, 0 where it is ignored; a label out of range raises IndexError."""
    if input.device.type != "cpu":
        return pick_or_nan(input, target, ignore_index)
    if input.dim() == 4:  # PyTorch's gradient of its nll_loss2d is written for one layout
        input = input.contiguous()
    return _nll_loss(input, target, ignore_index=ignore_index, reduction="none")


def cross_entropy(
    input: Tensor,
    target: Tensor,  # the rows' labels, or class probabilities of the input's shape
    weight: Tensor | None,  # (C)
    row_weights: Tensor | None,  # of the rows' shape
    allowed: Tensor | None,  # broadcasts against the input
    options: Options,
) -> Tensor:
    """-sum_c q_c w_c log p_c + z_loss logsumexp^2 of each row, p = softmax(scores), q the smoothed
    target; reduced.
    """
    dead = None if row_weights is None else row_weights == 0.0
    rows, squared = row_losses(input, target, weight, allowed, options, dead)
    return reduce_losses(rows, squared, input, target, weight, row_weights, options)


def cross_entropy_block(
    scores: Tensor,  # (N, C)
    target: Tensor,
    weight: Tensor | None,
    row_factor: Tensor | None,  # (N)
    allowed: Tensor | None,
    options: Options,
    with_gradient: bool,
) -> Tensor:
    """The rows' losses times their factors; the gradient of their sum, if asked for, overwrites the
    scores.
    """
    rows, squared = row_losses(scores, target, weight, allowed, options)
    rows = rows if squared is None else rows + options.z_loss * squared
    if with_gradient:
        gradient = _row_gradients(scores, target, weight, allowed, options)
        scores.copy_(gradient if row_factor is None else gradient.mul_(row_factor.unsqueeze(1)))
    return rows if row_factor is None else product(row_factor, rows)


def cross_entropy_gradient(
    slope: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_weights: Tensor | None,
    options: Options,
) -> Tensor:
    """`slope` times the gradient of `cross_entropy` by its input, by its formula: for where
    autograd is not.
    """
    dim = class_dim(input)
    x = input.movedim(dim, -1)
    y = target if target.shape != input.shape else target.movedim(dim, -1).reshape(-1, x.shape[-1])
    mass, kept = masses(input, target, weight, options.ignore_index)
    factor = slope.to(mass.dtype)
    if row_weights is not None:
        mass, kept, factor = mass * row_weights, kept * row_weights, factor * row_weights
    if options.reduction == "mean":  # where nothing counts the gradient is 0
        total, of_kept = mass.sum(), kept.sum()
        factor = factor / total.masked_fill(total == 0.0, torch.inf)
        options = options._replace(
            z_loss=options.z_loss * total / of_kept.masked_fill(of_kept == 0.0, torch.inf)
        )
    rows = _row_gradients(
        x.reshape(-1, x.shape[-1]), y if y.dim() == 2 else y.reshape(-1), weight, None, options
    )
    return (rows.view(x.shape) * factor.unsqueeze(-1)).movedim(-1, dim).to(input.dtype)


def _row_gradients(
    input: Tensor, target: Tensor, weight: Tensor | None, allowed: Tensor | None, options: Options
) -> Tensor:
    """p sum_c u_c - u, where u_c = w_c q_c, plus 2 z_loss lse p; then by the scores' own
    derivative, for (N, C).
    """
    z = scores(input, options.temperature, options.softcap, allowed)
    q, kept = _as_probabilities(input, target, options.ignore_index)
    u = (_smooth(q, 1, allowed, options.label_smoothing) if options.label_smoothing else q).to(
        z.dtype
    )
    u = u if weight is None else u * weight
    mass = u.sum(1, keepdim=True)
    if _counts(options.z_loss):
        mass = mass + 2.0 * options.z_loss * torch.logsumexp(z, 1, keepdim=True)
    gradient = torch.softmax(z, 1).mul_(mass).sub_(u)
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
    """The target as (N, C) and, of labels, the rows that they are classes of: neither ignored nor
    out of range.
    """
    if target.shape == input.shape:
        return target, None
    kept = (target != ignore_index) & (target >= 0) & (target < input.shape[1])
    label = target.masked_fill(~kept, 0).unsqueeze(1)
    dtype = torch.promote_types(input.dtype, torch.float32)
    return torch.zeros_like(input, dtype=dtype).scatter_(1, label, 1.0), kept


def _smooth(q: Tensor, dim: int, allowed: Tensor | None, label_smoothing: float) -> Tensor:
    """Move a share of the probabilities to all allowed classes alike."""
    may = torch.ones_like(q) if allowed is None else allowed.expand_as(q).to(q.dtype)
    return (1.0 - label_smoothing) * q + label_smoothing * may / may.sum(dim, keepdim=True)


def row_losses(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    allowed: Tensor | None,
    options: Options,
    # rows that will be multiplied by 0: no loss of theirs is to be infinite
    dead: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """-sum_c q_c w_c log p_c of each row and, for a z-loss, logsumexp^2; 0 where it is ignored."""
    z = scores(input, options.temperature, options.softcap, allowed)
    dim = class_dim(input)
    log_p = _log_softmax(z, dim)
    if dead is not None:
        log_p = log_p.masked_fill(dead.unsqueeze(dim) & log_p.isinf(), 0.0)
    by_class = None if weight is None else along(weight, z)
    if target.shape == input.shape:
        rows = _expected_nll(log_p, target, by_class, options.label_smoothing, allowed)
    else:
        rows = _label_nll(
            log_p, target, weight, by_class, options.ignore_index, options.label_smoothing, allowed
        )
    if not _counts(options.z_loss):
        return rows, None
    squared = log_sum_exp(z, dim).square()
    if target.shape != input.shape:
        squared = squared.masked_fill(target == options.ignore_index, 0.0)
    return rows, squared


def log_sum_exp(z: Tensor, dim: int) -> Tensor:
    """log sum exp z, whose derivative exp(z - m) / sum exp(z - m) loses no digits to the size of
    the largest, m.

    That of torch.logsumexp is exp(z - lse), with lse rounded.
    """
    if z.shape[dim] == 0:
        return torch.logsumexp(z, dim)
    top = z.detach().amax(dim, keepdim=True)
    top = top.masked_fill(~top.isfinite(), 0.0)
    total = (z - top).exp().sum(dim)
    nothing = total == 0.0  # no class is possible
    return (total.masked_fill(nothing, 1.0).log() + top.squeeze(dim)).masked_fill(
        nothing, -torch.inf
    )


def _counts(z_loss: Tensor | float) -> bool:
    """Whether there is a z-loss; a tensor is one, and its value not asked for."""
    return isinstance(z_loss, Tensor) or z_loss != 0.0


class RowStatistics(NamedTuple):
    """What scores say about a row's label."""

    log_prob: Tensor  # log p of the label
    lse: Tensor
    entropy: Tensor | None  # -sum p log p
    # how many classes come before it: those with a larger score, of equal ones the first
    rank: Tensor
    shift: Tensor  # the largest score; and with it
    log_sum: Tensor  # log sum exp(z - shift): what all scores have in common costs no digits then


def statistics_block(
    scores: Tensor, label: Tensor, temperature: float, softcap: float | None, entropy: bool
) -> RowStatistics:
    """The statistics of the rows of (N, C) scores."""
    z = _z(scores, temperature, softcap)
    shift = z.detach().amax(1)
    shift = shift.masked_fill(~shift.isfinite(), 0.0)
    above = z - shift.unsqueeze(1)
    log_sum = above.exp().sum(1).log()
    log_p = above - log_sum.unsqueeze(1)
    label = label.unsqueeze(1)
    of_label, place = scores.gather(1, label), torch.arange(scores.shape[1], device=scores.device)
    rank = ((scores > of_label) | ((scores == of_label) & (place < label))).sum(1)
    h = _entropy(log_p) if entropy else None
    return RowStatistics(
        log_p.gather(1, label).squeeze(1), shift + log_sum, h, rank, shift, log_sum
    )


def _entropy(log_p: Tensor) -> Tensor:
    p = log_p.exp()
    return -(p * log_p.masked_fill(p == 0.0, 0.0)).sum(1)  # 0 log 0 = 0


def statistics_block_backward(
    scores: Tensor,
    label: Tensor,
    temperature: float,
    softcap: float | None,
    found: RowStatistics,
    slopes: tuple[Tensor, ...],  # by log_prob, lse and, if asked for, entropy
) -> None:
    """Overwrite the scores with a onehot + p (b - a - c (log p + H)), the gradient for the slopes
    a, b and c.
    """
    a, b, *c = slopes
    log_p = (_z(scores, temperature, softcap) - found.shift.unsqueeze(1)) - found.log_sum.unsqueeze(
        1
    )
    factor = (b - a).unsqueeze(1)
    p = log_p.exp()
    if c:
        assert found.entropy is not None
        # 0 log 0
        factor = factor - c[0].unsqueeze(1) * (
            log_p.masked_fill(p == 0.0, 0.0) + found.entropy.unsqueeze(1)
        )
    gradient = (p * factor).scatter_add_(1, label.unsqueeze(1), a.unsqueeze(1))
    if softcap is not None:
        gradient *= 1.0 - torch.tanh(scores.to(p.dtype) / softcap).square()
    scores.copy_(gradient.div_(temperature))


def differentiable_statistics(
    input: Tensor, label: Tensor, temperature: float, softcap: float | None, entropy: bool
) -> tuple[Tensor, ...]:
    """log p of the label, lse and, if asked, the entropy -sum p log p, by operators that autograd
    knows.
    """
    z = scores(input, temperature, softcap, None)
    log_p = _log_softmax(z, 1)
    log_prob, lse = log_p.gather(1, label.unsqueeze(1)).squeeze(1), log_sum_exp(z, 1)
    return (log_prob, lse, _entropy(log_p)) if entropy else (log_prob, lse)


def reduce_losses(
    rows: Tensor,
    squared: Tensor | None,
    like: Tensor,  # of the scores' shape and type; not read
    target: Tensor,
    weight: Tensor | None,
    row_weights: Tensor | None,
    options: Options,
) -> Tensor:
    """Reduce the rows' losses, and add the z-loss, whose mean counts no class weights."""
    mass, kept = masses(like, target, weight, options.ignore_index)
    if row_weights is not None:
        row_weights = row_weights.to(mass.dtype)
    loss = reduce(rows, mass, options.reduction, row_weights)
    return (
        loss
        if squared is None
        else loss + options.z_loss * reduce(squared, kept, options.reduction, row_weights)
    )


def reduce(rows: Tensor, mass: Tensor, reduction: str, row_weights: Tensor | None = None) -> Tensor:
    """Reduce the rows; "mean" is sum(r l) / sum(r mass), r the row weights: NaN, of gradient 0, if
    nothing counts.
    """
    if row_weights is not None:
        rows, mass = product(row_weights, rows), mass * row_weights
    if reduction == "none":
        return rows
    if reduction == "sum":
        return rows.sum()
    total = mass.sum()
    nothing = total == 0.0
    return (rows.sum() / total.masked_fill(nothing, 1.0)).masked_fill(nothing, torch.nan)


def product(factor: Tensor, loss: Tensor) -> Tensor:
    """factor * loss; where the factor is 0, an infinite loss counts for nothing, in no derivative:
    0 log 0 = 0.
    """
    return factor * loss.masked_fill((factor == 0.0) & loss.isinf(), 0.0)


def rows_shape(input: Tensor) -> torch.Size:
    """The input's shape without the dimension of the classes."""
    dim = class_dim(input)
    return input.shape[:dim] + input.shape[dim + 1 :]


def masses(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """What each row counts for in the mean of the loss, and in the mean of the z-loss."""
    if target.shape != input.shape:
        mass = label_mass(input, target, weight, ignore_index)
        return mass, mass if weight is None else (target != ignore_index).to(mass.dtype)
    like = torch.promote_types(torch.promote_types(input.dtype, target.dtype), torch.float32)
    # Without classes there are no rows, as PyTorch counts them.
    make = torch.zeros if certainly(input.shape[class_dim(input)] == 0) else torch.ones
    ones = make(rows_shape(input), dtype=like, device=input.device)
    return ones, ones


def scores(
    input: Tensor, temperature: float, softcap: float | None, allowed: Tensor | None
) -> Tensor:
    """z = softcap * tanh(x / softcap) / temperature, in float32 or better; -inf for classes not
    allowed.
    """
    z = input.float() if input.dtype in _HALF else input
    if softcap is not None:
        z = softcap * torch.tanh(z / softcap)
    if temperature != 1.0:
        z = z / temperature
    return z if allowed is None else z.masked_fill(~allowed, -torch.inf)


def _z(input: Tensor, temperature: float, softcap: float | None) -> Tensor:
    return scores(input, temperature, softcap, None)


def along(per_class: Tensor, input: Tensor) -> Tensor:
    """View a vector over the classes so that it broadcasts against the input."""
    return per_class if input.dim() <= 2 else per_class.view(-1, *[1] * (input.dim() - 2))


def _label_nll(log_p, target, weight, by_class, ignore_index, label_smoothing, allowed):
    """-w_y log p_y, of which label smoothing moves a share to the mean of -w_c log p_c over the
    classes.
    """
    loss = nll_loss(log_p, target, ignore_index)
    if weight is not None:
        loss = product(label_mass(log_p, target, weight, ignore_index), loss)
    if label_smoothing > 0.0:
        uniform = _uniform_nll(log_p, by_class, allowed)
        uniform = uniform.masked_fill(target == ignore_index, 0.0)
        if label_smoothing == 1.0:  # the label counts for nothing
            return uniform
        loss = (1.0 - label_smoothing) * loss + label_smoothing * uniform
    return loss


def _expected_nll(log_p, q, by_class, label_smoothing, allowed):
    """-sum_c q_c w_c log p_c for class probabilities q."""
    dim = class_dim(log_p)
    if label_smoothing > 0.0 or by_class is not None:
        q = q.to(torch.promote_types(q.dtype, log_p.dtype))  # not in half precision
    if label_smoothing > 0.0:
        q = _smooth(q, dim, allowed, label_smoothing)
    return -product(q if by_class is None else q * by_class, log_p).sum(dim)


def _uniform_nll(log_p, by_class, allowed):
    """The mean of -w_c log p_c over the allowed classes."""
    dim = class_dim(log_p)
    if allowed is not None:
        allowed = allowed.expand_as(log_p)
        log_p = log_p.masked_fill(~allowed, 0.0)
    terms = log_p if by_class is None else product(by_class, log_p)
    return -terms.mean(dim) if allowed is None else -terms.sum(dim) / allowed.sum(dim)


def label_mass(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """The weight of each row's label: 1 without weights, 0 where ignored.

    In float32 for half types: these are the terms of a sum over all rows.
    """
    dtype = torch.float32 if input.dtype in _HALF else input.dtype
    kept = target != ignore_index
    if weight is None:
        return kept.to(dtype)
    # a label out of range is reported elsewhere
    label = target.clamp(0, max(weight.numel() - 1, 0))
    mass = weight.to(dtype).index_select(0, label.reshape(-1)).reshape(label.shape)
    return mass.masked_fill(~kept, 0.0)


def pick_or_nan(log_p: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """-log p of each row's label, NaN where the label is out of range.

    An accelerator's own check ends the process's context, and asking for the labels would wait for
    the device.
    """
    wrong = (target != ignore_index) & ((target < 0) | (target >= log_p.shape[class_dim(log_p)]))
    rows = _nll_loss(
        log_p, target.masked_fill(wrong, ignore_index), ignore_index=ignore_index, reduction="none"
    )
    return rows.masked_fill(wrong, torch.nan)
