"""The bootstrap: fits to data drawn from the rows, or from the fitted model, all replicates side by
side.

Efron and Tibshirani (1993), "An introduction to the bootstrap". A replicate of the rows is the same
rows with other frequencies, so that the data are not copied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nll.data.weights import total
from nll.estimation.diagnostics import ended
from nll.estimation.inference import covariance as cov
from nll.estimation.inference.wald import require_level
from nll.estimation.likelihood import LikelihoodRows
from nll.estimation.maximise import Solution, inward
from nll.estimation.models import fit_each, mean_segment
from nll.estimation.objective import PlainRows, Problem, Segment
from nll.families.base import (
    FamilyBlockMeans,
    FamilyMeans,
    FamilyRows,
    Sample,
    seeded,
    simulate,
)
from nll.solvers.parameters import Params
from nll.solvers.vectors import flatten, unflatten

_NUMBERS = 1 << 22  # drawn at once
METHODS = ("percentile", "basic", "bca")


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Estimates from replicates of the data."""

    model: str
    estimate: Params
    params: Params  # (R, *shape), of the replicates that have a maximum
    failed: int  # replicates without one
    acceleration: Tensor | None  # (P), of the flattened parameters; None: unknown

    def __len__(self) -> int:
        return len(next(iter(self.params.values())))

    @property
    def flat(self) -> Tensor:
        """The flattened parameters of each replicate, (R, P)."""
        return torch.cat([value.reshape(len(self), -1) for value in self.params.values()], 1)

    @property
    def covariance(self) -> Tensor:
        """The covariance of the flattened parameters over the replicates, (P, P)."""
        return torch.cov(self.flat.T).reshape(self.flat.shape[1], -1)

    @property
    def standard_errors(self) -> Params:
        """The standard deviations over the replicates."""
        return {name: value.std(0) for name, value in self.params.items()}

    @property
    def bias(self) -> Params:
        """The mean over the replicates less the estimate."""
        return {name: value.mean(0) - self.estimate[name] for name, value in self.params.items()}

    def interval(self, level: float = 0.95, method: str | None = None) -> Params:
        """Return confidence intervals: name -> (*shape, 2).

        Args:
            level: in (0, 1).
            method: "percentile", the quantiles of the replicates; "basic", these mirrored at the
                estimate; "bca", the percentiles corrected for bias and for a standard error that
                changes with the parameter (Efron 1987). None: bca if the acceleration is known,
                otherwise percentile.
        """
        require_level(level)
        methods = METHODS if self.acceleration is not None else METHODS[:2]
        method = method or ("bca" if self.acceleration is not None else "percentile")
        if method not in methods:
            raise ValueError(f"expected method {' or '.join(map(repr, methods))}, got {method!r}")
        tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        estimate, ends = flatten(self.estimate), []
        for p, column in enumerate(self.flat.unbind(1)):
            shares = tails if method != "bca" else self._corrected(tails, column, estimate[p], p)
            ends.append(torch.from_numpy(np.quantile(column.numpy(), shares.numpy())))
        bounds = torch.stack(ends)
        if method == "basic":
            bounds = 2 * estimate[:, None] - bounds.flip(1)
        return unflatten(bounds, self.estimate)

    def _corrected(self, tails: Tensor, column: Tensor, estimate: Tensor, p: int) -> Tensor:
        """Phi(b + (b + z) / (1 - a (b + z))), b the normal quantile of the share of replicates
        below the estimate.
        """
        assert self.acceleration is not None
        share = ((column < estimate).double().mean() + (column <= estimate).double().mean()) / 2
        least = 1 / (2 * len(self))
        b = torch.special.ndtri(share.clamp(least, 1 - least))
        z = b + torch.special.ndtri(tails)
        return torch.special.ndtr(b + z / (1 - self.acceleration[p] * z))

    def __str__(self) -> str:
        return f"{self.model}: {len(self)} bootstrap replicates, {self.failed} without a maximum"


def bootstrap(
    model: str,
    params: Params,
    sample: Sample | None,
    search: Callable[[], Solution] | None,
    replicates: int,
    parametric: bool,
    seed: int,
) -> Bootstrap:
    """Draw and fit, as in `Fit.bootstrap`; a closed form needs the sample, others the search."""
    rng = np.random.default_rng(seed)
    by_formula = sample is not None and sample.by_formula
    # the search that a formula saves is needed for the acceleration only
    solution = None if search is None or (by_formula and parametric) else search()
    if sample is not None and by_formula:
        draw = _FormulaReplicates(sample, params, parametric, rng)
    else:
        assert solution is not None
        draw = _SearchReplicates(solution, sample, parametric, rng)
    size, blocks = max(1, _NUMBERS // max(1, draw.rows)), []
    for begin in range(0, replicates, size):
        blocks.append(draw.fit(min(size, replicates - begin)))
    reached = torch.cat([block for _, block in blocks])
    count = int(reached.sum())
    if count < 2:
        raise ValueError(
            f"expected at least 2 replicates with a maximum inside the parameter space, got "
            f"{count} of {replicates}"
        )
    estimates = {n: torch.cat([each[n] for each, _ in blocks])[reached] for n in blocks[0][0]}
    acceleration = None if parametric or solution is None else _acceleration(solution)
    return Bootstrap(model, params, estimates, replicates - count, acceleration)


class _FormulaReplicates:
    """Replicates of a sample whose estimate is a formula."""

    def __init__(
        self, sample: Sample, params: Params, parametric: bool, rng: np.random.Generator
    ) -> None:
        self.sample, self.params, self.parametric, self.rng = sample, params, parametric, rng
        observed = sample.observed
        self.rows = round(observed.n) if parametric else len(observed.values)

    def fit(self, size: int) -> tuple[Params, Tensor]:
        """Return the estimates of `size` replicates, and which are finite."""
        family, observed, supplied = self.sample.family, self.sample.observed, self.sample.given
        assert family.estimate is not None
        if self.parametric:
            values = _simulated(self.sample, self.params, size, self.rng)
            weights = torch.ones(size, self.rows, dtype=torch.float64)
            supplied = _per_row(self.sample)
        else:
            values, weights = observed.values[None], resampled(observed.weights, size, self.rng)
        if not (family.columns or family.simplex or supplied):
            each = fit_each(family, values, weights)
            return each.params, each.reached
        fits = [
            family.estimate(values[i % len(values)], weights[i], **supplied) for i in range(size)
        ]
        estimates = {name: torch.stack([fit[name] for fit in fits]) for name in self.params}
        finite = [value.reshape(size, -1).isfinite().all(1) for value in estimates.values()]
        return estimates, torch.stack(finite).all(0)


class _SearchReplicates:
    """Replicates of a likelihood that is searched again."""

    def __init__(
        self, solution: Solution, sample: Sample | None, parametric: bool, rng: np.random.Generator
    ) -> None:
        self.solution, self.sample, self.rng = solution, sample, rng
        self.rows = solution.problem.width
        self.segments = self._resampled
        if parametric:
            self.rows = round(float(solution.each.unit))
            self.segments = self._simulated_rows if sample is None else self._simulated_sample

    def fit(self, size: int) -> tuple[Params, Tensor]:
        """Return the estimates of `size` replicates, and which are maxima inside."""
        solution = self.solution
        problem = Problem(tuple(self.segments(size)), solution.problem.layout, size)
        optima = problem.maximise(inward(solution).expand(size, -1).clone())
        params = solution.units.given(problem.layout.natural(optima.theta))
        return {n: value.detach() for n, value in params.items()}, ended(optima, problem)

    def _resampled(self, size: int) -> list[Segment]:
        """The rows with drawn weights, or copies of the drawn rows where that is cheaper."""
        solution, sample = self.solution, self.sample
        first = solution.problem.segments[0]
        if sample is not None and _is_copied(first, sample):
            drawn = torch.from_numpy(self.rng.integers(0, first.width, (size, first.width)))
            parts = tuple(p[0][drawn] if p.shape[1] > 1 else p for p in first.parts)
            return [first._replace(parts=parts, weights=_ones(size, first.width))]
        segments = solution.problem.segments
        means = isinstance(first.log_prob, FamilyMeans)
        if means:
            segments = solution.each.segments
        weights = self._drawn_weights(segments, size)
        if means and sample is not None:
            return [mean_segment(sample.family, segments[0].parts[0], torch.cat(weights, 1))]
        return [s._replace(weights=w) for s, w in zip(segments, weights, strict=True)]

    def _drawn_weights(self, segments: tuple[Segment, ...], size: int) -> list[Tensor]:
        """The weights of the rows of each segment, (size, m); the rows of one data set are drawn
        from all its segments.
        """
        weights = [segment.weights[0] for segment in segments]
        widths = [len(w) for w in weights]
        if self.solution.weighted:  # a row is drawn with its weight
            once = torch.ones(sum(widths), dtype=torch.float64)
            drawn = resampled(once, size, self.rng) * torch.cat(weights)
        elif isinstance(segments[0].log_prob, PlainRows):  # each term of a sum separately
            drawn = torch.cat([resampled(w, size, self.rng) for w in weights], 1)
        else:
            drawn = resampled(torch.cat(weights), size, self.rng)
        return list(drawn.split(widths, 1))

    def _simulated_sample(self, size: int) -> list[Segment]:
        assert self.sample is not None
        family, observed = self.sample.family, self.sample.observed
        if observed.incomplete or observed.kind != "frequency":
            raise ValueError(
                "expected parametric=False for rows that are censored, truncated or "
                "weighted by a design"
            )
        units, supplied = self.solution.units, _per_row(self.sample)
        values = units.data(_simulated(self.sample, self.solution.params, size, self.rng))
        if family.statistics is not None and not supplied and family.means_tell_all(values):
            return [mean_segment(family, values, torch.ones_like(values))]
        if family.units:
            supplied = {name: units.data(value) for name, value in supplied.items()}
        columns = (value.expand(values.shape[1])[None] for value in supplied.values())
        rows = FamilyRows(family) if family.mean_log_prob is None else FamilyBlockMeans(family)
        return [Segment(rows, (values, *columns), _ones(*values.shape))]

    def _simulated_rows(self, size: int) -> list[Segment]:
        return [self._simulated_term(segment, size) for segment in self.solution.each.segments]

    def _simulated_term(self, segment: Segment, size: int) -> Segment:
        """Rows of a likelihood given by distributions, drawn at the estimate; weights repeat
        rows.
        """
        rows = segment.log_prob.function if isinstance(segment.log_prob, PlainRows) else None
        parts = tuple(part[0] for part in segment.parts)
        distribution = None
        if isinstance(rows, LikelihoodRows) and not self.solution.weighted:
            distribution = rows.distribution(parts, self.solution.params)
        if distribution is None:
            raise ValueError(
                "expected parametric=False for a likelihood that is not given as a "
                "distribution of the data"
            )
        if len(distribution.batch_shape) == 0:  # the same for every row
            distribution = distribution.expand(torch.Size((segment.width,)))
        fixed = tuple(part.expand(1, *part.shape) for part in parts[:-1])
        draw: Any = distribution
        values = seeded(lambda: draw.sample(torch.Size((size,))), _seed(self.rng))
        weights = segment.weights.expand(size, -1)
        return segment._replace(parts=(*fixed, values.double()), weights=weights)


def _is_copied(rows: Segment, sample: Sample) -> bool:
    """Whether the rows are numbers seen once each: copying the drawn ones saves their weights."""
    plain = isinstance(rows.log_prob, (FamilyRows, FamilyBlockMeans)) and rows.once
    return plain and not (sample.family.columns or sample.observed.incomplete)


def _ones(size: int, width: int) -> Tensor:
    return torch.ones((), dtype=torch.float64).expand(size, width)


def resampled(weights: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """Return how often each row is drawn (count, n), with as many draws, with replacement, as the
    weights add up to.
    """
    n, size = len(weights), round(float(total(weights)))
    if bool((weights == weights[0]).all()) and size == n:
        drawn = rng.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
        counts = np.bincount(drawn.reshape(-1), minlength=count * n)
        return torch.from_numpy(counts.reshape(count, n)).double()
    shares = (weights / weights.sum()).numpy()
    return torch.from_numpy(rng.multinomial(size, shares, count)).double()


def _simulated(sample: Sample, params: Params, size: int, rng: np.random.Generator) -> Tensor:
    if sample.family.columns:
        raise ValueError(f"expected parametric=False for {sample.family.name}")
    shape = (size, round(sample.observed.n))
    return simulate(sample.family, {**params, **_per_row(sample)}, shape, _seed(rng))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(1 << 62))


def _per_row(sample: Sample) -> Params:
    """The supplied parameters of each row, as often as the row was seen."""
    counts = sample.observed.weights.round().long()
    return {
        name: value if value.dim() == 0 else value.repeat_interleave(counts)
        for name, value in sample.given.items()
    }


def _acceleration(solution: Solution) -> Tensor:
    """sum u^3 / 6 (sum u^2)^(3/2), u the influence of each row on the estimate (Efron 1987, section
    7).
    """
    scores = solution.each.scores(solution.theta)
    influence = scores @ cov.inverse(solution.optimum.sums.information) @ solution.jacobian.T
    weights = torch.cat([segment.weights[0] for segment in solution.each.segments])[:, None]
    skew = (weights * influence**3).sum(0) / (6 * (weights * influence**2).sum(0) ** 1.5)
    return skew.nan_to_num(0.0)  # of fixed parameters
