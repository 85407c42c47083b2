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


def p_value(z: Tensor) -> Tensor:
    """P(|Z| > |z|) for a standard normal Z; erfc keeps its digits far out in the tail."""
    return torch.special.erfc(z.abs() / 2**0.5)
