"""Units in which a search is easy: data near 0, of a size near 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from nll.solvers.parameters import Params

_SAMPLE = 4096  # values that determine the units


def _constant(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


@dataclass(frozen=True)
class Units:
    """Data less `centre`, in units of `scale`, of one or of B data sets; and how each parameter
    moves with them.
    """

    centre: Tensor = field(default_factory=lambda: _constant(0.0))  # (1 or B)
    scale: Tensor = field(default_factory=lambda: _constant(1.0))  # (1 or B)
    roles: Mapping[str, str] = field(default_factory=dict)  # "location", "scale" or "rate"

    def data(self, values: Tensor) -> Tensor:
        """Return data, (n) or (B, n), in these units."""
        if not self.roles:
            return values
        shape = (-1, *[1] * (values.dim() - 1))
        return (values - self.centre.reshape(shape)) / self.scale.reshape(shape)

    def given(self, params: Params) -> Params:
        """Return parameters (B, *shape) in the units of the data."""
        if not self.roles:
            return params
        return {
            n: v * self._factor(n, v.dim()) + self._shift(n, v.dim()) for n, v in params.items()
        }

    def own(self, params: Params) -> Params:
        """Return parameters (B, *shape) in these units."""
        if not self.roles:
            return params
        return {
            n: (v - self._shift(n, v.dim())) / self._factor(n, v.dim()) for n, v in params.items()
        }

    def factors(self, params: Params) -> Tensor:
        """Return what each number of the flattened parameters is multiplied with, (1 or B, N)."""
        return torch.cat(
            [self._factor(n, 2).expand(-1, v[0].numel()) for n, v in params.items()], 1
        )

    def _factor(self, name: str, dims: int) -> Tensor:
        factors = {"location": self.scale, "scale": self.scale, "rate": 1 / self.scale}
        factor = factors.get(self.roles.get(name, ""), torch.ones_like(self.scale))
        return factor.reshape(-1, *[1] * (dims - 1))

    def _shift(self, name: str, dims: int) -> Tensor:
        located = self.roles.get(name) == "location"
        shift = self.centre if located else torch.zeros_like(self.centre)
        return shift.reshape(-1, *[1] * (dims - 1))


def units_of(values: Tensor, roles: Mapping[str, str] | None) -> Units:
    """Return the median, and a power of 2 near the spread about it, of data (n) or (B, n), if the
    family's parameters move with them.
    """
    if not roles:
        return Units()
    rows = values if values.dim() > 1 else values[None]
    some = rows[:, :: max(1, rows.shape[1] // _SAMPLE)]
    centre = torch.zeros_like(some[:, 0])
    if "location" in roles.values():
        centre = some.median(1).values
    away = (some - centre[:, None]).abs()
    spread = away.median(1).values
    spread = torch.where(spread > 0, spread, away.amax(1))
    usable = (spread > 0) & spread.isfinite()
    exponent = torch.frexp(torch.where(usable, spread, 0.5)).exponent.clamp(-1022, 1023)
    return Units(centre, torch.from_numpy(np.ldexp(1.0, exponent.numpy())), roles)
