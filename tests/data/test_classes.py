"""Classes of any type as numbers."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import pytest

from nll.data.classes import (
    as_array,
    cluster_codes,
    coded,
    in_order,
    label,
    label_codes,
    of_array,
)


@pytest.mark.parametrize(
    "y", [[3, 1, 3], [2**62, -(2**62), 2**62], ["b", "a", "b"], [2.5, 1.5, 2.5]]
)
def test_classes_are_sorted_and_numbered(y):
    values, codes = coded(np.array(y))
    assert values == sorted(set(y))
    assert [values[code] for code in codes] == y


def test_small_integers_do_not_overflow():
    assert coded(np.array([-128, 127], dtype=np.int8)).codes.tolist() == [0, 1]


def test_values_become_those_of_python_and_what_is_missing_has_a_mask():
    (values, codes), present = of_array(np.array([2.0, np.nan, 1.0]), "y")
    assert [values[code] for code in codes[present]] == [2, 1]
    assert all(type(value) is int for value in values)
    days = np.array(["2020-01-02", "2020-01-01"], dtype="M8[D]")
    assert of_array(days, "y")[0].values == [dt.date(2020, 1, 1), dt.date(2020, 1, 2)]
    mixed = of_array(np.array([True, 1, Decimal(1)], dtype=object), "y")[0]
    assert (mixed.values, mixed.codes.tolist()) == ([True, 1, 1], [0, 1, 2])
    with pytest.raises(TypeError, match="expected classes of one type, got bool and int"):
        in_order(mixed)


@pytest.mark.parametrize(
    ("y", "got"),
    [
        (np.array([1.5]), "the measurement 1.5"),
        (np.array([2.0**60]), "a float to which other numbers round"),
        (np.array([1j]), "complex128"),
        (np.array([[1], None], dtype=object)[:1], r"\[1\]"),
    ],
)
def test_values_that_are_no_classes(y, got):
    with pytest.raises(ValueError, match=f"expected classes in column 'y', got .*{got}"):
        of_array(y, "y")


def test_an_array_keeps_classes_as_they_are():
    assert as_array([1, 2]).dtype.kind == "i"
    assert as_array([dt.date(2020, 1, 1), dt.date(2020, 1, 2)]).dtype == object


def test_labels_of_retained_rows():
    values, codes = label_codes(["b", "a", "b", None], 4, np.array([0, 1, 2]), "group")
    assert (values.tolist(), codes.tolist()) == (["a", "b"], [1, 0, 1])
    assert cluster_codes([7, 7, 9], 3, slice(None)).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([1, 2], ValueError, r"expected 3 cluster labels, one for each row, got shape \(2,\)"),
        ([1, None, 2], ValueError, "expected a cluster for every row, got none at row 1"),
        ([1, "a", 2], TypeError, "expected cluster labels of one type, got int and str"),
        ([1, 1, 1], ValueError, "expected at least two clusters, got one"),
    ],
)
def test_labels_that_cannot_be_used(labels, error, message):
    with pytest.raises(error, match=message):
        cluster_codes(np.array(labels, dtype=object), 3, slice(None))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (1.5, "1.5"),
        (-0.0, "0"),
        (3, "3"),
        (True, "True"),
        ("1.0", "1.0"),
        (None, "None"),
        (dt.datetime(2020, 1, 1), "2020-01-01"),
    ],
)
def test_labels(value, text):
    assert label(value) == text
