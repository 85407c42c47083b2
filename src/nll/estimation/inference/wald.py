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

    For a number between `low` and `high` the interval is symmetric on a scale without bounds, and
    mapped back: the logarithm of its distance to a single bound, the logit of its place between
    two. The standard error there is by the delta method.
    """
    signs = torch.tensor([-1.0, 1.0], dtype=estimate.dtype).reshape(2, *[1] * estimate.dim())
    width = quantile(level) * standard_error * signs
    if low > -math.inf and high < math.inf:
        above, below = estimate - low, high - estimate
        logit = (above / below).log() + width * (1 / above + 1 / below)
        ends = low + (high - low) * torch.sigmoid(logit)
    elif low > -math.inf:
        ends = low + (estimate - low) * torch.exp(width / (estimate - low))
    elif high < math.inf:
        ends = high - (high - estimate) * torch.exp(-width / (high - estimate))
    else:
        ends = estimate + width
    return ends.movedim(0, -1)


def wald_within(
    estimate: Tensor, standard_error: Tensor, level: float, support: Constraint | None
) -> Tensor:
    """Return Wald intervals of a parameter, on the scale of its constraint.

    Each share of a simplex lies between 0 and 1, and the diagonal of a positive definite matrix is
    positive.
    """
    support = getattr(support, "base_constraint", support)
    if isinstance(support, type(constraints.simplex)):
        return wald(estimate, standard_error, level, 0.0, 1.0)
    if support in (constraints.positive_definite, constraints.lower_cholesky):
        plain, positive = (wald(estimate, standard_error, level, low) for low in (-math.inf, 0.0))
        diagonal = torch.eye(estimate.shape[-1], dtype=torch.bool)[..., None]
        return torch.where(diagonal, positive, plain)
    low = float(getattr(support, "lower_bound", -math.inf))
    high = float(getattr(support, "upper_bound", math.inf))
    return wald(estimate, standard_error, level, low, high)


def quantile(level: float) -> float:
    """Return how many standard errors an interval of this level extends to either side."""
    return -float(torch.special.ndtri(torch.tensor((1 - level) / 2, dtype=torch.float64)))


def require_level(level: float) -> None:
    """Raise for a confidence level that is no number in (0, 1)."""
    if isinstance(level, bool) or not isinstance(level, (int, float)):
        raise TypeError(f"expected level to be a number, got {type(level).__name__}")
    if not 0.0 < level < 1.0:
        raise ValueError(f"expected level in (0, 1), got {level}")


def p_value(z: Tensor) -> Tensor:
    """Return P(|Z| > |z|) for a standard normal Z; erfc keeps its digits far out in the tail."""
    return torch.special.erfc(z.abs() / 2**0.5)
