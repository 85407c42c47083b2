"""What the rows of a softmax regression add up to, compiled (csrc/softmax_sums.cpp) or by PyTorch's
operators.

With scores z_k = b_k' x (z_0 = 0), p = softmax(z) and residuals r_k = w ([y = k] - p_k):

    log L = sum w log p_y        score_k = sum r_k x        information_kl = sum w p_k ([k = l] -
    p_l) x x'
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nll.kernels import cpu

# The products that are summed besides: the information's; of the rows' scores, a weight being how
# often a row was seen ("scores") or a factor of its score ("weighted scores").
Square = Literal["information", "scores", "weighted scores"]
_SQUARES = {None: 0, "information": 1, "scores": 2, "weighted scores": 3}
_TYPES = {torch.float32: 0, torch.float64: 1}


class Rows(NamedTuple):
    """Rows of a regression. Everything but the columns is float64; the labels are int64."""

    x: Tensor  # (n, p) float32 or float64, of any strides
    labels: Tensor | None = None  # (n), from 0 to K - 1; None: `target` counts, or all are 0
    weights: Tensor | None = None  # (n); None: ones
    target: Tensor | None = None  # (n, K), how often each class was seen
    offset: Tensor | None = None  # (n, K), added to the scores


class Standard(NamedTuple):
    """Column j counts as (x_j - centre_j) scale_j; an intercept's ones come before them."""

    centre: Tensor  # (p) float64
    scale: Tensor  # (p)
    intercept: bool

    def applied(self, x: Tensor) -> Tensor:
        """The columns (n, p), or with the intercept (n, p + 1)."""
        x = (x.double() - self.centre) * self.scale
        return (
            torch.cat([torch.ones(len(x), 1, dtype=torch.float64), x], 1) if self.intercept else x
        )


class RowSums(NamedTuple):
    """The sums over rows."""

    log_likelihood: Tensor  # ()
    score: Tensor  # (K - 1, p), or the information times the direction
    square: Tensor | None  # ((K - 1) p, (K - 1) p)


def row_sums(
    rows: Rows,
    standard: Standard,
    theta: Tensor,
    *,
    direction: Tensor | None = None,
    square: Square | None = None,
    probabilities: Tensor | None = None,
    known: bool = False,
    threads: int | None = None,
) -> RowSums:
    """Add up the rows.

    Args:
        rows: with finite numbers and labels in range.
        standard: what the columns become.
        theta: (K - 1, p) coefficients of these, p with the intercept.
        direction: as theta; the information is multiplied with it.
        square: the products that are summed besides.
        probabilities: (K, n) float64, contiguous, to be filled.
        known: whether an earlier call with this theta has filled them; the log-likelihood is not
            computed then.
        threads: how many work on it; None: PyTorch's number.
    """
    if cpu.MISSING is None:
        return _compiled(rows, standard, theta, direction, square, probabilities, known, threads)
    return by_operators(rows, standard, theta, direction, square)


def probability_buffer(classes: int, rows: int) -> Tensor | None:
    """Return memory for the `probabilities` of `row_sums`; None where nothing would fill it."""
    return cpu.empty((classes, rows), torch.float64) if cpu.MISSING is None else None


def by_operators(
    rows: Rows, standard: Standard, theta: Tensor, direction: Tensor | None, square: Square | None
) -> RowSums:
    """The definition, in float64."""
    x, others = standard.applied(rows.x), len(theta)
    weights = torch.ones(len(x), dtype=torch.float64) if rows.weights is None else rows.weights
    scores = torch.cat([x.new_zeros(len(x), 1), x @ theta.T], 1)
    if rows.offset is not None:
        scores = scores + rows.offset
    target = rows.target
    if target is None:
        labels = torch.zeros(len(x), dtype=torch.int64) if rows.labels is None else rows.labels
        target = torch.nn.functional.one_hot(labels, others + 1).double()
    trials, log_p = target.sum(1), scores.log_softmax(1)
    p = log_p.exp()
    residual = weights[:, None] * (target - trials[:, None] * p)[:, 1:]
    p, curved = p[:, 1:], weights * trials
    found = residual
    if direction is not None:
        moved = x @ direction.T
        found = curved[:, None] * p * (moved - (p * moved).sum(1, keepdim=True))
    return RowSums(
        (weights[:, None] * target * log_p).sum(),
        found.T @ x,
        _square(x, p, curved, residual, weights, square),
    )


def _square(
    x: Tensor, p: Tensor, curved: Tensor, residual: Tensor, weights: Tensor, square: Square | None
) -> Tensor | None:
    if square is None:
        return None
    size = p.shape[1] * x.shape[1]
    if square == "information":
        own = torch.block_diag(*[x.T @ ((curved * pk)[:, None] * x) for pk in p.T])
        both = (p[:, :, None] * x[:, None, :]).reshape(-1, size)
        return own - both.T @ (curved[:, None] * both)
    both = (residual[:, :, None] * x[:, None, :]).reshape(-1, size)
    again = (
        torch.where(weights > 0, 1 / weights, 0.0)
        if square == "scores"
        else torch.ones_like(weights)
    )
    return both.T @ (again[:, None] * both)


def _compiled(
    rows: Rows,
    standard: Standard,
    theta: Tensor,
    direction: Tensor | None,
    square: Square | None,
    probabilities: Tensor | None,
    known: bool,
    threads: int | None,
) -> RowSums:
    x = rows.x if rows.x.dtype in _TYPES else rows.x.double()
    others, p = theta.shape
    assert p == x.shape[1] + standard.intercept, (theta.shape, x.shape)
    value, score = torch.zeros((), dtype=torch.float64), torch.zeros(others, p, dtype=torch.float64)
    pairs = (
        torch.zeros(others * (others + 1) // 2, p * (p + 1) // 2, dtype=torch.float64)
        if square
        else None
    )
    small = [
        standard.centre,
        standard.scale,
        rows.labels,
        rows.target,
        rows.weights,
        rows.offset,
        theta,
        direction,
    ]
    # the library sees addresses alone
    small = [None if part is None else part.contiguous() for part in small]
    centre, scale, *more, theta_at, direction_at = [
        0 if part is None else part.data_ptr() for part in small
    ]
    cpu.softmax_sums(
        x.data_ptr(),
        _TYPES[x.dtype],
        *x.shape,
        *x.stride(),
        centre,
        scale,
        standard.intercept,
        others + 1,
        *more,
        theta_at,
        direction_at,
        0 if probabilities is None else probabilities.data_ptr(),
        known,
        _SQUARES[square],
        value.data_ptr(),
        score.data_ptr(),
        0 if pairs is None else pairs.data_ptr(),
        threads or torch.get_num_threads(),
    )
    return RowSums(value, score, None if pairs is None else _unpacked(pairs, others, p))


def _unpacked(pairs: Tensor, others: int, p: int) -> Tensor:
    """The symmetric matrix of which `pairs` has classes k >= l by columns i >= j."""
    square, within = torch.empty(others, p, others, p, dtype=pairs.dtype), _places(p).reshape(-1)
    # a class at a time: all of it may be large
    for own, numbers in zip(square, _places(others), strict=True):
        own.copy_(pairs[numbers][:, within].view(others, p, p).permute(1, 0, 2))
    return square.view(others * p, -1)


def _places(size: int) -> Tensor:
    """(size, size): which of the pairs k >= l, numbered row by row, an element of a symmetric
    matrix is.
    """
    place = torch.zeros(size, size, dtype=torch.int64)
    row, column = torch.tril_indices(size, size)
    place[row, column] = place[column, row] = torch.arange(len(row))
    return place
