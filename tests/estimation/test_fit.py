"""Closed-form families: the estimate, its errors, its log-likelihood, and what it says when there
is none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torch import distributions as td

from nll import Likelihood, fit

# Numbers may be tiny: no absolute tolerance.
close = partial(pytest.approx, abs=0.0, nan_ok=True)


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Case(NamedTuple):
    """A family on a few rows, with its estimate and standard errors as a textbook writes them."""

    model: type[td.Distribution]
    data: list
    params: dict[str, Any]
    errors: dict[str, Any]
    # the parameters that a vector holds; of probabilities on a simplex all but the last
    free: tuple[str, ...]
    fixed: dict[str, Any] = {}  # noqa: RUF012, never changed
    # whether a row is several trials, of which torch.distributions takes one count at a time
    trials: bool = False

    def __repr__(self) -> str:
        return self.model.__name__


def shares(counts: list[int]) -> tuple[list[float], list[float]]:
    """Shares, and the square roots of p (1 - p) / n."""
    n = sum(counts)
    return [c / n for c in counts], [math.sqrt(c / n * (1 - c / n) / n) for c in counts]


NORMAL = [1.2, -0.3, 2.5, 0.7, 0.4]
LOGNORMAL = [0.5, 1.7, 3.2, 0.9]
LOG = np.log(LOGNORMAL)
CATEGORICAL = shares([2, 1, 3])
MULTINOMIAL = shares([6, 4, 3])

CASES = [
    Case(
        td.Bernoulli,
        [1, 0, 1, 1, 0, 1, 1],
        {"probs": 5 / 7},
        {"probs": math.sqrt(5 / 7 * 2 / 7 / 7)},
        ("probs",),
    ),
    Case(
        td.Binomial,
        [2, 1, 3, 4],
        {"probs": 10 / 18},
        {"probs": math.sqrt(10 / 18 * 8 / 18 / 18)},
        ("probs",),
        {"total_count": [5, 3, 4, 6]},
    ),
    Case(
        td.Geometric,
        [0, 3, 1, 2, 5],
        {"probs": 5 / 16},
        {"probs": math.sqrt((5 / 16) ** 2 * (11 / 16) / 5)},
        ("probs",),
    ),
    Case(td.Poisson, [3, 0, 2, 5, 1], {"rate": 2.2}, {"rate": math.sqrt(2.2 / 5)}, ("rate",)),
    Case(
        td.Categorical,
        [0, 2, 1, 2, 2, 0],
        {"probs": CATEGORICAL[0]},
        {"probs": CATEGORICAL[1]},
        ("probs",),
    ),
    Case(
        td.Multinomial,
        [[2, 1, 0], [0, 3, 1], [4, 0, 2]],
        {"probs": MULTINOMIAL[0]},
        {"probs": MULTINOMIAL[1]},
        ("probs",),
        trials=True,
    ),
    Case(
        td.Normal,
        NORMAL,
        {"loc": np.mean(NORMAL), "scale": np.std(NORMAL)},
        {"loc": np.std(NORMAL) / math.sqrt(5), "scale": np.std(NORMAL) / math.sqrt(10)},
        ("loc", "scale"),
    ),
    Case(
        td.LogNormal,
        LOGNORMAL,
        {"loc": LOG.mean(), "scale": LOG.std()},
        {"loc": LOG.std() / 2, "scale": LOG.std() / math.sqrt(8)},
        ("loc", "scale"),
    ),
    Case(
        td.Exponential, [0.4, 1.9, 0.05, 2.2], {"rate": 4 / 4.55}, {"rate": 4 / 4.55 / 2}, ("rate",)
    ),
    Case(
        td.Laplace,
        [1.0, 4.0, 2.5, -1.0, 3.0],
        {"loc": 2.5, "scale": 7 / 5},
        {"loc": 7 / 5 / math.sqrt(5), "scale": 7 / 5 / math.sqrt(5)},
        ("loc", "scale"),
    ),
    Case(
        td.Uniform,
        [0.3, 1.9, 0.7],
        {"low": 0.3, "high": 1.9},
        {"low": math.nan, "high": math.nan},
        ("low", "high"),
    ),
]
every_case = pytest.mark.parametrize("case", CASES, ids=repr)
# Categorical and Multinomial are on a simplex; Laplace and Uniform have no second derivatives to
# speak of.
REGULAR = [case for case in CASES if case.model not in (td.Laplace, td.Uniform)]


def fitted(case: Case, **options: Any):
    return fit(case.model, case.data, **({"fixed": case.fixed} if case.fixed else {}), **options)


def log_likelihood(case: Case, params: dict[str, Tensor]) -> Tensor:
    """The sum of torch.distributions' log_prob over the rows, in float64."""
    rows = tensor(case.data)
    if case.trials:
        return sum(
            case.model(int(row.sum()), **params, validate_args=False).log_prob(row) for row in rows
        )
    fixed = {name: tensor(value) for name, value in case.fixed.items()}
    return case.model(**params, **fixed, validate_args=False).log_prob(rows).sum()


def unpack(case: Case, theta: Tensor) -> dict[str, Tensor]:
    """The parameters of a vector of free numbers; the last probability of a simplex is what the
    others leave.
    """
    if isinstance(case.params[case.free[0]], list):
        return {"probs": torch.cat([theta, 1 - theta.sum()[None]])}
    return dict(zip(case.free, theta, strict=True))


def flat(values: dict[str, Any]) -> list[float]:
    return torch.cat(
        [torch.as_tensor(value, dtype=torch.float64).reshape(-1) for value in values.values()]
    ).tolist()


@every_case
def test_estimate_and_errors_are_the_analytic_ones(case):
    result = fitted(case)
    assert flat(result.params) == close(flat(case.params), rel=1e-14)
    assert flat(result.standard_errors) == close(flat(case.errors), rel=1e-14)
    assert list(result.params) == list(result.standard_errors) == list(case.params)
    assert result.converged


@pytest.mark.parametrize("case", REGULAR, ids=repr)
def test_covariance_is_the_inverse_of_the_observed_information(case):
    """By automatic differentiation of torch.distributions' log_prob; V = J I^-1 J' where a simplex
    binds.
    """
    result = fitted(case)
    simplex = isinstance(case.params[case.free[0]], list)
    theta = result.vector[:-1] if simplex else result.vector
    information = -torch.autograd.functional.hessian(
        lambda vector: log_likelihood(case, unpack(case, vector)), theta
    )
    jacobian = torch.func.jacrev(
        lambda vector: torch.cat([v.reshape(-1) for v in unpack(case, vector).values()])
    )(theta)
    expected = jacobian @ torch.linalg.inv(information) @ jacobian.T
    torch.testing.assert_close(result.covariance, expected, rtol=1e-11, atol=1e-14)
    assert result.information == "observed"


def test_laplace_has_the_expected_information():
    """n E[score score'], the expectation as the mean over equally likely quantiles."""
    result = fit(td.Laplace, [1.0, 4.0, 2.5, -1.0, 3.0])
    laplace = td.Laplace(result.params["loc"], result.params["scale"])
    quantiles = laplace.icdf((torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000)
    score = torch.func.vmap(
        torch.func.grad(lambda v, x: td.Laplace(*v, validate_args=False).log_prob(x)), (None, 0)
    )
    scores = score(result.vector, quantiles)
    information = 5 * scores.T @ scores / 100_000
    # The tails beyond the outermost quantiles are left out of the mean: 1e-3 of the whole.
    torch.testing.assert_close(
        result.covariance, torch.linalg.inv(information), rtol=2e-3, atol=1e-9
    )
    assert result.information == "expected"


@every_case
def test_log_likelihood_and_criteria(case):
    result = fitted(case)
    params = {
        name: torch.as_tensor(value, dtype=torch.float64) for name, value in case.params.items()
    }
    # torch's support is half open, and its end is the largest observation
    if case.model is td.Uniform:
        params["high"] = torch.nextafter(params["high"], tensor(math.inf))
    expected = float(log_likelihood(case, params))
    df = len(flat(case.params)) - isinstance(case.params[case.free[0]], list)
    assert result.log_likelihood == close(expected, rel=1e-14)
    assert (result.n, result.df, result.nll) == (len(case.data), df, -result.log_likelihood)
    assert result.aic == close(2 * df - 2 * expected, rel=1e-14)
    assert result.bic == close(df * math.log(len(case.data)) - 2 * expected, rel=1e-14)
    assert result.log_likelihood_at(result.vector) == close(result.log_likelihood, rel=1e-14)


@pytest.mark.parametrize("case", [case for case in CASES if case.model is not td.Uniform], ids=repr)
def test_no_other_parameter_is_more_likely(case):
    result = fitted(case)
    theta = result.vector[:-1] if isinstance(case.params[case.free[0]], list) else result.vector
    moves = (
        torch.randn(50, len(theta), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        * 1e-3
    )
    around = [float(log_likelihood(case, unpack(case, theta + move))) for move in moves]
    assert max(around) < result.log_likelihood


@every_case
def test_weights_are_repeated_rows(case):
    weights = [3, 1, 2, 4, 1, 2, 0][: len(case.data)]
    again = np.repeat(np.arange(len(case.data)), weights)
    repeated = case._replace(
        data=[case.data[i] for i in again],
        fixed={name: [value[i] for i in again] for name, value in case.fixed.items()},
    )
    weighted, plain = fitted(case, weights=weights), fitted(repeated)
    assert flat(weighted.params) == close(flat(plain.params), rel=1e-14)
    assert flat(weighted.standard_errors) == close(flat(plain.standard_errors), rel=1e-14)
    assert (weighted.n, weighted.df, weighted.status) == (plain.n, plain.df, plain.status)
    assert (weighted.log_likelihood, weighted.bic) == close(
        (plain.log_likelihood, plain.bic), rel=1e-13
    )


def test_the_share_of_white_balls():
    """L(p) = p^(sum x) (1 - p)^(n - sum x) is largest at the mean, with error sqrt(p (1 - p) /
    n).
    """
    x = torch.bernoulli(torch.full((500,), 0.3), generator=torch.Generator().manual_seed(1))
    result = fit(td.Bernoulli, x)
    p = float(x.double().mean())
    assert float(result.params["probs"]) == p
    assert float(result.standard_errors["probs"]) == close(math.sqrt(p * (1 - p) / 500), rel=1e-15)


# Where there is no error, and where there is no estimate.


@pytest.mark.parametrize(
    ("model", "data", "options", "where", "lost"),
    [
        (td.Bernoulli, [1, 1, 1], {}, "probs = 1", [True]),
        (td.Bernoulli, [0, 0], {}, "probs = 0", [True]),
        (td.Binomial, [4, 3], {"fixed": {"total_count": [4, 3]}}, "probs = 1", [True]),
        (td.Binomial, [0, 0], {"fixed": {"total_count": 9}}, "probs = 0", [True]),
        (td.Geometric, [0, 0, 0], {}, "probs = 1", [True]),
        (td.Poisson, [0, 0, 0, 0], {}, "rate = 0", [True]),
        (td.Categorical, [0, 2, 2], {}, "probs[1] = 0", [False, True, False]),
        (td.Categorical, [0, 0], {}, "probs[0] = 1", [True]),
        (td.Multinomial, [[3, 0, 1], [2, 0, 5]], {}, "probs[1] = 0", [False, True, False]),
        # A sum of weights is rounded, and the share of all is 1 nevertheless.
        (
            td.Bernoulli,
            [1] * 7,
            {"weights": [0.3, 0.1, 0.7, 0.2, 0.9, 0.3, 0.6]},
            "probs = 1",
            [True],
        ),
        (
            td.Binomial,
            [3] * 7,
            {"weights": [0.3, 0.1, 0.7, 0.2, 0.9, 0.3, 0.6], "fixed": {"total_count": 3}},
            "probs = 1",
            [True],
        ),
    ],
)
def test_a_boundary_has_no_standard_error(model, data, options, where, lost):
    result = fit(model, data, **options)
    assert result.status == (
        f"at the boundary of the parameter space: {where}; no standard error there"
    )
    assert result.converged
    assert flat(result.standard_errors) == close(
        [
            math.nan if gone else s
            for gone, s in zip(lost, flat(result.standard_errors), strict=True)
        ],
        nan_ok=True,
    )
    assert math.isnan(math.fsum(flat(result.standard_errors)))


def test_shares_of_rounded_weights_stay_probabilities():
    """A weighted share of all rows is 1, not the next number above it, which no log-likelihood
    bears.
    """
    draw = np.random.default_rng(0)
    for _ in range(200):
        weights = draw.random(draw.integers(2, 50))
        result = fit(td.Bernoulli, np.ones(len(weights)), weights=weights)
        assert (float(result.params["probs"]), result.log_likelihood) == (1.0, 0.0)


NO_MAXIMUM = "no maximum: the data are all equal, and the likelihood grows without bound towards "


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("model", "boundary"),
    [
        (td.Normal, "scale = 0"),
        (td.LogNormal, "scale = 0"),
        (td.Laplace, "scale = 0"),
        (td.Uniform, "high = low"),
    ],
)
def test_equal_data_have_no_maximum(model, boundary, weighted):
    """Whatever the rounding of their mean."""
    for n, value in itertools.product([1, 3, 15, 1000], [0.1, 123.456, 1e10 / 7]):
        weights = np.random.default_rng(n).random(n) if weighted else None
        result = fit(model, [value] * n, weights=weights)
        assert (result.status, result.converged) == (NO_MAXIMUM + boundary, False), (n, value)
        assert all(map(math.isnan, flat(result.standard_errors)))
        assert result.log_likelihood == math.inf


def test_zeros_have_no_exponential_rate():
    result = fit(td.Exponential, [0.0, 0.0])
    assert (result.status, result.converged) == (NO_MAXIMUM + "rate = inf", False)
    assert math.isnan(float(result.standard_errors["rate"]))


LOCATION_SCALE = {
    td.Normal: [1.0, -1.0, 0.5],
    td.Laplace: [1.0, -1.0, 0.5],
    td.Uniform: [1.0, -1.0, 0.5],
    td.Exponential: [1.0, 0.5],
}


@pytest.mark.parametrize("factor", [2.0**-1070, 1e-300, 1e-150, 1e150, 1e300, 1.7e308])
@pytest.mark.parametrize("model", LOCATION_SCALE, ids=lambda model: model.__name__)
def test_numbers_beyond_float64_never_pass_for_a_result(model, factor):
    """Either all is as for the data in a smaller unit, or the fit says that it is not finite and
    has no errors.
    """
    data = LOCATION_SCALE[model]
    plain, scaled = fit(model, data), fit(model, [x * factor for x in data])
    if not scaled.converged:
        assert scaled.status == (
            "not finite: the likelihood or its curvature overflows float64; rescale the data"
        )
        assert all(map(math.isnan, flat(scaled.standard_errors)))
        return
    assert scaled.log_likelihood == close(
        plain.log_likelihood - len(data) * math.log(factor), rel=1e-12
    )
    power = -1 if model is td.Exponential else 1
    expected = [x * factor**power for x in flat(plain.params) + flat(plain.standard_errors)]
    assert flat(scaled.params) + flat(scaled.standard_errors) == close(expected, rel=1e-12)


def test_a_sum_of_weights_beyond_float64():
    with pytest.raises(ValueError, match=r"^expected weights with a finite sum, got inf$"):
        fit(td.Normal, [1.0, 2.0], weights=[1.7e308, 1.7e308])


@pytest.mark.parametrize("offset", [1e8, 1e12, 1e15])
def test_an_offset_changes_the_location_only(offset):
    """The values and their sums with the offsets are whole numbers, which float64 holds exactly."""
    data = np.array([0.0, 1.0, 2.0])
    plain, moved = fit(td.Normal, data), fit(td.Normal, data + offset)
    assert float(moved.params["loc"]) == offset + 1.0
    assert float(moved.params["scale"]) == close(float(plain.params["scale"]), rel=1e-14)
    assert moved.log_likelihood == close(plain.log_likelihood, rel=1e-14)


@pytest.mark.parametrize("count", [1e3, 1e6, 1e9, 1e12, 1e15])
def test_large_counts_keep_the_digits_of_their_probability(count):
    """log P(count; rate = count) = -log(2 pi count) / 2 - 1 / (12 count) + ..., Stirling's
    series.
    """
    expected = 3 * (-0.5 * math.log(2 * math.pi * count) - 1 / (12 * count))
    assert fit(td.Poisson, [count] * 3).log_likelihood == close(expected, rel=1e-9)


def test_large_binomial_counts_keep_the_digits_of_their_probability():
    """Normal approximation at the mean: -log(2 pi n p (1 - p)) / 2 - (1 / p + 1 / (1 - p) - 1) /
    (12 n) + ...
    """
    n, p = 1e12, 0.25
    expected = -0.5 * math.log(2 * math.pi * n * p * (1 - p))
    assert fit(td.Binomial, [p * n], fixed={"total_count": n}).log_likelihood == close(
        expected, rel=1e-9
    )


# Uniform: no errors, an interval.


def test_uniform_is_not_regular():
    result = fit(td.Uniform, [0.3, 1.9, 0.7])
    assert result.status == (
        "not regular: the support moves with the parameters, so that there is no information; "
        "interval() is exact"
    )
    low, high = result.interval(0.9)["low"], result.interval(0.9)["high"]
    reach = 1.6 * (0.1 ** (-1 / 2) - 1)
    assert low.tolist() == close([0.3 - reach, 0.3], rel=1e-14)
    assert high.tolist() == close([1.9, 1.9 + reach], rel=1e-14)


@pytest.mark.parametrize(("n", "level"), [(2, 0.5), (3, 0.9), (8, 0.95)])
def test_uniform_interval_covers_as_often_as_it_says(n, level):
    """20 000 samples from Uniform(0, 1); the reach is the same multiple of every sample's range."""
    samples = torch.rand(20_000, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    lowest, highest = samples.amin(1), samples.amax(1)
    interval = fit(td.Uniform, samples[0]).interval(level)
    reach = float(interval["high"][1] - interval["high"][0]) / float(highest[0] - lowest[0])
    second = fit(td.Uniform, samples[1]).interval(level)["low"]
    assert float(second[1] - second[0]) == close(reach * float(highest[1] - lowest[1]), rel=1e-9)
    error = math.sqrt(level * (1 - level) / 20_000)
    for covered in (
        lowest - reach * (highest - lowest) <= 0,
        highest + reach * (highest - lowest) >= 1,
    ):
        assert float(covered.double().mean()) == pytest.approx(level, abs=4 * error)


def test_one_observation_tells_nothing_about_the_ends():
    result = fit(td.Uniform, [0.3])
    assert result.interval()["low"].tolist() == [-math.inf, 0.3]
    assert result.interval()["high"].tolist() == [0.3, math.inf]


# What data may be.

VALUES = [2, 0, 3, 1, 3]


def containers() -> list:
    kinds: list[tuple[str, Callable[[], Any]]] = [
        ("tuple", lambda: tuple(VALUES)),
        ("floats", lambda: [float(v) for v in VALUES]),
        ("objects", lambda: np.array(VALUES, dtype=object)),
        ("every other", lambda: np.repeat(VALUES, 2)[::2]),
        ("requires grad", lambda: torch.tensor(VALUES, dtype=torch.float64, requires_grad=True)),
        ("Int64 column", lambda: pd.Series(VALUES, dtype="Int64")),
        ("category column", lambda: pd.Series(VALUES, dtype="category")),
        ("column with an index", lambda: pd.Series(VALUES, index=list("edcba"))),
    ]
    for dtype in (
        "uint8",
        "int8",
        "int16",
        "int32",
        "int64",
        "float16",
        "bfloat16",
        "float32",
        "float64",
    ):
        kinds.append(
            (
                f"torch {dtype}",
                lambda dtype=dtype: torch.tensor(VALUES, dtype=getattr(torch, dtype)),
            )
        )
    for dtype in ("uint8", "int8", "uint64", "int64", "float16", "float32", "longdouble", ">f8"):
        kinds.append((f"numpy {dtype}", lambda dtype=dtype: np.array(VALUES, dtype=dtype)))
    return [pytest.param(make, id=name) for name, make in kinds]


@pytest.mark.parametrize("make", containers())
def test_any_container_of_the_same_numbers(make):
    expected, result = fit(td.Poisson, VALUES), fit(td.Poisson, make())
    assert result.to_dict() == expected.to_dict()
    assert result.params["rate"].dtype == torch.float64
    assert not result.params["rate"].requires_grad


@pytest.mark.parametrize(
    "make",
    [list, np.array, torch.tensor, pd.Series, lambda x: pd.Series(x, dtype="boolean")],
    ids=["list", "array", "tensor", "series", "series of boolean"],
)
def test_truth_values_are_0_and_1(make):
    assert float(fit(td.Bernoulli, make([True, False, True, True])).params["probs"]) == 0.75


def test_polars():
    pl = pytest.importorskip("polars")
    assert fit(td.Poisson, pl.Series(VALUES)).to_dict() == fit(td.Poisson, VALUES).to_dict()
    assert fit(td.Poisson, pl.Series([*VALUES, None]), missing="drop").dropped == 1
    assert fit(td.Categorical, pl.Series(["b", "a", "b"])).labels == {"probs": (("a", "b"),)}
    table = pl.DataFrame({"white": [2, 0], "black": [1, 3]})
    assert fit(td.Multinomial, table).params["probs"].tolist() == close([1 / 3, 2 / 3], rel=1e-15)


def test_float32_data_are_taken_as_they_are():
    data = torch.tensor([0.1, 0.2, 0.4])
    assert fit(td.Normal, data).to_dict() == fit(td.Normal, data.double()).to_dict()


MISSING = {
    "list": [2, None, 0, math.nan],
    "numpy": np.array([2, np.nan, 0, np.nan]),
    "torch": torch.tensor([2, math.nan, 0, math.nan]),
    "column": pd.Series([2, None, 0, None]),
    "Int64 column": pd.Series([2, None, 0, None], dtype="Int64"),
    "boolean column": pd.Series([True, None, False, None], dtype="boolean"),
    "list with pandas.NA": [2, pd.NA, 0, pd.NA],
    "masked": np.ma.masked_array([2.0, 7.0, 0.0, 7.0], mask=[False, True, False, True]),
}


@pytest.mark.parametrize("kind", MISSING)
def test_missing_values_raise_or_are_dropped_and_counted(kind):
    data = MISSING[kind]
    with pytest.raises(
        ValueError,
        match=r"^expected no missing values, got 2, the first at row 1; "
        r"missing='drop'",
    ):
        fit(td.Geometric, data)
    result = fit(td.Geometric, data, missing="drop", weights=[3, 100, 1, 100])
    assert (result.n, result.dropped) == (4, 2)
    assert float(result.params["probs"]) == close(
        1 / (1 + (0.25 * 3 if "bool" in kind else 1.5)), rel=1e-15
    )


def test_missing_values_keep_rows_and_counts_together():
    """Both the weights and the number of trials are those of the rows that stay."""
    dropped = fit(
        td.Binomial,
        [1, None, 2],
        weights=[2, 9, 1],
        fixed={"total_count": [5, 99, 3]},
        missing="drop",
    ).to_dict()
    whole = fit(td.Binomial, [1, 2], weights=[2, 1], fixed={"total_count": [5, 3]}).to_dict()
    assert dropped | {"dropped": 0} == whole


def test_texts_are_categories_in_sorted_order():
    result = fit(td.Categorical, ["pear", "apple", "pear", None, "fig"], missing="drop")
    assert result.labels == {"probs": (("apple", "fig", "pear"),)}
    assert result.names == ["probs[apple]", "probs[fig]", "probs[pear]"]
    assert result.params["probs"].tolist() == [0.25, 0.25, 0.5]
    assert result.df == 2


def test_texts_and_numbers_may_be_mixed():
    result = fit(td.Categorical, ["b", 10, 9, 10.5, "b"])
    assert result.names == ["probs[10]", "probs[10.5]", "probs[9]", "probs[b]"]
    assert result.params["probs"].tolist() == [0.2, 0.2, 0.2, 0.4]


@pytest.mark.parametrize(
    "data", [np.datetime64("2020-01-01") + np.arange(3), np.arange(3).astype("m8[s]")]
)
def test_dates_are_not_numbers(data):
    with pytest.raises(TypeError, match=r"^expected data of real numbers, got "):
        fit(td.Normal, data)
    with pytest.raises(TypeError, match=r"^expected data of real numbers, got "):
        fit(td.Normal, pd.Series(data))


@pytest.mark.parametrize("weights", [[0.2] * 4, [1 / 3] * 4, [0.7] * 4])
def test_the_middle_of_an_even_sample_does_not_depend_on_the_unit_of_its_weights(weights):
    assert float(fit(td.Laplace, [1.0, 2.0, 4.0, 9.0], weights=weights).params["loc"]) == 3.0


def test_the_status_says_how_the_estimate_was_found():
    assert fit(td.Normal, [1.0, 2.0, 4.0]).status == "converged: closed form"
    assert fit(td.Gamma, [1.0, 2.0, 4.0]).status.endswith("by Newton's method")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        SystemError("<function _find_and_load> returned NULL without setting an exception"),
    ],
)
def test_memory_that_runs_out_is_a_memory_error(error):
    def log_prob(x, mean):
        raise error

    with pytest.raises(MemoryError, match="expected memory for fit, got too little"):
        fit(Likelihood(log_prob, {"mean": td.constraints.real}), ([1.0, 2.0],))
