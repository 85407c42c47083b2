"""The functions of formulas: whole numbers stay exact, and arguments stay small."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from nll.regression.formula.functions import FUNCTIONS, numbers_of, require_small
from nll.regression.formula.names import FormulaError


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([True, False], np.bool_),
        (np.array([1, 2], dtype=np.uint8), np.int64),
        (np.array([1, 2**63], dtype=np.uint64), np.float64),
        (np.array([1.0], dtype=np.float32), np.float64),
        (pd.Series([1, 2], dtype="Int64"), np.int64),
        ([], np.float64),
    ],
)
def test_types_of_numbers(values, dtype):
    assert numbers_of(values).dtype == dtype


def test_whole_numbers_do_not_overflow():
    multiply = FUNCTIONS["np.multiply"].call
    assert multiply(np.array([3]), np.array([4])).dtype == np.int64
    np.testing.assert_allclose(multiply(np.array([2**62]), np.array([4])), [2.0**64])
    power = FUNCTIONS["np.power"].call
    np.testing.assert_allclose(power(np.array([2]), np.array([-1])), [0.5])


def test_texts_and_large_arguments_are_refused():
    with pytest.raises(FormulaError, match="expected numbers in column 'g', got values of type"):
        numbers_of(pd.Series(["a"], name="g"))
    with pytest.raises(FormulaError, match="expected df of at most 1000 in bs, got 1001"):
        require_small({"df": 1001}, "bs")
