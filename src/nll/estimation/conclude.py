"""From where the likelihood is largest to a `Fit`: the only place where one is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from nll.data.classes import cluster_codes
from nll.data.observations import Observations
from nll.estimation import closed_form
from nll.estimation.closed_form import Estimate, FamilyLogLikelihood
from nll.estimation.inference import covariance as cov
from nll.estimation.objective import MOST_INFORMATION, maximise_fixed
from nll.estimation.options import FitOptions
from nll.estimation.result import Fit
from nll.estimation.search.solution import AtParameters, Solution, runaways
from nll.estimation.search.surroundings import Limit, Surroundings
from nll.estimation.search.verdict import judge
from nll.families.base import Family, Sample
from nll.families.registry import FAMILIES
from nll.solvers.outcome import Status
from nll.solvers.parameters import flatten, said

_EXTREME = 100  # powers of 2 of the data's unit, beyond which a covariance may leave float64
_ALL_EQUAL = (
    "no maximum: the data are all equal, and the likelihood grows without bound as the density "
    "narrows"
)


def conclude(
    model: str, observed: Observations, estimate: Estimate, sample: Sample | None, **details: Any
) -> Fit:
    """Return the result of any fit; `details` are the fields of `Fit` that depend on its kind."""
    labels = {}
    if observed.categories is not None:
        labels = dict.fromkeys(estimate.params, (observed.categories,))
    return Fit(
        model=model,
        params=estimate.params,
        covariance=estimate.covariance,
        log_likelihood=estimate.log_likelihood,
        n=observed.n,
        status=estimate.status,
        converged=estimate.verdict.ok,
        verdict=estimate.verdict,
        labels=labels,
        dropped=observed.dropped,
        sample=sample,
        **details,
    )


def without_maximum(sample: Sample, status: str = _ALL_EQUAL) -> Fit:
    """Return the result for data that let the likelihood grow without bound."""
    names = sample.family.parameters
    params = {name: torch.tensor(torch.nan, dtype=torch.float64) for name in names}
    covariance = torch.full((len(names), len(names)), torch.nan, dtype=torch.float64)
    estimate = Estimate(params, covariance, math.inf, Status.UNBOUNDED, status)
    return conclude(sample.family.name, sample.observed, estimate, sample, df=len(names))


def by_formula(sample: Sample, search: Callable[[], Solution] | None) -> Fit:
    """Return the result of a closed form; `search` finds the same maximum where that is needed."""
    family, sample = sample.family, replace(sample, by_formula=True)
    estimate = closed_form.estimate(sample)
    params, interval = estimate.params, None
    if family.interval is not None:
        interval = partial(family.interval, params, sample.observed.n)
    redundant = int(family.simplex)
    if "covariance_matrix" in params:  # symmetric
        columns = len(params["covariance_matrix"])
        redundant = columns * (columns - 1) // 2
    return conclude(
        family.name,
        sample.observed,
        estimate,
        sample,
        df=flatten(params).numel() - redundant,
        information=family.information,
        exact_interval=interval,
        log_likelihood_at=FamilyLogLikelihood(sample, params),
        search=search,
        supports=closed_form.supports_of(family, params),
    )


def by_search(
    model: str,
    solution: Solution,
    observed: Observations,
    options: FitOptions,
    sample: Sample | None = None,
) -> Fit:
    solution = replace(solution, weighted=observed.kind != "frequency")
    family = None if sample is None else sample.family
    verdict, status = _verdict(solution, observed, family)
    estimate, details = None, {}
    if sample is not None and verdict is not Status.OUTSIDE:
        solution, estimate = _limit(sample, solution, options)
    if estimate is None:
        covariance, information = _covariance(solution, observed, options, family)
        estimate = _inside(solution, covariance, verdict, status)
        at = AtParameters(solution.objective, solution.units, solution.density)
        details = {"information": information, "log_likelihood_at": at}
    layout = solution.objective.layout
    return conclude(
        model,
        observed,
        estimate,
        sample,
        df=layout.size,
        decrement=solution.optimum.decrement,
        steps=solution.optimum.steps,
        search=partial(replace, solution),  # the same, and it can be pickled
        supports={name: parameter.constraint for name, parameter in layout.parameters.items()},
        starts=solution.starts,
        **details,
    )


def _inside(solution: Solution, covariance: Tensor, verdict: Status, status: str) -> Estimate:
    """The estimate where the search ended, with diverged parameters at their boundaries."""
    params, divergent = solution.params, runaways(solution) if verdict.ok else []
    for away in divergent:
        params[away.name] = params[away.name].clone()
        if away.value == away.value:
            params[away.name].view(-1)[away.place] = away.value
    covariance = covariance if verdict.ok else torch.full_like(covariance, torch.nan)
    at = AtParameters(solution.objective, solution.units, solution.density)
    # that of the boundary, unless it is NaN
    value = max(solution.log_likelihood, at(flatten(params)) if divergent else -math.inf)
    extreme = abs(math.log2(solution.units.scale)) > _EXTREME
    if verdict.ok and extreme and not divergent and bool(covariance.isnan().any()):
        status += "; the covariance is beyond float64: rescale the data for standard errors"
    return Estimate(params, covariance, value, verdict, status)


# ---- Verdicts ------------------------------------------------------------------------------------


def _verdict(
    solution: Solution, observed: Observations, family: Family | None
) -> tuple[Status, str]:
    outside = _tied_outside(solution)
    if outside is not None:
        return Status.OUTSIDE, outside
    verdict, status = judge(solution, observed.numbers)
    if not verdict.ok or family is None:
        return verdict, status
    invalid = None if family.verdict is None else family.verdict(solution.params)
    if invalid is not None:
        return Status.NOT_IDENTIFIED, invalid
    if family.unbounded and verdict is Status.CONVERGED:
        status = f"{status}; {family.unbounded}"
    return verdict, status


def _tied_outside(solution: Solution) -> str | None:
    """Say which parameter has an invalid value from a function of the others."""
    for name in solution.objective.layout.tied:
        constraint = solution.objective.layout.parameters[name].constraint
        value = solution.params[name]
        if bool(value.isfinite().all()) and not bool(constraint.check(value).all()):
            return (
                f"outside of the parameter space: fixed[{name!r}] is {value.tolist()}, "
                f"expected {said(constraint)}"
            )
    return None


# ---- Covariances ---------------------------------------------------------------------------------


def _covariance(
    solution: Solution, observed: Observations, options: FitOptions, family: Family | None
) -> tuple[Tensor, str]:
    """Return the covariance of the flattened parameters and its name; NaN for those at a
    boundary.
    """
    if solution.objective.layout.size > MOST_INFORMATION:
        size = flatten(solution.params).numel()
        return torch.full((1, 1), torch.nan, dtype=torch.float64).expand(size, size), "none"
    kind = options.covariance if observed.kind == "frequency" else "sandwich"
    if options.clusters is None and kind == "expected":
        return _expected(solution, observed, family), kind
    jacobian = solution.jacobian
    unknown = torch.zeros(jacobian.shape[1], dtype=torch.bool)
    sharp = () if solution.around is None else solution.around.sharp
    for number in (*sharp, *(away.number for away in runaways(solution))):
        unknown[number] = True
    retained = (~unknown).nonzero()[:, 0]
    inverse = cov.inverse(solution.optimum.sums.information[retained[:, None], retained])
    free, name = inverse, kind
    if options.clusters is not None or kind != "observed":
        free, name = _empirical(solution, observed, options, retained, inverse, kind)
    covariance = cov.transformed(free, jacobian[:, retained])
    moved = (jacobian[:, unknown] != 0).any(1)  # by a number without a variance
    return covariance.masked_fill(moved | moved[:, None], torch.nan), name


def _empirical(
    solution: Solution,
    observed: Observations,
    options: FitOptions,
    retained: Tensor,
    inverse: Tensor,
    kind: str,
) -> tuple[Tensor, str]:
    """The covariance of the retained free numbers from the scores of the rows."""
    codes = None
    if options.clusters is not None:
        codes = cluster_codes(options.clusters, observed.given, observed.rows.numpy())
    scores = solution.objective.observations.scores(solution.theta)[:, retained]
    meat = cov.meat(scores, observed.weights, observed.kind, codes)
    if codes is None and kind == "opg":
        return cov.inverse(meat), "outer product of scores"
    name = "sandwich" if codes is None else f"sandwich, {int(codes.max()) + 1} clusters"
    return cov.sandwich(inverse, meat), name


def _expected(solution: Solution, observed: Observations, family: Family | None) -> Tensor:
    layout = solution.objective.layout
    if family is not None and len(layout.free) == len(layout.parameters):
        if family.of_statistics is not None or family.estimate is not None:
            # at the maximum of an exponential family both informations agree
            inverse = cov.inverse(solution.optimum.sums.information)
            return cov.transformed(inverse, solution.jacobian)
        if family.expected_information is not None:
            return cov.inverse(observed.n * family.expected_information(**solution.params))
    names = ", ".join(f.name for f in FAMILIES.values() if f.expected_information is not None)
    raise ValueError(
        f"expected covariance='expected' for {names} or an exponential family, all parameters free"
    )


# ---- Limits of families --------------------------------------------------------------------------


def _limit(
    sample: Sample, solution: Solution, options: FitOptions
) -> tuple[Solution, Estimate | None]:
    """Return the estimate of the family that this one becomes where a parameter is infinite, if it
    is as likely, with the search moved there.
    """
    family, observed = sample.family, sample.observed
    plain = options.plain and observed.kind == "frequency" and not observed.incomplete
    if family.limit is None or not plain:
        return solution, None
    name, value, other, shared = family.limit
    limit = closed_form.estimate(replace(sample, family=FAMILIES[other], given={}))
    highest = limit.log_likelihood + 1e-9 * observed.n
    if not limit.verdict.ok or not solution.log_likelihood <= highest:
        return solution, None
    nothing = torch.tensor(torch.nan, dtype=torch.float64)
    params = {n: limit.params[n] if n in shared else nothing for n in solution.params}
    params[name] = torch.tensor(value, dtype=torch.float64)
    names = list(params)
    index = torch.tensor([names.index(n) for n in shared], dtype=torch.int64)
    covariance = torch.full((len(names), len(names)), torch.nan, dtype=torch.float64)
    covariance[index[:, None], index] = limit.covariance[: len(shared), : len(shared)]
    rest = ", ".join(f"{n} = {float(v):g}" for n, v in limit.params.items() if n not in shared)
    status = (
        f"at the boundary of the parameter space: {name} = {value:g}, where it is "
        f"{other.__name__}{f' with {rest}' if rest else ''}; no standard error there"
    )
    estimate = Estimate(params, covariance, limit.log_likelihood, Status.BOUNDARY, status)
    return _near_limit(family, solution, limit), estimate


def _near_limit(family: Family, solution: Solution, limit: Estimate) -> Solution:
    """The search as if it had ended far out, near the family's limit, where profiles and tests
    start.
    """
    assert family.limit is not None
    assert family.near_limit is not None
    name, _, _, shared = family.limit
    layout, free = solution.objective.layout, list(solution.objective.layout.free)
    near = {n: value.reshape(1) for n, value in family.near_limit(limit.params).items()}
    fixed = torch.arange(layout.size)[None] == free.index(name)
    start = layout.numbers(solution.units.own(near))
    optimum = maximise_fixed(solution.objective, start, fixed).one(0)
    sides = optimum.theta.sign().tolist()
    limits = [
        Limit(number, sides[number], endless=False, alone=False)
        for number, parameter in enumerate(free)
        if parameter not in shared
    ]
    optimum = optimum._replace(decrement=0.0, steps=solution.optimum.steps)
    return replace(solution, optimum=optimum, around=Surroundings(tuple(limits)))
