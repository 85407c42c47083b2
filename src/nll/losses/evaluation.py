"""Means of per-label statistics over any number of batches, with standard errors."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch

from nll.losses import arguments
from nll.losses.token_statistics import TokenStatistics

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
