"""`fit`: maximum likelihood for a family of distributions, or for any likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from nll.likelihood import covariance as cov
from nll.likelihood.closed_fit import closed_fit, labels_of
from nll.likelihood.closed_forms import MOST_CATEGORIES
from nll.likelihood.families import FAMILIES, family_of
from nll.likelihood.family import Family, FamilyMeans, FamilyRows
from nll.likelihood.groups import GroupedFit, fit_groups
from nll.likelihood.model import JointLikelihood, Likelihood, of_module
from nll.likelihood.observations import (
    Censored,
    Observations,
    Truncated,
    Weights,
    observe,
    observe_bounded,
    observe_parts,
    require_support,
    total,
    totals,
)
from nll.likelihood.parameters import Params, layout, value_of
from nll.likelihood.problem import PlainRows, Problem, Segment
from nll.likelihood.result import Fit
from nll.likelihood.search import AtParameters, Found, Units, judge, runaways, search, units_of
from nll.likelihood.searched_forms import EXPECTED_INFORMATION
from nll.likelihood.tails import Interval, Windowed

_START_ROWS = 1 << 16  # rows that the start is computed from


def fit(
    model: Any,
    data: Any,
    *,
    weights: Any = None,
    start: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
    bounds: Mapping[str, Any] | None = None,
    covariance: str = "observed",
    clusters: Any = None,
    groups: Any = None,
    missing: str = "raise",
) -> Any:
    """Fit a likelihood to observations.

    Args:
        model: a class of torch.distributions, or one of the library's; a `Likelihood`, or a sum of several; a module
            that maps the data to a distribution of their last part.
        data: (n) numbers, for families of vectors (n, K): a list, array, tensor or column. Categorical takes texts
            too, and integers from 0. For a `Likelihood` its parts as a tuple, with a row per observation each; for a
            sum a tuple of such.
        weights: (n) frequencies, how often each row was seen, n being their sum; or `sampling(w)`, `importance(w)`.
        start: name -> value where the search starts; the others start by a rule.
        fixed: name -> value of a parameter that is known, the name of another that it equals, or a function of the
            other parameters (a dict). What the data do not tell must be here: total_count of Binomial, loc of
            GeneralizedPareto.
        bounds: name -> (low, high), None for no bound.
        covariance: "observed" (information), "expected" (information), "opg" (outer product of the scores) or
            "sandwich". Weights that are no frequencies take the sandwich.
        clusters: (n) labels of groups of rows that are not independent; the covariance is clustered.
        groups: (n) labels of data sets that are fitted each on its own, all in one search; for families of numbers.
        missing: "raise", or "drop" to leave out rows with a missing value.

    Returns: a `Fit` in float64, with the parameter names of the model; with `groups` a `GroupedFit`.

    Raises: ValueError naming the first row outside the support, missing, or with a weight that is no frequency;
    TypeError for a model that cannot be fitted, or data that are not numbers.
    """
    wish = _Wish(start or {}, fixed or {}, bounds or {}, covariance, clusters)
    wish.check()
    if isinstance(model, torch.nn.Module):
        model, values = of_module(model)
        wish = replace(wish, start={**values, **wish.start})
    if groups is not None:
        return _fit_each(_family(model), data, weights, wish, missing, groups)
    if isinstance(model, (Likelihood, JointLikelihood)):
        return _fit_likelihood(model, data, weights, wish, missing)
    family = _family(model)
    return _fit_family(family, data, weights, wish, missing)


@dataclass(frozen=True)
class _Wish:
    """What the caller asks of the parameters and of their errors."""

    start: Mapping[str, Any]
    fixed: Mapping[str, Any]
    bounds: Mapping[str, Any]
    covariance: str
    clusters: Any

    def check(self) -> None:
        for name in ("start", "fixed", "bounds"):
            if not isinstance(getattr(self, name), Mapping):
                raise TypeError(f"expected {name} as a dict of name -> value, got {type(getattr(self, name)).__name__}")
        if self.covariance not in cov.KINDS:
            raise ValueError(f"expected covariance to be one of {', '.join(cov.KINDS)}, got {self.covariance!r}")

    @property
    def plain(self) -> bool:
        """Whether nothing is asked that a closed form does not give."""
        return not (self.start or self.fixed or self.bounds) and self.covariance == "observed" and self.clusters is None


# ---- Families ------------------------------------------------------------------------------------------------------


def _family(model: Any) -> Family:
    if not isinstance(model, type):
        raise TypeError(f"expected a class of torch.distributions such as Normal, or a Likelihood, got {_what(model)}")
    if not issubclass(model, Distribution):
        got = model.__name__
        raise TypeError(f"expected a class of torch.distributions such as Normal, or a Likelihood, got {got}")
    return family_of(model)


def _what(model: Any) -> str:
    return f"{'an instance of ' if isinstance(model, Distribution) else ''}{type(model).__name__}"


def _fit_family(family: Family, data: Any, weights: Any, wish: _Wish, missing: str) -> Fit:
    for name in family.given:
        if name not in wish.fixed:
            raise ValueError(f"expected fixed={{'{name}': ...}} for {family.name}, got no {name}")
    categorical = family.name == "Categorical"
    if isinstance(data, (Censored, Truncated)):
        observed = observe_bounded(data, weights, missing=missing)
    else:
        observed = observe(data, weights, missing=missing, categorical=categorical)
    _require_shape(family, observed)
    given = {name: _of_rows(name, wish.fixed[name], observed) for name in family.given}
    interval = not (family.discrete or family.columns or given)
    if observed.ends is None:
        require_support(observed, partial(family.inside, **given), family.support, family.name, interval)
    else:
        _require_possible(family, observed, given)
    _require_window(observed)
    if categorical:
        _require_few_categories(observed)
    wish = replace(wish, fixed={name: value for name, value in wish.fixed.items() if name not in given})
    if _unbounded(family, observed, wish):
        return _without_maximum(family, observed)
    plain = wish.plain and observed.kind == "frequency" and not observed.incomplete
    if family.estimate is not None and plain:
        return replace(closed_fit(family, observed, given), search=_again(family, observed, given, wish))
    if family.simplex or (family.estimate is not None and (family.not_regular or family.information != "observed")):
        raise ValueError(
            f"expected neither start, fixed, bounds, covariance nor such weights for {family.name}: it has "
            "a closed form only"
        )
    found = _search_family(family, observed, given, wish)
    return _result(family.name, found, observed, wish, family)


def _fit_each(family: Family, data: Any, weights: Any, wish: _Wish, missing: str, groups: Any) -> GroupedFit:
    shaped = family.columns or family.given or family.simplex
    if shaped or not wish.plain or isinstance(data, (Censored, Truncated)) or isinstance(weights, Weights):
        raise ValueError(
            f"expected groups with a family of plain numbers and frequencies alone, got {family.name} and more"
        )
    observed = observe(data, weights, missing=missing)
    _require_shape(family, observed)
    require_support(observed, family.inside, family.support, family.name, not family.discrete)
    return fit_groups(family, observed, groups)


def _search_family(family: Family, observed: Observations, given: dict[str, Tensor], wish: _Wish) -> Found:
    free = not (wish.start or wish.fixed or wish.bounds)
    units = units_of(observed.values, family.units) if free else Units()
    values = units.data(observed.values)
    given = {name: units.data(value) if family.units else value for name, value in given.items()}
    columns = values.shape[1] if family.columns else 1
    own = layout(family.constraints(columns), wish.fixed, wish.bounds)
    segments = _segments(family, observed, values, given, units)
    each = Problem(segments, own)
    problem = each
    if not given and not observed.incomplete:
        problem = replace(each, segments=(_condensed(family, segments[0]),))
    step = max(1, len(values) // _START_ROWS)
    some, share = values[::step], observed.weights[::step]
    if not family.columns:
        some, share = some[None], share[None]
    starts = [_start(family, some, share)]
    if family.more_starts is not None:
        starts += family.more_starts(some, share)
    asked = {name: value_of(name, value, own.parameters[name]) for name, value in _known(wish.start, own).items()}
    numbers = [
        own.numbers(
            {name: asked.get(name, value).reshape(1, *own.parameters[name].shape) for name, value in values_.items()}
        )
        for values_ in starts
    ]
    exact = observed.n
    if observed.ends is not None:
        exact = float(observed.weights[observed.ends[0] == observed.ends[1]].sum())
    density = 0.0 if family.discrete or not family.units else exact
    return search(problem, torch.cat(numbers), units, density, each)


def _segments(
    family: Family, observed: Observations, values: Tensor, given: dict[str, Tensor], units: Units
) -> tuple[Segment, ...]:
    """The exact rows, and those that are known up to an interval."""
    parts = tuple(v.expand(len(values)) for v in given.values())
    found = []
    numbers = torch.arange(len(values))
    exact = None if observed.ends is None else observed.ends[0] == observed.ends[1]
    if exact is None or bool(exact.any()):
        found.append((FamilyRows(family), (values, *parts), exact))
    if observed.ends is not None and exact is not None and not bool(exact.all()):
        ends = tuple(units.data(end) for end in observed.ends)
        found.append((Interval(family), (*ends, *parts), ~exact))
    segments = []
    for rows, of, which in found:
        if observed.window is not None:
            of = (*(units.data(end).expand(len(values)) for end in observed.window), *of)
            rows = Windowed(rows, Interval(family))
        of = of if which is None else tuple(part[which] for part in of)
        weights = observed.weights if which is None else observed.weights[which]
        place = numbers if which is None else numbers[which]
        segments.append(Segment(rows, tuple(part[None] for part in of), weights[None], place))
    return tuple(segments)


def _require_possible(family: Family, observed: Observations, given: dict[str, Tensor]) -> None:
    """Every interval holds a value of the support; an exact row is one."""
    assert observed.ends is not None
    low, high = observed.ends
    first, last = family.ends(given)
    room = (high >= first) & (low <= last) if family.discrete else (high > first) & (low < last)
    inside = torch.where(low == high, family.inside(observed.values, **given), room)
    if not bool(inside.all()):
        row = int((~inside).nonzero()[0])
        raise ValueError(
            f"data outside the support of {family.name}: expected {family.support}, got "
            f"[{float(low[row]):g}, {float(high[row]):g}] at row {int(observed.rows[row])}"
        )


def _require_window(observed: Observations) -> None:
    if observed.window is None:
        return
    low, high = observed.window
    first, last = observed.ends or (observed.values, observed.values)
    outside = (first < low) & (first > -torch.inf) | (last > high) & (last < torch.inf)
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        ends = low.expand_as(first)[row], high.expand_as(first)[row]
        raise ValueError(
            f"expected observations inside the window [{float(ends[0]):g}, {float(ends[1]):g}], "
            f"got {float(observed.values[row]):g} at row {int(observed.rows[row])}"
        )


def _start(family: Family, values: Tensor, weights: Tensor) -> Params:
    if family.start is not None:
        return family.start(values, weights)
    if family.estimate is not None:
        return family.estimate(values.reshape(-1), weights.reshape(-1))
    parameters = family.constraints(1)
    return {name: p.transform(torch.zeros(p.free_shape, dtype=torch.float64)) for name, p in parameters.items()}


def _condensed(family: Family, rows: Segment) -> Segment:
    """As few rows as tell the same: the means of the statistics, or each count once."""
    (values,), weights = rows.parts, rows.weights
    if family.statistics is not None:
        n = total(weights[0]).reshape(1, 1)
        sums = totals(weights[0], values[0], family.statistics)
        return Segment(FamilyMeans(family), tuple(s.reshape(1, 1) / n for s in sums), n)
    if family.discrete and not family.columns:
        seen, place = values[0].unique(return_inverse=True)
        return rows._replace(parts=(seen[None],), weights=torch.zeros_like(seen).index_add_(0, place, weights[0])[None])
    return rows


def _known(start: Mapping[str, Any], own: Any) -> Mapping[str, Any]:
    for name in start:
        if name not in own.parameters:
            raise ValueError(f"expected one of {', '.join(own.parameters)} in start, got {name!r}")
    return start


def _require_shape(family: Family, observed: Observations) -> None:
    wanted, shape = ("(n, K)", 2) if family.columns else ("(n)", 1)
    if observed.values.dim() != shape:
        raise ValueError(f"expected data of shape {wanted} for {family.name}, got {tuple(observed.values.shape)}")


def _of_rows(name: str, value: Any, observed: Observations) -> Tensor:
    """A number for all rows, or one for each row of the data as given; of trials a positive whole one."""
    wanted = "a positive integer" if name == "total_count" else "a finite number"
    try:
        number = torch.tensor(np.asarray(value.detach() if isinstance(value, Tensor) else value, dtype=np.float64))
    except (TypeError, ValueError):
        raise TypeError(f"expected {name} to be {wanted}, got {value!r}") from None
    if value is None:
        raise TypeError(f"expected {name} to be {wanted}, got None")
    if number.dim() > 1 or (number.dim() == 1 and len(number) != observed.given):
        raise ValueError(f"expected one {name}, or one for each row, got shape {tuple(number.shape)}")
    wrong = ~torch.isfinite(number)
    if name == "total_count":
        wrong |= ~((number > 0) & (number == number.round()))
    if bool(wrong.any()):
        raise ValueError(f"expected {name} to be {wanted}, got {float(number[wrong].reshape(-1)[0]):g}")
    return number if number.dim() == 0 else number[observed.rows]


def _require_few_categories(observed: Observations) -> None:
    most = int(observed.values.argmax())
    if float(observed.values[most]) >= MOST_CATEGORIES:
        raise ValueError(
            f"expected at most {MOST_CATEGORIES} categories, got the number {int(observed.values[most])} at row "
            f"{int(observed.rows[most])}; as texts, numbers may be any"
        )


# ---- Any likelihood ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _TermRows:
    """The rows of one term of a sum, which knows some of the parameters."""

    term: Likelihood

    def __call__(self, *parts: Tensor, **params: Tensor) -> Tensor:
        return self.term.rows(*parts, **{name: params[name] for name in self.term.parameters})


def _fit_likelihood(model: Likelihood | JointLikelihood, data: Any, weights: Any, wish: _Wish, missing: str) -> Fit:
    joint = isinstance(model, JointLikelihood)
    terms = model.terms if isinstance(model, JointLikelihood) else (model,)
    for name, given in (("data", data), ("weights", weights)) if joint else ():
        if not (given is None and name == "weights") and not (isinstance(given, tuple) and len(given) == len(terms)):
            raise ValueError(f"expected {name} as a tuple of {len(terms)}, one for each likelihood, got {_what(given)}")
    if joint and wish.clusters is not None:
        raise ValueError("expected no clusters with a sum of likelihoods")
    segments, observations, at = [], [], 0
    for i, term in enumerate(terms):
        weight = (weights[i] if weights is not None else None) if joint else weights
        parts, observed = observe_parts(data[i] if joint else data, weight, missing=missing)
        numbers = torch.arange(at, at + len(observed.weights))
        segments.append(
            Segment(PlainRows(_TermRows(term)), tuple(p[None] for p in parts), observed.weights[None], numbers)
        )
        observations.append(observed)
        at += len(observed.weights)
    own = layout(dict(model.parameters), wish.fixed, wish.bounds)
    problem = Problem(tuple(segments), own)
    values = {name: p.transform(torch.zeros(p.free_shape, dtype=torch.float64)) for name, p in own.parameters.items()}
    values |= {name: value_of(name, value, own.parameters[name]) for name, value in _known(wish.start, own).items()}
    start = own.numbers({name: value[None] for name, value in values.items()})
    found = search(problem, start, Units(), 0.0, problem)
    return _result(model.name, found, _merged(observations), wish, None)


def _merged(observations: list[Observations]) -> Observations:
    """Of several data sets one after another."""
    if len(observations) == 1:
        return observations[0]
    kinds = {observed.kind for observed in observations}
    weights = torch.cat([observed.weights for observed in observations])
    rows = torch.cat([observed.rows for observed in observations])
    return Observations(
        weights,
        weights,
        rows,
        len(rows),
        sum(o.dropped for o in observations),
        None,
        kinds.pop() if len(kinds) == 1 else "importance",
    )


# ---- The result ----------------------------------------------------------------------------------------------------


def _result(name: str, found: Found, observed: Observations, wish: _Wish, family: Family | None) -> Fit:
    status, converged = judge(found, observed.numbers)
    limit = None if family is None else _limit(family, found, observed, wish)
    if limit is not None:
        return limit
    covariance, said = _covariance(found, observed, wish, family)
    params = found.params
    for _, name_, value in runaways(found) if converged else ():
        params[name_] = torch.full_like(params[name_], value)
    if not converged:
        covariance = torch.full_like(covariance, torch.nan)
    elif found.units.scale != 1.0 and not bool(_inverse(found).isnan().any()) and bool(covariance.isnan().any()):
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
        information=said,
        dropped=observed.dropped,
        log_likelihood_at=AtParameters(found),
        search=_Itself(found),
    )


@dataclass(frozen=True)
class _Itself:
    """What a search has found, when it is asked for again."""

    found: Found

    def __call__(self) -> Found:
        return self.found


def _again(family: Family, observed: Observations, given: dict[str, Tensor], wish: _Wish) -> Any:
    """The search that a closed form saves, when its likelihood is asked for; none for what is not regular."""
    if family.simplex or family.not_regular or family.information != "observed":
        return None
    return partial(_search_family, family, observed, given, wish)


def _covariance(found: Found, observed: Observations, wish: _Wish, family: Family | None) -> tuple[Tensor, str]:
    """The covariance of the flattened parameters, and where it comes from."""
    inverse, jacobian = _inverse(found), found.jacobian
    if bool(inverse.isnan().any()) and not bool(inverse.isnan().all()):  # some are at a border, and have no error
        lost = (jacobian[:, inverse.diagonal().isnan()] != 0).any(1)
        return cov.transformed(inverse.nan_to_num(0.0), jacobian).masked_fill(
            lost | lost[:, None], torch.nan
        ), "observed"
    kind = "sandwich" if observed.kind != "frequency" else wish.covariance
    if wish.clusters is None and kind == "observed":
        return cov.transformed(inverse, jacobian), kind
    if wish.clusters is None and kind == "expected":
        return _expected(found, observed, family), kind
    scores = found.each.scores(found.theta)
    codes = None if wish.clusters is None else _codes(wish.clusters, observed)
    meat = cov.meat(scores, observed.weights, observed.kind, codes)
    if codes is not None:
        return cov.transformed(cov.sandwich(inverse, meat), jacobian), f"sandwich, {int(codes.max()) + 1} clusters"
    if kind == "opg":
        return cov.transformed(cov.inverse(meat), jacobian), "outer product of scores"
    return cov.transformed(cov.sandwich(inverse, meat), jacobian), "sandwich"


def _inverse(found: Found) -> Tensor:
    """The inverse information by the free numbers; NaN for those that are at a border, which the others ignore."""
    information = found.optimum.sums.information
    gone = {index for index, _, _ in runaways(found)}
    kept = torch.tensor([index for index in range(len(information)) if index not in gone], dtype=torch.int64)
    inverse = torch.full_like(information, torch.nan)
    if len(kept):
        inverse[kept[:, None], kept] = cov.inverse(information[kept[:, None], kept])
    return inverse


def _expected(found: Found, observed: Observations, family: Family | None) -> Tensor:
    own = found.problem.layout
    known = family is not None and not own.fixed and not own.tied and len(own.free) == len(own.parameters)
    if known and family is not None and (family.of_statistics is not None or family.estimate is not None):
        return cov.transformed(_inverse(found), found.jacobian)  # at the maximum of an exponential family they agree
    if not known or family is None or family.distribution not in EXPECTED_INFORMATION:
        names = ", ".join(family.__name__ for family in EXPECTED_INFORMATION)
        raise ValueError(f"expected covariance='expected' for {names} or an exponential family, all parameters free")
    return cov.inverse(observed.n * EXPECTED_INFORMATION[family.distribution](**found.params))


def _codes(clusters: Any, observed: Observations) -> Tensor:
    labels = np.asarray(clusters.detach().cpu() if isinstance(clusters, Tensor) else clusters)
    if labels.shape != (observed.given,):
        raise ValueError(f"expected {observed.given} cluster labels, one for each row, got shape {labels.shape}")
    codes = np.unique(labels[observed.rows.numpy()], return_inverse=True)[1]
    if codes.max() == 0:
        raise ValueError("expected at least two clusters, got one")
    return torch.from_numpy(codes.reshape(-1))


# ---- Where there is no maximum inside ------------------------------------------------------------------------------


def _unbounded(family: Family, observed: Observations, wish: _Wish) -> bool:
    """Whether data that are all equal let a density of several free parameters grow without bound on their value."""
    free = [name for name in family.parameters if name not in wish.fixed]
    return family.start is not None and observed.equal and not family.discrete and len(free) > 1 and not wish.bounds


def _without_maximum(family: Family, observed: Observations) -> Fit:
    params = {name: torch.tensor(torch.nan, dtype=torch.float64) for name in family.parameters}
    size = len(params)
    return Fit(
        model=family.name,
        params=params,
        covariance=torch.full((size, size), torch.nan, dtype=torch.float64),
        log_likelihood=torch.inf,
        n=observed.n,
        df=size,
        status="no maximum: the data are all equal, and the likelihood grows without bound as the density narrows",
        converged=False,
        dropped=observed.dropped,
    )


def _limit(family: Family, found: Found, observed: Observations, wish: _Wish) -> Fit | None:
    """The fit of the family that this one becomes where a parameter is infinite, if it is as likely."""
    if family.limit is None or not wish.plain or observed.kind != "frequency" or observed.incomplete:
        return None
    name, value, other, shared = family.limit
    there = closed_fit(FAMILIES[other], observed, {})
    if not there.converged or not found.log_likelihood <= there.log_likelihood + 1e-9 * observed.n:
        return None
    params = {n: there.params[n] if n in shared else torch.tensor(torch.nan, dtype=torch.float64) for n in found.params}
    params[name] = torch.tensor(value, dtype=torch.float64)
    names = list(params)
    kept = torch.tensor([names.index(n) for n in shared], dtype=torch.int64)
    covariance = torch.full((len(names), len(names)), torch.nan, dtype=torch.float64)
    covariance[kept[:, None], kept] = there.covariance[: len(shared), : len(shared)]
    where = ", ".join(f"{n} = {float(v):g}" for n, v in there.params.items() if n not in shared)
    return Fit(
        model=family.name,
        params=params,
        covariance=covariance,
        log_likelihood=there.log_likelihood,
        n=observed.n,
        df=len(params),
        status=f"at the border of the parameter space: {name} = {value:g}, where it is {other.__name__}"
        + (f" with {where}" if where else "")
        + "; no standard error there",
        converged=True,
        dropped=observed.dropped,
    )
