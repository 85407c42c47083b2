"""The families of the command, by the names of `names.py`."""

from __future__ import annotations

import re

import numpy as np
import torch
from torch.distributions import Normal

from nll.families.compound import INFLATED, SHIFTED, shifted, zero_inflated
from nll.families.mixture import mixture
from nll.families.registry import FAMILIES

# The default candidates of a comparison, as far as their support contains the data.
_COUNTS = ("poisson", "geometric", "negative_binomial")
_MEASUREMENTS = (
    *("normal", "laplace", "student_t", "gumbel", "skew_normal"),
    *("exponential", "gamma", "weibull", "log_normal", "inverse_gaussian", "beta"),
)


def snake(name: str) -> str:
    """Return a class name as the command spells it: student_t."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


_SINGLE = [family for family in FAMILIES.values() if not (family.columns or family.given)]
_COMPOUND = (*map(shifted, SHIFTED), *map(zero_inflated, INFLATED), mixture(Normal))
DISTRIBUTIONS = {snake(family.name): family for family in (*_SINGLE, *_COMPOUND)}


def usual(values: np.ndarray) -> list[str]:
    """Return the default candidates whose support contains the values."""
    x = torch.from_numpy(values)
    whole = bool(DISTRIBUTIONS["poisson"].inside(x).all())
    candidates = _COUNTS if whole else _MEASUREMENTS
    return [name for name in candidates if bool(DISTRIBUTIONS[name].inside(x).all())]
