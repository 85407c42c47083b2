"""Which columns others determine, and how: for each of them the one combination of the columns
before it.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SINGULAR = 1e-10  # a singular value of columns of unit length, to the largest, that is rounding
_DEPENDENT = 1e-8  # what is left of a column of unit length that those before it determine
_NEGLIGIBLE = 1e-6  # a weight of columns of unit length that is rounding
_WRITTEN = 3  # combinations that a message names


def is_singular(r: Tensor) -> bool:
    """Whether weights of the columns add to zero in every row; r: of the columns' QR factors."""
    sizes = torch.linalg.svdvals(r / r.square().sum(0).sqrt())
    return len(sizes) < r.shape[1] or float(sizes[-1]) <= _SINGULAR * float(sizes[0])


def dependencies(r: Tensor, to_data: Tensor, intercept: bool) -> list[Tensor]:
    """Weights of the columns as given that add to zero in every row, one set for each column that
    others determine.

    Independent columns write another in one way only: that way is as sparse as it can be.

    Args:
        r: (p, p) upper triangular, of the solver's columns' QR factors.
        to_data: (p, p), of the solver's coefficients.
        intercept: whether the first column is the constant.
    """
    lengths = r.square().sum(0).sqrt()
    unit = r / lengths
    basis, retained, combinations = unit[:, :0], [], []
    for j in range(r.shape[1]):
        rest = unit[:, j]
        for _ in range(2):  # twice is enough (Kahan)
            rest = rest - basis @ (basis.T @ rest)
        if float(rest.square().sum().sqrt()) > _DEPENDENT:
            basis = torch.cat([basis, rest[:, None] / rest.square().sum().sqrt()], 1)
            retained.append(j)
            continue
        direction = torch.zeros(r.shape[1], dtype=torch.float64)
        direction[j] = 1.0
        direction[retained] = -torch.linalg.lstsq(unit[:, retained], unit[:, j : j + 1]).solution[
            :, 0
        ]
        direction = torch.where(direction.abs() < _NEGLIGIBLE, 0.0, direction) / lengths
        weights = to_data @ direction
        if intercept:  # the constant is what the others do not cancel, up to rounding
            cancelled = (to_data[0, 1:] * direction[1:]).abs().max()
            weights[0] = weights[0] * (weights[0].abs() > 1e-9 * cancelled)
        combinations.append(weights)
    return combinations


class DependentColumnsError(ValueError):
    """Columns determine others: `combinations` that hold `where`, and a `hint`."""

    def __init__(self, combinations: str, hint: str = "", where: str = "in every row") -> None:
        super().__init__(combinations, hint, where)
        self.combinations, self.hint, self.where = combinations, hint, where

    def __str__(self) -> str:
        return (
            f"expected linearly independent columns, got {self.combinations} {self.where}"
            f"{self.hint}"
        )


def dependent(
    combinations: list[Tensor], names: list[str], intercept: bool
) -> DependentColumnsError:
    """The combinations in words: x0 + x1 + x2 = 1 where all weigh the same, else one column by the
    others.
    """
    equations, dummies = [], False
    for weights in combinations[:_WRITTEN]:
        constant = float(-weights[0]) if intercept else 0.0
        pairs = zip(names[intercept:], weights[intercept:].tolist(), strict=True)
        slopes = {name: w for name, w in pairs if w}
        size = max(slopes.values(), key=abs)
        if len(slopes) > 1 and all(abs(w / size - 1) < 1e-6 for w in slopes.values()):
            equations.append(f"{' + '.join(slopes)} = {constant / size:.6g}")
            dummies |= abs(constant / size - 1) < 1e-6
            continue
        # The largest; of equal ones the last, whatever the rounding.
        last = [name for name, w in slopes.items() if abs(w) > (1 - 1e-6) * abs(size)][-1]
        others = [f"{constant / slopes[last]:+.6g}"] if constant else []
        others += [f"{-w / slopes[last]:+.6g} {name}" for name, w in slopes.items() if name != last]
        equations.append(f"{last!r} = {' '.join(others) or '0'}")
    more = f" and {len(combinations) - _WRITTEN} more" if len(combinations) > _WRITTEN else ""
    hint = '; for dummies, OneHotEncoder(drop="first") leaves one out' if dummies else ""
    return DependentColumnsError(f"{', '.join(equations)}{more}", hint)
