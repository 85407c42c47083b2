"""A likelihood of data as a function of free numbers: value, score and information, exact by
automatic differentiation.

Rows come in segments, each with its own log-probability: what was seen exactly, what is known up to
an interval, the data of another likelihood with the same parameters. Several data sets (B) with
parameters of their own are computed side by side; their rows are as many, with weight 0 where one
has fewer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from nll.solvers.newton_cg import maximise_by_products
from nll.solvers.parameters import Layout, Params
from nll.solvers.trust_region import (
    MAX_SHRINKS,
    MAX_STEPS,
    Optima,
    Optimum,
    Progress,
    Sums,
    maximise_each,
)

# Rows at once: their temporaries stay in the cache, and the way through Python is a small part.
_ROWS = 1 << 16
# A search over more rows than this first goes over so many of them, evenly spaced.
_MANY, _SOME = 1 << 17, 1 << 14
# Above the first, steps are by conjugate gradients; above the second, the information is not formed
# at the end either.
MANY_PARAMETERS, MOST_INFORMATION = 256, 4096
_KEPT = 1 << 20  # rows whose derivatives stay in memory between products
# Terms (searches x rows x parameters) up to which calls, not arithmetic, take the time: then one
# call differentiates the whole score.
_FEW_TERMS = 256

# (parts (b, m, ...), parameters (b, 1, ...)) -> (b, m). Of a single segment whose free numbers are
# the parameters it may have a method `sums` of its own, from (segment, theta) to `Sums`.
LogProb = Callable[[tuple[Tensor, ...], Params], Tensor]


class Segment(NamedTuple):
    """Rows of one kind."""

    log_prob: LogProb
    parts: tuple[Tensor, ...]  # (B or 1, m, ...) each; 1: all data sets share them
    weights: Tensor  # (B or 1, m)
    numbers: Tensor | None = None  # (m), the place of each row among all, for a single data set

    @property
    def width(self) -> int:
        """How many rows there are."""
        return self.weights.shape[1]

    @property
    def once(self) -> bool:
        """Whether all rows count once, told by a weight that is one number in memory."""
        return self.weights.stride() == (0, 0) and float(self.weights[0, 0]) == 1.0

    @property
    def shared(self) -> bool:
        """Whether all searches are over the same rows, whose log-probability takes any number of
        parameters at once.
        """
        alone = getattr(self.log_prob, "one_by_one", False)
        return not alone and all(len(part) == 1 for part in (*self.parts, self.weights))

    def take(self, which: Tensor) -> Segment:
        """The rows of some data sets."""
        parts = tuple(part if len(part) == 1 else part[which] for part in self.parts)
        if self.weights.stride(0) == 0:  # the same for all
            return self._replace(parts=parts, weights=self.weights[:1].expand(len(which), -1))
        return self._replace(
            parts=parts, weights=self.weights if len(self.weights) == 1 else self.weights[which]
        )

    def rows(self, begin: int, end: int, step: int = 1) -> Segment:
        """Some of the rows."""
        parts = tuple(
            part if part.shape[1] == 1 else part[:, begin:end:step] for part in self.parts
        )
        return self._replace(parts=parts, weights=self.weights[:, begin:end:step])

    def blocks(self, count: int) -> Iterator[Segment]:
        """All of them, a block at a time, for so many data sets."""
        size = max(64, _ROWS // count)
        for begin in range(0, self.width, size):
            yield self.rows(begin, begin + size)


@dataclass(frozen=True)
class PlainRows:
    """A log-probability of one data set's rows and parameters, without the dimension of data
    sets.
    """

    function: Callable[..., Tensor]
    one_by_one = True  # a function may not be one that PyTorch can batch

    def __call__(self, parts: tuple[Tensor, ...], params: Params) -> Tensor:
        """Return the log-probabilities (b, m)."""
        own = {name: value[:, 0] for name, value in params.items()}
        if len(next(iter(own.values()))) == 1:
            one = {name: value[0] for name, value in own.items()}
            return self.function(*(part[0] for part in parts), **one)[None]
        shared = tuple(None if len(part) == 1 else 0 for part in parts)
        given = tuple(part[0] if len(part) == 1 else part for part in parts)
        return torch.vmap(lambda own, given: self.function(*given, **own), in_dims=(0, shared))(
            own, given
        )


@dataclass(frozen=True)
class Problem:
    """The log-likelihood of B data sets, by the free numbers of a layout."""

    segments: tuple[Segment, ...]
    layout: Layout
    count: int = 1

    @property
    def unit(self) -> Tensor:
        """The total weight of each data set."""
        return sum(segment.weights.abs().sum(1).expand(self.count) for segment in self.segments)  # type: ignore[return-value]

    def value(self, params: Params) -> Tensor:
        """The log-likelihoods (B) at parameters (B, *shape)."""
        count = len(next(iter(params.values())))
        total = torch.zeros(count, dtype=torch.float64)
        with torch.no_grad():
            params = {name: value.unsqueeze(1) for name, value in params.items()}
            for block in self._blocks(count, None):
                total += _weighted(block, block.log_prob(block.parts, params)).sum(1)
        return total

    def rows_of(self, segment: Segment, theta: Tensor) -> Tensor:
        """The log-probability of each row of a segment, unweighted, at (1, P)."""
        with torch.no_grad():
            return segment.log_prob(segment.parts, self._params(theta)).expand(1, segment.width)[0]

    def sums(self, theta: Tensor, which: Tensor | None = None) -> Sums:
        """Log-likelihoods (b), scores (b, P) and informations (b, P, P) of the data sets `which`,
        all by default.
        """
        own = getattr(self.segments[0].log_prob, "sums", None)
        if own is not None:
            return own(
                self.segments[0]
                if which is None or self.count == 1
                else self.segments[0].take(which),
                theta,
            )
        count, size = theta.shape
        value = torch.zeros(count, dtype=torch.float64)
        score, information = (
            torch.zeros_like(theta),
            torch.zeros(count, size, size, dtype=torch.float64),
        )
        for block in self._blocks(count, which):
            if block.shared and count * block.width * size <= _FEW_TERMS:
                self._add_in_one(block, theta, (value, score, information))
                continue
            with torch.enable_grad():
                inner = theta.detach().requires_grad_()
                found = _weighted(block, self._rows(block, inner)).sum(1)
                if not found.requires_grad:
                    raise ValueError(
                        "expected log-probabilities that PyTorch can differentiate by the "
                        "parameters, got constants"
                    )
                (slope,) = torch.autograd.grad(found.sum(), inner, create_graph=True)
            value += found.detach()
            score += slope.detach()
            if slope.requires_grad:
                for p in range(size):
                    (row,) = torch.autograd.grad(
                        slope[:, p].sum(), inner, retain_graph=p + 1 < size
                    )
                    information[:, p] -= row
        return Sums(value, score, (information + information.mT) / 2)

    def _add_in_one(
        self, block: Segment, theta: Tensor, sums: tuple[Tensor, Tensor, Tensor]
    ) -> None:
        """Add a block's value, score and information: of P copies of each theta (b, P) the k-th
        gives the k-th row of the information, all by one derivative of the score.
        """
        count, size = theta.shape
        with torch.enable_grad():
            inner = theta.detach().repeat(size, 1).requires_grad_()
            found = _weighted(block, self._rows(block, inner)).sum(1)
            (slope,) = torch.autograd.grad(found.sum(), inner, create_graph=True)
        sums[0].add_(found.detach()[:count])
        sums[1].add_(slope.detach()[:count])
        if slope.requires_grad:
            own = slope.view(size, count, size).diagonal(dim1=0, dim2=2)
            (rows,) = torch.autograd.grad(own.sum(), inner)
            sums[2].sub_(rows.view(size, count, size).transpose(0, 1))

    def slope(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Log-likelihood and score of the one data set at (P)."""
        value, score = torch.zeros((), dtype=torch.float64), torch.zeros_like(theta)
        for block in self._blocks(1, None):
            with torch.enable_grad():
                inner = theta[None].detach().requires_grad_()
                found = _weighted(block, self._rows(block, inner)).sum()
            value += found.detach()
            score += torch.autograd.grad(found, inner)[0][0]
        return value, score

    def curvature(self, theta: Tensor) -> Callable[[Tensor], Tensor]:
        """The information at (P), as its product with a vector (P); of not too many rows the
        derivatives are kept.
        """
        few = self.width <= _KEPT
        kept = (
            [self._differentiated(block, theta) for block in self._blocks(1, None)] if few else None
        )

        def product(vector: Tensor) -> Tensor:
            total = torch.zeros_like(vector)
            for inner, slope in kept or (
                self._differentiated(block, theta) for block in self._blocks(1, None)
            ):
                total -= torch.autograd.grad(slope @ vector, inner, retain_graph=few)[0][0]
            return total

        return product

    def _differentiated(self, block: Segment, theta: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            inner = theta[None].detach().requires_grad_()
            found = _weighted(block, self._rows(block, inner)).sum()
            return inner, torch.autograd.grad(found, inner, create_graph=True)[0][0]

    def scores(self, theta: Tensor) -> Tensor:
        """The score of each row (n, P), unweighted, of the one data set at (1, P).

        J' v, linear in v, is the gradient of v' l for the rows' log-probabilities l; its derivative
        by v is J.
        """
        found = torch.empty(
            sum(segment.width for segment in self.segments), theta.shape[1], dtype=torch.float64
        )
        at = 0
        for block in self._blocks(1, None):
            with torch.enable_grad():
                inner = theta.detach().requires_grad_()
                v = torch.zeros(1, block.width, dtype=torch.float64, requires_grad=True)
                rows = self._rows(block, inner).expand(1, block.width)
                (slope,) = torch.autograd.grad((v * rows).sum(), inner, create_graph=True)
            for p in range(theta.shape[1]):
                (column,) = torch.autograd.grad(slope[0, p], v, retain_graph=True)
                found[at : at + block.width, p] = column[0]
            at += block.width
        numbers = [segment.numbers for segment in self.segments]
        if len(numbers) == 1 or any(n is None for n in numbers):
            return found
        return found[torch.cat(numbers).argsort()]  # type: ignore[arg-type]

    @property
    def width(self) -> int:
        """How many rows there are."""
        return sum(segment.width for segment in self.segments)

    def thinned(self, rows: int) -> Problem:
        """The problem of about so many rows, evenly spaced."""
        step = max(1, self.width // rows)
        return replace(
            self, segments=tuple(segment.rows(0, segment.width, step) for segment in self.segments)
        )

    def sampled(self) -> Problem | None:
        """The problem of some rows; None where there are not many."""
        rows = max(_SOME, _MANY // 8 // self.count)
        if self.width * self.count <= _MANY or self.width < 2 * rows:
            return None
        return self.thinned(rows)

    def maximise(
        self, start: Tensor, progress: Progress | None = None, most_steps: int = MAX_STEPS
    ) -> Optima:
        """Search from (B, P): among many rows first with some of them, which finds the
        neighbourhood at little cost.
        """
        some = self.sampled()
        if some is not None:
            near = some.maximise(start)
            start = torch.where(near.reached[:, None], near.theta, start)
        if self.by_products:
            return self._maximise_by_products(start, progress)
        return maximise_each(self.sums, start, self.unit, progress, most_steps=most_steps)

    def maximise_from(
        self, starts: Tensor, progress: Progress | None, most_steps: int
    ) -> list[Optimum]:
        """Search for the one data set's maximum from each of the starts (S, P): side by side, where
        calls, not arithmetic, take the time.
        """
        alone = self.by_products or self.sampled() is not None
        if alone or any(not segment.shared for segment in self.segments):
            return [self.maximise(start[None], progress, most_steps).one(0) for start in starts]
        found = maximise_each(
            lambda theta, _: self.sums(theta),
            starts,
            self.unit.expand(len(starts)),
            progress,
            most_steps=most_steps,
        )
        return [found.one(index) for index in range(len(starts))]

    def maximise_held(
        self,
        start: Tensor,
        held: Tensor,
        enough: float | None = None,
        most_steps: int = MAX_STEPS,
        most_shrinks: int = MAX_SHRINKS,
    ) -> Optima:
        """Maximise the one data set's from each of (B, P) starts over the numbers not `held` (B,
        P), which stay.
        """

        def sums(theta: Tensor, which: Tensor) -> Sums:
            found, still = self.sums(theta), held[which]
            either = still[:, :, None] | still[:, None, :]
            information = found.information.masked_fill(either, 0.0) + torch.diag_embed(
                still.double()
            )
            return Sums(found.log_likelihood, found.score.masked_fill(still, 0.0), information)

        return maximise_each(
            sums, start, self.unit.expand(len(start)), None, enough, most_steps, most_shrinks
        )

    @property
    def by_products(self) -> bool:
        """Whether there are too many parameters to form the information at every step."""
        return self.count == 1 and self.layout.size > MANY_PARAMETERS

    def _maximise_by_products(self, start: Tensor, progress: Progress | None) -> Optima:
        found = maximise_by_products(
            self.slope, self.curvature, start[0], float(self.unit[0]), progress
        )
        if self.layout.size <= MOST_INFORMATION and found.reached:
            sums = self.sums(found.theta[None])
        else:
            value, score = self.slope(found.theta)
            unknown = torch.full((1, 1, 1), torch.nan, dtype=torch.float64)
            sums = Sums(value[None], score[None], unknown.expand(1, len(score), len(score)))
        numbers = (
            torch.tensor([value])
            for value in (found.steps, found.reached, found.shrunk, found.proved)
        )
        return Optima(
            found.theta[None], sums, torch.tensor([found.decrement], dtype=torch.float64), *numbers
        )

    def _blocks(self, count: int, which: Tensor | None) -> Iterator[Segment]:
        for segment in self.segments:
            yield from (
                segment if which is None or self.count == 1 else segment.take(which)
            ).blocks(count)

    def _rows(self, block: Segment, theta: Tensor) -> Tensor:
        """The log-probabilities of a block; NaN, from which a search steps back, for a matrix that
        is singular.
        """
        try:
            return block.log_prob(block.parts, self._params(theta))
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            return theta.sum(1, keepdim=True) * torch.nan

    def _params(self, theta: Tensor) -> Params:
        return {name: value.unsqueeze(1) for name, value in self.layout.natural(theta).items()}


def _weighted(block: Segment, rows: Tensor) -> Tensor:
    """Each row's log-probability times its weight: 0 where the weight is, whatever the row."""
    if block.once:
        return rows.expand(torch.broadcast_shapes(rows.shape, block.weights.shape))
    return torch.where(block.weights != 0, block.weights * rows, 0.0)
