"""From the log-likelihood of choices to the fit."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from nll.estimation.inference import covariance as cov
from nll.regression import existence, ridge
from nll.regression.choice.objective import ConditionalLikelihood
from nll.regression.choice.separation import Existence, certified, diagnose
from nll.regression.covariance import CovarianceOptions, estimate_covariance
from nll.regression.objective import in_data_units, solution_at
from nll.regression.result import RegressionFit
from nll.regression.separation import Limit
from nll.solvers.outcome import Optimum, Progress, Status
from nll.solvers.trust_region import TOLERANCE, maximise


def fit_choices(
    likelihood: ConditionalLikelihood,
    options: CovarianceOptions,
    *,
    response: str | None = None,
    baseline: str | None = None,
    progress: Progress | None = None,
) -> RegressionFit:
    """Maximise the likelihood; the fit has the coefficients of the columns as the user has them.

    Args:
        likelihood: of the choices.
        options: the covariance, the kind of the weights and the clusters of the cases.
        response: its name.
        baseline: the alternative without a constant.
        progress: called before each step with (step, log-likelihood, Newton decrement).
    """
    columns, plain = likelihood.columns, replace(likelihood, penalty=None)
    start = torch.zeros(columns.count, dtype=torch.float64)
    optimum = maximise(likelihood.sums, start, progress, likelihood.unit)
    optimum, inverse, exists = _examined(likelihood, plain, optimum)
    converged = optimum.reached and exists.proved
    covariance, information = torch.full_like(inverse, torch.nan), likelihood.information_name
    if converged:
        covariance, information = estimate_covariance(likelihood, optimum.theta, inverse, options)
    coef, covariance = _in_user_units(columns.to_data, optimum.theta, covariance, exists.limit)
    verdict, status = _ending(likelihood, optimum, exists)
    params = {"coef": coef}
    inside = in_data_units(plain, (columns.count,), columns.to_data)
    search = partial(solution_at, inside, params, optimum.steps, options.weighted)
    return RegressionFit(
        model="Conditional logit",
        discrete=True,
        params=params,
        covariance=covariance,
        log_likelihood=float(plain.sums(optimum.theta).log_likelihood),
        n=_count(likelihood, options.weights),
        df=columns.count,
        status=status,
        converged=converged,
        verdict=verdict,
        decrement=optimum.decrement,
        steps=optimum.steps,
        labels={"coef": (tuple(columns.names),)},
        information=information,
        null_log_likelihood=float(plain.sums(start).log_likelihood),
        response=response,
        baseline=baseline,
        search=search if converged and likelihood.penalty is None else None,
    )


def _examined(
    likelihood: ConditionalLikelihood, plain: ConditionalLikelihood, optimum: Optimum
) -> tuple[Optimum, Tensor, Existence]:
    inverse = cov.inverse(optimum.sums.information)
    proved = certified(likelihood, optimum.decrement, inverse)
    if likelihood.penalty is None:
        exists = Existence(True) if proved else diagnose(likelihood)
        return optimum, inverse, exists._replace(proved=exists.proved and _is_known(inverse))
    proved = proved or not _is_known(inverse)
    # Where columns are constant or collinear the penalty alone decides along what they leave flat.
    information = likelihood.information(optimum.theta)
    theta, settled = ridge.settled(optimum.theta, information, likelihood.penalty, 1.0)
    before, after = (float(likelihood.sums(at).log_likelihood) for at in (optimum.theta, theta))
    if after >= before - TOLERANCE * likelihood.unit:  # otherwise it is nearly flat only
        optimum, inverse = optimum._replace(theta=theta), settled
    return optimum, inverse, Existence(proved and _is_known(inverse))


def _is_known(inverse: Tensor) -> bool:
    return not bool(inverse.isnan().any())


def _in_user_units(
    to_data: Tensor, theta: Tensor, covariance: Tensor, limit: Limit | None
) -> tuple[Tensor, Tensor]:
    """Return coefficients and covariance of the columns as the user has them.

    Where the choices are separated, coefficients that have a limit have that; the others have no
    standard error.
    """
    if limit is None:
        return to_data @ theta, cov.transformed(covariance, to_data)
    coef, covariance = limit.coefficients((to_data @ theta)[None], to_data)
    return coef[0], covariance


def _count(likelihood: ConditionalLikelihood, kind: str) -> float:
    weights = likelihood.weights
    return float(torch.count_nonzero(weights) if kind == "sampling" else weights.sum())


def _ending(
    likelihood: ConditionalLikelihood, optimum: Optimum, exists: Existence
) -> tuple[Status, str]:
    if exists.direction is not None:
        moved = likelihood.columns.to_data @ exists.direction
        sizes = zip(likelihood.columns.names, moved.tolist(), strict=True)
        along = ", ".join(f"{size:+.3g} {name}" for name, size in sizes if size)
        return Status.SEPARATED, (
            "no finite estimate: the choices are separated, and the likelihood keeps rising along "
            f"{along}; the log-likelihood rises towards {exists.supremum:.12g}"
        )
    if likelihood.penalty is None and optimum.reached and not exists.proved:
        return Status.NOT_IDENTIFIED, "not decided whether a finite maximum exists"
    if likelihood.penalty is None and not optimum.reached:
        return existence.outcome(optimum, True), optimum.status
    sentence = existence.verdict(
        optimum, exists.proved, "that the penalty leaves free", likelihood.unit
    )
    return existence.outcome(optimum, exists.proved, likelihood.unit), sentence
