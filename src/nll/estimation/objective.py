"""The log-likelihood that is maximised: all that searches, covariances, profiles, tests and the
bootstrap know of a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nll.solvers.newton_cg import maximise_by_products
from nll.solvers.outcome import MAX_STEPS, Optima, Optimum, Progress, Sums
from nll.solvers.parameters import Layout, Params
from nll.solvers.trust_region import maximise_each

if TYPE_CHECKING:
    import numpy as np

# A search over more rows than the first begins with this many of them, evenly spaced.
_MANY, _SOME = 1 << 17, 1 << 14
# Above the first, steps are by conjugate gradients; above the second, the information is not formed
# at the end either.
MANY_PARAMETERS, MOST_INFORMATION = 256, 4096


class Objective(ABC):
    """The log-likelihood of one data set, or of several (B) side by side, as a function of the free
    numbers of a layout.
    """

    layout: Layout
    count: int = 1  # B

    @property
    def side_by_side(self) -> bool:
        """Whether several searches cost hardly more than one."""
        return False

    @property
    def by_products(self) -> bool:
        """Whether the information is too large to be formed at every step."""
        return False

    @property
    @abstractmethod
    def unit(self) -> Tensor:
        """The unit of each log-likelihood, (B): the total weight of the rows."""

    @property
    def width(self) -> int:
        """The number of rows that are added up."""
        return len(self.weights)

    @property
    @abstractmethod
    def weights(self) -> Tensor:
        """The weights (n) of the rows of the one data set."""

    @property
    def strata(self) -> tuple[int, ...]:
        """The numbers of rows, one after another, that are drawn separately from each other."""
        return (len(self.weights),)

    @property
    def observations(self) -> Objective:
        """The same log-likelihood with a row for each observation."""
        return self

    @abstractmethod
    def value(self, params: Params) -> Tensor:
        """Return the log-likelihoods (B) at parameters (B, *shape)."""

    def log_likelihood(self, theta: Tensor) -> Tensor:
        """Return the log-likelihoods (B) at free numbers (B, P)."""
        return self.value(self.layout.natural(theta))

    @abstractmethod
    def sums(self, theta: Tensor, which: Tensor | None = None) -> Sums:
        """Return log-likelihoods (b), scores (b, P) and informations (b, P, P) of the data sets
        `which`, by default all, at (b, P).
        """

    @abstractmethod
    def scores(self, theta: Tensor) -> Tensor:
        """Return the unweighted score of each row (n, P) of the one data set at (1, P)."""

    @abstractmethod
    def reweighted(self, weights: Tensor) -> Objective:
        """Return the log-likelihood of R data sets with the same rows, weighted (R, n)."""

    def simulated(self, params: Params, count: int, rng: np.random.Generator) -> Objective:
        """Return the log-likelihood of `count` data sets drawn from the model at parameters.

        Raises: ValueError if the model cannot be drawn from.
        """
        raise ValueError("expected parametric=False for a regression")

    def thinned(self, rows: int) -> Objective | None:
        """Return the log-likelihood of about `rows` rows, evenly spaced; None: of all only."""
        return None

    def log_probabilities(self, theta: Tensor) -> Tensor:
        """Return the unweighted log-probability of each row (n) of the one data set at (1, P)."""
        raise NotImplementedError

    def slope(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-likelihood and the score of the one data set at (P)."""
        raise NotImplementedError

    def curvature(self, theta: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the product of the information at (P) with a vector (P)."""
        raise NotImplementedError


# ---- Searches ------------------------------------------------------------------------------------


def maximise(
    objective: Objective,
    start: Tensor,
    progress: Progress | None = None,
    most_steps: int = MAX_STEPS,
) -> Optima:
    """Search from (B, P); if there are many rows, first over some of them."""
    some = _sampled(objective)
    if some is not None:
        near = maximise(some, start)
        start = torch.where(near.reached[:, None], near.theta, start)
    if objective.by_products:
        return _maximise_by_products(objective, start, progress)
    return maximise_each(objective.sums, start, objective.unit, progress, most_steps=most_steps)


def maximise_from(
    objective: Objective, starts: Tensor, progress: Progress | None, most_steps: int
) -> list[Optimum]:
    """Search for the one data set's maximum from each of the starts (S, P): side by side if calls,
    not arithmetic, take the time.
    """
    alone = objective.by_products or not objective.side_by_side
    if alone or _sampled(objective) is not None:
        each = (maximise(objective, start[None], progress, most_steps) for start in starts)
        return [optima.one(0) for optima in each]
    optima = maximise_each(
        lambda theta, _: objective.sums(theta),
        starts,
        objective.unit.expand(len(starts)),
        progress,
        most_steps=most_steps,
    )
    return [optima.one(index) for index in range(len(starts))]


def maximise_fixed(
    objective: Objective,
    start: Tensor,
    fixed: Tensor,
    enough: float | None = None,
    most_steps: int = MAX_STEPS,
) -> Optima:
    """Maximise the one data set's log-likelihood from each of (B, P) starts, with the numbers in
    `fixed` (B, P) as they are.
    """

    def sums(theta: Tensor, which: Tensor) -> Sums:
        every, still = objective.sums(theta), fixed[which]
        either = still[:, :, None] | still[:, None, :]
        information = every.information.masked_fill(either, 0.0)
        information += torch.diag_embed(still.double())
        return Sums(every.log_likelihood, every.score.masked_fill(still, 0.0), information)

    return maximise_each(sums, start, objective.unit.expand(len(start)), None, enough, most_steps)


def _sampled(objective: Objective) -> Objective | None:
    """The log-likelihood of some rows; None unless there are many."""
    rows = max(_SOME, _MANY // 8 // objective.count)
    if objective.width * objective.count <= _MANY or objective.width < 2 * rows:
        return None
    return objective.thinned(rows)


def _maximise_by_products(objective: Objective, start: Tensor, progress: Progress | None) -> Optima:
    optimum = maximise_by_products(
        objective.slope, objective.curvature, start[0], float(objective.unit[0]), progress
    )
    batch = optimum.batched()
    if objective.layout.size > MOST_INFORMATION or not optimum.reached:
        return batch
    return batch._replace(sums=objective.sums(batch.theta))
