"""Scores of predicted probabilities and their calibration: against scikit-learn, statsmodels and
brute force.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
import torch
from scipy.optimize import linprog
from sklearn.metrics import accuracy_score, log_loss

from nll import SoftmaxRegression
from nll.regression.after.evaluation import evaluate


def sample(n: int, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities, and classes drawn from them."""
    draw = np.random.default_rng(seed)
    scores = 1.5 * draw.normal(size=(n, classes))
    codes = (scores + draw.gumbel(size=(n, classes))).argmax(1)
    return torch.from_numpy(scores).log_softmax(1).numpy(), codes


def evaluated(log_p: np.ndarray, codes: np.ndarray, weights=None, **options):
    given = None if weights is None else torch.as_tensor(weights, dtype=torch.float64)
    return evaluate(torch.from_numpy(log_p), torch.from_numpy(codes), given, **options)


def test_scores_are_those_of_scikit_learn():
    log_p, codes = sample(500)
    weights = np.random.default_rng(1).integers(0, 4, 500)
    found = evaluated(log_p, codes, weights)
    p = np.exp(log_p)
    assert found.log_score.value == pytest.approx(
        log_loss(codes, p, sample_weight=weights), rel=1e-12
    )
    assert found.accuracy.value == pytest.approx(
        accuracy_score(codes, p.argmax(1), sample_weight=weights), rel=1e-12
    )
    distance = ((p - np.eye(4)[codes]) ** 2).sum(1)
    assert found.brier.value == pytest.approx(np.average(distance, weights=weights), rel=1e-12)
    assert found.perplexity.value == pytest.approx(math.exp(found.log_score.value), rel=1e-12)
    repeated = np.repeat(-log_p[np.arange(500), codes], weights)
    error = repeated.std(ddof=1) / math.sqrt(len(repeated))
    assert found.log_score.standard_error == pytest.approx(error, rel=1e-12)
    assert found.perplexity.standard_error == pytest.approx(
        error * found.perplexity.value, rel=1e-12
    )


def test_errors_of_sampling_weights():
    """That of a ratio of means, by the jackknife over rows."""
    log_p, codes = sample(400)
    w = np.random.default_rng(1).exponential(size=400)
    loss = -log_p[np.arange(400), codes]
    without = (w @ loss - w * loss) / (w.sum() - w)
    jackknife = math.sqrt(399 / 400 * ((without - without.mean()) ** 2).sum())
    found = evaluated(log_p, codes, w, sampling=True).log_score
    assert found.standard_error == pytest.approx(jackknife, rel=1e-2)
    assert found.standard_error == pytest.approx(
        evaluated(log_p, codes, 7 * w, sampling=True).log_score.standard_error, rel=1e-12
    )


def test_recalibration_of_two_classes_is_a_logit():
    log_p, codes = sample(600, classes=2)
    log_p = torch.from_numpy(2.0 * log_p + [0.3, 0.0]).log_softmax(1).numpy()
    odds = sm.add_constant(log_p[:, 1] - log_p[:, 0])
    theirs = sm.Logit(codes, odds).fit(disp=0)
    found = evaluated(log_p, codes).recalibration
    assert [float(found.shifts[1]), found.slope] == pytest.approx(theirs.params, rel=1e-7)
    assert [float(found.shift_errors[1]), found.slope_error] == pytest.approx(theirs.bse, rel=1e-7)
    at_start = log_p[np.arange(600), codes].sum()
    assert found.test.statistic == pytest.approx(2 * (theirs.llf - at_start), rel=1e-7)
    assert found.test.df == 2
    assert found.test.p_value < 1e-6


def log_likelihood(theta: torch.Tensor, log_p: np.ndarray, codes: np.ndarray) -> torch.Tensor:
    scores = theta[0] * torch.from_numpy(log_p) + torch.cat([theta.new_zeros(1), theta[1:]])
    return scores.log_softmax(1)[torch.arange(len(codes)), torch.from_numpy(codes)]


@pytest.mark.parametrize("sampling", [False, True])
def test_recalibration_of_several_classes(sampling):
    log_p, codes = sample(300)
    w = torch.from_numpy(np.random.default_rng(2).integers(1, 4, 300)).double()
    found = evaluated(log_p, codes, w, sampling=sampling).recalibration
    theta = torch.cat([torch.tensor([found.slope], dtype=torch.float64), found.shifts[1:]])
    total = lambda t: w @ log_likelihood(t, log_p, codes)  # noqa: E731
    scores = torch.autograd.functional.jacobian(lambda t: log_likelihood(t, log_p, codes), theta)
    assert float((w @ scores).abs().max()) < 1e-8
    covariance = torch.linalg.inv(-torch.autograd.functional.hessian(total, theta))
    if sampling:
        covariance = covariance @ (scores.T @ (w[:, None] ** 2 * scores)) @ covariance
    errors = covariance.diagonal().sqrt().tolist()
    assert [found.slope_error, *found.shift_errors[1:].tolist()] == pytest.approx(errors, rel=1e-8)
    start = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    if sampling:
        expected = float((theta - start) @ torch.linalg.inv(covariance) @ (theta - start))
    else:
        expected = 2 * float(total(theta) - total(start))
    assert found.test.statistic == pytest.approx(expected, rel=1e-7)


def test_true_probabilities_pass_as_often_as_they_should():
    p_values = [evaluated(*sample(400, 3, seed)).recalibration.test.p_value for seed in range(200)]
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.07)
    assert np.mean(np.array(p_values) < 0.1) == pytest.approx(0.1, abs=0.06)


def test_the_slope_exists_where_no_direction_separates():
    """Against a linear programme over slope and shifts."""
    outcomes = set()
    for seed in range(120):
        draw = np.random.default_rng(seed)
        log_p, codes = sample(int(draw.integers(4, 14)), 3, seed)
        if len(set(codes.tolist())) < 3:
            continue
        rows = []
        for own, scores in zip(codes, log_p, strict=True):
            for k in set(range(3)) - {own}:
                shift = np.eye(3)[own] - np.eye(3)[k]
                rows.append([scores[own] - scores[k], *shift[1:]])
        margins = np.array(rows)
        best = linprog(
            -margins.sum(0), -margins, np.zeros(len(margins)), bounds=(-1, 1), method="highs"
        )
        separated = -best.fun > 1e-9
        found = evaluated(log_p, codes).recalibration
        assert found.status.startswith("none: the log-probabilities separate") == separated
        assert math.isnan(found.slope) == separated
        outcomes.add(separated)
    assert outcomes == {False, True}


def test_what_has_no_recalibration():
    log_p, codes = sample(100, 3)
    constant = np.repeat(log_p[:1], 100, axis=0)
    assert evaluated(constant, codes).recalibration.status == (
        "none: the log-probabilities are the same in all rows"
    )
    impossible = log_p.copy()
    impossible[3, codes[3]] = -np.inf
    impossible = torch.from_numpy(impossible).log_softmax(1).numpy()
    found = evaluated(impossible, codes)
    assert found.recalibration.status == "none: a class that had the probability 0 was seen"
    assert found.log_score.value == found.perplexity.value == math.inf
    assert math.isnan(found.log_score.standard_error)
    assert "none: a class" in str(found)


def test_classes_without_rows_keep_their_probability():
    log_p, codes = sample(400, 4)
    kept = codes != 2
    found = evaluated(log_p[kept], codes[kept]).recalibration
    assert found.status == "converged; classes without a row: 1"
    assert found.test.df == 3
    assert found.shifts.isnan().tolist() == [False, False, True, False]
    # The same where the class that is not seen is impossible in some of the rows.
    some = log_p[kept].copy()
    some[::2, 2] = -np.inf
    some = torch.from_numpy(some).log_softmax(1).numpy()
    again = evaluated(some, codes[kept]).recalibration
    flat = torch.tensor([again.slope, *again.shifts[[1, 3]].tolist()], dtype=torch.float64)

    def total(theta):
        shift = torch.stack([theta.new_zeros(()), theta[1], theta.new_zeros(()), theta[2]])
        raw = torch.from_numpy(np.where(np.isinf(some), 0.0, some))
        scores = (theta[0] * raw + shift).masked_fill(torch.from_numpy(np.isinf(some)), -1e30)
        return scores.log_softmax(1)[torch.arange(len(raw)), torch.from_numpy(codes[kept])].sum()

    assert float(torch.autograd.functional.jacobian(total, flat).abs().max()) < 1e-8


def test_two_models_on_the_same_rows():
    log_p, codes = sample(300)
    other = torch.from_numpy(0.5 * log_p).log_softmax(1).numpy()
    first, second = evaluated(log_p, codes), evaluated(other, codes)
    at = np.arange(300), codes
    difference = other[at] - log_p[at]
    found = first.against(second)
    assert found.value == pytest.approx(difference.mean(), rel=1e-12)
    assert found.standard_error == pytest.approx(difference.std(ddof=1) / math.sqrt(300), rel=1e-12)
    assert found.p_value == pytest.approx(
        math.erfc(abs(found.value / found.standard_error) / math.sqrt(2)), rel=1e-10
    )
    with pytest.raises(ValueError, match="expected evaluations on the same rows"):
        first.against(evaluated(log_p[:-1], codes[:-1]))


def test_a_fit_held_against_other_rows():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(600, 2))
    y = np.array(["ash", "elm", "oak"])[
        (x @ draw.normal(size=(2, 3)) + draw.gumbel(size=(600, 3))).argmax(1)
    ]
    model = SoftmaxRegression(baseline="oak").fit(x[:300], y[:300])
    weights = draw.integers(0, 3, 300)
    found = model.evaluate(x[300:], y[300:], weights)
    p = model.predict_proba(x[300:])
    assert found.log_score.value == pytest.approx(
        log_loss(y[300:], p, sample_weight=weights), rel=1e-12
    )
    assert found.classes == ("ash", "elm", "oak")
    np.testing.assert_allclose(
        found.shares[:, 0], np.average(p, axis=0, weights=weights), rtol=1e-12
    )
    table = found.to_pandas()
    assert table.groupby("class")["predicted"].count().tolist() == [10, 10, 10]
    assert str(found).splitlines()[-1].startswith("oak ")
    # On the rows of the fit the likelihood's own equations hold: slope 1, shifts 0.
    own = model.evaluate(x[:300], y[:300]).recalibration
    assert own.slope == pytest.approx(1.0, abs=1e-8)
    assert float(own.shifts.abs().max()) < 1e-8
    with pytest.raises(
        ValueError,
        match=r"expected the classes of the fit, ash, elm, oak, got fir "
        r"at row 1$",
    ):
        model.evaluate(x[:3], ["ash", "fir", "oak"])
    with pytest.raises(ValueError, match="expected 3 classes, one for each row, got 2"):
        model.evaluate(x[:3], ["ash", "oak"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codes": np.array([0, 3])}, r"expected codes from 0 to 2, got 3 at row 1"),
        ({"weights": [1.0, -1.0]}, r"got -1 at row 1"),
        ({"weights": [0.0, 0.0]}, r"expected weights with a positive sum"),
        ({"log_p": np.zeros((2, 3))}, r"add up to 1, got 3 at row 0"),
        ({"codes": np.array([0])}, r"got \(2, 3\) and \(1,\)"),
    ],
)
def test_misuse(change, message):
    given = {"log_p": np.full((2, 3), -math.log(3)), "codes": np.array([0, 1]), **change}
    with pytest.raises(ValueError, match=message):
        evaluated(**given)
