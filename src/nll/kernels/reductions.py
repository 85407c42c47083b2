"""From the losses of rows to a number: weights of labels, denominators, and 0 * inf = 0."""

from __future__ import annotations

import torch
from torch import Tensor

from nll._torch import certainly
from nll.kernels.layout import class_dim, rows_shape
from nll.kernels.types import Options

HALF = (torch.float16, torch.bfloat16)


def reduce_losses(
    rows: Tensor,
    squared_lse: Tensor | None,
    like: Tensor,  # of the logits' shape and dtype; its values are not read
    target: Tensor,
    weight: Tensor | None,
    row_weights: Tensor | None,
    options: Options,
) -> Tensor:
    """Reduce the rows' losses and add the z-loss, whose mean ignores class weights."""
    of_loss, of_z_loss = denominators(like, target, weight, options.ignore_index)
    if row_weights is not None:
        row_weights = row_weights.to(of_loss.dtype)
    loss = reduce(rows, of_loss, options.reduction, row_weights)
    if squared_lse is None:
        return loss
    return loss + options.z_loss * reduce(squared_lse, of_z_loss, options.reduction, row_weights)


def reduce(
    rows: Tensor, denominator: Tensor, reduction: str, row_weights: Tensor | None = None
) -> Tensor:
    """Reduce the rows; "mean" is sum(r l) / sum(r d) with row weights r and denominators d: NaN
    with gradient 0 if the total weight is 0.
    """
    if row_weights is not None:
        rows, denominator = product(row_weights, rows), denominator * row_weights
    if reduction == "none":
        return rows
    if reduction == "sum":
        return rows.sum()
    total = denominator.sum()
    empty = total == 0.0
    return (rows.sum() / total.masked_fill(empty, 1.0)).masked_fill(empty, torch.nan)


def product(factor: Tensor, loss: Tensor) -> Tensor:
    """factor * loss, where 0 * inf = 0 in the value and in every derivative."""
    return factor * loss.masked_fill((factor == 0.0) & loss.isinf(), 0.0)


def denominators(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Each row's share of the denominator of the mean loss, and of the mean z-loss."""
    if target.shape != input.shape:
        of_loss = label_weights(input, target, weight, ignore_index)
        kept = of_loss if weight is None else (target != ignore_index).to(of_loss.dtype)
        return of_loss, kept
    dtype = torch.promote_types(torch.promote_types(input.dtype, target.dtype), torch.float32)
    # Without classes there are no rows, as PyTorch counts them.
    make = torch.zeros if certainly(input.shape[class_dim(input)] == 0) else torch.ones
    ones = make(rows_shape(input), dtype=dtype, device=input.device)
    return ones, ones


def label_weights(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int
) -> Tensor:
    """The weight of each row's label: 1 without weights, 0 where ignored.

    In float32 for half types: these are the terms of a sum over all rows.
    """
    dtype = torch.float32 if input.dtype in HALF else input.dtype
    kept = target != ignore_index
    if weight is None:
        return kept.to(dtype)
    # a label out of range is reported elsewhere
    label = target.clamp(0, max(weight.numel() - 1, 0))
    weights = weight.to(dtype).index_select(0, label.reshape(-1)).reshape(label.shape)
    return weights.masked_fill(~kept, 0.0)
