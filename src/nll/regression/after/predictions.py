"""Predicted probabilities with their standard errors, by the delta method.

The log-odds of a class, eta_k = log(p_k / (1 - p_k)) = z_k - log sum_{m != k} exp(z_m), move with
the logits as d eta_k / dz = (e_k - p) / (1 - p_k). With the covariance S of a row's logits, S_ml =
x' V_ml x,

    var eta_k = (e_k - p)' S (e_k - p) / (1 - p_k)^2        var p_k = p_k^2 (1 - p_k)^2 var eta_k

The log-odds are nearer to normal than the probability: an interval of theirs, transformed back,
stays within (0, 1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nll.data.prefetch import blocks
from nll.estimation.inference import wald
from nll.regression.columns import plain, require_finite
from nll.regression.contrasts import Classes, without


@dataclass(frozen=True, eq=False)
class Predictions:
    """Probabilities of each class in each row, with standard errors that come from those of the
    coefficients.

    Everything follows from the log-odds, so that a probability near 0 has its digits. One near 1 is
    rounded to 1; its log-odds have the digits of 1 - p, and `wald.wald(log_odds,
    log_odds_errors, level)` is their interval.
    """

    log_odds: Tensor  # (n, K), log(p / (1 - p))
    log_odds_errors: Tensor  # (n, K), standard errors; NaN where the coefficients have none
    level: float
    classes: tuple[str, ...] = ()  # (K) names, where they are known

    @property
    def probabilities(self) -> Tensor:
        return self.log_odds.sigmoid()

    @property
    def standard_errors(self) -> Tensor:
        return self.log_odds.sigmoid() * (-self.log_odds).sigmoid() * self.log_odds_errors

    @property
    def interval(self) -> Tensor:
        """(n, K, 2): (low, high) last, for each probability by itself."""
        return wald.wald(self.log_odds, self.log_odds_errors, self.level).sigmoid()


def predictions(
    x: Tensor,  # (n, p) float64, the constant's ones included
    coef: Tensor,  # (K, p), zeros for the baseline
    covariance: Tensor,  # ((K - 1) p, (K - 1) p), of the other classes' coefficients in order
    baseline: int,
    level: float = 0.95,
    classes: tuple[str, ...] = (),
) -> Predictions:
    """Predict the probabilities of each row's classes; ValueError for a level outside of (0, 1)."""
    wald.require_level(level)
    n, k = len(x), len(coef)
    log_odds = torch.empty(n, k, dtype=torch.float64)
    errors = torch.full_like(log_odds, torch.nan)
    known = not bool(covariance.diagonal().isnan().all())
    for rows in blocks(n, k * max(x.shape[1], k)):
        log_p = (x[rows] @ coef.T).log_softmax(1)
        top = log_p.argmax(1, keepdim=True)
        others = log_p.scatter(1, top, -torch.inf)
        log_odds[rows] = log_p - _log_rest(log_p, top, others)
        if known:
            errors[rows] = _standard_errors(
                log_p.exp(), top, others.softmax(1), score_covariance(x[rows], covariance, baseline)
            )
    return Predictions(log_odds, errors, float(level), classes)


def score_covariance(x: Tensor, covariance: Tensor, baseline: int) -> Tensor:
    """Return the covariance of the K logits of each row, (n, K, K): x' V_ml x, and 0 for the
    baseline, whose logit is 0.
    """
    (n, p), others = x.shape, len(covariance) // x.shape[1]
    blocks_of = covariance.reshape(others, p, others, p)
    by_row = torch.zeros(n, others + 1, others + 1, dtype=torch.float64)
    place = without(baseline, others + 1)
    for m in range(others):
        half = (x @ blocks_of[m, :, m:].reshape(p, -1)).reshape(n, others - m, p)
        products = (half @ x[:, :, None])[:, :, 0]
        by_row[:, place[m], place[m:]] = products
        by_row[:, place[m:], place[m]] = products
    return by_row


def _log_rest(log_p: Tensor, top: Tensor, others: Tensor) -> Tensor:
    """log(1 - p), (n, K): of the most probable class that is the sum of the others."""
    return torch.log1p(-log_p.exp()).scatter(1, top, others.logsumexp(1, keepdim=True))


def _standard_errors(p: Tensor, top: Tensor, shares: Tensor, covariance: Tensor) -> Tensor:
    """Standard errors of the log-odds (n, K).

    For the most probable class (e_k - p) / (1 - p_k) has a 1 and minus the others' `shares` of what
    it leaves them.
    """
    moved = (covariance @ p[:, :, None])[:, :, 0]
    variance = covariance.diagonal(dim1=1, dim2=2) - 2 * moved + (p * moved).sum(1, keepdim=True)
    slope = (-shares).scatter(1, top, 1.0)
    of_top = (slope[:, None] @ covariance @ slope[:, :, None])[:, :, 0]
    return (variance / (1 - p).square()).scatter(1, top, of_top).clamp(min=0).sqrt()


@dataclass(frozen=True, eq=False)
class Predictor:
    """Predicts probabilities for new rows from a fitted softmax regression."""

    columns: tuple[str, ...]  # the constant's first, if there is one
    intercept: bool
    classes: tuple[str, ...]  # (K), in order
    baseline: int
    coef: Tensor = field(repr=False)  # (K - 1, p), of the other classes
    covariance: Tensor = field(repr=False)

    @property
    def full(self) -> Tensor:
        """(K, p) coefficients, with zeros for the baseline."""
        return Classes(self.classes, self.baseline).to_full(self.coef)

    def __call__(self, X: Any, level: float) -> Predictions:
        """Predict for a table that has the columns, by name, or for an array of them."""
        names = self.columns[self.intercept :]
        X = plain(X, "X")
        if hasattr(X, "columns"):
            missing = [name for name in names if name not in X.columns]
            if missing:
                raise ValueError(
                    f"expected the columns {', '.join(names)}, got none named {missing[0]!r}"
                )
            X = X[list(names)]
        elif X.ndim != 2 or X.shape[1] != len(names):
            raise ValueError(f"expected X of shape (n, {len(names)}), got {X.shape}")
        require_finite(X, list(names))
        return self.at(self.design(np.ascontiguousarray(np.asarray(X, dtype=np.float64))), level)

    def design(self, given: np.ndarray) -> Tensor:
        """Return the design (n, p): the columns given, after the constant."""
        x = torch.tensor(given, dtype=torch.float64)
        ones = torch.ones(len(x), int(self.intercept), dtype=torch.float64)
        return torch.cat([ones, x], 1)

    def at(self, x: Tensor, level: float) -> Predictions:
        return predictions(x, self.full, self.covariance, self.baseline, level, self.classes)
