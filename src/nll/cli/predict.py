"""`nll predict` and `nll score`: a fitted regression on other tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer

from nll.cli import terminal
from nll.cli.fit import Missing
from nll.cli.output import require_places, show, write_json
from nll.cli.tables import Decimal, Encoding, Sep, Table, dialect_of, read_table
from nll.data.classes import of_array
from nll.data.files import replacing
from nll.data.observations import frequencies, label
from nll.regression.after.evaluation import Evaluation, Held, evaluate, is_score_of_fit
from nll.regression.formula import design as designs
from nll.regression.formula.parser import Parsed, parse, variables
from nll.regression.saved import Model, load

Read = Annotated[
    Path, typer.Argument(help="A model that `nll fit --save` has written.", show_default=False)
]
Policy = Annotated[Missing, typer.Option(help="Rows with a missing value: an error, or left out.")]


def predict(
    model: Read,
    table: Table,
    output: Annotated[
        Path | None, typer.Option(help="Write the predictions as CSV or Parquet.")
    ] = None,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="Add the ends of intervals.")
    ] = False,
    level: Annotated[float, typer.Option(min=0.01, max=0.9999, help="Of the intervals.")] = 0.95,
    missing: Policy = Missing.error,
    sep: Sep = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
) -> None:
    """Predict for the rows of a table, in their order; rows that are left out have empty
    predictions.

    Of a softmax regression the most probable class and the probability of each, else the mean. Exit
    codes: 0; 2 the input cannot be used.
    """
    require_places([table, model], [output])
    if output is not None and output.suffix.lower() not in (".csv", ".parquet"):
        raise ValueError(f"expected an output named .csv or .parquet, got {output.name}")
    own = load(model)
    given = read_table(table, own.terms.variables or None, dialect_of(sep, decimal, encoding))
    designs.require_columns(own.terms.variables, [str(name) for name in given.columns])
    complete, _ = designs.complete_rows(given, own.terms.variables, _policy(missing))
    found = _predicted(own, complete, level, intervals).reindex(given.index)
    if output is None:
        return show(found.to_csv(index=False))
    with replacing(output) as file:
        if output.suffix.lower() == ".csv":
            found.to_csv(file, index=False)
        else:
            found.to_parquet(file, index=False)


def score(
    model: Read,
    table: Table,
    weights: Annotated[
        str | None, typer.Option(help="The column of frequencies: how often a row was seen.")
    ] = None,
    missing: Policy = Missing.error,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the result as JSON; - prints it.")
    ] = None,
    sep: Sep = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
) -> None:
    """Hold a model against a table with the response: log-score with its error; of classes
    calibration too.

    Exit codes: 0; 2 the input cannot be used.
    """
    console = terminal.console(stderr=str(json_file) == "-")
    require_places([table, model], [], json_file)
    own = load(model)
    more = [*own.terms.variables, *([weights] if weights else [])]
    given = read_table(
        table, list(dict.fromkeys([*more, own.response])), dialect_of(sep, decimal, encoding)
    )
    formula = None if own.response in given.columns else _computed(own.response)
    used = list(
        dict.fromkeys([*more, *([own.response] if formula is None else variables(formula))])
    )
    designs.require_columns(used, [str(name) for name in given.columns])
    complete, dropped = designs.complete_rows(given, used, _policy(missing))
    if formula is not None:
        complete = designs.with_columns(
            complete, {own.response: designs.computed_response(complete, formula)}
        )
    column = None if weights is None else designs.numbers(complete[weights], weights)
    counted = frequencies(column, len(complete), complete.index.tolist())
    found = _held(own, complete, counted)
    in_sample = is_score_of_fit(
        (found.log_score if isinstance(found, Evaluation) else found).value, own.log_score
    )
    shown = _as_dict(found) | {
        "rows": float(counted.sum()),
        "dropped": dropped,
        "rows_of_the_fit": in_sample,
    }
    if json_file is not None:
        write_json(shown, json_file)
    if isinstance(found, Evaluation):
        console.print(str(found), highlight=False, markup=False)
    else:
        console.print(
            f"Rows         {shown['rows']:.12g}\nLog-score    {found}",
            highlight=False,
            markup=False,
        )
        if in_sample:
            console.print(
                "These are the rows of the fit: others, held out, tell how well it predicts",
                highlight=False,
            )
    if dropped:
        console.print(f"Left out     {dropped} rows with missing values", highlight=False)


def _policy(missing: Missing) -> str:
    return "drop" if missing is Missing.drop else "raise"


def _computed(response: str) -> Parsed | None:
    """The formula of a response that is computed, such as np.log(y); None: it is the name of a
    column.
    """
    try:
        formula = parse(f"{response} ~ 1")
    except ValueError:
        return None
    return None if variables(formula) == [response] else formula


def _predicted(model: Model, table: pd.DataFrame, level: float, intervals: bool) -> pd.DataFrame:
    if model.family != "softmax":
        mean, ends = model.mean(table, level)
        columns = {"mean": mean} | ({"low": ends[:, 0], "high": ends[:, 1]} if intervals else {})
        return pd.DataFrame(
            {name: values.numpy() for name, values in columns.items()}, index=table.index
        )
    found = model.probabilities(table, level)
    best = found.log_odds.argmax(1).numpy()
    columns: dict[str, Any] = {
        "predicted": pd.Series(list(model.classes), dtype=object).iloc[best].to_numpy()
    }
    for k, value in enumerate(model.classes):
        columns[f"probability[{label(value)}]"] = found.probabilities[:, k].numpy()
        if intervals:
            columns[f"low[{label(value)}]"] = found.interval[:, k, 0].numpy()
            columns[f"high[{label(value)}]"] = found.interval[:, k, 1].numpy()
    return pd.DataFrame(columns, index=table.index).infer_objects()


def _held(model: Model, table: pd.DataFrame, weights: torch.Tensor) -> Evaluation | Any:
    """The evaluation of classes, or the log-score of numbers."""
    response = table[model.response]
    if model.family != "softmax":
        y = torch.from_numpy(np.array(designs.numbers(response, model.response), dtype=np.float64))
        seen = weights > 0
        rows = -model.log_probabilities(table.loc[seen.numpy()], y[seen])
        return Held(torch.zeros(len(rows), dtype=torch.int64), weights[seen], False).mean(rows)
    place = {label(value): k for k, value in enumerate(model.classes)}
    values, codes = of_array(response.to_numpy(), model.response)[0]
    number = np.array([place.get(label(value), -1) for value in values], dtype=np.int64)[codes]
    wrong = np.flatnonzero(number < 0)
    if len(wrong):
        got = f"{label(values[codes[wrong[0]]])} at row {response.index[wrong[0]]}"
        raise ValueError(
            f"expected the classes of the fit ({', '.join(place)}) in column {model.response!r}, "
            f"got {got}"
        )
    odds = model.probabilities(table).log_odds
    log_p = torch.nn.functional.logsigmoid(odds)
    return evaluate(
        log_p, torch.from_numpy(number), weights, classes=tuple(place), fitted=model.log_score
    )


def _as_dict(found: Any) -> dict[str, Any]:
    if not isinstance(found, Evaluation):
        return {"log_score": list(found)}
    again = found.recalibration
    return {
        "log_score": list(found.log_score),
        "accuracy": list(found.accuracy),
        "brier": list(found.brier),
        "perplexity": list(found.perplexity),
        "calibration": {
            "slope": [again.slope, again.slope_error],
            "shifts": again.shifts.tolist(),
            "test": again.test._asdict(),
            "status": again.status,
        },
        "classes": list(found.classes),
        "predicted": found.shares[:, 0].tolist(),
        "seen": found.shares[:, 1].tolist(),
    }
