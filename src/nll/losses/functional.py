"""The losses: check the arguments, choose a backend, call it, reduce the rows.

Logits have the shape (C), (N, C) or (N, C, d1, ..., dk); the rows have the same shape without C.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from nll import _torch
from nll.kernels import reductions, reference
from nll.kernels.layout import class_dim, rows_shape
from nll.kernels.types import Options
from nll.losses import arguments, autograd, dispatch, operators
from nll.losses.layer import block_sizes, linear, matmul


def log_softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Return the logarithm of the softmax, x - log(sum(exp(x))), without overflow.

    Args:
        input: logits of any shape; float32, float64, bfloat16 or float16.
        dim: the dimension of the classes.
        dtype: the input is converted to this type first; the result has it.

    Returns: log-probabilities of the input's shape and dtype; in float32 where PyTorch's autocast
        returns that.

    Raises: IndexError for a dimension that the input does not have, TypeError for arguments of a
        wrong type.

    Example:
        >>> nll.log_softmax(torch.tensor([0.0, 0.0]), dim=0)
        tensor([-0.6931, -0.6931])
    """
    arguments.log_softmax(input, dim, dtype)
    device = input.device.type
    if dtype is None and input.dtype in block_sizes.HALF and device != "cpu":
        dtype = None if _torch.autocast_dtype(device) is None else torch.float32
    input = input if dtype is None else input.to(dtype)
    return dispatch.route_of_logits(input).backend.log_softmax(input, dim)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the negative log-likelihood of labels, given log-probabilities: it takes no logarithm.

    Args:
        input: log-probabilities, (C), (N, C) or (N, C, d1, ...).
        target: labels in [0, C), int64 or uint8, of the rows' shape: (), (N) or (N, d1, ...).
        weight: (C), the weight of each class.
        size_average: deprecated, use `reduction`.
        ignore_index: rows with this label are ignored.
        reduce: deprecated, use `reduction`.
        reduction: "none" (each row), "sum", or "mean", the sum over the sum of the labels' weights:
            NaN when every row is ignored.

    Returns: the loss in the dtype of the input; float16 and bfloat16 are summed in float32.

    Raises: IndexError naming the row and the value of a label that is out of range; ValueError and
        RuntimeError, as torch.nn.functional.nll_loss, for shapes and types that do not fit.

    Example:
        >>> log_p = torch.tensor([[0.5, 0.5], [0.25, 0.75]]).log()
        >>> nll.nll_loss(log_p, torch.tensor([0, 1]), reduction="none")
        tensor([0.6931, 0.2877])
    """
    reduction = arguments.reduction(reduction, size_average, reduce)
    target = arguments.nll_loss(input, target, weight, ignore_index)
    route = dispatch.route_of_logits(input)
    dispatch.guard_labels(route, input, target, ignore_index)
    try:
        rows = route.backend.nll_loss(input, target, ignore_index)
        weights = reductions.label_weights(input, target, weight, ignore_index)
    except IndexError as error:
        classes = input.shape[class_dim(input)]
        raise arguments.label_error(target, classes, ignore_index) or error from None
    rows = rows.to(weights.dtype)
    rows = rows if weight is None else reductions.product(weights, rows)
    loss = reductions.reduce(rows, weights, reduction)
    # Under autocast PyTorch's nll_loss returns float32.
    return loss if _torch.autocast_dtype(input.device.type) is not None else loss.to(input.dtype)


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
    inplace_backward: bool = False,
) -> Tensor:
    """Return the cross entropy of logits with labels or class probabilities.

    With z = softcap * tanh(input / softcap) / temperature and p = softmax(z), the loss of a row is
    -sum_c q_c w_c log p_c, where q is the smoothed target and w the class weights.

    Args:
        input: logits, (C), (N, C) or (N, C, d1, ...).
        target: labels as for `nll_loss`, or class probabilities of the input's shape.
        weight: (C), the weight of each class.
        size_average: deprecated, use `reduction`.
        ignore_index: rows with this label are ignored; not for class probabilities.
        reduce: deprecated, use `reduction`.
        reduction: "none", "sum", or "mean": the sum over the sum of the labels' weights, for class
            probabilities over the number of rows. NaN when every row is ignored.
        label_smoothing: in [0, 1], the share of each target that is spread evenly over all
            (allowed) classes.
        temperature: divides the logits; above 0.
        softcap: bounds the logits to (-softcap, softcap) before the temperature; None: unbounded.
        z_loss: adds z_loss * logsumexp(z)^2 to each row that is not ignored; in "mean" as their
            mean, without class weights. Keeps the logits from drifting (Chowdhery et al. 2022,
            PaLM, section 5).
        row_weights: of the rows' shape; multiply the rows and enter the denominator of "mean".
        allowed_classes: mask of bool, (C) or the input's shape. The other classes have probability
            0 and no share of the smoothing; a row whose label is one of them has loss +inf.
        inplace_backward: the backward pass may overwrite `input` with its gradient, which saves a
            tensor of that size. Nothing may read the logits after that pass: autograd notices what
            it saved itself, but not a later line of the program, another view of the memory made by
            `detach` or NumPy, or what a custom function keeps. Compiled code and the
            transformations of torch.func ignore it.

    Returns: the loss in float32 for float16 and bfloat16 inputs, otherwise in the dtype of the
        input. Gradients have the dtype of the input.

    Raises: as `nll_loss`; RuntimeError for probabilities with an `ignore_index` of 0 or more, or a
        `label_smoothing` out of range; ValueError for other options out of range. With
        `inplace_backward`, RuntimeError for an input that is a leaf or a view of one, for a second
        backward pass and for second derivatives.

    Example:
        >>> logits = torch.zeros(2, 4)
        >>> nll.cross_entropy(logits, torch.tensor([0, 3]))
        tensor(1.3863)
        >>> nll.cross_entropy(logits, torch.tensor([0, 1]), allowed_classes=torch.arange(4) < 2)
        tensor(0.6931)
    """
    absent = row_weights, allowed_classes, softcap, size_average, reduce
    numbers = label_smoothing, temperature, z_loss
    if _pytorch_takes(input, target, weight, reduction, absent, numbers, inplace_backward):
        try:
            loss = _by_pytorch(input, target, weight, reduction, ignore_index)
            if loss is not None:
                return loss
        except _INVALID as error:
            # The checks below say what is wrong. A subclass is not about the arguments: checkpoints
            # and hooks raise those to stop.
            if type(error) not in _INVALID:
                raise
    reduction = arguments.reduction(reduction, size_average, reduce)
    target = arguments.cross_entropy(
        input, target, weight, ignore_index, label_smoothing, temperature, softcap, z_loss
    )
    row_weights = arguments.row_weights(row_weights, rows_shape(input))
    allowed = arguments.allowed_classes(allowed_classes, input)
    if inplace_backward and autograd.overwrites(input):
        arguments.inplace_backward(input)
    options = Options(ignore_index, reduction, label_smoothing, temperature, softcap, z_loss)
    tensors = input, target, weight, row_weights, allowed
    route = dispatch.route(*tensors)
    if route.backend is not reference and torch.compiler.is_compiling():
        return operators.cross_entropy(options, tensors)[0]  # type: ignore[return-value]
    dispatch.guard_labels(route, input, target, ignore_index)
    try:
        if not inplace_backward:
            return route.backend.cross_entropy(*tensors, options)
        return autograd.cross_entropy_in_place(route.backend, *tensors, options)
    except IndexError as error:
        classes = input.shape[class_dim(input)]
        raise arguments.label_error(target, classes, ignore_index) or error from None


# PyTorch's own operator, its names of the reductions, and its errors about arguments.
pytorch_cross_entropy = torch._C._nn.cross_entropy_loss  # type: ignore[attr-defined]
_CODES = {"none": 0, "mean": 1, "sum": 2}
_INVALID = (IndexError, KeyError, RuntimeError, TypeError, ValueError)


def _pytorch_takes(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    absent: tuple,
    numbers: tuple,
    inplace_backward: bool,
) -> bool:
    if inplace_backward or any(argument is not None for argument in absent):
        return False
    usual = all(type(number) is float for number in numbers) and numbers == (0.0, 1.0, 0.0)
    of_labels = weight is None or reduction != "none"  # the loss is looked at
    return usual and of_labels and dispatch.is_small(input, target, weight)


def _by_pytorch(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, ignore_index: int
) -> Tensor | None:
    """The loss by PyTorch's operator, in float32 for half types; None if it may not be the same."""
    logits = input.float() if input.dtype in block_sizes.HALF else input
    if weight is None:
        return pytorch_cross_entropy(logits, target, None, _CODES[reduction], ignore_index)
    weight = weight.to(logits.dtype)
    loss = pytorch_cross_entropy(logits, target, weight, _CODES[reduction], ignore_index)
    # a class of weight 0 and probability 0 counts for nothing here, and is NaN there
    return loss if math.isfinite(loss.item()) else None


def route_of_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    row_weights: Tensor | None,
    allowed_classes: Tensor | None,
    inplace_backward: bool,
    **options: Any,
) -> dispatch.Route:
    """Return the route of a call of `cross_entropy` with valid arguments."""
    numbers = tuple(options[name] for name in ("label_smoothing", "temperature", "z_loss"))
    absent = *(options[name] for name in ("softcap", "size_average", "reduce")), allowed_classes
    absent, reduction = (row_weights, *absent), options["reduction"]
    if _pytorch_takes(input, target, weight, reduction, absent, numbers, inplace_backward):
        return dispatch.PYTORCH
    return dispatch.route(input, target, weight, row_weights, allowed_classes)


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    temperature: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    row_weights: Tensor | None = None,
    allowed_classes: Tensor | None = None,
    max_memory: int | None = None,
    valid_rows: int | None = None,
) -> Tensor:
    """Return the cross entropy of the logits input @ linear_weight.T + linear_bias without
    materialising them.

    The work is done in blocks of rows. Ignored rows are not multiplied, and gradients that nobody
    requests are not computed. The result depends on `max_memory` only by rounding.

    Args:
        input: (..., F), a row of features for each label.
        linear_weight: (C, F), of the input's dtype.
        target: labels (...), int64 or uint8, or class probabilities (..., C).
        linear_bias: (C), of the input's dtype.
        weight, reduction, ignore_index, label_smoothing, temperature, softcap, z_loss, row_weights:
            as for `cross_entropy`; the rows' shape is (...).
        allowed_classes: mask of bool, (C) or (..., C), as for `cross_entropy`.
        max_memory: bytes for everything except the arguments, the gradients and their float32 sums
            (in float16: all of them; in bfloat16: that of linear_weight); at least one row's logits
            are materialised. None: room for 256 rows or 10 million logits, whichever is more (40
            MB in float32 up to 39 000 classes, 131 MB with 128 000); on an accelerator
            for 4096 rows or 537 million logits, whichever is less. `explain` predicts what a call
            takes.
        valid_rows: an upper bound of the labels that are not ignored. On an accelerator, which is
            not asked how many there are, only so many rows are multiplied. With more of them the
            loss is NaN; on a CPU that raises ValueError.

    Returns: the loss in float32 for float16 and bfloat16 inputs, otherwise in the dtype of the
        input. Gradients have the dtypes of their tensors.

    Raises: as `cross_entropy`; ValueError for shapes of the linear layer that do not fit.

    Example:
        >>> hidden, head = torch.zeros(3, 8), torch.zeros(5, 8)
        >>> nll.linear_cross_entropy(hidden, head, torch.tensor([0, 4, -100]))
        tensor(1.6094)
    """
    reduction = arguments.reduction(reduction, None, None)
    problem = problem_of(
        input, linear_weight, target, linear_bias, weight, row_weights, allowed_classes, max_memory
    )
    numbers = label_smoothing, temperature, softcap, z_loss
    labels = arguments.cross_entropy(
        linear.like(problem), problem.target, weight, ignore_index, *numbers
    )
    options = Options(ignore_index, reduction, *numbers)
    arguments.valid_rows(valid_rows, labels, ignore_index)
    try:
        loss = linear.cross_entropy_of_rows(
            problem._replace(target=labels), options, max_memory, valid_rows
        )
    except IndexError as error:
        classes = linear_weight.shape[0]
        raise arguments.label_error(target, classes, ignore_index) or error from None
    return loss.reshape(input.shape[:-1]) if reduction == "none" else loss


def problem_of(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    linear_bias: Tensor | None,
    weight: Tensor | None,
    row_weights: Tensor | None,
    allowed_classes: Tensor | None,
    max_memory: int | None,
) -> linear.Problem:
    """Check the tensors of a linear layer's loss; return them with all rows in one dimension."""
    input, head, bias = matmul.autocast(input, linear_weight, linear_bias)
    rows, classes = arguments.linear(input, head, bias, max_memory), head.shape[0]
    weights = arguments.row_weights(row_weights, rows)
    return linear.Problem(
        _torch.matrix(input),
        head,
        bias,
        arguments.linear_target(target, rows, classes),
        weight,
        None if weights is None else weights.reshape(-1),
        arguments.allowed_rows(allowed_classes, rows, classes),
    )
