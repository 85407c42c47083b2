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

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nll.data.arrays import absent, array_of, require_dense
from nll.data.classes import require_one_type
from nll.kernels.multinomial import RowSums, Square, row_sums
from nll.regression import existence
from nll.regression.design_matrix import Held
from nll.regression.softmax.objective import InMemory, lost_offset
from nll.solvers.outcome import Optimum
from nll.solvers.trust_region import maximise

_ROUGH = 1e-4  # the decrement at which the search for a start ends


def sets_of(y: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """Which classes each row may have, (n, K), and the classes; None: `y` has no sets.

    Sets are a table or an array (n, K) of True and False, or a sequence of sets.

    Raises: ValueError for an empty set, naming its row.
    """
    require_dense(y, "y")
    if _are_sets(y):
        found = {
            value.item() if isinstance(value, np.generic) else value for own in y for value in own
        }
        require_one_type(found)
        classes = np.array(
            sorted(found),
            dtype=None if all(isinstance(v, (int, float, str)) for v in found) else object,
        )
        allowed = np.array([[value in own for value in classes.tolist()] for own in y])
    elif _are_true(y):
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
    return (
        hasattr(y, "__len__") and len(y) > 0 and all(isinstance(own, (set, frozenset)) for own in y)
    )


def _are_true(y: Any) -> bool:
    shape = getattr(y, "shape", ())
    if len(shape) != 2 or shape[1] < 2:
        return False
    types = set(y.dtypes) if hasattr(y, "columns") else {getattr(y, "dtype", None)}
    return {str(kind).removeprefix("torch.") for kind in types} <= {
        "bool",
        "boolean",
        "bool[pyarrow]",
        "Boolean",
    }


class SetValued(InMemory):
    """The likelihood of rows in memory whose class is one of a set.

    Args:
        allowed: (n, K), the classes of each row's set; some have several.
        others: as `InMemory` takes them; the label of a row is any of its set.
    """

    def __init__(
        self,
        columns: Held,
        labels: Tensor,
        weights: Tensor,
        classes: int,
        alpha: float = 0.0,
        offset: Tensor | None = None,
        *,
        allowed: Tensor,
    ) -> None:
        super().__init__(columns, labels, weights, classes, alpha, offset)
        self._keeps = False
        self.allowed, self.several = allowed, allowed.sum(1) > 1
        self.shares = allowed.double() / allowed.sum(1, keepdim=True)
        self.counts = weights @ self.shares
        self.within = self._of(self.several, lost_offset(allowed))

    def _of(self, rows: Tensor, added: Tensor | None = None) -> InMemory:
        """The likelihood of some rows' labels, with something added to the scores of all."""
        parts = [part[rows] for part in (self.offset, added) if part is not None]
        offset = sum(parts[1:], parts[0]) if parts else None
        return InMemory(
            self.columns.taken(rows),
            self.labels[rows],
            self.weights[rows],
            self.classes,
            0.0,
            offset,
        )

    def row_sums(self, theta: Tensor, direction: Tensor | None = None, **more: Any) -> RowSums:
        """What the rows add up to: the kernel's sums for all classes, less those for the classes of
        the sets.
        """
        square = more.get("square")
        if square in ("scores", "weighted scores"):
            return self._scores(theta, square)
        known, missing = (
            one(theta, direction, square=square) for one in (super().row_sums, self.within.row_sums)
        )
        left = (
            None
            if known.square is None or missing.square is None
            else known.square - missing.square
        )
        return RowSums(
            known.log_likelihood - missing.log_likelihood, known.score - missing.score, left
        )

    def _scores(self, theta: Tensor, square: Square) -> RowSums:
        """With the outer product of the rows' scores."""
        rows = self.rows._replace(labels=None, target=self.seen(slice(None), theta))
        return row_sums(rows, self.standard, theta.reshape(self.classes - 1, -1), square=square)

    def seen(self, rows: slice, theta: Tensor) -> Tensor:
        """(rows, K), what is expected of each class, given the set."""
        return (self.scores(rows, theta) + lost_offset(self.allowed[rows])).softmax(1)

    def thinned(self, least: int) -> None:
        """None: the search has a start of its own."""
        return

    def start(self) -> Tensor:
        """The maximum where each class of a set counts equally; that likelihood is concave."""
        even = InMemory(
            self.columns, self.labels, self.weights, self.classes, self.alpha, self.offset
        )
        even.counts, even.rows = self.counts, even.rows._replace(labels=None, target=self.shares)
        return maximise(even.sums, even.start(), None, self.unit, _ROUGH).theta

    def single(self) -> InMemory | None:
        """The likelihood of the rows of a single class; None where these do not have all
        classes.
        """
        if bool(self.several.all()):
            return None
        single = self._of(~self.several)
        return single if bool((single.counts > 0).all()) else None

    def certified(self, found: Optimum, inverse: Tensor) -> bool:
        """Whether there is a maximum near by; `inverse` is that of the information."""
        factor, failed = torch.linalg.cholesky_ex(inverse)
        if int(failed) or bool(factor.isnan().any()):
            return False
        # in units of the information
        missing = factor.T @ self.within.information(found.theta) @ factor
        most = 1 + 2 * max(0.0, float(torch.linalg.eigvalsh(missing)[-1]))
        reach = existence.largest_range(inverse, self.columns, self.classes - 1)
        return (2 * max(found.decrement, 0.0)) ** 0.5 * reach < most - (most**2 - 1) ** 0.5

    def verdict(self, exists: bool) -> str:
        """Say what is known of the maximum that was reached; `exists`: whether the likelihood is
        bounded by one.
        """
        end = "converged: a finite maximum exists, and the Newton steps reached one"
        end = (
            end
            if exists
            else ("converged: the Newton steps reached a maximum, which may not be the largest")
        )
        return f"{end}; the likelihood of sets of classes may have several"
