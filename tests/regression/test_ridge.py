"""A ridge penalty where columns are constant or determined by others, and their names."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.linear_model import LogisticRegression

import nll
from nll import ConditionalLogit, SoftmaxRegression

N = 90
DRAW = np.random.default_rng(0)
X, Y = DRAW.normal(size=(N, 2)), DRAW.integers(0, 3, N)
W = DRAW.uniform(0.5, 4.0, N)
WIDE = DRAW.normal(size=(N, 3, 2))
TABLE = pd.DataFrame(X, columns=["a", "b"])
BIG = 2**60
COEF = SoftmaxRegression().fit(X, Y).result_.vector


# Columns that others determine.

KIND, SEX = np.eye(3)[DRAW.integers(0, 3, N)], np.eye(2)[DRAW.integers(0, 2, N)]
Z = DRAW.normal(size=N)
HINT = '; for dummies, OneHotEncoder(drop="first") leaves one out'


@pytest.mark.parametrize(
    ("columns", "intercept", "said"),
    [
        (KIND, True, f"x0 + x1 + x2 = 1 in every row{HINT}"),
        (np.c_[Z, KIND, SEX], True, f"x1 + x2 + x3 = 1, x4 + x5 = 1 in every row{HINT}"),
        (np.c_[KIND, SEX], False, "'x4' = +1 x0 +1 x1 +1 x2 -1 x3 in every row"),
        (100 * KIND, True, "x0 + x1 + x2 = 100 in every row"),
        (
            np.c_[Z, KIND, 2 * Z + 3],
            True,
            f"x1 + x2 + x3 = 1, 'x0' = -1.5 +0.5 x4 in every row{HINT}",
        ),
        (np.c_[Z, 1e9 + 1e6 * Z, KIND[:, 0]], True, "'x0' = -1000 +1e-06 x1 in every row"),
    ],
)
@pytest.mark.parametrize("kind", [np.asarray, csr_array, lambda x: nll.Stream((x, Y))])
def test_each_combination_is_named_exactly(columns, intercept, said, kind):
    given = kind(columns)
    with pytest.raises(ValueError, match=r"^expected linearly independent columns") as caught:
        SoftmaxRegression(fit_intercept=intercept).fit(
            *((given,) if isinstance(given, nll.Stream) else (given, Y))
        )
    assert str(caught.value) == f"expected linearly independent columns, got {said}"


DEGENERATE = {
    "constant": np.c_[Z, np.full(N, 0.1)],
    "zero": np.c_[Z, 0 * Z],
    "twice": np.c_[Z, 2 * Z + 1],
    "dummies": np.c_[KIND, SEX],
}


@pytest.mark.parametrize("kind", [np.asarray, csr_array])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("columns", DEGENERATE)
def test_a_ridge_has_one_optimum(columns, intercept, kind):
    x = DEGENERATE[columns]
    theirs = LogisticRegression(C=1.0, fit_intercept=intercept, tol=1e-12, max_iter=100_000).fit(
        x, Y
    )
    model = SoftmaxRegression(alpha=1.0, fit_intercept=intercept).fit(kind(x), Y)
    assert model.result_.converged
    np.testing.assert_allclose(model.predict_proba(x), theirs.predict_proba(x), atol=1e-6)
    # Where columns say the same, the penalty decides, however small it is.
    tiny = [
        SoftmaxRegression(alpha=alpha, fit_intercept=intercept).fit(kind(x), Y)
        for alpha in (1e-9, 1e-30)
    ]
    for least in tiny:
        assert least.result_.converged
        np.testing.assert_allclose(least.coef_, tiny[0].coef_, atol=1e-7)
        errors = [model.result_.standard_errors["coef"].nan_to_num() for model in (least, tiny[0])]
        torch.testing.assert_close(*errors, rtol=1e-6, atol=1e-9)


def test_a_ridge_of_choices_has_one_optimum():
    still = np.concatenate([WIDE, 2 * WIDE[:, :, :1], np.ones((N, 3, 1))], 2)
    for alpha in (1.0, 1e-12):
        model = ConditionalLogit(alpha=alpha).fit(still, Y)
        assert model.result_.converged
        assert model.coef_[-1] == pytest.approx(0, abs=1e-12)
        # along the least squares
        assert model.coef_[-2] == pytest.approx(2 * model.coef_[-4], rel=1e-6)
    with pytest.raises(ValueError, match="expected columns that vary within a case"):
        ConditionalLogit().fit(still, Y)


def test_a_penalty_on_slopes_leaves_a_constant_free_to_run_off():
    available = np.ones((N, 3), dtype=bool)
    with pytest.warns(UserWarning, match="no finite estimate"):
        model = ConditionalLogit(alpha=1.0).fit(WIDE, np.where(Y == 2, 1, Y), available=available)
    assert not model.result_.converged
