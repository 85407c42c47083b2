"""Regressions by a formula in Python: the same fits as those of the estimators."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from truth import EXAMPLES

import nll
from nll.regression.formula.regress import NeedsWholeTableError, Options, regress, regress_blocks

TABLE = pd.read_csv(EXAMPLES / "anes96.csv")


def test_classes_are_those_of_the_estimator():
    found = regress("PID ~ age + educ", TABLE)
    expected = nll.SoftmaxRegression().fit(TABLE[["age", "educ"]], TABLE.PID)
    np.testing.assert_allclose(found.fit.params["coef"], expected.result_.params["coef"], rtol=1e-8)
    assessment = found.assessment()
    assert assessment.confusion.sum() == len(TABLE)
    assert assessment.classes == tuple("0123456")
    assert found.margins().classes == tuple("0123456")


def test_numbers_have_a_mean():
    found = regress("vote ~ age", TABLE, family="bernoulli")
    assert found.assessment().confusion.shape == (2, 2)
    assert found.margins().columns == ("age",)


def test_blocks_give_the_same_fit_and_no_assessment():
    options = Options(baseline="3", covariance="sandwich")
    whole = regress("PID ~ age", TABLE, options=options)
    found = regress_blocks("PID ~ age", TABLE, options=options)
    np.testing.assert_allclose(found.fit.covariance, whole.fit.covariance, rtol=1e-7)
    assert found.assessment() is None


@pytest.mark.parametrize("formula", ["PID ~ center(age)", "I(PID > 2) ~ age"])
def test_what_needs_the_whole_table(formula):
    with pytest.raises(NeedsWholeTableError, match="a table that is read in blocks needs"):
        regress_blocks(formula, TABLE)
