"""`fit`: maximum likelihood for a family of distributions, or for any likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from nll._torch import on_processor
from nll.data.observations import (
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
from nll.estimation.closed_form import closed_fit
from nll.estimation.conclude import FitOptions, searched_fit, without_maximum
from nll.estimation.grouped import GroupedFit, fit_groups
from nll.estimation.likelihood import JointLikelihood, Likelihood, LikelihoodRows, of_module
from nll.estimation.maximise import Solution, Units, search, units_of
from nll.estimation.objective import PlainRows, Problem, Segment
from nll.estimation.progress import Line
from nll.estimation.result import Fit
from nll.families.base import Family, FamilyBlockMeans, FamilyMeans, FamilyRows, Sample
from nll.families.closed_forms import MOST_CATEGORIES
from nll.families.compound import CompoundFamily, ordered
from nll.families.log_cdf import Interval, Windowed, tails_of
from nll.families.registry import family_of
from nll.families.replicates import seeded
from nll.solvers.parameters import Layout, Params, layout, value_of
from nll.solvers.trust_region import Progress

_START_ROWS = 1 << 16  # rows that the start is computed from
_TRIES = 6  # other starts of a likelihood


@on_processor
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
    seed: int = 0,
    progress: Progress | None = None,
) -> Any:
    """Fit a likelihood to observations.

    Args:
        model: a class of torch.distributions, or one of the library's; a `Likelihood`, or a sum of
            several; a module that maps the data to a distribution of their last part.
        data: (n) numbers, for families of vectors (n, K): a list, array, tensor or column.
            Categorical takes texts too, and integers from 0. For a `Likelihood` its parts as a
            tuple, with a row per observation each; for a sum a tuple of such.
        weights: (n) frequencies, how often each row was seen, n being their sum; or `sampling(w)`,
            `importance(w)`.
        start: name -> value where the search starts; the others start by a rule. Where the
            likelihood may have several peaks, or the search ends at none, it starts elsewhere too.
        fixed: name -> value of a parameter that is known, the name of another that it equals, or a
            function of the
            other parameters (a dict). What the data do not tell must be here: total_count of
            Binomial, loc of GeneralizedPareto.
        bounds: name -> (low, high), None for no bound.
        covariance: "observed" (information), "expected" (information), "opg" (outer product of the
            scores) or "sandwich". Weights that are no frequencies take the sandwich.
        clusters: (n) labels of groups of rows that are not independent; the covariance is
            clustered.
        groups: (n) labels of data sets that are fitted each on its own, all in one search; for
            families of numbers.
        missing: "raise", or "drop" to leave out rows with a missing value.
        seed: of starts that are drawn, in mixtures.
        progress: called with (step, log-likelihood, expected gain) before each step of a search;
            None: a line on the terminal, if there is one, where it takes more than two seconds.

    Returns: a `Fit` in float64, with the parameter names of the model; with `groups` a
        `GroupedFit`.

    Raises: ValueError naming the first row outside the support, missing, or with a weight that is
    no frequency; TypeError for a model that cannot be fitted, or data that are not numbers.
    """
    options = FitOptions(
        start or {}, fixed or {}, bounds or {}, covariance, clusters, seed, progress
    )
    options.check()
    if isinstance(model, torch.nn.Module):
        model, values = of_module(model)
        options = replace(options, start={**values, **options.start})
    if groups is not None:
        return _fit_each(_family(model), data, weights, options, missing, groups)
    if isinstance(model, (Likelihood, JointLikelihood)):
        return _fit_likelihood(model, data, weights, options, missing)
    family = _family(model)
    return _fit_family(family, data, weights, options, missing)


# ---- Families ------------------------------------------------------------------------------------


def _family(model: Any) -> Family:
    if not isinstance(model, type):
        raise TypeError(
            f"expected a class of torch.distributions such as Normal, or a Likelihood, "
            f"got {_what(model)}"
        )
    if not issubclass(model, Distribution):
        got = model.__name__
        raise TypeError(
            f"expected a class of torch.distributions such as Normal, or a Likelihood, got {got}"
        )
    return family_of(model)


def _what(model: Any) -> str:
    return f"{'an instance of ' if isinstance(model, Distribution) else ''}{type(model).__name__}"


def _fit_family(family: Family, data: Any, weights: Any, options: FitOptions, missing: str) -> Fit:
    for name in family.given:
        if name not in options.fixed:
            raise ValueError(f"expected fixed={{'{name}': ...}} for {family.name}, got no {name}")
    categorical = family.name == "Categorical"
    if isinstance(data, (Censored, Truncated)):
        tails_of(family.distribution)
        observed = observe_bounded(data, weights, missing=missing)
    else:
        observed = observe(data, weights, missing=missing, categorical=categorical)
    _require_shape(family, observed)
    given = {name: _of_rows(name, options.fixed[name], observed) for name in family.given}
    interval = not (family.discrete or family.columns or given)
    if observed.ends is None:
        require_support(
            observed, partial(family.inside, **given), family.support, family.name, interval
        )
    else:
        _require_possible(family, observed, given)
    _require_window(observed, family.discrete)
    observed = _placed(family, observed, given)
    if categorical:
        _require_few_categories(observed)
    options = replace(
        options, fixed={name: value for name, value in options.fixed.items() if name not in given}
    )
    found = _fit_observed(family, observed, given, options)
    return replace(
        found, sample=Sample(family, observed, given, by_formula=found.decrement is None)
    )


def _fit_observed(
    family: Family, observed: Observations, given: dict[str, Tensor], options: FitOptions
) -> Fit:
    if _unbounded(family, observed, options):
        return without_maximum(family, observed)
    if family.by_formula_only:
        options = _without_search(family, observed, options)
    plain = options.plain and observed.kind == "frequency" and not observed.incomplete
    if family.verdict is not None and family.estimate is not None and not (plain or options.fixed):
        said = family.verdict(family.estimate(observed.values, observed.weights))
        if said is not None:
            return without_maximum(family, observed, said)
    if family.estimate is not None and plain:
        return replace(
            closed_fit(family, observed, given), search=_again(family, observed, given, options)
        )
    found = _search_family(family, observed, given, options)
    return searched_fit(family.name, found, observed, options, family)


def _fit_each(
    family: Family, data: Any, weights: Any, options: FitOptions, missing: str, groups: Any
) -> GroupedFit:
    shaped = family.columns or family.given or family.simplex or getattr(family, "components", None)
    if shaped or not options.plain or isinstance(weights, Weights):
        raise ValueError(
            f"expected groups with a family of plain numbers and frequencies alone, got "
            f"{family.name} and more"
        )
    bounded = isinstance(data, (Censored, Truncated))
    observed = (observe_bounded if bounded else observe)(data, weights, missing=missing)
    _require_shape(family, observed)
    if observed.ends is None:
        require_support(observed, family.inside, family.support, family.name, not family.discrete)
    else:
        _require_possible(family, observed, {})
    _require_window(observed, family.discrete)
    alone = (
        partial(_fit_observed, family, given={}, options=options) if observed.incomplete else None
    )
    return fit_groups(family, observed, groups, alone)


def _without_search(family: Family, observed: Observations, options: FitOptions) -> FitOptions:
    """The options, for a family that only a formula fits, to which a start makes no difference.

    Where the parameter at which the likelihood has its corners is fixed, a search fits the others.

    Raises: ValueError naming what else was asked for.
    """
    for name in options.start:
        if name not in family.parameters:
            raise ValueError(
                f"expected one of {', '.join(family.parameters)} in start, got {name!r}"
            )
    if family.corner is not None and isinstance(
        options.fixed.get(family.corner), (int, float, Tensor, np.number)
    ):
        return options
    asked = {
        "fixed": options.fixed,
        "bounds": options.bounds,
        f"covariance={options.covariance!r}": options.covariance != "observed",
        "clusters": options.clusters is not None,
        "censored rows": observed.ends is not None,
        "a window": observed.window is not None,
        f"{observed.kind} weights": observed.kind != "frequency",
    }
    got = [what for what, there in asked.items() if there]
    if got:
        hint = "" if family.corner is None else f"; with a fixed {family.corner} it takes them"
        raise ValueError(
            f"expected exact rows and frequencies alone for {family.name}, which has a closed form "
            f"only, "
            f"got {' and '.join(got)}{hint}"
        )
    return replace(options, start={})


def _search_family(
    family: Family, observed: Observations, given: dict[str, Tensor], options: FitOptions
) -> Solution:
    free = not (options.start or options.fixed or options.bounds)
    units = units_of(observed.values, family.units) if free else Units()
    values = units.data(observed.values)
    given = {name: units.data(value) if family.units else value for name, value in given.items()}
    columns = values.shape[1] if family.columns else 1
    own = layout(family.constraints(columns), options.fixed, options.bounds)
    segments = _segments(family, observed, values, given, units)
    each = Problem(segments, own)
    problem = each
    if observed.incomplete:
        problem = replace(each, segments=tuple(_distinct(segment) for segment in segments))
    elif not given:
        problem = replace(each, segments=(_condensed(family, segments[0]),))
    step = max(1, len(values) // _START_ROWS)
    some, share = (
        (values - given["loc"] if "loc" in given else values)[::step],
        observed.weights[::step],
    )
    if not family.columns:
        some, share = some[None], share[None]
    starts = [_start(family, some, share)]
    if family.more_starts is not None:
        more = family.more_starts
        starts += [
            _usable(family, start) for start in seeded(lambda: more(some, share), options.seed)
        ]
    asked = {
        name: value_of(name, value, own.parameters[name])
        for name, value in _known(options.start, own).items()
    }
    ours = [_numbers_of(own, values_) for values_ in starts]
    numbers = [_numbers_of(own, {**values_, **asked}) for values_ in starts] if asked else ours
    if set(asked) == set(own.free):
        numbers = numbers[:1]
    if asked and family.more_starts is not None:  # there may be a higher peak elsewhere
        numbers += ours
    exact = observed.n
    if observed.ends is not None:
        exact = float(observed.weights[observed.ends[0] == observed.ends[1]].sum())
    density = 0.0 if family.discrete or not family.units else exact
    with Line(family.name) as line:
        others = torch.cat(ours) if asked else None
        unbounded = family.unbounded is not None
        found = search(
            problem,
            torch.cat(numbers),
            units,
            density,
            each,
            options.progress or line,
            others,
            unbounded,
        )
    return (
        ordered(found, family)
        if free and isinstance(family, CompoundFamily) and family.components
        else found
    )


def _numbers_of(own: Layout, values: Params) -> Tensor:
    return own.numbers(
        {name: value.reshape(1, *own.parameters[name].shape) for name, value in values.items()}
    )


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
        ends = tuple(units.data(end) for end in _ends(observed))
        found.append((Interval(family), (*ends, *parts), ~exact))
    segments = []
    for rows, of, which in found:
        if observed.window is not None:
            of = (*(units.data(end) for end in observed.window), *of)
            rows = Windowed(rows, Interval(family))
        of = tuple(part.reshape(-1) for part in of)  # a window of all rows is one number
        of = of if which is None else tuple(p if len(p) == 1 else p[which] for p in of)
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


def _require_window(observed: Observations, discrete: bool) -> None:
    """Every row may be seen: it lies inside of its window, or has a part of it."""
    if observed.window is None:
        return
    ends = torch.broadcast_tensors(*observed.window)
    empty = ends[0] > ends[1] if discrete else ends[0] >= ends[1]
    if bool(empty.any()):
        row = int(empty.nonzero()[0])
        got = f"[{float(ends[0][row]):g}, {float(ends[1][row]):g}]" + (
            f" at row {row}" if len(empty) > 1 else ""
        )
        raise ValueError(f"expected a window with room between its ends, got {got}")
    low, high = observed.window
    first, last = observed.ends or (observed.values, observed.values)
    outside = (
        (first < low) & (first > -torch.inf)
        | (last > high) & (last < torch.inf)
        | (first > high)
        | (last < low)
    )
    if not discrete:
        outside |= (first < last) & ((first >= high) | (last <= low))
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        ends = low.expand_as(first)[row], high.expand_as(first)[row]
        got = f"{float(observed.values[row]):g}"
        if bool(first[row] < last[row]):
            got = f"[{float(first[row]):g}, {float(last[row]):g}]"
        raise ValueError(
            f"expected observations inside the window [{float(ends[0]):g}, {float(ends[1]):g}], "
            f"got {got} at row {int(observed.rows[row])}"
        )


def _ends(observed: Observations) -> tuple[Tensor, Tensor]:
    """What is known of each row: its interval, as far as it lies inside of the window."""
    assert observed.ends is not None
    low, high = observed.ends
    if observed.window is None:
        return low, high
    first, last = observed.window
    return torch.maximum(low, first), torch.minimum(high, last)


def _placed(family: Family, observed: Observations, given: dict[str, Tensor]) -> Observations:
    """With values of censored rows inside of the support, for starts and units; of those that tell
    nothing the median.

    A row that is censored at one side has its end as its value, an interval its middle.
    """
    if observed.ends is None:
        return observed
    low, high = _ends(observed)
    first, last = (
        torch.as_tensor(end, dtype=torch.float64).expand_as(low) for end in family.ends(given)
    )
    below, above = low <= first, high >= last
    low, high = torch.maximum(low, first), torch.minimum(high, last)
    middle = torch.where(
        low.isfinite() & high.isfinite(), low / 2 + high / 2, torch.where(low.isfinite(), low, high)
    )
    nothing = below & above & (observed.ends[0] < observed.ends[1])
    rest = middle[~nothing]
    other = (
        rest.median()
        if len(rest)
        else torch.as_tensor(family.middle(given), dtype=torch.float64).expand_as(low)
    )
    exact = observed.ends[0] == observed.ends[1]
    return replace(
        observed, values=torch.where(exact, observed.values, torch.where(nothing, other, middle))
    )


def _start(family: Family, values: Tensor, weights: Tensor) -> Params:
    """Where a search starts."""
    return _usable(
        family, _start_by_rule(family, values, weights), values.shape[-1] if family.columns else 1
    )


def _usable(family: Family, start: Params, columns: int = 1) -> Params:
    """A start whose rule failed, for data that it was not made for, has the middle of the
    parameter's range.
    """
    for name, parameter in family.constraints(columns).items():
        value = start[name]
        fine = value.isfinite()
        if parameter.constraint.event_dim == 0:
            fine = fine & parameter.constraint.check(value)
        if not bool(fine.all()):
            middle = parameter.transform(torch.zeros(parameter.free_shape, dtype=torch.float64))
            start = {**start, name: torch.where(fine, value, middle)}
    return start


def _start_by_rule(family: Family, values: Tensor, weights: Tensor) -> Params:
    if family.start is not None:
        return family.start(values, weights)
    if family.estimate is not None:
        plain = (values, weights) if family.columns else (values.reshape(-1), weights.reshape(-1))
        found = family.estimate(*plain)
        # off the boundaries
        return {name: torch.where(v.isfinite() & (v != 0), v, 1.0) for name, v in found.items()}
    parameters = family.constraints(1)
    return {
        name: p.transform(torch.zeros(p.free_shape, dtype=torch.float64))
        for name, p in parameters.items()
    }


def _condensed(family: Family, rows: Segment) -> Segment:
    """As few rows as tell the same: the means of the statistics, or each count once."""
    (values,), weights = rows.parts, rows.weights
    if family.statistics is not None and family.means_tell_all(values):
        n = total(weights[0]).reshape(1, 1)
        sums = totals(weights[0], values[0], family.statistics)
        return Segment(FamilyMeans(family), tuple(s.reshape(1, 1) / n for s in sums), n)
    if family.mean_log_prob is not None and rows.once:
        return rows._replace(log_prob=FamilyBlockMeans(family))
    if family.discrete and not family.columns:
        seen, place = values[0].unique(return_inverse=True)
        return rows._replace(
            parts=(seen[None],),
            weights=torch.zeros_like(seen).index_add_(0, place, weights[0])[None],
        )
    return rows


def _distinct(rows: Segment) -> Segment:
    """Each row once, with the weight of all that are equal, where many are: rows that are censored
    at one limit tell the same.
    """
    long = [part[0] for part in rows.parts if part.shape[1] == rows.width > 1]
    if not long:
        return rows
    seen, place = torch.stack(long).unique(dim=1, return_inverse=True)
    if 2 * seen.shape[1] > rows.width:
        return rows
    new = iter(seen)
    parts = tuple(
        next(new)[None] if part.shape[1] == rows.width > 1 else part for part in rows.parts
    )
    weights = torch.zeros_like(seen[0]).index_add_(0, place, rows.weights[0])
    return Segment(rows.log_prob, parts, weights[None])


def _known(start: Mapping[str, Any], own: Any) -> Mapping[str, Any]:
    for name in start:
        if name not in own.parameters:
            raise ValueError(f"expected one of {', '.join(own.parameters)} in start, got {name!r}")
    return start


def _require_shape(family: Family, observed: Observations) -> None:
    wanted, shape = ("(n, K)", 2) if family.columns else ("(n)", 1)
    if observed.values.dim() != shape:
        raise ValueError(
            f"expected data of shape {wanted} for {family.name}, got {tuple(observed.values.shape)}"
        )


def _of_rows(name: str, value: Any, observed: Observations) -> Tensor:
    """A number for all rows, or one for each row of the data as given; of trials a positive whole
    one.
    """
    wanted = "a positive integer" if name == "total_count" else "a finite number"
    try:
        number = torch.tensor(
            np.asarray(value.detach() if isinstance(value, Tensor) else value, dtype=np.float64)
        )
    except (TypeError, ValueError):
        raise TypeError(f"expected {name} to be {wanted}, got {value!r}") from None
    if value is None:
        raise TypeError(f"expected {name} to be {wanted}, got None")
    if number.dim() > 1 or (number.dim() == 1 and len(number) != observed.given):
        raise ValueError(
            f"expected one {name}, or one for each row, got shape {tuple(number.shape)}"
        )
    wrong = ~torch.isfinite(number)
    if name == "total_count":
        wrong |= ~((number > 0) & (number == number.round()))
    if bool(wrong.any()):
        raise ValueError(
            f"expected {name} to be {wanted}, got {float(number[wrong].reshape(-1)[0]):g}"
        )
    return number if number.dim() == 0 else number[observed.rows]


def _require_few_categories(observed: Observations) -> None:
    most = int(observed.values.argmax())
    if float(observed.values[most]) >= MOST_CATEGORIES:
        raise ValueError(
            f"expected at most {MOST_CATEGORIES} categories, got the number "
            f"{int(observed.values[most])} at row "
            f"{int(observed.rows[most])}; as texts, numbers may be any"
        )


# ---- Any likelihood ------------------------------------------------------------------------------


def _fit_likelihood(
    model: Likelihood | JointLikelihood, data: Any, weights: Any, options: FitOptions, missing: str
) -> Fit:
    joint = isinstance(model, JointLikelihood)
    terms = model.terms if isinstance(model, JointLikelihood) else (model,)
    for name, given in (("data", data), ("weights", weights)) if joint else ():
        if not (given is None and name == "weights") and not (
            isinstance(given, tuple) and len(given) == len(terms)
        ):
            raise ValueError(
                f"expected {name} as a tuple of {len(terms)}, one for each "
                f"likelihood, got {_what(given)}"
            )
    if joint and options.clusters is not None:
        raise ValueError("expected no clusters with a sum of likelihoods")
    segments, observations, at = [], [], 0
    for i, term in enumerate(terms):
        weight = (weights[i] if weights is not None else None) if joint else weights
        parts, observed = observe_parts(data[i] if joint else data, weight, missing=missing)
        numbers = torch.arange(at, at + len(observed.weights))
        segments.append(
            Segment(
                PlainRows(LikelihoodRows(term)),
                tuple(p[None] for p in parts),
                observed.weights[None],
                numbers,
            )
        )
        observations.append(observed)
        at += len(observed.weights)
    own = layout(dict(model.parameters), options.fixed, options.bounds)
    problem = Problem(tuple(segments), own)
    values = {
        name: p.transform(torch.zeros(p.free_shape, dtype=torch.float64))
        for name, p in own.parameters.items()
    }
    values |= {
        name: value_of(name, value, own.parameters[name])
        for name, value in _known(options.start, own).items()
    }
    start = own.numbers({name: value[None] for name, value in values.items()})
    # as the user wrote it, arguments checked
    for term, segment in zip(terms, segments, strict=True):
        term.rows(
            *(part[0] for part in segment.parts),
            **{n: own.natural(start)[n][0] for n in term.parameters},
        )
    with Line(model.name) as line:
        others = _others(start, options.seed)
        found = search(problem, start, Units(), 0.0, problem, options.progress or line, others)
    return searched_fit(model.name, found, _merged(observations), options, None)


def _others(start: Tensor, seed: int) -> Tensor:
    """Places around 0 and around the start, where a search that ended at no maximum tries again."""
    drawn = seeded(lambda: torch.randn(_TRIES, start.shape[1], dtype=torch.float64), seed)
    near = start + (1 + start.abs()) * drawn[_TRIES // 2 :]
    return torch.cat([torch.zeros_like(start), drawn[: _TRIES // 2], near])


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


def _again(
    family: Family, observed: Observations, given: dict[str, Tensor], options: FitOptions
) -> Any:
    """The search that a closed form saves, when its likelihood is asked for; none for what is not
    regular.
    """
    if family.by_formula_only:
        return None
    return partial(_search_family, family, observed, given, replace(options, progress=None))


def _unbounded(family: Family, observed: Observations, options: FitOptions) -> bool:
    """Whether data that are all equal let a density of several free parameters grow without bound
    on their value.
    """
    free = [name for name in family.parameters if name not in options.fixed]
    searched = family.start is not None or not (options.plain and observed.kind == "frequency")
    # else it is said which is not
    known = set(options.fixed) | set(options.start) <= set(family.parameters)
    return (
        searched
        and known
        and observed.equal
        and not family.discrete
        and len(free) > 1
        and not options.bounds
    )
