"""A saved regression on other tables: its predictions, and how good they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from nll.data.classes import label, of_array
from nll.data.weights import frequencies
from nll.regression.after.evaluation import Evaluation, Mean, Outcomes, evaluate, is_score_of_fit
from nll.regression.formula import design as designs
from nll.regression.formula.parser import parse, variables
from nll.regression.saved import Model


def predict_table(
    model: Model,
    table: pd.DataFrame,
    *,
    intervals: bool = False,
    level: float = 0.95,
    missing: str = "raise",
) -> pd.DataFrame:
    """Return a row of predictions for each row of a table; those of incomplete rows are empty.

    The columns are the most probable class and the probability of each class, or the mean; with
    `intervals`, also the ends of their intervals.

    Raises: ValueError for a missing column, or missing values unless `missing` is "drop".
    """
    designs.require_columns(model.terms.variables, [str(name) for name in table.columns])
    complete, _ = designs.complete_rows(table, model.terms.variables, missing)
    if model.family == "softmax":
        columns = _class_predictions(model, complete, level, intervals)
    else:
        mean, ends = model.mean(complete, level)
        columns = {"mean": mean}
        if intervals:
            columns |= {"low": ends[:, 0], "high": ends[:, 1]}
    predictions = pd.DataFrame(
        {name: np.asarray(values) for name, values in columns.items()}, index=complete.index
    )
    return predictions.infer_objects().reindex(table.index)


def _class_predictions(
    model: Model, table: pd.DataFrame, level: float, intervals: bool
) -> dict[str, Any]:
    predictions = model.probabilities(table, level)
    best = predictions.log_odds.argmax(1).numpy()
    columns: dict[str, Any] = {
        "predicted": pd.Series(list(model.classes), dtype=object).iloc[best].to_numpy()
    }
    for k, name in enumerate(map(label, model.classes)):
        columns[f"probability[{name}]"] = predictions.probabilities[:, k]
        if intervals:
            columns[f"low[{name}]"] = predictions.interval[:, k, 0]
            columns[f"high[{name}]"] = predictions.interval[:, k, 1]
    return columns


@dataclass(frozen=True)
class Score:
    """How well a model predicts the responses of a table."""

    log_score: Mean
    rows: float  # by frequency
    dropped: int
    in_sample: bool  # whether these are the rows of the fit
    evaluation: Evaluation | None = None  # of classes

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain Python values."""
        rows = {"rows": self.rows, "dropped": self.dropped, "rows_of_the_fit": self.in_sample}
        evaluation = self.evaluation
        if evaluation is None:
            return {"log_score": list(self.log_score), **rows}
        scores = {
            name: list(getattr(evaluation, name))
            for name in ("log_score", "accuracy", "brier", "perplexity")
        }
        again = evaluation.recalibration
        calibration = {
            "slope": [again.slope, again.slope_error],
            "shifts": again.shifts.tolist(),
            "test": again.test._asdict(),
            "status": again.status,
        }
        predicted, seen = evaluation.shares.T.tolist()
        classes = {"classes": list(evaluation.classes), "predicted": predicted, "seen": seen}
        return {**scores, "calibration": calibration, **classes, **rows}

    def __str__(self) -> str:
        lines = [str(self.evaluation)]
        if self.evaluation is None:
            lines = [f"Rows         {self.rows:.12g}", f"Log-score    {self.log_score}"]
            if self.in_sample:
                lines.append("These are the rows of the fit; score held-out rows instead.")
        if self.dropped:
            lines.append(f"Dropped      {self.dropped} rows with missing values")
        return "\n".join(lines)


def score_table(
    model: Model, table: pd.DataFrame, *, weights: str | None = None, missing: str = "raise"
) -> Score:
    """Score the predictions for a table that has the response.

    Raises: ValueError for a missing column, missing values unless `missing` is "drop", or a
        response that the model cannot predict, such as a class that the fit has not seen.
    """
    formula = None if model.response in table.columns else _computed(model.response)
    responses = [model.response] if formula is None else variables(formula)
    counts = [] if weights is None else [weights]
    used = list(dict.fromkeys([*model.terms.variables, *counts, *responses]))
    designs.require_columns(used, [str(name) for name in table.columns])
    complete, dropped = designs.complete_rows(table, used, missing)
    if formula is not None:
        response = designs.computed_response(complete, formula)
        complete = designs.with_columns(complete, {model.response: response})
    column = None if weights is None else designs.numbers(complete[weights], weights)
    counted = frequencies(column, len(complete), complete.index.tolist())
    evaluation = None
    if model.family == "softmax":
        evaluation = _evaluate_classes(model, complete, counted)
        log_score = evaluation.log_score
    else:
        log_score = _score_numbers(model, complete, counted)
    in_sample = is_score_of_fit(log_score.value, model.log_score)
    return Score(log_score, float(counted.sum()), dropped, in_sample, evaluation)


def _computed(response: str) -> Any:
    """Return the formula of a computed response, such as np.log(y); None for a column's name."""
    try:
        formula = parse(f"{response} ~ 1")
    except ValueError:
        return None
    return None if variables(formula) == [response] else formula


def _score_numbers(model: Model, table: pd.DataFrame, weights: Tensor) -> Mean:
    response = designs.numbers(table[model.response], model.response)
    y = torch.from_numpy(np.array(response, dtype=np.float64))
    seen = weights > 0
    losses = -model.log_probabilities(table.loc[seen.numpy()], y[seen])
    return Outcomes(torch.zeros(len(losses), dtype=torch.int64), weights[seen], False).mean(losses)


def _evaluate_classes(model: Model, table: pd.DataFrame, weights: Tensor) -> Evaluation:
    response = table[model.response]
    code = {label(value): k for k, value in enumerate(model.classes)}
    values, places = of_array(response.to_numpy(), model.response)[0]
    codes = np.array([code.get(label(value), -1) for value in values], dtype=np.int64)[places]
    if (codes < 0).any():
        row = int(np.flatnonzero(codes < 0)[0])
        raise ValueError(
            f"expected the classes of the fit ({', '.join(code)}) in column {model.response!r}, "
            f"got {label(values[places[row]])} at row {response.index[row]}"
        )
    log_p = torch.nn.functional.logsigmoid(model.probabilities(table).log_odds)
    return evaluate(
        log_p, torch.from_numpy(codes), weights, classes=tuple(code), fitted=model.log_score
    )
