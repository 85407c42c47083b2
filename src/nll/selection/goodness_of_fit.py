"""Whether a fitted family describes the data: distances between the empirical and the fitted
distribution function.

The p-values count that the parameters were estimated: data sets are drawn from the fit, the family
is fitted to each, and the distance is taken again (Stute, Gonzalez Manteiga and Presedo Quindimil
1993; of counts, Henze 1996).
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
from nll.estimation.grouped import fit_each
from nll.estimation.maximise import units_of
from nll.estimation.result import Fit
from nll.families.base import Family, Tails, simulate
from nll.families.registry import FAMILIES
from nll.solvers.parameters import Params

BUDGET = 1 << 20  # numbers drawn in all: seconds
_DRAWN = 1 << 19  # at once
_TAILS = 1 << 16  # tails at once: an integrated one looks at 160 points
_FEWEST = 19  # replicates that can reject at 5 %
_MOST_FAILED = 0.05  # share of the replicates
_SAME = 1e-9  # of a distance: rounding

_ENDLESS = "the Anderson-Darling statistic is infinite: a value lies at the end of the support"

# Letters of the field, and the names.
STATISTICS = {"KS": "kolmogorov_smirnov", "CvM": "cramer_von_mises", "AD": "anderson_darling"}


@dataclass(frozen=True)
class GoodnessOfFit:
    """Distances by name, and their Monte Carlo p-values; NaN where there is none, and `note` says
    why.
    """

    model: str
    n: float
    statistics: dict[str, float]
    p_values: dict[str, float]
    replicates: int  # data sets that were drawn
    failed: int  # of them without a maximum, which are left out
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain Python values."""
        return asdict(self)

    def __str__(self) -> str:
        """Return a small table."""
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
    """Test that data come from a family whose parameters were estimated from them.

    Args:
        model: a class of distributions, fitted here, or the `Fit` of one, with its weights.
        data: (n) numbers; None with a `Fit`.
        replicates: data sets that are drawn from the fit and fitted again; 0 for the statistics
            alone.
        seed: of the draws.
        budget: how many numbers are drawn in all, at most: with many rows there are fewer
            replicates.

    Returns: Kolmogorov and Smirnov's D, Cramer and von Mises' W^2, Anderson and Darling's A^2, each
    with p = (1 + replicates at least as far) / (1 + replicates). NaN with a note for a fit that has
    none: of several columns, censored, with a design's weights, not converged, or of a family whose
        distribution function is not known.

    Raises: ValueError for data that cannot be fitted, or a number of replicates below 0.
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
    try:
        family, params, found = _observed(fitted)
    except NotImplementedError:
        return _result(fitted, [f"the distribution function of {fitted.model} is not known"])
    notes = [_ENDLESS] if bool(found.isinf().any()) else []
    count = min(replicates, int(budget / max(1.0, fitted.n)))
    reason = _no_replicates(fitted, count, replicates, budget)
    if reason is not None or count == 0:
        return _result(fitted, [*notes, reason] if reason else notes, found)
    if count < replicates:
        notes.append(f"{count} replicates, not {replicates}: at most {budget} numbers are drawn")
    far = _replicated(fitted, family, params, count, seed)
    kept = far[:, ~far[0].isnan()]
    failed = count - kept.shape[1]
    p = (1 + (kept >= (1 - _SAME) * found[:, None]).sum(1)).double() / (1 + kept.shape[1])
    if failed > _MOST_FAILED * count:
        notes.append(f"no p-values: {failed} of {count} replicates have no maximum")
        p = torch.full_like(p, math.nan)
    return _result(fitted, notes, found, p.masked_fill(~found.isfinite(), math.nan), count, failed)


def _result(
    fitted: Fit,
    notes: list[str],
    found: Tensor | None = None,
    p: Tensor | None = None,
    count: int = 0,
    failed: int = 0,
) -> GoodnessOfFit:
    """What is known, by name."""
    statistics, p_values = (
        dict(zip(STATISTICS.values(), [math.nan] * 3 if of is None else of.tolist(), strict=True))
        for of in (found, p)
    )
    return GoodnessOfFit(
        fitted.model, fitted.n, statistics, p_values, count, failed, "; ".join(notes)
    )


# ---- What cannot be tested -----------------------------------------------------------------------


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


def _no_replicates(fitted: Fit, count: int, replicates: int, budget: int) -> str | None:
    assert fitted.sample is not None
    family = fitted.sample.family
    if family.given or not _free(fitted):
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


def _free(fitted: Fit) -> bool:
    """Whether all parameters were estimated, within their own constraints."""
    if fitted.search is None or fitted.sample is None or fitted.sample.by_formula:
        return True
    own = fitted.search().problem.layout
    return not (own.fixed or own.tied) and str(own.parameters) == str(
        fitted.sample.family.constraints(1)
    )


# ---- Distances -----------------------------------------------------------------------------------


def _observed(fitted: Fit) -> tuple[Family, Params, Tensor]:
    """The fitted distribution, which at the boundary of a family is one of another, and its
    distances (3).
    """
    assert fitted.sample is not None
    family, params, observed = fitted.sample.family, fitted.params, fitted.sample.observed
    values, place = observed.values.unique(return_inverse=True)  # sorted
    x, w = values[None], torch.zeros_like(values).index_add_(0, place, observed.weights)[None]
    if family.limit is not None and not bool(fitted.vector.isfinite().all()):
        family = FAMILIES[family.limit[2]]
        params = {name: value[0] for name, value in fit_each(family, x, w).params.items()}
    known = {**params, **fitted.sample.given}
    return (
        family,
        params,
        distances(family, x, w, {name: value[None] for name, value in known.items()})[:, 0],
    )


def distances(family: Family, x: Tensor, w: Tensor, params: Params) -> Tensor:
    """D, W^2 and A^2, (3, B), of ascending values (1 or B, m), weighted (B, m), for parameters (B,
    ...).

    Stephens (1974), with a weight as so many copies of its value: W^2 = n int (F_n - F)^2 dF and
    A^2 = n int (F_n - F)^2 / (F (1 - F)) dF. For counts the integrals are over the observations, by
    dF_n.
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
    # of those that are equal
    first, last = torch.searchsorted(x, x), torch.searchsorted(x, x, right=True) - 1
    away = upto.gather(1, last) / n - below
    just_below = below - family.log_probs(x, params, {}).exp()  # P(X <= x - 1)
    d = torch.maximum(away.abs(), (before.gather(1, first) / n - just_below).abs()).amax(1)
    square = w * away.square()
    relative = torch.where(square > 0, square * (-log_below - log_above).exp(), 0.0)
    return torch.stack([d, square.sum(1), relative.sum(1)])


def _tails(family: Family, x: Tensor, params: Params) -> Tails:
    """log F and log(1 - F), (B, m) each, block by block. Raises NotImplementedError where no F is
    known.
    """
    rows = max(1, _TAILS // x.shape[1])
    parts = []
    for at in range(0, len(x), rows):
        some = {
            name: value[at : at + rows] if len(value) > 1 else value
            for name, value in params.items()
        }
        blocks = [_log_cdf(family, part, some) for part in x[at : at + rows].split(_TAILS, 1)]
        parts.append([torch.cat(columns, 1) for columns in zip(*blocks, strict=True)])
    return Tails(*(torch.cat(blocks) for blocks in zip(*parts, strict=True)))


def _log_cdf(family: Family, x: Tensor, params: Params) -> Tails:
    if family.tails is not None:
        return family.tails(x, **params)
    below = family(**params, validate_args=False).cdf(x)
    return Tails(below.log(), torch.log1p(-below))


# ---- Replicates ----------------------------------------------------------------------------------


def _replicated(fitted: Fit, drawn: Family, params: Params, count: int, seed: int) -> Tensor:
    """(3, count): the distances of data sets as long as the data, drawn from the fitted
    distribution and fitted.
    """
    assert fitted.sample is not None
    family, values = fitted.sample.family, fitted.sample.observed.values
    # in which the distances are the same, and the search is easy
    units = units_of(values, family.units)
    parts, rng, n = [], np.random.default_rng(seed), max(1, round(fitted.n))
    size = max(1, _DRAWN // n)
    for at in range(0, count, size):
        x = (
            simulate(drawn, params, (min(size, count - at), n), int(rng.integers(1 << 62)))
            .sort(1)
            .values
        )
        parts.append(_refitted(family, *_counted(drawn, units.data(x))))
    return torch.cat(parts, 1)


def _counted(family: Family, x: Tensor) -> tuple[Tensor, Tensor]:
    """Values (1 or B, m) and weights (B, m): of counts how often each number came, where that is
    shorter.
    """
    top = int(x.max()) if family.discrete else math.inf
    if top >= x.shape[1]:
        return x, torch.ones_like(x)
    often = torch.zeros(len(x), int(top) + 1, dtype=torch.float64).scatter_add_(
        1, x.long(), torch.ones_like(x)
    )
    return torch.arange(often.shape[1], dtype=torch.float64)[None], often


def _refitted(family: Family, x: Tensor, w: Tensor) -> Tensor:
    """(3, B): the distances after a fit, NaN where there is no maximum, not even at the boundary of
    the family.
    """
    each = fit_each(family, x, w)
    found = distances(family, x, w, each.params).masked_fill(~each.settled, math.nan)
    if family.limit is None or bool(each.settled.all()):
        return found
    lost = (~each.settled).nonzero()[:, 0]
    x, w, other = x.expand_as(w)[lost], w[lost], FAMILIES[family.limit[2]]
    there = fit_each(other, x, w)
    as_likely = there.settled & (
        each.log_likelihood[lost] <= there.log_likelihood + _SAME * w.sum(1)
    )
    found[:, lost] = distances(other, x, w, there.params).masked_fill(~as_likely, math.nan)
    return found
