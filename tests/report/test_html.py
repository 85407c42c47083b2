"""The page: whole in itself, complete, and safe to open whatever the classes are called."""

from __future__ import annotations

import html
import re
from functools import cache
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from torch import distributions as td
from truth import SPECTOR, spector

from nll import SoftmaxRegression, fit
from nll.regression.after.calibration import calibration, confusion
from nll.report import plots, table
from nll.report.html import page

EVIL = "<script>alert('1')</script>"


class Reader(HTMLParser):
    """The tags, what they refer to, and the text of the cells."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.links, self.cells, self._inside = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [
            value
            for name, value in attributes
            if name in ("src", "href", "xlink:href", "srcset", "data")
        ]
        self._inside = tag in ("td", "th", "dt", "dd", "h1", "h2", "h3", "title")
        if self._inside:
            self.cells.append("")

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.cells[-1] += data


@cache
def regression_page(names=("no", "yes"), **options) -> tuple:
    data = spector()
    labels = np.array(names, dtype=object)[data.GRADE.astype(int)]
    model = SoftmaxRegression().fit(data[list(SPECTOR.columns)], pd.Series(labels, name="grade"))
    probabilities = model.predict_proba(data[list(SPECTOR.columns)])
    codes = np.searchsorted(model.classes_, labels.astype(str))
    text = page(
        model.result_,
        title="Spector",
        classes=list(model.classes_),
        confusion=confusion(codes, probabilities, np.ones(32)),
        calibration=[
            calibration(name, probabilities[:, k], codes == k, np.ones(32))
            for k, name in enumerate(model.classes_)
        ],
        **options,
    )
    return model.result_, text


@cache
def normal_page() -> tuple:
    result = fit(td.Normal, [1.0, 2.5, 4.0])
    return result, page(result, title="Three numbers", distribution=result.plot("distribution"))


@pytest.mark.parametrize("make", [regression_page, normal_page])
def test_one_file_and_nothing_from_elsewhere(make):
    _, text = make()
    reader = Reader(text)
    assert text.startswith("<!doctype html>")
    assert all(link.startswith("#") for link in reader.links)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & set(
        reader.tags
    )
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", text))


@pytest.mark.parametrize("make", [regression_page, normal_page])
def test_the_whole_table_is_there(make):
    result, text = make()
    cells = Reader(text).cells
    for name, value in table.header(result):
        assert cells[cells.index(name) + 1] == value
    for group in table.groups(result):
        for row in group.rows:
            start = cells.index(row[0])
            assert cells[start : start + len(row)] == row


def test_the_confusion_matrix():
    """11 of 32 improved; 18 + 8 are on the diagonal at even odds."""
    cells = Reader(regression_page()[1]).cells
    start = cells.index("observed \\ predicted")
    assert cells[start : start + 15] == [
        "observed \\ predicted", "no", "yes", "total", "recall",
        "no", "18", "3", "21", "85.7%",
        "yes", "3", "8", "11", "72.7%",
    ]  # fmt: skip
    assert "81.2% of the observations" in regression_page()[1]


def test_pictures():
    assert Reader(regression_page()[1]).tags.count("svg") == 2
    assert Reader(normal_page()[1]).tags.count("svg") == 2
    boundary = fit(td.Poisson, [0, 0])
    assert Reader(page(boundary, title="")).tags.count("svg") == 0


def test_sections_that_have_nothing_to_show_are_left_out():
    cells = Reader(page(fit(td.Poisson, [0, 0]), title="zeros")).cells
    assert not {"Confusion matrix", "Calibration", "The likelihood along each parameter"} & set(
        cells
    )


def test_names_are_text_and_no_markup():
    _, text = regression_page((EVIL, "&amp;"))
    reader = Reader(text)
    assert "script" not in reader.tags
    assert EVIL in reader.cells
    assert "&amp;" in reader.cells
    assert html.escape(EVIL, quote=False)[:11] in text
    titled = page(fit(td.Normal, [1.0, 2.0]), title=EVIL)
    assert "script" not in Reader(titled).tags
    assert Reader(titled).cells[0] == EVIL


def test_an_unfinished_fit_is_marked():
    text = page(fit(td.Normal, [2.0, 2.0]), title="")
    assert '<dd class="no">NO</dd>' in text
    assert 'class="no"' not in normal_page()[1]


def test_level():
    result, text = regression_page(level=0.8)
    cells = Reader(text).cells
    assert "[0.1" in cells
    assert f"{float(result.interval(0.8)['coef'][0, 1, 0]):.6g}" in cells


def test_how_many_parameters_are_drawn_is_said(monkeypatch):
    result, text = regression_page()
    assert "parameters with a standard error" not in text
    everything = plots.likelihood_curves
    monkeypatch.setattr(
        plots, "likelihood_curves", lambda fit, level, **more: everything(fit, level, most=3)
    )
    assert "Shown are the first 3 of 4 parameters with a standard error." in page(result, title="")
