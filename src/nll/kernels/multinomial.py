"""Sums over the rows of a softmax regression, compiled (csrc/softmax_sums.cpp) or by PyTorch's
operators.

With logits z_k = b_k' x (z_0 = 0), p = softmax(z) and residuals r_k = w ([y = k] - p_k):

    log L = sum w log p_y
    score_k = sum r_k x
    information_kl = sum w p_k ([k = l] - p_l) x x'
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from nll.kernels import cpu

# The outer products to sum: the information, or those of the rows' scores, whose weight is a
# frequency ("scores") or a factor of the score ("weighted scores").
Square = Literal["information", "scores", "weighted scores"]
_SQUARES = {None: 0, "information": 1, "scores": 2, "weighted scores": 3}
_TYPES = {torch.float32: 0, torch.float64: 1}


class Rows(NamedTuple):
    """Rows of a regression: float64 except for the columns x and the int64 labels."""

    x: Tensor  # (n, p) float32 or float64, of any strides
    labels: Tensor | None = None  # (n), from 0 to K - 1; None: `target` is used, or all are 0
    weights: Tensor | None = None  # (n); None: ones
    target: Tensor | None = None  # (n, K), the count of each class
    offset: Tensor | None = None  # (n, K), added to the logits


class Standard(NamedTuple):
    """Column j becomes (x_j - centre_j) scale_j; an intercept's ones come first."""

    centre: Tensor  # (p) float64
    scale: Tensor  # (p)
    intercept: bool

    def applied(self, x: Tensor) -> Tensor:
        """Return the columns (n, p), or with the intercept (n, p + 1)."""
        x = (x.double() - self.centre) * self.scale
        return torch.cat([x.new_ones(len(x), 1), x], 1) if self.intercept else x


class RowSums(NamedTuple):
    """Sums over rows."""

    log_likelihood: Tensor  # ()
    score: Tensor  # (K - 1, p), or the information times a direction
    square: Tensor | None  # ((K - 1) p, (K - 1) p)


def row_sums(
    rows: Rows,
    standard: Standard,
    theta: Tensor,
    *,
    direction: Tensor | None = None,
    square: Square | None = None,
    probabilities: Tensor | None = None,
    cached: bool = False,
    threads: int | None = None,
) -> RowSums:
    """Return the sums over the rows.

    Args:
        rows: finite numbers, labels in range.
        standard: the standardisation of the columns.
        theta: (K - 1, p) coefficients of the standardised columns, p with the intercept.
        direction: as theta; the information is multiplied by it.
        square: the outer products to sum.
        probabilities: (K, n) float64, contiguous; filled by the call.
        cached: an earlier call with this theta has filled `probabilities`; the log-likelihood is
            not computed then.
        threads: number of threads; None: PyTorch's number.
    """
    if cpu.MISSING is None:
        return _compiled(rows, standard, theta, direction, square, probabilities, cached, threads)
    return by_operators(rows, standard, theta, direction, square)


class SparseRows(NamedTuple):
    """Rows of few numbers, as they are stored one after another, with the class of each row."""

    start: Tensor  # (n + 1) int64, where the numbers of each row begin
    column: Tensor  # int32, of each number
    number: Tensor  # float64
    labels: Tensor  # (n) int64, from 0 to K - 1
    weights: Tensor | None = None  # (n); None: ones
    offset: Tensor | None = None  # (n, K), added to the logits


Coefficients = tuple[Tensor, Tensor]  # slopes (q, K - 1) and constants (K - 1)
SPARSE = cpu.MISSING is None  # whether `sparse_sums` is there


def sparse_sums(
    rows: SparseRows,
    theta: Coefficients,
    direction: Coefficients | None = None,
    probabilities: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the log-likelihood, and the sums (q + 1, K - 1) of r_k x_j and of r_k; with a
    direction, those of the information times it.

    The call fills `probabilities` (n, K - 1), contiguous; with a direction it reads those of an
    earlier call, and the log-likelihood is not computed.
    """
    columns, others = theta[0].shape
    value = torch.zeros((), dtype=torch.float64)
    sums = torch.empty(columns + 1, others, dtype=torch.float64)
    # Copies need a name: the library sees addresses alone.
    of_rows = [None if part is None else part.contiguous() for part in rows]
    coefficients = [part.contiguous() for part in (*theta, *(direction or ()))]
    cpu.sparse_sums(
        *map(cpu.address, of_rows[:3]),
        len(rows.labels),
        columns,
        others + 1,
        *map(cpu.address, of_rows[3:]),
        *(*map(cpu.address, coefficients), 0, 0)[:4],
        cpu.address(probabilities),
        value.data_ptr(),
        sums.data_ptr(),
        torch.get_num_threads(),
    )
    return value, sums


def probability_buffer(classes: int, rows: int) -> Tensor | None:
    """Return memory for the `probabilities` of `row_sums`; None where nothing would fill it."""
    return cpu.empty((classes, rows), torch.float64) if cpu.MISSING is None else None


def by_operators(
    rows: Rows, standard: Standard, theta: Tensor, direction: Tensor | None, square: Square | None
) -> RowSums:
    """The definition, in float64."""
    x, others = standard.applied(rows.x), len(theta)
    weights = torch.ones(len(x), dtype=torch.float64) if rows.weights is None else rows.weights
    logits = torch.cat([x.new_zeros(len(x), 1), x @ theta.T], 1)
    if rows.offset is not None:
        logits = logits + rows.offset
    target = rows.target
    if target is None:
        labels = torch.zeros(len(x), dtype=torch.int64) if rows.labels is None else rows.labels
        target = torch.nn.functional.one_hot(labels, others + 1).double()
    trials, log_p = target.sum(1), logits.log_softmax(1)
    p = log_p.exp()
    residual = weights[:, None] * (target - trials[:, None] * p)[:, 1:]
    p, trials = p[:, 1:], weights * trials
    by_class = residual
    if direction is not None:
        change = x @ direction.T
        by_class = trials[:, None] * p * (change - (p * change).sum(1, keepdim=True))
    return RowSums(
        (weights[:, None] * target * log_p).sum(),
        by_class.T @ x,
        _square(x, p, trials, residual, weights, square),
    )


def _square(
    x: Tensor, p: Tensor, trials: Tensor, residual: Tensor, weights: Tensor, square: Square | None
) -> Tensor | None:
    if square is None:
        return None
    if square == "information":
        diagonal = torch.block_diag(*[x.T @ ((trials * pk)[:, None] * x) for pk in p.T])
        expected = _by_class(p, x)
        return diagonal - expected.T @ (trials[:, None] * expected)
    scores = _by_class(residual, x)
    # a frequency counts the row's score once, not squared
    inverse = torch.where(weights > 0, 1 / weights, 0.0)
    counts = inverse if square == "scores" else torch.ones_like(weights)
    return scores.T @ (counts[:, None] * scores)


def _by_class(numbers: Tensor, x: Tensor) -> Tensor:
    """(n, K - 1) times (n, p), as (n, (K - 1) p)."""
    return (numbers[:, :, None] * x[:, None, :]).flatten(1)


def _compiled(
    rows: Rows,
    standard: Standard,
    theta: Tensor,
    direction: Tensor | None,
    square: Square | None,
    probabilities: Tensor | None,
    cached: bool,
    threads: int | None,
) -> RowSums:
    x = rows.x if rows.x.dtype in _TYPES else rows.x.double()
    others, p = theta.shape
    assert p == x.shape[1] + standard.intercept, (theta.shape, x.shape)
    value, score = torch.zeros((), dtype=torch.float64), torch.zeros(others, p, dtype=torch.float64)
    pairs = None
    if square is not None:
        size = others * (others + 1) // 2, p * (p + 1) // 2
        pairs = torch.zeros(size, dtype=torch.float64)
    in_rows = rows.labels, rows.target, rows.weights, rows.offset
    # Copies need a name: the library sees addresses alone.
    small = [
        None if tensor is None else tensor.contiguous()
        for tensor in (standard.centre, standard.scale, *in_rows, theta, direction)
    ]
    centre, scale, *of_rows, coefficients, along = map(cpu.address, small)
    cpu.softmax_sums(
        x.data_ptr(),
        _TYPES[x.dtype],
        *x.shape,
        *x.stride(),
        centre,
        scale,
        standard.intercept,
        others + 1,
        *of_rows,
        coefficients,
        along,
        cpu.address(probabilities),
        cached,
        _SQUARES[square],
        value.data_ptr(),
        score.data_ptr(),
        cpu.address(pairs),
        threads or torch.get_num_threads(),
    )
    return RowSums(value, score, None if pairs is None else _unpacked(pairs, others, p))


def _unpacked(pairs: Tensor, others: int, p: int) -> Tensor:
    """The symmetric matrix whose elements with classes k >= l and columns i >= j are `pairs`."""
    square, within = torch.empty(others, p, others, p, dtype=pairs.dtype), _places(p).reshape(-1)
    # one class at a time: the whole may be large
    for block, numbers in zip(square, _places(others), strict=True):
        block.copy_(pairs[numbers][:, within].view(others, p, p).permute(1, 0, 2))
    return square.view(others * p, -1)


def _places(size: int) -> Tensor:
    """(size, size): each element's index among the pairs k >= l, numbered row by row."""
    place = torch.zeros(size, size, dtype=torch.int64)
    row, column = torch.tril_indices(size, size)
    place[row, column] = place[column, row] = torch.arange(len(row))
    return place
