"""Weights of rows: frequencies, sampling and importance weights; and sums with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nll.data.arrays import numbers, require_rows, shown

_BLOCK = 1 << 16  # values at once: their temporaries stay in the cache
_ROW = 1 << 12  # values of one partial sum


@dataclass(frozen=True)
class Weights:
    """Weights that are not frequencies."""

    values: Any
    kind: str  # "sampling" or "importance"


def sampling(weights: Any) -> Weights:
    """Mark weights as sampling weights: the inverse of each row's probability of being drawn.

    Only their ratios count: they are scaled to a sum of n, the number of rows. The covariance is
    the sandwich.

    Example:
        >>> from torch.distributions import Exponential
        >>> import nll
        >>> fitted = nll.fit(Exponential, [1.0, 2.0, 4.0], weights=nll.sampling([30, 20, 10]))
        >>> round(float(fitted.params["rate"]), 3), fitted.n
        (0.545, 3.0)
    """
    return Weights(weights, "sampling")


def importance(weights: Any) -> Weights:
    """Mark weights as importance weights: the ratio of the target density to the one that the rows
    were drawn from.

    Only their ratios count: they are scaled to a sum of n = (sum w)^2 / sum w^2, the effective
    number of rows (Kish 1965). The covariance is the sandwich.

    Example:
        >>> from torch.distributions import Exponential
        >>> import nll
        >>> fitted = nll.fit(Exponential, [1.0, 2.0, 4.0], weights=nll.importance([3, 2, 1]))
        >>> round(float(fitted.params["rate"]), 3), round(fitted.n, 3)
        (0.545, 2.571)
    """
    return Weights(weights, "importance")


def kind_of(weights: Any, otherwise: str = "frequency") -> str:
    """Return "sampling", "importance" or, for plain numbers, `otherwise`."""
    return weights.kind if isinstance(weights, Weights) else otherwise


def frequencies(weights: Any, n: int, rows: Sequence[Any] | None = None) -> Tensor:
    """Return the weights (n) of rows, of any kind, checked; None weighs each row 1.

    `rows`: the rows' numbers, for messages. Raises: ValueError for weights of another length, or
    that are negative, not finite or all zero.
    """
    if weights is None:
        return torch.ones(n, dtype=torch.float64)
    values = weights.values if isinstance(weights, Weights) else weights
    frequency = numbers(values, "weights", exact=False)
    require_rows(frequency.shape, n, "weights")
    wrong = ~(torch.isfinite(frequency) & (frequency >= 0))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"expected finite weights of at least 0, got {shown(frequency[row].item())} "
            f"at row {row if rows is None else rows[row]}"
        )
    if n and not bool(frequency.any()):
        raise ValueError("expected weights with a positive sum, got all zero")
    if kind_of(weights) == "frequency" and not bool(torch.isfinite(frequency.sum())):
        raise ValueError("expected weights with a finite sum, got inf")
    return frequency


def scaled(weights: Tensor, kind: str) -> Tensor:
    """Scale weights to the unit of the likelihood; for other kinds than frequencies only the ratios
    count.

    Sampling weights then sum to the number of positive ones, importance weights to (sum w)^2 / sum
    w^2.
    """
    if kind == "frequency":
        return weights
    share = weights / weights.max()  # neither sums nor squares overflow
    share = share / share.sum()
    return share * (torch.count_nonzero(share) if kind == "sampling" else 1 / share.square().sum())


# ---- Sums ----------------------------------------------------------------------------------------


def total(weights: Tensor, values: Tensor | None = None) -> Tensor:
    """Return the weighted sum along the last dimension; without values, that of the weights."""
    if _constant(weights):
        return weights[0] * (len(weights) if values is None else values.sum())
    if values is None:
        return weights.sum(-1)
    if values.dim() == 1 or len(values) == 1:  # one data set, weighted in several ways
        return weights @ values.reshape(-1)
    return (weights * values).sum(-1)


def totals(
    weights: Tensor, values: Tensor, statistics: Callable[[Tensor], tuple[Tensor, ...]]
) -> list[Tensor]:
    """Return the weighted sum of each statistic of the values."""
    sums = [
        torch.stack([total(w, statistic) for statistic in statistics(x)])
        for x, w in _blocks(values, weights)
    ]
    return list(torch.stack(sums).sum(0))


def first_two_totals(
    weights: Tensor, values: Tensor, standard: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Return the weighted sums of z and of z^2, z = standard(values)."""
    scale = weights[0] if _constant(weights) else torch.ones((), dtype=torch.float64)
    sums = []
    for x, w in _blocks(values, weights):
        z = standard(x)
        weighted = z if _constant(w) else w * z
        squares = torch.linalg.vecdot(weighted, z.expand_as(weighted))
        sums.append(torch.stack([weighted.sum(-1), squares]))
    first, second = torch.stack(sums).sum(0)
    return scale * first, scale * second


def by_row(values: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a reduction of the values (n), a row (b) at a time; reduce: (k, b) -> (k).

    The rows are long enough for the speed of the memory, without temporaries, and short enough for
    the rounding errors of their sums to be small, and to average out.
    """
    if len(values) < _ROW:
        return reduce(values[None])
    whole = len(values) // _ROW * _ROW
    return torch.cat([reduce(values[:whole].view(-1, _ROW)), reduce(values[None, whole:])])


def mean_and_variance(values: Tensor, sums: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return the mean and the variance of values (n) from the sums of their rows and one reading
    more, seldom two; None where digits would be lost, or for few values.

    The squares within rows and between them: Chan, Golub and LeVeque (1983), "Algorithms for
    computing the sample variance".
    """
    if len(values) < _BLOCK or not values.is_contiguous():
        return None
    sizes = (len(values) - _ROW * torch.arange(len(sums), dtype=torch.float64)).clamp(max=_ROW)
    rough = sums.sum() / len(values)
    mean = rough + (sums - sizes * rough).sum() / len(values)
    between = (sums - sizes * mean).square() / sizes.clamp(min=1)
    far = float(mean.square() / between.mean())  # (mean / sd)^2 if the rows are alike
    for centre in (torch.zeros_like(mean), mean)[int(far > 8.0) :] if far < 1e14 else ():
        squares = by_row(
            values,
            lambda rows, c=centre: (
                torch.cdist(
                    rows, c.expand(1, rows.shape[1]), compute_mode="donot_use_mm_for_euclid_dist"
                )[:, 0]
                if bool(c)
                else torch.linalg.vector_norm(rows, dim=1)
            ),
        ).square()
        within = squares - (sums - sizes * centre).square() / sizes.clamp(min=1)
        variance = (within + between).sum() / len(values)
        # About 0 the squares lose a factor of 1 + (mean / sd)^2; the rows' errors average out.
        if (
            1e-200 < float(variance) < 1e200
            and float(squares.sum() / len(values) / variance) < min(8.0, len(sums) ** 0.5)
            and float(mean.square() / variance) < 1e12
        ):
            return mean, variance
    return None


def _blocks(values: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Fresh memory for all values at once would cost more than the arithmetic."""
    return zip(values.split(_BLOCK, -1), weights.split(_BLOCK, -1), strict=True)


def _constant(weights: Tensor) -> bool:
    """Whether a plain sum will do, as the weights share one number in memory. Only the time depends
    on it.
    """
    return weights.dim() == 1 and weights.stride(0) == 0 and len(weights) > 0
