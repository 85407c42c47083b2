"""Choices among alternatives: the rows of cases and their alternatives, and the columns of their
utilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nll.data.arrays import absent, array_of, floats
from nll.data.classes import cluster_codes, label, require_one_type
from nll.data.weights import Weights, frequencies, kind_of, scaled
from nll.regression.columns import plain, require_finite


@dataclass(frozen=True)
class Choices:
    """Rows of cases and their alternatives, the rows of a case next to each other."""

    x: np.ndarray  # (rows, q) attributes
    names: list[str]  # (q)
    case: np.ndarray  # (rows), from 0
    alternative: np.ndarray  # (rows), numbers of `alternatives`
    alternatives: list[Any]  # sorted
    order: np.ndarray  # (rows), the place of each row in the data, those of wide data flattened
    shape: tuple[int, ...]  # of the data, without the attributes: (rows), or of wide data (n, J)
    case_labels: np.ndarray | None = None  # (cases); None: wide data

    @property
    def cases(self) -> int:
        return int(self.case[-1]) + 1

    @property
    def first(self) -> np.ndarray:
        return np.flatnonzero(np.diff(self.case, prepend=-1))

    def case_name(self, row: int) -> str:
        case = int(self.case[row])
        return str(case if self.case_labels is None else label(self.case_labels[case]))

    def per_case(self, values: Any, what: str) -> np.ndarray:
        """Return values (cases): in wide data one for each case, in long data one for each row."""
        if self.case_labels is None:
            return complete(values, what, self.cases, "case")
        rows = complete(values, what, len(self.order))[self.order]
        self.require_constant(rows, what)
        return rows[self.first]

    def require_constant(self, values: np.ndarray, what: str) -> None:
        """Raise ValueError for values (rows) that differ within a case."""
        first = values[self.first][self.case]
        wrong = np.flatnonzero(values != first)
        if len(wrong):
            row = wrong[0]
            raise ValueError(
                f"expected {what} to be the same in all rows of a case, got {first[row]} and "
                f"{values[row]} in case {self.case_name(int(row))}"
            )

    def weights(self, weights: Any) -> Tensor:
        if weights is None:
            return frequencies(None, self.cases)
        values = weights.values if isinstance(weights, Weights) else weights
        return scaled(frequencies(self.per_case(values, "weights"), self.cases), kind_of(weights))

    def clusters(self, clusters: Any) -> Tensor | None:
        if clusters is None:
            return None
        labels = self.per_case(clusters, "clusters")
        return cluster_codes(labels, self.cases, np.ones(self.cases, dtype=bool))

    def offset(self, offset: Any) -> Tensor | None:
        """(rows): an offset of the data's shape in the order of these rows."""
        if offset is None:
            return None
        values = floats(array_of(plain(offset, "offset")), "offset")
        if values.shape != self.shape:
            raise ValueError(f"expected an offset of shape {self.shape}, got {values.shape}")
        values = values.reshape(-1)[self.order]
        if not np.isfinite(values).all():
            raise ValueError(f"expected finite offsets, got {values[~np.isfinite(values)][0]}")
        return torch.from_numpy(values)

    def chosen(self, y: Any) -> Tensor:
        """(cases): the row of the chosen alternative.

        y: in long data 1 for it and 0 for the others; in wide data its number (cases).
        """
        if self.case_labels is None:
            marks = self.alternative == self._numbers(y)[self.case]
        else:
            marks = complete(y, "marks in y", len(self.order))[self.order]
            wrong = np.flatnonzero(~np.isin(marks, (0, 1)))
            if len(wrong):
                raise ValueError(
                    f"expected 0 or 1 in y (1 for the chosen alternative), got {marks[wrong[0]]!r} "
                    f"at row {self.order[wrong[0]]}"
                )
        count = np.bincount(self.case, weights=marks.astype(float), minlength=self.cases)
        wrong = np.flatnonzero(count != 1)
        if len(wrong):
            raise ValueError(
                f"expected one chosen alternative among those of each case, got "
                f"{int(count[wrong[0]])} in case {self.case_name(int(self.first[wrong[0]]))}"
            )
        return torch.from_numpy(np.flatnonzero(marks))

    def _numbers(self, y: Any) -> np.ndarray:
        y, count = complete(y, "choices in y", self.cases, "case"), len(self.alternatives)
        wrong = np.flatnonzero(~np.isin(y, np.arange(count)))
        if len(wrong):
            raise ValueError(
                f"expected choices from 0 to {count - 1}, got {y[wrong[0]]} in case {wrong[0]}"
            )
        return y


def complete(values: Any, what: str, n: int, each: str = "row") -> np.ndarray:
    """Return n values; ValueError for another number of them, or the first that is missing."""
    values = array_of(values, what)
    if values.shape != (n,):
        raise ValueError(f"expected {n} {what}, one for each {each}, got shape {values.shape}")
    missing = absent(values)
    if missing.any():
        raise ValueError(
            f"expected {what} in every {each}, got none at {each} {int(missing.argmax())}"
        )
    return values


# ---- Reading -----------------------------------------------------------------------


def column(X: Any, which: Any) -> Any:
    if not isinstance(which, str):
        return which
    if which not in getattr(X, "column_names", getattr(X, "columns", ())):
        raise ValueError(f"expected a column of X, got {which!r}")
    return X[which]


def read_long(X: Any, case: Any, alternative: Any, names: list[str] | None) -> Choices:
    """Read rows with the labels of their case and alternative, in any order.

    Args:
        X: (rows, q): a table, of whose columns `names` are the attributes, or an array.
        case: (rows), or the name of a column of the table.
        alternative: the same.
        names: (q); None: X is an array.

    Raises: ValueError for labels that are missing, an alternative that comes twice in a case.
    """
    if len(X.shape) != 2:
        got = f"shape {X.shape}" if X.shape else type(X).__name__
        raise ValueError(f"expected X of two dimensions (rows, columns) or three, got {got}")
    attributes = X if names is None else X[names]
    require_finite(attributes, names)
    x = np.ascontiguousarray(np.asarray(attributes, dtype=np.float64))
    names = names or [f"x{j}" for j in range(x.shape[1])]
    cases, of_case = _labels(column(X, case), "case labels", len(x))
    alternatives, which = _labels(column(X, alternative), "alternative labels", len(x))
    order = np.lexsort((which, of_case))
    of_case, which = of_case[order], which[order]
    twice = np.flatnonzero((np.diff(of_case) == 0) & (np.diff(which) == 0))
    if len(twice):
        again, name = label(alternatives[which[twice[0]]]), label(cases[of_case[twice[0]]])
        raise ValueError(
            f"expected each alternative once in a case, got {again} twice in case {name}"
        )
    shape = (len(x),)
    return Choices(x[order], names, of_case, which, alternatives.tolist(), order, shape, cases)


def _labels(values: Any, what: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    labels = complete(values, what, rows)
    if labels.dtype.kind == "O":
        require_one_type(labels.tolist())
    distinct, codes = np.unique(labels, return_inverse=True)
    return distinct, codes


def read_wide(X: Any, available: Any) -> Choices:
    """Read attributes (n, J, q) with a mask (n, J) of the alternatives that a case has."""
    x = floats(X, "X", exact=True)
    wrong = np.argwhere(~np.isfinite(x))
    if len(wrong):
        case, which, j = wrong[0]
        got = f"{x[case, which, j]:g} in case {case}, alternative {which}, column {j}"
        raise ValueError(f"expected finite values in X, got {got}")
    n, count, q = x.shape
    mask = np.ones((n, count)) if available is None else array_of(available, "available")
    if mask.shape != (n, count) or not np.isin(mask, (0, 1)).all():
        raise ValueError(
            f"expected available as a mask of shape {(n, count)}, got shape {mask.shape}"
        )
    mask = mask.astype(bool)
    empty = np.flatnonzero(~mask.any(1))
    if len(empty):
        raise ValueError(
            f"expected an available alternative in each case, got none in case {empty[0]}"
        )
    case, which = np.nonzero(mask)
    names, order = [f"x{j}" for j in range(q)], case * count + which
    return Choices(x[mask], names, case, which, list(range(count)), order, (n, count))


# ---- Utilities ---------------------------------------------------------------------


def columns_of(
    choices: Choices,
    constants: bool,
    specific: Sequence[Any],
    individual: Sequence[Any],
    baseline: int,
) -> tuple[np.ndarray, list[str]]:
    """Return the columns of the utilities and their names, the constants first.

    Attributes have one coefficient; those that are `specific` one for each alternative; covariates
    of the `individual`, which are the same in all rows of a case, one for each alternative but the
    baseline.
    """
    every = range(len(choices.alternatives))
    others = [k for k in every if k != baseline]
    of_individual = [_number_of(name, choices.names) for name in individual]
    for j in of_individual:
        choices.require_constant(choices.x[:, j], f"individual column {choices.names[j]!r}")
    split: dict[int, Sequence[int]] = dict.fromkeys(of_individual, others)
    split |= dict.fromkeys([_number_of(name, choices.names) for name in specific], every)

    def by_alternative(name: str, values: Any, which: Sequence[int]) -> list[tuple[str, Any]]:
        return [
            (
                f"{name}, {label(choices.alternatives[k])}",
                np.where(choices.alternative == k, values, 0.0),
            )
            for k in which
        ]

    columns = by_alternative("constant", 1.0, others if constants else [])
    for j, name in enumerate(choices.names):
        values = choices.x[:, j]
        columns += by_alternative(name, values, split[j]) if j in split else [(name, values)]
    x = np.stack([values for _, values in columns], 1) if columns else choices.x[:, :0]
    return x, [name for name, _ in columns]


def _number_of(name: Any, names: list[str]) -> int:
    if isinstance(name, (int, np.integer)) and 0 <= name < len(names):
        return int(name)
    if name not in names:
        raise ValueError(f"expected one of the columns {', '.join(names)}, got {name!r}")
    return names.index(str(name))


# ---- Wide tables -------------------------------------------------------------------


def choices_long(
    table: Any,
    attributes: dict[str, dict[Any, str]],
    choice: str,
    *,
    individual: Sequence[str] = (),
    case: str = "case",
) -> Any:
    """Return the long format of a wide pandas table: a row for each case and alternative.

    Args:
        table: a row for each case.
        attributes: the name of each attribute -> alternative -> its column. Where a value is
            missing (NaN), the alternative is not available to that case.
        choice: the column of the chosen alternatives.
        individual: columns to copy.
        case: the name of the new column of cases.

    Returns: a table with the columns case, "alternative", "chosen" (0 or 1), the attributes and the
        copied columns.

    Example:
        >>> import nll, pandas as pd
        >>> trips = pd.DataFrame({"mode": ["car", "bus"], "car": [3.0, 5.0], "bus": [1.0, 2.0]})
        >>> long = nll.choices_long(trips, {"cost": {"car": "car", "bus": "bus"}}, "mode")
        >>> long["chosen"].tolist(), long["cost"].tolist()
        ([1, 0, 0, 1], [3.0, 1.0, 5.0, 2.0])
    """
    import pandas as pd

    alternatives = list(dict.fromkeys(key for columns in attributes.values() for key in columns))
    _require_columns(table, attributes, alternatives, [choice, *individual])
    blocks = []
    for value in alternatives:
        chosen = (table[choice] == value).astype(int)
        columns = {case: table.index, "alternative": value, "chosen": chosen}
        columns |= {name: table[column_of[value]] for name, column_of in attributes.items()}
        blocks.append(pd.DataFrame(columns | {name: table[name] for name in individual}))
    long = pd.concat(blocks, ignore_index=True)
    long = long.sort_values([case], kind="stable", ignore_index=True)
    incomplete = long[list(attributes)].isna().any(axis=1)
    lost = long[incomplete & (long["chosen"] == 1)]
    if len(lost):
        row = lost.iloc[0]
        raise ValueError(
            f"expected the attributes of the chosen alternative, got none of "
            f"{row['alternative']!r} in {case} {row[case]}"
        )
    return long[~incomplete].reset_index(drop=True)


def _require_columns(
    table: Any, attributes: dict[str, dict[Any, str]], alternatives: list[Any], more: list[str]
) -> None:
    for name, columns in attributes.items():
        missing = [value for value in alternatives if value not in columns]
        if missing:
            raise ValueError(
                f"expected a column of {name!r} for each alternative, got none for {missing[0]!r}"
            )
    for name in [*more, *(name for columns in attributes.values() for name in columns.values())]:
        if name not in table.columns:
            raise ValueError(f"expected a column of the table, got {name!r}")
    values = table[more[0]]
    unknown = values[~values.isin(alternatives)]
    if len(unknown):
        raise ValueError(
            f"expected one of {', '.join(map(str, alternatives))} in {more[0]!r}, got "
            f"{unknown.iloc[0]!r}"
        )
