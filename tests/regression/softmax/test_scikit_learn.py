"""Softmax regression among scikit-learn's tools: its own checks, pipelines, searches,
validation.
"""

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from nll import SoftmaxRegression

X, Y = load_wine(return_X_y=True, as_frame=True)
X = X[["alcohol", "hue", "ash"]]

# Both fit 27 rows to 31 coefficients, which no likelihood determines; scikit-learn's own estimator
# without a penalty fails the same check.
UNDETERMINED = {
    f"check_sample_weight_equivalence_on_{kind}_data": "fewer rows than coefficients have many "
    "maxima"
    for kind in ("dense", "sparse")
}


@pytest.mark.filterwarnings("ignore:no finite estimate:sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(
    [
        SoftmaxRegression(alpha=1.0),
        SoftmaxRegression(alpha=1.0, class_weight="balanced", covariance="hc1"),
        SoftmaxRegression(),
        SoftmaxRegression(penalty="firth"),
    ],
    expected_failed_checks=lambda estimator: {} if estimator.alpha else UNDETERMINED,
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_a_pipeline_has_the_names_of_its_columns():
    pipeline = (
        make_pipeline(StandardScaler(), SoftmaxRegression())
        .set_output(transform="pandas")
        .fit(X, Y)
    )
    plain = SoftmaxRegression().fit(X, Y)
    np.testing.assert_allclose(pipeline.predict_proba(X), plain.predict_proba(X), rtol=1e-8)
    assert pipeline[-1].result_.labels["coef"][1] == ("Intercept", *X.columns)
    more = make_pipeline(
        StandardScaler(), PolynomialFeatures(include_bias=False), SoftmaxRegression(alpha=0.1)
    )
    more.set_output(transform="pandas").fit(X, Y)
    assert more[-1].result_.labels["coef"][1][-1] == "ash^2"


def test_a_search_finds_the_penalty_that_predicts_best():
    search = GridSearchCV(
        SoftmaxRegression(), {"alpha": [0.01, 0.3, 100.0]}, scoring="neg_log_loss", cv=4
    ).fit(X, Y)
    scores = search.cv_results_["mean_test_score"]
    assert search.best_params_["alpha"] == [0.01, 0.3, 100.0][int(np.argmax(scores))]
    assert scores[2] < scores[:2].min()
    their = GridSearchCV(
        LogisticRegression(tol=1e-10, max_iter=10_000), {"C": [100.0, 1 / 0.3, 0.01]}, cv=4
    )
    their.set_params(scoring="neg_log_loss").fit(X, Y)
    np.testing.assert_allclose(scores, their.cv_results_["mean_test_score"], rtol=1e-5)


def test_scores_on_the_parts_that_were_left_out():
    scores = cross_val_score(SoftmaxRegression(), X, Y, scoring="neg_log_loss", cv=5)
    assert scores.shape == (5,)
    assert scores.mean() > -np.log(3) / 2  # half of what guessing costs
    held = cross_val_predict(SoftmaxRegression(), X, Y, cv=5, method="predict_proba")
    assert log_loss(Y, held) == pytest.approx(-scores.mean(), rel=0.02)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 1.0, 1: 2.5, 2: 0.5}])
def test_weights_of_classes(class_weight):
    often = np.random.default_rng(0).integers(1, 4, len(Y))
    found = SoftmaxRegression(class_weight=class_weight).fit(X, Y, often)
    copies = np.repeat(np.arange(len(Y)), often)
    again = SoftmaxRegression(class_weight=class_weight).fit(X.iloc[copies], Y.iloc[copies])
    np.testing.assert_allclose(found.coef_, again.coef_, rtol=1e-8, atol=1e-10)
    their = LogisticRegression(C=np.inf, class_weight=class_weight, tol=1e-10, max_iter=10_000)
    their.fit(X.iloc[copies], Y.iloc[copies])
    np.testing.assert_allclose(found.predict_proba(X), their.predict_proba(X), rtol=1e-4, atol=1e-6)
