"""Regression of a response whose distribution has one parameter that is linear in the columns,
through a link.

    bernoulli          logits = x'b
    poisson            log rate = x'b
    normal             loc = x'b, and scale
    negative_binomial  log mean = x'b, and total_count: variance = mean + mean^2 / total_count

The second parameter, where there is one, is estimated as its logarithm and reported on its own
scale (delta method). Derivatives by the linear score and by the second parameter are exact, by
automatic differentiation of each row's log-probability; the columns then enter as in a vector
generalised linear model (Yee 2015, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nll.data.observations import Observations, require_support
from nll.data.prefetch import blocks
from nll.estimation.inference import covariance as cov
from nll.estimation.likelihood import LogLikelihood
from nll.families.numerics import log_peak, log_rising
from nll.regression import existence
from nll.regression.design_matrix import Columns
from nll.regression.refit import ResponseRows, search_again
from nll.regression.result import RegressionFit
from nll.solvers.outcome import Optimum, Progress, Sums
from nll.solvers.trust_region import decrement_of, maximise


class Response(NamedTuple):
    """The distribution of a response given its linear score."""

    support: str
    inside: Callable[[Tensor], Tensor]
    # (y, score, log of the second parameter) -> (n)
    log_prob: Callable[[Tensor, Tensor, Tensor], Tensor]
    mean: Callable[[Tensor], Tensor]  # of the linear score
    link: Callable[[Tensor], Tensor]  # mean -> linear score
    second: str | None = None  # the name of the second parameter
    title: str = ""


# A scale below this share of the largest response is rounding: the columns fit the response
# exactly.
_EXACT = 16 * torch.finfo(torch.float64).eps
# values of total_count that are tried, and rows that tell where its peaks are
_HELD, _SOME = 12, 1 << 14
_ROUGH = 1e-4  # the decrement at which a search for a start ends
_TIE = 1e-11  # a gain, in units of a log-likelihood, that is rounding


def _counts(y: Tensor) -> Tensor:
    return torch.isfinite(y) & (y >= 0) & (y == y.round())


def _softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), with the digits that PyTorch's leaves out above 20 and derivatives that
    logaddexp lacks.
    """
    return torch.where(x > 20.0, x + torch.exp(-x.clamp(min=20.0)), F.softplus(x))


def _bernoulli(y: Tensor, score: Tensor, _: Tensor) -> Tensor:
    return -_softplus((1 - 2 * y) * score)


def _normal(y: Tensor, score: Tensor, log_scale: Tensor) -> Tensor:
    return (
        -0.5 * ((y - score) * torch.exp(-log_scale)).square()
        - log_scale
        - 0.5 * math.log(2 * math.pi)
    )


def _poisson(y: Tensor, score: Tensor, _: Tensor) -> Tensor:
    """log P(y; y) less the distance of the rate from y, which has no large terms to cancel."""
    s = score - y.clamp(min=1).log()
    return torch.where(y > 0, y * (s - torch.expm1(s)), -score.exp()) + log_peak(y)


def _negative_binomial(y: Tensor, score: Tensor, log_count: Tensor) -> Tensor:
    """With r = total_count: log C(y + r - 1, y) + r log(r / (r + mean)) + y log(mean / (r +
    mean)).
    """
    r = log_count.exp()
    choose = log_rising(r, y) - torch.lgamma(y + 1)
    return choose - r * _softplus(score - log_count) - y * _softplus(log_count - score)


def _with_count(log_count: Tensor, y: Tensor, score: Tensor, _: Tensor) -> Tensor:
    return _negative_binomial(y, score, log_count)


RESPONSES = {
    "bernoulli": Response(
        "0 or 1",
        lambda y: (y == 0) | (y == 1),
        _bernoulli,
        torch.sigmoid,
        torch.logit,
        title="Bernoulli regression (logit)",
    ),
    "poisson": Response(
        "a non-negative integer",
        _counts,
        _poisson,
        torch.exp,
        torch.log,
        title="Poisson regression (log)",
    ),
    "normal": Response(
        "a finite number",
        torch.isfinite,
        _normal,
        lambda s: s,
        lambda m: m,
        "scale",
        title="Normal regression",
    ),
    "negative_binomial": Response(
        "a non-negative integer",
        _counts,
        _negative_binomial,
        torch.exp,
        torch.log,
        "total_count",
        title="Negative binomial regression (log)",
    ),
}


@dataclass(frozen=True)
class LinearLikelihood:
    """The log-likelihood of a response; the parameters are the coefficients, then log of the second
    parameter.
    """

    response: Response
    columns: Columns
    y: Tensor  # less `centre`, in `unit`s
    weights: Tensor
    centre: float = 0.0
    unit: float = 1.0

    @property
    def size(self) -> float:
        """The unit of the log-likelihood: weights may be shares."""
        return min(1.0, float(self.weights.mean()))

    def sums(self, theta: Tensor) -> Sums:
        """Add up log-likelihood, score and information over the rows."""
        p, total = self.columns.count, len(theta)
        value = -self.weights.sum() * math.log(self.unit)
        score = torch.zeros(total, dtype=torch.float64)
        information = torch.zeros(total, total, dtype=torch.float64)
        for rows in blocks(len(self.y), 2 * total):
            x, w = self.columns.x[rows], self.weights[rows]
            log_prob, g, h = self._row_derivatives(self.y[rows], x @ theta[:p], theta[p:])
            value += w @ log_prob
            score[:p] += x.T @ (w * g[0])
            information[:p, :p] -= x.T @ ((w * h[0][0])[:, None] * x)
            if self.response.second:
                cross = x.T @ (w * h[0][1])
                score[p] += w @ g[1]
                information[:p, p] -= cross
                information[p, :p] -= cross
                information[p, p] -= w @ h[1][1]
        return Sums(value, score, information)

    def log_likelihood(self, theta: Tensor) -> Tensor:
        """The log-likelihood alone."""
        p = self.columns.count
        log_second = theta[p:].expand(1) if self.response.second else theta.new_zeros(1)
        value = -self.weights.sum() * math.log(self.unit)
        for rows in blocks(len(self.y), p):
            scores = self.columns.x[rows] @ theta[:p]
            value += self.weights[rows] @ self.response.log_prob(self.y[rows], scores, log_second)
        return value

    def scores(self, theta: Tensor) -> Tensor:
        """(n, P): the score of each row, unweighted."""
        p, found = self.columns.count, []
        for rows in blocks(len(self.y), 2 * len(theta)):
            x = self.columns.x[rows]
            _, g, _ = self._row_derivatives(self.y[rows], x @ theta[:p], theta[p:])
            found.append(torch.cat([x * g[0][:, None], *(part[:, None] for part in g[1:])], 1))
        return torch.cat(found)

    def start(self) -> Tensor:
        """Least squares on the scores of the responses, drawn a little towards their mean to keep
        them finite.
        """
        mean = (self.weights @ self.y) / self.weights.sum()
        target = (
            self.y if self.response.second == "scale" else self.response.link((self.y + mean) / 2)
        )
        root = self.weights.sqrt()[:, None]
        coef = torch.linalg.lstsq(root * self.columns.x, root * target[:, None]).solution[:, 0]
        if self.response.second == "scale":  # once more on what rounding has left
            left = target - self.columns.x @ coef
            coef += torch.linalg.lstsq(root * self.columns.x, root * left[:, None]).solution[:, 0]
        if self.response.second is None:
            return coef
        fitted = self.response.mean(self.columns.x @ coef)
        residual = (self.weights @ (self.y - fitted).square()) / self.weights.sum()
        if self.response.second == "scale":
            return torch.cat(
                [coef, residual.clamp(min=torch.finfo(torch.float64).tiny).log()[None] / 2]
            )
        excess = (self.weights @ ((self.y - fitted).square() - fitted)) / (
            self.weights @ fitted.square()
        )
        return torch.cat([coef, -excess.clamp(1e-3, 1e3).log()[None]])

    def _row_derivatives(
        self, y: Tensor, score: Tensor, second: Tensor
    ) -> tuple[Tensor, list, list]:
        """Each row's log-probability, its gradient and its Hessian by (linear score, log second
        parameter).
        """
        inputs = [score.detach().requires_grad_()]
        if self.response.second:
            inputs.append(second.expand(len(y)).clone().requires_grad_())
        with torch.enable_grad():
            log_prob = self.response.log_prob(y, inputs[0], inputs[-1])
            gradient = torch.autograd.grad(log_prob.sum(), inputs, create_graph=True)
            hessian = [
                torch.autograd.grad(
                    g.sum(), inputs, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                for g in gradient
            ]
        return log_prob.detach(), [g.detach() for g in gradient], hessian


def fit_linear(
    family: str,
    columns: Columns,
    observed: Observations,
    *,
    response: str | None = None,
    progress: Progress | None = None,
) -> RegressionFit:
    """Fit a response to columns by maximum likelihood.

    Args:
        family: "bernoulli", "poisson", "normal" or "negative_binomial".
        columns: the columns of the rows in `observed`.
        observed: the responses (n) and their frequencies.
        response: the name of the response, for the table.
        progress: called before each step with (step, log-likelihood, Newton decrement).

    Raises: ValueError naming the first response outside the family's support, or a column that
        others determine.
    """
    kind = RESPONSES[family]
    require_support(observed, kind.inside, kind.support, family)
    _require_varying(observed.values, family)
    columns = columns.orthogonal()
    if family == "normal":
        problem = _standardised(kind, columns, observed)
        return _result(problem, _closed_form(problem), family, response, observed)
    problem = LinearLikelihood(kind, columns, observed.values, observed.weights)
    if family == "negative_binomial":
        return _of_dispersed(problem, response, observed, progress)
    return _result(
        problem,
        maximise(problem.sums, problem.start(), progress, problem.size),
        family,
        response,
        observed,
    )


def _of_dispersed(
    problem: LinearLikelihood,
    response: str | None,
    observed: Observations,
    progress: Progress | None,
) -> RegressionFit:
    """The highest of the peaks inside, or the Poisson limit where none is higher than that."""
    family, size = "negative_binomial", problem.size
    poisson = replace(problem, response=RESPONSES["poisson"])
    limit = maximise(poisson.sums, poisson.start(), progress, size)
    overdispersed = _overdispersed(poisson, limit.theta) or not limit.reached
    starts = _starts(problem, limit.theta, overdispersed)
    peaks = [maximise(problem.sums, start, progress, size) for start in starts]
    boundary = float(limit.sums.log_likelihood)
    tie = _TIE * (size * len(problem.y) + abs(boundary))
    peaks.sort(
        key=lambda end: float(end.sums.log_likelihood.nan_to_num(-torch.inf)) + tie * end.reached,
        reverse=True,
    )
    reached = [float(found.sums.log_likelihood) for found in peaks]
    # Whether the coefficients have an estimate does not depend on total_count; from a start far out
    # no search can tell.
    exists = _exists(poisson, limit) if limit.reached else None
    if overdispersed or (peaks and reached[0] > boundary + tie):
        fitted = _result(problem, peaks[0], family, response, observed, exists=exists)
    else:
        fitted = _result(poisson, limit, family, response, observed, boundary=True)
    return replace(
        fitted, starts=tuple(sorted([boundary, *reached], reverse=True)) if peaks else ()
    )


def _starts(problem: LinearLikelihood, coef: Tensor, overdispersed: bool) -> list[Tensor]:
    """Where the likelihood's profile along total_count has a peak among values from 0.01 to far
    above the means.

    With total_count held the likelihood is concave in the coefficients; of many rows some tell.
    Without more variation
    than Poisson's the largest value is no peak: the likelihood rises on to the limit.
    """
    step = max(1, len(problem.y) // _SOME)
    rows = slice(None, None, step)
    some = replace(
        problem,
        columns=problem.columns.taken(rows),
        y=problem.y[rows],
        weights=problem.weights[rows],
    )
    most = 100 * (1 + float((some.columns.x @ coef).max().clamp(max=50.0).exp()))
    profile = []
    for log_count in torch.linspace(math.log(most), math.log(0.01), _HELD, dtype=torch.float64):
        own = problem.response._replace(second=None, log_prob=partial(_with_count, log_count))
        found = maximise(replace(some, response=own).sums, coef, None, problem.size, _ROUGH)
        coef = found.theta
        profile.append((float(found.sums.log_likelihood), torch.cat([coef, log_count[None]])))
    value = [
        -math.inf if overdispersed else math.inf,
        *(height for height, _ in profile),
        -math.inf,
    ]
    peaks = [
        start for k, (_, start) in enumerate(profile) if value[k] <= value[k + 1] >= value[k + 2]
    ]
    return [problem.start(), *peaks] if overdispersed else peaks


def _standardised(kind: Response, columns: Columns, observed: Observations) -> LinearLikelihood:
    y = observed.values
    centre = y[0] if columns.intercept else torch.zeros((), dtype=torch.float64)
    unit = (y - centre).abs().max()
    return LinearLikelihood(
        kind, columns, (y - centre) / unit, observed.weights, float(centre), float(unit)
    )


def _closed_form(problem: LinearLikelihood) -> Optimum:
    """Least squares, and the root mean square of its residuals."""
    theta = problem.start()
    sums = problem.sums(theta)
    return Optimum(theta, sums, decrement_of(sums), 0, True, "converged")


def _require_varying(y: Tensor, family: str) -> None:
    """Counts may all be equal, but for 0; the other responses vary, or the estimate is at
    infinity.
    """
    first = float(y[0])
    if bool((y == first).all()) and (first == 0.0 or family in ("bernoulli", "normal")):
        raise ValueError(f"expected a response that varies, got {first:g} in every row")


def _overdispersed(poisson: LinearLikelihood, theta: Tensor) -> bool:
    """Whether the likelihood rises as 1 / total_count leaves 0: its slope there is sum((y - mean)^2
    - y) / 2.
    """
    fitted = (poisson.columns.x @ theta).exp()
    return float(poisson.weights @ ((poisson.y - fitted).square() - poisson.y)) > 0.0


def _result(
    problem: LinearLikelihood,
    found: Optimum,
    family: str,
    response: str | None,
    observed: Observations,
    boundary: bool = False,
    exists: bool | None = None,
) -> RegressionFit:
    kind = RESPONSES[family]
    p = problem.columns.count
    to_given = problem.columns.to_given * problem.unit
    coef = to_given @ found.theta[:p]
    if problem.columns.intercept:
        coef[0] += problem.centre
    inverse, information = cov.inverse(found.sums.information), "observed"
    exists = _exists(problem, found) if exists is None else exists
    scale = problem.unit * float(found.theta[-1].exp())
    exact = kind.second == "scale" and scale < _EXACT * float(observed.values.abs().max())
    converged = found.reached and exists and not exact
    if not converged:
        inverse = torch.full_like(inverse, torch.nan)
    elif observed.kind != "frequency":
        meat = cov.meat(problem.scores(found.theta), observed.weights, observed.kind)
        inverse, information = cov.sandwich(inverse, meat), "sandwich"
    params, jacobian = {"coef": coef}, to_given
    if problem.response.second:
        params[problem.response.second] = problem.unit * found.theta[p].exp()
        jacobian = torch.block_diag(to_given, params[problem.response.second])
    covariance = cov.transformed(inverse, jacobian)
    status = existence.verdict(found, exists, "of the coefficients", problem.size)
    if exact:
        status = (
            "no maximum: the response is fitted exactly, and the likelihood grows without "
            "bound towards scale = 0"
        )
    if boundary:
        params["total_count"] = torch.tensor(torch.inf, dtype=torch.float64)
        covariance = F.pad(covariance, (0, 1, 0, 1), value=torch.nan)
        limit = "total_count = inf, the counts vary no more than Poisson's do"
        status = (
            f"at the boundary of the parameter space: {limit}"
            if converged
            else f"{status}; {limit}"
        )
    rows = ResponseRows(kind.log_prob, kind.second)
    again = partial(
        search_again, rows, problem.columns, observed.values, observed.weights, params, found.steps
    )
    again = partial(again, weighted=observed.kind != "frequency")
    return RegressionFit(
        model=kind.title,
        discrete=family != "normal",
        params=params,
        covariance=covariance,
        log_likelihood=float(problem.log_likelihood(found.theta)),
        n=observed.n,
        df=p + (kind.second is not None),
        status=status,
        converged=converged,
        decrement=found.decrement,
        steps=found.steps,
        labels={"coef": (tuple(problem.columns.names),)},
        information=information,
        null_log_likelihood=_null_log_likelihood(problem, found, family, observed)
        if problem.columns.intercept
        else None,
        response=response,
        dropped=observed.dropped,
        log_likelihood_at=None if boundary else _AtParameters(problem),
        search=again if converged and not boundary else None,
    )


def _exists(problem: LinearLikelihood, found: Optimum) -> bool:
    """Whether the end of a search proves that the coefficients have a finite estimate."""
    p = problem.columns.count
    return existence.certified(
        found.decrement, cov.inverse(found.sums.information)[:p, :p], problem.columns, 1
    )


def _null_log_likelihood(
    problem: LinearLikelihood, found: Optimum, family: str, observed: Observations
) -> float:
    """The largest log-likelihood of the same family with a constant as the only column."""
    if problem.columns.count == 1:
        return float(found.sums.log_likelihood)
    alone = Columns.of(problem.columns.source[:, :0], [], intercept=True)
    return fit_linear(family, alone, observed).log_likelihood


class _AtParameters(LogLikelihood):
    """The log-likelihood as a function of the coefficients of the columns as given, and the second
    parameter.
    """

    def __init__(self, problem: LinearLikelihood) -> None:
        self.problem = problem

    def __call__(self, vector: Tensor) -> float:
        columns = self.problem.columns
        given = vector[: columns.count].clone()
        if columns.intercept:
            given[0] -= self.problem.centre
        coef = torch.linalg.solve(columns.to_given, given / self.problem.unit)
        second = vector[columns.count :] / self.problem.unit
        return float(self.problem.log_likelihood(torch.cat([coef, second.log()])))
