"""`nll predict` and `nll score`: a saved regression on other tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nll.cli.options import (
    Decimal,
    Encoding,
    Json,
    Level,
    Missing,
    MissingRows,
    Sep,
    Table,
    Weights,
    dialect_of,
)
from nll.cli.output import require_places, show, write_json
from nll.data.files import replacing

SavedModel = Annotated[
    Path, typer.Argument(help="A model saved by `nll fit --save`.", show_default=False)
]


def predict(
    model: SavedModel,
    table: Table,
    output: Annotated[
        Path | None, typer.Option(help="Write the predictions as CSV or Parquet.")
    ] = None,
    intervals: Annotated[
        bool, typer.Option("--intervals", help="Add confidence intervals.")
    ] = False,
    level: Level = 0.95,
    missing: MissingRows = Missing.error,
    sep: Sep = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
) -> None:
    """Predict every row of a table; rows dropped for missing values get empty predictions.

    For softmax regression: the most probable class and the probability of each class. Otherwise:
    the mean. Exit codes: 0; 2 invalid input.
    """
    require_places([table, model], [output])
    suffix = "" if output is None else output.suffix.lower()
    if output is not None and suffix not in (".csv", ".parquet"):
        raise ValueError(f"expected an output named .csv or .parquet, got {output.name}")
    from nll.cli.tables import read_table
    from nll.regression.saved import load
    from nll.regression.scoring import predict_table

    saved = load(model)
    rows = read_table(table, saved.terms.variables or None, dialect_of(sep, decimal, encoding))
    predictions = predict_table(
        saved, rows, intervals=intervals, level=level, missing=missing.policy
    )
    if output is None:
        return show(predictions.to_csv(index=False))
    with replacing(output) as file:
        if suffix == ".csv":
            predictions.to_csv(file, index=False)
        else:
            predictions.to_parquet(file, index=False)


def score(
    model: SavedModel,
    table: Table,
    weights: Weights = None,
    missing: MissingRows = Missing.error,
    json_file: Json = None,
    sep: Sep = None,
    decimal: Decimal = None,
    encoding: Encoding = None,
) -> None:
    """Score a saved model on new data that includes the response: log score, and for classes
    accuracy and calibration.

    Exit codes: 0; 2 invalid input.
    """
    require_places([table, model], [], json_file)
    from nll.cli import terminal
    from nll.cli.tables import read_table
    from nll.regression.saved import load
    from nll.regression.scoring import score_table

    console = terminal.console(stderr=str(json_file) == "-")
    saved = load(model)
    wanted = [*saved.terms.variables, saved.response, *([weights] if weights else [])]
    rows = read_table(table, list(dict.fromkeys(wanted)), dialect_of(sep, decimal, encoding))
    score = score_table(saved, rows, weights=weights, missing=missing.policy)
    if json_file is not None:
        write_json(score.to_dict(), json_file)
    console.print(str(score), highlight=False, markup=False)
