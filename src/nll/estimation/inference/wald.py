"""Confidence intervals and two-sided p-values from the normal approximation."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint


def wald(
    estimate: Tensor,
    standard_error: Tensor,
    level: float,
    low: float = -math.inf,
    high: float = math.inf,
) -> Tensor:
    """Return (low, high) in a new last dimension: estimate -+ z se, with z the quantile of (1 +
    level) / 2.

    Of a number between `low` and `high` on the scale on which it has no bounds, and mapped back: of
    the logarithm of its distance to a single bound, of the logit of its place between two. The
    error there is by the delta method.
    """
    reach = (
        quantile(level)
        * standard_error
        * torch.tensor([-1.0, 1.0], dtype=estimate.dtype).reshape(2, *[1] * estimate.dim())
    )
    if low > -math.inf and high < math.inf:
        up, down = estimate - low, high - estimate
        ends = low + (high - low) * torch.sigmoid((up / down).log() + reach * (1 / up + 1 / down))
    elif low > -math.inf:
        ends = low + (estimate - low) * torch.exp(reach / (estimate - low))
    elif high < math.inf:
        ends = high - (high - estimate) * torch.exp(-reach / (high - estimate))
    else:
        ends = estimate + reach
    return ends.movedim(0, -1)


def wald_within(
    estimate: Tensor, standard_error: Tensor, level: float, support: Constraint | None
) -> Tensor:
    """Wald's intervals of a parameter, on the scale that its constraint calls for.

    Each share of a simplex is a number from 0 to 1, and the diagonal of a positive definite matrix
    is positive.
    """
    support = getattr(support, "base_constraint", support)
    if isinstance(support, type(constraints.simplex)):
        return wald(estimate, standard_error, level, 0.0, 1.0)
    if support in (constraints.positive_definite, constraints.lower_cholesky):
        plain, positive = (wald(estimate, standard_error, level, low) for low in (-math.inf, 0.0))
        diagonal = torch.eye(estimate.shape[-1], dtype=torch.bool)[..., None]
        return torch.where(diagonal, positive, plain)
    low, high = (
        float(getattr(support, f"{end}_bound", side * math.inf))
        for end, side in (("lower", -1), ("upper", 1))
    )
    return wald(estimate, standard_error, level, low, high)


def quantile(level: float) -> float:
    """How many standard errors an interval of this level reaches on either side."""
    return -float(torch.special.ndtri(torch.tensor((1 - level) / 2, dtype=torch.float64)))


def require_level(level: float) -> None:
    """Raise for a level of confidence that is no number in (0, 1)."""
    if isinstance(level, bool) or not isinstance(level, (int, float)):
        raise TypeError(f"expected level to be a number, got {type(level).__name__}")
    if not 0.0 < level < 1.0:
        raise ValueError(f"expected level in (0, 1), got {level}")


def p_value(z: Tensor) -> Tensor:
    """P(|Z| > |z|) for a standard normal Z; erfc keeps its digits far out in the tail."""
    return torch.special.erfc(z.abs() / 2**0.5)
