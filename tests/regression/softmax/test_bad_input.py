"""Bad input to softmax regression; what concerns arrays is scikit-learn's, in its words."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from bad_input import case, raises
from sklearn.exceptions import ConvergenceWarning

from nll import SoftmaxRegression

X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 1.0], [1.5, 2.5], [0.5, 0.3]])
Y = np.array([0, 1, 0, 1, 0, 1])


def with_value(row: int, column: int, value: float) -> np.ndarray:
    changed = X.copy()
    changed[row, column] = value
    return changed


@pytest.mark.parametrize(
    ("arguments", "options", "expected", "message"),
    [
        case(TypeError, "expected alpha to be a number, got str", alpha="1"),
        case(TypeError, "expected alpha to be a number, got NoneType", alpha=None),
        case(TypeError, "expected alpha to be a number, got bool", alpha=True),
        case(ValueError, "expected a finite alpha of at least 0, got -1", alpha=-1),
        case(ValueError, "expected a finite alpha of at least 0, got nan", alpha=math.nan),
        case(ValueError, "expected a finite alpha of at least 0, got inf", alpha=math.inf),
        case(TypeError, "expected fit_intercept to be True or False, got 'no'", fit_intercept="no"),
        case(ValueError, "expected baseline to be one of 0, 1, got 2", baseline=2),
        case(ValueError, "expected baseline to be one of 0, 1, got zero", baseline="zero"),
        case(
            ValueError, "expected baseline to be one of 0, 1, got [0 1]", baseline=np.array([0, 1])
        ),
    ],
)
def test_softmax_options(arguments, options, expected, message):
    raises(SoftmaxRegression(**options).fit, (X, Y), {}, expected, message)


NAMED = pd.DataFrame(X, columns=["a", "b"])
FINITE = "expected finite values in X, got "
ONE_TYPE = "expected classes of one type, got "
REQUIRED = "is required by SoftmaxRegression."
CONTINUOUS = (
    "Unknown label type: continuous. Maybe you are trying to fit a classifier, which expects "
    "discrete classes on a "
    "regression target with continuous values."
)


@pytest.mark.parametrize(
    ("arguments", "options", "expected", "message"),
    [
        case(ValueError, FINITE + "NaN at row 2 of column 1", with_value(2, 1, math.nan), Y),
        case(ValueError, FINITE + "infinity at row 0 of column 0", with_value(0, 0, math.inf), Y),
        case(ValueError, FINITE + "NaN at row 0 of column 'a'", NAMED.replace(0.0, math.nan), Y),
        case(
            ValueError,
            "expected numbers in X, got 'red' at row 0 of column 0",
            [["red", 1.0]] * 6,
            Y,
        ),
        case(
            ValueError,
            "Found input variables with inconsistent numbers of samples: [6, 5]",
            X,
            Y[:5],
        ),
        case(
            ValueError,
            "Found array with 0 feature(s) (shape=(6, 0)) while a minimum of 1 " + REQUIRED,
            X[:, :0],
            Y,
        ),
        case(
            ValueError,
            "Found array with 1 sample(s) (shape=(1, 2)) while a minimum of 2 " + REQUIRED,
            X[:1],
            Y[:1],
        ),
        case(
            ValueError,
            "expected a class in every row, got none at row 1",
            X,
            np.where(Y, math.nan, 0),
        ),
        case(ValueError, CONTINUOUS, X, X[:, 0] / 3),
        case(TypeError, ONE_TYPE + "int and str", X, np.array(["a", 1] * 3, object)),
        case(
            ValueError,
            "expected a class in every row, got none at row 1",
            X,
            np.array(["a", None] * 3, object),
        ),
        case(ValueError, "expected at least two classes, got one class: 1", X, np.ones(6)),
        case(ValueError, "expected at least two classes, got one class: 1", X, Y, sample_weight=Y),
        case(
            ValueError, "expected at least as many rows as coefficients, got 2 for 3", X[:2], Y[:2]
        ),
        case(
            ValueError, "expected columns that vary, got constant column 'x0', 'x1'", X * 0 + 1, Y
        ),
        # Of two columns that are each other, the later one is named, whatever the rounding.
        case(
            ValueError,
            "expected linearly independent columns, got 'x2' = +1 x0 in every row",
            np.c_[X, X[:, 0]],
            Y,
        ),
        case(
            ValueError,
            "expected finite weights of at least 0, got -1 at row 0",
            X,
            Y,
            sample_weight=-np.ones(6),
        ),
        case(
            ValueError,
            "expected finite weights of at least 0, got nan at row 0",
            X,
            Y,
            sample_weight=Y * math.nan,
        ),
        case(
            ValueError,
            "expected 6 weights, one for each row, got shape (5,)",
            X,
            Y,
            sample_weight=np.ones(5),
        ),
        case(
            ValueError,
            "expected weights with a positive sum, got all zero",
            X,
            Y,
            sample_weight=np.zeros(6),
        ),
    ],
)
def test_softmax_fit(arguments, options, expected, message):
    raises(SoftmaxRegression().fit, arguments, options, expected, message)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    "method", ["predict", "predict_proba", "predict_log_proba", "decision_function"]
)
def test_softmax_predict(method):
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError, match=r"^This SoftmaxRegression instance is not fitted yet"):
        getattr(SoftmaxRegression(), method)(X)
    predict = getattr(SoftmaxRegression(alpha=1.0).fit(NAMED, Y), method)
    for data, message in [
        (NAMED[["a"]], "The feature names should match those that were passed during fit"),
        (NAMED[["b", "a"]], "The feature names should match those that were passed during fit"),
        (
            NAMED.replace(0.0, math.nan),
            "expected finite values in X, got NaN at row 0 of column 'a'",
        ),
        (NAMED.iloc[:0], r"Found array with 0 sample\(s\)"),
    ]:
        with pytest.raises(ValueError, match=f"^{message}"):
            predict(data)


def test_what_is_not_found_is_a_warning_that_can_be_caught():
    with pytest.warns(ConvergenceWarning, match="^no finite estimate: ") as caught:
        SoftmaxRegression().fit(X, X[:, 0] > 1)
    assert caught[0].filename == __file__  # it points at the caller
