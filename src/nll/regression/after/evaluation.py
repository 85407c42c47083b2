"""How good predicted probabilities are on rows that were not fitted: proper scores with errors, and
calibration.

The log-score is the mean negative log-probability of what was seen, in nats; Brier's the mean of
sum_k (p_k - [y = k])^2, from 0 to 2. Both are least, in expectation, for the true probabilities
(Gneiting and Raftery 2007). Errors are those of means over independent rows; the probabilities are
taken as given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nll.data.prefetch import blocks
from nll.estimation.inference import wald
from nll.regression.after import calibration as assess
from nll.regression.after.recalibration import Recalibration, recalibrate

IN_SAMPLE = "not tested: these are the rows of the fit; hold out others"


class Mean(NamedTuple):
    """A mean over rows with its standard error."""

    value: float
    standard_error: float

    @property
    def p_value(self) -> float:
        """Of the Wald test that it is 0."""
        return float(
            wald.p_value(torch.tensor(self.value / self.standard_error, dtype=torch.float64))
        )

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Wald's: (low, high)."""
        wald.require_level(level)
        reach = wald.quantile(level) * self.standard_error
        return self.value - reach, self.value + reach

    def __str__(self) -> str:
        """The value, and the error in brackets."""
        return f"{self.value:.6g} ({self.standard_error:.3g})"


class Held(NamedTuple):
    """The rows that probabilities were held against."""

    codes: Tensor  # (n)
    weights: Tensor  # (n), above 0
    sampling: bool

    def mean(self, values: Tensor) -> Mean:
        """The weighted mean of (n) values.

        A row with the frequency w is w rows: var = sum w (v - m)^2 / (N (N - 1)) with N = sum w.
            One with a sampling
        weight is one row, and m a ratio: var = n / (n - 1) sum w^2 (v - m)^2 / N^2 (Cochran 1977,
            section 6.4).
        """
        w, n = self.weights, len(values)
        total = float(w.sum())
        value = float(w @ values) / total
        if not math.isfinite(value):
            return Mean(value, math.nan)
        away = (values - value).square()
        if self.sampling:
            variance = float(w.square() @ away) / total**2 * n / (n - 1) if n > 1 else math.nan
        else:
            variance = float(w @ away) / (total * (total - 1)) if total > 1 else math.nan
        return Mean(value, math.sqrt(variance))


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Scores of predicted probabilities on held-out rows, and whether they are calibrated."""

    # the mean negative log-probability of the class that was seen; inf where that was impossible
    log_score: Mean
    accuracy: Mean  # the share of rows whose most probable class was seen
    brier: Mean
    recalibration: Recalibration
    calibration: tuple[assess.Calibration, ...]  # for each class: means in bins of the prediction
    shares: Tensor  # (K, 2): the share of each class, predicted and seen
    classes: tuple[str, ...]
    row_scores: Tensor = field(repr=False)  # (n), the negative log-probability of each row's class
    held: Held = field(repr=False)
    # whether these are the very rows of the fit, which say little of others
    in_sample: bool = False

    @property
    def perplexity(self) -> Mean:
        """exp of the log-score; its error by the delta method."""
        value = float(torch.tensor(self.log_score.value, dtype=torch.float64).exp())
        return Mean(value, value * self.log_score.standard_error)

    def against(self, other: Evaluation) -> Mean:
        """The log-score less that of another model on the same rows, with the error of the paired
        difference.

        Below 0: this model is better. Raises ValueError for an evaluation on other rows.
        """
        same = (
            len(self.row_scores) == len(other.row_scores)
            and self.held.sampling == other.held.sampling
        )
        if not (same and all(map(torch.equal, self.held[:2], other.held[:2]))):
            raise ValueError("expected evaluations on the same rows, got other classes or weights")
        return self.held.mean(self.row_scores - other.row_scores)

    def to_pandas(self) -> Any:
        """A DataFrame of the calibration: class, mean prediction, share seen and its error, for
        each bin.
        """
        import pandas as pd

        parts = [
            pd.DataFrame(
                {
                    "class": c.name,
                    "predicted": c.predicted,
                    "observed": c.observed,
                    "std err": c.error,
                }
            )
            for c in self.calibration
        ]
        return pd.concat(parts, ignore_index=True)

    def __str__(self) -> str:
        """A table of the scores, then one of the classes."""
        again = self.recalibration
        slope = again.status
        if self.in_sample:
            slope = IN_SAMPLE
        elif math.isfinite(again.slope):
            slope = f"{Mean(again.slope, again.slope_error)}; calibrated: {again.test}"
        lines = [
            f"Rows         {float(self.held.weights.sum()):.12g}",
            f"Log-score    {self.log_score}, perplexity {self.perplexity.value:.6g}",
            f"Accuracy     {self.accuracy}",
            f"Brier score  {self.brier}",
            f"Calibration  slope {slope}",
            "",
        ]
        width = max(5, *map(len, self.classes))
        lines.append(f"{'':{width}}  {'predicted':>9}  {'seen':>9}  {'shift':>9}  {'std err':>9}")
        numbers = torch.cat([self.shares, again.shifts[:, None], again.shift_errors[:, None]], 1)
        for name, row in zip(self.classes, numbers.tolist(), strict=True):
            lines.append(f"{name:{width}}  " + "  ".join(f"{value:9.4g}" for value in row))
        return "\n".join(lines)


def evaluate(
    log_probabilities: Tensor,  # (n, K) float64
    codes: Tensor,  # (n) int64, the class of each row
    weights: Tensor | None = None,  # (n); None: each row counts once
    *,
    sampling: bool = False,
    classes: tuple[str, ...] = (),
    fitted: float | None = None,
) -> Evaluation:
    """Hold predicted probabilities against what was seen.

    Args:
        log_probabilities: (n, K); their exponentials add up to 1 in each row.
        codes: (n), from 0 to K - 1.
        weights: (n) frequencies of at least 0; with `sampling`, how many others a row stands for.
        sampling: which of the two.
        classes: (K) names; none: their numbers.
        fitted: the log-score of the rows that the probabilities were fitted to: where it is that of
            these rows, they are the same, and calibration is not tested.

    Raises: ValueError for shapes that do not go together, rows that are no probabilities, a code
        out of range, weights that are negative, not finite or all 0.
    """
    log_p, held = _checked(log_probabilities, codes, weights, sampling)
    n, k = log_p.shape
    classes = classes or tuple(map(str, range(k)))
    own = -log_p.gather(1, held.codes[:, None])[:, 0]
    brier, p = torch.empty(n, dtype=torch.float64), log_p.exp()
    for rows in blocks(n, 2 * k):
        seen = torch.nn.functional.one_hot(held.codes[rows], k)
        brier[rows] = (p[rows] - seen).square().sum(1)
    seen = torch.bincount(held.codes, held.weights, k)
    numbers = held.codes.numpy(), held.weights.numpy()
    log_score, again = held.mean(own), recalibrate(log_p, *held)
    in_sample = is_score_of_fit(log_score.value, fitted)
    if in_sample:
        again = again._replace(
            test=again.test._replace(statistic=math.nan, p_value=math.nan), status=IN_SAMPLE
        )
    return Evaluation(
        log_score=log_score,
        accuracy=held.mean((log_p.argmax(1) == held.codes).double()),
        brier=held.mean(brier),
        recalibration=again,
        calibration=tuple(
            assess.calibration(name, p[:, j].numpy(), numbers[0] == j, numbers[1])
            for j, name in enumerate(classes)
        ),
        shares=torch.stack([held.weights @ p, seen], 1) / held.weights.sum(),
        classes=classes,
        row_scores=own,
        held=held,
        in_sample=in_sample,
    )


def is_score_of_fit(score: float, fitted: float | None) -> bool:
    """Whether rows with this log-score are those of a fit (or each of them as often): others do not
    come so near.
    """
    return fitted is not None and math.isclose(score, fitted, rel_tol=1e-10, abs_tol=1e-14)


def _checked(
    log_p: Tensor, codes: Tensor, weights: Tensor | None, sampling: bool
) -> tuple[Tensor, Held]:
    """The rows that count."""
    if log_p.ndim != 2 or codes.shape != log_p.shape[:1]:
        raise ValueError(
            f"expected log-probabilities (n, K) and codes (n), got {tuple(log_p.shape)} and "
            f"{tuple(codes.shape)}"
        )
    weights = torch.ones(len(codes), dtype=torch.float64) if weights is None else weights.double()
    if weights.shape != codes.shape:
        raise ValueError(f"expected {len(codes)} weights, got shape {tuple(weights.shape)}")
    wrong = ~((weights >= 0) & weights.isfinite())
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"expected finite weights of at least 0, got {float(weights[row])} at row {row}"
        )
    if not bool((weights > 0).any()):
        raise ValueError("expected at least one row with a weight above 0, got none")
    wrong = (codes < 0) | (codes >= log_p.shape[1])
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"expected codes from 0 to {log_p.shape[1] - 1}, got {int(codes[row])} at row {row}"
        )
    wrong = ~(log_p.logsumexp(1).abs() < 1e-6)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        total = float(log_p[row].exp().sum())
        raise ValueError(
            f"expected log-probabilities whose exponentials add up to 1, got "
            f"{total:.9g} at row {row}"
        )
    seen = weights > 0
    return log_p[seen].double(), Held(codes[seen], weights[seen], sampling)
