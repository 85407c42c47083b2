"""KL divergence between the distributions of two linear layers, or from given probabilities, in blocks of rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nll._blocks import Rowwise, over_blocks
from nll.kernels import reference


class Layer(NamedTuple):
    """Rows of features, the head that makes scores of them, and what divides those."""

    input: Tensor  # (N, F)
    head: Tensor  # (C, F)
    bias: Tensor | None
    temperature: float


def kl_divergence(model: Layer, target: Layer | Tensor, reverse: bool, step: int) -> Tensor:
    """sum_c q_c (log q_c - log p_c) of each row, p of the model, q of the target; with p and q exchanged in reverse."""

    def divergences(rows: Any, shared: Any) -> Any:
        x, y = rows
        log_p = _log_probabilities(x, shared[0], shared[1], model.temperature)
        if isinstance(target, Layer):
            log_q = _log_probabilities(y, shared[2], shared[3], target.temperature)
            q = log_q.exp()
        else:
            q = y.to(log_p.dtype)
            log_q = q.log()
        first, of_first, of_second = (log_p.exp(), log_p, log_q) if reverse else (q, log_q, log_p)
        terms = first * (of_first - of_second)
        return (torch.where(first > 0.0, terms, 0.0).sum(1),), ()  # 0 log 0 = 0

    if isinstance(target, Layer):
        rows, shared = (model.input, target.input), (model.head, model.bias, target.head, target.bias)
    else:
        rows, shared = (model.input, target), (model.head, model.bias)
    return over_blocks(Rowwise(divergences, 1), rows, shared, step)[0][0]


def _log_probabilities(x: Tensor, head: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    return torch.log_softmax(reference.scores(F.linear(x, head, bias), temperature, None, None), 1)
