"""What a model says about each label: log-probability, entropy, rank; from scores, or from a linear
layer in blocks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from nll import _torch
from nll.kernels import reference
from nll.losses import dispatch
from nll.losses.matmul import (
    NOTHING,
    kept_blocks,
    linear,
    plan,
    products_of,
    rows_by_definition,
    summed_in,
)
from nll.losses.rowwise import Rowwise, over_blocks


class TokenStatistics(NamedTuple):
    """For each label, in the shape of the labels; `log_prob`, `lse` and `entropy` are
    differentiable.

    An ignored label has 0 in these, is not `correct`, and has the rank -1.
    """

    log_prob: Tensor  # log p of the label
    lse: Tensor  # log sum exp of the scores
    entropy: Tensor | None  # -sum p log p, in nats
    correct: Tensor  # whether the label has the largest score; of equal scores the first counts
    rank: Tensor  # how many classes have a larger score than the label
    topk_log_prob: Tensor | None  # (..., k), the largest first
    topk_index: Tensor | None
    kept: Tensor  # whether the label is not ignored


class Question(NamedTuple):
    """What is asked about rows of scores, or of features and a head."""

    temperature: float
    softcap: float | None
    entropy: bool
    topk: int


# scores (N, C); or features (N, F), a head (C, F) and a bias (C)
Layer = tuple[Tensor, Tensor | None, Tensor | None]


def answer(
    question: Question, layer: Layer, target: Tensor, ignore_index: int, max_memory: int | None
) -> TokenStatistics:
    """The statistics, in blocks within a budget; IndexError for a label out of range."""
    kept = target != ignore_index
    wrong = kept & ((target < 0) | (target >= classes_of(layer)))
    label = target.masked_fill(~kept | wrong, 0)
    if needs_definition(layer):
        log_prob, lse, *more = _by_definition(question, layer, label, max_memory)
    elif torch.compiler.is_compiling():
        log_prob, lse, *more = _operated(question, max_memory, label, kept, layer)
    else:
        dispatch.look_at_labels(target, classes_of(layer), ignore_index)
        log_prob, lse, *more = _Statistics.apply(question, max_memory, label, kept, *layer)  # type: ignore[misc]
    entropy = more.pop(0) if question.entropy else None
    rank, *top = more
    log_prob = log_prob.masked_fill(wrong, torch.nan)
    correct = (rank == 0) & ~log_prob.isnan() & kept
    best, index = top or (None, None)
    of_rows = (log_prob, 0.0), (lse, 0.0), (entropy, 0.0), (rank, -1), (best, 0.0), (index, -1)
    log_prob, lse, entropy, rank, best, index = (
        _where(kept, numbers, ignored) for numbers, ignored in of_rows
    )
    return TokenStatistics(log_prob, lse, entropy, correct, rank, best, index, kept)


def classes_of(layer: Layer) -> int:
    """The number of classes."""
    input, head, _ = layer
    return input.shape[1] if head is None else head.shape[0]


def needs_definition(layer: Layer) -> bool:
    """Whether the blocks are to be of operators that autograd, torch.func, tracers and modes look
    into.
    """
    return _torch.transforming() or not (torch.compiler.is_compiling() or _torch.ordinary(*layer))


def _where(kept: Tensor, value: Tensor | None, other: Any) -> Any:
    if value is None:
        return None
    return value.masked_fill(~(kept if value.dim() == kept.dim() else kept.unsqueeze(-1)), other)


def _by_definition(
    question: Question, layer: Layer, label: Tensor, max_memory: int | None
) -> tuple[Tensor, ...]:
    how = question.temperature, question.softcap, question.entropy

    def smooth(rows: Any, shared: Any) -> Any:
        return reference.differentiable_statistics(linear(rows[0], *shared), rows[1], *how), ()

    def everything(rows: Any, shared: Any) -> Any:
        scores = linear(rows[0], *shared)
        return _outputs(reference.statistics_block(scores, rows[1], *how), scores, question), ()

    smooth_ones = 3 if question.entropy else 2
    function = Rowwise(
        everything, smooth_ones + 1 + 2 * bool(question.topk), Rowwise(smooth, smooth_ones)
    )
    input, head, bias = layer
    step, _ = rows_by_definition(input, classes_of(layer), max_memory)
    return over_blocks(function, (input, label), (head, bias), step)[0]


def _outputs(
    found: reference.RowStatistics, scores: Tensor, question: Question
) -> tuple[Tensor, ...]:
    """log_prob, lse and, if asked for, entropy; then rank and, if asked for, the largest and where
    they are.
    """
    entropy = (found.entropy,) if question.entropy else ()
    top: tuple[Tensor, ...] = ()
    if question.topk:
        best, index = torch.topk(scores, question.topk, 1)
        z = reference.scores(best, question.temperature, question.softcap, None)
        top = (z - found.shift.unsqueeze(1)) - found.log_sum.unsqueeze(1), index
    return found.log_prob, found.lse, *entropy, found.rank, *top  # type: ignore[return-value]


class _Statistics(torch.autograd.Function):
    """The outputs, 0 where a row is ignored, and first derivatives by the kernels; others by the
    definition.
    """

    @staticmethod
    @dispatch.as_written
    def forward(  # type: ignore[override]
        ctx: Any,
        question: Question,
        max_memory: int | None,
        label: Tensor,
        kept: Tensor,
        *layer: Tensor | None,
    ):
        outputs, sums = _measure(question, max_memory, label, kept, layer)  # type: ignore[arg-type]
        ctx.question, ctx.max_memory = question, max_memory
        smooth_ones = 3 if question.entropy else 2
        ctx.mark_non_differentiable(*outputs[smooth_ones:])
        ctx.save_for_backward(*layer, label, kept, *sums, *outputs[2:smooth_ones])
        return outputs

    @staticmethod
    @dispatch.as_forward
    def backward(ctx: Any, *slopes: Tensor):  # type: ignore[override]
        input, head, bias, label, kept, *sums = ctx.saved_tensors
        layer, wanted, slopes = (input, head, bias), ctx.needs_input_grad[4:], slopes[: len(sums)]
        if torch.is_grad_enabled() or any(map(_torch.batched, slopes)):
            gradients = _gradients_by_definition(
                ctx.question, ctx.max_memory, layer, label, kept, wanted, slopes
            )
        else:
            gradients = _gradients(
                ctx.question, ctx.max_memory, layer, label, kept, sums, wanted, slopes
            )
        return None, None, None, None, *gradients


def _measure(
    question: Question, max_memory: int | None, label: Tensor, kept: Tensor, layer: Layer
) -> tuple[tuple[Tensor, ...], list[Tensor]]:
    """The outputs of `_outputs`, 0 for rows that are ignored; and each row's shift and log_sum."""
    input, head, bias = layer
    how = plan(input, head, max_memory)
    rows, k = len(input), question.topk
    numbers = [
        input.new_zeros(rows, dtype=summed_in(input)) for _ in range(5 if question.entropy else 4)
    ]
    rank = input.new_zeros(rows, dtype=torch.int64)
    top = (numbers[0].new_zeros(rows, k), rank.new_zeros(rows, k)) if k else ()
    *outputs, shift, log_sum = *numbers[2:], rank, *top, *numbers[:2]
    products = products_of(input, head, bias, how, NOTHING)
    for some in kept_blocks(kept, False, how.rows):
        scores, of = products.scores(input[some]), label[some]
        found = dispatch.choose(scores, of).statistics_block(scores, of, *question[:3])
        parts = *_outputs(found, scores, question), found.shift, found.log_sum
        for output, part in zip((*outputs, shift, log_sum), parts, strict=True):
            output[some] = part
    return tuple(outputs), [shift, log_sum]


def _gradients(
    question: Question,
    max_memory: int | None,
    layer: Layer,
    label: Tensor,
    kept: Tensor,
    sums: list[Tensor],  # shift, log_sum and, if asked for, the entropy
    wanted: Any,
    slopes: Any,
) -> tuple[Tensor | None, ...]:
    input, head, bias = layer
    how = plan(input, head, max_memory)
    products = products_of(input, head, bias, how, wanted)
    for rows in kept_blocks(kept, False, how.rows):
        x, of = input[rows], label[rows]
        scores = products.scores(x)
        shift, log_sum, *entropy = (numbers[rows] for numbers in sums)
        nothing = shift  # is not read
        found = reference.RowStatistics(
            nothing, nothing, entropy[0] if entropy else None, of, shift, log_sum
        )
        backend = dispatch.choose(scores, of)
        backend.statistics_block_backward(
            scores, of, *question[:2], found, tuple(t[rows] for t in slopes)
        )
        products.add(rows, x, scores)
    return tuple(None if g is None else g.to(input.dtype) for g in products.gradients)


def _gradients_by_definition(
    question: Question,
    max_memory: int | None,
    layer: Layer,
    label: Tensor,
    kept: Tensor,
    wanted: Any,
    slopes: Any,
) -> tuple[Tensor | None, ...]:
    def outputs(*points: Any) -> tuple[Tensor, ...]:
        smooth = _by_definition(question._replace(topk=0), points, label, max_memory)[: len(slopes)]
        return tuple(output.masked_fill(~kept, 0.0) for output in smooth)

    return _torch.separate_gradients(outputs, layer, wanted, slopes)


# ---- For torch.compile and torch.export ----------------------------------------------------------

_ARGUMENTS = (
    "Tensor input, Tensor? head, Tensor? bias, Tensor label, Tensor kept, "
    "float temperature, float? softcap, bool entropy, SymInt topk, SymInt? max_memory"
)
_TENSORS = 3  # of the layer


@torch.library.custom_op(
    "nll::token_statistics",
    mutates_args=(),
    schema=f"({_ARGUMENTS}) -> (Tensor log_prob, Tensor lse, Tensor entropy, Tensor rank, Tensor "
    f"topk_log_prob, "
    "Tensor topk_index, Tensor shift, Tensor log_sum)",
)
def _operator(input, head, bias, label, kept, *options):
    *asked, max_memory = options
    question = Question(*asked)
    with torch.no_grad():
        measure = _torch.without_autocast(_measure)
        (log_prob, lse, *more), sums = measure(
            question, max_memory, label, kept, (input, head, bias)
        )
    entropy = more.pop(0) if question.entropy else log_prob.new_empty(0)
    rank, *top = more
    return log_prob, lse, entropy, rank, *(top or (log_prob.new_empty(0), rank.new_empty(0))), *sums


@_operator.register_fake
def _(input, head, bias, label, kept, temperature, softcap, entropy, topk, max_memory):
    rows = input.shape[0]
    number = input.new_empty(rows, dtype=summed_in(input))
    top = [(t.new_empty(rows, topk) if topk else t.new_empty(0)) for t in (number, label)]
    of_entropy = torch.empty_like(number) if entropy else number.new_empty(0)
    return (
        number,
        number.clone(),
        of_entropy,
        label.new_empty(rows),
        *top,
        number.clone(),
        number.clone(),
    )


@torch.library.custom_op(
    "nll::token_statistics_backward",
    mutates_args=(),
    schema=f"(Tensor by_log_prob, Tensor by_lse, Tensor? by_entropy, Tensor shift, Tensor log_sum, "
    f"Tensor? of_entropy, {_ARGUMENTS}, bool[] wanted) -> (Tensor by_input, Tensor by_head, Tensor "
    f"by_bias)",
)
def _backward_operator(*arguments):
    slopes, sums = ([t for t in some if t is not None] for some in (arguments[:3], arguments[3:6]))
    input, head, bias, label, kept, *asked, max_memory, wanted = arguments[6:]
    with torch.no_grad():
        gradients = _torch.without_autocast(_gradients)
        found = gradients(
            Question(*asked),
            max_memory,
            (input, head, bias),
            label,
            kept,
            sums,
            tuple(wanted),
            slopes,
        )
    return tuple(input.new_empty(0) if g is None else g for g in found)


@_backward_operator.register_fake
def _(*arguments):
    layer, wanted = arguments[6 : 6 + _TENSORS], arguments[-1]
    return tuple(
        t.new_empty(t.shape) if want and t is not None else layer[0].new_empty(0)
        for t, want in zip(layer, wanted, strict=True)
    )


def _setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.question, ctx.max_memory = Question(*inputs[5:-1]), inputs[-1]
    ctx.mark_non_differentiable(*output[3:], *([] if ctx.question.entropy else [output[2]]))
    ctx.save_for_backward(*inputs[:5], *output[-2:], *([output[2]] if ctx.question.entropy else []))


def _operator_backward(ctx: Any, *slopes: Any):
    *layer, label, kept, shift, log_sum = ctx.saved_tensors[:7]
    entropy, question = ctx.saved_tensors[7:], ctx.question
    slopes, wanted = slopes[: 2 + len(entropy)], list(ctx.needs_input_grad[:_TENSORS])
    if torch.is_grad_enabled():
        found = _gradients_by_definition(
            question, ctx.max_memory, tuple(layer), label, kept, wanted, slopes
        )
    else:
        a, b, c = (*slopes, None)[:3]
        of = (*entropy, None)[0]
        found = _backward_operator(
            a, b, c, shift, log_sum, of, *layer, label, kept, *question, ctx.max_memory, wanted
        )
    return *(g if want else None for g, want in zip(found, wanted, strict=True)), *[None] * 7


_operator.register_autograd(_operator_backward, setup_context=_setup)


def _operated(
    question: Question, max_memory: int | None, label: Tensor, kept: Tensor, layer: Layer
) -> tuple[Tensor, ...]:
    log_prob, lse, entropy, rank, *top = _operator(*layer, label, kept, *question, max_memory)[:6]
    return (
        log_prob,
        lse,
        *([entropy] if question.entropy else []),
        rank,
        *(top if question.topk else []),
    )


# ---- Over many batches ---------------------------------------------------------------------------


class Estimate(NamedTuple):
    """A mean over labels, or a function of one, with its standard error."""

    value: float
    standard_error: float
    n: int  # labels that count


def mean_over(batches: Any, pick: Any, clusters: str) -> Estimate:
    """Mean of a number per label; as a ratio of sums, its variance from what clusters of labels add
    up to.

    With s_g the sum and n_g the labels of cluster g, m = sum s / sum n and
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
    spread = max(0.0, ss - 2.0 * mean * sn + mean**2 * nn)
    error = (groups / (groups - 1) * spread) ** 0.5 / n if groups > 1 else float("nan")
    return Estimate(mean, error, int(n))
