"""The likelihood of a regression as one that can be searched again: for profiles, tests and the bootstrap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import constraints

from nll.likelihood.optimise import Optimum, decrement_of
from nll.likelihood.parameters import Layout, Parameter, Params
from nll.likelihood.problem import PlainRows, Problem, Segment
from nll.likelihood.search import Found, Units
from nll.regression.columns import Columns


@dataclass(frozen=True)
class SoftmaxRows:
    """Log-probabilities of labels, the baseline's score being 0."""

    def __call__(self, x: Tensor, labels: Tensor, coef: Tensor) -> Tensor:
        """Return them (n), for coefficients (K - 1, p)."""
        scores = torch.cat([torch.zeros_like(x[:, :1]), x @ coef.mT], 1)
        return scores.gather(1, labels.long()[:, None])[:, 0] - scores.logsumexp(1)


@dataclass(frozen=True)
class ResponseRows:
    """Log-probabilities of a response with a linear score."""

    log_prob: Callable[[Tensor, Tensor, Tensor], Tensor]
    second: str | None

    def __call__(self, x: Tensor, y: Tensor, coef: Tensor, **more: Tensor) -> Tensor:
        """Return them (n), for coefficients (p)."""
        log_second = more[self.second].log() if self.second else torch.zeros_like(y[:1])
        return self.log_prob(y, x @ coef, log_second)


def search_again(
    rows: SoftmaxRows | ResponseRows, columns: Columns, y: Tensor, weights: Tensor, params: Params, steps: int
) -> Found:
    """The search at its end, by coefficients of the columns as given. The second parameter, if any, is positive."""
    own = {
        name: Parameter(constraints.real if name == "coef" else constraints.positive, tuple(value.shape))
        for name, value in params.items()
    }
    parts = (columns.given()[None], y.double()[None])
    segment = Segment(PlainRows(rows), parts, weights[None], torch.arange(len(y)))
    problem = Problem((segment,), Layout(own))
    theta = problem.layout.numbers({name: value[None] for name, value in params.items()})
    at = problem.sums(theta)
    sums = type(at)(*(part[0] for part in at))
    found = Optimum(theta[0], sums, decrement_of(sums), steps, True, "converged")
    return Found(problem, found, Units(), 0.0, problem)
