"""`fit`: the maximum likelihood estimate of a family's parameters."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Exponential, constraints

from nll.likelihood.families import FAMILIES, MOST_CATEGORIES, Family, Params
from nll.likelihood.model import LogLikelihood
from nll.likelihood.observations import Observations, observe, require_support
from nll.likelihood.result import Fit, Labels


def fit(
    model: type[torch.distributions.Distribution],
    data: Any,
    *,
    weights: Any = None,
    fixed: dict[str, Any] | None = None,
    missing: str = "raise",
) -> Fit:
    """Fit a family of torch.distributions to observations, by its closed form.

    Args:
        model: Bernoulli, Binomial, Geometric, Poisson, Categorical, Multinomial, Normal, LogNormal, Exponential,
            Laplace or Uniform, the classes of torch.distributions.
        data: (n) numbers, for Multinomial (n, K) counts: a list, array, tensor or column. Categorical takes
            texts too, and integers from 0.
        weights: (n) frequencies, how often each row was seen; n is their sum.
        fixed: what the data do not tell: {"total_count": number of trials, or one for each row} for Binomial.
        missing: "raise", or "drop" to leave out rows with a missing value.

    Returns: a `Fit` in float64, with the parameter names of torch.distributions. Standard errors come from the
    observed information; for Laplace from the expected information; Uniform has none.

    Raises: ValueError naming the first row outside the support, missing, or with a weight that is no frequency;
    TypeError for a model that is no class of distribution, or data that are not numbers.
    """
    family = _family(model)
    given = _given(family, fixed or {})
    observed = observe(data, weights, missing=missing, categorical=family.distribution.__name__ == "Categorical")
    _require_shape(family, observed)
    given = {name: _of_rows(name, value, observed) for name, value in given.items()}
    require_support(observed, partial(family.inside, **given), family.support, family.name)
    if family.name == "Categorical":
        _require_few_categories(observed)
    return _result(family, observed, given)


def _family(model: Any) -> Family:
    if not isinstance(model, type):
        raise TypeError(f"expected a class of torch.distributions such as Normal, got {_what(model)}")
    if model not in FAMILIES:
        known = ", ".join(family.name for family in FAMILIES.values())
        raise ValueError(f"expected a family with a closed-form estimate ({known}), got {model.__name__}")
    return FAMILIES[model]


def _what(model: Any) -> str:
    return f"{'an instance of ' if isinstance(model, Distribution) else ''}{type(model).__name__}"


def _given(family: Family, fixed: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(fixed, dict):
        raise TypeError(f"expected fixed as a dict of name -> value, got {type(fixed).__name__}")
    for name in family.given:
        if name not in fixed:
            raise ValueError(f"expected fixed={{'{name}': ...}} for {family.name}, got no {name}")
    for name in fixed:
        if name not in family.given:
            allowed = ", ".join(map(repr, family.given)) or "nothing"
            raise ValueError(f"expected {allowed} in fixed for {family.name}, got {name!r}")
    return fixed


def _require_shape(family: Family, observed: Observations) -> None:
    wanted, shape = ("(n, K)", 2) if family.columns else ("(n)", 1)
    if observed.values.dim() != shape:
        raise ValueError(f"expected data of shape {wanted} for {family.name}, got {tuple(observed.values.shape)}")


def _of_rows(name: str, value: Any, observed: Observations) -> Tensor:
    """A positive whole number for all rows, or one for each row of the data as given."""
    try:
        number = torch.tensor(np.asarray(value.detach() if isinstance(value, Tensor) else value, dtype=np.float64))
    except (TypeError, ValueError):
        raise TypeError(f"expected {name} to be a positive integer, got {value!r}") from None
    if value is None:
        raise TypeError(f"expected {name} to be a positive integer, got None")
    if number.dim() > 1 or (number.dim() == 1 and len(number) != observed.given):
        raise ValueError(f"expected one {name}, or one for each row, got shape {tuple(number.shape)}")
    wrong = ~(torch.isfinite(number) & (number > 0) & (number == number.round()))
    if bool(wrong.any()):
        raise ValueError(f"expected {name} to be a positive integer, got {float(number[wrong].reshape(-1)[0]):g}")
    return number if number.dim() == 0 else number[observed.rows]


def _require_few_categories(observed: Observations) -> None:
    most = int(observed.values.argmax())
    if float(observed.values[most]) >= MOST_CATEGORIES:
        raise ValueError(
            f"expected at most {MOST_CATEGORIES} categories, got the number {int(observed.values[most])} at row "
            f"{int(observed.rows[most])}; as texts, numbers may be any"
        )


def _result(family: Family, observed: Observations, given: dict[str, Tensor]) -> Fit:
    values, weights = observed.values, observed.weights
    size = weights.sum() if family.size is None else family.size(values, weights, **given)
    if float(size) == 0.0:
        raise ValueError(f"expected at least one trial for {family.name}, got none")
    params = family.estimate(values, weights, **given)
    covariance, status, attained = _judge(family, params, family.covariance(params, float(size)), values)
    log_likelihood = _FamilyLogLikelihood(
        family, observed, given, {name: value.shape for name, value in params.items()}
    )
    flat = torch.cat([value.reshape(-1) for value in params.values()])
    maximum = log_likelihood(flat) if attained else math.inf
    variances = covariance.diagonal()
    lost = variances.isinf() | (variances < torch.finfo(torch.float64).tiny)  # NaN where there is a border
    if attained and not (math.isfinite(maximum) and not bool(lost.any()) and bool(torch.isfinite(flat).all())):
        status = "not finite: the likelihood or its curvature overflows float64; rescale the data"
        covariance, attained = torch.full_like(covariance, torch.nan), False
    interval = None if family.interval is None else partial(family.interval, params, observed.n)
    return Fit(
        model=family.name,
        params=params,
        covariance=covariance,
        log_likelihood=maximum,
        n=observed.n,
        df=flat.numel() - family.simplex,
        status=status,
        converged=attained,
        labels=_labels(params, observed),
        information=family.information,
        dropped=observed.dropped,
        exact_interval=interval,
        log_likelihood_at=log_likelihood,
    )


def _judge(family: Family, params: Params, covariance: Tensor, values: Tensor) -> tuple[Tensor, str, bool]:
    """Return the covariance with NaN where there is none, the status, and whether the maximum is attained."""
    closed, open_ = _borders(family, params)
    equal = bool((values == values[0]).all()) and (family.distribution is not Exponential or float(values[0]) == 0.0)
    if open_ and equal:  # and not a number too large or too small for float64
        return torch.full_like(covariance, torch.nan), _unbounded(open_), False
    if family.not_regular:
        return covariance, f"not regular: {family.not_regular}", True
    if not closed:
        return covariance, "converged: closed form", True
    covariance = covariance.clone()
    for index, _ in closed:
        covariance[index, :] = covariance[:, index] = torch.nan
    where = ", ".join(name for _, name in closed)
    return covariance, f"at the border of the parameter space: {where}; no standard error there", True


def _unbounded(borders: list[tuple[int, str]]) -> str:
    where = ", ".join(name for _, name in borders)
    return f"no maximum: the data are all equal, and the likelihood grows without bound towards {where}"


def _borders(family: Family, params: Params) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    """The flat parameters (index, "name = value") at a border that belongs to the space, and at one that does not."""
    closed, open_, index = [], [], 0
    if family.distribution is torch.distributions.Uniform:
        return [], [(0, "high = low")] if bool(params["low"] == params["high"]) else []
    for name, value in params.items():
        constraint = family.distribution.arg_constraints[name]  # type: ignore[index]
        for at, number in enumerate(value.reshape(-1).tolist()):
            label = f"{name}{f'[{at}]' if value.dim() else ''} = {number:g}"
            probability = constraint in (constraints.unit_interval, constraints.simplex)
            if (probability and number in (0.0, 1.0)) or (constraint is constraints.nonnegative and number == 0.0):
                closed.append((index, label))
            elif constraint is constraints.positive and number in (0.0, torch.inf):
                open_.append((index, label))
            index += 1
    return closed, open_


def _labels(params: Params, observed: Observations) -> dict[str, Labels]:
    if observed.categories is None:
        return {}
    return dict.fromkeys(params, (observed.categories,))


class _FamilyLogLikelihood(LogLikelihood):
    """The log-likelihood of the data as a function of the flattened parameters."""

    def __init__(self, family: Family, observed: Observations, given: dict[str, Tensor], shapes: dict[str, Any]):
        self.family, self.observed, self.given, self.shapes = family, observed, given, shapes

    def __call__(self, vector: Tensor) -> float:
        parts = vector.split([shape.numel() for shape in self.shapes.values()])
        params = {name: part.reshape(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        rows = self.family.log_probs(self.observed.values, params, self.given)
        return float((self.observed.weights * rows).sum())
