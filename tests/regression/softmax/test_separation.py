"""Where classes are separated: no finite estimate, and what has a limit all the same."""

from __future__ import annotations

import re
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.exceptions import ConvergenceWarning
from softmax_cases import cross_entropy_of, same, sample
from truth import IRIS_PAIR, IRIS_SUPREMUM, iris

from nll import SoftmaxRegression


def test_iris_has_no_finite_estimate():
    """Setosa lies apart from the other two species, which overlap: how these differ is finite."""
    flowers = iris()
    with pytest.warns(ConvergenceWarning, match=r"^no finite estimate: class setosa "):
        model = SoftmaxRegression().fit(flowers.iloc[:, :4], flowers.species)
    result = model.result_
    assert not result.converged
    assert re.fullmatch(
        r"no finite estimate: class setosa is separated from versicolor and virginica, by .*; "
        r"the log-likelihood rises towards -5\.949273\d+; "
        r"finite contrasts: virginica vs\. versicolor",
        result.status,
    )
    assert bool(result.standard_errors["coef"].isnan().all())
    assert bool(result.p_values["coef"].isnan().all())
    assert bool(result.params["coef"].isfinite().all())
    assert IRIS_SUPREMUM - 1e-6 < result.log_likelihood < IRIS_SUPREMUM + 1e-7
    assert "Converged            NO" in result.summary()
    found = result.separation
    assert found.supremum == pytest.approx(IRIS_SUPREMUM, abs=1e-7)
    assert found.separated == (("setosa", "versicolor"), ("setosa", "virginica"))
    (contrast,) = found.contrasts
    assert (contrast.of, contrast.against) == ("virginica", "versicolor")
    estimates, errors = zip(*IRIS_PAIR, strict=True)
    np.testing.assert_allclose(contrast.estimate, estimates, rtol=1e-7)
    np.testing.assert_allclose(contrast.standard_errors, errors, rtol=1e-6)
    text = result.summary().partition("virginica (vs. versicolor, limit)")[2]
    printed = re.findall(r"^(?:Intercept|\w+ \w+(?: \(cm\))?) +(\S+) +(\S+) ", text, re.MULTILINE)
    np.testing.assert_allclose(np.array(printed, float), IRIS_PAIR, rtol=1e-5)
    np.testing.assert_array_less(
        -1e-9, margins(flowers.iloc[:, :4].to_numpy(), flowers.species, found)
    )


def margins(x: np.ndarray, y, found) -> np.ndarray:
    """How far a row's own class is ahead of each along the direction."""
    scores = np.c_[np.ones(len(x)), x] @ found.direction.numpy().T
    own = np.array([found.classes.index(str(value)) for value in y])
    return scores[np.arange(len(x)), own][:, None] - scores


def test_two_species_of_iris_have_one():
    flowers = iris().query("species != 'setosa'")
    result = SoftmaxRegression().fit(flowers.iloc[:, :4], flowers.species).result_
    assert result.converged
    assert result.log_likelihood == pytest.approx(IRIS_SUPREMUM, abs=1e-7)
    estimates, errors = zip(*IRIS_PAIR, strict=True)
    np.testing.assert_allclose(result.params["coef"][0], estimates, rtol=1e-8)
    np.testing.assert_allclose(result.standard_errors["coef"][0], errors, rtol=1e-8)


LINE = np.arange(10.0)


@pytest.mark.parametrize(
    ("x", "y", "named"),
    [
        pytest.param(LINE, LINE > 4, "class False is separated from True, by", id="apart"),
        pytest.param(
            LINE * 1e6 + 1e9,
            LINE > 4,
            "class False is separated from True",
            id="apart, far away",
        ),
        pytest.param(
            np.r_[LINE, 4.5, 4.5],
            np.r_[LINE > 4, True, False],
            "class False is separated from True in some rows",
            id="they touch in one point",
        ),
        pytest.param(
            LINE % 2 == 0,
            (LINE % 2 == 0) & (LINE > 3),
            "class False is separated from True in some rows, by",
            id="a cell of the table is empty",
        ),
        pytest.param(
            LINE,
            np.digitize(LINE, [3, 6]),
            "classes 0 and 1, 0 and 2, 1 and 2 are separated",
            id="three in a row",
        ),
    ],
)
def test_separation(x, y, named):
    x = np.reshape(x, (-1, 1)).astype(float)
    with pytest.warns(ConvergenceWarning, match="no finite estimate: "):
        result = SoftmaxRegression().fit(x, y).result_
    assert not result.converged
    assert bool(result.standard_errors["coef"].isnan().any())
    assert named in result.status
    assert margins(x, y, result.separation).min() > -1e-6
    assert margins(x, y, result.separation).max() > 1e-6


def test_what_has_a_limit_keeps_its_error():
    """Class b is never seen with the dummy, a and c are: only b's dummy is infinite. The rest is a
    fit without it.
    """
    rng = np.random.default_rng(0)
    x = np.c_[rng.normal(size=300), np.arange(300) % 3 == 0].astype(float)
    y = np.array(["a", "b", "c"])[(x[:, :1] * [0, 0.5, -0.5] + rng.gumbel(size=(300, 3))).argmax(1)]
    kept = ~((y == "b") & (x[:, 1] == 1))
    x, y = x[kept], y[kept]
    with pytest.warns(
        ConvergenceWarning,
        match=r"no finite estimate: .*by x1; .*finite contrasts: b vs\. a, c vs\. a",
    ):
        result = SoftmaxRegression().fit(x, y).result_
    errors = result.standard_errors["coef"]
    assert errors.isnan().tolist() == [[False, False, True], [False, False, False]]
    # the dummy's coefficient of b, far out: the others as they are in the limit
    far = np.c_[x, np.zeros(len(x))]
    theta = result.params["coef"].clone()
    theta[0, 2] = -60.0

    def loss(free):
        coef = theta.reshape(-1).clone()
        coef[[0, 1, 3, 4, 5]] = free
        scores = torch.from_numpy(np.c_[np.ones(len(x)), far[:, :2]]) @ coef.reshape(2, 3).T
        codes = torch.from_numpy(np.unique(y, return_inverse=True)[1])
        return F.cross_entropy(
            torch.cat([torch.zeros(len(x), 1), scores], 1), codes, reduction="sum"
        )

    at = theta.reshape(-1)[[0, 1, 3, 4, 5]]
    assert float(torch.autograd.functional.jacobian(loss, at).abs().max()) < 1e-6
    covariance = torch.linalg.inv(torch.autograd.functional.hessian(loss, at))
    same(errors.reshape(-1)[[0, 1, 3, 4, 5]], covariance.diagonal().sqrt(), 1e-7)
    assert result.separation.supremum == pytest.approx(-float(loss(at)), abs=1e-9)


def test_separated_among_many_rows():
    """More pairs of rows and classes than one programme takes."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30_000, 4))
    scores = x @ rng.normal(size=(4, 3)) + rng.gumbel(size=(30_000, 3))
    y = scores.argmax(1)
    assert SoftmaxRegression().fit(x, y).result_.converged
    apart = x[:, 1] + 0.5 * x[:, 2] > 1.0
    y = np.where(apart, 3, y)
    with pytest.warns(ConvergenceWarning, match="class 3 is separated from 0, 1 and 2"):
        result = SoftmaxRegression().fit(x, y).result_
    assert margins(x, y, result.separation).min() > -1e-6
    assert {(c.of, c.against) for c in result.separation.contrasts} == {("1", "0"), ("2", "0")}


def separable(x: np.ndarray, y: np.ndarray, classes: int) -> bool:
    """By the simplex method on fractions (Bland's rule): max sum of margins, none negative,
    directions up to 1.
    """
    p = x.shape[1]
    rows = []
    for own, label in zip(x, y, strict=True):
        for k in set(range(classes)) - {int(label)}:
            margin = np.zeros((classes, p), int)
            margin[label] += own
            margin[k] -= own
            rows.append(margin[1:].ravel())
    both = [[Fraction(int(-v)) for v in (*row, *-row)] for row in rows]
    size = 2 * (classes - 1) * p
    table = [[*row, Fraction(0)] for row in both]
    table += [[Fraction(int(i == j)) for j in range(size)] + [Fraction(1)] for i in range(size)]
    gain = [-sum(row[j] for row in both) for j in range(size)]
    inside, outside, value = list(range(size, size + len(table))), list(range(size)), Fraction(0)
    while True:
        entering = [j for j in range(size) if gain[j] > 0]
        if not entering or value > 0:
            return value > 0
        j = min(entering, key=lambda j: outside[j])
        limits = [(row[-1] / row[j], inside[i], i) for i, row in enumerate(table) if row[j] > 0]
        _, _, i = min(limits)
        pivot = table[i][j]
        table[i] = [v / pivot for v in table[i]]
        table[i][j] = 1 / pivot
        for other, row in enumerate(table):
            if other != i and row[j] != 0:
                factor = row[j]
                table[other] = [v - factor * w for v, w in zip(row, table[i], strict=True)]
                table[other][j] = -factor / pivot
        factor = gain[j]
        value += factor * table[i][-1]
        gain = [v - factor * w for v, w in zip(gain, table[i][:-1], strict=True)]
        gain[j] = -factor / pivot
        inside[i], outside[j] = outside[j], inside[i]


@pytest.mark.parametrize("tables", [100, pytest.param(600, marks=pytest.mark.slow)])
def test_the_verdict_is_that_of_exact_arithmetic(tables):
    rng = np.random.default_rng(2)
    verdicts = []
    while len(verdicts) < tables:
        n, p = int(rng.integers(8, 16)), int(rng.integers(1, 3))
        x, y = rng.integers(-2, 3, size=(n, p)), rng.integers(0, 3, size=n)
        if rng.random() < 0.5:  # nearly separated by the first column
            y = np.clip(x[:, 0] + 1 + (rng.random(n) < 0.15) * rng.integers(-1, 2, n), 0, 2)
        full = np.c_[np.ones(n, int), x]
        if (
            len(np.unique(y)) < 3
            or np.linalg.matrix_rank(full) < p + 1
            or (np.ptp(x, axis=0) == 0).any()
        ):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            result = SoftmaxRegression().fit(x.astype(float), y).result_
        expected = separable(full, y, 3)
        assert result.converged == (not expected), (x.tolist(), y.tolist(), result.status)
        assert (result.separation is not None) == expected
        if expected:
            assert margins(x.astype(float), y, result.separation).min() > -1e-6
        verdicts.append(expected)
    assert tables / 4 < sum(verdicts) < 3 * tables / 4


@pytest.mark.parametrize("gap", [0.4, 0.1, 0.01])
def test_hardly_overlapping_classes_have_an_estimate(gap):
    """One row of each class on the other's side, by less and less; the slopes grow, and exist."""
    x = np.r_[np.linspace(-3, -1, 20), gap, -gap, np.linspace(1, 3, 20)]
    y = np.r_[np.zeros(21), np.ones(21)]
    result = SoftmaxRegression().fit(x[:, None], y).result_
    assert result.converged
    assert result.decrement < 1e-10
    columns = torch.from_numpy(np.c_[np.ones(len(x)), x])
    gradient = torch.func.grad(cross_entropy_of(columns, torch.from_numpy(y).long()))(result.vector)
    assert float(gradient.abs().max()) < 1e-8


@pytest.mark.parametrize("weight", [1e-12, 1e-300])
def test_small_weights_do_not_separate_classes(weight):
    """The estimate does not depend on the unit of the weights; a fit that cannot tell must not
    blame the data.
    """
    x, y = sample()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = SoftmaxRegression().fit(x, y, sample_weight=np.full(len(y), weight)).result_
    if result.converged:
        same(result.params["coef"], SoftmaxRegression().fit(x, y).result_.params["coef"], 1e-6)
    assert "no finite estimate" not in result.status
