"""The likelihood of a regression as one that can be searched again: for profiles, tests and the
bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import constraints

from nll.estimation.maximise import Solution
from nll.estimation.objective import PlainRows, Problem, Segment
from nll.kernels.multinomial import Rows, Standard, row_sums
from nll.regression.design_matrix import Held
from nll.solvers.outcome import Optimum, Sums
from nll.solvers.parameters import Layout, Parameter, Params
from nll.solvers.trust_region import decrement_of
from nll.solvers.units import Units


def softmax_log_prob(x: Tensor, labels: Tensor, coef: Tensor) -> Tensor:
    """Log-probabilities of labels (n), for coefficients (K - 1, p); the baseline's score is 0."""
    scores = torch.cat([torch.zeros_like(x[:, :1]), x @ coef.mT], 1)
    return scores.gather(1, labels.long()[:, None])[:, 0] - scores.logsumexp(1)


class SoftmaxRows(PlainRows):
    """Log-probabilities of labels, whose sums have a kernel."""

    def __init__(self) -> None:
        super().__init__(softmax_log_prob)

    def sums(self, segment: Segment, theta: Tensor) -> Sums:
        """Those of several data sets, which differ in the rows' weights, at (b, P)."""
        x, labels = segment.parts[0][0], segment.parts[1][0].long()
        zero = torch.zeros(x.shape[1], dtype=torch.float64)
        plain = Standard(zero, torch.ones_like(zero), False)
        found = []
        for number, own in enumerate(theta):
            weights = segment.weights[number if len(segment.weights) > 1 else 0]
            rows = Rows(x, labels, weights)
            sums = row_sums(rows, plain, own.reshape(-1, x.shape[1]), square="information")
            assert sums.square is not None
            found.append(Sums(sums.log_likelihood, sums.score.reshape(-1), sums.square))
        return Sums(*(torch.stack(parts) for parts in zip(*found, strict=True)))


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
    rows: SoftmaxRows | ResponseRows,
    columns: Held,
    y: Tensor,
    weights: Tensor,
    params: Params,
    steps: int,
    kind: type[Problem] = Problem,
    weighted: bool = False,
) -> Solution:
    """The search at its end, by coefficients of the columns as given. The second parameter, if any,
    is positive.

    weighted: whether the weights are no frequencies.
    """
    own = {
        name: Parameter(
            constraints.real if name == "coef" else constraints.positive, tuple(value.shape)
        )
        for name, value in params.items()
    }
    parts = (columns.given()[None], y.double()[None])
    segment = Segment(
        rows if isinstance(rows, SoftmaxRows) else PlainRows(rows),
        parts,
        weights[None],
        torch.arange(len(y)),
    )
    problem = kind((segment,), Layout(own))
    theta = problem.layout.numbers({name: value[None] for name, value in params.items()})
    at = problem.sums(theta)
    sums = type(at)(*(part[0] for part in at))
    found = Optimum(theta[0], sums, decrement_of(sums), steps, True, "converged")
    return Solution(problem, found, Units(), 0.0, problem, weighted)
