"""Data for the linear models, and how a fit of them is compared."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from nll.data.observations import observe
from nll.regression.design_matrix import Columns
from nll.regression.glm.fit import fit_linear


def sample(family: str, n: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, 2)) * [1.0, 4.0] + [0.5, -2.0]
    score = x @ [0.5, -0.1] + 0.2
    mean = np.exp(score)
    return x, {
        "bernoulli": draw.random(n) < 1 / (1 + np.exp(-score)),
        "poisson": draw.poisson(mean),
        "normal": score + 0.7 * draw.normal(size=n),
        "negative_binomial": draw.negative_binomial(2.0, 2.0 / (2.0 + mean)),
    }[family].astype(float)


def fitted(family: str, x, y, weights=None, intercept: bool = True):
    given = torch.tensor(np.asarray(x, dtype=float))
    return fit_linear(family, Columns.of(given, None, intercept), observe(y, weights), response="y")


def same(found: Tensor, expected, rel: float) -> None:
    torch.testing.assert_close(
        found, torch.as_tensor(expected, dtype=torch.float64), rtol=rel, atol=0
    )
