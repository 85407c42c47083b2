"""The data of a family, parsed and checked against its support."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nll.data.observations import (
    Censored,
    Observations,
    Truncated,
    observe,
    observe_bounded,
    require_support,
)
from nll.estimation.options import FitOptions
from nll.families.base import Family, Sample, seeded, tails_of
from nll.families.counts import MOST_CATEGORIES
from nll.solvers.parameters import Layout, Params, value_of


def sample_of(family: Family, data: Any, weights: Any, fixed: Any, missing: str) -> Sample:
    """Parse the data of a family, and what `fixed` must supply.

    Raises: ValueError or TypeError naming the first invalid row.
    """
    for name in family.given:
        if name not in fixed:
            raise ValueError(f"expected fixed={{'{name}': ...}} for {family.name}, got no {name}")
    categorical = family.name == "Categorical"
    if isinstance(data, (Censored, Truncated)):
        tails_of(family)
        observed = observe_bounded(data, weights, missing=missing)
    else:
        observed = observe(data, weights, missing=missing, categorical=categorical)
    _require_shape(family, observed)
    supplied = {name: _row_numbers(name, fixed[name], observed) for name in family.given}
    if observed.ends is None:
        interval = not (family.discrete or family.columns or supplied)
        inside = partial(family.inside, **supplied)
        require_support(observed, inside, family.support, family.name, interval)
    else:
        _require_possible(family, observed, supplied)
    _require_window(observed, family.discrete)
    if categorical:
        _require_few_categories(observed)
    observed = _with_values(family, observed, supplied)
    return Sample(family, observed, supplied, by_formula=False)


def known_ends(observed: Observations) -> tuple[Tensor, Tensor]:
    """Return the interval of each row, within its window."""
    assert observed.ends is not None
    low, high = observed.ends
    if observed.window is None:
        return low, high
    first, last = observed.window
    return torch.maximum(low, first), torch.minimum(high, last)


def _require_shape(family: Family, observed: Observations) -> None:
    expected, dims = ("(n, K)", 2) if family.columns else ("(n)", 1)
    if observed.values.dim() != dims:
        shape = tuple(observed.values.shape)
        raise ValueError(f"expected data of shape {expected} for {family.name}, got {shape}")


def _row_numbers(name: str, value: Any, observed: Observations) -> Tensor:
    """A number for all rows, or one for each row of the data; trials are positive integers."""
    expected = "a positive integer" if name == "total_count" else "a finite number"
    if value is None:
        raise TypeError(f"expected {name} to be {expected}, got None")
    try:
        array = np.asarray(value.detach() if isinstance(value, Tensor) else value, np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"expected {name} to be {expected}, got {value!r}") from None
    number = torch.tensor(array)
    if number.dim() > 1 or (number.dim() == 1 and len(number) != observed.given):
        shape = tuple(number.shape)
        raise ValueError(f"expected one {name}, or one for each row, got shape {shape}")
    wrong = ~torch.isfinite(number)
    if name == "total_count":
        wrong |= ~((number > 0) & (number == number.round()))
    if bool(wrong.any()):
        first = float(number[wrong].reshape(-1)[0])
        raise ValueError(f"expected {name} to be {expected}, got {first:g}")
    return number if number.dim() == 0 else number[observed.rows]


def _require_possible(family: Family, observed: Observations, supplied: Params) -> None:
    """Require a value of the support in every interval; an exact row is one."""
    assert observed.ends is not None
    low, high = observed.ends
    first, last = family.ends(supplied)
    overlap = (high >= first) & (low <= last) if family.discrete else (high > first) & (low < last)
    possible = torch.where(low == high, family.inside(observed.values, **supplied), overlap)
    if not bool(possible.all()):
        row = int((~possible).nonzero()[0])
        raise ValueError(
            f"data outside the support of {family.name}: expected {family.support}, got "
            f"{_interval(low[row], high[row])} at row {int(observed.rows[row])}"
        )


def _require_window(observed: Observations, discrete: bool) -> None:
    """Require every row to lie inside its window, or to have a part of it."""
    if observed.window is None:
        return
    low, high = torch.broadcast_tensors(*observed.window)
    empty = low > high if discrete else low >= high
    if bool(empty.any()):
        row = int(empty.nonzero()[0])
        at = f" at row {row}" if len(empty) > 1 else ""
        raise ValueError(
            f"expected a window with room between its ends, got "
            f"{_interval(low[row], high[row])}{at}"
        )
    first, last = observed.ends or (observed.values, observed.values)
    outside = (first > high) | (last < low)
    outside |= ((first < low) & first.isfinite()) | ((last > high) & last.isfinite())
    if not discrete:
        outside |= (first < last) & ((first >= high) | (last <= low))
    if bool(outside.any()):
        row = int(outside.nonzero()[0])
        got = f"{float(observed.values[row]):g}"
        if bool(first[row] < last[row]):
            got = _interval(first[row], last[row])
        low, high = low.expand_as(first), high.expand_as(first)
        raise ValueError(
            f"expected observations inside the window {_interval(low[row], high[row])}, "
            f"got {got} at row {int(observed.rows[row])}"
        )


def _interval(low: Tensor, high: Tensor) -> str:
    return f"[{float(low):g}, {float(high):g}]"


def _with_values(family: Family, observed: Observations, supplied: Params) -> Observations:
    """Give censored rows a value inside the support, for starts and units.

    A row censored at one side has its finite end, an interval its middle, and a row that could be
    anything the median of the others.
    """
    if observed.ends is None:
        return observed
    low, high = known_ends(observed)
    first, last = (
        torch.as_tensor(end, dtype=torch.float64).expand_as(low) for end in family.ends(supplied)
    )
    exact = observed.ends[0] == observed.ends[1]
    anything = (low <= first) & (high >= last) & (observed.ends[0] < observed.ends[1])
    low, high = torch.maximum(low, first), torch.minimum(high, last)
    one_end = torch.where(low.isfinite(), low, high)
    values = torch.where(low.isfinite() & high.isfinite(), low / 2 + high / 2, one_end)
    others = values[~anything]
    default = family.middle(supplied) if not len(others) else others.median()
    default = torch.as_tensor(default, dtype=torch.float64).expand_as(low)
    values = torch.where(exact, observed.values, torch.where(anything, default, values))
    return replace(observed, values=values)


def _require_few_categories(observed: Observations) -> None:
    row = int(observed.values.argmax())
    if float(observed.values[row]) >= MOST_CATEGORIES:
        raise ValueError(
            f"expected at most {MOST_CATEGORIES} categories, got the number "
            f"{int(observed.values[row])} at row {int(observed.rows[row])}; text labels may be any"
        )


_ROWS = 1 << 16  # of a family that the start is computed from
_TRIES = 6  # other starts of a likelihood


def family_starts(
    family: Family, layout: Layout, values: Tensor, weights: Tensor, options: FitOptions
) -> tuple[Tensor, Tensor | None]:
    """Return where to search (S, P), and where else to search if that ends at no maximum.

    A start of the user's replaces the rule's for the parameters that it names. Where there may be a
    higher maximum elsewhere, the rule's starts are tried too.
    """
    step = max(1, len(values) // _ROWS)
    values, weights = values[::step], weights[::step]
    if not family.columns:
        values, weights = values[None], weights[None]
    rules = [family_start(family, values, weights)]
    if family.more_starts is not None:
        more = family.more_starts
        drawn = seeded(lambda: more(values, weights), options.seed)
        rules += [_usable(family, start) for start in drawn]
    by_rule = torch.cat([_numbers(layout, rule) for rule in rules])
    supplied = _supplied(layout, options)
    if not supplied:
        return by_rule, None
    starts = torch.cat([_numbers(layout, {**rule, **supplied}) for rule in rules])
    if set(supplied) == set(layout.free):
        starts = starts[:1]
    if family.more_starts is not None:
        starts = torch.cat([starts, by_rule])
    return starts, by_rule


def family_start(family: Family, values: Tensor, weights: Tensor) -> Params:
    columns = values.shape[-1] if family.columns else 1
    return _usable(family, _by_rule(family, values, weights), columns)


def likelihood_starts(layout: Layout, options: FitOptions) -> tuple[Tensor, Tensor]:
    """Return where to search (1, P), and places around 0 and around there to try otherwise."""
    start = _numbers(layout, {**_middle(layout.parameters), **_supplied(layout, options)})
    draw = seeded(lambda: torch.randn(_TRIES, start.shape[1], dtype=torch.float64), options.seed)
    near = start + (1 + start.abs()) * draw[_TRIES // 2 :]
    return start, torch.cat([torch.zeros_like(start), draw[: _TRIES // 2], near])


def _supplied(layout: Layout, options: FitOptions) -> Params:
    options.require_parameters(layout.parameters)
    return {
        name: value_of(name, value, layout.parameters[name])
        for name, value in options.start.items()
    }


def _numbers(layout: Layout, params: Params) -> Tensor:
    shapes = {name: layout.parameters[name].shape for name in params}
    return layout.numbers({n: value.reshape(1, *shapes[n]) for n, value in params.items()})


def _by_rule(family: Family, values: Tensor, weights: Tensor) -> Params:
    if family.start is not None:
        return family.start(values, weights)
    if family.estimate is None:
        return _middle(family.constraints(1))
    if not family.columns:
        values, weights = values.reshape(-1), weights.reshape(-1)
    estimate = family.estimate(values, weights)
    # off the boundaries
    return {name: torch.where(v.isfinite() & (v != 0), v, 1.0) for name, v in estimate.items()}


def _middle(parameters: Any) -> Params:
    """The parameters whose free numbers are 0."""
    return {
        name: parameter.transform(torch.zeros(parameter.free_shape, dtype=torch.float64))
        for name, parameter in parameters.items()
    }


def _usable(family: Family, start: Params, columns: int = 1) -> Params:
    """Replace values for which the rule failed, as on data that it was not made for, by the middle
    of the parameter's range.
    """
    usable = dict(start)
    for name, parameter in family.constraints(columns).items():
        valid = start[name].isfinite()
        if parameter.constraint.event_dim == 0:
            valid = valid & parameter.constraint.check(start[name])
        if not bool(valid.all()):
            middle = _middle({name: parameter})[name]
            usable[name] = torch.where(valid, start[name], middle)
    return usable
