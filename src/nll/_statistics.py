"""What a model says about each label: log-probability, entropy, rank; from scores, or from a linear layer in blocks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nll import _autograd, _backends
from nll._blocks import Rowwise, over_blocks
from nll._products import NOTHING, kept_blocks, plan, products_of, rows_by_definition, summed_in
from nll.kernels import reference


class TokenStatistics(NamedTuple):
    """For each label, in the shape of the labels; `log_prob`, `lse` and `entropy` are differentiable.

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


Layer = tuple[Tensor, Tensor | None, Tensor | None]  # scores (N, C); or features (N, F), a head (C, F) and a bias (C)


def answer(
    question: Question, layer: Layer, target: Tensor, ignore_index: int, max_memory: int | None
) -> TokenStatistics:
    """The statistics, in blocks within a budget; IndexError for a label out of range."""
    kept = target != ignore_index
    wrong = kept & ((target < 0) | (target >= classes_of(layer)))
    label = torch.where(kept & ~wrong, target, 0)
    if by_definition():
        log_prob, lse, *more = _by_definition(question, layer, label, max_memory)
    else:
        _backends.look_at_labels(target, classes_of(layer), ignore_index)
        log_prob, lse, *more = _Statistics.apply(question, max_memory, label, kept, *layer)  # type: ignore[misc]
    entropy = more.pop(0) if question.entropy else None
    rank, *top = more
    log_prob = torch.where(wrong, torch.nan, log_prob)
    correct = (rank == 0) & ~log_prob.isnan()
    found = log_prob, lse, entropy, correct, rank, *(top or (None, None))
    ignored = 0.0, 0.0, 0.0, False, -1, 0.0, -1
    found = [_where(kept, t, other) for t, other in zip(found, ignored, strict=True)]
    return TokenStatistics(*[*found, kept])


def classes_of(layer: Layer) -> int:
    """The number of classes."""
    input, head, _ = layer
    return input.shape[1] if head is None else head.shape[0]


def by_definition() -> bool:
    """Whether the blocks are to be of operators that autograd, torch.func and the compiler look into."""
    return torch.compiler.is_compiling() or _autograd.transforming()


def _where(kept: Tensor, value: Tensor | None, other: Any) -> Any:
    if value is None:
        return None
    return torch.where(kept if value.dim() == kept.dim() else kept.unsqueeze(-1), value, other)


def _by_definition(question: Question, layer: Layer, label: Tensor, max_memory: int | None) -> tuple[Tensor, ...]:
    how = question.temperature, question.softcap, question.entropy

    def smooth(rows: Any, shared: Any) -> Any:
        return reference.differentiable_statistics(_scores(rows[0], *shared), rows[1], *how), ()

    def everything(rows: Any, shared: Any) -> Any:
        scores = _scores(rows[0], *shared)
        return _outputs(reference.statistics_block(scores, rows[1], *how), scores, question), ()

    smooth_ones = 3 if question.entropy else 2
    function = Rowwise(everything, smooth_ones + 1 + 2 * bool(question.topk), Rowwise(smooth, smooth_ones))
    input, head, bias = layer
    step, _ = rows_by_definition(input, classes_of(layer), max_memory)
    return over_blocks(function, (input, label), (head, bias), step)[0]


def _scores(x: Tensor, head: Tensor | None, bias: Tensor | None) -> Tensor:
    return x if head is None else F.linear(x, head, bias)


def _outputs(found: reference.RowStatistics, scores: Tensor, question: Question) -> tuple[Tensor, ...]:
    """log_prob, lse and, if asked for, entropy; then rank and, if asked for, the largest and where they are."""
    entropy = (found.entropy,) if question.entropy else ()
    top: tuple[Tensor, ...] = ()
    if question.topk:
        best, index = torch.topk(scores, question.topk, 1)
        log_p = reference.scores(best, question.temperature, question.softcap, None) - found.lse.unsqueeze(1)
        top = log_p, index
    return found.log_prob, found.lse, *entropy, found.rank, *top  # type: ignore[return-value]


class _Statistics(torch.autograd.Function):
    """The outputs, 0 where a row is ignored, and first derivatives by the kernels; others by the definition."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, question: Question, max_memory: int | None, label: Tensor, kept: Tensor, *layer: Tensor | None
    ):
        how = plan(layer[0], layer[1], max_memory)  # type: ignore[arg-type]
        outputs = _zeros(question, layer[0])  # type: ignore[arg-type]
        products = products_of(*layer, how, NOTHING)  # type: ignore[arg-type,misc]
        for rows in kept_blocks(kept, False, how.rows):
            scores, of = products.scores(layer[0][rows]), label[rows]  # type: ignore[index]
            found = _backends.choose(scores, of).statistics_block(scores, of, *question[:3])
            for output, part in zip(outputs, _outputs(found, scores, question), strict=True):
                output[rows] = part
        ctx.question, ctx.max_memory, ctx.how = question, max_memory, how
        smooth_ones = 3 if question.entropy else 2
        ctx.mark_non_differentiable(*outputs[smooth_ones:])
        ctx.save_for_backward(*layer, label, kept, *outputs[:smooth_ones])
        return outputs

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor):  # type: ignore[override]
        input, head, bias, label, kept, *found = ctx.saved_tensors
        slopes, wanted = slopes[: len(found)], ctx.needs_input_grad[4:]
        if torch.is_grad_enabled():
            gradients = _gradients_by_definition(ctx, (input, head, bias), label, slopes)
            return None, None, None, None, *gradients
        products, question = products_of(input, head, bias, ctx.how, wanted), ctx.question
        for rows in kept_blocks(kept, False, ctx.how.rows):
            x, of = input[rows], label[rows]
            scores = products.scores(x)
            _backends.choose(scores, of).statistics_block_backward(
                scores, of, *question[:2], tuple(t[rows] for t in found), tuple(t[rows] for t in slopes)
            )
            products.add(rows, x, scores)
        return None, None, None, None, *(None if g is None else g.to(input.dtype) for g in products.gradients)


def _zeros(question: Question, input: Tensor) -> tuple[Tensor, ...]:
    """The outputs for rows that are ignored."""
    rows, k = len(input), question.topk
    numbers = input.new_zeros(3 if question.entropy else 2, rows, dtype=summed_in(input))
    rank = input.new_zeros(rows, dtype=torch.int64)
    return (*numbers.unbind(), rank, *((numbers.new_zeros(rows, k), rank.new_zeros(rows, k)) if k else ()))


def _gradients_by_definition(ctx: Any, layer: Layer, label: Tensor, slopes: Any) -> tuple[Tensor | None, ...]:
    wanted = ctx.needs_input_grad[4:]
    outputs = _by_definition(ctx.question._replace(topk=0), layer, label, ctx.max_memory)[: len(slopes)]
    asked: Any = [tensor for tensor, want in zip(layer, wanted, strict=True) if want]
    found = iter(torch.autograd.grad(outputs, asked, slopes, create_graph=True))
    return tuple(next(found) if want else None for want in wanted)


# ---- Over many batches ---------------------------------------------------------------------------------------------


class Estimate(NamedTuple):
    """A mean over labels, or a function of one, with its standard error."""

    value: float
    standard_error: float
    n: int  # labels that count


def mean_over(batches: Any, pick: Any, clusters: str) -> Estimate:
    """Mean of a number per label; as a ratio of sums, its variance from what clusters of labels add up to.

    With s_g the sum and n_g the labels of cluster g, m = sum s / sum n and
    var m = G / (G - 1) sum (s_g - m n_g)^2 / (sum n)^2 (Cochran 1977, Sampling Techniques, section 9A.2).
    """
    sums = torch.zeros(6, dtype=torch.float64)  # G, s, n, s^2, s n, n^2
    for batch in [batches] if isinstance(batches, TokenStatistics) else batches:
        kept = batch.kept.detach().double()
        values = torch.where(batch.kept, pick(batch).detach().double(), 0.0)
        if clusters == "sequence":
            values, kept = values.reshape(len(kept), -1).sum(1), kept.reshape(len(kept), -1).sum(1)
        s, n = values.flatten(), kept.flatten()
        sums += torch.stack([(n > 0).sum(), s.sum(), n.sum(), s @ s, s @ n, n @ n]).cpu()
    groups, s, n, ss, sn, nn = sums.tolist()
    if n == 0:
        return Estimate(float("nan"), float("nan"), 0)
    mean = s / n
    spread = max(0.0, ss - 2.0 * mean * sn + mean**2 * nn)
    error = (groups / (groups - 1) * spread) ** 0.5 / n if groups > 1 else float("nan")
    return Estimate(mean, error, int(n))
