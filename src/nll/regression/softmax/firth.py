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
from nll.kernels.multinomial import Rows
from nll.regression.softmax.objective import InMemory, logits
from nll.solvers.outcome import Sums


class FirthLikelihood(InMemory):
    """The likelihood of rows in memory with the penalty in its sums."""

    exact_information = False

    @property
    def penalised(self) -> bool:
        return True

    @property
    def information_name(self) -> str:
        return "observed, at Firth's estimate"

    def sums(self, theta: Tensor) -> Sums:
        """Return penalised log-likelihood, its score, and the information, which is near its
        curvature.
        """
        coef = self.coef(theta)
        parts = map(self.rows, blocks(self.length, _width(coef)))
        return penalised(super().sums(theta), coef, parts)

    def value(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        return self.sums(theta)[:2]


def penalised(sums: Sums, coef: Tensor, parts: Iterator[Rows]) -> Sums:
    """Add the penalty to the sums of the likelihood, at coefficients (K - 1, p)."""
    inverse = cov.inverse(sums.information)
    if bool(inverse.isnan().any()):
        return sums._replace(log_likelihood=torch.full_like(sums.log_likelihood, -torch.inf))
    others, p = coef.shape
    by_class = inverse.reshape(others, p, others, p).permute(0, 2, 1, 3)  # V_kl
    added = torch.zeros_like(coef)
    for rows in parts:
        pull = _pull(rows.x, logits(rows, coef).softmax(1), by_class)[:, 1:]
        weighted = pull if rows.weights is None else rows.weights[:, None] * pull
        added += (weighted.T @ rows.x) / 2
    determinant = torch.linalg.slogdet(sums.information).logabsdet
    return sums._replace(
        log_likelihood=sums.log_likelihood + determinant / 2, score=sums.score + added.reshape(-1)
    )


def _pull(x: Tensor, p: Tensor, by_class: Tensor) -> Tensor:
    """(n, K): p_k (h_k - sum_c p_c h_c)."""
    q = torch.zeros(len(x), p.shape[1], p.shape[1], dtype=torch.float64)
    q[:, 1:, 1:] = ((x @ by_class) * x).sum(-1).permute(2, 0, 1)
    across = (q @ p[:, :, None])[:, :, 0]
    h = q.diagonal(dim1=1, dim2=2) - 2 * across + (p * across).sum(1, keepdim=True)
    return p * (h - (p * h).sum(1, keepdim=True))


def _width(coef: Tensor) -> int:
    return (len(coef) + 1) ** 2 * coef.shape[1]
