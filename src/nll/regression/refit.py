"""The likelihood of a regression in its own units, for profiles, tests and the bootstrap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.distributions import constraints

from nll.estimation.maximise import Solution
from nll.estimation.objective import PlainRows, Problem, Segment
from nll.kernels.multinomial import Rows, row_sums
from nll.regression.design_matrix import Held, unchanged
from nll.solvers.outcome import Optimum, Sums
from nll.solvers.parameters import Layout, Parameter, Params
from nll.solvers.trust_region import decrement_of
from nll.solvers.units import Units


class SoftmaxRows(PlainRows):
    """Log-probabilities of labels, whose sums have a kernel."""

    def __init__(self) -> None:
        super().__init__(softmax_log_prob)

    def sums(self, segment: Segment, theta: Tensor) -> Sums:
        """Return those of several data sets, which differ in the rows' weights, at (b, P)."""
        x, labels = segment.parts[0][0], segment.parts[1][0].long()
        each = []
        for number, vector in enumerate(theta):
            weights = segment.weights[number if len(segment.weights) > 1 else 0]
            rows, coef = Rows(x, labels, weights), vector.reshape(-1, x.shape[1])
            sums = row_sums(rows, unchanged(x.shape[1]), coef, square="information")
            each.append((sums.log_likelihood, sums.score.reshape(-1), sums.square))
        return Sums(*(torch.stack(parts) for parts in zip(*each, strict=True)))


def softmax_log_prob(x: Tensor, labels: Tensor, coef: Tensor) -> Tensor:
    """Return log-probabilities of labels (n), for coefficients (K - 1, p); the baseline's logit is
    0.
    """
    z = torch.cat([torch.zeros_like(x[:, :1]), x @ coef.mT], 1)
    return z.gather(1, labels.long()[:, None])[:, 0] - z.logsumexp(1)


class ResponseRows(PlainRows):
    """Log-probabilities of a response with a linear predictor; `second`: its other parameter."""

    def __init__(self, log_prob: Callable[..., Tensor], second: str | None) -> None:
        super().__init__(partial(_response_log_prob, log_prob, second))


def _response_log_prob(
    log_prob: Callable[..., Tensor],
    second: str | None,
    x: Tensor,
    y: Tensor,
    coef: Tensor,
    **more: Tensor,
) -> Tensor:
    return log_prob(y, x @ coef, more[second].log() if second else torch.zeros_like(y[:1]))


def search_again(
    rows: PlainRows,
    columns: Held,
    y: Tensor,
    weights: Tensor,
    params: Params,
    steps: int,
    kind: type[Problem] = Problem,
    weighted: bool = False,
) -> Solution:
    """Return the optimum for coefficients of the columns as given. The second parameter, if any, is
    positive.

    weighted: whether the weights are no frequencies.
    """
    parameters = {
        name: Parameter(
            constraints.real if name == "coef" else constraints.positive, tuple(value.shape)
        )
        for name, value in params.items()
    }
    parts = (columns.given()[None], y.double()[None])
    segment = Segment(rows, parts, weights[None], torch.arange(len(y)))
    problem = kind((segment,), Layout(parameters))
    theta = problem.layout.numbers({name: value[None] for name, value in params.items()})
    sums = Sums(*(part[0] for part in problem.sums(theta)))
    optimum = Optimum(theta[0], sums, decrement_of(sums), steps, True, "converged")
    return Solution(problem, optimum, Units(), 0.0, problem, weighted)
