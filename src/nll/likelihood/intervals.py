"""Confidence intervals and two-sided p-values from the normal approximation."""

from __future__ import annotations

import torch
from torch import Tensor


def wald(estimate: Tensor, standard_error: Tensor, level: float) -> Tensor:
    """Return (low, high) in a new last dimension: estimate -+ z se, with z the quantile of (1 + level) / 2."""
    z = quantile(level)
    return torch.stack([estimate - z * standard_error, estimate + z * standard_error], dim=-1)


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
