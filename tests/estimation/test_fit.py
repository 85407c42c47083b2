"""Closed-form families: the estimate, its errors, its log-likelihood, and what it says when there
is none.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import numpy as np
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
