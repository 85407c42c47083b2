"""Data sets drawn from a fitted model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from nll.families.base import Family
from nll.solvers.parameters import Params

T = TypeVar("T")


def simulate(family: Family, params: Params, shape: tuple[int, ...], seed: int) -> Tensor:
    """Draw (*shape) numbers of a family, in float64; a parameter may have a value for each row, the
    last dimension.
    """
    made: Any = family.distribution
    known = made(**params, validate_args=False)
    rows = len(known.batch_shape)
    return seeded(lambda: known.sample(torch.Size(shape[: len(shape) - rows])), seed).double()


def seeded(draw: Callable[[], T], seed: int) -> T:
    """What is drawn with a seed; PyTorch's own generator stays as it is."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        return draw()
