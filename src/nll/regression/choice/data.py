"""Choices among alternatives: rows of cases and their alternatives, and the columns of the
scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nll.data.arrays import absent, array_of
from nll.data.observations import Weights, cluster_codes, frequencies, kind_of, label, scaled
from nll.data.stream import require_one_type


@dataclass(frozen=True)
class Choices:
    """Rows of cases with each of their alternatives, the rows of a case next to each other."""

    x: np.ndarray  # (rows, q) attributes
    names: list[str]  # (q)
    case: np.ndarray  # (rows) from 0
    alternative: np.ndarray  # (rows), the number of the alternative
    alternatives: list[Any]  # sorted
    given: np.ndarray  # (rows), the number of each row as given
    labels: Any = None  # (cases), as given

    @property
    def cases(self) -> int:
        """How many there are."""
        return int(self.case[-1]) + 1

    @property
    def first(self) -> np.ndarray:
        """(cases): the first row of each."""
        return np.flatnonzero(np.diff(self.case, prepend=-1))

    def of_cases(self, values: Any, what: str) -> np.ndarray:
        """What the rows as given say of their case. ValueError where they differ within one."""
        values = array_of(values, what)
        if values.shape == (self.cases,) and self.labels is None:  # wide
            return values
        if values.shape != (len(self.given),):
            raise ValueError(
                f"expected {len(self.given)} {what}, one for each row, got shape {values.shape}"
            )
        values = values[self.given]
        missing = absent(values)
        if missing.any():
            raise ValueError(
                f"expected {what} in every row, got none at row {self.given[int(missing.argmax())]}"
            )
        own = values[self.first]
        wrong = np.flatnonzero(values != own[self.case])
        if len(wrong):
            raise ValueError(
                f"expected {what} that are the same in all rows of a case, got "
                f"{own[self.case[wrong[0]]]} and "
                f"{values[wrong[0]]} in case {self.name(int(self.case[wrong[0]]))}"
            )
        return own

    def weights(self, given: Any) -> Tensor:
        """(cases), in the unit of the likelihood."""
        if given is None:
            return frequencies(None, self.cases)
        values = given.values if isinstance(given, Weights) else given
        return scaled(frequencies(self.of_cases(values, "weights"), self.cases), kind_of(given))

    def clusters(self, given: Any) -> Tensor | None:
        """(cases): the number of each one's cluster."""
        if given is None:
            return None
        return cluster_codes(
            self.of_cases(given, "clusters"), self.cases, np.ones(self.cases, dtype=bool)
        )

    def chosen(self, y: Any) -> Tensor:
        """(cases): the row of the alternative that was chosen, from marks of the rows as given."""
        marks = array_of(y, "y")
        if marks.shape != (len(self.given),):
            raise ValueError(
                f"expected y of {len(self.given)} marks, one for each row, got shape {marks.shape}"
            )
        marks = marks[self.given]
        wrong = np.flatnonzero(absent(marks) if absent(marks).any() else ~np.isin(marks, (0, 1)))
        if len(wrong):
            raise ValueError(
                f"expected 0 or 1 in y (1 for the chosen alternative), got {marks[wrong[0]]!r} "
                f"at row {self.given[wrong[0]]}"
            )
        count = np.bincount(self.case, weights=marks.astype(float), minlength=self.cases)
        wrong = np.flatnonzero(count != 1)
        if len(wrong):
            name = self.name(int(wrong[0]))
            raise ValueError(
                f"expected one chosen alternative in each case, got "
                f"{int(count[wrong[0]])} in case {name}"
            )
        return torch.from_numpy(np.flatnonzero(marks == 1))

    def name(self, case: int) -> str:
        """A case as it was given."""
        return str(case if self.labels is None else label(self.labels[case]))


def from_long(x: np.ndarray, names: list[str], case: Any, alternative: Any) -> Choices:
    """Of rows with the labels of their case and alternative, in any order.

    Raises: ValueError for labels that are missing, an alternative that comes twice in a case.
    """
    case, alternative = _labels(case, "case", len(x)), _labels(alternative, "alternative", len(x))
    cases, numbers = np.unique(case, return_inverse=True)
    alternatives, which = np.unique(alternative, return_inverse=True)
    order = np.lexsort((which, numbers))
    numbers, which = numbers[order], which[order]
    twice = np.flatnonzero((np.diff(numbers) == 0) & (np.diff(which) == 0))
    if len(twice):
        name, again = label(cases[numbers[twice[0]]]), label(alternatives[which[twice[0]]])
        raise ValueError(
            f"expected each alternative once in a case, got {again} twice in case {name}"
        )
    return Choices(x[order], names, numbers, which, alternatives.tolist(), order, cases)


def from_wide(x: np.ndarray, names: list[str], available: Any, alternatives: list[Any]) -> Choices:
    """Of (n, J, q) attributes with a mask of the alternatives that a case has, (n, J)."""
    n, count, _ = x.shape
    mask = (
        np.ones((n, count), dtype=bool) if available is None else array_of(available, "available")
    )
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
    return Choices(x[mask], names, case, which, alternatives, case * count + which)


def columns_of(
    choices: Choices,
    constants: bool,
    specific: Sequence[Any],
    individual: Sequence[Any],
    baseline: int,
) -> tuple[np.ndarray, list[str], list[bool]]:
    """The columns of the scores, their names, and which are constants.

    Attributes have one coefficient; those that are `specific` one for each alternative; covariates
    of the `individual`, which are the same in all rows of a case, one for each alternative but the
    baseline.
    """
    place = {name: j for j, name in enumerate(choices.names)}
    own = {
        what: [_place(name, place) for name in names]
        for what, names in (("s", specific), ("i", individual))
    }
    columns, names, constant = [], [], []

    def add(values: np.ndarray, name: str, is_constant: bool = False) -> None:
        columns.append(values)
        names.append(name)
        constant.append(is_constant)

    for k, value in enumerate(choices.alternatives):
        if constants and k != baseline:
            add((choices.alternative == k).astype(np.float64), f"constant, {label(value)}", True)
    for j, name in enumerate(choices.names):
        values = choices.x[:, j]
        if j in own["i"]:
            _require_same(choices, values, name)
        if j not in own["s"] + own["i"]:
            add(values, name)
            continue
        for k, value in enumerate(choices.alternatives):
            if j in own["s"] or k != baseline:
                add(np.where(choices.alternative == k, values, 0.0), f"{name}, {label(value)}")
    return np.stack(columns, 1) if columns else np.empty((len(choices.x), 0)), names, constant


def choices_long(
    table: Any,
    attributes: dict[str, dict[Any, str]],
    choice: str,
    *,
    individual: Sequence[str] = (),
    case: str = "case",
) -> Any:
    """The long format of a wide pandas table: a row for each case and alternative.

    Args:
        table: a row for each case.
        attributes: the name of each attribute -> alternative -> its column; an alternative that
            lacks a value (NaN) of an attribute that it has elsewhere is not available to that case.
        choice: the column of the chosen alternative.
        individual: columns that are copied.
        case: the name of the new column of cases.

    Returns: a table with the columns case, "alternative", "chosen" (0 or 1), the attributes and the
        copied columns.
    """
    import pandas as pd

    alternatives = list(
        dict.fromkeys(value for columns in attributes.values() for value in columns)
    )
    for name, columns in attributes.items():
        missing = [value for value in alternatives if value not in columns]
        if missing:
            raise ValueError(
                f"expected a column of {name!r} for each alternative, got none for {missing[0]!r}"
            )
    for name in [
        choice,
        *individual,
        *(name for columns in attributes.values() for name in columns.values()),
    ]:
        if name not in table.columns:
            raise ValueError(f"expected a column of the table, got {name!r}")
    parts = []
    for value in alternatives:
        own = {
            case: table.index,
            "alternative": value,
            "chosen": (table[choice] == value).astype(int),
        }
        own |= {name: table[columns[value]] for name, columns in attributes.items()}
        parts.append(pd.DataFrame(own | {name: table[name] for name in individual}))
    long = pd.concat(parts, ignore_index=True).sort_values([case], kind="stable", ignore_index=True)
    absent = long[list(attributes)].isna().any(axis=1)
    lost = long[absent & (long["chosen"] == 1)]
    if len(lost):
        row = lost.iloc[0]
        raise ValueError(
            f"expected the attributes of the chosen alternative, got none of "
            f"{row['alternative']!r} "
            f"in {case} {row[case]}"
        )
    unknown = ~table[choice].isin(alternatives)
    if unknown.any():
        raise ValueError(
            f"expected one of {', '.join(map(str, alternatives))} in {choice!r}, got "
            f"{table[choice][unknown].iloc[0]!r}"
        )
    return long[~absent].reset_index(drop=True)


def _labels(values: Any, what: str, rows: int) -> np.ndarray:
    values = array_of(values, what)
    if values.shape != (rows,):
        raise ValueError(
            f"expected {rows} labels of {what}s, one for each row, got shape {values.shape}"
        )
    missing = absent(values)
    if missing.any():
        raise ValueError(
            f"expected a label of the {what} in every row, got none at row {int(missing.argmax())}"
        )
    if values.dtype.kind == "O":
        require_one_type(values.tolist())
    return values


def _place(name: Any, place: dict[str, int]) -> int:
    if isinstance(name, (int, np.integer)) and 0 <= name < len(place):
        return int(name)
    if name not in place:
        raise ValueError(f"expected one of the columns {', '.join(place)}, got {name!r}")
    return place[str(name)]


def _require_same(choices: Choices, values: np.ndarray, name: str) -> None:
    first = values[choices.first][choices.case]
    wrong = np.flatnonzero(values != first)
    if len(wrong):
        row = wrong[0]
        raise ValueError(
            f"expected individual column {name!r} to be the same in all rows of a case, got "
            f"{first[row]:g} and "
            f"{values[row]:g} in case {choices.name(int(choices.case[row]))}"
        )
