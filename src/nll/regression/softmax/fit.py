"""Softmax regression: from the columns and classes to the fit."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nll.data.classes import label
from nll.estimation.inference import covariance as cov
from nll.estimation.objective import MANY_PARAMETERS, MOST_INFORMATION
from nll.estimation.search.solution import AtParameters
from nll.regression import existence, ridge
from nll.regression.after.influence import Influence, influence
from nll.regression.after.predictions import Predictor
from nll.regression.contrasts import Classes
from nll.regression.covariance import CovarianceOptions, estimate_covariance
from nll.regression.design_matrix import Response, StoredColumns
from nll.regression.objective import solution_at
from nll.regression.result import RegressionFit
from nll.regression.softmax.firth import FirthLikelihood
from nll.regression.softmax.objective import InMemory, SoftmaxLikelihood, logits
from nll.regression.softmax.separation import Judged, judge
from nll.regression.softmax.set_valued import SetValued
from nll.regression.softmax.solver import Searched, search
from nll.solvers.outcome import Optimum, Progress, Status
from nll.solvers.trust_region import TOLERANCE, decrement_of, maximise

_AT_MAXIMUM = 1e-4  # a decrement
_MOST_SETTLED = 1024  # parameters whose information's eigenvectors are formed


def fit_softmax(
    columns: StoredColumns,
    codes: Tensor,
    weights: Tensor,
    classes: list[str],
    *,
    baseline: int = 0,
    alpha: float = 0.0,
    firth: bool = False,
    offset: Tensor | None = None,
    allowed: Tensor | None = None,
    standard_errors: bool = True,
    covariance: CovarianceOptions | None = None,
    response: Any = None,
    progress: Progress | None = None,
) -> RegressionFit:
    """Fit the labels 0 .. K - 1 to columns by maximum likelihood.

    Args:
        columns: (n, p), as `Columns.of` prepares them.
        codes: (n) int64, the class of each row.
        weights: (n) float64 frequencies above 0.
        classes: the K names of the classes.
        baseline: the code of the reference class.
        alpha: the ridge penalty of `SoftmaxRegression`.
        firth: whether the likelihood is penalised with the root of the information's determinant.
        offset: (n, K), added to the linear predictors, in the order of the codes.
        allowed: (n, K), the classes that a row may have, by their codes; None: its own only.
        standard_errors: whether the information is formed where the steps do not need it.
        covariance: which covariance; None: the inverse information.
        response: the name of the response, for the table.
        progress: called before each step with (step, log-likelihood, Newton decrement).

    Raises: ValueError for a single class, or, without a penalty, a column that the others
        determine.
    """
    if len(classes) < 2:
        raise ValueError(f"expected at least two classes, got one class: {', '.join(classes)}")
    if alpha == 0.0:
        columns = columns.independent()
    coded = Classes(tuple(classes), baseline)
    if offset is not None:
        offset = offset[:, coded.order].contiguous()
    rows = Response(coded.numbers(codes), weights, offset=offset)
    if firth:
        objective = FirthLikelihood(columns, rows, len(classes))
    elif allowed is not None and bool((allowed.sum(1) > 1).any()):
        objective = SetValued(columns, rows, alpha, allowed=allowed[:, coded.order])
    else:
        objective = InMemory(columns, rows, len(classes), alpha)
    searched = search(objective, progress, standard_errors)
    return conclude(objective, searched, coded, response, covariance or CovarianceOptions())


def influence_on(objective: InMemory, coef: Tensor, names: tuple[str, ...]) -> Influence:
    """Return the rows' influence on coefficients (K - 1, p) of the columns as given.

    Raises: ValueError where the likelihood has no maximum there.
    """
    columns = objective.columns
    theta = torch.linalg.solve_triangular(columns.to_data, coef.T, upper=True).T
    sums = objective.sums(theta.reshape(-1))
    if decrement_of(sums) > _AT_MAXIMUM * objective.unit:
        raise ValueError(
            "expected the rows, classes, weights and offset of the fit, got others: "
            "this is no maximum"
        )

    def probabilities(rows: slice) -> Tensor:
        return logits(objective.rows(rows), theta).softmax(1)

    inverse = cov.inverse(sums.information)
    labels, weights = objective.labels, objective.weights
    return influence(columns, labels, weights, probabilities, inverse, names)


def code_of(baseline: Any, classes: list[Any]) -> int:
    """Return the code of a class given as its value or as a reader writes it; None: the first."""
    if baseline is None:
        return 0
    known = ", ".join(map(label, classes))
    if np.ndim(baseline) == 0:
        for same in (lambda value: value == baseline, lambda value: label(value) == str(baseline)):
            for code, value in enumerate(classes):
                if same(value):
                    return code
    raise ValueError(f"expected baseline to be one of {known}, got {baseline}")


def conclude(
    objective: SoftmaxLikelihood,
    searched: Searched,
    classes: Classes,
    response: Any,
    options: CovarianceOptions,
) -> RegressionFit:
    """Return the fit of a likelihood whose search has ended."""
    searched = _settled(objective, searched)
    optimum, columns = searched.optimum, objective.columns
    exists, judged = _existence(objective, searched, classes)
    converged = optimum.reached and exists
    inverse = searched.inverse if converged else None
    covariance, information = _covariance(objective, optimum.theta, inverse, options)
    coef = objective.coef(optimum.theta) @ columns.to_data.T
    if judged.limit is not None:
        coef, covariance = judged.limit.coefficients(coef, columns.to_data)
    verdict, status = _status(objective, searched, exists, judged, classes)
    names = tuple(columns.names)
    params, inside, refit = {"coef": coef}, objective.in_data_units(), None
    if converged and inside is not None and not objective.ridge:
        refit = partial(solution_at, inside, params, optimum.steps, options.weighted)
    return RegressionFit(
        model="Softmax regression",
        discrete=True,
        params=params,
        covariance=covariance,
        log_likelihood=_log_likelihood(objective, optimum),
        n=float(objective.length if options.weights == "sampling" else objective.counts.sum()),
        df=objective.size,
        status=status,
        converged=converged,
        verdict=verdict,
        decrement=optimum.decrement,
        steps=optimum.steps,
        labels={"coef": (classes.baseline_first[1:], names)},
        information=information,
        solver=searched.solver,
        null_log_likelihood=objective.null_log_likelihood(),
        response=None if response is None else str(response),
        dropped=objective.dropped,
        baseline=classes.names[classes.baseline],
        classes=classes.names,
        predictor=Predictor(names, columns.intercept, *classes, coef, covariance),
        separation=judged.separation,
        log_likelihood_at=None if inside is None else AtParameters(inside),
        search=refit,
    )


def _log_likelihood(objective: SoftmaxLikelihood, optimum: Optimum) -> float:
    if objective.penalised:  # the sums have the penalty
        return float(objective.log_likelihood(optimum.theta))
    return float(optimum.sums.log_likelihood)


def _covariance(
    objective: SoftmaxLikelihood,
    theta: Tensor,
    inverse: Tensor | None,
    options: CovarianceOptions,
) -> tuple[Tensor, str]:
    """Return the covariance of the coefficients of the columns as given, and its name."""
    if inverse is None:
        unknown = torch.full((1, 1), torch.nan, dtype=torch.float64)
        return unknown.expand(objective.size, objective.size), objective.information_name
    covariance, name = estimate_covariance(objective, theta, inverse, options)
    return cov.transformed_by_block(covariance, objective.columns.to_data), name


def _settled(objective: SoftmaxLikelihood, searched: Searched) -> Searched:
    """Move to the very maximum of a ridge penalty's where columns are constant or collinear."""
    optimum, inverse = searched.optimum, searched.inverse
    if not objective.alpha or inverse is None or not optimum.reached:
        return searched
    if objective.size > _MOST_SETTLED:
        return searched
    information = objective.information(optimum.theta)
    theta, inverse = ridge.settled(optimum.theta, information, objective.quadratic, objective.alpha)
    before, after = (float(objective.value(at)[0]) for at in (optimum.theta, theta))
    if after < before - TOLERANCE * objective.unit:  # nearly flat, as where classes are separated
        return searched
    return searched._replace(optimum=optimum._replace(theta=theta), inverse=inverse)


def _existence(
    objective: SoftmaxLikelihood, searched: Searched, classes: Classes
) -> tuple[bool, Judged]:
    """Whether a finite maximum exists: by the penalty, by a certificate, or by linear programmes
    and their result.
    """
    optimum, inverse, longest, _ = searched
    regular = inverse is None or not bool(inverse.isnan().any())
    if objective.penalised:
        return regular, Judged()
    exists = objective.certified(optimum, inverse, longest)
    if exists or not objective.concave or objective.size > MOST_INFORMATION:
        return exists, Judged()
    judged = judge(
        objective,
        classes.baseline_first,
        lambda rest: maximise(rest.sums, rest.start(), None, rest.unit),
    )
    return judged.overlap and regular, judged


def _status(
    objective: SoftmaxLikelihood,
    searched: Searched,
    exists: bool,
    judged: Judged,
    classes: Classes,
) -> tuple[Status, str]:
    if judged.separation is not None:
        return Status.SEPARATED, judged.separation.sentence()
    status = existence.outcome(searched.optimum, exists, objective.unit)
    sentence = existence.verdict(searched.optimum, exists, "that separates classes", objective.unit)
    if status is Status.UNBOUNDED:
        return Status.SEPARATED, sentence
    if status is Status.CONVERGED and not objective.concave:
        return status, _local_maximum(objective.penalised or _has_maximum(objective, classes))
    if status is Status.CONVERGED and objective.size > MANY_PARAMETERS:
        sentence += f", by conjugate gradients for {objective.size} parameters"
        sentence += "" if searched.inverse is not None else "; no standard errors"
    return status, sentence


def _has_maximum(objective: SoftmaxLikelihood, classes: Classes) -> bool:
    bounding = objective.bounding()
    return bounding is not None and _existence(bounding, search(bounding), classes)[0]


def _local_maximum(bounded: bool) -> str:
    end = "converged: a finite maximum exists, and the Newton steps reached one"
    if not bounded:
        end = "converged: the Newton steps reached a maximum, which may not be the largest"
    return f"{end}; the likelihood of sets of classes may have several"
