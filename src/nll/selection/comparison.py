"""Models of the same data, ranked: the table and the verdict."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from nll.estimation.result import Fit
from nll.selection.goodness_of_fit import STATISTICS, GoodnessOfFit
from nll.solvers.outcome import Status

CRITERIA = {"aic": "AIC", "aicc": "AICc", "bic": "BIC"}
_LEVEL = 0.05
_NEAR = 2.0  # a difference that decides little (Burnham and Anderson 2002, section 2.6)
_TIE = 1e-9


@dataclass(frozen=True)
class Candidate:
    """One model, a row of the table. NaN if it is not ranked; `status` says why."""

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
    """Models of the same data, best first; those that cannot be ranked come last."""

    criterion: str
    table: tuple[Candidate, ...]
    fits: dict[str, Fit]  # by name; without the models that cannot be fitted to the data
    n: float
    frequencies: bool = True  # whether the weights are; with those of a design no likelihood exists

    @property
    def ranked(self) -> tuple[Candidate, ...]:
        return tuple(row for row in self.table if not math.isnan(row.delta))

    @property
    def best(self) -> str | None:
        """The name of the candidate with the smallest criterion, if there is one."""
        return self.ranked[0].name if self.ranked else None

    @property
    def status(self) -> str:
        if not self.ranked:
            return "no candidate can be ranked"
        status = self._order() + self._goodness()
        if not self.frequencies:
            status += ". The weights are no frequencies: the criteria are a rough guide"
        return status

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
                f"{_NEAR:g} units of it: the data do not decide between them"
            )
        return f"{first.name} has the smallest {title}"

    def _goodness(self) -> str:
        """The verdict on the best candidate, by Anderson and Darling's test, which is sensitive in
        the tails too, if it is available.
        """
        goodness = self.ranked[0].goodness
        if goodness is None:
            return ""
        tested = {name: p for name, p in goodness.p_values.items() if not math.isnan(p)}
        if not tested:
            return f". Its fit is not tested: {goodness.note}" if goodness.note else ""
        name, p = tested.popitem()
        test = f"{name.replace('_', '-').title()}, p = {p:.3g}"
        if p > _LEVEL:
            return f". A test of fit does not reject it ({test})"
        return (
            f". A test of fit rejects it ({test}): even the best candidate does not describe the "
            "data"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all numbers and texts as plain Python values, NaN and infinities included."""
        return {
            "criterion": self.criterion,
            "best": self.best,
            "n": self.n,
            "status": self.status,
            "candidates": [asdict(row) for row in self.table],
        }

    def to_pandas(self) -> Any:
        """Return a DataFrame with one row per candidate."""
        import pandas as pd

        rows = []
        for row in self.table:
            cells = asdict(row)
            goodness = cells.pop("goodness") or {"statistics": {}, "p_values": {}}
            status = cells.pop("status")
            for letters, name in STATISTICS.items():
                cells[letters] = goodness["statistics"].get(name, math.nan)
                cells[f"{letters} p"] = goodness["p_values"].get(name, math.nan)
            rows.append({**cells, "status": status})
        return pd.DataFrame(rows).set_index("name")

    def summary(self) -> str:
        """Return a table, the verdict, and remarks on single candidates."""
        tested = list(STATISTICS) if any(row.goodness for row in self.table) else []
        titles = [f"n = {self.n:.12g}", "df", "log-likelihood", *CRITERIA.values()]
        titles += ["delta", "weight", *(f"{name} p" for name in tested)]
        lines = [titles, *(_cells(row, tested) for row in self.table)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(f"{c:{'>' if j else '<'}{widths[j]}}" for j, c in enumerate(line)).rstrip()
            for line in lines
        ]
        usual = (Status.CONVERGED, Status.CLOSED_FORM)
        remarks = [
            f"{row.name}: {row.status}"
            for row in self.table
            if row.name not in self.fits or self.fits[row.name].verdict not in usual
        ]
        remarks += [
            f"{row.name}: {row.goodness.note}"
            for row in self.ranked
            if row.goodness and row.goodness.note
        ]
        dropped = next(iter(self.fits.values())).dropped
        if dropped:
            remarks.append(f"rows with missing values that were left out: {dropped}")
        return "\n".join([*text, f"{self.status}.", *remarks])

    __str__ = summary


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
