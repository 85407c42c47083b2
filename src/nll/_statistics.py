"""What a model says about each label: log-probability, entropy, rank; from scores, or from a linear layer in blocks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nll import _autograd
from nll._blocks import Rowwise, over_blocks
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

    input: Tensor  # (N, C) or (N, F)
    target: Tensor  # (N)
    head: Tensor | None
    bias: Tensor | None
    temperature: float
    softcap: float | None
    ignore_index: int
    entropy: bool
    topk: int


def answer(question: Question, step: int) -> TokenStatistics:
    """The statistics, in blocks of `step` rows; IndexError for a label out of range."""
    kept, rows = question.target != question.ignore_index, question.target.shape
    label = torch.where(kept, question.target, 0)
    classes = (question.input if question.head is None else question.head).shape[-1 if question.head is None else 0]
    wrong = (label < 0) | (label >= classes)
    known = question.target.device.type == "cpu" and not torch.compiler.is_compiling() and not _autograd.transforming()
    if known and bool(wrong.any()):
        raise IndexError("label out of range")
    index = None
    if known and not bool(kept.all()):  # rows that are ignored are not multiplied
        index = kept.nonzero().flatten()
        question, label, wrong = question._replace(input=question.input[index]), label[index], wrong[index]
    rows_of = question.input, torch.where(wrong, 0, label)
    (log_prob, lse, *more), _ = over_blocks(_function(question), rows_of, (question.head, question.bias), step)
    entropy = more.pop(0) if question.entropy else None
    rank, correct, *top = more
    found: list[Any] = [torch.where(wrong, torch.nan, log_prob), lse, entropy, correct, rank, *(top or (None, None))]
    if index is not None:
        found = [None if t is None else _spread(t, index, rows) for t in found]
    others = 0.0, 0.0, 0.0, False, -1, 0.0, -1
    found = [None if t is None else _where(kept, t, other) for t, other in zip(found, others, strict=True)]
    return TokenStatistics(*[*found, kept])


def _where(kept: Tensor, value: Tensor, other: Any) -> Tensor:
    return torch.where(kept if value.dim() == kept.dim() else kept.unsqueeze(-1), value, other)


def _spread(value: Tensor, index: Tensor, rows: torch.Size) -> Tensor:
    return value.new_zeros(*rows, *value.shape[1:]).index_copy(0, index, value)


def _function(question: Question) -> Rowwise:
    def smooth(rows: Any, shared: Any) -> Any:
        z = _scores(question, rows[0], *shared)
        return _differentiable(z, rows[1], question.entropy), ()

    def everything(rows: Any, shared: Any) -> Any:
        z, label = _scores(question, rows[0], *shared), rows[1].unsqueeze(1)
        of_label = z.gather(1, label)
        place = torch.arange(z.shape[1], device=z.device)
        rank = ((z > of_label) | ((z == of_label) & (place < label))).sum(1)
        found = _differentiable(z, rows[1], question.entropy)
        best = torch.topk(z, question.topk, 1) if question.topk else ()
        top = (best[0] - found[1].unsqueeze(1), best[1]) if best else ()
        return (*found, rank, (rank == 0) & ~of_label.squeeze(1).isnan(), *top), ()

    differentiable = Rowwise(smooth, 3 if question.entropy else 2)
    return Rowwise(everything, differentiable.row_outputs + 2 + 2 * bool(question.topk), differentiable)


def _scores(question: Question, x: Tensor, head: Tensor | None, bias: Tensor | None) -> Tensor:
    z = x if head is None else F.linear(x, head, bias)
    return reference.scores(z, question.temperature, question.softcap, None)


def _differentiable(z: Tensor, label: Tensor, entropy: bool) -> tuple[Tensor, ...]:
    """log p of the label, lse and, if asked, the entropy lse - sum p z."""
    lse = torch.logsumexp(z, 1)
    log_prob = z.gather(1, label.unsqueeze(1)).squeeze(1) - lse
    if not entropy:
        return log_prob, lse
    p = torch.exp(z - lse.unsqueeze(1))
    return log_prob, lse, lse - (p * z.masked_fill(p == 0.0, 0.0)).sum(1)  # 0 log 0 = 0


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
