"""Tests of values of parameters: Wald's, the likelihood ratio's and the score's (Cox and Hinkley
1974, section 9.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nll.estimation.diagnostics import higher
from nll.estimation.inference import covariance as cov
from nll.estimation.maximise import Solution, inward

METHODS = ("wald", "lr", "score")


class Test(NamedTuple):
    """A statistic that has a chi-squared distribution where the hypothesis holds."""

    method: str
    statistic: float
    df: int
    p_value: float

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.method}: chi-squared({self.df}) = {self.statistic:.6g}, p = {self.p_value:.4g}"
        )


Test.__test__ = False  # type: ignore[attr-defined]  # pytest takes it for a test of its own


def chi_squared(method: str, statistic: float, df: int) -> Test:
    """A test with its p-value, P(X > statistic)."""
    half = torch.tensor([df / 2, max(statistic, 0.0) / 2], dtype=torch.float64)
    return Test(method, statistic, df, float(torch.special.gammaincc(half[0], half[1])))


def numbers(
    names: list[str], shapes: Mapping[str, tuple[int, ...]], hypothesis: Mapping[str, Any]
) -> dict[int, float]:
    """Which of the flattened parameters have which values; a key is a parameter, or one number of
    it: "coef[1]".
    """
    if not isinstance(hypothesis, Mapping) or not hypothesis:
        raise TypeError(
            f"expected a hypothesis as a dict of parameter -> value, got {hypothesis!r}"
        )
    found: dict[int, float] = {}
    for key, value in hypothesis.items():
        own = [i for i, name in enumerate(names) if name == key or name.startswith(f"{key}[")]
        if not own:
            raise ValueError(f"expected a parameter ({', '.join(names)}), got {key!r}")
        shape = shapes.get(key, ())
        try:
            values = torch.as_tensor(value, dtype=torch.float64).expand(shape).reshape(-1).tolist()
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(
                f"expected a value of shape {shape} for {key}, got {value!r}"
            ) from None
        found |= dict(zip(own, values, strict=True))
    return found


def wald(estimate: Tensor, covariance: Tensor, values: dict[int, float]) -> Test:
    """(b - b0)' V^-1 (b - b0), on the parameters' own scale."""
    index = torch.tensor(list(values))
    away = estimate[index] - torch.tensor(list(values.values()), dtype=torch.float64)
    inverse = cov.inverse(covariance[index[:, None], index])
    return chi_squared("wald", float(away @ inverse @ away), len(values))


def restricted(found: Solution, values: dict[int, float], method: str) -> Test:
    """The likelihood ratio's or the score's test, from the maximum where the numbers have these
    values.
    """
    layout = found.problem.layout
    names = layout.names
    at = {name: value.clone() for name, value in layout.natural(found.theta).items()}
    fixed = torch.zeros(1, layout.size, dtype=torch.bool)
    position = 0
    for name, parameter in layout.parameters.items():
        own = [i for i, label in enumerate(names) if label == name or label.startswith(f"{name}[")]
        asked = {i: values[i] for i in own if i in values}
        if asked and (name not in layout.free or parameter.free_shape != parameter.shape):
            raise ValueError(f"expected a free parameter of plain numbers to test, got {name}")
        for i, value in asked.items():
            given = {name: torch.full((1, *parameter.shape), value, dtype=torch.float64)}
            at[name].reshape(-1)[i - own[0]] = found.units.own(given)[name].reshape(-1)[0]
            fixed[0, position + i - own[0]] = True
            if not bool(parameter.constraint.check(given[name]).all()):
                raise ValueError(f"expected a value of {names[i]} that is possible, got {value}")
        position += parameter.free_shape.numel() if name in layout.free else 0
    there = layout.numbers(at)
    start = higher(
        found.problem,
        torch.where(fixed, there, inward(found)),
        torch.where(fixed, there, found.theta),
    )
    top = found.problem.maximise_held(start, fixed)
    if not bool(top.reached[0]):
        return Test(method, float("nan"), len(values), float("nan"))
    if method == "lr":
        gain = float(found.optimum.sums.log_likelihood) - float(top.sums.log_likelihood[0])
        return chi_squared(method, 2 * gain, len(values))
    there = found.problem.sums(top.theta)
    score = there.score[0].masked_fill(~fixed[0], 0.0)
    return chi_squared(
        method, float(score @ cov.inverse(there.information[0]) @ score), len(values)
    )
