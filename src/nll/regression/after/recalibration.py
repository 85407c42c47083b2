"""Are probabilities calibrated? The model that scales and shifts their logarithms, fitted to the
outcomes.

    q_k = exp(s log p_k + a_k) / sum_l exp(s log p_l + a_l),    a = 0 for one class

Calibrated probabilities have s = 1 and a = 0 (Cox 1958, "Two further applications of a model for
binary regression"; for several classes Van Hoorde et al. 2014). A slope below 1 means that they are
too near to 0 and 1. For a class that was not observed the largest likelihood has a_k = -inf: its
shift is fixed at 0.
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
    """Slope and shifts of the log-probabilities, with standard errors; NaN where there are none,
    and the status says why.
    """

    slope: float
    slope_error: float
    shifts: Tensor  # (K), 0 for the first class that was seen, NaN for classes that were not
    shift_errors: Tensor  # (K)
    test: Test  # of slope 1 and shifts 0
    status: str  # a sentence
    converged: bool = False


def recalibrate(log_p: Tensor, codes: Tensor, weights: Tensor, sampling: bool) -> Recalibration:
    """Fit the slope and the shifts.

    Args:
        log_p: (n, K) log-probabilities, -inf for a class that a row cannot have.
        codes: (n), the class of each row.
        weights: (n), above 0: frequencies, or with `sampling` what the rows stand for, and standard
            errors by the sandwich.
    """
    seen = torch.bincount(codes, minlength=log_p.shape[1]) > 0
    objective = _Objective(log_p, codes, weights, seen.nonzero()[1:, 0])
    start = torch.zeros(objective.size, dtype=torch.float64)
    start[0] = 1.0
    nan = torch.full((log_p.shape[1],), math.nan, dtype=torch.float64)
    untested = Test("lr", math.nan, len(start), math.nan)
    none = Recalibration(math.nan, math.nan, nan, nan, untested, objective.obstacle() or "")
    if none.status:
        return none
    optimum = maximise(objective.sums, start, unit=min(1.0, float(weights.mean())))
    covariance = cov.inverse(optimum.sums.information)
    if not optimum.reached:
        return none._replace(status=optimum.status)
    if bool(covariance.isnan().any()):
        return none._replace(status="none: the data do not identify the shifts")
    gain = 2 * float(optimum.sums.log_likelihood - objective.sums(start).log_likelihood)
    test = tests.chi_squared("lr", gain, len(start))
    if sampling:
        covariance = cov.sandwich(covariance, objective.meat(optimum.theta))
        test = tests.wald(optimum.theta, covariance, dict(enumerate(start.tolist())))
    zero = torch.where(seen, 0.0, math.nan).double()
    theta, errors = optimum.theta, covariance.diagonal().sqrt()
    shifts, shift_errors = (
        zero.index_copy(0, objective.free, part[1:]) for part in (theta, errors)
    )
    unseen = "" if bool(seen.all()) else f"; classes without a row: {int((~seen).sum())}"
    slope, status = (float(theta[0]), float(errors[0])), f"converged{unseen}"
    return Recalibration(*slope, shifts, shift_errors, test, status, converged=True)


class _Objective:
    """The likelihood of slope and shifts: logit k moves with (log p_k, e_k), weighted by q."""

    def __init__(self, log_p: Tensor, codes: Tensor, weights: Tensor, free: Tensor) -> None:
        self.log_p, self.codes, self.weights, self.free = log_p, codes, weights, free
        self.size = 1 + len(free)
        self.width = 4 * log_p.shape[1]

    def obstacle(self) -> str | None:
        """Say why there is no maximum, if so."""
        if bool(self.log_p.gather(1, self.codes[:, None]).isinf().any()):
            return "none: a class that had the probability 0 was seen"
        rising, falling = (
            _feasible(_least_margins(sign * self.log_p, self.log_p, self.codes), self.free)
            for sign in (1.0, -1.0)
        )
        if rising and falling:
            return "none: the log-probabilities are the same in all rows"
        if rising or falling:
            return (
                "none: the log-probabilities separate the classes, so that the slope has no maximum"
            )
        return None

    def sums(self, theta: Tensor) -> Sums:
        value, score = torch.zeros((), dtype=torch.float64), torch.zeros_like(theta)
        information = torch.zeros(self.size, self.size, dtype=torch.float64)
        for rows in blocks(len(self.codes), self.width):
            w, (log_q, away, scores) = self.weights[rows], self._moved(rows, theta)
            q = log_q.exp()
            weighted = (w[:, None] * q)[:, self.free]
            value += w @ log_q.gather(1, self.codes[rows, None])[:, 0]
            score += w @ scores
            information[0, 0] += w @ (q * away.square()).sum(1)
            information[0, 1:] += (weighted * away[:, self.free]).sum(0)
            information[1:, 1:] += torch.diag(weighted.sum(0)) - weighted.T @ q[:, self.free]
        information[1:, 0] = information[0, 1:]
        return Sums(value, score, information)

    def meat(self, theta: Tensor) -> Tensor:
        total = torch.zeros(self.size, self.size, dtype=torch.float64)
        for rows in blocks(len(self.codes), self.width):
            total += cov.meat(self._moved(rows, theta)[2], self.weights[rows], "sampling")
        return total

    def _moved(self, rows: slice, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log q, log p less its mean under q, and the scores of the rows."""
        log_p, codes = self.log_p[rows], self.codes[rows, None]
        possible = log_p > -torch.inf
        log_p = torch.where(possible, log_p, 0.0)
        shifts = torch.zeros(log_p.shape[1], dtype=torch.float64)
        shifts[self.free] = theta[1:]
        log_q = (theta[0] * log_p + shifts).masked_fill(~possible, -torch.inf).log_softmax(1)
        away = torch.where(possible, log_p - (log_q.exp() * log_p).sum(1, keepdim=True), 0.0)
        residual = torch.zeros_like(log_q).scatter(1, codes, 1.0) - log_q.exp()
        return log_q, away, torch.cat([away.gather(1, codes), residual[:, self.free]], 1)


def _least_margins(logits: Tensor, log_p: Tensor, codes: Tensor) -> Tensor:
    """(K, K): over the rows of each class, the least logit of it less that of another class they
    can have.
    """
    least = torch.full((log_p.shape[1], log_p.shape[1]), torch.inf, dtype=torch.float64)
    for rows in blocks(len(codes), 4 * log_p.shape[1]):
        code, impossible = codes[rows, None], log_p[rows] == -torch.inf
        margins = logits[rows].gather(1, code) - logits[rows]
        margins = margins.masked_fill(impossible, torch.inf)
        least.scatter_reduce_(0, code.expand_as(margins), margins, "amin")
    return least


def _feasible(least: Tensor, free: Tensor) -> bool:
    """Whether shifts a exist with a_k - a_y <= least[y, k]: differences are bounded so unless they
    form a cycle.

    The bounds are the lengths of the edges of a graph; shortest paths exist, and are such a, where
    no cycle has a negative length (Bellman and Ford). Classes without a shift are one node.
    """
    node = torch.zeros(len(least), dtype=torch.int64)
    node[free] = torch.arange(1, len(free) + 1)
    edges = least
    for _ in range(2):  # the rows of one node, and its columns
        merged = torch.full((1 + len(free), edges.shape[1]), torch.inf, dtype=torch.float64)
        edges = merged.scatter_reduce(0, node[:, None].expand_as(edges), edges, "amin").T
    slack = _ROUNDING * float(torch.where(edges.isfinite(), edges.abs(), 0.0).amax())
    length = torch.zeros(len(edges), dtype=torch.float64)
    for _ in range(len(edges)):
        shorter = torch.minimum(length, (length[:, None] + edges).amin(0))
        if bool((length - shorter <= slack).all()):
            return True
        length = shorter
    return False
