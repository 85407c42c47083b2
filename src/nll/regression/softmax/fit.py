"""Softmax regression: the maximum of its likelihood, and what is to be said of it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nll.data.classes import label
from nll.data.prefetch import blocks
from nll.estimation.inference import covariance as cov
from nll.estimation.likelihood import LogLikelihood
from nll.estimation.objective import MANY_PARAMETERS, MOST_INFORMATION, Problem
from nll.regression import existence, ridge, separation
from nll.regression.after.predictions import Predictor
from nll.regression.design_matrix import Columns, Frame, Held
from nll.regression.refit import SoftmaxRows, search_again
from nll.regression.result import RegressionFit
from nll.regression.softmax import robust
from nll.regression.softmax.firth import FirthLikelihood, FirthProblem
from nll.regression.softmax.objective import InMemory, SoftmaxLikelihood
from nll.regression.softmax.set_valued import SetValued
from nll.regression.softmax.solver import Searched, search
from nll.regression.softmax.sparse import SparseColumns, SparseLikelihood
from nll.solvers.outcome import Optimum, Progress
from nll.solvers.trust_region import TOLERANCE, maximise

_MOST_DENSE = 1 << 24  # numbers of a sparse design that are written out to search again
_MOST_SETTLED = 1024  # parameters whose information's eigenvectors are formed


def fit_softmax(
    columns: Held,
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
    wish: robust.CovarianceOptions | None = None,
    response: Any = None,
    progress: Progress | None = None,
) -> RegressionFit:
    """Fit the labels 0 .. K - 1 to columns by maximum likelihood.

    Args:
        columns: (n, p), as `Columns.of` prepares them.
        codes: (n) int64, the class of each row.
        weights: (n) float64 frequencies above 0.
        classes: the K names of the classes.
        baseline: the code of the class that the others are compared with.
        alpha: the ridge penalty of `SoftmaxRegression`.
        offset: (n, K), added to the scores, by the codes of the classes.
        allowed: (n, K), the classes that a row may have, by their codes; None: its own only.
        firth: whether the likelihood is penalised with the root of the information's determinant.
        standard_errors: whether the information is formed where the steps do not need it.
        wish: which covariance; None: the inverse information.
        response: the name of the response, for the table.
        progress: called before each step with (step, log-likelihood, Newton decrement).

    Raises: ValueError for a single class, or, without a penalty, a column that the others
        determine.
    """
    if len(classes) < 2:
        raise ValueError(f"expected at least two classes, got one class: {', '.join(classes)}")
    if alpha == 0.0:
        columns = columns.independent()
    order = torch.tensor([baseline, *(k for k in range(len(classes)) if k != baseline)])
    data = (columns, order.argsort()[codes] if baseline else codes, weights, len(classes))
    offset = None if offset is None else offset[:, order].contiguous()
    if firth:
        problem = FirthLikelihood(*data, offset=offset)
        why = "Newton steps, then slopes (the steps tell the penalty's curvature)"
        optimum = problem.search(progress)
        found = Searched(optimum, cov.inverse(optimum.sums.information), solver=why)
    else:
        kind = SparseLikelihood if isinstance(columns, SparseColumns) else InMemory
        problem = kind(*data, alpha, offset)
        if allowed is not None and bool((allowed.sum(1) > 1).any()):
            problem = SetValued(*data, alpha, offset, allowed=allowed[:, order])
        found = search(problem, progress, standard_errors)
    wish = wish or robust.CovarianceOptions()
    fitted = result(problem, found, [classes[k] for k in order], response, wish)
    kind = FirthProblem if firth else Problem, wish.weights != "frequency"
    whole = isinstance(columns, Columns) or columns.length * columns.count <= _MOST_DENSE
    fitted = predicting(fitted, columns, classes, baseline)
    if isinstance(problem, SetValued):
        return replace(fitted, null_log_likelihood=None)
    again = partial(
        search_again,
        SoftmaxRows(),
        columns,
        problem.labels,
        weights,
        fitted.params,
        fitted.steps,
        *kind,
    )
    return replace(
        fitted,
        log_likelihood_at=_AtCoefficients(problem),
        search=again if fitted.converged and alpha == 0.0 and offset is None and whole else None,
        null_log_likelihood=fitted.null_log_likelihood if offset is None else None,
    )


def predicting(
    fitted: RegressionFit, columns: Frame, classes: list[str], baseline: int
) -> RegressionFit:
    """The same with what it predicts for new rows; the classes in their own order."""
    names, coef = tuple(columns.names), fitted.params["coef"]
    predictor = Predictor(
        names, columns.intercept, tuple(classes), baseline, coef, fitted.covariance
    )
    return replace(fitted, classes=tuple(classes), predictor=predictor)


def code_of(baseline: Any, classes: list[Any]) -> int:
    """The code of a class given as its value or as a reader writes it; None: the first."""
    if baseline is None:
        return 0
    if np.ndim(baseline) > 0:
        raise ValueError(
            f"expected baseline to be one of {', '.join(map(label, classes))}, got {baseline}"
        )
    for same in (lambda value: value == baseline, lambda value: label(value) == str(baseline)):
        found = [code for code, value in enumerate(classes) if same(value)]
        if found:
            return found[0]
    raise ValueError(
        f"expected baseline to be one of {', '.join(map(label, classes))}, got {baseline}"
    )


def result(
    problem: SoftmaxLikelihood,
    searched: Searched,
    classes: list[str],
    response: Any,
    wish: robust.CovarianceOptions,
) -> RegressionFit:
    """The fit of classes, the baseline's first, whose search has ended."""
    searched = _settled(problem, searched)
    found, inverse, _, solver = searched
    columns, k = problem.columns, problem.classes - 1
    exists, judged = _exists(problem, searched, classes)
    converged = found.reached and exists
    covariance = torch.full((1, 1), torch.nan, dtype=torch.float64).expand(
        problem.size, problem.size
    )
    information = "observed" if problem.alpha == 0.0 else f"penalised, alpha = {problem.alpha:g}"
    firth = isinstance(problem, FirthLikelihood)
    information = "observed, at Firth's estimate" if firth else information
    if converged and inverse is not None:
        if not wish.plain:
            inverse, information = robust.sandwich(problem, found.theta, inverse, wish)
        elif problem.alpha > 0.0:
            # the spread of the penalised estimate: H^-1 I H^-1 with H = I + penalty
            inverse = cov.sandwich(inverse, problem.information(found.theta))
        covariance = cov.transformed_by_block(inverse, columns.to_given)
    coef = found.theta.reshape(k, -1) @ columns.to_given.T
    if judged.limit is not None:
        coef, covariance = separation.with_limits(judged.limit, coef, columns.to_given)
    params = {"coef": coef}
    return RegressionFit(
        model="Softmax regression",
        discrete=True,
        params=params,
        covariance=covariance,
        log_likelihood=float(
            found.sums.log_likelihood
            if not (problem.alpha or firth)
            else problem.log_likelihood(found.theta)
        ),
        n=float(problem.length if wish.weights == "sampling" else problem.counts.sum()),
        df=k * columns.count,
        status=_status(problem, found, exists, judged, inverse is not None, classes),
        converged=converged,
        decrement=found.decrement,
        steps=found.steps,
        labels={"coef": (tuple(classes[1:]), tuple(columns.names))},
        information=information,
        solver=solver,
        null_log_likelihood=problem.null_log_likelihood(),
        response=None if response is None else str(response),
        baseline=classes[0],
        separation=judged.separation,
    )


def _settled(problem: SoftmaxLikelihood, searched: Searched) -> Searched:
    """The same, at the very maximum of a ridge penalty's where columns are constant or
    collinear.
    """
    found, inverse = searched.optimum, searched.inverse
    if problem.alpha == 0.0 or inverse is None or not found.reached or problem.size > _MOST_SETTLED:
        return searched
    information = problem.information(found.theta)
    theta, inverse = ridge.settled(found.theta, information, problem.quadratic, problem.alpha)
    before, after = (float(problem.value(at)[0]) for at in (found.theta, theta))
    if after < before - TOLERANCE * problem.unit:  # nearly flat, as where classes are separated
        return searched
    return searched._replace(optimum=found._replace(theta=theta), inverse=inverse)


def _exists(
    problem: SoftmaxLikelihood, searched: Searched, classes: list[str]
) -> tuple[bool, separation.Judged]:
    """Whether a finite maximum exists: by the penalty, by a certificate, or by a linear programme
    and what it found.
    """
    found, inverse, longest, _ = searched
    known = inverse is None or not bool(inverse.isnan().any())
    if problem.alpha > 0.0 or isinstance(problem, FirthLikelihood):
        return known, separation.Judged()
    scores = problem.classes - 1
    if isinstance(problem, SetValued):
        return inverse is not None and problem.certified(found, inverse), separation.Judged()
    if inverse is not None:
        exists = existence.certified(found.decrement, inverse, problem.columns, scores)
    else:
        assert longest is not None
        exists = existence.certified_by_bound(found.decrement, longest, problem.columns, scores)
    if exists or problem.size > MOST_INFORMATION:
        return exists, separation.Judged()
    judged = separation.judge(
        problem, classes, lambda left: maximise(left.sums, left.start(), None, left.unit)
    )
    return judged.overlap and known, judged


class _AtCoefficients(LogLikelihood):
    """The log-likelihood as a function of the coefficients of the columns as given."""

    def __init__(self, problem: InMemory) -> None:
        self.problem = problem

    def __call__(self, vector: Tensor) -> float:
        return float(self.problem.log_likelihood(self._standardised(vector)))

    def along(self, vector: Tensor, index: int, steps: Tensor) -> Tensor:
        """Move one class's score only: its log-sum-exp with that of the other classes, found
        once.
        """
        problem = self.problem
        k, column = divmod(index, problem.columns.count)
        theta, x = self._standardised(vector), problem.columns.given(column)
        total = torch.zeros(len(steps), dtype=torch.float64)
        for rows in blocks(len(x), len(steps) + problem.classes):
            scores = problem.scores(rows, theta)
            labels = problem.labels[rows]
            own = scores.gather(1, labels[:, None])
            rest = torch.cat([scores[:, : k + 1], scores[:, k + 2 :]], 1).logsumexp(1, keepdim=True)
            change = x[rows, None] * steps
            log_p = (
                own
                + (labels == k + 1)[:, None] * change
                - torch.logaddexp(rest, scores[:, k + 1, None] + change)
            )
            total += problem.weights[rows] @ log_p
        return total

    def _standardised(self, vector: Tensor) -> Tensor:
        coef = vector.reshape(self.problem.classes - 1, -1)
        return torch.linalg.solve(self.problem.columns.to_given, coef.T).T.reshape(-1)


def _has_maximum(problem: InMemory | None, classes: list[str]) -> bool:
    if problem is None:
        return False
    return _exists(problem, search(problem), classes)[0]


def _status(
    problem: SoftmaxLikelihood,
    found: Optimum,
    exists: bool,
    judged: separation.Judged,
    informed: bool,
    classes: list[str],
) -> str:
    if judged.separation is not None:
        return judged.separation.sentence()
    if isinstance(problem, SetValued) and exists and found.reached:
        return problem.verdict(problem.alpha > 0.0 or _has_maximum(problem.single(), classes))
    verdict = existence.verdict(found, exists, "that separates classes", problem.unit)
    if exists and found.reached and problem.size > MANY_PARAMETERS:
        verdict += f", by conjugate gradients for {problem.size} parameters"
        verdict += "" if informed else "; no standard errors"
    return verdict
