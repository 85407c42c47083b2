"""Regression of a response whose distribution has one parameter that is linear in the columns.

A second parameter is estimated as its logarithm and reported on its own scale (delta method).
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nll.data.observations import Observations, require_support
from nll.estimation.inference import covariance as cov
from nll.estimation.search.solution import AtParameters
from nll.regression import existence
from nll.regression.covariance import CovarianceOptions, estimate_covariance
from nll.regression.design_matrix import Columns
from nll.regression.glm.responses import RESPONSES, LinearLikelihood, Response
from nll.regression.objective import InDataUnits, in_data_units, solution_at
from nll.regression.result import RegressionFit
from nll.solvers.outcome import Optimum, Progress, Status
from nll.solvers.parameters import Params
from nll.solvers.trust_region import decrement_of, maximise

# A scale below this share of the largest response is rounding: the columns fit it exactly.
_EXACT = 16 * torch.finfo(torch.float64).eps
_COUNTS = 12  # values of total_count at which the profile is computed
_PROFILE_ROWS = 1 << 14  # rows that show where its peaks are
_PROFILE_DECREMENT = 1e-4
_TIE = 1e-11  # a gain, in units of a log-likelihood, that is rounding
_VARYING = ("bernoulli", "normal")
_POISSON = "total_count = inf, the counts vary no more than Poisson's do"


class _Maximum(NamedTuple):
    """Where the likelihood of a family is largest."""

    problem: LinearLikelihood
    optimum: Optimum
    exists: bool  # whether the coefficients have a finite estimate
    at_boundary: bool = False  # whether the second parameter is infinite
    exact: bool = False  # whether the columns fit the response
    starts: tuple[float, ...] = ()  # the log-likelihood that each start reached, best first

    @property
    def converged(self) -> bool:
        return self.optimum.reached and self.exists and not self.exact


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
    require_support(observed, RESPONSES[family].inside, RESPONSES[family].support, family)
    # Counts may all be equal, but for 0; the other responses vary, or the estimate is infinite.
    first = float(observed.values[0])
    if bool((observed.values == first).all()) and (first == 0.0 or family in _VARYING):
        raise ValueError(f"expected a response that varies, got {first:g} in every row")
    maximum = _maximise(family, columns.orthogonal(), observed, progress)
    return _conclude(family, maximum, observed, response)


def _maximise(
    family: str, columns: Columns, observed: Observations, progress: Progress | None = None
) -> _Maximum:
    problem = LinearLikelihood(RESPONSES[family], columns, observed.values, observed.weights)
    if family == "normal":
        return _normal(problem)
    if family == "negative_binomial":
        return _negative_binomial(problem, progress)
    optimum = maximise(problem.sums, problem.start(), progress, problem.tolerance_unit)
    return _Maximum(problem, optimum, _exists(problem, optimum))


def _exists(problem: LinearLikelihood, optimum: Optimum) -> bool:
    p = problem.columns.count
    inverse = cov.inverse(optimum.sums.information)[:p, :p]
    return existence.certified(optimum.decrement, inverse, problem.columns, 1)


def _normal(problem: LinearLikelihood) -> _Maximum:
    """Least squares, and the root mean square of its residuals."""
    y = problem.y
    centre = y[0] if problem.columns.intercept else torch.zeros((), dtype=torch.float64)
    unit = (y - centre).abs().max()
    problem = replace(problem, y=(y - centre) / unit, centre=float(centre), unit=float(unit))
    coef = problem.least_squares(problem.y)
    coef += problem.least_squares(problem.y - problem.columns.x @ coef)  # what rounding has left
    theta = problem.with_second(coef)
    sums = problem.sums(theta)
    optimum = Optimum(theta, sums, decrement_of(sums), 0, True, "converged")
    exact = problem.unit * float(theta[-1].exp()) < _EXACT * float(y.abs().max())
    return _Maximum(problem, optimum, _exists(problem, optimum), exact=exact)


def _negative_binomial(problem: LinearLikelihood, progress: Progress | None) -> _Maximum:
    """The highest of the peaks, or the Poisson limit where none is higher than that."""
    poisson, unit = replace(problem, response=RESPONSES["poisson"]), problem.tolerance_unit
    limit = maximise(poisson.sums, poisson.start(), progress, unit)
    # As 1 / total_count leaves 0 the log-likelihood has the derivative sum((y - mean)^2 - y) / 2.
    mean = (poisson.columns.x @ limit.theta).exp()
    excess = float(poisson.weights @ ((poisson.y - mean).square() - poisson.y))
    overdispersed = excess > 0.0 or not limit.reached
    starts = _profile_peaks(problem, limit.theta, overdispersed)
    peaks = [maximise(problem.sums, start, progress, unit) for start in starts]
    boundary = float(limit.sums.log_likelihood)
    tie = _TIE * (unit * len(problem.y) + abs(boundary))
    peaks.sort(
        key=lambda end: float(end.sums.log_likelihood.nan_to_num(-torch.inf)) + tie * end.reached,
        reverse=True,
    )
    heights = [float(end.sums.log_likelihood) for end in peaks]
    reached = tuple(sorted([boundary, *heights], reverse=True)) if peaks else ()
    # Whether the coefficients have an estimate does not depend on total_count; from a start far out
    # no search can tell.
    inside = overdispersed or (bool(peaks) and heights[0] > boundary + tie)
    best, optimum = (problem, peaks[0]) if inside else (poisson, limit)
    exists = _exists(poisson, limit) if limit.reached else _exists(best, optimum)
    return _Maximum(best, optimum, exists, at_boundary=not inside, starts=reached)


def _profile_peaks(problem: LinearLikelihood, coef: Tensor, overdispersed: bool) -> list[Tensor]:
    """Return where the profile along total_count has a peak, from 0.01 to far above the means.

    With total_count fixed the likelihood is concave in the coefficients; of many rows some are
    enough. Without more variation than Poisson's the largest value is no peak: the likelihood rises
    on to the limit.
    """
    rows = slice(None, None, max(1, len(problem.y) // _PROFILE_ROWS))
    y, weights, columns = problem.y[rows], problem.weights[rows], problem.columns.taken(rows)
    some = replace(problem, columns=columns, y=y, weights=weights)
    most = 100 * (1 + float((columns.x @ coef).max().clamp(max=50.0).exp()))
    points, heights = [], []
    for log_count in torch.linspace(math.log(most), math.log(0.01), _COUNTS, dtype=torch.float64):
        at_count, unit = replace(some, log_second=log_count), problem.tolerance_unit
        optimum = maximise(at_count.sums, coef, None, unit, _PROFILE_DECREMENT)
        coef = optimum.theta
        points.append(torch.cat([coef, log_count[None]]))
        heights.append(float(optimum.sums.log_likelihood))
    before = [-math.inf if overdispersed else math.inf, *heights]
    after = [*heights[1:], -math.inf]
    neighbours = zip(points, before, heights, after, strict=False)
    peaks = [point for point, low, height, high in neighbours if low <= height >= high]
    return [problem.start(), *peaks] if overdispersed else peaks


def _conclude(
    family: str, maximum: _Maximum, observed: Observations, response: str | None
) -> RegressionFit:
    problem, optimum, kind = maximum.problem, maximum.optimum, RESPONSES[family]
    params, covariance, information = _estimates(maximum, observed, kind)
    verdict, status = _ending(maximum)
    inside = None if maximum.at_boundary else _in_data_units(problem)
    search = None
    if maximum.converged and inside is not None:
        weighted = observed.kind != "frequency"
        search = partial(solution_at, inside, params, optimum.steps, weighted)
    return RegressionFit(
        model=kind.title,
        discrete=family != "normal",
        params=params,
        covariance=covariance,
        log_likelihood=float(problem.log_likelihood(optimum.theta)),
        n=observed.n,
        df=problem.columns.count + (kind.second is not None),
        status=status,
        converged=maximum.converged,
        verdict=verdict,
        decrement=optimum.decrement,
        steps=optimum.steps,
        labels={"coef": (tuple(problem.columns.names),)},
        information=information,
        null_log_likelihood=_null_log_likelihood(family, maximum, observed),
        response=response,
        dropped=observed.dropped,
        log_likelihood_at=None if inside is None else AtParameters(inside),
        search=search,
        starts=maximum.starts,
    )


def _in_data_units(problem: LinearLikelihood) -> InDataUnits:
    columns = problem.columns
    second = problem.response.second if problem.has_second else None
    shift = torch.zeros(columns.count + problem.has_second, dtype=torch.float64)
    if columns.intercept:
        shift[0] = problem.centre
    if problem.has_second:
        shift[-1] = math.log(problem.unit)
    to_data = columns.to_data * problem.unit
    return in_data_units(problem, (columns.count,), to_data, second, shift)


def _estimates(
    maximum: _Maximum, observed: Observations, kind: Response
) -> tuple[Params, Tensor, str]:
    problem, theta = maximum.problem, maximum.optimum.theta
    p, jacobian = problem.columns.count, problem.columns.to_data * problem.unit
    coef = jacobian @ theta[:p]
    if problem.columns.intercept:
        coef[0] += problem.centre
    params, information = {"coef": coef}, "observed"
    solver = cov.inverse(maximum.optimum.sums.information)
    if not maximum.converged:
        solver = torch.full_like(solver, torch.nan)
    else:
        options = CovarianceOptions(weights=observed.kind)
        solver, information = estimate_covariance(problem, theta, solver, options)
    if problem.has_second and kind.second:
        params[kind.second] = problem.unit * theta[p].exp()
        jacobian = torch.block_diag(jacobian, params[kind.second])
    covariance = cov.transformed(solver, jacobian)
    if maximum.at_boundary and kind.second:
        params[kind.second] = torch.tensor(math.inf, dtype=torch.float64)
        covariance = F.pad(covariance, (0, 1, 0, 1), value=torch.nan)
    return params, covariance, information


def _ending(maximum: _Maximum) -> tuple[Status, str]:
    if maximum.exact:
        return Status.UNBOUNDED, (
            "no maximum: the response is fitted exactly, and the likelihood grows without "
            "bound towards scale = 0"
        )
    if maximum.at_boundary and maximum.converged:
        return Status.BOUNDARY, f"at the boundary of the parameter space: {_POISSON}"
    optimum, exists, unit = maximum.optimum, maximum.exists, maximum.problem.tolerance_unit
    status = existence.verdict(optimum, exists, "of the coefficients", unit)
    if maximum.at_boundary:
        status = f"{status}; {_POISSON}"
    return existence.outcome(optimum, exists, unit), status


def _null_log_likelihood(family: str, maximum: _Maximum, observed: Observations) -> float | None:
    """Return the largest log-likelihood of the same family with a constant as the only column."""
    columns = maximum.problem.columns
    if not columns.intercept:
        return None
    if columns.count == 1:
        return float(maximum.optimum.sums.log_likelihood)
    alone = Columns.of(columns.source[:, :0], [], intercept=True)
    null = _maximise(family, alone.orthogonal(), observed)
    return float(null.problem.log_likelihood(null.optimum.theta))
