"""The log-likelihood of a regression as a function of its parameters in the units of the data, for
profiles, tests and the bootstrap.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import constraints

from nll.estimation.inference import covariance as cov
from nll.estimation.objective import Objective
from nll.estimation.search.solution import Solution
from nll.solvers.outcome import Optimum, Sums
from nll.solvers.parameters import Layout, Parameter, Params
from nll.solvers.trust_region import decrement_of
from nll.solvers.units import Units

if TYPE_CHECKING:
    from typing_extensions import Self


class RegressionLikelihood(ABC):
    """The log-likelihood of a regression as a function of the parameters (P) of its solver.

    Rows that are read for each pass cannot be weighted again, nor have their scores at once.
    """

    weights: Tensor  # (n), of the rows

    @property
    def n(self) -> float:
        """The sum of the rows' weights."""
        return float(self.weights.sum())

    @property
    def ridge(self) -> bool:
        """Whether `sums` has a ridge penalty."""
        return False

    @property
    def information_name(self) -> str:
        """What a table calls the covariance that is the inverse information."""
        return "penalised" if self.ridge else "observed"

    @abstractmethod
    def sums(self, theta: Tensor) -> Sums:
        """Return log-likelihood, score and information, penalty included."""

    @abstractmethod
    def log_likelihood(self, theta: Tensor) -> Tensor:
        """Return the log-likelihood without a penalty."""

    def information(self, theta: Tensor) -> Tensor:
        """Return the information (P, P) without a penalty."""
        return self.sums(theta).information

    def score_blocks(self, theta: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield the unweighted scores (m, P) of some rows at a time, without a penalty."""
        raise NotImplementedError

    def reweighted(self, weights: Tensor) -> Self:
        """Return the log-likelihood of the same rows with other weights (n)."""
        raise NotImplementedError

    def scores(self, theta: Tensor) -> Tensor:
        """Return the unweighted score of each row (n, P), without a penalty."""
        return torch.cat([scores for _, scores in self.score_blocks(theta)])

    def meat(self, theta: Tensor, kind: str) -> Tensor:
        """Return the sum of the outer products of the rows' scores, for a kind of weights."""
        return cov.meat(self.scores(theta), self.weights, kind)

    def by_cluster(self, theta: Tensor, clusters: Any) -> Tensor:
        """Return the sum of the weighted scores in each cluster, (G, P)."""
        totals = torch.zeros(int(clusters.max()) + 1, len(theta), dtype=torch.float64)
        for rows, scores in self.score_blocks(theta):
            totals.index_add_(0, clusters[rows], self.weights[rows, None] * scores)
        return totals

    def sums_each(self, theta: Tensor, weights: Tensor) -> Sums:
        """Return the sums of several data sets, weighted (b, n), at (b, P)."""
        pairs = zip(theta, weights, strict=True)
        each = [self.reweighted(w).sums(vector) for vector, w in pairs]
        return Sums(*map(torch.stack, zip(*each, strict=True)))

    def log_likelihood_each(self, theta: Tensor, weights: Tensor) -> Tensor:
        """Return the log-likelihoods (b) alone."""
        pairs = zip(theta, weights, strict=True)
        return torch.stack([self.reweighted(w).log_likelihood(vector) for vector, w in pairs])


@dataclass(frozen=True)
class InDataUnits(Objective):
    """A regression's log-likelihood by the coefficients of the columns as the data have them.

    The coefficients (m, p) are `to_data` times those of the solver's columns, plus a shift; what
    follows them is shifted alone.
    """

    likelihood: RegressionLikelihood
    layout: Layout
    to_data: Tensor  # (p, p)
    shift: Tensor  # (P), of the free numbers
    replicates: Tensor  # (R, n), the weights of each data set
    count: int = 1  # R

    @property
    def unit(self) -> Tensor:
        return self.replicates.abs().sum(1)

    @property
    def weights(self) -> Tensor:
        return self.likelihood.weights

    def value(self, params: Params) -> Tensor:
        theta = self._solver(self.layout.numbers(params))
        return self.likelihood.log_likelihood_each(theta, self.replicates.expand(len(theta), -1))

    def sums(self, theta: Tensor, which: Tensor | None = None) -> Sums:
        taken = which is not None and self.count > 1
        weights = self.replicates[which] if taken else self.replicates.expand(len(theta), -1)
        value, score, information = self.likelihood.sums_each(self._solver(theta), weights)
        across = self._chained(self._chained(information).mT)
        return Sums(value, self._chained(score[..., None])[..., 0], across)

    def scores(self, theta: Tensor) -> Tensor:
        return self._chained(self.likelihood.scores(self._solver(theta)[0]).mT).mT

    def reweighted(self, weights: Tensor) -> Objective:
        return replace(self, replicates=weights, count=len(weights))

    @cached_property
    def _to_solver(self) -> Tensor:
        return torch.linalg.inv(self.to_data)

    def _solver(self, theta: Tensor) -> Tensor:  # its parameters, (b, P)
        coef, rest = self._split(theta - self.shift)
        return torch.cat([(coef @ self._to_solver.mT).flatten(1), rest], 1)

    def _chained(self, derivatives: Tensor) -> Tensor:
        """Derivatives (..., P, m) by the solver's parameters as those by the free numbers."""
        coef, rest = self._split(derivatives.mT)
        return torch.cat([(coef @ self._to_solver).flatten(-2), rest], -1).mT

    def _split(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients (..., m, p), and what follows them."""
        p = len(self.to_data)
        size = numbers.shape[-1] // p * p
        return numbers[..., :size].unflatten(-1, (-1, p)), numbers[..., size:]


def in_data_units(
    likelihood: RegressionLikelihood,
    coef: tuple[int, ...],
    to_data: Tensor,
    second: str | None = None,
    shift: Tensor | None = None,
) -> InDataUnits:
    """Return the log-likelihood by coefficients of a shape, and a positive second parameter."""
    positive = {} if second is None else {second: Parameter(constraints.positive)}
    layout = Layout({"coef": Parameter(shape=coef), **positive})
    shift = torch.zeros(layout.size, dtype=torch.float64) if shift is None else shift
    return InDataUnits(likelihood, layout, to_data, shift, likelihood.weights[None])


def solution_at(objective: InDataUnits, params: Params, steps: int, weighted: bool) -> Solution:
    """Return the maximum as profiles, tests and the bootstrap start from it.

    weighted: whether the weights are no frequencies.
    """
    theta = objective.layout.numbers({name: value[None] for name, value in params.items()})
    sums = Sums(*(each[0] for each in objective.sums(theta)))
    optimum = Optimum(theta[0], sums, decrement_of(sums), steps, True, "converged")
    return Solution(objective, optimum, Units(), 0.0, weighted)
