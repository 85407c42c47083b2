"""The verdict on a search, and the sentence that says it."""

from __future__ import annotations

import torch
from torch import Tensor

from nll.estimation.objective import MOST_INFORMATION
from nll.estimation.search.solution import Solution, runaways
from nll.estimation.search.surroundings import Surroundings
from nll.solvers.outcome import Status

# an eigenvalue of information of unit diagonal, for each parameter, that is rounding
_SINGULAR = 1e-14


def judge(solution: Solution, numbers: Tensor | None = None) -> tuple[Status, str]:
    """How the search ended, and a sentence on it; `numbers`: of the rows."""
    optimum, size, around = solution.optimum, solution.objective.layout.size, solution.around
    if optimum.decrement != optimum.decrement:
        return Status.NOT_FINITE, _not_finite(solution, numbers)
    if not size:
        return Status.CONVERGED, "converged: all parameters are fixed"
    if around is not None and (around.limits or around.endless or around.flat or around.rising):
        return _beyond(solution, around)
    if not optimum.reached:
        return optimum.verdict, optimum.status
    if size > MOST_INFORMATION:
        return Status.CONVERGED, (
            f"converged: the Newton steps reached a maximum; no standard errors for {size} "
            f"parameters"
        )
    flat = flat_direction(solution)
    if flat is not None:
        return (
            Status.NOT_IDENTIFIED,
            f"flat direction: the data do not identify {flat}; no standard errors",
        )
    status = "converged: the Newton steps reached a maximum"
    if solution.objective.by_products:
        status += f", by conjugate gradients for {size} parameters"
    return Status.CONVERGED, status


def _beyond(solution: Solution, around: Surroundings) -> tuple[Status, str]:
    """What is said where the likelihood does not fall on every side."""
    names = solution.objective.layout.describe()
    endless = [away.label for away in runaways(solution) if away.limit.endless]
    if endless:
        return (
            Status.UNBOUNDED,
            f"no maximum: the likelihood grows without bound towards {', '.join(endless)}",
        )
    if around.endless:
        return (
            Status.UNBOUNDED,
            "no maximum: the likelihood still rises far out along the last step",
        )
    gone = ", ".join(away.label for away in runaways(solution))
    if around.rising:
        return Status.UNBOUNDED, (
            f"no maximum within {solution.optimum.steps} Newton steps: the likelihood still "
            f"rises{f' towards {gone}' if gone else ''}"
        )
    flat = [names[p] for p in around.flat]
    if flat and not around.limits:
        combination = flat_direction(solution) or " and ".join(flat)
        return (
            Status.NOT_IDENTIFIED,
            f"flat direction: the data do not identify {combination}; no standard errors",
        )
    if not around.limits:
        return Status.MAX_STEPS, solution.optimum.status
    if not all(limit.alone for limit in around.limits):
        return Status.UNBOUNDED, f"no maximum: the likelihood still rises towards {gone}"
    if around.unidentified:
        rest = " and ".join(names[p] for p in around.unidentified)
        return Status.UNBOUNDED, (
            f"no maximum: the likelihood rises towards {gone}, where the data do not identify "
            f"{rest}"
        )
    return (
        Status.BOUNDARY,
        f"at the boundary of the parameter space: {gone}; no standard error there",
    )


def _not_finite(solution: Solution, numbers: Tensor | None) -> str:
    observations = solution.objective.observations
    rows = observations.log_probabilities(solution.theta)
    wrong = (~rows.isfinite() & (observations.weights != 0)).nonzero()
    if len(wrong):
        at = int(wrong[0])
        row = at if numbers is None else int(numbers[at])
        return (
            f"not finite: the log-probability of row {row} is {float(rows[at]):g} "
            f"at the starting values"
        )
    return "not finite: the score or the information at the starting values"


def flat_direction(solution: Solution) -> str | None:
    """The combination of free numbers along which the likelihood has no curvature, by name; None:
    there is none.
    """
    information = solution.optimum.sums.information
    diagonal = information.diagonal()
    names = solution.objective.layout.describe()
    unknown = [name for name, d in zip(names, diagonal.tolist(), strict=True) if not d > 0.0]
    if unknown:
        return " and ".join(unknown)
    unit = diagonal.rsqrt()
    values, vectors = torch.linalg.eigh(unit[:, None] * information * unit)
    if float(values[0]) > _SINGULAR * len(unit):
        return None
    jacobian = solution.jacobian
    moved = jacobian @ (vectors[:, 0] * unit)
    # of what one unit of information of each number would move it
    share = moved.abs() / (jacobian.abs() @ unit)
    direction = moved / moved[share.argmax()]
    names = solution.objective.layout.names
    terms = [
        (w, n)
        for w, s, n in zip(direction.tolist(), share.tolist(), names, strict=True)
        if s > 1e-3
    ]
    return " ".join(_term(i, weight, name) for i, (weight, name) in enumerate(terms))


def _term(i: int, weight: float, name: str) -> str:
    sign = ("- " if weight < 0 else "+ ") if i else ("-" if weight < 0 else "")
    size = "" if abs(abs(weight) - 1) < 5e-4 else f"{abs(weight):.3g} "
    return f"{sign}{size}{name}"
