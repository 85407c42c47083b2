"""The bootstrap: the fit again on data drawn from the rows, or from the fitted model, all
replicates side by side.

Efron and Tibshirani (1993), "An introduction to the bootstrap". A replicate of the rows is the same
rows with other frequencies, so that the data are not copied.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nll.data.observations import total, totals
from nll.estimation.diagnostics import ended
from nll.estimation.grouped import fit_each
from nll.estimation.inference import covariance as cov
from nll.estimation.likelihood import LikelihoodRows
from nll.estimation.maximise import Solution, inward
from nll.estimation.objective import PlainRows, Problem, Segment
from nll.families.base import (
    Family,
    FamilyBlockMeans,
    FamilyMeans,
    FamilyRows,
    Sample,
    seeded,
    simulate,
)
from nll.solvers.parameters import Params
from nll.solvers.trust_region import Optima

_NUMBERS = 1 << 22  # drawn at once
METHODS = ("percentile", "basic", "bca")


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Estimates from replicates of the data."""

    model: str
    estimate: Params
    params: Params  # (R, *shape), of the replicates that have a maximum
    failed: int  # replicates without one
    acceleration: Tensor | None  # (P), of the flattened parameters; None: not known

    def __len__(self) -> int:
        """How many replicates have a maximum."""
        return len(next(iter(self.params.values())))

    @property
    def flat(self) -> Tensor:
        """(R, P)."""
        return torch.cat([value.reshape(len(self), -1) for value in self.params.values()], 1)

    @property
    def covariance(self) -> Tensor:
        """(P, P), of the flattened parameters over the replicates."""
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
        """Confidence intervals: name -> (*shape, 2).

        Args:
            level: in (0, 1).
            method: "percentile", the quantiles of the replicates; "basic", these mirrored at the
                estimate; "bca", the percentiles corrected for bias and for an error that changes
                with the parameter (Efron 1987). None: bca where the acceleration is known, else
                    percentile.
        """
        if not 0.0 < level < 1.0:
            raise ValueError(f"expected level in (0, 1), got {level}")
        known = METHODS if self.acceleration is not None else METHODS[:2]
        method = method or ("bca" if self.acceleration is not None else "percentile")
        if method not in known:
            raise ValueError(f"expected method {' or '.join(map(repr, known))}, got {method!r}")
        tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        flat, estimate = (
            self.flat,
            torch.cat([value.reshape(-1) for value in self.estimate.values()]),
        )
        if method == "bca":
            ends = torch.stack(
                [_quantiles(flat[:, p], self._corrected(tails, p)) for p in range(flat.shape[1])]
            )
        else:
            ends = torch.stack([_quantiles(column, tails) for column in flat.unbind(1)])
        if method == "basic":
            ends = 2 * estimate[:, None] - ends.flip(1)
        parts = ends.split([value.numel() for value in self.estimate.values()])
        return {
            n: part.reshape(*v.shape, 2)
            for (n, v), part in zip(self.estimate.items(), parts, strict=True)
        }

    def _corrected(self, tails: Tensor, p: int) -> Tensor:
        """Phi(b + (b + z) / (1 - a (b + z))), b the normal quantile of the share of replicates
        below the estimate.
        """
        assert self.acceleration is not None
        estimate = torch.cat([value.reshape(-1) for value in self.estimate.values()])[p]
        column = self.flat[:, p]
        share = ((column < estimate).double().mean() + (column <= estimate).double().mean()) / 2
        least = 1 / (2 * len(self))
        b = torch.special.ndtri(share.clamp(least, 1 - least))
        z = b + torch.special.ndtri(tails)
        return torch.special.ndtr(b + z / (1 - self.acceleration[p] * z))

    def __str__(self) -> str:
        """One line."""
        return f"{self.model}: {len(self)} bootstrap replicates, {self.failed} without a maximum"


def _quantiles(column: Tensor, at: Tensor) -> Tensor:
    return torch.from_numpy(np.quantile(column.numpy(), at.numpy()))


def bootstrap(
    model: str,
    params: Params,
    sample: Sample | None,
    found: Callable[[], Solution] | None,
    replicates: int,
    parametric: bool,
    seed: int,
) -> Bootstrap:
    """Draw and fit, as `Fit.bootstrap` says; one of `sample` and `found` is there."""
    rng = np.random.default_rng(seed)
    if sample is not None and sample.by_formula:
        estimates, reached = _by_formula(sample, params, replicates, parametric, rng)
    else:
        assert found is not None
        estimates, reached = _by_search(found(), sample, replicates, parametric, rng)
    kept = {name: value[reached] for name, value in estimates.items()}
    if int(reached.sum()) < 2:
        got = f"{int(reached.sum())} of {replicates}"
        raise ValueError(
            f"expected at least 2 replicates with a maximum inside of the parameter "
            f"space, got {got}"
        )
    acceleration = None if parametric or found is None else _acceleration(found())
    return Bootstrap(model, params, kept, replicates - int(reached.sum()), acceleration)


def _by_formula(
    sample: Sample, params: Params, replicates: int, parametric: bool, rng: np.random.Generator
) -> tuple[Params, Tensor]:
    family, observed = sample.family, sample.observed
    assert family.estimate is not None
    plain = not (family.columns or family.simplex or sample.given)
    count = round(observed.n) if parametric else len(observed.values)
    parts = []
    for size in _chunks(replicates, count):
        if parametric:
            values = _drawn(family, params, sample.given, observed.weights, (size, count), rng)
            weights = torch.ones(size, count, dtype=torch.float64)
        else:
            values, weights = observed.values[None], resampled(observed.weights, size, rng)
        if plain:
            each = fit_each(family, values, weights)
            parts.append((each.params, each.reached))
            continue
        fits = [
            family.estimate(
                values[i % len(values)],
                weights[i],
                **_repeated(sample.given, observed.weights, parametric),
            )
            for i in range(size)
        ]
        found = {name: torch.stack([fit[name] for fit in fits]) for name in params}
        parts.append(
            (
                found,
                torch.stack([v.reshape(size, -1).isfinite().all(1) for v in found.values()]).all(0),
            )
        )
    return _joined(parts)


def _by_search(
    found: Solution,
    sample: Sample | None,
    replicates: int,
    parametric: bool,
    rng: np.random.Generator,
) -> tuple[Params, Tensor]:
    rows = sum(segment.width for segment in found.problem.segments)
    count = round(float(found.each.unit)) if parametric else rows
    parts = []
    for size in _chunks(replicates, count):
        if not parametric and sample is not None and _plain_rows(found, sample):
            segments = (_resampled_rows(found.problem.segments[0], size, rng),)
        elif not parametric:
            segments = _resampled_segments(found, size, rng)
        elif sample is not None:
            segments = (_drawn_segment(found, sample, size, rng),)
        else:
            segments = tuple(
                _drawn_rows(found, segment, size, rng) for segment in found.each.segments
            )
        problem = Problem(segments, found.problem.layout, size)
        top: Optima = problem.maximise(inward(found).expand(size, -1).clone())
        natural = found.units.given(problem.layout.natural(top.theta))
        parts.append(
            ({name: value.detach() for name, value in natural.items()}, ended(top, problem))
        )
    return _joined(parts)


def resampled(weights: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """(count, n): how often each row is drawn when as many are drawn, with replacement, as the
    weights add up to.
    """
    n, size = len(weights), round(float(total(weights)))
    if bool((weights == weights[0]).all()) and size == n:
        drawn = rng.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
        return torch.from_numpy(
            np.bincount(drawn.reshape(-1), minlength=count * n).reshape(count, n)
        ).double()
    shares = (weights / weights.sum()).numpy()
    return torch.from_numpy(rng.multinomial(size, shares, count)).double()


def _plain_rows(found: Solution, sample: Sample) -> bool:
    """Whether the rows are numbers that were seen once each: then copying the drawn ones saves
    their weights.
    """
    first = found.problem.segments[0]
    rows = isinstance(first.log_prob, (FamilyRows, FamilyBlockMeans)) and first.once
    return rows and not (sample.family.columns or sample.observed.incomplete)


def _resampled_rows(segment: Segment, count: int, rng: np.random.Generator) -> Segment:
    """As many rows, drawn with replacement, for each replicate."""
    drawn = torch.from_numpy(rng.integers(0, segment.width, (count, segment.width)))
    parts = tuple(part[0][drawn] if part.shape[1] > 1 else part for part in segment.parts)
    return segment._replace(
        parts=parts, weights=torch.ones((), dtype=torch.float64).expand(count, segment.width)
    )


def _resampled_segments(
    found: Solution, count: int, rng: np.random.Generator
) -> tuple[Segment, ...]:
    """The segments' rows with drawn weights; rows of one data set are drawn from all its
    segments.
    """
    segments = found.problem.segments
    means = isinstance(segments[0].log_prob, FamilyMeans)
    segments = found.each.segments if means else segments
    if found.weighted:  # a row is drawn with its weight
        drawn = resampled(
            torch.ones(sum(s.width for s in segments), dtype=torch.float64), count, rng
        )
        drawn = drawn * torch.cat([segment.weights[0] for segment in segments])
    elif isinstance(segments[0].log_prob, PlainRows):  # of a sum of likelihoods each on its own
        drawn = torch.cat([resampled(segment.weights[0], count, rng) for segment in segments], 1)
    else:
        drawn = resampled(torch.cat([segment.weights[0] for segment in segments]), count, rng)
    parts = drawn.split([segment.width for segment in segments], 1)
    if not means:
        return tuple(
            segment._replace(weights=part) for segment, part in zip(segments, parts, strict=True)
        )
    log_prob: Any = found.problem.segments[0].log_prob
    return (_means(log_prob.family, segments[0].parts[0], drawn),)


def _means(family: Family, values: Tensor, weights: Tensor) -> Segment:
    assert family.statistics is not None
    n = total(weights)[:, None]
    means = tuple(s[:, None] / n for s in totals(weights, values, family.statistics))
    return Segment(FamilyMeans(family), means, n)


def _drawn_segment(
    found: Solution, sample: Sample, count: int, rng: np.random.Generator
) -> Segment:
    """Rows of a family, drawn from it at the estimate."""
    family, observed = sample.family, sample.observed
    if observed.incomplete or observed.kind != "frequency":
        raise ValueError(
            "expected parametric=False for rows that are censored, truncated or "
            "weighted by a design"
        )
    n = round(observed.n)
    values = _drawn(family, found.params, sample.given, observed.weights, (count, n), rng)
    own = found.units.data(values)
    if family.statistics is not None and not sample.given and family.means_tell_all(own):
        return _means(family, own, torch.ones(count, n, dtype=torch.float64))
    given = _repeated(sample.given, observed.weights, True)
    units = found.units
    shifted = tuple((units.data(v) if family.units else v).expand(n)[None] for v in given.values())
    rows = FamilyRows(family) if family.mean_log_prob is None else FamilyBlockMeans(family)
    return Segment(rows, (own, *shifted), torch.ones((), dtype=torch.float64).expand(count, n))


def _drawn_rows(found: Solution, segment: Segment, count: int, rng: np.random.Generator) -> Segment:
    """Rows of a likelihood that is given by distributions, drawn from them at the estimate; weights
    repeat rows.
    """
    rows = segment.log_prob.function if isinstance(segment.log_prob, PlainRows) else None
    parts = tuple(part[0] for part in segment.parts)
    known = rows.distribution(parts, found.params) if isinstance(rows, LikelihoodRows) else None
    if known is None or found.weighted:
        raise ValueError(
            "expected parametric=False for a likelihood that is not given as a "
            "distribution of the data"
        )
    if len(known.batch_shape) == 0:  # the same for every row
        known = known.expand(torch.Size((segment.width,)))
    own = tuple(part.expand(1, *part.shape) for part in parts[:-1])
    values = seeded(lambda: known.sample(torch.Size((count,))), _seed(rng))
    return segment._replace(
        parts=(*own, values.double()), weights=segment.weights.expand(count, -1)
    )


def _drawn(
    family: Family,
    params: Params,
    given: Params,
    weights: Tensor,
    shape: tuple[int, int],
    rng: np.random.Generator,
) -> Tensor:
    if family.columns:
        raise ValueError(f"expected parametric=False for {family.name}")
    return simulate(family, {**params, **_repeated(given, weights, True)}, shape, _seed(rng))


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(1 << 62))


def _repeated(given: Params, weights: Tensor, copies: bool) -> Params:
    """The given numbers of each row, as often as the row was seen."""
    if not copies:
        return given
    return {
        n: v if v.dim() == 0 else v.repeat_interleave(weights.round().long())
        for n, v in given.items()
    }


def _acceleration(found: Solution) -> Tensor:
    """sum u^3 / 6 (sum u^2)^(3/2), u the influence of each row on the estimate (Efron 1987, section
    7).
    """
    influence = (
        found.each.scores(found.theta)
        @ cov.inverse(found.optimum.sums.information)
        @ found.jacobian.T
    )
    weights = torch.cat([segment.weights[0] for segment in found.each.segments])[:, None]
    skew = (weights * influence**3).sum(0) / (6 * (weights * influence**2).sum(0) ** 1.5)
    return skew.nan_to_num(0.0)  # of what is fixed


def _chunks(replicates: int, rows: int) -> Iterator[int]:
    size = max(1, _NUMBERS // max(1, rows))
    yield from (min(size, replicates - at) for at in range(0, replicates, size))


def _joined(parts: list[tuple[Params, Tensor]]) -> tuple[Params, Tensor]:
    names = parts[0][0]
    return {n: torch.cat([found[n] for found, _ in parts]) for n in names}, torch.cat(
        [there for _, there in parts]
    )
