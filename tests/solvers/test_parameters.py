"""Parameters with constraints, and the free numbers behind them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import constraints

from nll.solvers.parameters import Parameter, layout

KINDS = {
    "mean": Parameter(),
    "scale": Parameter(constraints.positive),
    "share": Parameter(constraints.unit_interval),
    "shares": Parameter(constraints.simplex, (4,)),
    "coef": Parameter(constraints.real, (2, 3)),
    "sigma": Parameter(constraints.positive_definite, (2, 2)),
}


def theta(size, count=3):
    return torch.randn(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_numbers_and_parameters_are_each_others_inverse():
    own = layout(KINDS)
    assert own.size == 1 + 1 + 1 + 3 + 6 + 3
    params = own.natural(theta(own.size))
    for name, parameter in KINDS.items():
        assert params[name].shape == (3, *parameter.shape)
        assert bool(parameter.constraint.check(params[name]).all())
    torch.testing.assert_close(own.numbers(params), theta(own.size), rtol=1e-6, atol=1e-6)


def test_the_jacobian_is_that_of_the_parameters():
    own = layout({**KINDS, "twin": Parameter(constraints.positive)}, {"twin": "scale", "mean": 2.0})
    at = theta(own.size)

    def flat(vector):
        return torch.cat([value.reshape(-1) for value in own.natural(vector[None]).values()])

    found = own.jacobian(at)
    for one, expected in zip(at, found, strict=True):
        torch.testing.assert_close(expected, torch.autograd.functional.jacobian(flat, one))
    names = own.names
    assert found.shape == (3, len(names), own.size)
    assert found[:, names.index("mean")].count_nonzero() == 0
    assert torch.equal(found[:, names.index("twin")], found[:, names.index("scale")])
    assert names[3:7] == [f"shares[{i}]" for i in range(4)]
    assert names[7] == "coef[0, 0]"


def test_fixed_tied_and_computed_parameters():
    plain = {name: Parameter(constraints.positive) for name in "abcd"}
    own = layout(plain, {"a": 2.0, "b": "c", "d": lambda params: params["a"] * params["c"]})
    assert own.size == 1
    params = own.natural(torch.tensor([[0.0], [math.log(3.0)]], dtype=torch.float64))
    assert {name: value.tolist() for name, value in params.items()} == {
        "a": [2.0, 2.0],
        "b": [1.0, pytest.approx(3.0)],
        "c": [1.0, pytest.approx(3.0)],
        "d": [2.0, pytest.approx(6.0)],
    }


@pytest.mark.parametrize(
    ("constraint", "limits", "inside", "outside"),
    [
        (constraints.real, (1.0, 2.0), 1.5, 2.5),
        (constraints.real, (None, 2.0), -9.0, 2.5),
        (constraints.positive, (None, 2.0), 0.5, 2.5),
        (constraints.positive, (-1.0, 2.0), 0.5, -0.5),
        (constraints.unit_interval, (0.25, None), 0.5, 0.2),
        (constraints.positive, (3.0, None), 4.0, 2.0),
    ],
)
def test_bounds_and_the_constraint_itself_both_hold(constraint, limits, inside, outside):
    own = layout({"x": Parameter(constraint)}, bounds={"x": limits})
    bounded = own.parameters["x"].constraint
    assert bool(bounded.check(torch.tensor(inside)))
    assert not bool(bounded.check(torch.tensor(outside)))
    value = own.natural(torch.linspace(-20, 20, 41, dtype=torch.float64)[:, None])["x"]
    assert bool((bounded.check(value) | (value - inside).abs().isfinite()).all())
    assert own.natural(own.numbers({"x": torch.tensor([inside], dtype=torch.float64)}))[
        "x"
    ].item() == pytest.approx(inside)


@pytest.mark.parametrize(
    ("fixed", "bounds", "error", "message"),
    [
        ({"z": 1.0}, None, ValueError, "expected one of x, y, v in fixed, got 'z'"),
        (None, {"z": (0, 1)}, ValueError, "expected one of x, y, v in bounds, got 'z'"),
        ({"x": -1.0}, None, ValueError, "expected x to be positive, got -1.0"),
        ({"x": [1.0, 2.0]}, None, ValueError, r"expected x of shape \(\), got \(2,\)"),
        ({"x": None}, None, TypeError, "expected a number for x, got None"),
        (
            {"x": "x"},
            None,
            ValueError,
            "expected fixed.'x'. to name another parameter of its shape, got 'x'",
        ),
        (
            {"x": "v"},
            None,
            ValueError,
            "expected fixed.'x'. to name another parameter of its shape, got 'v'",
        ),
        (
            {"x": "y", "y": "x"},
            None,
            ValueError,
            "expected fixed.'x'. to name a parameter that is free or fixed",
        ),
        ([1.0], None, TypeError, "expected fixed as a dict of name -> value, got list"),
        (None, {"y": (2.0, 1.0)}, ValueError, "expected bounds.'y'. with room for y"),
        (
            None,
            {"x": (-2.0, -1.0)},
            ValueError,
            "expected bounds.'x'. with room for x, which is positive",
        ),
        (None, {"y": 3.0}, TypeError, r"expected bounds.'y'. as a pair \(low, high\), got 3.0"),
    ],
)
def test_wrong_wishes_are_named(fixed, bounds, error, message):
    known = {"x": Parameter(constraints.positive), "y": Parameter(), "v": Parameter(shape=(3,))}
    with pytest.raises(error, match=message):
        layout(known, fixed, bounds)
