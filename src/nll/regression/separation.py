"""What is known of a regression whose classes are separated: there is no maximum, and yet some of
it has a limit.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nll.estimation.inference import wald
from nll.solvers.outcome import Optimum

_FLAT = 1e-10  # an eigenvalue of the information, in units of the diagonal, that is 0

Pairs = tuple[tuple[str, str], ...]


class Contrast(NamedTuple):
    """How one class differs from another in the limit; NaN where that has no limit."""

    of: str
    against: str
    estimate: Tensor  # (p)
    standard_errors: Tensor  # (p)

    @property
    def z(self) -> Tensor:
        return self.estimate / self.standard_errors

    @property
    def p_values(self) -> Tensor:
        """Wald tests of the coefficients being 0."""
        return wald.p_value(self.z)

    def interval(self, level: float = 0.95) -> Tensor:
        return wald.wald(self.estimate, self.standard_errors, level)


class Separation(NamedTuple):
    """The likelihood rises for ever along a direction of the coefficients, towards its supremum."""

    classes: tuple[str, ...]  # (K)
    columns: tuple[str, ...]  # (p)
    direction: Tensor  # (K, p): the change of the coefficients; 0 for the baseline
    separated: Pairs  # classes of which no row is between both in the limit
    partly: Pairs  # classes of which some rows are
    supremum: float  # of the log-likelihood
    contrasts: tuple[Contrast, ...]  # those that have limits

    def sentence(self) -> str:
        clauses = [_separated(self.separated)] if self.separated else []
        clauses += [f"{_separated(self.partly)} in some rows"] if self.partly else []
        moving = zip(self.columns, self.direction.any(0).tolist(), strict=True)
        by = ", ".join(name for name, moves in moving if moves and name != "Intercept")
        finite = ", ".join(f"{one.of} vs. {one.against}" for one in self.contrasts)
        return (
            f"no finite estimate: {' and '.join(clauses)}, by {by}; the log-likelihood rises "
            f"towards {self.supremum:.12g}; finite contrasts: {finite or 'none'}"
        )


def _separated(pairs: Pairs) -> str:
    """Write "class a is separated from b, c and d", or all pairs if no class is in each of them."""
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        if all(name in pair for pair in pairs):
            *others, last = [b if a == name else a for a, b in pairs]
            joined = f"{', '.join(others)} and {last}" if others else last
            return f"class {name} is separated from {joined}"
    return f"classes {', '.join(f'{a} and {b}' for a, b in pairs)} are separated"


class Limit(NamedTuple):
    """The maximum of what remains far along the direction, and its curvature."""

    theta: Tensor  # (P)
    covariance: Tensor  # (P, P), across the flat directions
    # (P, P), the projector onto what has a limit, in units of the information's diagonal
    projector: Tensor
    unit: Tensor  # (P)

    def contrast(self, to_data: Tensor, k: int, against: int) -> tuple[Tensor, Tensor]:
        """Return the coefficients (p) of class k less another's, and their standard errors."""
        p = len(to_data)
        linear = torch.zeros(p, len(self.theta), dtype=torch.float64)
        for number, sign in ((k, 1.0), (against, -1.0)):
            if number:
                linear[:, (number - 1) * p : number * p] += sign * to_data
        return within_limit(self, linear)

    def coefficients(self, coef: Tensor, to_data: Tensor) -> tuple[Tensor, Tensor]:
        """Return coefficients (K - 1, p) with their limits where they have one, and the covariance
        of these; NaN elsewhere.
        """
        limits = torch.stack([self.contrast(to_data, k + 1, 0)[0] for k in range(len(coef))])
        diverges = ~limits.isfinite().reshape(-1)
        across = torch.block_diag(*[to_data] * len(coef))
        covariance = across @ self.covariance @ across.T
        covariance = covariance.masked_fill(diverges[:, None] | diverges, math.nan)
        return torch.where(limits.isfinite(), limits, coef), covariance


def limit_of(optimum: Optimum) -> Limit:
    """Return the maximum of what remains, with its curvature across the flat directions."""
    information = optimum.sums.information
    diagonal = information.diagonal()
    unit = torch.where(diagonal > 0, diagonal.clamp(min=1e-300).rsqrt(), 1.0)
    values, vectors = torch.linalg.eigh(unit[:, None] * information * unit)
    across = vectors[:, values > _FLAT]
    inverse = across / values[values > _FLAT] @ across.T
    return Limit(optimum.theta, unit[:, None] * inverse * unit, across @ across.T, unit)


def within_limit(limit: Limit, linear: Tensor) -> tuple[Tensor, Tensor]:
    """Return linear functions (m, P) of the parameters in the limit and their standard errors; NaN
    for those that have none.
    """
    scaled = linear * limit.unit
    rest = scaled - scaled @ limit.projector
    diverges = rest.square().sum(1).sqrt() > 1e-6 * scaled.square().sum(1).sqrt()
    variance = (linear @ limit.covariance @ linear.T).diagonal().clamp(min=0)
    estimate = (linear @ limit.theta).masked_fill(diverges, math.nan)
    return estimate, variance.sqrt().masked_fill(diverges, math.nan)


ZERO = 1e-9  # a margin that is 0, for columns and directions of at most 1
_EXACT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


def separating_direction(margins: Any) -> np.ndarray | None:
    """Maximise the sum of the margins, none of them negative, over directions of at most 1.

    Args:
        margins: (n, p) sparse, by how much the predictor of what was observed exceeds another.

    Returns: (p); 0 where no direction raises a margin; None where that is not decided.
    """
    gain = np.asarray(margins.sum(0)).ravel()
    direction = minimise(-gain, -margins, np.zeros(margins.shape[0]), (-1, 1))
    if direction is None:
        return None
    raised = margins @ direction
    if raised.max(initial=0.0) <= ZERO:
        return np.zeros_like(direction)
    return direction if raised.min() >= -ZERO else None


def minimise(cost: np.ndarray, matrix: Any, most: np.ndarray, bounds: Any) -> np.ndarray | None:
    """Minimise cost'x subject to matrix x <= most; None where the solver failed."""
    from scipy.optimize import linprog

    solution: Any = linprog(cost, matrix, most, bounds=bounds, method="highs", options=_EXACT)
    return solution.x if solution.status == 0 else None
