"""From a model and its data to the objective that is maximised."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nll.data.observations import Observations, observe_parts
from nll.data.weights import total, totals
from nll.estimation.closed_form import Each, all_equal, estimate_each
from nll.estimation.likelihood import JointLikelihood, Likelihood, LikelihoodRows
from nll.estimation.objective import Objective, maximise
from nll.estimation.options import FitOptions
from nll.estimation.rows import PlainRows, RowsObjective, Segment
from nll.estimation.samples import family_starts, known_ends, likelihood_starts
from nll.estimation.search.maximum import ended
from nll.estimation.search.search import search
from nll.estimation.search.solution import Solution, ordered
from nll.families.base import (
    Family,
    FamilyBlockMeans,
    FamilyMeans,
    FamilyRows,
    Sample,
    seeded,
)
from nll.families.log_cdf import Interval, Windowed
from nll.solvers.parameters import Params, layout
from nll.solvers.progress import Line
from nll.solvers.units import Units, units_of


def search_family(sample: Sample, options: FitOptions) -> Solution:
    family, observed = sample.family, sample.observed
    units = units_of(observed.values, family.units) if options.free else Units()
    values = units.data(observed.values)
    supplied = {name: units.data(value) for name, value in sample.given.items()}
    columns = values.shape[1] if family.columns else 1
    space = layout(family.constraints(columns), options.fixed, options.bounds)
    rows = _segments(family, observed, values, supplied, units)
    drawn = tuple(distinct(segment) for segment in rows) if observed.incomplete else rows
    segments = drawn
    if not (observed.incomplete or supplied):
        drawn = (merged(family, rows[0]),)
        segments = (summarised(family, drawn[0]),)
    objective = FamilyObjective(segments, space, sample=sample, units=units, drawn=drawn, each=rows)
    centred = values - supplied["loc"] if "loc" in supplied else values
    starts, others = family_starts(family, space, centred, observed.weights, options)
    with Line(family.name) as line:
        solution = search(
            objective,
            starts,
            units,
            _densities(family, observed),
            options.progress or line,
            others,
            family.unbounded is not None,
        )
    order = family.ordered if options.free else None
    return solution if order is None else ordered(solution, order)


def _densities(family: Family, observed: Observations) -> float:
    """The total weight of the rows whose probability is a density, with the unit 1 / scale."""
    if family.discrete or not family.units:
        return 0.0
    if observed.ends is None:
        return observed.n
    return float(observed.weights[observed.ends[0] == observed.ends[1]].sum())


def _segments(
    family: Family, observed: Observations, values: Tensor, supplied: Params, units: Units
) -> tuple[Segment, ...]:
    """The exact rows, and those known up to an interval."""
    count = len(values)
    fixed = tuple(value.expand(count) for value in supplied.values())
    window: tuple[Tensor, ...] = ()
    if observed.window is not None:
        # a window of all rows is one number
        window = tuple(units.data(end) for end in observed.window)
    places = torch.arange(count)

    def segment(log_prob: Any, data: tuple[Tensor, ...], rows: Tensor | None) -> Segment:
        if window:
            log_prob = Windowed(log_prob, Interval(family))
        parts, weights, numbers = (*window, *data, *fixed), observed.weights, places
        if rows is not None:
            parts = tuple(part if len(part) == 1 else part[rows] for part in parts)
            weights, numbers = weights[rows], numbers[rows]
        rows_of = tuple(part[None] for part in parts)
        return Segment(log_prob, rows_of, weights[None], numbers, observed.once)

    if observed.ends is None:
        return (segment(FamilyRows(family), (values,), None),)
    exact = observed.ends[0] == observed.ends[1]
    ends = tuple(units.data(end) for end in known_ends(observed))
    segments = []
    if bool(exact.any()):
        segments.append(segment(FamilyRows(family), (values,), exact))
    if not bool(exact.all()):
        segments.append(segment(Interval(family), ends, ~exact))
    return tuple(segments)


def merged(family: Family, rows: Segment) -> Segment:
    """Return each count once, with the weight of all that are equal; other rows as they are."""
    if family.columns or not family.discrete or summarised(family, rows) is not rows:
        return rows
    counts, place = rows.parts[0][0].unique(return_inverse=True)
    weights = torch.zeros_like(counts).index_add_(0, place, rows.weights[0])
    return Segment(rows.log_prob, (counts[None],), weights[None])


def summarised(family: Family, rows: Segment) -> Segment:
    """Return the fewest rows with the same likelihood: the means of the statistics, or the mean of
    each block; otherwise the rows.
    """
    values = rows.parts[0]
    if family.statistics is not None and family.means_tell_all(values):
        return mean_segment(family, values, rows.weights)
    if family.mean_log_prob is not None and rows.once:
        return rows._replace(log_prob=FamilyBlockMeans(family))
    return rows


def distinct(rows: Segment) -> Segment:
    """Return each row once, with the weight of all that are equal, if many are, such as rows
    censored at one limit.
    """
    vary = [part.shape[1] == rows.width > 1 for part in rows.parts]
    if not any(vary):
        return rows
    codes = place = torch.zeros(rows.width, dtype=torch.int64)
    for part, varies in zip(rows.parts, vary, strict=True):
        if varies:  # the column's values join the rows so far: far quicker than unique rows
            values, code = part[0].unique(return_inverse=True)
            codes, place = (place * len(values) + code).unique(return_inverse=True)
            if 2 * len(codes) > rows.width:
                return rows
    first = torch.empty_like(codes).scatter_(0, place, torch.arange(rows.width))
    parts = [
        part[:, first] if varies else part for part, varies in zip(rows.parts, vary, strict=True)
    ]
    weights = rows.weights.new_zeros(len(codes)).index_add_(0, place, rows.weights[0])
    return Segment(rows.log_prob, tuple(parts), weights[None])


def mean_segment(family: Family, values: Tensor, weights: Tensor) -> Segment:
    """Return the means of the sufficient statistics of values (B or 1, m), weighted (B, m)."""
    assert family.statistics is not None
    if len(weights) == len(values) == 1:  # one data set, whose sums have a shorter way
        sums = [s.reshape(1) for s in totals(weights[0], values[0], family.statistics)]
        n = total(weights[0]).reshape(1, 1)
    else:
        sums, n = totals(weights, values, family.statistics), total(weights)[:, None]
    return Segment(FamilyMeans(family), tuple(s[:, None] / n for s in sums), n)


@dataclass(frozen=True)
class FamilyObjective(RowsObjective):
    """The log-likelihood of a family's parameters, in the units of the search."""

    sample: Sample = field(kw_only=True)
    units: Units = field(kw_only=True)
    drawn: tuple[Segment, ...] = field(kw_only=True)  # the rows that the bootstrap draws
    each: tuple[Segment, ...] = field(kw_only=True)  # a row for each observation

    @property
    def observations(self) -> Objective:
        return RowsObjective(self.each, self.layout)

    @property
    def weights(self) -> Tensor:
        return RowsObjective(self.drawn, self.layout).weights

    def reweighted(self, weights: Tensor) -> RowsObjective:
        drawn = RowsObjective(self.drawn, self.layout).reweighted(weights)
        if self.sample.observed.incomplete or self.sample.given:
            return drawn
        (rows,) = drawn.segments
        if self.sample.family.mean_log_prob is not None and self.drawn[0].once:
            rows = copied(rows)
        return replace(drawn, segments=(summarised(self.sample.family, rows),))

    def simulated(self, params: Params, count: int, rng: np.random.Generator) -> Objective:
        family, observed = self.sample.family, self.sample.observed
        if observed.incomplete or observed.kind != "frequency":
            raise ValueError(
                "expected parametric=False for rows that are censored, truncated or "
                "weighted by a design"
            )
        seed = int(rng.integers(1 << 62))
        values = self.units.data(self.sample.simulated(params, count, seed))
        given = self.sample.given_each
        supplied = {name: self.units.data(value) for name, value in given.items()}
        columns = (value.expand(values.shape[1])[None] for value in supplied.values())
        ones = torch.ones(1, values.shape[1], dtype=torch.float64)
        rows = Segment(FamilyRows(family), (values, *columns), ones, once=True)
        rows = rows if supplied else summarised(family, rows)
        return RowsObjective((rows,), self.layout, count)


def copied(rows: Segment) -> Segment:
    """Return each row of several data sets as often as its weight says; their sums are equal."""
    count, width = rows.weights.shape
    every = torch.arange(width).repeat(count)
    index = every.repeat_interleave(rows.weights.long().reshape(-1)).reshape(count, width)
    ones = torch.ones(1, width, dtype=torch.float64)
    return Segment(rows.log_prob, (rows.parts[0][0][index],), ones, once=True)


@dataclass(frozen=True)
class LikelihoodObjective(RowsObjective):
    """The log-likelihood of a user's likelihood, or of a sum of several."""

    @property
    def strata(self) -> tuple[int, ...]:
        # the data sets of a sum are drawn separately
        return tuple(segment.width for segment in self.segments)

    def simulated(self, params: Params, count: int, rng: np.random.Generator) -> Objective:
        segments = tuple(_simulated(segment, params, count, rng) for segment in self.segments)
        return RowsObjective(segments, self.layout, count)


def _simulated(segment: Segment, params: Params, count: int, rng: np.random.Generator) -> Segment:
    """Draw the rows of a likelihood given by distributions; weights repeat rows."""
    rows: Any = segment.log_prob
    parts = tuple(part[0] for part in segment.parts)
    distribution: Any = rows.function.distribution(parts, params)
    if distribution is None:
        raise ValueError(
            "expected parametric=False for a likelihood that is not given as a "
            "distribution of the data"
        )
    if len(distribution.batch_shape) == 0:  # the same for every row
        distribution = distribution.expand(torch.Size((segment.width,)))
    seed = int(rng.integers(1 << 62))
    values = seeded(lambda: distribution.sample(torch.Size((count,))), seed)
    fixed = tuple(part[None] for part in parts[:-1])
    return segment._replace(parts=(*fixed, values.double()))


def likelihood_data(
    model: Likelihood | JointLikelihood, data: Any, weights: Any, missing: str
) -> tuple[tuple[Segment, ...], Observations]:
    """Parse the data of a likelihood, or the tuple of those of a sum: a segment for each term, and
    the observations of all, one after another.

    Raises: ValueError for a tuple of another length, or what is wrong with the rows.
    """
    count = len(model.terms)
    each_data, each_weights = (data,), (weights,)
    if isinstance(model, JointLikelihood):
        each_data = _one_each("data", data, count)
        each_weights = (None,) * count
        if weights is not None:
            each_weights = _one_each("weights", weights, count)
    segments, observations, begin = [], [], 0
    for term, values, weight in zip(model.terms, each_data, each_weights, strict=True):
        parts, observed = observe_parts(values, weight, missing=missing)
        end = begin + len(observed.weights)
        rows, blocks = PlainRows(LikelihoodRows(term)), tuple(part[None] for part in parts)
        segments.append(Segment(rows, blocks, observed.weights[None], torch.arange(begin, end)))
        observations.append(observed)
        begin = end
    return tuple(segments), _merged(observations)


def _one_each(name: str, values: Any, count: int) -> tuple[Any, ...]:
    if not isinstance(values, tuple) or len(values) != count:
        raise ValueError(
            f"expected {name} as a tuple of {count}, one for each likelihood, got "
            f"{type(values).__name__}"
        )
    return values


def _merged(observations: list[Observations]) -> Observations:
    if len(observations) == 1:
        return observations[0]
    kinds = {observed.kind for observed in observations}
    weights = torch.cat([observed.weights for observed in observations])
    rows = torch.cat([observed.rows for observed in observations])
    dropped = sum(observed.dropped for observed in observations)
    kind = kinds.pop() if len(kinds) == 1 else "importance"
    return Observations(weights, weights, rows, len(rows), dropped, None, kind)


def search_likelihood(
    model: Likelihood | JointLikelihood, segments: tuple[Segment, ...], options: FitOptions
) -> Solution:
    space = layout(dict(model.parameters), options.fixed, options.bounds)
    objective = LikelihoodObjective(segments, space)
    start, others = likelihood_starts(space, options)
    params = {name: value[0] for name, value in space.natural(start).items()}
    # once as the user wrote it, with its arguments checked
    for term, segment in zip(model.terms, segments, strict=True):
        parts = (part[0] for part in segment.parts)
        term.rows(*parts, **{name: params[name] for name in term.parameters})
    with Line(model.name) as line:
        progress = options.progress or line
        return search(objective, start, Units(), 0.0, progress, others)


def fit_each(family: Family, values: Tensor, weights: Tensor) -> Each:
    """Fit each row of values (B or 1, m), weighted (B, m)."""
    return (search_each if family.estimate is None else estimate_each)(family, values, weights)


def search_each(family: Family, values: Tensor, weights: Tensor) -> Each:
    """Search for the maximum for each row of values (B or 1, m), weighted (B, m)."""
    space, count = layout(family.constraints(1)), len(weights)
    assert family.start is not None
    units = units_of(values, family.units)
    values = units.data(values)
    start = space.numbers(family.start(values, weights))
    rows = summarised(family, Segment(FamilyRows(family), (values,), weights))
    objective = RowsObjective((rows,), space, count)
    optima = maximise(objective, start)
    factor, failed = torch.linalg.cholesky_ex(optima.sums.information)
    settled = optima.reached & ~all_equal(values, weights)
    reached = settled & (failed == 0)
    inverse = torch.full_like(factor, torch.nan)
    inverse[reached] = torch.cholesky_inverse(factor[reached])
    reached &= ended(optima, objective)
    params = space.natural(optima.theta)
    jacobian = units.factors(params)[..., None] * space.jacobian(optima.theta)
    size = jacobian.shape[1]
    covariance = torch.full((count, size, size), torch.nan, dtype=torch.float64)
    covariance[reached] = jacobian[reached] @ inverse[reached] @ jacobian[reached].mT
    log_likelihood = optima.sums.log_likelihood
    if not family.discrete:
        log_likelihood = log_likelihood - total(weights) * units.scale.log()
    params = {name: value.detach() for name, value in units.given(params).items()}
    return Each(params, covariance, log_likelihood, reached, settled)
