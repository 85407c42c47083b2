"""What figures of a fit show, as numbers: profiles, normal scores and survival curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nll.estimation.inference import covariance as cov
from nll.estimation.inference.profile import ends, tangents
from nll.estimation.inference.wald import quantile
from nll.estimation.objective import maximise_fixed
from nll.families.base import Sample
from nll.solvers.parameters import Entry, Params

if TYPE_CHECKING:
    from nll.estimation.search.solution import Solution

POINTS = 25  # of a profile; fewer where there are many rows
_MANY = 1 << 17
_SCORES = 2000  # points of a normal plot


class ProfileCurve(NamedTuple):
    """The log-likelihood along one parameter, maximised over the others, relative to the
    estimate.
    """

    name: str
    estimate: float
    error: float
    at: Tensor  # (m)
    gain: Tensor  # (m), at most 0
    interval: tuple[float, float]  # of the level


def profile_curves(solution: Solution, level: float, most: int) -> list[ProfileCurve]:
    """Return the profiles of the first `most` plain parameters, slightly beyond their
    intervals.
    """
    layout, objective = solution.objective.layout, solution.objective
    places = [pair for entry in layout.entries() for pair in _places(entry)][:most]
    if not places:
        return []
    limits = ends(solution, quantile(level))
    errors, directions = tangents(solution)
    points = POINTS if objective.width <= _MANY else 9
    starts, fixed = [], []
    for number, _ in places:
        estimate, error = solution.theta[0, number], errors[number]
        away = [
            float(1.3 * (end[number] - estimate) if end[number].isfinite() else side * 4 * error)
            for side, end in zip((-1.0, 1.0), limits, strict=True)
        ]
        steps = torch.linspace(away[0], away[1], points, dtype=torch.float64)
        starts.append(solution.theta + steps[:, None] * directions[number] / error)
        fixed.append((torch.arange(layout.size) == number).expand(points, -1))
    top = maximise_fixed(objective, torch.cat(starts), torch.cat(fixed))
    gain = top.sums.log_likelihood - solution.optimum.sums.log_likelihood
    gain = torch.where(top.reached, gain, torch.nan).split(points)
    along = _flat(solution, top.theta).split(points)
    bounds = _flat(solution, torch.stack(limits)).sort(0).values
    covariance = cov.inverse(solution.optimum.sums.information)
    standard_errors = (solution.jacobian @ covariance @ solution.jacobian.T).diagonal().sqrt()
    estimates = _flat(solution, solution.theta)[0]
    curves = []
    for i, (_, index) in enumerate(places):
        order = along[i][:, index].argsort()
        curves.append(
            ProfileCurve(
                layout.names[index],
                float(estimates[index]),
                float(standard_errors[index]),
                along[i][order, index],
                gain[i][order],
                (float(bounds[0, index]), float(bounds[1, index])),
            )
        )
    return curves


def _flat(solution: Solution, theta: Tensor) -> Tensor:
    """The flattened parameters (B, N), in the units of the data."""
    params = solution.units.given(solution.objective.layout.natural(theta))
    return torch.cat([value.reshape(len(theta), -1) for value in params.values()], 1).detach()


def _places(entry: Entry) -> list[tuple[int, int]]:
    """The positions of a plain parameter's numbers, among the free ones and among all."""
    if not entry.is_plain:
        return []
    free, flat = range(entry.free.start, entry.free.stop), range(entry.flat.start, entry.flat.stop)
    return list(zip(free, flat, strict=True))


class Scores(NamedTuple):
    """Data transformed to normal scores under the fit: (m) each, ascending."""

    expected: Tensor  # from the rank of a row
    observed: Tensor  # from its probability in the fitted distribution
    low: Tensor  # the 95 % band of each rank
    high: Tensor


def can_score(sample: Sample) -> bool:
    """Whether the data have normal scores: exact, continuous numbers with a known cdf."""
    family = sample.family
    plain = not (family.columns or family.discrete or family.simplex or sample.observed.incomplete)
    return plain and (family.tails is not None or family.interval is not None)


def normal_scores(sample: Sample, params: Params) -> Scores:
    """Return Phi^-1(F(x)), from the logarithm of the smaller tail, and Phi^-1((i - 1/2) / n)."""
    from scipy.special import ndtri_exp
    from scipy.stats import beta, norm

    values, order = sample.observed.values.sort()
    weights = sample.observed.weights[order]
    fixed = {name: v if v.dim() == 0 else v[order] for name, v in sample.given.items()}
    n = float(weights.sum())
    share = (weights.cumsum(0) - weights / 2) / n
    below, above = sample.family.log_tails(values, {**params, **fixed})
    lower = below < above
    z = torch.from_numpy(ndtri_exp(torch.where(lower, below, above).clamp(max=-1e-300).numpy()))
    scores = torch.where(lower, z, -z)
    if len(scores) > _SCORES:  # all of the tails, some of the middle
        middle = torch.linspace(50, len(scores) - 51, _SCORES - 100).round().long()
        last = torch.arange(len(scores) - 50, len(scores))
        shown = torch.cat([torch.arange(50), middle, last]).unique()
        share, scores = share[shown], scores[shown]
    rank = share * n + 0.5
    band = [
        torch.from_numpy(norm.ppf(beta.ppf(q, rank.numpy(), (n + 1 - rank).numpy())))
        for q in (0.025, 0.975)
    ]
    return Scores(torch.special.ndtri(share), scores, *band)


class Survival(NamedTuple):
    """The share that survives each time: a step down at each."""

    time: Tensor
    share: Tensor


def kaplan_meier(low: Tensor, high: Tensor, weights: Tensor) -> Survival:
    """Return prod (1 - d / at risk) for exact (low = high) and right-censored rows (Kaplan and
    Meier 1958).
    """
    time, place = low.unique(return_inverse=True)
    events = torch.zeros_like(time).index_add_(0, place, torch.where(high == low, weights, 0.0))
    leaving = torch.zeros_like(time).index_add_(0, place, weights)
    at_risk = leaving.flip(0).cumsum(0).flip(0)
    return Survival(time, (1 - events / at_risk).cumprod(0))


def right_censored(sample: Sample) -> bool:
    """Whether every row is exact or right-censored, and none truncated."""
    ends = sample.observed.ends
    if ends is None or sample.observed.window is not None:
        return False
    low, high = ends
    allowed = (high == low) | ((high == torch.inf) & low.isfinite())
    return bool(allowed.all()) and sample.family.tails is not None


def survival(sample: Sample, params: Params, times: Tensor) -> Tensor:
    """Return P(X > t) in the fitted distribution."""
    fixed = {name: value for name, value in sample.given.items() if value.dim() == 0}
    return sample.family.log_tails(times, {**params, **fixed}).above.exp()
