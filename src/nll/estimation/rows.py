"""Log-likelihoods that are sums over rows, differentiated automatically.

Rows come in segments, each with its own log-probability: exact rows, rows known up to an interval,
the data of another likelihood with the same parameters. Several data sets (B) with parameters of
their own are computed side by side, padded with rows of weight 0 to one length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from nll.estimation.objective import MANY_PARAMETERS, Objective
from nll.solvers.outcome import Sums
from nll.solvers.parameters import Layout, Params

_ROWS = 1 << 16  # at once: their temporaries stay in the cache, and Python's overhead is small
_KEPT = 1 << 20  # rows whose derivatives stay in memory between products
# Terms (searches x rows x parameters) up to which calls, not arithmetic, take the time: then one
# call differentiates the whole score.
_FEW_TERMS = 256

# (parts (b, m, ...), parameters (b, 1, ...)) -> (b, m)
LogProb = Callable[[tuple[Tensor, ...], Params], Tensor]


class Segment(NamedTuple):
    """Rows of one kind."""

    log_prob: LogProb
    parts: tuple[Tensor, ...]  # (B or 1, m, ...) each; 1: all data sets share them
    weights: Tensor  # (B or 1, m)
    numbers: Tensor | None = None  # (m), the place of each row among all, for a single data set
    once: bool = False  # whether each row counts once

    @property
    def width(self) -> int:
        return self.weights.shape[1]

    @property
    def shared(self) -> bool:
        """Whether all searches are over the same rows, whose log-probability takes any number of
        parameters at once.
        """
        alone = getattr(self.log_prob, "one_by_one", False)
        return not alone and all(len(part) == 1 for part in (*self.parts, self.weights))

    def take(self, which: Tensor) -> Segment:
        parts = tuple(part if len(part) == 1 else part[which] for part in self.parts)
        weights = self.weights if len(self.weights) == 1 else self.weights[which]
        return self._replace(parts=parts, weights=weights)

    def rows(self, begin: int, end: int, step: int = 1) -> Segment:
        parts = tuple(
            part if part.shape[1] == 1 else part[:, begin:end:step] for part in self.parts
        )
        return self._replace(parts=parts, weights=self.weights[:, begin:end:step])

    def blocks(self, count: int) -> Iterator[Segment]:
        """Yield all rows of `count` data sets, a block at a time."""
        size = max(64, _ROWS // count)
        for begin in range(0, self.width, size):
            yield self.rows(begin, begin + size)


@dataclass(frozen=True)
class PlainRows:
    """The log-probability of one data set's rows, applied to several data sets."""

    function: Callable[..., Tensor]
    one_by_one = True  # PyTorch may be unable to batch the function

    def __call__(self, parts: tuple[Tensor, ...], params: Params) -> Tensor:
        params = {name: value[:, 0] for name, value in params.items()}
        if len(next(iter(params.values()))) == 1:
            one = {name: value[0] for name, value in params.items()}
            return self.function(*(part[0] for part in parts), **one)[None]
        axes = tuple(None if len(part) == 1 else 0 for part in parts)
        parts = tuple(part[0] if len(part) == 1 else part for part in parts)
        rows = torch.vmap(lambda one, parts: self.function(*parts, **one), in_dims=(0, axes))
        return rows(params, parts)


@dataclass(frozen=True)
class RowsObjective(Objective):
    """The log-likelihood of B data sets, as a function of the free numbers of a layout."""

    segments: tuple[Segment, ...]
    layout: Layout
    count: int = 1

    @property
    def unit(self) -> Tensor:
        return sum(segment.weights.abs().sum(1).expand(self.count) for segment in self.segments)  # type: ignore[return-value]

    @property
    def width(self) -> int:
        return sum(segment.width for segment in self.segments)

    @property
    def side_by_side(self) -> bool:
        return all(segment.shared for segment in self.segments)

    @property
    def by_products(self) -> bool:
        return self.count == 1 and self.layout.size > MANY_PARAMETERS

    @property
    def weights(self) -> Tensor:
        return self._in_order([segment.weights[0] for segment in self.segments])

    def reweighted(self, weights: Tensor) -> RowsObjective:
        if self._places is not None:
            weights = weights[:, self._places]
        each = weights.split([segment.width for segment in self.segments], 1)
        pairs = zip(self.segments, each, strict=True)
        segments = tuple(s._replace(weights=w, once=False) for s, w in pairs)
        return RowsObjective(segments, self.layout, len(weights))

    @property
    def _places(self) -> Tensor | None:
        """The place of each segment's rows, one after another, among all; None: in order."""
        numbers = [s.numbers for s in self.segments if s.numbers is not None]
        if len(self.segments) == 1 or len(numbers) < len(self.segments):
            return None
        return torch.cat(numbers)

    def _in_order(self, rows: list[Tensor]) -> Tensor:
        joined = torch.cat(rows)
        return joined if self._places is None else joined[self._places.argsort()]

    def value(self, params: Params) -> Tensor:
        count = len(next(iter(params.values())))
        try:
            return self._value(params, count)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            return torch.cat([self._one_value(params, i) for i in range(count)])

    def _one_value(self, params: Params, i: int) -> Tensor:
        """The log-likelihood of one of them; NaN for a singular matrix."""
        try:
            one = {name: value[[i]] for name, value in params.items()}
            return self._value(one, 1, torch.tensor([i]))
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            return torch.full((1,), torch.nan, dtype=torch.float64)

    def _value(self, params: Params, count: int, which: Tensor | None = None) -> Tensor:
        total = torch.zeros(count, dtype=torch.float64)
        with torch.no_grad():
            params = {name: value.unsqueeze(1) for name, value in params.items()}
            for block in self._blocks(count, which):
                total += _weighted(block, block.log_prob(block.parts, params)).sum(1)
        return total

    def log_probabilities(self, theta: Tensor) -> Tensor:
        with torch.no_grad():
            rows = [
                segment.log_prob(segment.parts, self._params(theta)).expand(1, segment.width)[0]
                for segment in self.segments
            ]
        return self._in_order(rows)

    def sums(self, theta: Tensor, which: Tensor | None = None) -> Sums:
        count, size = theta.shape
        value = torch.zeros(count, dtype=torch.float64)
        score = torch.zeros_like(theta)
        information = torch.zeros(count, size, size, dtype=torch.float64)
        for block in self._blocks(count, which):
            at_once = block.shared and count * block.width * size <= _FEW_TERMS
            derivatives = self._derivatives_at_once if at_once else self._derivatives
            block_value, block_score, hessian = derivatives(block, theta)
            value += block_value
            score += block_score
            information -= hessian
        return Sums(value, score, (information + information.mT) / 2)

    def _derivatives(self, block: Segment, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The log-likelihoods (b), scores (b, P) and Hessians (b, P, P) of a block."""
        count, size = theta.shape
        hessian = torch.zeros(count, size, size, dtype=torch.float64)
        point, value, score = self._derivative(block, theta)
        if score.requires_grad:
            for p in range(size):
                more = p + 1 < size
                (row,) = torch.autograd.grad(score[:, p].sum(), point, retain_graph=more)
                hessian[:, p] = row
        return value, score.detach(), hessian

    def _derivatives_at_once(self, block: Segment, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same by one derivative of the score: of P copies of each theta the k-th gives the
        k-th row of the Hessian.
        """
        count, size = theta.shape
        point, value, score = self._derivative(block, theta.repeat(size, 1))
        rows = torch.zeros_like(point)
        if score.requires_grad:
            diagonal = score.view(size, count, size).diagonal(dim1=0, dim2=2)
            (rows,) = torch.autograd.grad(diagonal.sum(), point)
        hessian = rows.view(size, count, size).transpose(0, 1)
        return value[:count], score.detach()[:count], hessian

    def slope(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        value, score = torch.zeros((), dtype=torch.float64), torch.zeros_like(theta)
        for block in self._blocks(1):
            _, block_value, block_score = self._derivative(block, theta[None], again=False)
            value += block_value[0]
            score += block_score[0]
        return value, score

    def curvature(self, theta: Tensor) -> Callable[[Tensor], Tensor]:
        few = self.width <= _KEPT  # then the derivatives are kept

        def derivatives() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            return (self._derivative(block, theta[None]) for block in self._blocks(1))

        kept = list(derivatives()) if few else None

        def product(vector: Tensor) -> Tensor:
            total = torch.zeros_like(vector)
            for point, _, score in kept or derivatives():
                total -= torch.autograd.grad(score[0] @ vector, point, retain_graph=few)[0][0]
            return total

        return product

    def scores(self, theta: Tensor) -> Tensor:
        # J' v, linear in v, is the gradient of v' l for the rows' log-probabilities l; its
        # derivative with respect to v is J.
        scores = []
        for block in self._blocks(1):
            with torch.enable_grad():
                point = theta.detach().requires_grad_()
                v = torch.zeros(1, block.width, dtype=torch.float64, requires_grad=True)
                rows = self._rows(block, point).expand(1, block.width)
                (slope,) = torch.autograd.grad((v * rows).sum(), point, create_graph=True)
            scores.append(torch.zeros(block.width, theta.shape[1], dtype=torch.float64))
            for p, total in enumerate(slope[0]):
                scores[-1][:, p] = torch.autograd.grad(total, v, retain_graph=True)[0][0]
        return self._in_order(scores)

    def thinned(self, rows: int) -> Objective:
        step = max(1, self.width // rows)
        segments = tuple(segment.rows(0, segment.width, step) for segment in self.segments)
        return replace(self, segments=segments)

    def _blocks(self, count: int, which: Tensor | None = None) -> Iterator[Segment]:
        for segment in self.segments:
            some = segment if which is None or self.count == 1 else segment.take(which)
            yield from some.blocks(count)

    def _derivative(
        self, block: Segment, theta: Tensor, again: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a copy of theta, the log-likelihoods (b) there and their scores (b, P), which can
        be differentiated `again` by the copy.
        """
        with torch.enable_grad():
            point = theta.detach().requires_grad_()
            value = _weighted(block, self._rows(block, point)).sum(1)
            if not value.requires_grad:
                raise ValueError(
                    "expected log-probabilities that PyTorch can differentiate with respect to the "
                    "parameters, got constants"
                )
            (score,) = torch.autograd.grad(value.sum(), point, create_graph=again)
        return point, value.detach(), score

    def _rows(self, block: Segment, theta: Tensor) -> Tensor:
        """The log-probabilities of a block; NaN, from which a search steps back, for a singular
        matrix.
        """
        try:
            return block.log_prob(block.parts, self._params(theta))
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            return theta.sum(1, keepdim=True) * torch.nan

    def _params(self, theta: Tensor) -> Params:
        return {name: value.unsqueeze(1) for name, value in self.layout.natural(theta).items()}


def _weighted(block: Segment, rows: Tensor) -> Tensor:
    """Each row's log-probability times its weight; 0 where the weight is, whatever the row."""
    if block.once:
        return rows.expand(torch.broadcast_shapes(rows.shape, block.weights.shape))
    return torch.where(block.weights != 0, block.weights * rows, 0.0)
