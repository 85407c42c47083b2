"""Units in which a search is easy."""

from __future__ import annotations

import torch

from nll.solvers.units import Units, units_of

ROLES = {"loc": "location", "scale": "scale", "rate": "rate"}
DATA = torch.tensor([[1.0, 5.0, 9.0, 100.0], [2e9, 2e9 + 3, 2e9 + 8, 2e9]], dtype=torch.float64)


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_without_roles_nothing_changes():
    units = units_of(DATA[0], None)
    values = DATA[0]
    assert units.data(values) is values
    params = {"df": numbers(3.0)}
    assert units.given(params) is params
    assert units.own(params) is params


def test_many_data_sets_have_the_units_of_each():
    together = units_of(DATA, ROLES)
    for row, values in enumerate(DATA):
        alone = units_of(values, ROLES)
        assert torch.equal(together.centre[row], alone.centre[0])
        assert torch.equal(together.scale[row], alone.scale[0])
        assert torch.equal(together.data(DATA)[row], alone.data(values))


def test_the_scale_is_a_power_of_2_near_the_spread():
    units = units_of(DATA, ROLES)
    assert units.centre.tolist() == [5.0, 2e9]
    assert units.scale.tolist() == [8.0, 16.0]
    assert units_of(numbers(7.0, 7.0), ROLES).scale.tolist() == [1.0]


def test_parameters_move_with_the_data():
    units = Units(numbers(10.0), numbers(4.0), ROLES)
    own = {"loc": numbers(0.5), "scale": numbers(2.0), "rate": numbers(2.0), "df": numbers(3.0)}
    given = units.given(own)
    assert [float(value) for value in given.values()] == [12.0, 8.0, 0.5, 3.0]
    assert {name: float(value) for name, value in units.own(given).items()} == {
        name: float(value) for name, value in own.items()
    }
    assert units.factors(own).tolist() == [[4.0, 4.0, 0.25, 1.0]]
