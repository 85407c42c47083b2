"""Choices that cannot be used, and wide tables as long ones."""

import numpy as np
import pandas as pd
import pytest
from choices import LONG, draw, longer, travel

import nll
from nll import ConditionalLogit


def test_wide_tables_become_long_ones():
    table = pd.DataFrame(
        {
            "mode": ["car", "bus", "car"],
            "car_cost": [3.0, 5.0, 2.0],
            "bus_cost": [1.0, 1.0, np.nan],
            "age": [30, 40, 50],
        }
    )
    attributes = {"cost": {"car": "car_cost", "bus": "bus_cost"}}
    long = nll.choices_long(table, attributes, "mode", individual=["age"])
    assert long["case"].tolist() == [0, 0, 1, 1, 2]
    assert long["alternative"].tolist() == ["car", "bus", "car", "bus", "car"]
    assert long["chosen"].tolist() == [1, 0, 0, 1, 1]
    assert long["cost"].tolist() == [3.0, 1.0, 5.0, 1.0, 2.0]
    assert long["age"].tolist() == [30, 30, 40, 40, 50]
    with pytest.raises(ValueError, match="got none of 'bus' in case 2"):
        nll.choices_long(table.assign(mode="bus"), attributes, "mode")
    with pytest.raises(ValueError, match=r"expected one of car, bus in 'mode', got 'train'"):
        nll.choices_long(table.assign(mode=["train", "car", "car"]), attributes, "mode")
    with pytest.raises(
        ValueError, match="expected a column of 'cost' for each alternative, got none for 'bus'"
    ):
        nll.choices_long(
            table, {"time": {"bus": "age", "car": "age"}, "cost": {"car": "car_cost"}}, "mode"
        )
    with pytest.raises(ValueError, match="got 'fee'"):
        nll.choices_long(table, {"cost": {"car": "fee", "bus": "bus_cost"}}, "mode")


def row_changed(table, row, column, value):
    table = table.copy()
    table.loc[row, column] = value
    return table


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            lambda t: row_changed(t, 0, "choice", 1.0),
            {},
            "one chosen alternative among those of each case, got 2 in case 1",
        ),
        (
            lambda t: row_changed(t, 3, "choice", 0.0),
            {},
            "one chosen alternative among those of each case, got 0 in case 1",
        ),
        (
            lambda t: row_changed(t, 3, "choice", 2.0),
            {},
            r"expected 0 or 1 in y .* got .*2.0.* at "
            r"row 3",
        ),
        (lambda t: row_changed(t, 3, "alt", "bus"), {}, "got bus twice in case 1"),
        (
            lambda t: row_changed(t, 3, "alt", None),
            {},
            "alternative labels in every row, got none at row 3",
        ),
        (
            lambda t: row_changed(t, 5, "gc", np.nan),
            {},
            "finite values in X, got NaN at row 5 of column 'gc'",
        ),
        (lambda t: t.assign(gc="much"), {}, "expected numbers in X"),
        (lambda t: t.assign(fare=1.0), {}, "vary within a case, got 'fare'"),
        (lambda t: t.assign(hinc=travel_income(t)), {}, "vary within a case, got 'hinc'"),
        (lambda t: t.assign(both=t.gc + t.ttme), {}, "within every case"),
        (
            lambda t: t,
            {"individual": ["gc"]},
            "individual column 'gc' to be the same in all rows of a case",
        ),
        (
            lambda t: t,
            {"specific": ["cost"]},
            "expected one of the columns gc, ttme, hinc_air, got 'cost'",
        ),
        (lambda t: t, {"baseline": "boat"}, "boat"),
        (lambda t: t, {"alpha": -1.0}, "expected a finite alpha"),
        (lambda t: t, {"covariance": "opg"}, "expected covariance to be one of"),
    ],
)
def test_choices_that_cannot_be_used(change, options, message):
    with pytest.raises(ValueError, match=message):
        ConditionalLogit(**options).fit(change(travel()), "choice", **LONG)


def travel_income(table):
    return table["individual"] * 1.5


def test_arguments_that_cannot_be_used():
    x, y, available = draw(20, seed=14)
    fit = ConditionalLogit().fit
    with pytest.raises(ValueError, match="expected case and alternative with rows of X"):
        fit(x[:, 0], y)
    with pytest.raises(ValueError, match="no case and no alternative with X of three dimensions"):
        fit(x, y, case=np.arange(20))
    with pytest.raises(ValueError, match="available as a mask of shape"):
        fit(x, y, available=available[:, :2])
    with pytest.raises(ValueError, match="expected choices from 0 to 3, got 4 in case 0"):
        fit(x, np.full(20, 4))
    closed = available.copy()
    closed[5, y[5]] = False
    with pytest.raises(
        ValueError,
        match=r"(among those of each case, got 0 in case 5)|(available alternative in each case)",
    ):
        fit(x, y, available=closed)
    with pytest.raises(ValueError, match=r"expected an offset of shape \(20, 4\), got \(20, 3\)"):
        fit(x, y, offset=np.zeros((20, 3)))
    with pytest.raises(ValueError, match="expected 20 choices in y, one for each case"):
        fit(x, y[:5])
    with pytest.raises(TypeError, match="expected specific as a list"):
        ConditionalLogit(specific="x0").fit(x, y)
    rows, marks, case, alternative = longer(x, y, available)
    model = ConditionalLogit(alpha=1.0).fit(rows, marks, case=case, alternative=alternative)
    with pytest.raises(ValueError, match="expected the alternatives of the fit, got 9"):
        model.predict_proba(rows, case=case, alternative=np.where(alternative == 3, 9, alternative))
    with pytest.raises(ValueError, match="weights to be the same in all rows of a case"):
        ConditionalLogit().fit(
            rows,
            marks,
            case=case,
            alternative=alternative,
            sample_weight=np.arange(len(rows)) + 1.0,
        )
