"""Are the classes separated, along which direction, and what has a limit all the same?

The likelihood has no maximum where some direction D of the coefficients never lowers the margin of
a row's own class, x'(D_y - D_k) >= 0 for all rows and classes k, and raises one (Albert and
Anderson 1984): a linear programme decides (Konis 2007). Far along D the classes with a raised
margin are eliminated: the row is one of the others. What remains is the likelihood of each row
among the classes that it still may have; its maximum is the supremum. It may be separated in turn.
In the end it is flat along the directions found, and has a maximum and an information across them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_array, hstack
from torch import Tensor

from nll.regression.separation import (
    ZERO,
    Contrast,
    Limit,
    Pairs,
    Separation,
    limit_of,
    minimise,
    separating_direction,
)
from nll.solvers.outcome import Optimum

if TYPE_CHECKING:
    from nll.regression.softmax.objective import SoftmaxLikelihood

_MOST_PAIRS = 20_000  # rows times other classes of one linear programme
_ADDED = 500  # rows that a direction treats worst
_ROUNDS = 60


class Judged(NamedTuple):
    """The result of the linear programmes; nothing: they could not decide."""

    # whether there is no separating direction, so that a finite maximum exists
    overlap: bool = False
    separation: Separation | None = None
    limit: Limit | None = None


class Eliminated:
    """The classes that rows lose far along directions that follow on each other."""

    def __init__(self, objective: SoftmaxLikelihood) -> None:
        sizes = torch.stack([rows.x.abs().amax(0) for rows in objective.parts()])
        self.unit = sizes.amax(0)  # (p), the largest size of each of the solver's columns
        self.directions: list[Tensor] = []  # (K, p) each

    def margins(self, x: Tensor, labels: Tensor, direction: Tensor) -> Tensor:
        """(n, K): x'(D_y - D_k)."""
        moved = (x / self.unit) @ direction.T
        return moved.gather(1, labels[:, None]) - moved

    def allowed(self, x: Tensor, labels: Tensor) -> Tensor:
        """(n, K), or (n, 1) where all are: the classes that remain."""
        remaining = torch.ones(len(x), 1, dtype=torch.bool)
        for direction in self.directions:
            remaining = remaining & (self.margins(x, labels, direction) <= ZERO)
        return remaining


def judge(
    objective: SoftmaxLikelihood,
    classes: tuple[str, ...],
    search: Callable[[SoftmaxLikelihood], Optimum],
) -> Judged:
    """Decide for a likelihood whose search has ended without a proof that a maximum exists."""
    eliminated = Eliminated(objective)
    total = torch.zeros(objective.classes, objective.columns.count, dtype=torch.float64)
    while True:
        direction = _direction(objective, eliminated, torch.zeros_like(total))
        if direction is None:
            return Judged()
        if not direction.any():
            break
        total += _share(objective, eliminated, total, direction) * direction
        eliminated.directions.append(direction)
    if not eliminated.directions:
        return Judged(overlap=True)
    if objective.length * objective.classes <= _MOST_PAIRS:
        x, labels = (torch.cat(parts) for parts in zip(*_labelled(objective), strict=True))
        lost = ~eliminated.allowed(x, labels)
        total = _simplest(x / eliminated.unit, labels, lost, total)
    remaining = objective.among(eliminated.allowed)
    optimum = search(remaining)
    if not optimum.reached:
        return Judged()
    limit, to_data = limit_of(optimum), objective.columns.to_data
    total = torch.where(total.abs() < 1e-9 * total.abs().amax(), 0.0, total) / eliminated.unit
    separated, partly = _pairs(objective, eliminated, classes)
    separation = Separation(
        classes=classes,
        columns=tuple(objective.columns.names),
        direction=total @ to_data.T,
        separated=separated,
        partly=partly,
        supremum=float(remaining.log_likelihood(optimum.theta)),
        contrasts=tuple(_finite_contrasts(limit, to_data, classes)),
    )
    return Judged(separation=separation, limit=limit)


def _labelled(objective: SoftmaxLikelihood) -> Iterator[tuple[Tensor, Any]]:
    return ((rows.x, rows.labels) for rows in objective.parts())


def _share(
    objective: SoftmaxLikelihood, eliminated: Eliminated, total: Tensor, direction: Tensor
) -> float:
    """How far a direction may be followed: margins already won may be lowered, but not to 0."""
    share = 1.0
    for x, labels in _labelled(objective) if eliminated.directions else ():
        margins = eliminated.margins(x, labels, direction)
        lowered = ~eliminated.allowed(x, labels) & (margins < 0)
        if bool(lowered.any()):
            before = eliminated.margins(x, labels, total)
            share = min(share, 0.5 * float((before[lowered] / -margins[lowered]).amin()))
    return share


def _pairs(
    objective: SoftmaxLikelihood, eliminated: Eliminated, classes: tuple[str, ...]
) -> tuple[Pairs, Pairs]:
    """Return the pairs of classes that lose each other in all of their rows, and in some."""
    # how many rows of a class lost another
    lost = torch.zeros(objective.classes, objective.classes, dtype=torch.int64)
    n = torch.zeros(objective.classes, dtype=torch.int64)
    for x, labels in _labelled(objective):
        lost.index_add_(0, labels, (~eliminated.allowed(x, labels)).long())
        n += torch.bincount(labels, minlength=objective.classes)
    pairs: dict[bool, list[tuple[str, str]]] = {True: [], False: []}
    for a in range(objective.classes):
        for b in range(a):
            both = lost[a, b] + lost[b, a]
            if both:
                pairs[bool(both == n[a] + n[b])].append((classes[b], classes[a]))
    return tuple(pairs[True]), tuple(pairs[False])


def _finite_contrasts(
    limit: Limit, to_data: Tensor, classes: tuple[str, ...]
) -> Iterator[Contrast]:
    """Yield each class against the first before it from which it differs by something finite."""
    for k in range(1, len(classes)):
        for against in range(k):
            estimate, standard_errors = limit.contrast(to_data, k, against)
            if bool(estimate.isfinite().any()):
                yield Contrast(classes[k], classes[against], estimate, standard_errors)
                break


def _direction(objective: SoftmaxLikelihood, eliminated: Eliminated, zero: Tensor) -> Tensor | None:
    """A separating direction (K, p); 0: there is none; None: not decided. Of many rows some, then
    those treated worst.
    """
    x, labels = objective.some(max(2, _MOST_PAIRS // max(objective.classes - 1, 1)))
    for _ in range(_ROUNDS):
        allowed = eliminated.allowed(x, labels).expand(-1, objective.classes)
        direction = _widest(x / eliminated.unit, labels, allowed, zero)
        if direction is None or not direction.any() or len(x) == objective.length:
            return direction
        worst = _worst(objective, eliminated, direction)
        if worst is None:
            return direction
        x, labels = torch.cat([x, worst[0]]), torch.cat([labels, worst[1]])
    return None


def _worst(
    objective: SoftmaxLikelihood, eliminated: Eliminated, direction: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Return the rows of which a direction lowers a margin most, and their labels."""
    worst: list[tuple[Tensor, ...]] = []
    for x, labels in _labelled(objective):
        margins = eliminated.margins(x, labels, direction)
        size = margins.masked_fill(~eliminated.allowed(x, labels), math.inf).amin(1)
        at = (size < -ZERO).nonzero()[:, 0]
        if len(at):
            worst.append((size[at], x[at], labels[at]))
            joined = [torch.cat(parts) for parts in zip(*worst, strict=True)]
            first = joined[0].argsort()[:_ADDED]
            worst = [tuple(part[first] for part in joined)]
    return (worst[0][1], worst[0][2]) if worst else None


def _widest(x: Tensor, labels: Tensor, allowed: Tensor, zero: Tensor) -> Tensor | None:
    """Maximise the sum of the margins, none of them negative, over directions of at most 1."""
    pairs = allowed.scatter(1, labels[:, None], False).numpy()
    if not pairs.any():
        return zero
    solution = separating_direction(_matrix(x.numpy(), labels.numpy(), pairs))
    return None if solution is None else _by_class(solution, zero)


def _simplest(x: Tensor, labels: Tensor, lost: Tensor, total: Tensor) -> Tensor:
    """Return the direction that separates the same with the least sum of absolute coefficients:
    few columns, for a reader.
    """
    pairs = torch.ones_like(lost).scatter(1, labels[:, None], False)
    margins = _matrix(x.numpy(), labels.numpy(), pairs.numpy())
    both: Any = hstack([margins, -margins]).tocsr()
    least = lost[pairs].double().numpy()
    solution = minimise(np.ones(both.shape[1]), -both, -least, (0, None))
    if solution is None:
        return total
    positive, negative = np.split(solution, 2)
    return _by_class(positive - negative, total)


def _matrix(x: np.ndarray, labels: np.ndarray, pairs: np.ndarray) -> Any:
    """The margins of these pairs of row and class (n, K), in their order, by the directions (K - 1,
    p) of classes.
    """
    row, other = np.nonzero(pairs)
    at, cells = np.arange(len(row)), []
    for sign, k in ((1.0, labels[row]), (-1.0, other)):
        free = k > 0  # the baseline does not move
        columns = ((k[free] - 1) * x.shape[1])[:, None] + np.arange(x.shape[1])
        lines = np.broadcast_to(at[free][:, None], columns.shape)
        cells.append((sign * x[row[free]], lines, columns))
    values, i, j = (np.concatenate([part[k].ravel() for part in cells]) for k in range(3))
    return csr_array((values, (i, j)), shape=(len(row), (pairs.shape[1] - 1) * x.shape[1]))


def _by_class(solution: np.ndarray, like: Tensor) -> Tensor:
    """(K, p), with zeros for the baseline."""
    coef = torch.from_numpy(solution.reshape(len(like) - 1, -1))
    return torch.cat([torch.zeros_like(like[:1]), coef])
