"""The losses: check the arguments, choose a backend, call it, reduce the rows.

Class scores have the shape (C), (N, C) or (N, C, d1, ..., dk); the rows have the same shape without C.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from nll import _backends, _checks
from nll.kernels import reference


def log_softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Logarithm of the softmax along a dimension: x - log(sum(exp(x))), computed without overflow.

    Args:
        input: scores of any shape; float32, float64, bfloat16 or float16.
        dim: the dimension of the classes.
        dtype: the input is converted to this type first; the result has it.

    Returns: log-probabilities of the input's shape and dtype.

    Raises: IndexError for a dimension that the input has not, TypeError for arguments of a wrong type.
    """
    _checks.log_softmax(input, dim, dtype)
    return _backends.choose(input).log_softmax(input, dim, dtype)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Negative log-likelihood of labels, given log-probabilities. It takes no logarithm itself.

    Args:
        input: log-probabilities, (C), (N, C) or (N, C, d1, ...).
        target: labels in [0, C), int64 or uint8, of the rows' shape: (), (N) or (N, d1, ...).
        weight: (C), the weight of each class.
        size_average: deprecated, use `reduction`.
        ignore_index: rows with this label count for nothing.
        reduce: deprecated, use `reduction`.
        reduction: "none" (each row), "sum", or "mean", the sum over the sum of the labels' weights:
            NaN when every row is ignored.

    Returns: the loss in the dtype of the input; float16 and bfloat16 are summed in float32.

    Raises: IndexError naming the row and the value of a label that is out of range; ValueError and
    RuntimeError, as torch.nn.functional.nll_loss does, for shapes and types that do not fit.
    """
    reduction = _checks.reduction(reduction, size_average, reduce)
    target = _checks.nll_loss(input, target, weight, ignore_index)
    with _naming_labels(input, target, ignore_index):
        rows = _backends.choose(input).nll_loss(input, target, ignore_index)
        mass = reference.label_mass(input, target, weight, ignore_index)
    rows = rows.to(mass.dtype)
    loss = _reduce(rows if weight is None else rows * mass, mass, reduction)
    # Under autocast PyTorch's nll_loss answers in float32.
    device = input.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return loss if autocast else loss.to(input.dtype)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    temperature: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    row_weights: Tensor | None = None,
    allowed_classes: Tensor | None = None,
) -> Tensor:
    """Cross entropy of scores against labels or class probabilities: nll_loss of log_softmax, in one.

    The scores are z = softcap * tanh(input / softcap) / temperature, with p = softmax(z). The loss of a row is
    -sum_c q_c w_c log p_c, where q is the target, smoothed; w the class weights.

    Args:
        input: raw scores, (C), (N, C) or (N, C, d1, ...).
        target: labels as for `nll_loss`, or class probabilities of the input's shape.
        weight: (C), the weight of each class.
        size_average: deprecated, use `reduction`.
        ignore_index: rows with this label count for nothing; not for class probabilities.
        reduce: deprecated, use `reduction`.
        reduction: "none", "sum", or "mean": the sum over the sum of the labels' weights, for class
            probabilities over the number of rows. NaN when every row is ignored.
        label_smoothing: in [0, 1], the share of each target that goes to all (allowed) classes alike.
        temperature: divides the scores; above 0.
        softcap: bounds the scores to (-softcap, softcap) before the temperature; None: unbounded.
        z_loss: adds z_loss * logsumexp(z)^2 to each row that is kept; in "mean" as their mean, not weighted
            by class. Keeps the scores from drifting (Chowdhery et al. 2022, PaLM, section 5).
        row_weights: of the rows' shape; multiply the rows and enter the denominator of "mean".
        allowed_classes: mask of bool, (C) or the input's shape. The other classes have probability 0
            and no share of the smoothing; a row whose label is one of them has loss +inf.

    Returns: the loss in float32 for float16 and bfloat16 inputs, else in the dtype of the input.
    Gradients have the dtype of the input.

    Raises: as `nll_loss`; RuntimeError for probabilities with an `ignore_index` of 0 or more, or a
    `label_smoothing` out of range; ValueError for other options out of range.
    """
    reduction = _checks.reduction(reduction, size_average, reduce)
    target = _checks.cross_entropy(input, target, weight, ignore_index, label_smoothing, temperature, softcap, z_loss)
    allowed = _checks.allowed_classes(allowed_classes, input)
    backend = _backends.choose(input, target, weight, allowed)
    with _naming_labels(input, target, ignore_index):
        mass, kept = _masses(input, target, weight, ignore_index)
        row_weights = _checks.row_weights(row_weights, mass.shape, mass.dtype)
        slopes = _slopes(mass, kept, row_weights, "none" if backend is reference else reduction, z_loss)
        options = (weight, ignore_index, label_smoothing, temperature, softcap, allowed, slopes)
        rows, squared = backend.cross_entropy(input, target, *options)
    loss = _reduce(rows, mass, reduction, row_weights)
    if squared is None:
        return loss
    return loss + z_loss * _reduce(torch.where(kept == 0.0, 0.0, squared), kept, reduction, row_weights)


@contextmanager
def _naming_labels(input: Tensor, target: Tensor, ignore_index: int) -> Iterator[None]:
    """Name the row and the value of the label that a kernel met out of range.

    Kernels check labels as they read them; looking again afterwards costs a correct call nothing. A compiled call
    has no Python left to do this; there the error is that of the compiled code.
    """
    try:
        yield
    except IndexError:
        error = _checks.label_error(target, input.shape[reference.class_dim(input)], ignore_index)
        if error is None:
            raise
        raise error from None


def _masses(input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> tuple[Tensor, Tensor]:
    """What each row counts for in the mean of the loss, and in the mean of the z-loss."""
    if target.shape != input.shape:
        mass = reference.label_mass(input, target, weight, ignore_index)
        return mass, mass if weight is None else (target != ignore_index).to(mass.dtype)
    classes = input.shape[reference.class_dim(input)]
    shape = input.shape[: reference.class_dim(input)] + input.shape[reference.class_dim(input) + 1 :]
    like = torch.promote_types(torch.promote_types(input.dtype, target.dtype), torch.float32)
    # Without classes there are no rows, as PyTorch counts them.
    ones = torch.full(shape, float(classes > 0), dtype=like, device=input.device)
    return ones, ones


def _slopes(mass: Tensor, kept: Tensor, row_weights: Tensor | None, reduction: str, z_loss: float) -> reference.Slopes:
    """What `_reduce` will multiply the rows with, by the same operations, so that it comes true to the last bit."""
    if reduction == "none":
        return reference.Slopes(with_lse=z_loss > 0.0)
    found = []
    for share, factor in ((mass, 1.0), (kept, z_loss)):
        slope = torch.ones_like(share) * factor
        if reduction == "mean":
            slope = slope / (share if row_weights is None else share * row_weights).sum()
        found.append(slope if row_weights is None else slope * row_weights)
    return reference.Slopes(found[0], found[1] if z_loss > 0.0 else None, z_loss > 0.0)


def _reduce(rows: Tensor, mass: Tensor, reduction: str, row_weights: Tensor | None = None) -> Tensor:
    """Reduce the rows; "mean" is sum(r l) / sum(r mass) with row weights r."""
    if row_weights is not None:
        rows, mass = rows * row_weights, mass * row_weights
    if reduction == "none":
        return rows
    return rows.sum() if reduction == "sum" else rows.sum() / mass.sum()
