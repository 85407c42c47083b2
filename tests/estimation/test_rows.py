"""Rows of several kinds keep the order of the data, whatever segments they are computed in."""

from __future__ import annotations

import torch
from torch import distributions as td

import nll

TIMES = [0.7, 2.0, 0.2, 3.0, 1.1, 2.5]
RIGHT = [False, True, False, True, False, False]
WEIGHTS = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_weights_and_log_probabilities_are_those_of_the_rows():
    data = nll.censored(TIMES, right=RIGHT)
    solution = nll.fit(td.Exponential, data, weights=WEIGHTS).search()
    observations, (rate,) = solution.objective.observations, solution.theta.exp()
    assert observations.weights.tolist() == WEIGHTS
    times = solution.units.data(torch.tensor(TIMES, dtype=torch.float64))
    exact = (~torch.tensor(RIGHT)).double()
    torch.testing.assert_close(
        observations.log_probabilities(solution.theta), exact * rate.log() - rate * times
    )
    # the derivative with respect to the logarithm of the rate
    scores = observations.scores(solution.theta)[:, 0]
    torch.testing.assert_close(scores, exact - rate * times)


def test_other_weights_are_those_of_the_rows():
    data = nll.censored(TIMES, right=RIGHT)
    expected = nll.fit(td.Exponential, data, weights=WEIGHTS).search().objective
    objective = nll.fit(td.Exponential, data, weights=WEIGHTS[::-1]).search().objective
    weights = torch.tensor([WEIGHTS], dtype=torch.float64)
    theta = torch.tensor([[0.3]], dtype=torch.float64)
    value = objective.observations.reweighted(weights).log_likelihood(theta)
    torch.testing.assert_close(value, expected.observations.log_likelihood(theta))


def test_a_singular_matrix_costs_its_own_place_alone():
    pairs = torch.tensor([[0.0, 1.0], [1.0, 0.5], [2.0, 2.5], [3.0, 1.0]], dtype=torch.float64)
    objective = nll.fit(td.MultivariateNormal, pairs).search().objective
    places = torch.eye(objective.layout.size, dtype=torch.float64)[:3]
    places[1] = 1e5  # variances that are infinite
    value = objective.log_likelihood(places)
    assert value[1].isnan()
    for i in (0, 2):
        torch.testing.assert_close(value[[i]], objective.log_likelihood(places[[i]]))
    weights = torch.ones(3, len(pairs), dtype=torch.float64)
    torch.testing.assert_close(
        objective.observations.reweighted(weights).log_likelihood(places), value, equal_nan=True
    )
