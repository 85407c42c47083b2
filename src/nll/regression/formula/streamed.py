"""A formula over a table that is read in blocks: the columns that it would have of the whole table.

A first pass collects the categories of the columns that have some. The formula is then built once
of a few rows in which every category occurs, and what it has kept (`Terms`) gives the columns of
each block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nll.data.readers import pieces
from nll.data.stream import Stream
from nll.data.survey import kind_of, schema_of, survey
from nll.regression.formula.design import numbers, with_columns
from nll.regression.formula.parser import (
    Parsed,
    columns_in,
    computed,
    has_dot,
    matrices,
    parse,
    plain_columns,
    response_of,
    spelled_out,
    variables,
)
from nll.regression.formula.terms import Terms


def formula_stream(
    data: Any,
    formula: str,
    weights: str | None = None,
    clusters: str | None = None,
    missing: str = "raise",
    progress: Callable[[int], None] | None = None,
) -> tuple[Stream, Terms] | str:
    """Return the columns of a formula in blocks, and its terms; or a term that depends on all rows,
    such as center(a).

    Args:
        data: a file, a folder or a table, as `Stream` takes it.
        formula: such as "y ~ a + C(b)"; its response is a column, and `.` stands for the other
            columns.
        weights: the column of frequencies.
        clusters: the column of clusters.
        missing: "raise" or "drop".
        progress: called with the number of rows that a pass has read.

    Raises: ValueError for a column that is not there, or one of texts that are hardly ever the
        same.
    """
    if has_dot(formula):
        formula = spelled_out(formula, column_names(data), (weights, clusters))
    parsed = parse(formula)
    response, plain = response_of(parsed), plain_columns(parsed)
    if plain is not None and not has_categories(data, parsed):
        terms = Terms.of_columns(plain, "1" in map(str, parsed.rhs))
        stream = Stream(
            data, response, plain, weights, clusters, missing=missing, progress=progress
        )
        return stream, terms
    copied = [name for name in (response, weights, clusters) if name is not None]
    wanted: list[str] = list(dict.fromkeys([*variables(parsed), *copied]))
    predictors = columns_in(parsed.rhs)
    surveyed = survey(data, wanted, predictors, {one.category for one in computed(parsed.rhs)})
    rows = _with_all(surveyed.head, surveyed.categories)
    if response not in predictors:  # of any type: it is not evaluated
        rows = with_columns(rows, {response: 0.0})
    terms = Terms.of(matrices(rows, parsed).rhs.model_spec, formula)
    if terms.state:
        return next(iter(terms.state))
    blocks = partial(_blocks, data, wanted, terms, copied)
    columns = list(terms.columns[terms.intercept :])
    stream = Stream(
        blocks, response, columns, weights, clusters, missing=missing, progress=progress
    )
    return stream, terms


def complete_parts(
    data: Any, terms: Terms, weights: str | None, others: list[str | None]
) -> Iterator[tuple[pd.DataFrame, Tensor]]:
    """Yield the complete rows of weights above 0, a block after the other, with their weights
    (n).
    """
    wanted = [
        name for name in dict.fromkeys([*terms.variables, weights, *others]) if name is not None
    ]
    for block in pieces(data, None, wanted):
        table = block.to_pandas()
        table = table[table[wanted].notna().all(axis=1)]
        counts = np.ones(len(table)) if weights is None else numbers(table[weights], weights)
        if (counts > 0).any():
            yield table[counts > 0], torch.tensor(counts[counts > 0])


def column_names(data: Any) -> list[str]:
    return list(schema_of(data).names)


def has_categories(data: Any, formula: Parsed) -> bool:
    columns = columns_in(formula.rhs)
    return any(kind_of(one.type) == "texts" for one in schema_of(data) if one.name in columns)


def _with_all(head: pd.DataFrame, categories: dict[str, list[Any]]) -> pd.DataFrame:
    head = head.astype(dict.fromkeys(categories, object))
    copies = [
        with_columns(
            pd.concat([head.head(1)] * len(values)), {name: np.array(values, dtype=object)}
        )
        for name, values in categories.items()
    ]
    table = pd.concat([head, *copies], ignore_index=True)
    return with_columns(
        table, {name: pd.Categorical(table[name], values) for name, values in categories.items()}
    )


def _blocks(data: Any, wanted: list[str], terms: Terms, copied: list[str]) -> Iterator[Any]:
    """Yield Arrow batches of the formula's columns; where a value is missing, so are the row's."""
    first = 0
    for block in pieces(data, None, wanted):
        table = block.to_pandas(integer_object_nulls=True)
        table.index = pd.RangeIndex(first, first + len(table))
        complete = ~table[terms.variables].isna().to_numpy().any(1)
        x = np.full((len(terms.columns), len(table)), np.nan)
        if complete.any():
            x[:, complete] = terms.design(table[complete]).numpy().T
        columns = dict(zip(terms.columns, x, strict=True))
        yield block.from_pydict(columns | {name: block.column(name) for name in copied})
        first += len(table)
