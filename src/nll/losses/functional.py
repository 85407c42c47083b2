"""The losses: check the arguments, choose a backend, call it, reduce the rows.

Class scores have the shape (C), (N, C) or (N, C, d1, ..., dk); the rows have the same shape without
C.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from nll import _torch
from nll.kernels import reference
from nll.losses import (
    arguments,
    autograd,
    dispatch,
    kl_divergence,
    linear,
    matmul,
    operators,
    sampled,
)
from nll.losses.token_statistics import Estimate, Question, TokenStatistics, answer, mean_over


def log_softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Logarithm of the softmax along a dimension: x - log(sum(exp(x))), computed without overflow.

    Args:
        input: scores of any shape; float32, float64, bfloat16 or float16.
        dim: the dimension of the classes.
        dtype: the input is converted to this type first; the result has it.

    Returns: log-probabilities of the input's shape and dtype; in float32 where autocast has
        PyTorch's answer so.

    Raises: IndexError for a dimension that the input has not, TypeError for arguments of a wrong
        type.
    """
    arguments.log_softmax(input, dim, dtype)
    device = input.device.type
    if dtype is None and input.dtype in matmul.HALF and device != "cpu":
        dtype = None if _torch.autocast_dtype(device) is None else torch.float32
    input = input if dtype is None else input.to(dtype)
    return _chosen(input).log_softmax(input, dim)


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
    reduction = arguments.reduction(reduction, size_average, reduce)
    target = arguments.nll_loss(input, target, weight, ignore_index)
    backend = _chosen(input)
    if backend is reference and input.device.type != "cpu":
        dispatch.look_at_labels(target, input.shape[reference.class_dim(input)], ignore_index)
    try:
        rows = backend.nll_loss(input, target, ignore_index)
        mass = reference.label_mass(input, target, weight, ignore_index)
    except IndexError as error:
        raise _named(error, input, target, ignore_index) from None
    rows = rows.to(mass.dtype)
    loss = reference.reduce(
        rows if weight is None else reference.product(mass, rows), mass, reduction
    )
    # Under autocast PyTorch's nll_loss answers in float32.
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
    """Cross entropy of scores against labels or class probabilities: nll_loss of log_softmax, in
    one.

    The scores are z = softcap * tanh(input / softcap) / temperature, with p = softmax(z). The loss
    of a row is -sum_c q_c w_c log p_c, where q is the target, smoothed; w the class weights.

    Args:
        input: raw scores, (C), (N, C) or (N, C, d1, ...).
        target: labels as for `nll_loss`, or class probabilities of the input's shape.
        weight: (C), the weight of each class.
        size_average: deprecated, use `reduction`.
        ignore_index: rows with this label count for nothing; not for class probabilities.
        reduce: deprecated, use `reduction`.
        reduction: "none", "sum", or "mean": the sum over the sum of the labels' weights, for class
            probabilities over the number of rows. NaN when every row is ignored.
        label_smoothing: in [0, 1], the share of each target that goes to all (allowed) classes
            alike.
        temperature: divides the scores; above 0.
        softcap: bounds the scores to (-softcap, softcap) before the temperature; None: unbounded.
        z_loss: adds z_loss * logsumexp(z)^2 to each row that is kept; in "mean" as their mean, not
            weighted by class. Keeps the scores from drifting (Chowdhery et al. 2022, PaLM, section
            5).
        row_weights: of the rows' shape; multiply the rows and enter the denominator of "mean".
        allowed_classes: mask of bool, (C) or the input's shape. The other classes have probability
            0 and no share of the smoothing; a row whose label is one of them has loss +inf.
        inplace_backward: the backward pass may overwrite `input` with its gradient, which saves a
            tensor of that
            size. Nothing may read the scores after that pass: autograd notices what it has saved
            itself, not a later line of the program, another view of the memory made by `detach` or
            NumPy, or what a custom function keeps. Compiled code and the transformations of
            torch.func go without it.

    Returns: the loss in float32 for float16 and bfloat16 inputs, else in the dtype of the input.
    Gradients have the dtype of the input.

    Raises: as `nll_loss`; RuntimeError for probabilities with an `ignore_index` of 0 or more, or a
    `label_smoothing` out of range; ValueError for other options out of range. With
    `inplace_backward`, RuntimeError for an input that is a leaf or a view of one, for a second
    backward pass and for second derivatives.
    """
    absent = weight, row_weights, allowed_classes, softcap, size_average, reduce
    if goes_to_pytorch(
        input, target, absent, (label_smoothing, temperature, z_loss), inplace_backward
    ):
        try:
            return _cross_entropy_loss(input, target, None, _CODES[reduction], ignore_index)
        except (IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            # what is wrong is named below
            if type(error) not in _NAMED:  # but not what others raise: checkpoints, to stop; hooks
                raise
    reduction = arguments.reduction(reduction, size_average, reduce)
    target = arguments.cross_entropy(
        input, target, weight, ignore_index, label_smoothing, temperature, softcap, z_loss
    )
    row_weights = arguments.row_weights(row_weights, reference.rows_shape(input))
    allowed = arguments.allowed_classes(allowed_classes, input)
    if inplace_backward and autograd.overwrites(input):
        arguments.inplace_backward(input)
    options = reference.Options(
        ignore_index, reduction, label_smoothing, temperature, softcap, z_loss
    )
    backend = dispatch.choose(input, target, weight, row_weights, allowed)
    if backend is reference and input.device.type != "cpu" and target.shape != input.shape:
        dispatch.look_at_labels(target, input.shape[reference.class_dim(input)], ignore_index)
    if backend is not reference and torch.compiler.is_compiling():
        return operators.cross_entropy(input, target, weight, row_weights, *options)[0]
    try:
        if not inplace_backward:
            return backend.cross_entropy(input, target, weight, row_weights, allowed, options)
        return autograd.cross_entropy_in_place(
            backend, input, target, weight, row_weights, allowed, options
        )
    except IndexError as error:
        raise _named(error, input, target, ignore_index) from None


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
    """Cross entropy of the scores input @ linear_weight.T + linear_bias, which are never held as a
    whole.

    The work goes in blocks of rows. Rows that are ignored are not multiplied, and gradients that
    nobody has asked for not computed. The result does not depend on `max_memory` but for rounding.

    Args:
        input: (..., F), a row of features for each label.
        linear_weight: (C, F), of the input's dtype.
        target: labels (...), int64 or uint8, or class probabilities (..., C).
        linear_bias: (C), of the input's dtype.
        weight, reduction, ignore_index, label_smoothing, temperature, softcap, z_loss, row_weights:
            as for `cross_entropy`; the rows' shape is (...).
        allowed_classes: mask of bool, (C) or (..., C), as for `cross_entropy`.
        max_memory: bytes for everything besides the arguments, the gradients and float32 sums of
            them (float16: of all;
            bfloat16: of that by linear_weight); at least one row's scores are held. None: room for
            10 million scores, 40 MB in float32; on an accelerator for 268 million. `explain` tells
            what a call will take.
        valid_rows: of labels, at most so many are not ignored. An accelerator, which is not asked
            how many there are, multiplies no more rows then. With more of them the loss is NaN; on
            a processor that raises ValueError.

    Returns: the loss in float32 for float16 and bfloat16 inputs, else in the dtype of the input.
    Gradients have the dtype of what they are by.

    Raises: as `cross_entropy`; ValueError for shapes of the linear layer that do not fit.
    """
    reduction = arguments.reduction(reduction, None, None)
    input, linear_weight, linear_bias = matmul.autocast(input, linear_weight, linear_bias)
    rows = arguments.linear(input, linear_weight, linear_bias, max_memory)
    classes = linear_weight.shape[0]
    row_weights = arguments.row_weights(row_weights, rows)
    problem = linear.Problem(
        _torch.matrix(input),
        linear_weight,
        linear_bias,
        arguments.linear_target(target, rows, classes),
        weight,
        None if row_weights is None else row_weights.reshape(-1),
        arguments.allowed_rows(allowed_classes, rows, classes),
    )
    labels = arguments.cross_entropy(
        linear.like(problem),
        problem.target,
        weight,
        ignore_index,
        label_smoothing,
        temperature,
        softcap,
        z_loss,
    )
    options = reference.Options(
        ignore_index, reduction, label_smoothing, temperature, softcap, z_loss
    )
    arguments.valid_rows(valid_rows, labels, ignore_index)
    try:
        loss = linear.cross_entropy_of_rows(
            problem._replace(target=labels), options, max_memory, valid_rows
        )
    except IndexError as error:
        raise arguments.label_error(target, classes, ignore_index) or error from None
    return loss.reshape(rows) if reduction == "none" else loss


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
    """KL divergence KL(q || p) of a linear layer's distribution p from a target q, for
    distillation.

    p = softmax((input @ linear_weight.T + linear_bias) / temperature). The scores of neither are
    held as a whole.

    Args:
        input: (..., F).
        linear_weight: (C, F), of the input's dtype.
        target: probabilities (..., C), or with `target_weight` the features (..., G) of another
            model.
        target_weight: (C, G), the other model's head.
        linear_bias, target_bias: (C).
        temperature, target_temperature: divide the scores; the target's is the same unless given.
            The customary factor temperature^2 (Hinton et al. 2015) is left to the caller.
        reverse: KL(p || q) instead.
        reduction: "none", "sum", or "mean", the sum over the sum of the row weights.
        row_weights: (...); multiply the rows.
        max_memory: as for `linear_cross_entropy`.

    Returns: the divergence in nats, in float32 for float16 and bfloat16 inputs. Differentiable any
    number of times by every tensor, those of the target too.

    Raises: ValueError, RuntimeError and TypeError for shapes, types and options that do not fit.
    """
    reduction = arguments.reduction(reduction, None, None)
    arguments.cross_entropy_options(temperature=temperature)
    input, linear_weight, linear_bias = matmul.autocast(input, linear_weight, linear_bias)
    rows, classes = (
        arguments.linear(input, linear_weight, linear_bias, max_memory),
        linear_weight.shape[0],
    )
    divisor = temperature if target_temperature is None else target_temperature
    if target_weight is None:
        y, head, bias = arguments.probabilities(target, target_bias, rows, classes), None, None
    else:
        arguments.cross_entropy_options(temperature=divisor)
        y, head, bias = matmul.autocast(target, target_weight, target_bias)
        arguments.same_rows(arguments.linear(y, head, bias, None), rows, head, classes)
        y = _torch.matrix(y)
    weights = arguments.row_weights(row_weights, rows)
    how = kl_divergence.How(float(temperature), float(divisor), reverse, max_memory)
    x = _torch.matrix(input)
    dead = None if weights is None else weights.reshape(-1) == 0.0
    found = kl_divergence.kl_divergence(
        how, dead, x, linear_weight, linear_bias, y, head, bias
    ).reshape(rows)
    weights = None if weights is None else weights.to(found.dtype)
    return reference.reduce(found, torch.ones_like(found), reduction, weights)


def sampled_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    num_samples: int,
    *,
    sampling_probabilities: Tensor | None = None,
    linear_bias: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int = -100,
    temperature: float = 1.0,
    softcap: float | None = None,
    row_weights: Tensor | None = None,
    sparse: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Cross entropy of a linear layer's scores, the sum over classes estimated from a sample that
    all rows share.

    The scores of sampled classes are corrected by the logarithm of how often each is expected; a
    sampled class that is a row's label counts for nothing in that row. The gradient's bias falls as
    1 / num_samples; with every class sampled once the loss is exact.

    Args:
        input: (..., F).
        linear_weight: (C, F); only the rows of labels and sampled classes are read.
        target: labels (...), int64 or uint8.
        num_samples: classes to draw, at most C for the uniform sample.
        sampling_probabilities: (C), not negative; classes are drawn with replacement. None:
            uniformly, without.
        linear_bias: (C).
        reduction, ignore_index, temperature, softcap, row_weights: as for `cross_entropy`.
        sparse: whether the gradient by linear_weight is a sparse tensor, as for torch.nn.Embedding.
        generator: of the random numbers.

    Returns: the loss in float32 for float16 and bfloat16 inputs.

    Raises: as `linear_cross_entropy`.
    """
    reduction = arguments.reduction(reduction, None, None)
    arguments.cross_entropy_options(temperature=temperature, softcap=softcap)
    input, linear_weight, linear_bias = matmul.autocast(input, linear_weight, linear_bias)
    rows, classes = (
        arguments.linear(input, linear_weight, linear_bias, None),
        linear_weight.shape[0],
    )
    arguments.sample(num_samples, sampling_probabilities, classes)
    labels = arguments.row_labels(target, rows, ignore_index).reshape(-1)
    error = (
        arguments.label_error(target, classes, ignore_index) if _torch.readable(target) else None
    )
    if error is not None:
        raise error
    weights = arguments.row_weights(row_weights, rows)
    x, kept = _torch.matrix(input), labels != ignore_index
    label = labels.masked_fill(~kept | (labels < 0) | (labels >= classes), 0)
    chosen, log_expected = sampled.draw(
        classes, num_samples, sampling_probabilities, generator, input.device
    )
    own = sampled.label_scores(x, linear_weight, linear_bias, label, sparse)
    others = sampled.scores(x, linear_weight, linear_bias, chosen, sparse)
    own, others = (reference.scores(z, temperature, softcap, None) for z in (own, others))
    others = others - log_expected.to(others.dtype)
    others = others.masked_fill(chosen == label.unsqueeze(1), -torch.inf)
    first = torch.zeros_like(label).masked_fill(~kept, -100)  # the label's score comes first
    flat = None if weights is None else weights.reshape(-1)
    loss = cross_entropy(
        torch.cat([own.unsqueeze(1), others], 1), first, reduction=reduction, row_weights=flat
    )
    return loss.reshape(rows) if reduction == "none" else loss


def token_statistics(
    input: Tensor,
    target: Tensor,
    *,
    linear_weight: Tensor | None = None,
    linear_bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    entropy: bool = False,
    topk: int = 0,
    max_memory: int | None = None,
) -> TokenStatistics:
    """What scores say about each label: its log-probability, its rank, their entropy and their
    largest.

    Args:
        input: scores (..., C), the classes last; with `linear_weight`, features (..., F) that it
            makes scores of.
        target: labels (...), int64 or uint8.
        linear_weight: (C, F), of the input's dtype.
        linear_bias: (C), of the input's dtype.
        temperature, softcap, ignore_index: as for `cross_entropy`.
        entropy: whether to compute it.
        topk: how many of the most likely classes to name, with their log-probabilities.
        max_memory: bytes for everything besides arguments, results and gradients, as for
            `linear_cross_entropy`.

    Returns: `TokenStatistics`, in float32 for float16 and bfloat16 inputs. Differentiable any
    number of times by the input, the weight and the bias; a block of the scores is there at a time.

    Raises: as `linear_cross_entropy`.
    """
    arguments.cross_entropy_options(temperature=temperature, softcap=softcap)
    if linear_weight is None:
        classes, rows = arguments.scores(input, linear_bias, max_memory), input.shape[:-1]
    else:
        input, head, linear_bias = matmul.autocast(input, linear_weight, linear_bias)
        rows, classes, linear_weight = (
            arguments.linear(input, head, linear_bias, max_memory),
            head.shape[0],
            head,
        )
    labels = arguments.row_labels(target, rows, ignore_index)
    arguments.topk(topk, classes)
    question = Question(float(temperature), softcap, entropy, topk)
    layer = _torch.matrix(input), linear_weight, linear_bias
    try:
        found = answer(question, layer, labels.reshape(-1), ignore_index, max_memory)
    except IndexError as error:
        raise arguments.label_error(target, classes, ignore_index) or error from None
    shaped: Any = [
        None if tensor is None else tensor.reshape((*rows, *tensor.shape[1:])) for tensor in found
    ]
    return TokenStatistics(*shaped)


def perplexity(
    statistics: TokenStatistics | Iterable[TokenStatistics], *, clusters: str = "token"
) -> Estimate:
    """exp of the mean negative log-probability of all labels, with its standard error.

    Args:
        statistics: of one batch, or of any number of batches, which are gone through once.
        clusters: "token" takes labels for independent; "sequence" only the entries of the first
            dimension, which is right for text. The error of the mean is multiplied by the value
            (delta method).
    """
    arguments.clusters(clusters)
    mean = mean_over(statistics, lambda batch: -batch.log_prob, clusters)
    value = math.inf if mean.value > _LARGEST_LOG else math.exp(mean.value)
    return Estimate(value, math.inf if value == math.inf else value * mean.standard_error, mean.n)


def accuracy(
    statistics: TokenStatistics | Iterable[TokenStatistics], *, clusters: str = "token"
) -> Estimate:
    """The share of labels that are the most likely class, with its standard error; arguments as for
    `perplexity`.
    """
    arguments.clusters(clusters)
    return mean_over(statistics, lambda batch: batch.correct, clusters)


# PyTorch's own operator, and what it calls the reductions.
_cross_entropy_loss = torch._C._nn.cross_entropy_loss  # type: ignore[attr-defined]
_CODES = {"none": 0, "mean": 1, "sum": 2}
_NAMED = (IndexError, KeyError, RuntimeError, TypeError, ValueError)
_LARGEST_LOG = math.log(sys.float_info.max)


def goes_to_pytorch(
    input: Tensor,
    target: Tensor,
    absent: tuple[Any, ...],
    numbers: tuple[Any, ...],
    inplace_backward: bool,
) -> bool:
    """Whether a call of `cross_entropy` goes straight to PyTorch's own operator: a small one
    without options.
    """
    if inplace_backward or any(argument is not None for argument in absent):
        return False
    usual = all(type(number) is float for number in numbers) and numbers == (0.0, 1.0, 0.0)
    return usual and dispatch.is_small(input, target)


def _chosen(input: Tensor) -> Any:
    """The backend of a function that is one operator of PyTorch's, of which the compiler makes the
    best itself.
    """
    return reference if torch.compiler.is_compiling() else dispatch.choose(input)


def _named(error: IndexError, input: Tensor, target: Tensor, ignore_index: int) -> IndexError:
    """Name the row and the value of the label that a kernel met out of range.

    Kernels check labels as they read them; looking again afterwards costs a correct call nothing. A
    compiled call has no Python left to do this; there the error is that of the compiled code.
    """
    return (
        arguments.label_error(target, input.shape[reference.class_dim(input)], ignore_index)
        or error
    )
