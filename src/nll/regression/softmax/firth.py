"""Firth's penalty: softmax regression by the likelihood times the root of the information's
determinant.

log L + log |I| / 2 takes the first order of the bias out of the estimate, and has a finite maximum
where classes are separated too (Firth 1993; for several classes Bull, Mak and Greenwood 2002). With
V = I^-1, q_kl = x' V_kl x for a row (0 for the baseline) and h_k = (e_k - p)' q (e_k - p), the
third cumulants of the labels add to the row's residual

    w p_k (h_k - sum_c p_c h_c) / 2.

Profiles and likelihood-ratio tests are those of the penalised likelihood (Heinze and Schemper
2002).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nll.data.prefetch import blocks
from nll.estimation.inference import covariance as cov
from nll.estimation.objective import Problem
from nll.regression.softmax.objective import InMemory
from nll.regression.softmax.solver import Informed
from nll.solvers.lbfgs import climb
from nll.solvers.outcome import Optimum, Progress, Sums
from nll.solvers.trust_region import maximise

_LAST = 1e-18  # a gain that is rounding


class FirthLikelihood(InMemory):
    """The likelihood of rows in memory with the penalty in its sums."""

    def sums(self, theta: Tensor) -> Sums:
        """Penalised log-likelihood, its score, and the information, which is near its curvature."""
        found = super().sums(theta)
        own = torch.zeros(self.classes, self.columns.count, dtype=torch.float64)
        own[1:] = theta.reshape(self.classes - 1, -1)
        parts = (
            (
                self.columns.block(rows),
                self.weights[rows],
                None if self.offset is None else self.offset[rows],
            )
            for rows in blocks(self.length, _width(own))
        )
        return penalised(found, own, parts)

    def value(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Penalised log-likelihood and its score."""
        found = self.sums(theta)
        return found.log_likelihood, found.score

    def search(self, progress: Progress | None = None) -> Optimum:
        """The maximum: by the information, and to its last digits by what the steps tell of the
        penalty's curvature.
        """
        found = maximise(self.sums, self.start(), progress, self.unit)
        if not found.reached:
            return found
        own = Informed(found.sums.information)
        theta = own.theta(climb(own.value(self), own.phi(found.theta), _LAST, self.unit))
        return found._replace(theta=theta, sums=self.sums(theta))


class FirthProblem(Problem):
    """A softmax regression to be searched again, with the penalty."""

    def sums(self, theta: Tensor, which: Tensor | None = None) -> Sums:
        """Those at several parameters (b, P)."""
        found = super().sums(theta, which)
        (segment,) = self.segments
        x, weights = segment.parts[0][0], segment.weights[0]
        each = []
        for number, coef in enumerate(theta):
            one = Sums(*(part[number] for part in found))
            own = torch.cat([x.new_zeros(1, x.shape[1]), coef.reshape(-1, x.shape[1])])
            parts = ((x[rows], weights[rows], None) for rows in blocks(len(x), _width(own)))
            each.append(penalised(one, own, parts))
        return Sums(*(torch.stack(parts) for parts in zip(*each, strict=True)))


Parts = Iterator[tuple[Tensor, Tensor, Tensor | None]]


def penalised(found: Sums, coef: Tensor, parts: Parts) -> Sums:
    """Sums of the likelihood with the penalty's, at coefficients (K, p), the baseline's first and
    0.

    parts: the columns (n, p), weights (n) and offsets (n, K) of some rows at a time.
    """
    inverse = cov.inverse(found.information)
    if bool(inverse.isnan().any()):
        return found._replace(log_likelihood=torch.full_like(found.log_likelihood, -torch.inf))
    classes, p = coef.shape
    by_class = inverse.reshape(classes - 1, p, classes - 1, p).permute(0, 2, 1, 3)  # V_kl
    added = torch.zeros_like(coef)
    for x, weights, offset in parts:
        scores = x @ coef.T if offset is None else x @ coef.T + offset
        probabilities = scores.softmax(1)
        added += ((weights[:, None] * _pull(x, probabilities, by_class)).T @ x) / 2
    determinant = torch.linalg.slogdet(found.information).logabsdet
    return found._replace(
        log_likelihood=found.log_likelihood + determinant / 2,
        score=found.score + added[1:].reshape(-1),
    )


def _pull(x: Tensor, p: Tensor, by_class: Tensor) -> Tensor:
    """(n, K): p_k (h_k - sum_c p_c h_c)."""
    q = torch.zeros(len(x), p.shape[1], p.shape[1], dtype=torch.float64)
    q[:, 1:, 1:] = ((x @ by_class) * x).sum(-1).permute(2, 0, 1)
    across = (q @ p[:, :, None])[:, :, 0]
    h = q.diagonal(dim1=1, dim2=2) - 2 * across + (p * across).sum(1, keepdim=True)
    return p * (h - (p * h).sum(1, keepdim=True))


def _width(coef: Tensor) -> int:
    return len(coef) ** 2 * coef.shape[1]
