"""Where searches start."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nll.estimation.options import FitOptions
from nll.families.base import Family, seeded
from nll.solvers.parameters import Layout, Params, value_of

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
