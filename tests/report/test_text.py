"""The summary as text, pinned by files that a reader can look at.

`PYTHONPATH=tests python tests/report/test_text.py` writes them anew.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import truth
from torch.distributions import Categorical, Normal, Poisson

from nll import Fit, SoftmaxRegression, fit
from nll.report.text import summary

GOLDEN = Path(__file__).parents[1] / "golden" / "report"


def spector() -> Fit:
    table = truth.spector()
    found = (
        SoftmaxRegression().fit(table[list(truth.SPECTOR.columns)], table.GRADE.astype(int)).result_
    )
    return replace(found, decrement=1.5e-28)  # a rounding error, which differs between machines


FITS = {
    "spector": spector,
    "normal": lambda: fit(Normal, [4.1, 3.9, 5.2, 4.4, 4.6]),
    "categories": lambda: fit(Categorical, ["pear", "fig", "pear", None, "apple"], missing="drop"),
    "boundary": lambda: fit(Poisson, [0, 0, 0]),
    "no_maximum": lambda: fit(Normal, [2.0, 2.0]),
}


@pytest.mark.parametrize("name", FITS)
def test_golden(name):
    assert FITS[name]().summary() + "\n" == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("level", "low", "high"), [(0.95, "[0.025", "0.975]"), (0.9, "[0.05", "0.95]")]
)
def test_level(level, low, high):
    result = fit(Normal, [4.1, 3.9, 5.2])
    text = summary(result, level)
    assert low in text
    assert high in text
    for end in result.interval(level)["loc"].tolist():
        assert f"{end:.6g}" in text


def test_long_names_and_sentences_do_not_break_the_table():
    result = replace(fit(Normal, [1.0, 2.0]), status="word " * 60, response="r" * 90)
    lines = result.summary().splitlines()
    assert max(map(len, lines)) <= 96
    assert sum("word" in line for line in lines) > 1
    table = lines[lines.index("") :]
    assert len({len(line) for line in table if line.startswith(("loc", "scale", "-"))}) == 1


if __name__ == "__main__":
    for name, make in FITS.items():
        (GOLDEN / f"{name}.txt").write_text(make().summary() + "\n", encoding="utf-8")
