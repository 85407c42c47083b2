"""Test whether a fitted family describes the data, by distances between the empirical and the
fitted distribution function.

The p-values allow for the estimation of the parameters: data sets are drawn from the fit, the
family is fitted to each, and the distance is computed again (Stute, Gonzalez Manteiga and Presedo
Quindimil 1993; for counts, Henze 1996).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td

from nll._torch import on_processor
from nll.estimation.fit import fit
from nll.estimation.models import fit_each
from nll.estimation.result import Fit
from nll.families.base import Family, Sample, Tails, simulate
from nll.families.registry import FAMILIES
from nll.solvers.parameters import Params
from nll.solvers.units import units_of

BUDGET = 1 << 20  # numbers drawn in total: seconds
_DRAWN = 1 << 19  # at once
_TAILS = 1 << 16  # tails at once: an integrated one has 160 nodes
_FEWEST = 19  # replicates that can reject at 5 %
_MOST_FAILED = 0.05  # share of the replicates
_SAME = 1e-9  # of a distance: rounding

_ENDLESS = "the Anderson-Darling statistic is infinite: a value lies at the end of the support"

# Abbreviation -> name.
STATISTICS = {"KS": "kolmogorov_smirnov", "CvM": "cramer_von_mises", "AD": "anderson_darling"}
_UNKNOWN = torch.full((len(STATISTICS),), math.nan)


@dataclass(frozen=True)
class GoodnessOfFit:
    """Distances by name, and their Monte Carlo p-values; NaN if there is none, and `note` says
    why.
    """

    model: str
    n: float
    statistics: dict[str, float]
    p_values: dict[str, float]
    replicates: int  # data sets that were drawn
    failed: int  # how many of them have no maximum and are left out
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain Python values."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.model}, n = {self.n:.12g}", f"{'':20}{'statistic':>12}{'p':>9}"]
        lines += [
            f"{name.replace('_', ' '):20}{value:12.6g}{self.p_values[name]:9.4f}"
            for name, value in self.statistics.items()
        ]
        drawn = f"{self.replicates} replicates, {self.failed} without a maximum"
        return "\n".join([*lines, drawn, *([self.note] if self.note else [])])


@on_processor
def goodness_of_fit(
    model: Any, data: Any = None, *, replicates: int = 999, seed: int = 0, budget: int = BUDGET
) -> GoodnessOfFit:
    """Test that data come from a family whose parameters were estimated from the same data.

    Args:
        model: a family, fitted here, or the `Fit` of one, with its weights.
        data: (n) numbers; None with a `Fit`.
        replicates: data sets drawn from the fit and fitted again; 0: the statistics alone.
        seed: random seed.
        budget: how many numbers are drawn in total, at most: with many rows there are fewer
            replicates.

    Returns: the statistics of Kolmogorov and Smirnov (D), Cramer and von Mises (W^2), Anderson and
    Darling (A^2), each with p = (1 + replicates at least as far) / (1 + replicates). NaN with a
    note for fits without them: those of several columns, of censored data, with design weights, not
    converged, or of a family whose distribution function is not known.

    Raises: ValueError for data that cannot be fitted, or a negative number of replicates.

    Example:
        >>> from torch.distributions import Exponential
        >>> waits = [0.3, 1.9, 2.4, 2.8, 3.1, 3.3, 3.9, 4.6, 5.2, 7.5]
        >>> nll.goodness_of_fit(Exponential, waits).p_values["anderson_darling"] < 0.1
        True
    """
    for name, value in (("replicates", replicates), ("seed", seed), ("budget", budget)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"expected {name} as an integer of at least 0, got {value!r}")
    if isinstance(model, Fit) and data is not None:
        raise ValueError("expected either data or a Fit, which has them, got both")
    fitted = model if isinstance(model, Fit) else fit(model, data)
    reason = _no_statistics(fitted)
    if reason is not None:
        return _result(fitted, [reason])
    sample = fitted.sample
    assert sample is not None
    try:
        family, params, observed = _observed(fitted, sample)
    except NotImplementedError:
        return _result(fitted, [f"the distribution function of {fitted.model} is not known"])
    notes = [_ENDLESS] if bool(observed.isinf().any()) else []
    count = min(replicates, int(budget / max(1.0, fitted.n)))
    reason = _no_replicates(fitted, sample, count, replicates, budget)
    if reason is not None or count == 0:
        return _result(fitted, [*notes, reason] if reason else notes, observed)
    if count < replicates:
        notes.append(f"{count} replicates, not {replicates}: at most {budget} numbers are drawn")
    replicated = _replicated(sample, max(1, round(fitted.n)), family, params, count, seed)
    replicated = replicated[:, ~replicated[0].isnan()]
    failed = count - replicated.shape[1]
    farther = (replicated >= (1 - _SAME) * observed[:, None]).sum(1)
    p = (1 + farther).double() / (1 + replicated.shape[1])
    if failed > _MOST_FAILED * count:
        notes.append(f"no p-values: {failed} of {count} replicates have no maximum")
        p = torch.full_like(p, math.nan)
    p = p.masked_fill(~observed.isfinite(), math.nan)
    return _result(fitted, notes, observed, p, count, failed)


def _result(
    fitted: Fit,
    notes: list[str],
    distances: Tensor = _UNKNOWN,
    p: Tensor = _UNKNOWN,
    count: int = 0,
    failed: int = 0,
) -> GoodnessOfFit:
    statistics = dict(zip(STATISTICS.values(), distances.tolist(), strict=True))
    p_values = dict(zip(STATISTICS.values(), p.tolist(), strict=True))
    return GoodnessOfFit(
        fitted.model, fitted.n, statistics, p_values, count, failed, "; ".join(notes)
    )


# ---- Untestable fits -----------------------------------------------------------------------------


def _no_statistics(fitted: Fit) -> str | None:
    sample = fitted.sample
    if sample is None:
        return "not for a model other than a family of distributions, with its data"
    if not fitted.converged:
        return fitted.status
    if sample.family.columns:
        return "not for observations of several columns"
    if sample.observed.incomplete:
        return "not for censored or truncated observations"
    if sample.observed.kind != "frequency":
        return f"not for {sample.observed.kind} weights"
    if sample.family.distribution in (td.Bernoulli, td.Categorical):
        return f"{fitted.model} fits any sample exactly: there is nothing to test"
    if any(value.dim() for value in sample.given.values()):
        return "not for rows that are not identically distributed"
    if sample.family.limit is None and not bool(fitted.vector.isfinite().all()):
        return fitted.status
    return None


def _no_replicates(
    fitted: Fit, sample: Sample, count: int, replicates: int, budget: int
) -> str | None:
    family = sample.family
    if family.given or not _free(fitted, sample):
        return "no p-values: parameters are given, fixed or bounded"
    # a mixture, whose search starts from many places
    several = any(value.dim() for value in fitted.params.values())
    if several or (family.start is None and family.estimate is None):
        return f"no p-values: {fitted.model} is fitted to one data set at a time"
    if count < min(replicates, _FEWEST):
        return (
            f"no p-values: {_FEWEST} replicates of {fitted.n:.12g} rows are more than {budget} "
            f"numbers"
        )
    return None


def _free(fitted: Fit, sample: Sample) -> bool:
    """Whether all parameters were estimated, within their own constraints."""
    if fitted.search is None or sample.by_formula:
        return True
    layout = fitted.search().objective.layout
    unbounded = str(layout.parameters) == str(sample.family.constraints(1))
    return unbounded and not (layout.fixed or layout.tied)


# ---- Distances -----------------------------------------------------------------------------------


def _observed(fitted: Fit, sample: Sample) -> tuple[Family, Params, Tensor]:
    """The fitted distribution, which at the boundary of a family belongs to another one, and its
    distances (3).
    """
    family, params, observed = sample.family, fitted.params, sample.observed
    values, place = observed.values.unique(return_inverse=True)  # sorted
    x, w = values[None], torch.zeros_like(values).index_add_(0, place, observed.weights)[None]
    if family.limit is not None and not bool(fitted.vector.isfinite().all()):
        family = FAMILIES[family.limit[2]]
        params = {name: value[0] for name, value in fit_each(family, x, w).params.items()}
    known = {name: value[None] for name, value in (params | sample.given).items()}
    return family, params, distances(family, x, w, known)[:, 0]


def distances(family: Family, x: Tensor, w: Tensor, params: Params) -> Tensor:
    """D, W^2 and A^2, (3, B), of ascending values (1 or B, m), weighted (B, m), for parameters (B,
    ...).

    Stephens (1974), where a weight counts copies of its value: W^2 = n int (F_n - F)^2 dF and A^2 =
    n int (F_n - F)^2 / (F (1 - F)) dF. For counts the integrals are with respect to F_n.
    """
    params = {name: value[:, None] for name, value in params.items()}
    x = x.expand_as(w).contiguous()
    log_below, log_above = _tails(family, x, params)
    below, upto = log_below.exp(), w.cumsum(1)
    n, before = upto[:, -1:], upto - w
    if not family.discrete:
        d = torch.maximum(upto / n - below, below - before / n).amax(1)
        square = w * ((before + w / 2) / n - below).square() + w**3 / (12 * n.square())
        logs = (upto.square() - before.square()) * log_below + (
            (n - before).square() - (n - upto).square()
        ) * log_above
        return torch.stack([d, square.sum(1), -n[:, 0] - logs.sum(1) / n[:, 0]])
    # Ties are one step of F_n.
    first, last = torch.searchsorted(x, x), torch.searchsorted(x, x, right=True) - 1
    difference = upto.gather(1, last) / n - below
    just_below = below - family.log_probs(x, params, {}).exp()  # P(X <= x - 1)
    d = torch.maximum(difference.abs(), (before.gather(1, first) / n - just_below).abs()).amax(1)
    square = w * difference.square()
    relative = torch.where(square > 0, square * (-log_below - log_above).exp(), 0.0)
    return torch.stack([d, square.sum(1), relative.sum(1)])


def _tails(family: Family, x: Tensor, params: Params) -> Tails:
    """log F and log(1 - F), (B, m) each, block by block."""
    rows = max(1, _TAILS // x.shape[1])
    done = []
    for at in range(0, len(x), rows):
        some = {
            name: value[at : at + rows] if len(value) > 1 else value
            for name, value in params.items()
        }
        blocks = [family.log_tails(block, some) for block in x[at : at + rows].split(_TAILS, 1)]
        done.append([torch.cat(columns, 1) for columns in zip(*blocks, strict=True)])
    return Tails(*(torch.cat(blocks) for blocks in zip(*done, strict=True)))


# ---- Replicates ----------------------------------------------------------------------------------


def _replicated(
    sample: Sample, n: int, drawn: Family, params: Params, count: int, seed: int
) -> Tensor:
    """(3, count): the distances of data sets of n numbers, drawn from the fitted distribution and
    fitted.
    """
    # In these units the distances are the same, and the search is easy.
    units = units_of(sample.observed.values, sample.family.units)
    rng = np.random.default_rng(seed)
    size = max(1, _DRAWN // n)
    blocks = []
    for at in range(0, count, size):
        shape = min(size, count - at), n
        x = simulate(drawn, params, shape, int(rng.integers(1 << 62))).sort(1).values
        blocks.append(_refitted(sample.family, *_counted(drawn, units.data(x))))
    return torch.cat(blocks, 1)


def _counted(family: Family, x: Tensor) -> tuple[Tensor, Tensor]:
    """Values (1 or B, m) and weights (B, m); for counts the frequency of each number, if that is
    shorter.
    """
    ones = torch.ones_like(x)
    if not family.discrete or x.max() >= x.shape[1]:
        return x, ones
    frequencies = x.new_zeros(len(x), int(x.max()) + 1).scatter_add_(1, x.long(), ones)
    return torch.arange(frequencies.shape[1], dtype=torch.float64)[None], frequencies


def _refitted(family: Family, x: Tensor, w: Tensor) -> Tensor:
    """(3, B): the distances after a fit; NaN where there is no maximum, not even at the boundary of
    the family.
    """
    each = fit_each(family, x, w)
    result = distances(family, x, w, each.params).masked_fill(~each.settled, math.nan)
    if family.limit is None or bool(each.settled.all()):
        return result
    rest = (~each.settled).nonzero()[:, 0]
    x, w, limit = x.expand_as(w)[rest], w[rest], FAMILIES[family.limit[2]]
    there = fit_each(limit, x, w)
    least = each.log_likelihood[rest] - _SAME * w.sum(1)
    at_limit = there.settled & (there.log_likelihood >= least)
    result[:, rest] = distances(limit, x, w, there.params).masked_fill(~at_limit, math.nan)
    return result
