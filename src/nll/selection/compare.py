"""Rank several models of the same data by an information criterion, and test the fit of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, VonMises

from nll._torch import on_processor
from nll.data.observations import Observations, observe_bounded
from nll.data.weights import Weights
from nll.estimation.fit import fit
from nll.estimation.result import Fit
from nll.families.base import Family
from nll.families.registry import family_of
from nll.selection.comparison import CRITERIA, Candidate, Comparison
from nll.selection.goodness_of_fit import BUDGET, goodness_of_fit


@on_processor
def compare(
    models: Any,
    data: Any = None,
    *,
    criterion: str = "aic",
    weights: Any = None,
    fixed: Mapping[str, Mapping[str, Any]] | None = None,
    missing: str = "raise",
    replicates: int = 199,
    seed: int = 0,
    budget: int = BUDGET,
) -> Comparison:
    """Fit several models to the same data and rank them.

    Args:
        models: families; or a dict of name -> family, anything else that `fit` accepts, or a `Fit`.
        data: as for `fit`; None if all models are fits.
        criterion: the ranking criterion, "aic", "aicc" or "bic".
        weights: of the rows, as for `fit`.
        fixed: name of a model -> its fixed parameters, as for `fit`.
        missing: "raise", or "drop" to leave out rows with a missing value.
        replicates: bootstrap replicates for the goodness-of-fit tests of families; 0: no tests.
        seed: random seed of the tests.
        budget: how many numbers the tests draw per candidate, at most.

    Returns: a `Comparison`. A family whose support does not contain all of the data, or that cannot
    be fitted to such data, is in the table with the reason; so is a fit that did not converge. They
    are not ranked.

    Raises: ValueError for two models of the same name, densities next to probabilities (which are
    not comparable), fits to different rows, or if no family can be fitted; and for invalid data,
    weights and parameters.

    Example:
        >>> from torch.distributions import Exponential, Gamma, Weibull
        >>> waits = [0.3, 1.9, 2.4, 2.8, 3.1, 3.3, 3.9, 4.6, 5.2, 7.5]
        >>> nll.compare([Exponential, Gamma, Weibull], waits, replicates=0).best
        'Weibull'
    """
    if criterion not in CRITERIA:
        raise ValueError(
            f"expected criterion to be one of {', '.join(CRITERIA)}, got {criterion!r}"
        )
    named, fixed = _named(models), fixed or {}
    for name in fixed:
        if name not in named or isinstance(named[name], Fit):
            raise ValueError(
                f"expected fixed for one of the models to fit ({', '.join(named)}), got {name!r}"
            )
    _require_one_measure(named)
    if data is None and not all(isinstance(model, Fit) for model in named.values()):
        raise ValueError("expected data, as not all models are fits, got None")
    fits, impossible = _fitted(named, data, weights, fixed, missing)
    if not fits:
        raise ValueError(
            f"expected a family that can be fitted, got none: "
            f"{'; '.join(dict.fromkeys(impossible.values()))}"
        )
    _require_same_rows(fits)
    rows = [_candidate(name, fitted) for name, fitted in fits.items()]
    if replicates:
        rows = [_tested(row, fits[row.name], replicates, seed, budget) for row in rows]
    rows = [
        *_ranked(rows, criterion),
        *(Candidate(name, f"not possible: {why}") for name, why in impossible.items()),
    ]
    kinds = {fitted.sample.observed.kind for fitted in fits.values() if fitted.sample is not None}
    frequencies = kinds <= {"frequency"} and not isinstance(weights, Weights)
    return Comparison(criterion, tuple(rows), fits, next(iter(fits.values())).n, frequencies)


def _named(models: Any) -> dict[str, Any]:
    if isinstance(models, Mapping):
        named = {str(name): model for name, model in models.items()}
    elif isinstance(models, Sequence) and not isinstance(models, str):
        for model in models:
            if not isinstance(model, (type, Family, Fit)):
                raise TypeError(
                    f"expected classes or fits, or a dict of name -> model, got "
                    f"{type(model).__name__}"
                )
        names = [model.model if isinstance(model, Fit) else model.__name__ for model in models]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(
                f"expected models of different names, got {twice!r} twice; a dict names them"
            )
        named = dict(zip(names, models, strict=True))
    else:
        raise TypeError(
            f"expected models as a list, or a dict of name -> model, got {type(models).__name__}"
        )
    if not named:
        raise ValueError("expected at least one model, got none")
    return named


def _family(model: Any) -> Family | None:
    if isinstance(model, Fit):
        return None if model.sample is None else model.sample.family
    is_class = isinstance(model, type) and issubclass(model, Distribution)
    return family_of(model) if is_class or isinstance(model, Family) else None


def _is_discrete(model: Any) -> bool | None:
    """Whether a model gives probabilities, not densities; None: unknown."""
    family = _family(model)
    if family is not None:
        return family.discrete
    return model.discrete if isinstance(model, Fit) else None


def _require_one_measure(named: dict[str, Any]) -> None:
    discrete = {name: _is_discrete(model) for name, model in named.items()}
    counts = [name for name, is_discrete in discrete.items() if is_discrete is True]
    measures = [name for name, is_discrete in discrete.items() if is_discrete is False]
    if counts and measures:
        raise ValueError(
            f"expected models of counts or of measurements, got {counts[0]} and {measures[0]}: a "
            "probability is not comparable with a density"
        )


def _require_known(name: str, family: Family, fixed: Mapping[str, Any]) -> None:
    """Fixed are parameters of the family, and all those that the data do not determine."""
    known = (*family.parameters, *family.given)
    for parameter in fixed:
        if parameter not in known:
            raise ValueError(
                f"expected one of {', '.join(known)} in fixed for {name}, got {parameter!r}"
            )
    for parameter in family.given:
        if parameter not in fixed:
            raise ValueError(
                f"expected fixed={{'{name}': {{'{parameter}': ...}}}}, got no {parameter}"
            )


def _require_same_rows(fits: dict[str, Fit]) -> None:
    (first, one), *others = fits.items()
    for name, fit_ in others:
        for what, a, b in (
            ("n =", f"{one.n:.12g}", f"{fit_.n:.12g}"),
            ("rows left out:", one.dropped, fit_.dropped),
            ("the response", one.response or fit_.response, fit_.response or one.response),
        ):
            if a != b:
                raise ValueError(
                    f"expected fits to the same rows, got {what} {a} for {first} and {b} for {name}"
                )
        if one.sample is not None and fit_.sample is not None:
            here, there = _rows(one.sample.observed), _rows(fit_.sample.observed)
            if len(here) != len(there) or not all(map(torch.equal, here, there)):
                raise ValueError(
                    f"expected fits to the same rows, got other data for {first} than for {name}"
                )


def _rows(observed: Observations) -> tuple[Tensor, ...]:
    return observed.values, observed.weights, *(observed.ends or ()), *(observed.window or ())


def _fitted(
    named: dict[str, Any], data: Any, weights: Any, fixed: Mapping[str, Any], missing: str
) -> tuple[dict[str, Fit], dict[str, str]]:
    """The fits, and why others are impossible. Invalid data or `fixed` raise."""
    fits, impossible = {}, {}
    families = {name: _family(model) for name, model in named.items() if not isinstance(model, Fit)}
    for name, family in families.items():
        if family is not None:
            _require_known(name, family, fixed.get(name, {}))
    if any(family is not None and not family.simplex for family in families.values()):
        observe_bounded(data, weights, missing=missing)
    for name, model in named.items():
        if isinstance(model, Fit):
            fits[name] = model
            continue
        try:
            fits[name] = fit(model, data, weights=weights, fixed=fixed.get(name), missing=missing)
        except ValueError as error:
            if families[name] is None:
                raise
            impossible[name] = str(error)
    samples = {name: fitted.sample for name, fitted in fits.items()}
    angles = [name for name, data in samples.items() if data and data.family.base is VonMises]
    if len(angles) < len(fits):
        for name in angles:
            if _turns(fits[name]) > 1:
                fits.pop(name)
                impossible[name] = "expected angles within one turn, next to models of numbers"
    return fits, impossible


def _turns(fitted: Fit) -> float:
    """The range of angles. A density of angles is one on the line only within one turn."""
    assert fitted.sample is not None
    values = fitted.sample.observed.values
    return float(values.max() - values.min()) / (2 * math.pi)


# ---- The table -----------------------------------------------------------------------------------


def _candidate(name: str, fitted: Fit) -> Candidate:
    row = Candidate(name, fitted.status, fitted.df, fitted.log_likelihood)
    if not fitted.converged:
        return row
    return replace(row, aic=fitted.aic, aicc=_corrected_aic(fitted), bic=fitted.bic)


def _corrected_aic(fitted: Fit) -> float:
    """AIC + 2 k (k + 1) / (n - k - 1), infinite for n <= k + 1 (Hurvich and Tsai 1989)."""
    rest = fitted.n - fitted.df - 1
    return fitted.aic + 2 * fitted.df * (fitted.df + 1) / rest if rest > 0 else math.inf


def _ranked(rows: list[Candidate], criterion: str) -> list[Candidate]:
    """From the smallest criterion up, with differences and Akaike's weights; then those without a
    finite criterion.
    """
    rows = sorted(rows, key=lambda row: _finite_first(getattr(row, criterion)))
    values = [getattr(row, criterion) for row in rows]
    deltas = [value - values[0] for value in values if math.isfinite(value)]
    total = sum(math.exp(-delta / 2) for delta in deltas)
    top = [
        replace(row, delta=delta, weight=math.exp(-delta / 2) / total)
        for row, delta in zip(rows, deltas, strict=False)
    ]
    return [*top, *rows[len(top) :]]


def _finite_first(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _tested(row: Candidate, fitted: Fit, replicates: int, seed: int, budget: int) -> Candidate:
    if not fitted.converged or fitted.sample is None:
        return row
    goodness = goodness_of_fit(fitted, replicates=replicates, seed=seed, budget=budget)
    return replace(row, goodness=goodness)
