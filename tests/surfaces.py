"""A log-likelihood that is any function of its free numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

from nll.estimation.objective import Objective
from nll.solvers.outcome import Optimum, Sums
from nll.solvers.parameters import Layout, Parameter, Params


class Surface(Objective):
    """The function (P) -> () of free numbers, named a, b, ..."""

    def __init__(self, function: Callable[[Tensor], Tensor], *constraints: object) -> None:
        self.function = function
        names = "abcdefgh"[: len(constraints)]
        self.layout = Layout({n: Parameter(c) for n, c in zip(names, constraints, strict=True)})

    @property
    def unit(self) -> Tensor:
        return torch.ones(1, dtype=torch.float64)

    @property
    def weights(self) -> Tensor:
        return torch.ones(1, dtype=torch.float64)

    def log_likelihood(self, theta: Tensor) -> Tensor:
        return vmap(self.function)(theta)

    def value(self, params: Params) -> Tensor:
        return self.log_likelihood(self.layout.numbers(params))

    def sums(self, theta: Tensor, which: Tensor | None = None) -> Sums:
        score, second = vmap(grad(self.function))(theta), vmap(jacrev(grad(self.function)))(theta)
        return Sums(self.log_likelihood(theta), score, -second)

    def scores(self, theta: Tensor) -> Tensor:
        return self.sums(theta).score

    def reweighted(self, weights: Tensor) -> Surface:
        raise NotImplementedError

    def at(self, *theta: float, proved: bool = False) -> Optimum:
        """A search that ended there."""
        place = torch.tensor(theta, dtype=torch.float64)
        sums = Sums(*(part[0] for part in self.sums(place[None])))
        return Optimum(place, sums, 0.0, 1, True, "converged", proved)
