"""Several models of the same data, ranked by an information criterion, and whether the best of them
is any good.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, VonMises

from nll._torch import on_processor
from nll.data.observations import Observations, Weights, observe_bounded
from nll.estimation.fit import fit
from nll.estimation.result import Fit
from nll.families.base import Family
from nll.families.registry import family_of
from nll.selection.goodness_of_fit import BUDGET, STATISTICS, GoodnessOfFit, goodness_of_fit

CRITERIA = {"aic": "AIC", "aicc": "AICc", "bic": "BIC"}
_LEVEL = 0.05
_NEAR = 2.0  # a difference that says little (Burnham and Anderson 2002, section 2.6)
_TIE = 1e-9


@dataclass(frozen=True)
class Candidate:
    """A row of the table: one model. NaN where it is not ranked, and `status` says why."""

    name: str
    status: str
    df: int | None = None
    log_likelihood: float = math.nan
    aic: float = math.nan
    aicc: float = math.nan
    bic: float = math.nan
    delta: float = math.nan  # of the criterion, from the smallest
    weight: float = math.nan  # exp(-delta / 2), as a share of the sum over the candidates
    goodness: GoodnessOfFit | None = None


@dataclass(frozen=True)
class Comparison:
    """Models of the same data, from the best to those that cannot be ranked."""

    criterion: str
    table: tuple[Candidate, ...]
    fits: dict[str, Fit]  # by name; not of the models under which the data are impossible
    n: float
    frequencies: bool = True  # whether the weights are: a design's make no likelihood

    @property
    def ranked(self) -> tuple[Candidate, ...]:
        """The candidates that have the criterion."""
        return tuple(row for row in self.table if not math.isnan(row.delta))

    @property
    def best(self) -> str | None:
        """The name of the candidate with the smallest criterion; None where no candidate has
        one.
        """
        return self.ranked[0].name if self.ranked else None

    @property
    def status(self) -> str:
        """The verdict in sentences."""
        if not self.ranked:
            return "no candidate can be ranked"
        caveat = (
            ""
            if self.frequencies
            else (". The weights are no frequencies: the criteria are a rough guide")
        )
        return f"{self._order()}{self._goodness()}{caveat}"

    def _order(self) -> str:
        first, *others = self.ranked
        title = CRITERIA[self.criterion]
        tied = [
            row.name
            for row in others
            if row.delta <= _TIE * max(1.0, abs(getattr(first, self.criterion)))
        ]
        if tied:
            return f"a tie: the smallest {title} is that of {' and '.join([first.name, *tied])}"
        near = [row.name for row in others if row.delta <= _NEAR]
        if near:
            verb = "is" if len(near) == 1 else "are"
            return (
                f"{first.name} has the smallest {title}, but {' and '.join(near)} {verb} within "
                f"{_NEAR:g} units of it: "
                "the data do not decide between them"
            )
        return f"{first.name} has the smallest {title}"

    def _goodness(self) -> str:
        """What a test says of the best: Anderson and Darling's, which sees the tails too, where it
        is there.
        """
        found = self.ranked[0].goodness
        if found is None:
            return ""
        for name in reversed(STATISTICS.values()):
            p = found.p_values[name]
            if not math.isnan(p):
                said = f"{name.replace('_', '-').title()}, p = {p:.3g}"
                if p > _LEVEL:
                    return f". A test of fit does not reject it ({said})"
                return (
                    f". A test of fit rejects it ({said}): even the best candidate does not "
                    f"describe the data"
                )
        return f". Its fit is not tested: {found.note}" if found.note else ""

    def to_dict(self) -> dict[str, Any]:
        """Everything that is a number or a text, as plain Python values (NaN and infinities
        included).
        """
        return {
            "criterion": self.criterion,
            "best": self.best,
            "n": self.n,
            "status": self.status,
            "candidates": [asdict(row) for row in self.table],
        }

    def to_pandas(self) -> Any:
        """A DataFrame with a row for each candidate."""
        import pandas as pd

        rows = []
        for row in self.table:
            found = asdict(row)
            goodness, status = (
                found.pop("goodness") or {"statistics": {}, "p_values": {}},
                found.pop("status"),
            )
            for letters, name in STATISTICS.items():
                found[letters] = goodness["statistics"].get(name, math.nan)
                found[f"{letters} p"] = goodness["p_values"].get(name, math.nan)
            rows.append({**found, "status": status})
        return pd.DataFrame(rows).set_index("name")

    def summary(self) -> str:
        """A table, the verdict, and what there is to say of single candidates."""
        tested = list(STATISTICS) if any(row.goodness for row in self.table) else []
        numbers = [
            "log-likelihood",
            *CRITERIA.values(),
            "delta",
            "weight",
            *(f"{name} p" for name in tested),
        ]
        lines = [
            [f"n = {self.n:.12g}", "df", *numbers],
            *(_cells(row, tested) for row in self.table),
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(f"{c:{'>' if j else '<'}{widths[j]}}" for j, c in enumerate(line)).rstrip()
            for line in lines
        ]
        said = [
            f"{row.name}: {row.status}"
            for row in self.table
            if not row.status.startswith("converged")
        ]
        said += [
            f"{row.name}: {row.goodness.note}"
            for row in self.ranked
            if row.goodness and row.goodness.note
        ]
        dropped = next(iter(self.fits.values())).dropped
        said += [f"rows with missing values that were left out: {dropped}"] if dropped else []
        return "\n".join([*text, f"{self.status}.", *said])

    def __str__(self) -> str:
        """Return the summary."""
        return self.summary()


def _cells(row: Candidate, tested: list[str]) -> list[str]:
    numbers = [
        row.log_likelihood,
        *(getattr(row, name) for name in CRITERIA),
        row.delta,
        row.weight,
    ]
    numbers += [
        math.nan if row.goodness is None else row.goodness.p_values[STATISTICS[name]]
        for name in tested
    ]
    cells = ["" if math.isnan(number) else f"{number:.3f}" for number in numbers]
    return [row.name, "" if row.df is None else str(row.df), *cells]


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
        models: classes of distributions; or a dict of name -> class, anything else that `fit`
            takes, or a `Fit`.
        data: what `fit` takes; None where all models are fits.
        criterion: "aic", "aicc" or "bic": what ranks them.
        weights: of the rows, as of `fit`.
        fixed: name of a model -> what `fit` takes as fixed for it.
        missing: "raise", or "drop" to leave out rows with a missing value.
        replicates: of the tests of goodness of fit, for families; 0: no tests.
        seed: of their draws.
        budget: how many numbers they draw for each candidate, at most.

    Returns: a `Comparison`. A family whose support has not all of the data, or that cannot be
    fitted to data like these, is in the table with the reason; so is a fit that did not converge.
    They are not ranked.

    Raises: ValueError for two models of one name, densities next to probabilities (which are not
    comparable), fits to different rows, or no family that can be fitted; and for data, weights and
    parameters that cannot be used.
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
    rows = [_candidate(name, found) for name, found in fits.items()]
    if replicates:
        rows = [_tested(row, fits[row.name], replicates, seed, budget) for row in rows]
    rows = [
        *_ranked(rows, criterion),
        *(Candidate(name, f"not possible: {why}") for name, why in impossible.items()),
    ]
    kinds = {found.sample.observed.kind for found in fits.values() if found.sample is not None}
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


def _counts(model: Any) -> bool | None:
    """Whether a model gives probabilities, and not densities; None: it is not known."""
    family = _family(model)
    if family is not None:
        return family.discrete
    return model.discrete if isinstance(model, Fit) else None


def _require_one_measure(named: dict[str, Any]) -> None:
    counts = next((name for name, model in named.items() if _counts(model) is True), None)
    measures = next((name for name, model in named.items() if _counts(model) is False), None)
    if counts is not None and measures is not None:
        raise ValueError(
            f"expected models of counts or of measurements, got {counts} and {measures}: a "
            f"probability is not "
            "comparable with a density"
        )


def _require_known(name: str, family: Family, fixed: Mapping[str, Any]) -> None:
    """What is fixed are parameters of the family, with all that the data do not tell."""
    known = (*family.parameters, *family.given)
    wrong = next((parameter for parameter in fixed if parameter not in known), None)
    if wrong is not None:
        raise ValueError(f"expected one of {', '.join(known)} in fixed for {name}, got {wrong!r}")
    lacking = next((parameter for parameter in family.given if parameter not in fixed), None)
    if lacking is not None:
        raise ValueError(f"expected fixed={{'{name}': {{'{lacking}': ...}}}}, got no {lacking}")


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
    """The fits, and why others are not possible. What is wrong with the data or with `fixed`
    raises.
    """
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
    angles = [name for name, found in fits.items() if _circular(found)]
    for name in angles if len(angles) < len(fits) else ():  # on the line their density is not one
        sample = fits[name].sample
        if (
            sample is not None
            and float(sample.observed.values.max() - sample.observed.values.min()) > 2 * math.pi
        ):
            fits.pop(name)
            impossible[name] = "expected angles within one turn, next to models of numbers"
    return fits, impossible


def _circular(found: Fit) -> bool:
    distribution = None if found.sample is None else found.sample.family.distribution
    return getattr(distribution, "base", distribution) is VonMises


# ---- The table -----------------------------------------------------------------------------------


def _candidate(name: str, found: Fit) -> Candidate:
    if not found.converged:
        return Candidate(name, found.status, found.df, found.log_likelihood)
    return Candidate(
        name, found.status, found.df, found.log_likelihood, found.aic, _corrected(found), found.bic
    )


def _corrected(found: Fit) -> float:
    """AIC + 2 k (k + 1) / (n - k - 1), infinite where n leaves nothing (Hurvich and Tsai 1989)."""
    left = found.n - found.df - 1
    return found.aic + 2 * found.df * (found.df + 1) / left if left > 0 else math.inf


def _ranked(rows: list[Candidate], criterion: str) -> list[Candidate]:
    """From the smallest criterion up, with differences and Akaike's weights; then those that have
    none.
    """
    values = {row.name: getattr(row, criterion) for row in rows}
    finite = sorted(
        (row for row in rows if math.isfinite(values[row.name])), key=lambda row: values[row.name]
    )
    deltas = [values[row.name] - values[finite[0].name] for row in finite]
    total = sum(math.exp(-delta / 2) for delta in deltas)
    top = [
        replace(r, delta=d, weight=math.exp(-d / 2) / total)
        for r, d in zip(finite, deltas, strict=True)
    ]
    return [*top, *(row for row in rows if not math.isfinite(values[row.name]))]


def _tested(row: Candidate, found: Fit, replicates: int, seed: int, budget: int) -> Candidate:
    if not found.converged or found.sample is None:
        return row
    return replace(
        row, goodness=goodness_of_fit(found, replicates=replicates, seed=seed, budget=budget)
    )
