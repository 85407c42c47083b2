"""The result of a search: covariances of every kind, and what is said where the maximum is not
inside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nll.data.observations import Observations, cluster_codes
from nll.estimation.closed_form import closed_fit, labels_of
from nll.estimation.diagnostics import Limit, Surroundings
from nll.estimation.inference import covariance as cov
from nll.estimation.maximise import AtParameters, Solution, judge, runaways
from nll.estimation.objective import MOST_INFORMATION
from nll.estimation.result import Fit
from nll.families.base import Family
from nll.families.registry import FAMILIES
from nll.solvers.parameters import said
from nll.solvers.trust_region import Progress

_EXTREME = 100  # powers of 2 of the data's unit, beyond which a covariance may leave float64


@dataclass(frozen=True)
class FitOptions:
    """What the caller asks of the parameters and of their errors."""

    start: Mapping[str, Any]
    fixed: Mapping[str, Any]
    bounds: Mapping[str, Any]
    covariance: str
    clusters: Any
    seed: int = 0
    progress: Progress | None = None

    def check(self) -> None:
        """Raise TypeError or ValueError for what is not understood."""
        for name in ("start", "fixed", "bounds"):
            if not isinstance(getattr(self, name), Mapping):
                raise TypeError(
                    f"expected {name} as a dict of name -> value, got "
                    f"{type(getattr(self, name)).__name__}"
                )
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"expected seed to be an integer, got {self.seed!r}")
        if self.covariance not in cov.KINDS:
            raise ValueError(
                f"expected covariance to be one of {', '.join(cov.KINDS)}, got {self.covariance!r}"
            )

    @property
    def plain(self) -> bool:
        """Whether nothing is asked that a closed form does not give."""
        return (
            not (self.start or self.fixed or self.bounds)
            and self.covariance == "observed"
            and self.clusters is None
        )


def searched_fit(
    name: str, found: Solution, observed: Observations, options: FitOptions, family: Family | None
) -> Fit:
    """The estimate, its covariance and its status."""
    found = replace(found, weighted=observed.kind != "frequency")
    status, converged = judge(found, observed.numbers)
    outside = _tied_outside(found)
    if outside is not None:
        status, converged = outside, False
    limit = None if family is None else _limit(family, found, observed, options)
    if limit is not None:
        return limit
    covariance, kind = _covariance(found, observed, options, family)
    params = found.params
    for away in runaways(found) if converged else ():
        params[away.name] = params[away.name].clone()
        if away.value == away.value:
            params[away.name].view(-1)[away.place] = away.value
    if converged and family is not None:
        status, converged = _of_family(family, found, status)
    if not converged:
        covariance = torch.full_like(covariance, torch.nan)
    elif (
        abs(math.log2(found.units.scale)) > _EXTREME
        and not runaways(found)
        and bool(covariance.isnan().any())
    ):
        status += "; the covariance is beyond float64: rescale the data for standard errors"
    return Fit(
        model=name,
        params=params,
        covariance=covariance,
        log_likelihood=found.log_likelihood,
        n=observed.n,
        df=found.problem.layout.size,
        status=status,
        converged=converged,
        decrement=found.optimum.decrement,
        steps=found.optimum.steps,
        labels=labels_of(found.params, observed),
        information=kind,
        dropped=observed.dropped,
        log_likelihood_at=AtParameters(found),
        search=_Itself(found),
        supports={
            name: parameter.constraint
            for name, parameter in found.problem.layout.parameters.items()
        },
        starts=found.starts,
    )


def _tied_outside(found: Solution) -> str | None:
    """What a function of the other parameters gave has to be a value that the parameter may
    have.
    """
    for name in found.problem.layout.tied:
        parameter, value = found.problem.layout.parameters[name], found.params[name]
        if bool(value.isfinite().all()) and not bool(parameter.constraint.check(value).all()):
            wanted = said(parameter.constraint)
            return (
                f"outside of the parameter space: fixed[{name!r}] is {value.tolist()}, "
                f"expected {wanted}"
            )
    return None


def _of_family(family: Family, found: Solution, status: str) -> tuple[str, bool]:
    """What the family has to say of a maximum."""
    wrong = None if family.verdict is None else family.verdict(found.params)
    if wrong is not None:
        return wrong, False
    return f"{status}; {family.unbounded}" if family.unbounded and status.startswith(
        "converged"
    ) else status, True


@dataclass(frozen=True)
class _Itself:
    """What a search has found, when it is asked for again."""

    found: Solution

    def __call__(self) -> Solution:
        return self.found


def _covariance(
    found: Solution, observed: Observations, options: FitOptions, family: Family | None
) -> tuple[Tensor, str]:
    """The covariance of the flattened parameters, and where it comes from; NaN for those that are
    at a boundary.
    """
    if found.problem.layout.size > MOST_INFORMATION:
        size = sum(value.numel() for value in found.params.values())
        return torch.full((1, 1), torch.nan, dtype=torch.float64).expand(size, size), "none"
    jacobian = found.jacobian
    gone = {away.number for away in runaways(found)} | set(
        () if found.around is None else found.around.sharp
    )
    kept = torch.tensor(
        [index for index in range(jacobian.shape[1]) if index not in gone], dtype=torch.int64
    )
    kind = "sandwich" if observed.kind != "frequency" else options.covariance
    if options.clusters is None and kind == "expected":
        return _expected(found, observed, family), kind
    free, said = _covariance_of_free(found, observed, options, kept, kind)
    lost = torch.ones(jacobian.shape[1], dtype=torch.bool).index_fill(0, kept, False)
    unknown = (jacobian[:, lost] != 0).any(1)
    covariance = cov.transformed(free, jacobian[:, kept])
    return covariance.masked_fill(unknown | unknown[:, None], torch.nan), said


def _covariance_of_free(
    found: Solution, observed: Observations, options: FitOptions, kept: Tensor, kind: str
) -> tuple[Tensor, str]:
    """Of the free numbers that are `kept`, as if the others were known."""
    inverse = cov.inverse(found.optimum.sums.information[kept[:, None], kept])
    if options.clusters is None and kind == "observed":
        return inverse, kind
    codes = (
        None
        if options.clusters is None
        else cluster_codes(options.clusters, observed.given, observed.rows.numpy())
    )
    meat = cov.meat(found.each.scores(found.theta)[:, kept], observed.weights, observed.kind, codes)
    if codes is not None:
        return cov.sandwich(inverse, meat), f"sandwich, {int(codes.max()) + 1} clusters"
    return (
        (cov.inverse(meat), "outer product of scores")
        if kind == "opg"
        else (cov.sandwich(inverse, meat), kind)
    )


def _expected(found: Solution, observed: Observations, family: Family | None) -> Tensor:
    own = found.problem.layout
    known = (
        family is not None
        and not own.fixed
        and not own.tied
        and len(own.free) == len(own.parameters)
    )
    if (
        known
        and family is not None
        and (family.of_statistics is not None or family.estimate is not None)
    ):
        # at the maximum of an exponential family they agree
        inverse = cov.inverse(found.optimum.sums.information)
        return cov.transformed(inverse, found.jacobian)
    if not known or family is None or family.expected_information is None:
        names = ", ".join(f.name for f in FAMILIES.values() if f.expected_information is not None)
        raise ValueError(
            f"expected covariance='expected' for {names} or an exponential family, "
            f"all parameters free"
        )
    return cov.inverse(observed.n * family.expected_information(**found.params))


_ALL_EQUAL = (
    "no maximum: the data are all equal, and the likelihood grows without bound as the "
    "density narrows"
)


def without_maximum(family: Family, observed: Observations, status: str = _ALL_EQUAL) -> Fit:
    """The result for data that let the likelihood grow without bound."""
    params = {name: torch.tensor(torch.nan, dtype=torch.float64) for name in family.parameters}
    size = len(params)
    return Fit(
        model=family.name,
        params=params,
        covariance=torch.full((size, size), torch.nan, dtype=torch.float64),
        log_likelihood=torch.inf,
        n=observed.n,
        df=size,
        status=status,
        converged=False,
        dropped=observed.dropped,
    )


def _limit(
    family: Family, found: Solution, observed: Observations, options: FitOptions
) -> Fit | None:
    """The fit of the family that this one becomes where a parameter is infinite, if it is as
    likely.
    """
    if (
        family.limit is None
        or not options.plain
        or observed.kind != "frequency"
        or observed.incomplete
    ):
        return None
    name, value, other, shared = family.limit
    there = closed_fit(FAMILIES[other], observed, {})
    if not there.converged or not found.log_likelihood <= there.log_likelihood + 1e-9 * observed.n:
        return None
    params = {
        n: there.params[n] if n in shared else torch.tensor(torch.nan, dtype=torch.float64)
        for n in found.params
    }
    params[name] = torch.tensor(value, dtype=torch.float64)
    names = list(params)
    kept = torch.tensor([names.index(n) for n in shared], dtype=torch.int64)
    covariance = torch.full((len(names), len(names)), torch.nan, dtype=torch.float64)
    covariance[kept[:, None], kept] = there.covariance[: len(shared), : len(shared)]
    where = ", ".join(f"{n} = {float(v):g}" for n, v in there.params.items() if n not in shared)
    near = _near_limit(family, found, there)
    return Fit(
        model=family.name,
        params=params,
        covariance=covariance,
        log_likelihood=there.log_likelihood,
        n=observed.n,
        df=len(params),
        status=f"at the boundary of the parameter space: {name} = {value:g}, where it is "
        f"{other.__name__}" + (f" with {where}" if where else "") + "; no standard error there",
        converged=True,
        decrement=near.optimum.decrement,
        steps=found.optimum.steps,
        dropped=observed.dropped,
        search=_Itself(near),
        supports={
            name: parameter.constraint
            for name, parameter in found.problem.layout.parameters.items()
        },
        starts=found.starts,
    )


def _near_limit(family: Family, found: Solution, there: Fit) -> Solution:
    """The search as if it had ended far out, at the family's limit, so that profiles and tests
    start there.
    """
    assert family.limit is not None
    assert family.near_limit is not None
    own = found.problem.layout
    at = found.units.own({n: v.reshape(1) for n, v in family.near_limit(there.params).items()})
    gone = [p for p, n in enumerate(own.free) if n not in family.limit[3]]
    held = torch.arange(own.size)[None] == list(own.free).index(family.limit[0])
    optimum = found.problem.maximise_held(own.numbers(at), held).one(0)
    sides = optimum.theta.sign().tolist()
    limits = tuple(Limit(p, sides[p], endless=False, alone=False) for p in gone)
    optimum = optimum._replace(decrement=0.0, steps=found.optimum.steps)
    return replace(found, optimum=optimum, around=Surroundings(limits))
