"""Tables for `nll fit`, and the command as a function."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from truth import spector
from typer.testing import CliRunner, Result

from nll.cli.app import app

ROWS = 60


def tables() -> pd.DataFrame:
    """One column for each thing that a column can be."""
    draw = np.random.default_rng(0)
    x, z = draw.normal(size=(2, ROWS))
    noise = draw.normal(size=ROWS)
    return pd.DataFrame(
        {
            "kind": np.array(["ash", "birch", "oak"])[np.digitize(x + 2 * noise, [-0.7, 0.7])],
            "x": x,
            "z": z,
            "g": draw.choice(["u", "v"], ROWS),
            "count": draw.poisson(np.exp(0.3 * x + 0.5 * noise + 1)),
            "won": (x + 2 * noise > 0).astype(int),
            "y": 2 * x - z + noise,
            "pos": draw.random(ROWS) + 0.1,
            "w": draw.integers(0, 3, ROWS),
            "two words": draw.normal(size=ROWS),
            "größe": draw.normal(size=ROWS),
            "same": 1.5,
            "only": "q",
            "negative": [-2] + [1] * (ROWS - 1),
            "texts": ["high"] + [str(n) for n in range(ROWS - 1)],
            "gap": [np.nan, np.nan, *z[2:]],
            "hole": ["u", None, *draw.choice(["u", "v"], ROWS - 2)],
            "apart": (np.arange(ROWS) > 30).astype(int),
            "order": np.arange(ROWS),
            "huge": [2**61] * 30 + [2**62] * 30,
        }
    )


def write_files(folder: Path) -> Path:
    """Fill a folder with files that can be read, and with some that cannot."""
    table = tables()
    table.to_csv(folder / "t.csv", index=False)
    table.to_csv(folder / "t.tsv.gz", index=False, sep="\t")
    table.to_parquet(folder / "t.parquet")
    spector().to_csv(folder / "spector.csv", index=False)
    (folder / "folder.csv").mkdir()
    (folder / "empty.csv").touch()
    (folder / "header.csv").write_text("y,x\n")
    (folder / "twice.csv").write_text("y,y\n1,2\n")
    (folder / "ragged.csv").write_text("y,x\n1,2\n3\n")
    (folder / "latin.csv").write_bytes("größe,x\n1,2\n".encode("latin-1"))
    (folder / "broken.parquet").write_text("no")
    (folder / "table.xlsx").touch()
    (folder / "rows.csv").write_text("x,k,w\n,1,1\n1,2,1\n2,3,1\n3,-4,1\n4,5,-6\n5,6,1\n")
    return folder


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["fit", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def fitted(*arguments: str, code: int = 0) -> dict:
    """The JSON of a fit, which goes to the output alone."""
    result = run(*arguments, "--json", "-")
    assert result.exit_code == code, result.stderr
    return json.loads(result.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
