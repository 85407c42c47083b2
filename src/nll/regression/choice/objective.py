"""The log-likelihood of choices: a softmax over each case's own alternatives (McFadden 1974).

With utilities v of the rows and p = softmax(v) within a case, xbar = sum_rows p x of the case and
weight w of the case:

    log L = sum_cases w log p_chosen    score = sum_rows w ([chosen] - p) x
    information = sum_rows w p (x - xbar)(x - xbar)'

Cases are segments of consecutive rows. Sums run over the rows alone, so a case with 10 000
alternatives costs as much as 10 000 rows of small cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from nll.regression.design_matrix import Columns
from nll.regression.objective import RegressionLikelihood
from nll.solvers.outcome import Sums

_BLOCK_ROWS = 1 << 14


def log_softmax_by_case(v: Tensor, case: Tensor, cases: int) -> Tensor:
    """Return the log-probability (m) of each row among the rows of its case.

    Args:
        v: (m) utilities.
        case: (m), from 0.
        cases: their number.
    """
    top = torch.full((cases,), -torch.inf, dtype=torch.float64).scatter_reduce(0, case, v, "amax")
    v = v - top[case]
    total = torch.zeros_like(top).index_add(0, case, v.exp())
    return v - total.log()[case]


class Block(NamedTuple):
    """The rows of some cases."""

    cases: slice
    case: Tensor  # (m), from 0
    chosen: Tensor  # (cases), rows of this block
    x: Tensor  # (m, p), less the row of the chosen alternative: a column that does not differ is 0
    offset: Tensor | None  # (m)

    def log_probabilities(self, theta: Tensor) -> Tensor:
        v = self.x @ theta if self.offset is None else self.x @ theta + self.offset
        return log_softmax_by_case(v, self.case, len(self.chosen))

    def means(self, p: Tensor) -> Tensor:
        """Return the mean (cases, p) of x in each case under the probabilities p of the rows."""
        zero = torch.zeros(len(self.chosen), self.x.shape[1], dtype=torch.float64)
        return zero.index_add_(0, self.case, p[:, None] * self.x)


@dataclass(frozen=True)
class ConditionalLikelihood(RegressionLikelihood):
    """The log-likelihood of choices as a function of the coefficients, less a ridge penalty."""

    columns: Columns  # (rows, p); the rows of a case are next to each other
    case: Tensor  # (rows), from 0
    chosen: Tensor  # (cases), the row of the chosen alternative
    weights: Tensor  # (cases), frequencies
    offset: Tensor | None = None  # (rows), added to the utilities; -inf excludes an alternative
    penalty: Tensor | None = None  # (p, p): the penalty is theta' penalty theta / 2

    @cached_property
    def unit(self) -> float:
        """The unit of the log-likelihood: weights may be shares."""
        return min(1.0, float(self.weights.mean()))

    @cached_property
    def _ends(self) -> Tensor:
        return torch.bincount(self.case).cumsum(0)

    def blocks(self) -> Iterator[Block]:
        """Yield blocks of consecutive cases; a case with more rows than a block is one alone."""
        case = row = 0
        while case < len(self._ends):
            end = max(case + 1, int(torch.searchsorted(self._ends, row + _BLOCK_ROWS, right=True)))
            last = int(self._ends[end - 1])
            rows = slice(row, last)
            x, of_case = self.columns.block(rows), self.case[rows] - case
            chosen = self.chosen[case:end] - row
            offset = None if self.offset is None else self.offset[rows]
            yield Block(slice(case, end), of_case, chosen, x - x[chosen][of_case], offset)
            case, row = end, last

    @property
    def ridge(self) -> bool:
        return self.penalty is not None

    def information(self, theta: Tensor) -> Tensor:
        return replace(self, penalty=None).sums(theta).information

    def reweighted(self, weights: Tensor) -> ConditionalLikelihood:
        return replace(self, weights=weights)

    def sums(self, theta: Tensor) -> Sums:
        return Sums(*(part[0] for part in self.sums_each(theta[None], self.weights[None])))

    def sums_each(self, theta: Tensor, weights: Tensor) -> Sums:
        value, score = torch.zeros(len(theta), dtype=torch.float64), torch.zeros_like(theta)
        information = torch.diag_embed(score)
        for block in self.blocks():
            for i, w in enumerate(weights[:, block.cases]):
                log_p = block.log_probabilities(theta[i])
                p = log_p.exp()
                deviation = block.x - block.means(p)[block.case]
                value[i] += w @ log_p[block.chosen]
                score[i] += w @ deviation[block.chosen]
                information[i] += deviation.T @ ((w[block.case] * p)[:, None] * deviation)
        if self.penalty is None:
            return Sums(value, score, information)
        gradient = theta @ self.penalty
        value -= (theta * gradient).sum(1) / 2
        return Sums(value, score - gradient, information + self.penalty)

    def log_likelihood(self, theta: Tensor) -> Tensor:
        return self.log_likelihood_each(theta[None], self.weights[None])[0]

    def log_likelihood_each(self, theta: Tensor, weights: Tensor) -> Tensor:
        total = torch.zeros(len(theta), dtype=torch.float64)
        for block in self.blocks():
            rows = [block.log_probabilities(vector)[block.chosen] for vector in theta]
            total += (weights[:, block.cases] * torch.stack(rows)).sum(1)
        return total

    def score_blocks(self, theta: Tensor) -> Iterator[tuple[slice, Tensor]]:
        for block in self.blocks():
            mean = block.means(block.log_probabilities(theta).exp())
            yield block.cases, block.x[block.chosen] - mean

    def among(self, allowed: Tensor) -> ConditionalLikelihood:
        offset = torch.zeros(()) if self.offset is None else self.offset
        return replace(self, offset=torch.where(allowed, offset, -torch.inf).double())
