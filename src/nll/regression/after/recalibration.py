"""Are probabilities calibrated? The model that scales and shifts their logarithms, fitted to what
was seen.

    q_k = exp(s log p_k + a_k) / sum_l exp(s log p_l + a_l),    a = 0 for one class

Calibrated probabilities have s = 1 and a = 0 (Cox 1958, "Two further applications of a model for
binary regression"; for several classes Van Hoorde et al. 2014). A slope below 1 tells of
probabilities that are too near to 0 and 1. Of a class that was not seen the largest likelihood has
a_k = -inf: its shift is held at 0.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nll.data.prefetch import blocks
from nll.estimation.inference import covariance as cov
from nll.estimation.inference import tests
from nll.estimation.inference.tests import Test
from nll.solvers.outcome import Sums
from nll.solvers.trust_region import maximise

_ROUNDING = 1e-12


class Recalibration(NamedTuple):
    """Slope and shifts of the log-probabilities, with errors; NaN where there are none, and the
    status says why.
    """

    slope: float
    slope_error: float
    shifts: Tensor  # (K), 0 for the first class that was seen, NaN for classes that were not
    shift_errors: Tensor  # (K)
    test: Test  # of slope 1 and shifts 0
    status: str


def recalibrate(log_p: Tensor, codes: Tensor, weights: Tensor, sampling: bool) -> Recalibration:
    """Fit the slope and the shifts.

    Args:
        log_p: (n, K) log-probabilities, -inf for a class that a row cannot have.
        codes: (n), the class of each row.
        weights: (n), above 0: frequencies, or with `sampling` what the rows stand for, and errors
            by the sandwich.
    """
    seen = torch.bincount(codes, minlength=log_p.shape[1]) > 0
    free = seen.nonzero()[1:, 0]
    problem = _Problem(log_p, codes, weights, free)
    if bool(problem.log_own.isinf().any()):
        return _none(log_p, free, "none: a class that had the probability 0 was seen")
    rising, falling = (
        _feasible(_least_margins(sign * log_p, log_p, codes), free) for sign in (1.0, -1.0)
    )
    if rising and falling:
        return _none(log_p, free, "none: the log-probabilities are the same in all rows")
    if rising or falling:
        return _none(
            log_p,
            free,
            "none: the log-probabilities separate the classes, so that the slope has no maximum",
        )
    start = torch.zeros(1 + len(free), dtype=torch.float64)
    start[0] = 1.0
    found = maximise(problem.sums, start, unit=min(1.0, float(weights.mean())))
    covariance = cov.inverse(found.sums.information)
    if not found.reached or bool(covariance.isnan().any()):
        return _none(
            log_p, free, "none: the data do not tell the shifts" if found.reached else found.status
        )
    gain = 2 * float(found.sums.log_likelihood - problem.sums(start).log_likelihood)
    test = tests.chi_squared("lr", gain, len(start))
    if sampling:
        covariance = cov.sandwich(covariance, problem.meat(found.theta))
        test = tests.wald(found.theta, covariance, dict(enumerate(start.tolist())))
    errors = covariance.diagonal().sqrt()
    shifts = torch.where(seen, 0.0, math.nan).double()
    shift_errors = shifts.index_copy(0, free, errors[1:])
    status = (
        "converged"
        if bool(seen.all())
        else (f"converged; classes without a row: {int((~seen).sum())}")
    )
    return Recalibration(
        float(found.theta[0]),
        float(errors[0]),
        shifts.index_copy(0, free, found.theta[1:]),
        shift_errors,
        test,
        status,
    )


def _none(log_p: Tensor, free: Tensor, status: str) -> Recalibration:
    nan = torch.full((log_p.shape[1],), math.nan, dtype=torch.float64)
    return Recalibration(
        math.nan, math.nan, nan, nan, Test("lr", math.nan, 1 + len(free), math.nan), status
    )


class _Problem:
    """The likelihood of slope and shifts. By them score k moves with (log p_k, e_k), which has q as
    its weights.
    """

    def __init__(self, log_p: Tensor, codes: Tensor, weights: Tensor, free: Tensor) -> None:
        self.log_p, self.codes, self.weights, self.free = log_p, codes, weights, free
        self.log_own = log_p.gather(1, codes[:, None])[:, 0]

    def sums(self, theta: Tensor) -> Sums:
        """Log-likelihood, score and information."""
        size = len(theta)
        value, score = torch.zeros((), dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        information = torch.zeros(size, size, dtype=torch.float64)
        for rows in blocks(len(self.codes), 4 * self.log_p.shape[1]):
            w, (log_q, away, residual) = self.weights[rows], self._moved(rows, theta)
            q = log_q.exp()
            own = (w[:, None] * q)[:, self.free]
            value += w @ log_q.gather(1, self.codes[rows, None])[:, 0]
            score += w @ residual
            information[0, 0] += w @ (q * away.square()).sum(1)
            information[0, 1:] += (own * away[:, self.free]).sum(0)
            information[1:, 1:] += torch.diag(own.sum(0)) - own.T @ q[:, self.free]
        information[1:, 0] = information[0, 1:]
        return Sums(value, score, information)

    def meat(self, theta: Tensor) -> Tensor:
        """The outer product of the weighted scores."""
        total = torch.zeros(len(theta), len(theta), dtype=torch.float64)
        for rows in blocks(len(self.codes), 4 * self.log_p.shape[1]):
            scores = self.weights[rows, None] * self._moved(rows, theta)[2]
            total += scores.T @ scores
        return total

    def _moved(self, rows: slice, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log q, log p less its mean under q, and the scores of the rows."""
        log_p, codes = self.log_p[rows], self.codes[rows, None]
        possible = log_p > -torch.inf
        log_p = torch.where(possible, log_p, 0.0)
        shifts = torch.zeros(log_p.shape[1], dtype=torch.float64).index_copy(
            0, self.free, theta[1:]
        )
        log_q = (theta[0] * log_p + shifts).masked_fill(~possible, -torch.inf).log_softmax(1)
        away = torch.where(possible, log_p - (log_q.exp() * log_p).sum(1, keepdim=True), 0.0)
        residual = torch.zeros_like(log_q).scatter(1, codes, 1.0) - log_q.exp()
        return log_q, away, torch.cat([away.gather(1, codes), residual[:, self.free]], 1)


def _least_margins(scores: Tensor, log_p: Tensor, codes: Tensor) -> Tensor:
    """(K, K): of the rows of each class, the least score of theirs less that of another class they
    can have.
    """
    least = torch.full((log_p.shape[1], log_p.shape[1]), torch.inf, dtype=torch.float64)
    for rows in blocks(len(codes), 4 * log_p.shape[1]):
        own = codes[rows, None]
        margins = (scores[rows].gather(1, own) - scores[rows]).masked_fill(
            log_p[rows] == -torch.inf, torch.inf
        )
        least.scatter_reduce_(0, own.expand_as(margins), margins, "amin")
    return least


def _feasible(least: Tensor, free: Tensor) -> bool:
    """Whether shifts a exist with a_k - a_y <= least[y, k]: differences are bounded so unless they
    run in a circle.

    The bounds are the lengths of the edges of a graph; shortest paths exist, and are such a, where
    no cycle has a negative length (Bellman and Ford). Classes without a shift of their own are one
    node.
    """
    node = torch.zeros(len(least), dtype=torch.int64)
    node[free] = torch.arange(1, len(free) + 1)
    edges = _merged(_merged(least, node).T, node).T
    slack = _ROUNDING * float(torch.where(edges.isfinite(), edges.abs(), 0.0).amax())
    length = torch.zeros(len(edges), dtype=torch.float64)
    for _ in range(len(edges)):
        shorter = torch.minimum(length, (length[:, None] + edges).amin(0))
        if bool((length - shorter <= slack).all()):
            return True
        length = shorter
    return False


def _merged(edges: Tensor, node: Tensor) -> Tensor:
    """The least of the rows that are of one node."""
    found = torch.full((int(node.max()) + 1, edges.shape[1]), torch.inf, dtype=torch.float64)
    return found.scatter_reduce(0, node[:, None].expand_as(edges), edges, "amin")
