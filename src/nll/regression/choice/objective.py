"""The likelihood of choices under a softmax of each case's own alternatives (McFadden 1974), and
its maximum.

With scores v of the rows and p = softmax(v) within a case, xbar = sum_rows p x of the case and
weight w of the case:

    log L = sum_cases w log p_chosen    score = sum_rows w ([chosen] - p) x
    information = sum_rows w p (x - xbar)(x - xbar)'
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.distributions import constraints

from nll.estimation.inference import covariance as cov
from nll.estimation.maximise import Solution
from nll.estimation.objective import Problem, Segment
from nll.regression import existence, ridge
from nll.regression.design_matrix import Columns
from nll.regression.result import RegressionFit
from nll.regression.separation import Limit, limit_of, within_limit
from nll.solvers.outcome import Optimum, Progress, Sums
from nll.solvers.parameters import Layout, Parameter, Params
from nll.solvers.trust_region import TOLERANCE, decrement_of, maximise
from nll.solvers.units import Units

_ROWS = 1 << 14  # at once
_ZERO = 1e-9  # a margin that is 0, for columns and directions of at most 1
_MOST_ROWS, _ADDED, _ROUNDS = 20_000, 500, 60  # of one linear programme


class _Part(NamedTuple):
    """The rows of some cases."""

    x: Tensor  # (m, p), less those of the chosen alternative: what does not differ is 0
    case: Tensor  # (m), from 0
    cases: slice
    offset: Tensor | None
    chosen: Tensor  # (cases), the rows among these


class ConditionalLikelihood:
    """That of cases, the rows of each next to each other.

    Args:
        columns: of the search, (rows, p).
        case: (rows), from 0.
        chosen: (cases), the row of the alternative that was chosen.
        weights: (cases) frequencies.
        offset: (rows), added to the scores; -inf where an alternative is out of the question.
        penalty: (p, p), the quadratic form of twice the penalty.
    """

    def __init__(
        self,
        columns: Columns,
        case: Tensor,
        chosen: Tensor,
        weights: Tensor,
        offset: Tensor | None = None,
        penalty: Tensor | None = None,
    ) -> None:
        self.columns, self.case, self.chosen, self.weights = columns, case, chosen, weights
        self.offset, self.penalty = offset, penalty
        self.ends = torch.bincount(case).cumsum(0)  # of the rows of each case
        self.unit = min(1.0, float(weights.mean()))

    @property
    def size(self) -> int:
        """How many parameters there are."""
        return self.columns.count

    def parts(self) -> Iterator[_Part]:
        """Some cases at a time."""
        case = row = 0
        while case < len(self.ends):
            end = max(case + 1, int(torch.searchsorted(self.ends, row + _ROWS, right=True)))
            last = int(self.ends[end - 1])
            rows = slice(row, last)
            offset = None if self.offset is None else self.offset[rows]
            chosen = self.chosen[case:end] - row
            x, own = self.columns.block(rows), self.case[rows] - case
            yield _Part(x - x[chosen][own], own, slice(case, end), offset, chosen)
            case, row = end, last

    def sums(self, theta: Tensor, weights: Tensor | None = None) -> Sums:
        """Log-likelihood, score and information, penalty included; `weights`: others than the
        own.
        """
        weights = self.weights if weights is None else weights
        value, score = torch.zeros((), dtype=torch.float64), torch.zeros_like(theta)
        information = torch.zeros(len(theta), len(theta), dtype=torch.float64)
        for part in self.parts():
            w = weights[part.cases]
            log_p = log_probabilities(part, theta)
            p = log_p.exp()
            means = torch.zeros(len(w), part.x.shape[1], dtype=torch.float64).index_add_(
                0, part.case, p[:, None] * part.x
            )
            away = part.x - means[part.case]
            value += w @ log_p[part.chosen]
            score += w @ away[part.chosen]
            information += away.T @ ((w[part.case] * p)[:, None] * away)
        if self.penalty is not None:
            shrink = self.penalty @ theta
            value, score, information = (
                value - theta @ shrink / 2,
                score - shrink,
                information + self.penalty,
            )
        return Sums(value, score, information)

    def scores(self, theta: Tensor) -> Tensor:
        """(cases, p): the score of each case, unweighted."""
        found = []
        for part in self.parts():
            p = log_probabilities(part, theta).exp()
            means = torch.zeros(len(part.chosen), part.x.shape[1], dtype=torch.float64)
            found.append(part.x[part.chosen] - means.index_add_(0, part.case, p[:, None] * part.x))
        return torch.cat(found)

    def among(self, allowed: Tensor) -> ConditionalLikelihood:
        """The likelihood of the choices among the rows that are allowed."""
        offset = torch.where(
            allowed, torch.zeros(()) if self.offset is None else self.offset, -torch.inf
        ).double()
        return ConditionalLikelihood(
            self.columns, self.case, self.chosen, self.weights, offset, self.penalty
        )


def log_probabilities(part: _Part, theta: Tensor) -> Tensor:
    """(m): of each row among those of its case."""
    v = part.x @ theta if part.offset is None else part.x @ theta + part.offset
    top = torch.full((len(part.chosen),), -torch.inf, dtype=torch.float64).scatter_reduce(
        0, part.case, v, "amax"
    )
    v = v - top[part.case]
    total = torch.zeros_like(top).index_add(0, part.case, v.exp())
    return v - total.log()[part.case]


@dataclass(frozen=True)
class _Cases:
    """The cases as rows of a `Problem`, by the coefficients of the columns as given."""

    likelihood: ConditionalLikelihood

    def sums(self, segment: Segment, theta: Tensor) -> Sums:
        """Those of several data sets, which differ in the cases' weights, at (b, P)."""
        back = torch.linalg.inv(self.likelihood.columns.to_given)
        found = []
        for number, own in enumerate(theta):
            weights = torch.zeros_like(self.likelihood.weights)
            weights[segment.parts[0][0]] = segment.weights[
                number if len(segment.weights) > 1 else 0
            ]
            sums = self.likelihood.sums(back @ own, weights)
            found.append(
                Sums(sums.log_likelihood, back.T @ sums.score, back.T @ sums.information @ back)
            )
        return Sums(*(torch.stack(parts) for parts in zip(*found, strict=True)))

    def __call__(self, parts: tuple[Tensor, ...], params: Params) -> Tensor:
        """The log-probability of each case's choice, (b, m)."""
        back = torch.linalg.inv(self.likelihood.columns.to_given)
        rows = []
        for own in params["coef"][:, 0]:
            each = [
                log_probabilities(part, back @ own)[part.chosen] for part in self.likelihood.parts()
            ]
            rows.append(torch.cat(each)[parts[0][0]])
        return torch.stack(rows)


def _search_again(
    likelihood: ConditionalLikelihood, coef: Tensor, steps: int, weighted: bool
) -> Solution:
    cases = torch.arange(len(likelihood.weights))
    segment = Segment(_Cases(likelihood), (cases[None],), likelihood.weights[None], cases)
    problem = Problem((segment,), Layout({"coef": Parameter(constraints.real, tuple(coef.shape))}))
    at = problem.sums(coef[None])
    sums = Sums(*(part[0] for part in at))
    return Solution(
        problem,
        Optimum(coef, sums, decrement_of(sums), steps, True, "converged"),
        Units(),
        0.0,
        problem,
        weighted,
    )


class Judged(NamedTuple):
    """What a linear programme found; nothing: it could not decide."""

    # whether no direction separates the choices, so that a finite maximum exists
    overlap: bool = False
    direction: Tensor | None = None  # (p), of the search's columns
    supremum: float = float("nan")
    limit: Limit | None = None


def certified(likelihood: ConditionalLikelihood, decrement: float, covariance: Tensor) -> bool:
    """Bach's certificate (see `existence`): no direction of unit length moves two scores of a case
    far apart.
    """
    if bool(covariance.isnan().any()):
        return False
    largest = 0.0
    for part in likelihood.parts():
        # Two rows are at most twice as far apart as either is from the chosen one.
        largest = max(largest, float(((part.x @ covariance) * part.x).sum(1).amax()))
    return (2 * max(decrement, 0.0)) ** 0.5 * 2 * largest**0.5 <= 0.5


def judge(likelihood: ConditionalLikelihood) -> Judged:
    """Is there a direction along which no choice ever loses to another alternative of its case, and
    one wins?

    What has lost is left out, and the rest is asked again; in the end it has a maximum across the
    directions.
    """
    x = likelihood.columns.x
    margins = x[likelihood.chosen][likelihood.case] - x
    unit = margins.abs().amax(0)
    margins = margins / torch.where(unit > 0, unit, 1.0)
    left = torch.ones(len(x), dtype=torch.bool)
    total = torch.zeros(likelihood.size, dtype=torch.float64)
    while True:
        direction = _direction(margins[left])
        if direction is None:
            return Judged()
        if not bool(direction.any()):
            break
        before, after = margins @ total, margins @ direction
        again = ~left & (after < 0)  # what has lost already may come nearer, but not back
        share = (
            min(1.0, 0.5 * float((before[again] / -after[again]).amin()))
            if bool(again.any())
            else 1.0
        )
        total = total + share * direction
        left &= after <= _ZERO
    if not bool(total.any()):
        return Judged(overlap=True)
    rest = likelihood.among(left)
    found = maximise(
        rest.sums, torch.zeros(likelihood.size, dtype=torch.float64), None, likelihood.unit
    )
    if not found.reached:
        return Judged()
    total = torch.where(total.abs() < 1e-9 * total.abs().amax(), 0.0, total) / torch.where(
        unit > 0, unit, 1.0
    )
    return Judged(direction=total, supremum=float(found.sums.log_likelihood), limit=limit_of(found))


def _direction(margins: Tensor) -> Tensor | None:
    """A direction of at most 1 with no negative margin and a positive one; 0: there is none; None:
    not decided.
    """
    rows = torch.arange(0, len(margins), max(1, -(-len(margins) // _MOST_ROWS)))
    for _ in range(_ROUNDS):
        found = _programme(margins[rows])
        if found is None or not bool(found.any()):
            return found
        worst = margins @ found
        wrong = (worst < -_ZERO).nonzero()[:, 0]
        if not len(wrong):
            return found
        rows = torch.cat([rows, wrong[worst[wrong].argsort()[:_ADDED]]])
    return None


def _programme(margins: Tensor) -> Tensor | None:
    from scipy.optimize import linprog

    matrix = csr_array(margins.numpy())
    options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    gain, zeros = -margins.sum(0).numpy(), np.zeros(len(margins))
    found: Any = linprog(
        gain, A_ub=-matrix, b_ub=zeros, bounds=(-1, 1), method="highs", options=options
    )
    if found.status != 0:
        return None
    direction = torch.from_numpy(found.x)
    return direction if float((margins @ direction).amax()) > _ZERO else torch.zeros_like(direction)


def fit_choices(
    likelihood: ConditionalLikelihood,
    *,
    covariance: str = "observed",
    weights: str = "frequency",
    clusters: Tensor | None = None,
    response: str | None = None,
    baseline: str | None = None,
    progress: Progress | None = None,
) -> RegressionFit:
    """Maximise the likelihood; the fit has the coefficients of the columns as given.

    Args:
        likelihood: of the choices.
        covariance: "observed", "sandwich" or "hc1".
        weights: their kind, which are in the unit of the likelihood; those that are no frequencies
            take the sandwich.
        clusters: (cases), the number of each one's cluster.
        response: its name.
        baseline: the alternative without a constant.
        progress: called before each step with (step, log-likelihood, Newton decrement).
    """
    columns, penalty = likelihood.columns, likelihood.penalty
    found = maximise(
        likelihood.sums,
        torch.zeros(likelihood.size, dtype=torch.float64),
        progress,
        likelihood.unit,
    )
    inverse = cov.inverse(found.sums.information)
    plain = likelihood if penalty is None else _without_penalty(likelihood)
    judged = Judged(overlap=True)
    if penalty is not None:
        judged = Judged(
            overlap=bool(inverse.isnan().any()) or certified(likelihood, found.decrement, inverse)
        )
        found, inverse = _settled(likelihood, found, plain.sums(found.theta).information)
    elif not certified(likelihood, found.decrement, inverse):
        judged = judge(likelihood)
    converged = found.reached and judged.overlap and not bool(inverse.isnan().any())
    information = "observed" if penalty is None else "penalised"
    if converged and (covariance != "observed" or clusters is not None or weights != "frequency"):
        inverse, information = _robust(plain, found.theta, inverse, covariance, weights, clusters)
    elif converged and penalty is not None:
        inverse = cov.sandwich(inverse, plain.sums(found.theta).information)
    coef = columns.to_given @ found.theta
    spread = (
        cov.transformed(inverse, columns.to_given)
        if converged
        else torch.full_like(inverse, torch.nan)
    )
    if judged.limit is not None:
        limits, _ = within_limit(judged.limit, columns.to_given)
        known = limits.isfinite()
        coef = torch.where(known, limits, coef)
        spread = columns.to_given @ judged.limit.covariance @ columns.to_given.T
        spread = spread.masked_fill(~(known[:, None] & known), torch.nan)
    fitted = RegressionFit(
        model="Conditional logit",
        discrete=True,
        params={"coef": coef},
        covariance=spread,
        log_likelihood=float(plain.sums(found.theta).log_likelihood),
        n=_count(likelihood, weights),
        df=likelihood.size,
        status=_status(found, judged, columns)
        if penalty is None
        else existence.verdict(
            found, judged.overlap, "that the penalty leaves free", likelihood.unit
        ),
        converged=converged,
        decrement=found.decrement,
        steps=found.steps,
        labels={"coef": (tuple(columns.names),)},
        information=information,
        null_log_likelihood=float(plain.sums(torch.zeros_like(found.theta)).log_likelihood),
        response=response,
        baseline=baseline,
    )
    again = partial(_search_again, likelihood, coef, found.steps, weights != "frequency")
    return replace(fitted, search=again if converged and likelihood.penalty is None else None)


def _settled(
    likelihood: ConditionalLikelihood, found: Optimum, information: Tensor
) -> tuple[Optimum, Tensor]:
    """The very maximum where columns are constant or collinear, and the inverse across what they
    leave flat.
    """
    assert likelihood.penalty is not None
    theta, inverse = ridge.settled(found.theta, information, likelihood.penalty, 1.0)
    before, after = (float(likelihood.sums(at).log_likelihood) for at in (found.theta, theta))
    if after < before - TOLERANCE * likelihood.unit:  # nearly flat only
        return found, cov.inverse(found.sums.information)
    return found._replace(theta=theta), inverse


def _without_penalty(likelihood: ConditionalLikelihood) -> ConditionalLikelihood:
    parts = (
        likelihood.columns,
        likelihood.case,
        likelihood.chosen,
        likelihood.weights,
        likelihood.offset,
    )
    return ConditionalLikelihood(*parts)


def _count(likelihood: ConditionalLikelihood, weights: str) -> float:
    """The number of observations."""
    own = likelihood.weights
    return float(torch.count_nonzero(own) if weights == "sampling" else own.sum())


def _robust(
    likelihood: ConditionalLikelihood,
    theta: Tensor,
    inverse: Tensor,
    kind: str,
    weights: str,
    clusters: Tensor | None,
) -> tuple[Tensor, str]:
    found = cov.sandwich(
        inverse, cov.meat(likelihood.scores(theta), likelihood.weights, weights, clusters)
    )
    if clusters is not None:
        return found, f"sandwich, {int(clusters.max()) + 1} clusters"
    n = _count(likelihood, weights)
    if kind != "hc1":
        return found, "sandwich (HC0)"
    return found * (
        n / (n - likelihood.size) if n > likelihood.size else torch.nan
    ), "sandwich (HC1)"


def _status(found: Optimum, judged: Judged, columns: Columns) -> str:
    if judged.direction is not None:
        moved = columns.to_given @ judged.direction
        signs = [
            (name, float(size))
            for name, size in zip(columns.names, moved, strict=True)
            if abs(size) > 0
        ]
        along = ", ".join(f"{size:+.3g} {name}" for name, size in signs)
        return (
            "no finite estimate: the choices are separated, and the likelihood keeps rising along "
            f"{along}; the log-likelihood rises towards {judged.supremum:.12g}"
        )
    if found.reached and judged.overlap:
        return "converged: a finite maximum exists, and the Newton steps reached it"
    return found.status if not found.reached else "not decided whether a finite maximum exists"
