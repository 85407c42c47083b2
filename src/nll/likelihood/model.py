"""A log-likelihood as a function of the parameters that a reader sees."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class LogLikelihood(ABC):
    """The log-likelihood of the data of a fit, as a function of its flattened parameters."""

    @abstractmethod
    def __call__(self, vector: Tensor) -> float:
        """Return the log-likelihood at a vector of parameters."""

    def along(self, vector: Tensor, index: int, steps: Tensor) -> Tensor:
        """Return the log-likelihood as parameter `index` moves by each of `steps` and the others stay."""
        unit = torch.zeros_like(vector)
        unit[index] = 1.0
        return torch.tensor([self(vector + step * unit) for step in steps], dtype=torch.float64)
