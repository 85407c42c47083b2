"""A fitted regression in a file of JSON: its terms, coefficients and their covariance. Reading it
runs no code.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nll.data.files import write_text
from nll.data.observations import label
from nll.estimation.inference import wald
from nll.regression.after.predictions import Predictions, Predictor
from nll.regression.formula.regress import Regression
from nll.regression.formula.terms import Terms
from nll.regression.glm import RESPONSES, Response

if TYPE_CHECKING:
    import pandas as pd

_VERSION = 1


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
        """Of each class in each row of a table."""
        return self.predictor.at(self.terms.design(table), level)

    @property
    def _of_numbers(self) -> tuple[Response, Tensor]:
        """The distribution of a response that is a number, and the logarithm of its second
        parameter.
        """
        # what it becomes there
        poisson = self.family == "negative_binomial" and math.isinf(self.second)
        return RESPONSES["poisson" if poisson else self.family], torch.tensor(
            self.second, dtype=torch.float64
        ).log()

    def mean(self, table: pd.DataFrame, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Of a response that is a number: (n), and (n, 2) its interval, by that of the linear
        score.
        """
        x, mean = self.terms.design(table), RESPONSES[self.family].mean
        score = x @ self.coef
        errors = ((x @ self.covariance) * x).sum(1).clamp(min=0).sqrt()
        return mean(score), mean(wald.wald(score, errors, level))

    def log_probabilities(self, table: pd.DataFrame, y: Tensor) -> Tensor:
        """(n): of the numbers y, or their densities. ValueError for the first that the response
        cannot be.
        """
        response, log_second = self._of_numbers
        outside = ~response.inside(y)
        if bool(outside.any()):
            row = int(outside.nonzero()[0])
            got = f"{float(y[row]):.17g} at row {table.index[row]}"
            raise ValueError(f"expected {response.support} in column {self.response!r}, got {got}")
        return response.log_prob(y, self.terms.design(table) @ self.coef, log_second)

    def save(self, path: Path) -> None:
        """Write it. ValueError for what a file of JSON cannot keep."""
        for value in self.classes:
            if not isinstance(value, (str, int, float, bool)):
                raise ValueError(
                    f"expected classes of texts or numbers, got the "
                    f"{type(value).__name__} {value!r}"
                )
        kept = {
            name: getattr(self, name)
            for name in ("family", "response", "baseline", "second", "status", "converged")
        }
        kept |= {"classes": list(self.classes), "terms": self.terms.to_dict()}
        kept |= {name: _plain(getattr(self, name)) for name in ("coef", "covariance")}
        for name in ("second", "log_score"):
            value = getattr(self, name)
            kept[name] = None if value is None else _plain(torch.tensor(value, dtype=torch.float64))
        text = json.dumps({"nll": "model", "version": _VERSION, **kept}, indent=1, allow_nan=False)
        write_text(path, text + "\n")


def load(path: Path) -> Model:
    """Read a model. ValueError for a file that is none, or of a later version."""
    if not path.is_file():
        raise ValueError(
            f"expected a model that `nll fit --save` has written, got no such file: {path}"
        )
    kept: Any = None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        version = kept["version"] if kept["nll"] == "model" else None
    except (ValueError, KeyError, TypeError, RecursionError):
        version = None
    if version is None:
        raise ValueError(
            f"expected a model that `nll fit --save` has written, got another file: {path}"
        )
    if version != _VERSION:
        raise ValueError(f"expected a model of version {_VERSION}, got version {version}: {path}")
    try:
        model = Model(
            terms=Terms.from_dict(kept["terms"]),
            coef=_tensor(kept["coef"]),
            covariance=_tensor(kept["covariance"]),
            classes=tuple(kept["classes"]),
            second=float(_tensor(kept["second"])),
            log_score=None if kept.get("log_score") is None else float(kept["log_score"]),
            **{
                name: kept[name]
                for name in ("family", "response", "baseline", "status", "converged")
            },
        )
        _require_whole(model)
    except KeyError as error:
        raise ValueError(f"expected a whole model in {path}, got one without its {error}") from None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"expected a whole model in {path}, got one that cannot be read: {error}"
        ) from None
    return model


def _require_whole(model: Model) -> None:
    """ValueError for parts of a model that do not fit each other."""
    softmax, columns = model.family == "softmax", len(model.terms.columns)
    if not isinstance(model.second, (int, float, type(None))) or 1e308 < abs(
        model.second or 0
    ) != float("inf"):
        raise ValueError(f"expected a second parameter that is a number, got {model.second!r}")
    if not softmax and model.family not in RESPONSES:
        raise ValueError(
            f"expected a family among softmax, {', '.join(RESPONSES)}, got {model.family!r}"
        )
    for name, kind in (("response", str), ("status", str), ("converged", bool), ("baseline", int)):
        if not isinstance(getattr(model, name), kind):
            raise ValueError(
                f"expected {name} of type {kind.__name__}, got {getattr(model, name)!r}"
            )
    if not all(isinstance(value, (str, int, float, bool)) for value in model.classes):
        raise ValueError(f"expected classes of texts or numbers, got {model.classes}")
    if softmax and not (len(model.classes) >= 2 and 0 <= model.baseline < len(model.classes)):
        raise ValueError(
            f"expected a baseline among at least 2 classes, got {model.baseline} of "
            f"{len(model.classes)}"
        )
    shape = (len(model.classes) - 1, columns) if softmax else (columns,)
    size = model.coef.numel()
    if model.coef.shape != shape or model.covariance.shape != (size, size):
        got = f"{tuple(model.coef.shape)} and {tuple(model.covariance.shape)}"
        raise ValueError(f"expected coefficients of shape {shape} and their covariance, got {got}")


def _plain(values: Tensor) -> Any:
    """Nested lists; NaN as null, infinities as the texts that `float` reads."""
    if values.ndim:
        return [_plain(part) for part in values]
    number = float(values)
    return number if math.isfinite(number) else None if math.isnan(number) else str(number)


def _tensor(values: Any) -> Tensor:
    def number(value: Any) -> Any:
        return (
            [number(part) for part in value]
            if isinstance(value, list)
            else math.nan
            if value is None
            else float(value)
        )

    return torch.tensor(number(values), dtype=torch.float64)
