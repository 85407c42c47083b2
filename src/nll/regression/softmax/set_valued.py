"""Softmax regression of rows whose class is known only to be one of several.

With A(z) = log sum_k exp(z_k) over all classes and A_S over those of the row's set S,

    log P(S) = A_S(z) - A(z)        score_k = w (p_k given S - p_k) x        information: that of A
    less that of A_S

(Louis 1982: what is known less what is missing). The likelihood is not concave: it may have several
maxima, or none. It has one where the rows of a single class have one of their own, since each other
row adds at most 0.

Near a point, a maximum is certified as `existence` does it for concave likelihoods. Along a line of
unit length in the norm of the information, on which no row's scores change by more than a range of
R, A'' and A_S'' grow and shrink by no more than exp(R t) (Bach 2010). Their difference is 1 at
first; with their sum of at most m, the slope at the distance t is at most nu - sinh(R t) / R + m
(cosh(R t) - 1) / R. Where nu R < m - sqrt(m^2 - 1) it is negative all around a ball.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nll.data.arrays import absent, array_of, require_dense
from nll.data.classes import require_one_type
from nll.data.prefetch import blocks
from nll.kernels.multinomial import Rows, RowSums, Square
from nll.regression import existence
from nll.regression.design_matrix import Response, StoredColumns
from nll.regression.softmax.objective import (
    InMemory,
    SoftmaxLikelihood,
    logits,
    mask_as_offset,
    scores_of,
)
from nll.solvers.outcome import Optimum
from nll.solvers.trust_region import maximise

_BOOLEAN = {"bool", "boolean", "bool[pyarrow]", "Boolean", "torch.bool"}
_ROUGH = 1e-4  # the decrement at which the search for a start ends


def sets_of(y: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Which classes each row may have, (n, K), and the classes; None: `y` has no sets.

    Sets are a table or an array (n, K) of True and False, or a sequence of sets.

    Raises: ValueError for an empty set, naming its row.
    """
    require_dense(y, "y")
    if _are_sets(y):
        members = {v.item() if isinstance(v, np.generic) else v for one in y for v in one}
        require_one_type(members)
        plain = all(isinstance(value, (int, float, str)) for value in members)
        classes = np.array(sorted(members), dtype=None if plain else object)
        allowed = np.array([[value in one for value in classes.tolist()] for one in y])
    elif _are_booleans(y):
        array = array_of(y, "y")
        if absent(array).any():
            row = int(absent(array).any(1).argmax())
            raise ValueError(
                f"expected True or False for each class, got a missing value at row {row}"
            )
        allowed = array.astype(bool)
        classes = np.asarray(y.columns if hasattr(y, "columns") else np.arange(allowed.shape[1]))
    else:
        return None
    if not allowed.any(1).all():
        raise ValueError(
            f"expected at least one class for each row, got none at row "
            f"{int(allowed.any(1).argmin())}"
        )
    used = allowed.any(0)
    return allowed[:, used], classes[used]


def _are_sets(y: Any) -> bool:
    sized = hasattr(y, "__len__") and len(y) > 0
    return sized and all(isinstance(one, (set, frozenset)) for one in y)


def _are_booleans(y: Any) -> bool:
    shape = getattr(y, "shape", ())
    types = set(y.dtypes) if hasattr(y, "columns") else {getattr(y, "dtype", None)}
    return len(shape) == 2 and shape[1] > 1 and set(map(str, types)) <= _BOOLEAN


class SetValued(SoftmaxLikelihood):
    """The likelihood of rows in memory whose class is one of a set.

    Args:
        columns: of the solver.
        response: as `InMemory` takes it; the label of a row is any of its set.
        alpha: see `SoftmaxLikelihood`.
        allowed: (n, K), the classes of each row's set; some have several.
    """

    columns: StoredColumns
    concave = False

    def __init__(
        self, columns: StoredColumns, response: Response, alpha: float = 0.0, *, allowed: Tensor
    ) -> None:
        self.response, self.allowed = response, allowed
        classes = allowed.shape[1]
        n_allowed = allowed.sum(1)
        shares = allowed.double() / n_allowed[:, None]
        # each class of a set counts equally: this likelihood is concave
        even = response._replace(labels=None, target=shares)
        self.even = InMemory(columns, even, classes, alpha)
        super().__init__(columns, classes, columns.length, alpha)
        self.counts = self.even.counts
        self.several, self.mask = n_allowed > 1, mask_as_offset(allowed)
        offset = self.mask if response.offset is None else response.offset + self.mask
        self.total = InMemory(columns, response, classes)
        self.weights = self.total.weights
        within = InMemory(columns, response._replace(offset=offset), classes)
        self.within = within.of(self.several)

    def row_sums(
        self, theta: Tensor, square: Square | None = None, direction: Tensor | None = None
    ) -> RowSums:
        """Return the kernel's sums for all classes, less those for the classes of the sets."""
        if square in ("scores", "weighted scores"):
            target = self._posterior(self.total.rows(slice(None)), slice(None), theta)
            expected = self.total.response._replace(labels=None, target=target)
            return self.columns.row_sums(expected, self.coef(theta), square=square)
        total = self.total.row_sums(theta, square)
        within = self.within.row_sums(theta, square)
        left = total.square - within.square if total.square is not None else None  # type: ignore[operator]
        return RowSums(
            total.log_likelihood - within.log_likelihood, total.score - within.score, left
        )

    def product(self, theta: Tensor) -> Callable[[Tensor], Tensor]:
        total, within = self.total.product(theta), self.within.product(theta)
        return lambda direction: total(direction) - within(direction)

    def _posterior(self, rows: Rows, at: slice, theta: Tensor) -> Tensor:
        """(rows, K), the probability of each class, given the set."""
        return (logits(rows, self.coef(theta)) + self.mask[at]).softmax(1)

    def reweighted(self, weights: Tensor) -> SetValued:
        response = self.response._replace(weights=weights)
        return SetValued(self.columns, response, self.alpha, allowed=self.allowed)

    def score_blocks(self, theta: Tensor) -> Iterator[tuple[slice, Tensor]]:
        for at in blocks(self.length, self.size):
            rows = self.total.rows(at)
            expected = rows._replace(target=self._posterior(rows, at, theta), weights=None)
            yield at, scores_of(expected, self.coef(theta))

    def start(self) -> Tensor:
        return maximise(self.even.sums, self.even.start(), None, self.unit, _ROUGH).theta

    def bounding(self) -> SoftmaxLikelihood | None:
        """Return the likelihood of the rows of a single class; None where these do not have all
        classes.
        """
        if bool(self.several.all()):
            return None
        single = self.total.of(~self.several)
        return single if bool((single.counts > 0).all()) else None

    def null_log_likelihood(self) -> None:
        return None

    def certified(self, optimum: Optimum, inverse: Tensor | None, longest: float | None) -> bool:
        """Whether there is a maximum near by."""
        if inverse is None:
            return False
        factor, failed = torch.linalg.cholesky_ex(inverse)
        if int(failed) or bool(factor.isnan().any()):
            return False
        # in units of the information
        missing = factor.T @ self.within.information(optimum.theta) @ factor
        most = 1 + 2 * max(0.0, float(torch.linalg.eigvalsh(missing)[-1]))
        largest = existence.largest_range(inverse, self.columns, self.classes - 1)
        return (2 * max(optimum.decrement, 0.0)) ** 0.5 * largest < most - (most**2 - 1) ** 0.5
