"""A fitted regression in a file of JSON: its terms, coefficients and their covariance. Reading it
runs no code.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from nll.data.classes import label
from nll.data.files import write_text
from nll.estimation.inference import wald
from nll.regression.after.predictions import Predictions, Predictor
from nll.regression.formula.regress import Regression
from nll.regression.formula.terms import Terms
from nll.regression.glm.responses import RESPONSES

_VERSION = 1
# The fields that a file has as they are, and their types.
_PLAIN = {"family": str, "response": str, "status": str, "converged": bool, "baseline": int}
_NUMERIC = ("coef", "covariance", "second", "log_score")  # null stands for NaN, or for none
_A_MODEL = "expected a model that `nll fit --save` has written"


@dataclass(frozen=True)
class Model:
    """A regression by a formula, for other tables."""

    family: str  # "softmax", or one of RESPONSES
    response: str
    terms: Terms
    coef: Tensor  # (K - 1, p), or (p)
    covariance: Tensor
    classes: tuple[Any, ...] = ()  # of a softmax regression, (K) in sorted order
    baseline: int = 0
    second: float = 1.0  # the second parameter of the other families
    status: str = ""
    converged: bool = True
    log_score: float | None = None  # of the rows of the fit

    @classmethod
    def of(cls, regression: Regression) -> Model:
        """Return the model of a fitted formula."""
        fit, predictor = regression.fit, regression.fit.predictor
        coef, *second = fit.params.values()
        size = coef.numel()
        plain = (bool, int, float, str)
        return cls(
            regression.family,
            fit.response or "y",
            regression.terms(),
            coef,
            fit.covariance[:size, :size].contiguous(),
            tuple(v if isinstance(v, plain) else label(v) for v in regression.classes),
            predictor.baseline if isinstance(predictor, Predictor) else 0,
            float(second[0]) if second else 1.0,
            fit.status,
            fit.converged,
            fit.nll / fit.n,
        )

    @property
    def predictor(self) -> Predictor:
        """What predicts the classes."""
        names = tuple(label(value) for value in self.classes)
        return Predictor(
            self.terms.columns,
            self.terms.intercept,
            names,
            self.baseline,
            self.coef,
            self.covariance,
        )

    def probabilities(self, table: pd.DataFrame, level: float = 0.95) -> Predictions:
        """Return the probability of each class in each row of a table."""
        return self.predictor.at(self.terms.design(table), level)

    def mean(self, table: pd.DataFrame, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Return the mean (n) of a response that is a number, and its interval (n, 2), which is
        that of the linear predictor.
        """
        x, mean = self.terms.design(table), RESPONSES[self.family].mean
        predictor = x @ self.coef
        standard_errors = ((x @ self.covariance) * x).sum(1).clamp(min=0).sqrt()
        return mean(predictor), mean(wald.wald(predictor, standard_errors, level))

    def log_probabilities(self, table: pd.DataFrame, y: Tensor) -> Tensor:
        """Return the log-probability (n), or log-density, of the numbers y; ValueError for the
        first that the response cannot be.
        """
        # A negative binomial response with an infinite total_count is a Poisson one.
        limit = self.family == "negative_binomial" and math.isinf(self.second)
        response = RESPONSES["poisson" if limit else self.family]
        outside = ~response.inside(y)
        if bool(outside.any()):
            row = int(outside.nonzero()[0])
            got = f"{float(y[row]):.17g} at row {table.index[row]}"
            raise ValueError(f"expected {response.support} in column {self.response!r}, got {got}")
        log_second = torch.tensor(self.second, dtype=torch.float64).log()
        return response.log_prob(y, self.terms.design(table) @ self.coef, log_second)

    def save(self, path: Path) -> None:
        for value in self.classes:
            if not isinstance(value, (str, int, float, bool)):
                raise ValueError(
                    f"expected classes of texts or numbers, got the "
                    f"{type(value).__name__} {value!r}"
                )
        values = {"nll": "model", "version": _VERSION}
        values |= {name: getattr(self, name) for name in _PLAIN}
        values |= {"classes": list(self.classes), "terms": self.terms.to_dict()}
        values |= {name: _to_json(getattr(self, name)) for name in _NUMERIC}
        write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def load(path: Path) -> Model:
    """Read a model; ValueError for another file, or one of a later version."""
    if not path.is_file():
        raise ValueError(f"{_A_MODEL}, got no such file: {path}")
    values: Any = None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values["version"] if values["nll"] == "model" else None
    except (ValueError, KeyError, TypeError, RecursionError):
        version = None
    if version is None:
        raise ValueError(f"{_A_MODEL}, got another file: {path}")
    if version != _VERSION:
        raise ValueError(f"expected a model of version {_VERSION}, got version {version}: {path}")
    try:
        return _model_of(values)
    except KeyError as error:
        raise ValueError(f"expected a whole model in {path}, got one without its {error}") from None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"expected a whole model in {path}, got one that cannot be read: {error}"
        ) from None


def _model_of(values: dict[str, Any]) -> Model:
    """Return the model of a file's values; an error for those that do not fit each other."""
    for name, kind in _PLAIN.items():
        if not isinstance(values[name], kind):
            raise ValueError(f"expected {name} of type {kind.__name__}, got {values[name]!r}")
    family, classes, baseline = values["family"], tuple(values["classes"]), values["baseline"]
    if family != "softmax" and family not in RESPONSES:
        raise ValueError(f"expected a family among softmax, {', '.join(RESPONSES)}, got {family!r}")
    if not all(isinstance(value, (str, int, float, bool)) for value in classes):
        raise ValueError(f"expected classes of texts or numbers, got {classes}")
    if family == "softmax" and not (len(classes) >= 2 and 0 <= baseline < len(classes)):
        raise ValueError(
            f"expected a baseline among at least 2 classes, got {baseline} of {len(classes)}"
        )
    terms = Terms.from_dict(values["terms"])
    coef, covariance = _tensor(values["coef"]), _tensor(values["covariance"])
    shape: tuple[int, ...] = (len(terms.columns),)
    if family == "softmax":
        shape = (len(classes) - 1, *shape)
    if coef.shape != shape or covariance.shape != (coef.numel(), coef.numel()):
        got = f"{tuple(coef.shape)} and {tuple(covariance.shape)}"
        raise ValueError(f"expected coefficients of shape {shape} and their covariance, got {got}")
    plain = {name: values[name] for name in _PLAIN}
    log_score = values.get("log_score")
    return Model(
        terms=terms,
        coef=coef,
        covariance=covariance,
        classes=classes,
        second=float(_tensor(values["second"])),
        log_score=None if log_score is None else float(log_score),
        **plain,
    )


def _to_json(values: Any) -> Any:
    """Return nested lists; NaN and None as null, infinities as the texts that `float` reads."""
    if isinstance(values, Tensor) and values.ndim:
        return [_to_json(row) for row in values]
    if values is None or math.isnan(values):
        return None
    return float(values) if math.isfinite(values) else str(float(values))


def _tensor(values: Any) -> Tensor:
    def number(value: Any) -> Any:
        if isinstance(value, list):
            return [number(one) for one in value]
        return math.nan if value is None else float(value)

    return torch.tensor(number(values), dtype=torch.float64)
