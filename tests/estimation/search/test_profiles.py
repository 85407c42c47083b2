"""Profiles followed away from an optimum, on functions whose profiles are known."""

from __future__ import annotations

import pytest
import torch
from surfaces import Surface
from torch.distributions import constraints

from nll.estimation.search.profiles import Profiles, higher


def followed(function, start, *kinds):
    surface = Surface(function, *kinds)
    profiles = Profiles(surface, surface.at(*start))
    profiles.follow()
    return profiles


def test_the_other_numbers_follow():
    """The profile of a over b is -a^2 / 2; along a alone it is -a^2."""
    result = followed(
        lambda t: -(t[0] ** 2) + t[0] * t[1] - t[1] ** 2 / 2,
        (0.0, 0.0),
        constraints.real,
        constraints.real,
    )
    along = result.number == 0
    a, b = result.last[along].unbind(1)
    torch.testing.assert_close(b, a, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(result.value[along], -(a**2) / 2, rtol=1e-6, atol=1e-6)


def test_a_limit_is_followed_to_its_boundary():
    result = followed(lambda t: -torch.exp(-t[0]), (5.0,), constraints.positive)
    up = result.side > 0
    assert float(result.end[up]) > 15
    assert float(result.value[up]) == pytest.approx(0.0, abs=1e-6)
    assert float(result.value[~up]) < -4


def test_a_wall_ends_in_a_fall():
    """The logarithm of a negative number: the profile stops there, and counts as fallen."""
    result = followed(lambda t: torch.log(1 - t[0]) + t[0], (0.0,), constraints.real)
    up = result.side > 0
    assert float(result.last[up].max()) < 1
    assert float(result.value[up]) < -4


def test_a_rise_towards_a_wall_ends_near():
    """-log(1 - a) / 2 grows without bound towards a = 1, which is not infinity."""
    result = followed(lambda t: -torch.log(1 - t[0]) / 2 - t[0] / 2, (0.5,), constraints.real)
    up = result.side > 0
    assert bool(result.near[up])
    assert 0.99 < float(result.end[up]) < 1
    assert float(result.highest[up]) > 1


def test_something_higher_is_remembered():
    double = followed(
        lambda t: torch.logsumexp(torch.stack((-((t[0] + 1.5) ** 2), 2 - (t[0] - 1.5) ** 2)), 0),
        (-1.5,),
        constraints.real,
    )
    best = double.highest.argmax()
    assert float(double.highest[best]) > 1
    assert float(double.place[best, 0]) > 0


def test_of_two_places_the_higher_one_unless_it_is_not_a_number():
    surface = Surface(lambda t: torch.sqrt(t[0]), constraints.real)
    first, second = (torch.tensor([[v] for v in values]).double() for values in ((1, -1), (2, 3)))
    assert higher(surface, first, second)[:, 0].tolist() == [2.0, 3.0]
    assert higher(surface, second, first)[:, 0].tolist() == [2.0, 3.0]
