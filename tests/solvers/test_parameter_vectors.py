"""Parameters as one vector, and back."""

from __future__ import annotations

import torch

from nll.solvers.parameters import flatten, unflatten

PARAMS = {"loc": torch.tensor(1.0), "coef": torch.arange(6.0).reshape(2, 3)}


def test_a_vector_has_all_numbers_in_order():
    assert flatten(PARAMS).tolist() == [1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_each_parameter_comes_back_in_its_shape():
    again = unflatten(flatten(PARAMS), PARAMS)
    assert all(torch.equal(again[name], value) for name, value in PARAMS.items())


def test_further_dimensions_stay():
    ends = torch.stack([flatten(PARAMS), flatten(PARAMS) + 1], 1)
    bounds = unflatten(ends, PARAMS)
    assert bounds["loc"].tolist() == [1.0, 2.0]
    assert bounds["coef"].shape == (2, 3, 2)
