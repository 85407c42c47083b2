"""Statistics of each label under a model (log-probability, entropy, rank), from logits or, in
blocks, from a linear layer.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nll import _torch
from nll.kernels import reference
from nll.kernels.types import RowStatistics
from nll.losses import arguments, dispatch, operators
from nll.losses.layer.block_sizes import plan, rows_by_definition, sum_dtype
from nll.losses.layer.matmul import NOTHING, autocast, kept_blocks, linear, mask_of, products_of
from nll.losses.rowwise import Rowwise, over_blocks


class TokenStatistics(NamedTuple):
    """Per-label outputs in the labels' shape; `log_prob`, `lse` and `entropy` are differentiable.

    An ignored label has 0 in these, is not `correct`, and has rank -1.
    """

    log_prob: Tensor  # log p of the label
    lse: Tensor  # log sum exp of the logits
    entropy: Tensor | None  # -sum p log p, in nats
    correct: Tensor  # whether the label has the largest logit; the first of equal ones counts
    rank: Tensor  # number of classes with a larger logit than the label
    topk_log_prob: Tensor | None  # (..., k), the largest first
    topk_index: Tensor | None
    kept: Tensor  # whether the label is not ignored


class Options(NamedTuple):
    """The options of token statistics."""

    temperature: float
    softcap: float | None
    entropy: bool
    topk: int
    max_memory: int | None


# logits (N, C); or features (N, F), a head (C, F) and a bias (C)
Layer = tuple[Tensor, Tensor | None, Tensor | None]

# Per-row outputs: log_prob, lse, entropy; rank, top-k log-probabilities and classes. The first
# three are differentiable. An entropy that is not requested is (N, 0).
Outputs = tuple[Tensor, ...]
_SMOOTH, _ALL = 3, 6


def token_statistics(
    input: Tensor,
    target: Tensor,
    *,
    linear_weight: Tensor | None = None,
    linear_bias: Tensor | None = None,
    temperature: float = 1.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    allowed_classes: Tensor | None = None,
    entropy: bool = False,
    topk: int = 0,
    max_memory: int | None = None,
) -> TokenStatistics:
    """Return each label's log-probability and rank, and the entropy and top classes of its logits.

    Args:
        input: logits (..., C), the classes last; with `linear_weight`, features (..., F).
        target: labels (...), int64 or uint8.
        linear_weight: (C, F), of the input's dtype.
        linear_bias: (C), of the input's dtype.
        temperature, softcap, ignore_index: as for `cross_entropy`.
        allowed_classes: mask of bool, (C) or (..., C). The other classes have probability 0 and no
            rank; a label that is one of them has log-probability -inf and comes after all others.
        entropy: whether to compute the entropy.
        topk: number of most likely classes to return, with their log-probabilities.
        max_memory: bytes for everything except arguments, results and gradients, as for
            `linear_cross_entropy`.

    Returns: `TokenStatistics`, in float32 for float16 and bfloat16 inputs. Differentiable any
        number of times with respect to the input, the weight and the bias, with one block of the
        logits in memory at a time.

    Raises: as `linear_cross_entropy`.

    Example:
        >>> statistics = nll.token_statistics(torch.tensor([[0.0, 2.0]]), torch.tensor([0]), topk=1)
        >>> statistics.log_prob, statistics.rank, statistics.topk_index
        (tensor([-2.1269]), tensor([1]), tensor([[1]]))
    """
    arguments.cross_entropy_options(temperature=temperature, softcap=softcap)
    layer, rows = layer_of(input, linear_weight, linear_bias, max_memory)
    labels = arguments.row_labels(target, rows, ignore_index)
    classes = classes_of(layer)
    arguments.topk(topk, classes)
    allowed = arguments.allowed_rows(allowed_classes, rows, classes)
    options = Options(float(temperature), softcap, entropy, topk, max_memory)
    try:
        flat = statistics_of(options, layer, labels.reshape(-1), ignore_index, allowed)
    except IndexError as error:
        raise arguments.label_error(target, classes, ignore_index) or error from None
    shaped: Any = [None if t is None else t.reshape((*rows, *t.shape[1:])) for t in flat]
    return TokenStatistics(*shaped)


def layer_of(
    input: Tensor, head: Tensor | None, bias: Tensor | None, max_memory: int | None
) -> tuple[Layer, torch.Size]:
    """Check logits or a linear layer; return them as a matrix, and the rows' shape."""
    if head is None:
        arguments.logits(input, bias, max_memory)
        rows = input.shape[:-1]
    else:
        input, head, bias = autocast(input, head, bias)
        rows = arguments.linear(input, head, bias, max_memory)  # type: ignore[arg-type]
    return (_torch.matrix(input), head, bias), rows


def statistics_of(
    options: Options,
    layer: Layer,
    target: Tensor,
    ignore_index: int,
    allowed: Tensor | None = None,
) -> TokenStatistics:
    """Return the statistics, in blocks within a budget; IndexError for a label out of range."""
    kept = target != ignore_index
    wrong = kept & ((target < 0) | (target >= classes_of(layer)))
    label = target.masked_fill(~kept | wrong, 0)
    if not LOSS.needs_definition(layer):
        dispatch.look_at_labels(target, classes_of(layer), ignore_index)
    outputs: Any = LOSS(options, (*layer, label, kept, allowed))
    log_prob, lse, entropy, rank, top, index = outputs[:_ALL]
    log_prob = log_prob.masked_fill(wrong, torch.nan)
    correct = (rank == 0) & ~log_prob.isnan() & (log_prob > -math.inf) & kept
    ignored, of_top = ~kept, ~kept.unsqueeze(-1)
    return TokenStatistics(
        log_prob.masked_fill(ignored, 0.0),
        lse.masked_fill(ignored, 0.0),
        entropy.masked_fill(ignored, 0.0) if options.entropy else None,
        correct,
        rank.masked_fill(ignored, -1),
        top.masked_fill(of_top, 0.0) if options.topk else None,
        index.masked_fill(of_top, -1) if options.topk else None,
        kept,
    )


def classes_of(layer: Layer) -> int:
    input, head, _ = layer
    return input.shape[1] if head is None else head.shape[0]


def _definition(options: Options, tensors: Any, factors: Any) -> Outputs:
    input, head, bias, label, kept, allowed = tensors
    by_row = allowed is not None and allowed.dim() == 2

    def smooth(rows: Any, shared: Any) -> Any:
        logits, may = linear(rows[0], *shared[:2]), rows[2] if by_row else shared[2]
        outputs = reference.differentiable_statistics(logits, rows[1], may, *options[:3])
        return (*outputs, *[logits[:, :0]] * (_SMOOTH - len(outputs))), ()

    def everything(rows: Any, shared: Any) -> Any:
        logits, may = linear(rows[0], *shared[:2]), rows[2] if by_row else shared[2]
        statistics = reference.statistics_block(logits, rows[1], may, *options[:3])
        return _outputs(statistics, logits, may, options), ()

    function = Rowwise(everything, _ALL, Rowwise(smooth, _SMOOTH))
    step, _ = rows_by_definition(input, classes_of((input, head, bias)), options.max_memory)
    every = (input, label, allowed if by_row else None), (head, bias, None if by_row else allowed)
    outputs = over_blocks(function, *every, step)[0]
    ignored = ~kept
    return *(t if t.dim() == 2 else t.masked_fill(ignored, 0) for t in outputs[:_SMOOTH]), *outputs[
        _SMOOTH:
    ]


def _outputs(
    statistics: RowStatistics, logits: Tensor, allowed: Tensor | None, options: Options
) -> Outputs:
    best, index = logits[:, :0], statistics.rank.new_empty(len(logits), 0)
    if options.topk:
        best, index = torch.topk(reference.masked(logits, allowed), options.topk, 1)
    possible = None if allowed is None else allowed.expand_as(logits).gather(1, index)
    z = reference.scaled_logits(best, options.temperature, options.softcap, possible)
    top = (z - statistics.shift.unsqueeze(1)) - statistics.log_sum.unsqueeze(1)
    entropy = statistics.entropy if options.entropy else top[:, :0]
    return statistics.log_prob, statistics.lse, entropy, statistics.rank, top, index  # type: ignore[return-value]


# ---- Value and first derivatives, by the kernels -------------------------------------------------


def _forward(options: Options, tensors: Any, wanted: Any) -> tuple[Outputs, tuple]:
    """The outputs, 0 for rows that are ignored; and each row's shift and log_sum."""
    input, head, bias, label, kept, allowed = tensors
    blocks = plan(input, head, options.max_memory)
    results = _zeros(input, options)
    products = products_of(input, head, bias, blocks, NOTHING)
    for rows in kept_blocks(kept, False, blocks.rows):
        logits, of_rows = products.logits(input[rows], rows), label[rows]
        may = mask_of(allowed, rows)
        kernels = dispatch.route(logits, of_rows, allowed=may).kernels
        statistics = kernels.statistics_block(logits, of_rows, may, *options[:3])
        outputs = *_outputs(statistics, logits, may, options), statistics.shift, statistics.log_sum
        for result, output in zip(results, outputs, strict=True):
            result[rows] = output
    return results, ()


def _shapes(options: Options, tensors: Any, wanted: Any) -> tuple[Outputs, tuple]:
    return _zeros(tensors[0], options), ()


def _zeros(input: Tensor, options: Options) -> Outputs:
    n, dtype = input.shape[0], sum_dtype(input)
    entropy = input.new_zeros(n if options.entropy else (n, 0), dtype=dtype)
    log_prob, lse, shift, log_sum = (input.new_zeros(n, dtype=dtype) for _ in range(4))
    rank = input.new_zeros(n, dtype=torch.int64)
    top = input.new_zeros(n, options.topk, dtype=dtype)
    index = input.new_zeros(n, options.topk, dtype=torch.int64)
    return log_prob, lse, entropy, rank, top, index, shift, log_sum


def _gradients(options: Options, tensors: Any, wanted: Any, saved: Any, grads: Any) -> Outputs:
    input, head, bias, label, kept, allowed = tensors
    blocks = plan(input, head, options.max_memory)
    products = products_of(input, head, bias, blocks, wanted)
    grads = grads if options.entropy else grads[:2]
    for rows in kept_blocks(kept, False, blocks.rows):
        x, of_rows, may = input[rows], label[rows], mask_of(allowed, rows)
        logits = products.logits(x, rows)
        entropy, shift, log_sum = (numbers[rows] for numbers in saved)
        # the first two are not read
        statistics = RowStatistics(
            shift, shift, entropy if options.entropy else None, of_rows, shift, log_sum
        )
        dispatch.route(logits, of_rows, allowed=may).kernels.statistics_block_backward(
            logits, of_rows, may, *options[:2], statistics, tuple(grad[rows] for grad in grads)
        )
        products.add(rows, x, logits)
    return tuple(None if g is None else g.to(input.dtype) for g in products.gradients)  # type: ignore[misc]


LOSS = operators.Loss(
    name="token_statistics",
    tensors="Tensor input, Tensor? head, Tensor? bias, Tensor label, Tensor kept, Tensor? allowed",
    options="float temperature, float? softcap, bool entropy, SymInt topk, SymInt? max_memory",
    options_type=Options,
    n_inputs=3,
    n_outputs=_SMOOTH,
    outputs=_ALL + 2,
    saved=(2, 6, 7),
    forward=_forward,
    shapes=_shapes,
    gradients=_gradients,
    definition=_definition,
)

_LARGEST_LOG = math.log(sys.float_info.max)


class Estimate(NamedTuple):
    """A mean over labels, or a function of one, with its standard error."""

    value: float
    standard_error: float
    n: int  # labels that are not ignored


def perplexity(
    statistics: TokenStatistics | Iterable[TokenStatistics], *, clusters: str = "token"
) -> Estimate:
    """Return exp of the mean negative log-probability of all labels, with its standard error.

    Args:
        statistics: of one batch, or of any number of batches, which are iterated once.
        clusters: "token" treats labels as independent; "sequence" only the entries of the first
            dimension, which is right for text. The standard error of the mean is multiplied by the
            value (delta method).

    Example:
        >>> logits = torch.tensor([[0.0, 0.0], [0.0, 2.0]])
        >>> nll.perplexity(nll.token_statistics(logits, torch.tensor([0, 1])))
        Estimate(value=1.5068..., standard_error=0.4266..., n=2)
    """
    arguments.clusters(clusters)
    mean = mean_over(statistics, lambda batch: -batch.log_prob, clusters)
    value = math.inf if mean.value > _LARGEST_LOG else math.exp(mean.value)
    return Estimate(value, math.inf if value == math.inf else value * mean.standard_error, mean.n)


def accuracy(
    statistics: TokenStatistics | Iterable[TokenStatistics], *, clusters: str = "token"
) -> Estimate:
    """Return the share of labels that are the most likely class, with its standard error; arguments
    as for `perplexity`.

    Example:
        >>> logits = torch.tensor([[0.0, 1.0], [0.0, 2.0]])
        >>> nll.accuracy(nll.token_statistics(logits, torch.tensor([0, 1])))
        Estimate(value=0.5, standard_error=0.5, n=2)
    """
    arguments.clusters(clusters)
    return mean_over(statistics, lambda batch: batch.correct, clusters)


def mean_over(batches: Any, pick: Any, clusters: str) -> Estimate:
    """Return the mean of a per-label number; as a ratio of sums, its variance from cluster totals.

    With s_g the sum and n_g the number of labels of cluster g, m = sum s / sum n and
    var m = G / (G - 1) sum (s_g - m n_g)^2 / (sum n)^2 (Cochran 1977, Sampling Techniques, section
    9A.2).
    """
    sums = torch.zeros(6, dtype=torch.float64, device="cpu")  # G, s, n, s^2, s n, n^2
    for batch in [batches] if isinstance(batches, TokenStatistics) else batches:
        kept = batch.kept.detach().double()
        values = pick(batch).detach().double().masked_fill(~batch.kept, 0.0)
        if clusters == "sequence":
            values, kept = (
                t.reshape(1) if t.dim() == 0 else t.unsqueeze(-1).flatten(1).sum(1)
                for t in (values, kept)
            )
        s, n = values.flatten(), kept.flatten()
        sums += torch.stack([(n > 0).sum(), s.sum(), n.sum(), s @ s, s @ n, n @ n]).cpu()
    groups, s, n, ss, sn, nn = sums.tolist()
    if n == 0:
        return Estimate(float("nan"), float("nan"), 0)
    mean = s / n
    squares = max(0.0, ss - 2.0 * mean * sn + mean**2 * nn)
    error = (groups / (groups - 1) * squares) ** 0.5 / n if groups > 1 else float("nan")
    return Estimate(mean, error, int(n))
