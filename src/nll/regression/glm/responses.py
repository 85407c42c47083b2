"""Responses whose distribution has one parameter that is linear in the columns, through a link.

    bernoulli          logit = x'b
    poisson            log rate = x'b
    normal             loc = x'b, and scale
    negative_binomial  log mean = x'b, and total_count: variance = mean + mean^2 / total_count

The second parameter, if there is one, is estimated as its logarithm. Derivatives with respect to
the linear predictor and the second parameter are exact, by automatic differentiation of each row's
log-probability; the columns then enter as in a vector generalised linear model (Yee 2015, section
3.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nll.data.prefetch import blocks
from nll.families.numerics import log_peak, log_rising
from nll.regression.design_matrix import Columns
from nll.regression.objective import RegressionLikelihood
from nll.solvers.outcome import Sums


class Response(NamedTuple):
    """The distribution of a response given its linear predictor."""

    title: str
    support: str
    inside: Callable[[Tensor], Tensor]
    # (y, linear predictor, log of the second parameter) -> (n)
    log_prob: Callable[[Tensor, Tensor, Tensor], Tensor]
    mean: Callable[[Tensor], Tensor]  # of the linear predictor
    link: Callable[[Tensor], Tensor]  # its inverse
    second: str | None = None  # the name of the second parameter
    # (y, means, weights) -> log of the second parameter to start from
    start: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None


def _is_binary(y: Tensor) -> Tensor:
    return (y == 0) | (y == 1)


def _is_count(y: Tensor) -> Tensor:
    return torch.isfinite(y) & (y >= 0) & (y == y.round())


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), with the digits that PyTorch's leaves out above 20 and derivatives that
    logaddexp lacks.
    """
    return torch.where(x > 20.0, x + torch.exp(-x.clamp(min=20.0)), F.softplus(x))


def _bernoulli(y: Tensor, predictor: Tensor, _: Tensor) -> Tensor:
    return -_softplus((1 - 2 * y) * predictor)


def _normal(y: Tensor, predictor: Tensor, log_scale: Tensor) -> Tensor:
    z = (y - predictor) * torch.exp(-log_scale)
    return -0.5 * z.square() - log_scale - 0.5 * math.log(2 * math.pi)


def _poisson(y: Tensor, predictor: Tensor, _: Tensor) -> Tensor:
    """log P(y; y) less the distance of the rate from y, which has no large terms to cancel."""
    s = predictor - y.clamp(min=1).log()
    return torch.where(y > 0, y * (s - torch.expm1(s)), -predictor.exp()) + log_peak(y)


def _negative_binomial(y: Tensor, predictor: Tensor, log_count: Tensor) -> Tensor:
    """With r = total_count: log C(y + r - 1, y) + r log(r / (r + mean)) + y log(mean / (r +
    mean)).
    """
    choose = log_rising(log_count.exp(), y) - torch.lgamma(y + 1)
    odds = predictor - log_count
    return choose - log_count.exp() * _softplus(odds) - y * _softplus(-odds)


def _log_scale(y: Tensor, mean: Tensor, weights: Tensor) -> Tensor:
    variance = (weights @ (y - mean).square()) / weights.sum()
    return variance.clamp(min=torch.finfo(torch.float64).tiny).log() / 2


def _log_count(y: Tensor, mean: Tensor, weights: Tensor) -> Tensor:
    excess = (weights @ ((y - mean).square() - mean)) / (weights @ mean.square())
    return -excess.clamp(1e-3, 1e3).log()


RESPONSES = {
    "bernoulli": Response(
        "Bernoulli regression (logit)",
        "0 or 1",
        _is_binary,
        _bernoulli,
        torch.sigmoid,
        torch.logit,
    ),
    "poisson": Response(
        "Poisson regression (log)",
        "a non-negative integer",
        _is_count,
        _poisson,
        torch.exp,
        torch.log,
    ),
    "normal": Response(
        "Normal regression",
        "a finite number",
        torch.isfinite,
        _normal,
        torch.clone,
        torch.clone,
        "scale",
        _log_scale,
    ),
    "negative_binomial": Response(
        "Negative binomial regression (log)",
        "a non-negative integer",
        _is_count,
        _negative_binomial,
        torch.exp,
        torch.log,
        "total_count",
        _log_count,
    ),
}


@dataclass(frozen=True)
class LinearLikelihood(RegressionLikelihood):
    """The log-likelihood of a response; the parameters are the coefficients, then the log of the
    second parameter.
    """

    response: Response
    columns: Columns
    y: Tensor  # less `centre`, in `unit`s
    weights: Tensor
    centre: float = 0.0
    unit: float = 1.0
    log_second: Tensor | None = None  # where it is fixed

    @property
    def tolerance_unit(self) -> float:
        """The unit of the log-likelihood: weights may be shares."""
        return min(1.0, float(self.weights.mean()))

    @property
    def has_second(self) -> bool:
        return self.response.second is not None and self.log_second is None

    def reweighted(self, weights: Tensor) -> LinearLikelihood:
        return replace(self, weights=weights)

    def sums(self, theta: Tensor) -> Sums:
        return Sums(*(part[0] for part in self.sums_each(theta[None], self.weights[None])))

    def sums_each(self, theta: Tensor, weights: Tensor) -> Sums:
        count, size = theta.shape
        value = -weights.sum(1) * math.log(self.unit)
        score = torch.zeros_like(theta)
        information = torch.zeros(count, size, size, dtype=torch.float64)
        for rows in blocks(len(self.y), 2 * count * size):
            w = weights[:, rows]
            designs, log_prob, gradient, hessian = self._row_derivatives(rows, theta)
            value += (w * log_prob).sum(1)
            score += torch.cat([(w * g) @ d for d, g in zip(designs, gradient, strict=True)], 1)
            crossed = [
                [d.T @ ((w * h)[..., None] * e) for e, h in zip(designs, row, strict=True)]
                for d, row in zip(designs, hessian, strict=True)
            ]
            information -= torch.cat([torch.cat(row, 2) for row in crossed], 1)
        return Sums(value, score, information)

    def log_likelihood(self, theta: Tensor) -> Tensor:
        return self.log_likelihood_each(theta[None], self.weights[None])[0]

    def log_likelihood_each(self, theta: Tensor, weights: Tensor) -> Tensor:
        value = -weights.sum(1) * math.log(self.unit)
        for rows in blocks(len(self.y), len(theta) * self.columns.count):
            parameters = self._parameters(rows, theta)
            value += (weights[:, rows] * self.response.log_prob(self.y[rows], *parameters)).sum(1)
        return value

    def score_blocks(self, theta: Tensor) -> Iterator[tuple[slice, Tensor]]:
        for rows in blocks(len(self.y), 2 * len(theta)):
            designs, _, gradient, _ = self._row_derivatives(rows, theta[None])
            pairs = zip(designs, gradient, strict=True)
            yield rows, torch.cat([d * g[0, :, None] for d, g in pairs], 1)

    def start(self) -> Tensor:
        """Return least squares of the predictors at the responses, which are drawn a little towards
        their mean to keep them finite.
        """
        mean = (self.weights @ self.y) / self.weights.sum()
        return self.with_second(self.least_squares(self.response.link((self.y + mean) / 2)))

    def with_second(self, coef: Tensor) -> Tensor:
        if self.response.start is None:
            return coef
        fitted = self.response.mean(self.columns.x @ coef)
        return torch.cat([coef, self.response.start(self.y, fitted, self.weights)[None]])

    def least_squares(self, target: Tensor) -> Tensor:
        root = self.weights.sqrt()[:, None]
        return torch.linalg.lstsq(root * self.columns.x, root * target[:, None]).solution[:, 0]

    def _parameters(self, rows: slice, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The linear predictors and the log of the second parameter, (b, m), at (b, P)."""
        p = self.columns.count
        predictor = theta[:, :p] @ self.columns.x[rows].T
        if self.has_second:
            return predictor, theta[:, p:].expand_as(predictor)
        fixed = torch.zeros(1) if self.log_second is None else self.log_second
        return predictor, fixed.double().expand_as(predictor)

    def _row_derivatives(
        self, rows: slice, theta: Tensor
    ) -> tuple[list[Tensor], Tensor, list[Tensor], list[tuple[Tensor, ...]]]:
        """Return the columns of each predictor, and each row's log-probability (b, m) with its
        gradient and Hessian with respect to the predictors.
        """
        predictor, log_second = self._parameters(rows, theta)
        designs, inputs = [self.columns.x[rows]], [predictor.detach().requires_grad_()]
        if self.has_second:
            designs.append(torch.ones(predictor.shape[1], 1, dtype=torch.float64))
            log_second = log_second.clone().requires_grad_()
            inputs.append(log_second)
        with torch.enable_grad():
            log_prob = self.response.log_prob(self.y[rows], inputs[0], log_second)
            gradient = torch.autograd.grad(log_prob.sum(), inputs, create_graph=True)
            hessian = [
                torch.autograd.grad(
                    g.sum(), inputs, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                for g in gradient
            ]
        return designs, log_prob.detach(), [g.detach() for g in gradient], hessian
