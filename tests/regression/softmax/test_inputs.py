"""What regressions take as columns, classes and weights, and what they say of what they do not."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from scipy.sparse import csr_array

import nll
from nll import ConditionalLogit, SoftmaxRegression
from nll.data.observations import observe
from nll.regression.design_matrix import Columns
from nll.regression.glm.fit import fit_linear

N = 90
DRAW = np.random.default_rng(0)
X, Y = DRAW.normal(size=(N, 2)), DRAW.integers(0, 3, N)
W = DRAW.uniform(0.5, 4.0, N)
WIDE = DRAW.normal(size=(N, 3, 2))
TABLE = pd.DataFrame(X, columns=["a", "b"])
BIG = 2**60
COEF = SoftmaxRegression().fit(X, Y).result_.vector


def backwards(array):
    return np.ascontiguousarray(array[::-1])[::-1]


# Classes.

LETTERS = np.array(list("cab"))[Y]
DAYS = np.datetime64("2020-01-01") + Y.astype("m8[D]")


@pytest.mark.parametrize(
    "given",
    [
        backwards(Y),
        pd.Series(Y, dtype="Int64"),
        pd.Series(Y, dtype="int64[pyarrow]"),
        pl.Series(Y),
        pa.array(Y),
        torch.from_numpy(Y),
        BIG + Y,
        pd.Series(BIG + Y, dtype="Int64"),
        [BIG + int(code) for code in Y],
        DAYS,
        pd.Series(DAYS).dt.tz_localize("UTC"),
        pd.Series(DAYS).astype("timestamp[ns][pyarrow]"),
        Y.astype("m8[s]"),
        np.array([datetime.date(2020, 1, 1 + code) for code in Y]),
        pl.Series([datetime.timedelta(days=int(code)) for code in Y]),
        pd.DataFrame(np.eye(3, dtype=int)[Y]).astype("Int64"),
        pd.DataFrame(np.eye(3, dtype=bool)[Y]).astype("boolean"),
        np.eye(3)[Y],
    ],
)
def test_classes_of_any_type(given):
    model = SoftmaxRegression().fit(X, given)
    torch.testing.assert_close(model.result_.vector, COEF, rtol=1e-9, atol=1e-12)
    if np.ndim(given) == 1 and not isinstance(given, pl.Series):
        assert model.evaluate(X, given).log_score.value == pytest.approx(
            -model.result_.log_likelihood / N
        )


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            pd.Series(Y, dtype="Int64").mask(Y == 2),
            ValueError,
            "expected a class in every row, got none at row ",
        ),
        (np.ma.masked_equal(Y, 2), ValueError, "expected a class in every row, got none at row "),
        (
            np.where(Y == 2, None, LETTERS),
            ValueError,
            "expected a class in every row, got none at row ",
        ),
        (
            np.where(Y == 2, np.datetime64("NaT"), DAYS),
            ValueError,
            "expected a class in every row, got none at row ",
        ),
        (csr_array(np.eye(3)[Y]), TypeError, "expected y as a dense array, got a sparse matrix"),
        (
            pd.Series([[int(code)] for code in Y]),
            TypeError,
            "expected classes that are single values, got ",
        ),
        (
            np.ma.masked_equal(np.eye(3)[Y] + 1, 2),
            ValueError,
            "expected counts of at least 0 in y, got nan at row ",
        ),
    ],
)
def test_classes_that_are_none(given, error, message):
    with pytest.raises(error, match=f"^{message}"):
        SoftmaxRegression().fit(X, given)


def test_the_first_category_is_the_baseline():
    given = pd.Series(pd.Categorical(LETTERS, categories=["z", "c", "b", "a"]))
    with pytest.warns(
        UserWarning, match="expected rows of every category of y, got none of z: left out"
    ):
        model = SoftmaxRegression().fit(X, given)
    assert model.result_.baseline == "c"
    assert model.classes_.tolist() == ["a", "b", "c"]  # what scikit-learn reads is sorted
    torch.testing.assert_close(
        model.result_.vector,
        SoftmaxRegression(baseline="c").fit(X, LETTERS).result_.vector,
        rtol=1e-9,
        atol=1e-12,
    )
    assert (
        SoftmaxRegression(baseline="b")
        .fit(X, pd.Categorical(LETTERS, categories=list("cba")))
        .classes_[0]
        == "a"
    )


def test_the_first_alternative_is_the_baseline():
    long = pd.DataFrame(WIDE.reshape(-1, 2), columns=["p", "q"])
    long = long.assign(case=np.repeat(np.arange(N), 3), y=np.eye(3, dtype=int)[Y].ravel())
    long["alternative"] = pd.Categorical(np.tile(list("abc"), N), categories=list("cab"))
    model = ConditionalLogit().fit(long, "y", case="case", alternative="alternative")
    assert model.result_.baseline == "c"
    parts = {name: pl.Series(long[name].to_list()) for name in ("case", "alternative", "y")}
    plain = ConditionalLogit(baseline="c").fit(
        long[["p", "q"]].astype("double[pyarrow]"),
        parts["y"],
        case=parts["case"],
        alternative=parts["alternative"],
    )
    torch.testing.assert_close(plain.result_.vector, model.result_.vector, rtol=1e-9, atol=1e-12)
    missing = long.assign(case=long["case"].astype("Int64").mask(long.index == 4))
    with pytest.raises(ValueError, match="expected case labels in every row, got none at row 4"):
        ConditionalLogit().fit(missing, "y", case="case", alternative="alternative")


# Weights of which only the ratios count.

COUNTS = DRAW.negative_binomial(2, 0.3, N).astype(float)
SETS = [{int(code)} if row % 5 else {int(code), 2} for row, code in enumerate(Y)]
MODELS = {
    "dense": lambda w: SoftmaxRegression().fit(X, Y, w).result_,
    "two classes": lambda w: SoftmaxRegression().fit(X, Y > 0, w).result_,
    "hc1": lambda w: SoftmaxRegression(covariance="hc1").fit(X, Y, w).result_,
    "clusters": lambda w: SoftmaxRegression().fit(X, Y, w, clusters=np.arange(N) // 3).result_,
    "class weights": lambda w: (
        SoftmaxRegression(class_weight={0: 1.0, 1: 3.0, 2: 2.0}).fit(X, Y, w).result_
    ),
    "sparse": lambda w: SoftmaxRegression().fit(csr_array(X), Y, w).result_,
    "sets": lambda w: SoftmaxRegression().fit(X, SETS, w).result_,
    "counts": lambda w: SoftmaxRegression().fit(X, 2 * np.eye(3)[Y], w).result_,
    "ridge": lambda w: SoftmaxRegression(alpha=0.5).fit(X, Y, w).result_,
    "firth": lambda w: SoftmaxRegression(penalty="firth").fit(X, Y, w).result_,
    "choices": lambda w: ConditionalLogit().fit(WIDE, Y, sample_weight=w).result_,
    "family": lambda w: nll.fit(torch.distributions.Normal, X[:, 0], weights=w),
}
MODELS |= {
    family: lambda w, family=family: fit_linear(
        family,
        Columns.of(torch.from_numpy(X[:, :1]), None, True),
        observe(COUNTS > 3 if family == "bernoulli" else COUNTS, w),
    )
    for family in ("bernoulli", "poisson", "normal", "negative_binomial")
}


def numbers(fit):
    """What may not depend on the unit of the weights."""
    found = [*fit.vector.tolist(), *fit.covariance.diagonal().tolist(), fit.n, fit.aic, fit.bic]
    value = {fit.names[-1]: 0.9 * float(fit.vector[-1])}
    # which takes its time
    small = fit.search is not None and fit.model != "Negative binomial regression (log)"
    for method in ("wald", "lr") if small else ("wald",):
        found.append(fit.test(value, method=method).p_value)
    if small and len(fit.vector) < 4:
        found += torch.cat(
            [ends.reshape(-1) for ends in fit.interval(method="profile").values()]
        ).tolist()
    return found


@pytest.mark.parametrize("kind", [nll.sampling, nll.importance])
@pytest.mark.parametrize("model", MODELS)
def test_the_unit_of_weights_does_not_matter(model, kind):
    expected = MODELS[model](kind(W))
    rows = 2 * N if model == "counts" else N
    assert expected.n == pytest.approx(
        rows if kind is nll.sampling else rows * W.mean() ** 2 / (W**2).mean(), rel=0.3
    )
    assert "sandwich" in expected.information
    for unit in (1e-200, 1e200):
        assert numbers(MODELS[model](kind(W * unit))) == pytest.approx(
            numbers(expected), rel=1e-7, abs=1e-12
        )


def test_a_stream_has_the_weights_of_memory():
    expected = SoftmaxRegression(weights="sampling").fit(X, Y, W).result_
    for unit in (1.0, 1e200):
        found = (
            SoftmaxRegression(weights="sampling")
            .fit(nll.Stream((X, Y, W * unit), block_rows=31))
            .result_
        )
        assert numbers(found)[:-1] == pytest.approx(
            numbers(expected)[: len(numbers(found)) - 1], rel=1e-8
        )
    with pytest.raises(ValueError, match="expected frequencies or sampling weights with a Stream"):
        SoftmaxRegression(weights="importance").fit(nll.Stream((X, Y, W)))


def test_what_is_computed_of_weighted_rows_has_no_unit_either():
    model = SoftmaxRegression(weights="sampling")
    first, second = (
        model.fit(X, Y, W * unit).evaluate(X[::2], Y[::2], W[::2] * unit) for unit in (1.0, 1e200)
    )
    assert second.log_score == pytest.approx(first.log_score)
    assert second.recalibration.test.p_value == pytest.approx(first.recalibration.test.p_value)
    pulls = [
        model.fit(X, Y, W * unit).influence(X, Y, W * unit).cooks_distance for unit in (1.0, 1e200)
    ]
    torch.testing.assert_close(pulls[1], pulls[0], rtol=1e-8, atol=0)
