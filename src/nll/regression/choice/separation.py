"""Does the log-likelihood of choices have a finite maximum, and if not, along which direction does
it rise?
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy.sparse import csr_array
from torch import Tensor

from nll.regression.choice.objective import ConditionalLikelihood
from nll.regression.separation import ZERO, Limit, limit_of, separating_direction
from nll.solvers.trust_region import maximise

_MOST_ROWS, _ADDED, _ROUNDS = 20_000, 500, 60  # of one linear programme


class Existence(NamedTuple):
    """Whether a finite maximum exists; by default that is not decided."""

    proved: bool = False
    direction: Tensor | None = None  # (p), along which the choices are separated
    supremum: float = math.nan
    limit: Limit | None = None


def certified(likelihood: ConditionalLikelihood, decrement: float, covariance: Tensor) -> bool:
    """Return whether the point proves that a maximum exists (Bach's certificate, see `existence`).

    No direction of unit length may move two utilities of a case far apart.
    """
    if bool(covariance.isnan().any()):
        return False
    # Two rows are at most twice as far apart as either is from the chosen one.
    lengths = [((block.x @ covariance) * block.x).sum(1).amax() for block in likelihood.blocks()]
    largest = max(0.0, float(torch.stack(lengths).amax()))
    return (2 * max(decrement, 0.0)) ** 0.5 * 2 * largest**0.5 <= 0.5


def diagnose(likelihood: ConditionalLikelihood) -> Existence:
    """Look for a direction along which no chosen alternative loses to another one, and some win."""
    x = likelihood.columns.x
    margins = x[likelihood.chosen][likelihood.case] - x
    largest = margins.abs().amax(0)
    unit = torch.where(largest > 0, largest, 1.0)
    separated = _separate(margins / unit)
    if separated is None:
        return Existence()
    direction, left = separated
    if not bool(direction.any()):
        return Existence(proved=True)
    rest = likelihood.among(left)
    optimum = maximise(rest.sums, torch.zeros_like(direction), None, likelihood.unit)
    if not optimum.reached:
        return Existence()
    direction = torch.where(direction.abs() < 1e-9 * direction.abs().amax(), 0.0, direction) / unit
    supremum = float(optimum.sums.log_likelihood)
    return Existence(direction=direction, supremum=supremum, limit=limit_of(optimum))


def _separate(margins: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return a direction and the rows (n) that it does not separate; None if not decided.

    Rows that have lost are left out and the others are asked again, until none is separated.
    """
    left = torch.ones(len(margins), dtype=torch.bool)
    total = torch.zeros(margins.shape[1], dtype=torch.float64)
    while True:
        direction = _direction(margins[left])
        if direction is None:
            return None
        if not bool(direction.any()):
            return total, left
        before, after = margins @ total, margins @ direction
        nearer = ~left & (after < 0)  # what has lost already may come nearer, but not back
        share = 1.0
        if bool(nearer.any()):
            share = min(1.0, 0.5 * float((before[nearer] / -after[nearer]).amin()))
        total = total + share * direction
        left &= after <= ZERO


def _direction(margins: Tensor) -> Tensor | None:
    """Return a direction of at most 1 with no negative margin and a positive one.

    It is 0 if there is none, and None if that is not decided. The programme starts with some of
    many rows and adds those that its answer treats worst.
    """
    rows = torch.arange(0, len(margins), max(1, -(-len(margins) // _MOST_ROWS)))
    for _ in range(_ROUNDS):
        solution = separating_direction(csr_array(margins[rows].numpy()))
        if solution is None:
            return None
        direction = torch.from_numpy(solution)
        worst = margins @ direction
        wrong = (worst < -ZERO).nonzero()[:, 0]
        if not len(wrong):
            return direction
        rows = torch.cat([rows, wrong[worst[wrong].argsort()[:_ADDED]]])
    return None
