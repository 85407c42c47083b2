"""Average marginal effects: how a mean response, such as the probability of each class, moves with
a variable.

A variable moves all columns that hold it. With the columns x of a row, their derivative d by the
variable, the scores z_k = b_k' x and the means m(z), J_km = dm_k / dz_m, averaged over the rows
with E,

    effect_k = E[sum_m J_km b_m' d]          d effect_k / d b_m = E[(sum_r dJ_kr / dz_m b_r' d) x +
    J_km d]

and of a category, or a column of 0 and 1, with the columns x1 and x0 of a row in it and in the
reference,

    effect_k = E[m_k(x1) - m_k(x0)]          d effect_k / d b_m = E[J_km(x1) x1 - J_km(x0) x0]

The covariance is that of the coefficients carried over to first order (the delta method); the rows
are taken as given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nll.data.prefetch import blocks
from nll.estimation.inference import covariance as cov
from nll.estimation.inference import wald
from nll.regression.after.predictions import Predictor
from nll.regression.contrasts import without


@dataclass(frozen=True, eq=False)
class Margins:
    """Effects of variables on the probabilities of classes, which add up to 0 over the classes, or
    on a mean.
    """

    classes: tuple[str, ...]  # (K), or "mean" alone
    # (q): the variables; of a category one for each level but the reference
    columns: tuple[str, ...]
    # (K, q): change for each unit of the variable, or from the reference to the level
    effects: Tensor
    # (K q, K q), of the flattened effects; of rank (K - 1) q
    covariance: Tensor = field(repr=False)
    at: str = "overall"
    # those whose effect is the difference from 0, or from the reference
    discrete: tuple[str, ...] = ()

    @property
    def standard_errors(self) -> Tensor:
        return self.covariance.diagonal().clamp(min=0).sqrt().reshape(self.effects.shape)

    @property
    def z(self) -> Tensor:
        return self.effects / self.standard_errors

    @property
    def p_values(self) -> Tensor:
        """(K, q): Wald tests of the effects being 0."""
        return wald.p_value(self.z)

    def interval(self, level: float = 0.95) -> Tensor:
        return wald.wald(self.effects, self.standard_errors, level)

    def to_pandas(self, level: float = 0.95) -> Any:
        """Return a DataFrame with a row for each class and column: effect, std err, z, p value,
        low, high.
        """
        import pandas as pd

        index = pd.MultiIndex.from_product([self.classes, self.columns], names=["class", "column"])
        low, high = self.interval(level).unbind(-1)
        values = (self.effects, self.standard_errors, self.z, self.p_values, low, high)
        names = ("effect", "std err", "z", "p value", "low", "high")
        columns = {n: v.reshape(-1).numpy() for n, v in zip(names, values, strict=True)}
        return pd.DataFrame(columns, index=index)

    def to_dict(self) -> dict[str, Any]:
        return {
            "classes": list(self.classes),
            "columns": list(self.columns),
            "discrete": list(self.discrete),
            "effects": self.effects.tolist(),
            "standard_errors": self.standard_errors.tolist(),
        }

    def __str__(self) -> str:
        from nll.report import table

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
        f"{cell:{'>' if j else '<'}{width}}"
        for j, (cell, width) in enumerate(zip(row, widths, strict=True))
    )
    return "  ".join([name, *numbers])


# (z, b'd), each (n, K) -> m, J and sum dJ b'd
Response = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def softmax(z: Tensor, moved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities (n, K), J_km = p_k ([k = m] - p_m), and sum_r dJ_kr / dz_m moved_r: both (n, K,
    K).
    """
    p = z.softmax(1)
    eye = torch.eye(z.shape[1], dtype=z.dtype)
    c = moved - (p * moved).sum(1, keepdim=True)
    jacobian = p[:, :, None] * (eye - p[:, None, :])
    return (
        p,
        jacobian,
        p[:, :, None] * (eye * c[:, :, None] - p[:, None, :] * (c[:, :, None] + c[:, None, :])),
    )


def elementwise(mean: Callable[[Tensor], Tensor]) -> Response:
    """The mean of a response with one linear score, (n, 1)."""

    def response(z: Tensor, moved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            z = z.clone().requires_grad_()
            value = mean(z)
            (first,) = torch.autograd.grad(value.sum() + 0 * z.square().sum(), z, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), z)
        return value.detach(), first.detach()[:, :, None], (second * moved)[:, :, None]

    return response


class Effects:
    """Sums of effects over rows, for the scores of K linear functions with the coefficients (K,
    p).
    """

    def __init__(self, response: Response, coef: Tensor, count: int) -> None:
        self.response, self.coef, self.weight = response, coef, 0.0
        self.effects = torch.zeros(len(coef), count, dtype=torch.float64)
        self.slope = torch.zeros(len(coef), count, *coef.shape, dtype=torch.float64)

    def moves(self, at: int, x: Tensor, d: Tensor, weights: Tensor) -> None:
        moved = d @ self.coef.T
        _, jacobian, bend = self.response(x @ self.coef.T, moved)
        self.effects[:, at] += torch.einsum("n,nkm,nm->k", weights, jacobian, moved)
        self._add(at, weights, bend, x)
        self._add(at, weights, jacobian, d)

    def differs(self, at: int, high: Tensor, low: Tensor, weights: Tensor) -> None:
        for x, sign in ((high, 1.0), (low, -1.0)):
            z = x @ self.coef.T
            mean, jacobian, _ = self.response(z, torch.zeros_like(z))
            self.effects[:, at] += sign * (weights @ mean)
            self._add(at, sign * weights, jacobian, x)

    def _add(self, at: int, weights: Tensor, factors: Tensor, x: Tensor) -> None:
        flat = (weights[:, None] * factors.flatten(1)).T @ x
        self.slope[:, at] += flat.reshape(*factors.shape[1:], -1)

    def result(self, covariance: Tensor, baseline: int | None) -> tuple[Tensor, Tensor]:
        """The effects (K, q) and their covariance (K q, K q), by that of the coefficients but the
        baseline's.
        """
        free = without(baseline, len(self.coef))
        slope = self.slope[:, :, free].flatten(2).flatten(0, 1) / self.weight
        return self.effects / self.weight, cov.transformed(covariance, slope)


def margins(
    x: Tensor,  # (n, p), the constant's ones included
    weights: Tensor,  # (n), of the average
    coef: Tensor,  # (K, p), zeros for the baseline
    covariance: Tensor,  # ((K - 1) p, (K - 1) p), of the other classes' coefficients in order
    baseline: int,
    intercept: bool,
    *,
    at: str = "overall",
    discrete: Iterable[Sequence[int]] = (),  # columns of x, those of one variable together
) -> tuple[Tensor, Tensor]:
    """Effects (K, q) of all columns but the constant, each by itself, and their covariance (K q, K
    q).
    """
    if at == "mean":
        x, weights = (weights @ x / weights.sum())[None], torch.ones(1, dtype=torch.float64)
    effects, slope = _continuous(x, weights / weights.sum(), coef)
    groups = [list(columns) for columns in discrete]
    chosen = [j for columns in groups for j in columns]
    sums = Effects(softmax, coef, len(chosen))
    for rows in blocks(len(x), 2 * len(coef) ** 2 + 3 * x.shape[1]):
        for columns in groups:
            low = x[rows].index_fill(1, torch.tensor(columns), 0.0)
            for j in columns:
                high = low.index_fill(1, torch.tensor(j), 1.0)
                sums.differs(chosen.index(j), high, low, weights[rows])
    effects[:, chosen] = sums.effects / weights.sum()
    slope[:, chosen] = sums.slope / weights.sum()
    slope = slope[:, intercept:, without(baseline, len(coef))]
    return effects[:, intercept:], cov.transformed(covariance, slope.flatten(2).flatten(0, 1))


def _continuous(x: Tensor, weights: Tensor, coef: Tensor) -> tuple[Tensor, Tensor]:
    """Effects (K, p) of columns by themselves, and their derivatives (K, p, K, p) by the
    coefficients of all classes.

    The sums of `Effects` for all columns at once: with A_kl = E[p_k x_l], B_kml = E[p_k p_m x_l]
    and D_kmlj = E[p_k p_m x_l (sum_r p_r b_rj)], d effect_kj / d b_ml = [j = l] ([k = m] E p_k - E
    p_k p_m) + [k = m] (b_kj A_kl - sum_r b_rj B_krl) - (b_kj + b_mj) B_kml + 2 D_kmlj.
    """
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

    # (K, p by j, K by m, p by l)
    slope = 2 * with_both.reshape(pairs, p, p)[place].permute(0, 3, 1, 2)
    slope -= coef[:, :, None, None] * with_x[:, None]
    slope -= coef.T[None, :, :, None] * with_x[:, None]
    alone = coef[:, :, None] * with_x.sum(1)[:, None] - torch.einsum("rj,krl->kjl", coef, with_x)
    slope.diagonal(dim1=0, dim2=2).add_(alone.permute(1, 2, 0))
    slope.diagonal(dim1=1, dim2=3).add_((torch.diag(share) - products)[..., None])
    return effects, slope


def predictor_margins(
    predictor: Predictor, x: Tensor, weights: Tensor, at: str, discrete: Any
) -> Margins:
    intercept = predictor.intercept
    names = predictor.columns[intercept:]
    chosen = discrete_columns(discrete, names, x[:, intercept:])
    places = [[j + intercept for j in columns] for columns in chosen]
    full, baseline = predictor.full, predictor.baseline
    effects, covariance = margins(
        x, weights, full, predictor.covariance, baseline, intercept, at=at, discrete=places
    )
    switched = tuple(names[j] for columns in chosen for j in columns)
    return Margins(predictor.classes, names, effects, covariance, at, switched)


def _place(column: Any, names: Sequence[str]) -> int:
    if isinstance(column, (int, np.integer)) and 0 <= column < len(names):
        return int(column)
    if column not in names:
        raise ValueError(f"expected discrete columns among {', '.join(names)}, got {column!r}")
    return names.index(column)


def discrete_columns(discrete: Any, names: Sequence[str], x: Tensor) -> list[list[int]]:
    """Return the places of the 0/1 columns of x (n, p), those of one variable together."""
    if isinstance(discrete, str):
        raise TypeError(
            f"expected discrete to be a sequence of columns or a mapping, got the text {discrete!r}"
        )
    given = discrete.values() if isinstance(discrete, Mapping) else discrete
    groups = [[one] if isinstance(one, (str, int, np.integer)) else list(one) for one in given]
    places = [[_place(column, names) for column in group] for group in groups]
    every = [j for group in places for j in group]
    twice = next((names[j] for j in every if every.count(j) > 1), None)
    if twice is not None:
        raise ValueError(f"expected each discrete column once, got {twice!r} twice")
    for group in places:
        for j in group:
            _require_binary(x[:, j], names[j])
        together = (x[:, group].sum(1) > 1).nonzero()
        if len(together):
            shown = ", ".join(names[j] for j in group)
            raise ValueError(
                f"expected at most one 1 among {shown} of one variable, got more at row "
                f"{int(together[0])}"
            )
    return places


def _require_binary(values: Tensor, name: str) -> None:
    wrong = ((values != 0.0) & (values != 1.0)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"expected 0 or 1 in discrete column {name!r}, got {float(values[row]):g} at row {row}"
        )
