"""A formula over a table that is read in blocks: the columns that it would have of the whole table.

A first pass collects the categories of the columns that have some. The formula is then built once
of a few rows in which every category occurs, and what it has kept (`Terms`) gives the columns of
each block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from formulaic import StructuredFormula
from torch import Tensor

from nll.data.stream import Stream, files_of, numbers_of, pieces, require
from nll.regression.formula.design import numbers, spec_of, with_columns
from nll.regression.formula.parser import (
    computed,
    has_dot,
    parse,
    response_of,
    spelled_out,
    variables,
    variables_of,
)
from nll.regression.formula.terms import Terms

_MOST_CATEGORIES = 10_000
_HEAD = 50  # rows of which the formula is built


def formula_stream(
    data: Any,
    formula: str,
    weights: str | None = None,
    clusters: str | None = None,
    missing: str = "raise",
    progress: Callable[[int], None] | None = None,
) -> tuple[Stream, Terms] | str:
    """The columns of a formula in blocks, and its terms; or one that depends on all rows, such as
    center(a).

    Args:
        data: a file, a folder or a table, as `Stream` takes it.
        formula: such as "y ~ a + C(b)"; its response is a column, and `.` stands for the other
            columns.
        weights: the column of frequencies.
        clusters: the column of groups of rows that go together.
        missing: "raise" or "drop".
        progress: called with the number of rows that a pass has read.

    Raises: ValueError for a column that is not there, or one of texts that are hardly ever the
        same.
    """
    if has_dot(formula):
        formula = spelled_out(formula, column_names(data), (weights, clusters))
    parsed = parse(formula)
    response = response_of(parsed)
    kept = [name for name in (response, weights, clusters) if name is not None]
    wanted: list[str] = list(dict.fromkeys([*variables(parsed), *kept]))
    head, categories = _look(data, parsed, wanted)
    # of any type: it is not evaluated
    own = {} if response in _of_columns(parsed) else {response: 0.0}
    terms = Terms.of(spec_of(_with_all(head, categories).assign(**own), parsed), formula)
    if terms.state:
        return next(iter(terms.state))
    given = partial(_blocks, data, wanted, terms, kept)
    columns = list(terms.columns[terms.intercept :])
    return Stream(
        given, response, columns, weights, clusters, missing=missing, progress=progress
    ), terms


def complete_parts(
    data: Any, terms: Terms, weights: str | None, others: list[str | None]
) -> Iterator[tuple[pd.DataFrame, Tensor]]:
    """The complete rows of weights above 0, a part of them after the other, with their weights
    (n).
    """
    wanted = [
        name for name in dict.fromkeys([*terms.variables, weights, *others]) if name is not None
    ]
    for piece in pieces(data, None, wanted):
        table = piece.to_pandas()
        table = table[table[wanted].notna().all(axis=1)]
        counted = torch.ones(len(table), dtype=torch.float64)
        if weights is not None:
            counted = torch.tensor(numbers(table[weights], weights))
        if bool((counted > 0).any()):
            yield table[(counted > 0).numpy()], counted[counted > 0]


def column_names(data: Any) -> list[str]:
    """The columns of a file, a folder or a table."""
    first = next(pieces(data, None, None), None)
    return [] if first is None else list(first.schema.names)


def has_categories(data: Any, formula: StructuredFormula) -> bool:
    """Whether a column of the formula is of texts or other categories."""
    first = next(pieces(data, None, None), None)
    if first is None:
        return False
    return any(
        _is_category(field.type) for field in first.schema if field.name in _of_columns(formula)
    )


def _of_columns(formula: StructuredFormula) -> list[str]:
    return sorted({name for term in formula.rhs for name in variables_of(term.factors)})


def _is_category(kind: Any) -> bool:
    known = (
        pa.types.is_dictionary,
        pa.types.is_string,
        pa.types.is_large_string,
        pa.types.is_string_view,
    )
    return any(is_one(kind) for is_one in known)


def _look(
    data: Any, formula: StructuredFormula, wanted: list[str]
) -> tuple[pd.DataFrame, dict[str, list[Any]]]:
    """Some complete rows, and the categories of each column that has some, in their order."""
    head, first, marked = None, 0, {one.category for one in computed(formula.rhs)}
    categories: dict[str, tuple[list[Any], bool]] = {}
    # of the values of each column, and the file that has them
    kinds: dict[str, tuple[str, str]] = {}
    for name, piece in _with_names(data, wanted):
        require(wanted, piece.schema.names)
        for column in _of_columns(formula):
            chosen = column in marked
            if not chosen and kinds.get(column, ("",))[0] == "numbers":
                numbers_of(piece.column(column), column, first)
            _require_one_kind(kinds, piece.column(column), column, name, first)
            if chosen or kinds.get(column, ("",))[0] == "texts":
                categories[column] = _joined(categories.get(column), piece.column(column), column)
        if head is None:
            rows = piece.to_pandas().dropna().head(_HEAD)
            head = rows if len(rows) else None
        first += piece.num_rows
    if head is None:
        raise ValueError("expected at least one complete row, got none")
    return head, {
        name: values if ordered else _sorted(values)
        for name, (values, ordered) in categories.items()
    }


def _with_names(data: Any, wanted: list[str]) -> Iterator[tuple[str, Any]]:
    """The pieces of the data, and the names of their files."""
    path = data.args[0] if isinstance(data, partial) else data
    for part in files_of(Path(path)) if isinstance(path, (str, Path)) else [data]:
        own = partial(data.func, part, *data.args[1:]) if isinstance(data, partial) else part
        for piece in pieces(own, None, wanted):
            yield getattr(part, "name", "the table"), piece


def _require_one_kind(
    kinds: dict[str, tuple[str, str]], column: Any, name: str, file: str, first: int
) -> None:
    """ValueError for a column that has numbers in one file and texts in another."""
    if pa.types.is_nested(column.type):
        raise ValueError(f"expected numbers or categories in column {name!r}, got {column.type}")
    if column.null_count == len(column):
        return
    kind = (
        "texts"
        if _is_category(column.type)
        else "numbers"
        if _is_number(column.type)
        else f"{column.type} values"
    )
    before, there = kinds.setdefault(name, (kind, file))
    if before != kind:
        got = f"{before} in {there} and {kind} in {file}, from row {first} on"
        raise ValueError(f"expected values of one kind in column {name!r}, got {got}")


def _is_number(kind: Any) -> bool:
    known = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    return any(is_one(kind) for is_one in known)


def _sorted(values: list[Any]) -> list[Any]:
    """A CSV file has no type that tells whole numbers from others."""
    whole = all(isinstance(value, float) and value.is_integer() for value in values)
    return sorted(map(int, values) if whole else values)


def _joined(
    before: tuple[list[Any], bool] | None, column: Any, name: str
) -> tuple[list[Any], bool]:
    """The different values so far, and whether their order is that of the file, as a column of
    categories has it.
    """
    values, ordered = before or ([], pa.types.is_dictionary(column.type))
    seen = set(values)
    try:
        new = [value for value in column.unique().drop_null().to_pylist() if value not in seen]
    except (pa.ArrowNotImplementedError, TypeError):
        raise ValueError(f"expected categories in column {name!r}, got {column.type}") from None
    if ordered and pa.types.is_dictionary(column.type):
        place = {value: at for at, value in enumerate(column.dictionary.to_pylist())}
        new.sort(key=lambda value: place[value])
    if len(values) + len(new) > _MOST_CATEGORIES:
        raise ValueError(
            f"expected at most {_MOST_CATEGORIES} categories in column {name!r}, got more"
        )
    return values + new, ordered


def _with_all(head: pd.DataFrame, categories: dict[str, list[Any]]) -> pd.DataFrame:
    """The rows, and copies of the first with each category."""
    parts = [head.astype(dict.fromkeys(categories, object))]
    for name, values in categories.items():
        parts.append(pd.concat([parts[0].head(1)] * len(values)))
        parts[-1] = with_columns(parts[-1], {name: np.array(values, dtype=object)})
    table = pd.concat(parts, ignore_index=True)
    return with_columns(
        table, {name: pd.Categorical(table[name], values) for name, values in categories.items()}
    )


def _blocks(data: Any, wanted: list[str], terms: Terms, kept: list[str]) -> Iterator[Any]:
    """Arrow batches of the formula's columns; where a value is missing, so are the row's."""
    first = 0
    for piece in pieces(data, None, wanted):
        table = piece.to_pandas(integer_object_nulls=True)
        table.index = pd.RangeIndex(first, first + len(table))
        complete = ~table[terms.variables].isna().to_numpy().any(1)
        x = np.full((len(terms.columns), len(table)), np.nan)
        if complete.any():
            x[:, complete] = terms.design(table[complete]).numpy().T
        columns = {name: pa.array(values) for name, values in zip(terms.columns, x, strict=True)}
        yield pa.RecordBatch.from_pydict(columns | {name: piece.column(name) for name in kept})
        first += len(table)
