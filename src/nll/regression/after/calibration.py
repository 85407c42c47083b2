"""How well fitted probabilities or means agree with outcomes: confusion and calibration."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_BINS = 10


class Calibration(NamedTuple):
    """Mean prediction and mean outcome in bins of the prediction."""

    name: str
    predicted: np.ndarray
    observed: np.ndarray
    error: np.ndarray  # the standard error of each observed mean


def confusion(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Count (K, K): rows are the observed classes, columns the most probable class."""
    classes = probabilities.shape[1]
    cell = labels * classes + probabilities.argmax(1)
    return np.bincount(cell, weights, classes * classes).reshape(classes, classes)


def calibration(
    name: str, predicted: np.ndarray, seen: np.ndarray, weights: np.ndarray
) -> Calibration:
    """Sort the rows by prediction into at most ten bins of equal weight, and average each."""
    order = np.argsort(predicted, kind="stable")
    predicted, seen, weights = predicted[order], seen[order].astype(np.float64), weights[order]
    middle = weights.cumsum() - weights / 2
    number = np.minimum((middle / weights.sum() * _BINS).astype(int), _BINS - 1)
    total = np.bincount(number, weights, _BINS)
    full = total > 0
    total = total[full]
    mean = np.bincount(number, weights * predicted, _BINS)[full] / total
    outcome = np.bincount(number, weights * seen, _BINS)[full] / total
    centre = np.zeros(_BINS)
    centre[full] = outcome
    variance = np.bincount(number, weights * (seen - centre[number]) ** 2, _BINS)[full] / total
    return Calibration(name, mean, outcome, np.sqrt(variance / total))
