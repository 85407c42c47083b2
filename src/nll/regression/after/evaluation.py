"""How good predicted probabilities are on rows that were not fitted: proper scores with standard
errors, and calibration.

The log-score is the mean negative log-probability of the observed class, in nats; Brier's the mean
of sum_k (p_k - [y = k])^2, from 0 to 2. Both are least, in expectation, for the true probabilities
(Gneiting and Raftery 2007). Standard errors are those of means over independent rows; the
probabilities are taken as given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nll.data.prefetch import blocks
from nll.data.weights import frequencies
from nll.estimation.inference import wald
from nll.regression.after.calibration import Calibration, calibration
from nll.regression.after.recalibration import Recalibration, recalibrate

IN_SAMPLE = "not tested: these are the rows of the fit; hold out others"


class Mean(NamedTuple):
    """A mean over rows with its standard error."""

    value: float
    standard_error: float

    @property
    def p_value(self) -> float:
        """The Wald test of its being 0."""
        z = torch.tensor(self.value / self.standard_error, dtype=torch.float64)
        return float(wald.p_value(z))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Wald's: (low, high)."""
        wald.require_level(level)
        half_width = wald.quantile(level) * self.standard_error
        return self.value - half_width, self.value + half_width

    def __str__(self) -> str:
        return f"{self.value:.6g} ({self.standard_error:.3g})"


class Outcomes(NamedTuple):
    """The outcomes that predictions are compared with."""

    codes: Tensor  # (n)
    weights: Tensor  # (n), above 0
    sampling: bool

    def mean(self, values: Tensor) -> Mean:
        """Return the weighted mean of (n) values.

        A row with the frequency w is w rows: var = sum w (v - m)^2 / (N (N - 1)) with N = sum w.
        One with a sampling weight is one row, and m a ratio: var = n / (n - 1) sum w^2 (v - m)^2 /
        N^2 (Cochran 1977, section 6.4).
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

    # the mean negative log-probability of the observed class; inf where that was impossible
    log_score: Mean
    accuracy: Mean  # the share of rows whose most probable class was observed
    brier: Mean
    recalibration: Recalibration
    calibration: tuple[Calibration, ...]  # for each class: means in bins of the prediction
    shares: Tensor  # (K, 2): the share of each class, predicted and observed
    classes: tuple[str, ...]
    row_scores: Tensor = field(repr=False)  # (n), the negative log-probability of each row's class
    outcomes: Outcomes = field(repr=False)
    # whether these are the very rows of the fit, which say little about others
    in_sample: bool = False

    @property
    def perplexity(self) -> Mean:
        """exp of the log-score; its standard error by the delta method."""
        value = float(torch.tensor(self.log_score.value, dtype=torch.float64).exp())
        return Mean(value, value * self.log_score.standard_error)

    def against(self, other: Evaluation) -> Mean:
        """Return the log-score less that of another model on the same rows, with the standard error
        of the paired difference.

        Below 0: this model is better. Raises ValueError for an evaluation on other rows.
        """
        same = (
            len(self.row_scores) == len(other.row_scores)
            and self.outcomes.sampling == other.outcomes.sampling
        )
        if not (same and all(map(torch.equal, self.outcomes[:2], other.outcomes[:2]))):
            raise ValueError("expected evaluations on the same rows, got other classes or weights")
        return self.outcomes.mean(self.row_scores - other.row_scores)

    def to_pandas(self) -> Any:
        """Return a DataFrame of the calibration: class, mean prediction, observed share and its
        standard error, for each bin.
        """
        import pandas as pd

        names = ["class", "predicted", "observed", "std err"]
        bins = [pd.DataFrame(dict(zip(names, one, strict=True))) for one in self.calibration]
        return pd.concat(bins, ignore_index=True)

    def __str__(self) -> str:
        again = self.recalibration
        slope = again.status
        if again.converged:
            slope = f"{Mean(again.slope, again.slope_error)}; calibrated: {again.test}"
        lines = [
            f"Rows         {float(self.outcomes.weights.sum()):.12g}",
            f"Log-score    {self.log_score}, perplexity {self.perplexity.value:.6g}",
            f"Accuracy     {self.accuracy}",
            f"Brier score  {self.brier}",
            f"Calibration  slope {slope}",
            "",
        ]
        width = max(5, *map(len, self.classes))
        head = ("predicted", "seen", "shift", "std err")
        lines.append(f"{'':{width}}  " + "  ".join(f"{name:>9}" for name in head))
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
    """Compare predicted probabilities with outcomes.

    Args:
        log_probabilities: (n, K); their exponentials add up to 1 in each row.
        codes: (n), from 0 to K - 1.
        weights: (n) frequencies of at least 0; with `sampling`, how many others a row stands for.
        sampling: which of the two.
        classes: (K) names; none: their numbers.
        fitted: the log-score of the rows that the probabilities were fitted to: where it is that of
            these rows, they are the same, and calibration is not tested.

    Raises: ValueError for shapes that do not match, rows that are no probabilities, a code out of
        range, weights that are negative, not finite or all 0.
    """
    log_p, held = _checked(log_probabilities, codes, weights, sampling)
    n, k = log_p.shape
    classes = classes or tuple(map(str, range(k)))
    row_scores = -log_p.gather(1, held.codes[:, None])[:, 0]
    brier, p = torch.empty(n, dtype=torch.float64), log_p.exp()
    for rows in blocks(n, 2 * k):
        seen = torch.nn.functional.one_hot(held.codes[rows], k)
        brier[rows] = (p[rows] - seen).square().sum(1)
    seen = torch.bincount(held.codes, held.weights, k)
    observed, w = held.codes.numpy(), held.weights.numpy()
    log_score, again = held.mean(row_scores), recalibrate(log_p, *held)
    in_sample = is_score_of_fit(log_score.value, fitted)
    if in_sample:
        untested = again.test._replace(statistic=math.nan, p_value=math.nan)
        again = again._replace(test=untested, status=IN_SAMPLE, converged=False)
    return Evaluation(
        log_score=log_score,
        accuracy=held.mean((log_p.argmax(1) == held.codes).double()),
        brier=held.mean(brier),
        recalibration=again,
        calibration=tuple(
            calibration(name, p[:, j].numpy(), observed == j, w) for j, name in enumerate(classes)
        ),
        shares=torch.stack([held.weights @ p, seen], 1) / held.weights.sum(),
        classes=classes,
        row_scores=row_scores,
        outcomes=held,
        in_sample=in_sample,
    )


def is_score_of_fit(score: float, fitted: float | None) -> bool:
    """Whether rows with this log-score are those of a fit (or each of them as often): no others
    come so near.
    """
    return fitted is not None and math.isclose(score, fitted, rel_tol=1e-10, abs_tol=1e-14)


def _checked(
    log_p: Tensor, codes: Tensor, weights: Tensor | None, sampling: bool
) -> tuple[Tensor, Outcomes]:
    if log_p.ndim != 2 or codes.shape != log_p.shape[:1]:
        raise ValueError(
            f"expected log-probabilities (n, K) and codes (n), got {tuple(log_p.shape)} and "
            f"{tuple(codes.shape)}"
        )
    w = frequencies(weights, len(codes))
    wrong = ((codes < 0) | (codes >= log_p.shape[1])).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"expected codes from 0 to {log_p.shape[1] - 1}, got {int(codes[row])} at row {row}"
        )
    wrong = (~(log_p.logsumexp(1).abs() < 1e-6)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"expected log-probabilities whose exponentials add up to 1, got "
            f"{float(log_p[row].exp().sum()):.9g} at row {row}"
        )
    seen = w > 0
    return log_p[seen].double(), Outcomes(codes[seen], w[seen], sampling)
