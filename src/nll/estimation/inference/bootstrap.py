"""The bootstrap: fits to data drawn from the rows, or from the fitted model, all replicates side by
side.

Efron and Tibshirani (1993), "An introduction to the bootstrap". A replicate of the rows is the same
rows with other frequencies, so that the data are not copied.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nll.data.weights import total
from nll.estimation.inference import covariance as cov
from nll.estimation.inference.wald import require_level
from nll.estimation.models import fit_each
from nll.estimation.objective import Objective, maximise
from nll.estimation.search.maximum import ended
from nll.estimation.search.solution import Solution, inward
from nll.families.base import Sample
from nll.solvers.parameters import Params, flatten, unflatten

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
        draw = _SearchReplicates(solution, parametric, rng)
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
            seed = int(self.rng.integers(1 << 62))
            values = self.sample.simulated(self.params, size, seed)
            weights = torch.ones(size, self.rows, dtype=torch.float64)
            supplied = self.sample.given_each
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

    def __init__(self, solution: Solution, parametric: bool, rng: np.random.Generator) -> None:
        self.solution, self.parametric, self.rng = solution, parametric, rng
        self.rows = len(solution.objective.weights)
        if parametric:
            self.rows = round(float(solution.objective.unit))

    def fit(self, size: int) -> tuple[Params, Tensor]:
        """Return the estimates of `size` replicates, and which are maxima inside."""
        solution, objective = self.solution, self._drawn(size)
        optima = maximise(objective, inward(solution).expand(size, -1).clone())
        params = solution.units.given(objective.layout.natural(optima.theta))
        return {n: value.detach() for n, value in params.items()}, ended(optima, objective)

    def _drawn(self, size: int) -> Objective:
        objective, weights = self.solution.objective, self.solution.objective.weights
        if self.parametric:
            return objective.simulated(self.solution.params, size, self.rng)
        if self.solution.weighted:  # a row is drawn with its weight
            times = resampled(torch.ones_like(weights), size, self.rng)
            return objective.reweighted(times * weights)
        drawn = [resampled(w, size, self.rng) for w in weights.split(objective.strata)]
        return objective.reweighted(torch.cat(drawn, 1))


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


def _acceleration(solution: Solution) -> Tensor:
    """sum u^3 / 6 (sum u^2)^(3/2), u the influence of each row on the estimate (Efron 1987, section
    7).
    """
    observations = solution.objective.observations
    scores, weights = observations.scores(solution.theta), observations.weights[:, None]
    influence = scores @ cov.inverse(solution.optimum.sums.information) @ solution.jacobian.T
    skew = (weights * influence**3).sum(0) / (6 * (weights * influence**2).sum(0) ** 1.5)
    return skew.nan_to_num(0.0)  # of fixed parameters
