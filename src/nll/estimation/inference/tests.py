"""Tests of values of parameters: Wald, likelihood ratio and score (Cox and Hinkley 1974, section
9.3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nll.estimation.inference import covariance as cov
from nll.estimation.objective import maximise_fixed
from nll.estimation.search.profiles import higher
from nll.estimation.search.solution import Solution, inward


class Test(NamedTuple):
    """A statistic that has a chi-squared distribution under the hypothesis."""

    method: str
    statistic: float
    df: int
    p_value: float

    def __str__(self) -> str:
        return (
            f"{self.method}: chi-squared({self.df}) = {self.statistic:.6g}, p = {self.p_value:.4g}"
        )


Test.__test__ = False  # type: ignore[attr-defined]  # pytest takes it for a test of its own


def chi_squared(method: str, statistic: float, df: int) -> Test:
    """Return a test with its p-value, P(X > statistic)."""
    half = torch.tensor([df / 2, max(statistic, 0.0) / 2], dtype=torch.float64)
    return Test(method, statistic, df, float(torch.special.gammaincc(half[0], half[1])))


def numbers(
    names: list[str], shapes: Mapping[str, tuple[int, ...]], hypothesis: Mapping[str, Any]
) -> dict[int, float]:
    """Return flattened parameter -> value; a key of the hypothesis is a parameter, or one number of
    it: "coef[1]".
    """
    if not isinstance(hypothesis, Mapping) or not hypothesis:
        raise TypeError(
            f"expected a hypothesis as a dict of parameter -> value, got {hypothesis!r}"
        )
    every: dict[int, float] = {}
    for key, value in hypothesis.items():
        places = [i for i, name in enumerate(names) if name == key or name.startswith(f"{key}[")]
        if not places:
            raise ValueError(f"expected a parameter ({', '.join(names)}), got {key!r}")
        shape = shapes.get(key, ())
        try:
            values = torch.as_tensor(value, dtype=torch.float64).expand(shape).reshape(-1).tolist()
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(
                f"expected a value of shape {shape} for {key}, got {value!r}"
            ) from None
        every |= dict(zip(places, values, strict=True))
    return every


def wald(estimate: Tensor, covariance: Tensor, values: dict[int, float]) -> Test:
    """Return (b - b0)' V^-1 (b - b0), on the parameters' own scale."""
    index = torch.tensor(list(values))
    away = estimate[index] - torch.tensor(list(values.values()), dtype=torch.float64)
    inverse = cov.inverse(covariance[index[:, None], index])
    return chi_squared("wald", float(away @ inverse @ away), len(values))


def restricted(solution: Solution, values: dict[int, float], method: str) -> Test:
    """Return the likelihood-ratio or the score test, from the maximum at which the flattened
    parameters have these values.
    """
    objective = solution.objective
    at, fixed = _hypothesis(solution, values)
    start = higher(
        objective,
        torch.where(fixed, at, inward(solution)),
        torch.where(fixed, at, solution.theta),
    )
    top = maximise_fixed(objective, start, fixed)
    if not bool(top.reached[0]):
        return Test(method, math.nan, len(values), math.nan)
    if method == "lr":
        best = float(solution.optimum.sums.log_likelihood)
        return chi_squared(method, 2 * (best - float(top.sums.log_likelihood[0])), len(values))
    sums = objective.sums(top.theta)
    score = sums.score[0].masked_fill(~fixed[0], 0.0)
    return chi_squared(method, float(score @ cov.inverse(sums.information[0]) @ score), len(values))


def _hypothesis(solution: Solution, values: dict[int, float]) -> tuple[Tensor, Tensor]:
    """The free numbers (1, P) with the hypothesis' values, and which of them (1, P) it fixes."""
    layout, units = solution.objective.layout, solution.units
    params = units.given(layout.natural(solution.theta))
    params = {name: value.detach().clone() for name, value in params.items()}
    fixed = torch.zeros(1, layout.size, dtype=torch.bool)
    for entry in layout.entries():
        tested = [i for i in range(entry.flat.start, entry.flat.stop) if i in values]
        if tested and not entry.is_plain:
            raise ValueError(
                f"expected a free parameter of plain numbers to test, got {entry.name}"
            )
        for i in tested:
            params[entry.name].view(-1)[i - entry.flat.start] = values[i]
            fixed[0, entry.free.start + i - entry.flat.start] = True
            whole = torch.full(entry.parameter.shape, values[i], dtype=torch.float64)
            if not bool(entry.parameter.constraint.check(whole).all()):
                raise ValueError(f"expected a possible value of {layout.names[i]}, got {values[i]}")
    return layout.numbers(units.own(params)), fixed
