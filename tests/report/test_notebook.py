"""What a notebook shows of a fit."""

from __future__ import annotations

from xml.etree import ElementTree

from torch import distributions as td
from truth import anes96

from nll import SoftmaxRegression, fit
from nll.report import table


def cells(text: str) -> list[str]:
    root = ElementTree.fromstring(text)
    return ["".join(cell.itertext()) for cell in root.iter() if cell.tag in ("td", "th", "caption")]


def test_the_whole_table_is_there():
    data = anes96()
    for found in (
        fit(td.Normal, [1.0, 2.0, 4.0]),
        SoftmaxRegression().fit(data[["age"]], data.PID).result_,
    ):
        shown = cells(found._repr_html_())
        for name, value in table.header(found):
            assert shown[shown.index(name) + 1] == value
        for group in table.groups(found):
            for row in group.rows:
                assert row[1] in shown


def test_an_alarm_is_bold_and_names_are_escaped():
    assert "<b>NO</b>" in fit(td.Normal, [1.0, 1.0])._repr_html_()
    text = fit(td.Categorical, ["<script>", "a&b"])._repr_html_()
    assert "<script>" not in text
    assert "probs[<script>]" in cells(text)
