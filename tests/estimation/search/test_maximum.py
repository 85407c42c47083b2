"""The proof of a maximum, on functions whose maxima are known."""

from __future__ import annotations

import pytest
import torch
from surfaces import Surface
from torch.distributions import constraints

from nll.estimation.search.maximum import MOST_PROFILED, is_maximum, noise

SURFACES = {
    "a parabola": (lambda t: -((t[0] - 1) ** 2) - t[1] ** 2 / 8, (1.0, 0.0), True),
    "a slanted parabola": (lambda t: -((t[0] + 3 * t[1]) ** 2) - t[1] ** 2, (0.0, 0.0), True),
    "of fourth degree": (lambda t: -(t[0] ** 4) - t[1] ** 2, (1e-3, 0.0), False),
    "still rising": (lambda t: -torch.exp(-t[0]) - t[1] ** 2, (20.0, 0.0), False),
    "level": (lambda t: -(t[1] ** 2) + 0 * t[0], (0.0, 0.0), False),
    "a saddle": (lambda t: t[0] ** 2 - t[1] ** 2, (0.0, 0.0), False),
}


@pytest.mark.parametrize(("function", "place", "expected"), SURFACES.values(), ids=SURFACES.keys())
def test_only_a_maximum_is_one(function, place, expected):
    surface = Surface(function, constraints.real, constraints.real)
    assert is_maximum(surface, surface.at(*place)) is expected


def test_a_proof_by_steps_is_checked_where_the_error_is_large():
    """Decrements fall fast on the way to a limit at infinity, too."""
    surface = Surface(lambda t: -torch.exp(-t[0]), constraints.positive)
    assert not is_maximum(surface, surface.at(20.0, proved=True))
    surface = Surface(lambda t: -((t[0] - 20) ** 2), constraints.positive)
    assert is_maximum(surface, surface.at(20.0, proved=True))


def test_a_search_that_did_not_end_proves_nothing():
    surface = Surface(lambda t: -(t[0] ** 2), constraints.real)
    assert not is_maximum(surface, surface.at(0.0)._replace(reached=False))


def test_of_many_numbers_the_steps_prove_it():
    surface = Surface(lambda t: -(t**2).sum(), constraints.real)
    top = surface.at(*[0.0] * (MOST_PROFILED + 1))
    assert not is_maximum(surface, top)
    assert is_maximum(surface, top._replace(proved=True))


def test_noise_grows_with_the_value():
    surface = Surface(lambda t: t[0], constraints.real)
    assert noise(surface, -1e6) == pytest.approx(1e-9 * (1 + 1e6))
