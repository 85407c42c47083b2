"""The table of families, and what a class that is not in it says of itself."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import distributions as td

from nll.families import closed_forms, searched_forms
from nll.families.base import Family, parameter_of

FAMILIES: dict[type[td.Distribution], Family] = {
    family.distribution: family for family in (*closed_forms.FAMILIES, *searched_forms.FAMILIES)
}


def family_of(distribution: type[td.Distribution]) -> Family:
    """What is known of a class; of one that is not in the table, what it says of itself.

    Raises: ValueError for a class whose parameters or support cannot be told from it.
    """
    if distribution in FAMILIES:
        return FAMILIES[distribution]
    arguments: Any = distribution.arg_constraints
    name = distribution.__name__
    if not isinstance(arguments, dict) or not arguments:
        raise ValueError(
            f"expected a family whose class tells its parameters (arg_constraints), got {name}"
        )
    wanted = [
        n for n in inspect.signature(distribution).parameters if n in arguments and n != "logits"
    ]
    if any(arguments[n].event_dim for n in wanted) or not wanted:
        raise ValueError(
            f"expected a family with plain numbers as parameters, got {name}; write a Likelihood"
        )
    start = {
        n: parameter_of(arguments[n], 1).transform(torch.zeros((), dtype=torch.float64))
        for n in wanted
    }
    try:
        support = distribution(**start, validate_args=False).support
    except TypeError:
        raise ValueError(
            f"expected a family that its parameters alone make, got {name}; write a Likelihood"
        ) from None
    if support is None or support.event_dim:
        raise ValueError(
            f"expected a family of single numbers with a support, got {name}; write a Likelihood"
        )
    return Family(
        distribution, str(support).removesuffix("()"), lambda values: support.check(values)
    )
