"""The families that `nll compare` takes by default."""

from __future__ import annotations

import numpy as np
import pytest

from nll.cli import families


@pytest.mark.parametrize(
    ("values", "usual"),
    [
        ([0.0, 3.0, 7.0], ["poisson", "geometric", "negative_binomial"]),
        ([-1.5, 0.5], ["normal", "laplace", "student_t", "gumbel", "skew_normal"]),
    ],
)
def test_the_usual_families_are_those_whose_support_holds_the_data(values, usual):
    assert families.usual(np.array(values)) == usual


def test_beta_is_usual_inside_the_unit_interval_only():
    assert "beta" in families.usual(np.array([0.25, 0.75]))
    assert "beta" not in families.usual(np.array([0.25, 1.75]))


def test_names_are_those_of_classes_with_underscores():
    assert families.snake("StudentT") == "student_t"
    assert families.snake("Chi2") == "chi2"
