"""Average marginal effects: how the probability of each class moves with a column, averaged over the rows.

With scores z_k = b_k' x and means over the rows written as E,

    effect_kj = E[p_k (b_kj - sum_r p_r b_rj)] = E[p_k] b_kj - sum_r E[p_k p_r] b_rj

    d effect_kj / d b_ml = [j = l] ([k = m] E p_k - E p_k p_m) + [k = m] (b_kj A_kl - sum_r b_rj B_krl)
                           - (b_kj + b_mj) B_kml + 2 D_kmlj

with A_kl = E[p_k x_l], B_kml = E[p_k p_m x_l] and D_kmlj = E[p_k p_m x_l (sum_r p_r b_rj)]: sums over blocks of rows,
the largest no larger than the derivative itself. The covariance is that of the coefficients carried over to first order
(the delta method); the rows are taken as given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nll.likelihood import covariance as cov
from nll.likelihood import intervals
from nll.likelihood.blocks import blocks
from nll.report import table


@dataclass(frozen=True, eq=False)
class Margins:
    """Effects of columns on the probabilities of classes; for each column they add up to 0 over the classes."""

    classes: tuple[str, ...]  # (K)
    columns: tuple[str, ...]  # (q), without the constant
    effects: Tensor  # (K, q): change of the probability for each unit of the column, or from 0 to 1
    covariance: Tensor = field(repr=False)  # (K q, K q), of the flattened effects; of rank (K - 1) q
    at: str = "overall"
    discrete: tuple[str, ...] = ()  # columns whose effect is the difference between 1 and 0

    @property
    def standard_errors(self) -> Tensor:
        """(K, q)."""
        return self.covariance.diagonal().clamp(min=0).sqrt().reshape(self.effects.shape)

    @property
    def z(self) -> Tensor:
        """(K, q): the effects in units of their errors."""
        return self.effects / self.standard_errors

    @property
    def p_values(self) -> Tensor:
        """(K, q): of the Wald tests that an effect is 0."""
        return intervals.p_value(self.z)

    def interval(self, level: float = 0.95) -> Tensor:
        """(K, q, 2): Wald's."""
        intervals.require_level(level)
        return intervals.wald(self.effects, self.standard_errors, level)

    def to_pandas(self, level: float = 0.95) -> Any:
        """A DataFrame with a row for each class and column: effect, std err, z, p value, low, high."""
        import pandas as pd

        index = pd.MultiIndex.from_product([self.classes, self.columns], names=["class", "column"])
        bounds = self.interval(level)
        columns = {"effect": self.effects, "std err": self.standard_errors, "z": self.z, "p value": self.p_values}
        columns |= {"low": bounds[..., 0], "high": bounds[..., 1]}
        return pd.DataFrame({name: value.reshape(-1).numpy() for name, value in columns.items()}, index=index)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "classes": list(self.classes),
            "columns": list(self.columns),
            "discrete": list(self.discrete),
            "effects": self.effects.tolist(),
            "standard_errors": self.standard_errors.tolist(),
        }

    def __str__(self) -> str:
        """A table for each class."""
        where = "averaged over the rows" if self.at == "overall" else "at the means of the columns"
        groups = table.margins(self)
        lines = [row for group in groups for row in (group.columns, *group.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [f"Marginal effects, {where}"]
        for group in groups:
            head, *rows = (_laid_out(row, widths) for row in (group.columns, *group.rows))
            text += ["", group.title, head, "-" * len(head), *rows]
        return "\n".join(text)


def _laid_out(row: list[str], widths: list[int]) -> str:
    name, *numbers = (
        f"{cell:{'>' if j else '<'}{width}}" for j, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([name, *numbers])


def margins(
    x: Tensor,  # (n, p) float64, the constant's ones first, if there is a constant
    weights: Tensor,  # (n), of the average
    coef: Tensor,  # (K, p), zeros for the baseline
    covariance: Tensor,  # ((K - 1) p, (K - 1) p), of the other classes' coefficients in order
    baseline: int,
    intercept: bool,
    *,
    at: str = "overall",
    discrete: Sequence[int] = (),  # columns of x
    siblings: Mapping[int, Sequence[int]] | None = None,  # of these: others that are 0 then, of the same categories
) -> tuple[Tensor, Tensor]:
    """Effects (K, q) of all columns but the constant, and their covariance (K q, K q)."""
    if at == "mean":
        x, weights = (weights @ x / weights.sum())[None], torch.ones(1, dtype=torch.float64)
    weights = weights / weights.sum()
    effects, slope = _continuous(x, weights, coef)
    for j in discrete:
        effects[:, j], slope[:, j] = _difference(x, weights, coef, j, (siblings or {}).get(j, ()))
    others = torch.tensor([k for k in range(len(coef)) if k != baseline])
    q = effects[:, intercept:].numel()
    slope = slope[:, intercept:, others].reshape(q, -1)
    return effects[:, intercept:], cov.transformed(covariance, slope)


def _continuous(x: Tensor, weights: Tensor, coef: Tensor) -> tuple[Tensor, Tensor]:
    """Effects (K, p), and their derivatives (K, p, K, p) by the coefficients of all classes."""
    k, p = coef.shape
    first, second = torch.triu_indices(k, k)  # the moments are symmetric in two classes
    pairs = len(first)
    products = torch.zeros(pairs, dtype=torch.float64)
    with_x = torch.zeros(pairs, p, dtype=torch.float64)
    with_both = torch.zeros(pairs, p * p, dtype=torch.float64)
    for rows in blocks(len(x), 2 * pairs + p * p):
        own, prob = x[rows], (x[rows] @ coef.T).softmax(1)
        both = (weights[rows, None] * prob[:, first] * prob[:, second]).T
        products += both.sum(1)
        with_x += both @ own
        with_both += both @ (own[:, :, None] * (prob @ coef)[:, None]).reshape(len(own), -1)
    place = torch.zeros(k, k, dtype=torch.int64)
    place[first, second] = place[second, first] = torch.arange(pairs)
    products, with_x = products[place], with_x[place]  # (K, K), (K, K, p)
    share = products.sum(1)
    effects = share[:, None] * coef - products @ coef

    slope = 2 * with_both.reshape(pairs, p, p)[place].permute(0, 3, 1, 2)  # (K, p by j, K by m, p by l)
    slope -= coef[:, :, None, None] * with_x[:, None]
    slope -= coef.T[None, :, :, None] * with_x[:, None]
    alone = coef[:, :, None] * with_x.sum(1)[:, None] - torch.einsum("rj,krl->kjl", coef, with_x)
    slope.diagonal(dim1=0, dim2=2).add_(alone.permute(1, 2, 0))
    slope.diagonal(dim1=1, dim2=3).add_((torch.diag(share) - products)[..., None])
    return effects, slope


def _difference(
    x: Tensor, weights: Tensor, coef: Tensor, column: int, siblings: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The mean of P(x_j = 1) - P(x_j = 0), (K), and its derivative (K, K, p): d p_k / d b_m = p_k ([k = m] - p_m) x."""
    k, p = coef.shape
    effect = torch.zeros(k, dtype=torch.float64)
    slope = torch.zeros(k, k, p, dtype=torch.float64)
    for rows in blocks(len(x), k * max(k, p)):
        own = x[rows].clone()
        own[:, list(siblings)] = 0.0
        for value, sign in ((1.0, 1.0), (0.0, -1.0)):
            own[:, column] = value
            prob = (own @ coef.T).softmax(1)
            weighted = sign * weights[rows, None] * prob
            effect += weighted.sum(0)
            slope.diagonal(dim1=0, dim2=1).add_((weighted.T @ own).T)
            slope -= (weighted.T @ (prob[:, :, None] * own[:, None]).reshape(len(own), -1)).reshape(slope.shape)
    return effect, slope
