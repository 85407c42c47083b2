"""How much single rows move a softmax regression: leverage, and the estimate without the row, to
first order.

With a row's columns x, probabilities p, residuals r = w (e_y - p) and curvature V = w (diag(p) - p
p'), its share of the score is r (x) x and of the information V (x) x x'. With the inverse S of the
information, M = (I (x) x)' S (I (x) x) and u = (I - V M)^-1 r, one Newton step without the row
changes the coefficients by

    -(S^-1 - V (x) x x')^-1 (r (x) x) = -S (u (x) x)

and the leverage is tr(V M); over the rows it adds up to the number of coefficients (Lesaffre and
Albert 1989).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nll.data.prefetch import blocks
from nll.estimation.inference import covariance as cov
from nll.regression.after.predictions import score_covariance
from nll.regression.design_matrix import StoredColumns


@dataclass(frozen=True, eq=False)
class Influence:
    """The influence of each row on the fit; NaN where the coefficients have no standard errors."""

    leverage: Tensor  # (n), from 0 to K - 1
    # (n): d' S^-1 d / number of coefficients, with their change d without the row
    cooks_distance: Tensor
    names: tuple[str, ...]  # (P), of the coefficients
    standard_errors: Tensor = field(repr=False)  # (P), from the inverse information
    inverse: Tensor = field(repr=False)  # (P, P), of the information by the columns x
    pulls: Tensor = field(repr=False)  # (n, K - 1): u of each row
    columns: StoredColumns = field(repr=False)

    def changes(self, rows: Any = slice(None)) -> Tensor:
        """(rows, P): how the coefficients change without a row; `rows` is a slice or numbers."""
        scores = self.pulls[rows][:, :, None] * self.columns.block(rows)[:, None]
        change = (-scores.flatten(1) @ self.inverse).reshape(scores.shape)
        return (change @ self.columns.to_data.T).flatten(1)

    def dfbetas(self, rows: Any = slice(None)) -> Tensor:
        """(rows, P): the changes in units of the coefficients' standard errors."""
        return self.changes(rows) / self.standard_errors

    def most(self, count: int = 10) -> Tensor:
        """The numbers of the rows with the largest Cook's distances, the largest first."""
        return self.cooks_distance.argsort(descending=True, stable=True)[:count]

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each: leverage and Cook's distance."""
        import pandas as pd

        return pd.DataFrame(
            {"leverage": self.leverage.numpy(), "cooks distance": self.cooks_distance.numpy()}
        )

    def __str__(self) -> str:
        title = f"Influence of {len(self.leverage)} rows on {len(self.names)} coefficients"
        head = f"{'row':>8}  {'Cook':>9}  {'leverage':>9}  moves most, in standard errors"
        lines = [f"{title}; the largest:", "", head]
        most = self.most()
        for row, moved in zip(most.tolist(), self.dfbetas(most), strict=True):
            at = int(moved.nan_to_num().abs().argmax())
            numbers = f"{float(self.cooks_distance[row]):9.4g}  {float(self.leverage[row]):9.4g}"
            lines.append(f"{row:>8}  {numbers}  {self.names[at]} {float(moved[at]):+.3g}")
        return "\n".join(lines)


def influence(
    columns: StoredColumns,
    labels: Tensor,
    weights: Tensor,
    probabilities: Callable[[slice], Tensor],
    inverse: Tensor,
    names: tuple[str, ...],
) -> Influence:
    """Go through the rows at the maximum.

    Args:
        columns: of the solver.
        labels: (n), the baseline as 0.
        weights: (n).
        probabilities: rows -> (rows, K).
        inverse: of the information for the solver's columns.
        names: of the coefficients.
    """
    n, others = columns.length, len(inverse) // columns.count
    leverage, cook = torch.empty(n, dtype=torch.float64), torch.empty(n, dtype=torch.float64)
    pulls = torch.empty(n, others, dtype=torch.float64)
    eye = torch.eye(others, dtype=torch.float64)
    for rows in blocks(n, others * max(columns.count, 3 * others)):
        w, p = weights[rows, None], probabilities(rows)[:, 1:]
        seen = torch.nn.functional.one_hot(labels[rows], others + 1)[:, 1:]
        curvature = w[..., None] * (torch.diag_embed(p) - p[:, :, None] * p[:, None])
        covariance = score_covariance(columns.block(rows), inverse, 0)[:, 1:, 1:]
        moved = curvature @ covariance
        leverage[rows] = moved.diagonal(dim1=1, dim2=2).sum(1)
        pull, singular = torch.linalg.solve_ex(eye - moved, w * (seen - p))
        # there is no estimate without the row
        pull = pull.masked_fill(singular[:, None] != 0, torch.inf)
        pulls[rows] = pull
        cook[rows] = torch.einsum("nk,nkl,nl->n", pull, covariance, pull) / len(inverse)
    variances = cov.transformed_by_block(inverse.clone(), columns.to_data).diagonal()
    standard_errors = variances.clamp(min=0).sqrt()
    return Influence(leverage, cook, names, standard_errors, inverse, pulls, columns)
