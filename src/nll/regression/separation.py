"""Are the classes separated, along which direction, and what has a limit all the same?

The likelihood has no maximum where some direction D of the coefficients never lowers the margin of
a row's own class, x'(D_y - D_k) >= 0 for all rows and classes k, and raises one (Albert and
Anderson 1984): a linear programme decides (Konis 2007). Far along D the classes with a raised
margin have lost: the row is one of the others. What is left is the likelihood of each row among the
classes that it still may have; its maximum is the supremum. It may be separated in turn. In the end
it is flat along the directions that are lost, and has a maximum and an information across them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array, hstack
from torch import Tensor

from nll.regression.separated import Contrast, Separation
from nll.solvers.outcome import Optimum

if TYPE_CHECKING:
    from nll.regression.softmax.objective import SoftmaxLikelihood

_ZERO = 1e-9  # a margin that is 0, for columns and directions of at most 1
_EXACT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
_FLAT = 1e-10  # an eigenvalue of the information, in units of the diagonal, that is 0
_MOST_PAIRS = 20_000  # rows times other classes of one linear programme
_ADDED = 500  # rows that a direction treats worst
_ROUNDS = 60


class Limit(NamedTuple):
    """The maximum of what is left far along the direction, and its curvature."""

    theta: Tensor  # (P)
    covariance: Tensor  # (P, P), across the flat directions
    # (P, P), the projector onto what has a limit, in units of the information's diagonal
    known: Tensor
    unit: Tensor  # (P)


class Judged(NamedTuple):
    """What a linear programme found; nothing: it could not decide."""

    # whether there is no separating direction, so that a finite maximum exists
    overlap: bool = False
    separation: Separation | None = None
    limit: Limit | None = None


class Lost:
    """The classes that rows lose far along directions that follow on each other."""

    def __init__(self, unit: Tensor) -> None:
        self.unit = unit  # (p), the largest size of each of the search's columns
        self.directions: list[Tensor] = []  # (K, p) each

    def margins(self, x: Tensor, labels: Tensor, direction: Tensor) -> Tensor:
        """(n, K): x'(D_y - D_k)."""
        scores = (x / self.unit) @ direction.T
        return scores.gather(1, labels[:, None]) - scores

    def allowed(self, x: Tensor, labels: Tensor) -> Tensor:
        """(n, K), or (n, 1) where all are: the classes that are left."""
        left = torch.ones(len(x), 1, dtype=torch.bool)
        for direction in self.directions:
            left = left & (self.margins(x, labels, direction) <= _ZERO)
        return left


def judge(
    problem: SoftmaxLikelihood, classes: list[str], search: Callable[[SoftmaxLikelihood], Optimum]
) -> Judged:
    """Decide for a likelihood whose search has ended without a proof that a maximum exists."""
    unit = torch.stack([part.x.abs().amax(0) for part in problem.parts()]).amax(0)
    lost = Lost(unit)
    zero = torch.zeros(problem.classes, problem.columns.count, dtype=torch.float64)
    total = zero.clone()
    while True:
        direction = _direction(problem, lost, zero)
        if direction is None:
            return Judged()
        if not direction.any():
            break
        total += _share(problem, lost, total, direction) * direction
        lost.directions.append(direction)
    if not lost.directions:
        return Judged(overlap=True)
    if problem.length * problem.classes <= _MOST_PAIRS:
        x, labels = (torch.cat(parts) for parts in zip(*problem.parts(), strict=True))
        total = _simplest(x / unit, labels, ~lost.allowed(x, labels), total)
    left = problem.among(lost.allowed)
    found = search(left)
    if not found.reached:
        return Judged()
    limit, to_given = limit_of(found), problem.columns.to_given
    direction = torch.where(total.abs() < 1e-9 * total.abs().amax(), 0.0, total) / unit
    separated, partly = _pairs_apart(problem, lost, classes)
    separation = Separation(
        classes=tuple(classes),
        columns=tuple(problem.columns.names),
        direction=direction @ to_given.T,
        separated=separated,
        partly=partly,
        supremum=float(left.log_likelihood(found.theta)),
        contrasts=_finite_contrasts(limit, to_given, classes),
    )
    return Judged(separation=separation, limit=limit)


def _share(problem: SoftmaxLikelihood, lost: Lost, total: Tensor, direction: Tensor) -> float:
    """How far a direction may be gone: what is lost already may be lowered again, but not to 0."""
    share = 1.0
    for x, labels in problem.parts() if lost.directions else ():
        margins = lost.margins(x, labels, direction)
        again = ~lost.allowed(x, labels) & (margins < 0)
        if bool(again.any()):
            before = lost.margins(x, labels, total)
            share = min(share, 0.5 * float((before[again] / -margins[again]).amin()))
    return share


def limit_of(found: Optimum) -> Limit:
    """The maximum of what is left, with its curvature across the directions that are flat."""
    information = found.sums.information
    unit = torch.where(
        information.diagonal() > 0, information.diagonal().clamp(min=1e-300).rsqrt(), 1.0
    )
    values, vectors = torch.linalg.eigh(unit[:, None] * information * unit)
    across = vectors[:, values > _FLAT]
    inverse = across / values[values > _FLAT] @ across.T
    return Limit(found.theta, unit[:, None] * inverse * unit, across @ across.T, unit)


Pairs = tuple[tuple[str, str], ...]


def _pairs_apart(problem: SoftmaxLikelihood, lost: Lost, classes: list[str]) -> tuple[Pairs, Pairs]:
    """The pairs of classes that lose each other's rows: all of them, and some."""
    # how many rows of a class lost another
    gone = torch.zeros(problem.classes, problem.classes, dtype=torch.int64)
    rows = torch.zeros(problem.classes, dtype=torch.int64)
    for x, labels in problem.parts():
        gone.index_add_(0, labels, (~lost.allowed(x, labels)).long())
        rows += torch.bincount(labels, minlength=problem.classes)
    pairs: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
    for a in range(problem.classes):
        for b in range(a):
            both = gone[a, b] + gone[b, a]
            if both:
                pairs[bool(both == rows[a] + rows[b])].append((classes[b], classes[a]))
    return tuple(pairs[True]), tuple(pairs[False])


def contrast(limit: Limit, to_given: Tensor, k: int, against: int) -> tuple[Tensor, Tensor]:
    """How class k differs from another in the units of the columns, and its errors; NaN where it
    has no limit.
    """
    p = len(to_given)
    linear = torch.zeros(p, len(limit.theta), dtype=torch.float64)
    if k:
        linear[:, (k - 1) * p : k * p] += to_given
    if against:
        linear[:, (against - 1) * p : against * p] -= to_given
    return within_limit(limit, linear)


def within_limit(limit: Limit, linear: Tensor) -> tuple[Tensor, Tensor]:
    """Linear functions (m, P) of the parameters in the limit, and their errors; NaN where they have
    none.
    """
    scaled = linear * limit.unit
    lost = (scaled - scaled @ limit.known).square().sum(1).sqrt() > 1e-6 * scaled.square().sum(
        1
    ).sqrt()
    errors = (linear @ limit.covariance @ linear.T).diagonal().clamp(min=0).sqrt()
    nan = torch.tensor(math.nan, dtype=torch.float64)
    return torch.where(lost, nan, linear @ limit.theta), torch.where(lost, nan, errors)


def with_limits(limit: Limit, coef: Tensor, to_given: Tensor) -> tuple[Tensor, Tensor]:
    """Coefficients (K - 1, p) with their limits where they have one, and the covariance of these;
    NaN elsewhere.
    """
    limits = torch.stack([contrast(limit, to_given, k + 1, 0)[0] for k in range(len(coef))])
    known = limits.isfinite().reshape(-1)
    across = torch.block_diag(*[to_given] * len(coef))
    covariance = across @ limit.covariance @ across.T
    return torch.where(limits.isfinite(), limits, coef), covariance.masked_fill(
        ~(known[:, None] & known), math.nan
    )


def _finite_contrasts(limit: Limit, to_given: Tensor, classes: list[str]) -> tuple[Contrast, ...]:
    """Each class against the first before it from which it differs by something finite."""
    found = []
    for k in range(1, len(classes)):
        for against in range(k):
            estimate, errors = contrast(limit, to_given, k, against)
            if bool(estimate.isfinite().any()):
                found.append(Contrast(classes[k], classes[against], estimate, errors))
                break
    return tuple(found)


def _direction(problem: SoftmaxLikelihood, lost: Lost, zero: Tensor) -> Tensor | None:
    """A separating direction (K, p); 0: there is none; None: not decided. Of many rows some, then
    the worst.
    """
    x, labels = problem.some(max(2, _MOST_PAIRS // max(problem.classes - 1, 1)))
    for _ in range(_ROUNDS):
        allowed = lost.allowed(x, labels).expand(-1, problem.classes)
        direction = _programme(x / lost.unit, labels, allowed)
        if direction is None or not direction.any() or len(x) == problem.length:
            return direction
        wrong = _worst(problem, lost, direction)
        if wrong is None:
            return direction
        x, labels = torch.cat([x, wrong[0]]), torch.cat([labels, wrong[1]])
    return None


def _worst(
    problem: SoftmaxLikelihood, lost: Lost, direction: Tensor
) -> tuple[Tensor, Tensor] | None:
    """The rows of which a direction lowers a margin most, and their labels."""
    found: list[tuple[Tensor, ...]] = []
    for x, labels in problem.parts():
        margins = lost.margins(x, labels, direction)
        worst = margins.masked_fill(~lost.allowed(x, labels), math.inf).amin(1)
        at = (worst < -_ZERO).nonzero()[:, 0]
        if len(at):
            found.append((worst[at], x[at], labels[at]))
            size, x, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
            kept = size.argsort()[:_ADDED]
            found = [(size[kept], x[kept], labels[kept])]
    return (found[0][1], found[0][2]) if found else None


def _programme(columns: Tensor, classes: Tensor, left: Tensor) -> Tensor | None:
    """Maximise the sum of the margins, none of them negative, over directions of at most 1."""
    from scipy.optimize import linprog

    x, labels, allowed = columns.numpy(), classes.numpy(), left.numpy()
    kept = allowed & (np.arange(allowed.shape[1]) != labels[:, None])
    zero = torch.zeros(allowed.shape[1], x.shape[1], dtype=torch.float64)
    if not kept.any():
        return zero
    margins = _matrix(x, labels, kept)
    gain = np.asarray(margins.sum(0)).ravel()
    found: Any = linprog(
        -gain,
        A_ub=-margins,
        b_ub=np.zeros(kept.sum()),
        bounds=(-1, 1),
        method="highs",
        options=_EXACT,
    )
    if found.status != 0:
        return None
    reached = margins @ found.x
    if reached.max(initial=0.0) <= _ZERO:
        return zero
    return _spread(found.x, zero) if reached.min() >= -_ZERO else None


def _simplest(columns: Tensor, classes: Tensor, gone: Tensor, known: Tensor) -> Tensor:
    """Of the directions that separate the same, the one of the least sum of sizes: few columns, for
    a reader.
    """
    from scipy.optimize import linprog

    x, labels, lost = columns.numpy(), classes.numpy(), gone.numpy()
    other = np.arange(lost.shape[1]) != labels[:, None]
    margins = _matrix(x, labels, other)
    both: Any = hstack([margins, -margins]).tocsr()
    least = lost[other].astype(float)
    found: Any = linprog(
        np.ones(both.shape[1]),
        A_ub=-both,
        b_ub=-least,
        bounds=(0, None),
        method="highs",
        options=_EXACT,
    )
    if found.status != 0 or found.x is None:
        return known
    half = len(found.x) // 2
    return _spread(found.x[:half] - found.x[half:], torch.zeros_like(known))


def _matrix(x: np.ndarray, labels: np.ndarray, pairs: np.ndarray) -> Any:
    """The margins of these pairs of row and class (n, K), in their order, by the directions (K - 1,
    p) of classes.
    """
    row, other = np.nonzero(pairs)
    at, cells = np.arange(len(row)), []
    for sign, of in ((1.0, labels[row]), (-1.0, other)):
        kept = of > 0  # the baseline does not move
        columns = ((of[kept] - 1) * x.shape[1])[:, None] + np.arange(x.shape[1])
        cells.append(
            (sign * x[row[kept]], np.broadcast_to(at[kept][:, None], columns.shape), columns)
        )
    values, i, j = (np.concatenate([part[k].ravel() for part in cells]) for k in range(3))
    return csr_array((values, (i, j)), shape=(len(row), (pairs.shape[1] - 1) * x.shape[1]))


def _spread(found: np.ndarray, zero: Tensor) -> Tensor:
    """(K, p), with zeros for the baseline."""
    return torch.cat([zero[:1], torch.from_numpy(found.reshape(len(zero) - 1, -1))])
