"""What pictures of a fit show, as numbers: profiles, and how the data lie in the fitted
distribution.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical

from nll.estimation.inference import covariance as cov
from nll.estimation.inference.profile import ends, tangents
from nll.estimation.inference.wald import quantile
from nll.families.base import Sample
from nll.solvers.parameters import Params

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nll.estimation.maximise import Solution
    from nll.estimation.result import Fit

_POINTS = 25  # of a profile; fewer where there are many rows
_MANY = 1 << 17
_SCORES = 2000  # points of a picture


class ProfileCurve(NamedTuple):
    """The largest gain in log-likelihood over the estimate with one parameter held, along this
    parameter.
    """

    name: str
    estimate: float
    error: float
    at: Tensor  # (m)
    gain: Tensor  # (m), at most 0
    interval: tuple[float, float]  # of the level


def profile_curves(found: Solution, level: float, most: int) -> list[ProfileCurve]:
    """The profiles of the first parameters that are plain numbers, from somewhat beyond their
    intervals.
    """
    layout, problem, z = found.problem.layout, found.problem, quantile(level)
    known = _plain_numbers(found)[:most]
    if not known:
        return []
    low, high = ends(found, z)
    errors, along = tangents(found)
    points = _POINTS if problem.width <= _MANY else 9
    starts, fixed = [], []
    for number, _ in known:
        at, error = found.theta[0, number], errors[number]
        reach = [
            1.3 * (end - at) if bool(end.isfinite()) else side * 4 * error
            for side, end in _sides(low, high, number)
        ]
        moved = torch.linspace(float(reach[0]), float(reach[1]), points, dtype=torch.float64)
        starts.append(found.theta + moved[:, None] * along[number] / error)
        fixed.append((torch.arange(layout.size) == number).expand(points, -1))
    top = problem.maximise_held(torch.cat(starts), torch.cat(fixed))
    gain = top.sums.log_likelihood - found.optimum.sums.log_likelihood
    gain = torch.where(top.reached, gain, torch.nan).split(points)
    natural = found.units.given(layout.natural(top.theta))
    flat = torch.cat([value.reshape(len(top.theta), -1) for value in natural.values()], 1).detach()
    limits = [found.units.given(layout.natural(end[None])) for end in (low, high)]
    bounds = [
        torch.cat([value.reshape(-1) for value in limit.values()]).detach() for limit in limits
    ]
    covariance = cov.inverse(found.optimum.sums.information)
    wide = (found.jacobian @ covariance @ found.jacobian.T).diagonal().sqrt()
    here = torch.cat([value.reshape(-1) for value in found.params.values()])
    curves = []
    for i, (_, index) in enumerate(known):
        at = flat[i * points : (i + 1) * points, index]
        order = at.argsort()
        interval = sorted(float(bound[index]) for bound in bounds)
        name = layout.names[index]
        curves.append(
            ProfileCurve(
                name,
                float(here[index]),
                float(wide[index]),
                at[order],
                gain[i][order],
                (interval[0], interval[1]),
            )
        )
    return curves


def _sides(low: Tensor, high: Tensor, number: int) -> tuple[tuple[float, Tensor], ...]:
    return (-1.0, low[number]), (1.0, high[number])


def _plain_numbers(found: Solution) -> list[tuple[int, int]]:
    """The free numbers that are one number of a parameter each: their place among both."""
    layout, pairs, number, index = found.problem.layout, [], 0, 0
    for name, parameter in layout.parameters.items():
        size = torch.Size(parameter.shape).numel()
        if name in layout.free:
            if parameter.free_shape == parameter.shape:
                pairs += [(number + k, index + k) for k in range(size)]
            number += parameter.free_shape.numel()
        index += size
    return pairs


class Scores(NamedTuple):
    """Data that are normal scores where the fit is right: (m) each, ascending."""

    expected: Tensor  # of the order of a row
    found: Tensor  # of its probability in the fitted distribution
    low: Tensor  # the 95 % band of the score of each order
    high: Tensor


def can_score(sample: Sample) -> bool:
    """Whether the distribution function of a family of single continuous numbers is known, and all
    rows are.
    """
    family = sample.family
    plain = not (family.columns or family.discrete or family.simplex or sample.observed.incomplete)
    return plain and (family.tails is not None or family.interval is not None)


def normal_scores(sample: Sample, params: Params) -> Scores:
    """Phi^-1(F(x)), by the logarithms of both tails, against Phi^-1 of the plotting positions (i -
    1/2) / n.
    """
    from scipy.special import ndtri_exp
    from scipy.stats import beta, norm

    values, order = sample.observed.values.sort()
    weights = sample.observed.weights[order]
    given = {name: v if v.dim() == 0 else v[order] for name, v in sample.given.items()}
    n = float(weights.sum())
    share = (weights.cumsum(0) - weights / 2) / n
    below, above = sample.family.log_tails(values, {**params, **given})
    lower = below < above
    z = ndtri_exp(torch.where(lower, below, above).clamp(max=-1e-300).numpy())
    found = torch.where(lower, torch.from_numpy(z), -torch.from_numpy(z))
    if len(found) > _SCORES:  # all of the ends, some of the middle
        middle = torch.linspace(50, len(found) - 51, _SCORES - 100).round().long()
        kept = torch.cat(
            [torch.arange(50), middle, torch.arange(len(found) - 50, len(found))]
        ).unique()
        share, found = share[kept], found[kept]
    rank = share * n + 0.5
    band = [
        torch.from_numpy(norm.ppf(beta.ppf(q, rank.numpy(), (n + 1 - rank).numpy())))
        for q in (0.025, 0.975)
    ]
    return Scores(torch.special.ndtri(share), found, *band)


class Survival(NamedTuple):
    """The share that lives longer than each time: a step down at each."""

    time: Tensor
    share: Tensor


def kaplan_meier(low: Tensor, high: Tensor, weights: Tensor) -> Survival:
    """Of rows seen exactly (low = high) or known to be above low: prod (1 - d / at risk) (Kaplan
    and Meier 1958).
    """
    time, place = low.unique(return_inverse=True)
    died = torch.zeros_like(time).index_add_(0, place, torch.where(high == low, weights, 0.0))
    gone = torch.zeros_like(time).index_add_(0, place, weights)
    at_risk = gone.flip(0).cumsum(0).flip(0)
    return Survival(time, (1 - died / at_risk).cumprod(0))


def right_censored(sample: Sample) -> bool:
    """Whether rows are exact or right-censored, and all of them were seen."""
    ends = sample.observed.ends
    if ends is None or sample.observed.window is not None:
        return False
    low, high = ends
    return (
        bool(((high == low) | ((high == torch.inf) & low.isfinite())).all())
        and sample.family.tails is not None
    )


def survival(sample: Sample, params: Params, times: Tensor) -> Tensor:
    """P(X > t) in the fitted distribution."""
    given = {name: value for name, value in sample.given.items() if value.dim() == 0}
    return sample.family.log_tails(times, {**params, **given}).above.exp()


# ---- The figure ----------------------------------------------------------------------------------

KINDS = ("distribution", "qq", "likelihood", "profile")
_PANELS = 60  # of likelihoods
_PROFILES = 12
_COSTLY = 5_000_000  # panels x points x parameters x rows


def available(fit: Fit) -> list[str]:
    """Which pictures there are of a fit."""
    sample, errors = fit.sample, fit.covariance.diagonal()
    found = []
    if sample is not None and fit.converged and not sample.family.columns:
        seen = not sample.observed.incomplete
        if (seen and all(v.dim() == 0 for v in sample.given.values())) or right_censored(sample):
            found.append("distribution")
        exact = sample.family.distribution in (Bernoulli, Categorical)  # whatever the data
        counts = sample.family.discrete and not exact
        if seen and not sample.given and (counts or can_score(sample)):
            found.append("qq")
    if fit.log_likelihood_at is not None and bool((errors > 0).any()):
        found.append("likelihood")
    if fit.search is not None and fit.converged and bool((errors > 0).any()):
        found.append("profile")
    return found


def figure(fit: Fit, what: str | None, level: float) -> Figure:
    """One picture, or those of the data above the likelihood's; see `Fit.plot`."""
    from nll.report import plots

    known = available(fit)
    if what is not None and what not in KINDS:
        raise ValueError(f"expected what to be one of {', '.join(KINDS)}, or None, got {what!r}")
    if not known or (what is not None and what not in known):
        raise ValueError(
            f"expected a picture that there is of {fit.model}: "
            f"{', '.join(known) or 'none'}; got {what!r}"
        )
    if what == "profile":
        assert fit.search is not None
        return plots.profiles(profile_curves(fit.search(), level, _PROFILES), level)
    if what == "likelihood":
        return plots.likelihoods(fit, level, _PANELS, profiles_of(fit, level))
    if what is not None:
        return plots.sheet([_data_picture(fit, what)])
    data = [_data_picture(fit, one) for one in ("distribution", "qq") if one in known]
    return plots.sheet(
        data, (fit, level, profiles_of(fit, level)) if "likelihood" in known else None
    )


def of_data(fit: Fit) -> Figure | None:
    """The pictures of the data alone, if there are any."""
    from nll.report import plots

    drawn = [_data_picture(fit, one) for one in ("distribution", "qq") if one in available(fit)]
    return plots.sheet(drawn) if drawn else None


def profiles_of(fit: Fit, level: float) -> list[ProfileCurve]:
    """The profiles of a fit, for a picture that shows more; none where they would take more than
    some seconds.
    """
    if fit.search is None or "profile" not in available(fit):
        return []
    found = fit.search()
    size = found.problem.layout.size
    many = min(size, _PROFILES) * _POINTS * size * found.problem.width > _COSTLY
    return [] if many else profile_curves(found, level, _PROFILES)


def _data_picture(fit: Fit, what: str) -> Callable[[Axes], None]:
    """What draws the picture into given axes."""
    from nll.report import data_plots

    sample = fit.sample
    assert sample is not None
    observed = sample.observed
    if what == "qq" and not sample.family.discrete:
        scores = normal_scores(sample, fit.params)
        return lambda axis: data_plots.scores(axis, scores)
    if what == "qq":
        return lambda axis: data_plots.rootogram(axis, fit, sample)
    if observed.ends is None:
        return lambda axis: data_plots.distribution(axis, fit, sample)
    low, high = observed.ends
    steps = kaplan_meier(low, high, observed.weights)
    times = torch.linspace(
        float(low.min()) * 0.5 if float(low.min()) > 0 else float(low.min()),
        float(low.max()) * 1.05,
        300,
    )
    curve = survival(sample, fit.params, times.double())
    return lambda axis: data_plots.survival(axis, fit, steps, times, curve)
