"""The error for missing values keeps its fields, and each caller names its own remedy."""

from __future__ import annotations

import pickle

from nll.data.arrays import MissingValuesError


def test_the_remedy_is_the_callers():
    error = pickle.loads(pickle.dumps(MissingValuesError("1, the first at row 0")))
    start = "expected no missing values, got 1, the first at row 0; "
    assert str(error) == start + "missing='drop' leaves them out"
    assert error.with_remedy("--missing drop") == start + "--missing drop leaves them out"
