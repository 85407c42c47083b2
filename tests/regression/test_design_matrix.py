"""Columns standardised for the solver: the same linear predictors in both units."""

import pytest
import torch

from nll.regression.design_matrix import Columns, Response

X = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 10 + 5


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("rotate", [True, False])
def test_coefficients_return_to_the_units_of_the_columns(intercept, rotate):
    columns = Columns.of(X, ["a", "b", "c"], intercept)
    columns = columns.orthogonal() if rotate else columns
    b = torch.arange(1.0, columns.count + 1, dtype=torch.float64)
    torch.testing.assert_close(columns.x @ b, columns.given() @ (columns.to_data @ b))
    assert columns.max_norm >= float(columns.x.square().sum(1).amax()) ** 0.5 - 1e-12
    torch.testing.assert_close(columns.block(slice(3, 7)), columns.x[3:7])
    torch.testing.assert_close(columns.taken(slice(3, 7)).x, columns.x[3:7])


def test_orthogonal_columns_are():
    gram = Columns.of(X, None, True).orthogonal().x
    torch.testing.assert_close(gram.T @ gram / 50, torch.eye(4, dtype=torch.float64))


def test_the_product_is_that_of_the_information():
    columns = Columns.of(X, None, True)
    labels = (X[:, 0] > 5).long() + (X[:, 1] > 5)
    theta = torch.full((2, 4), 0.1, dtype=torch.float64)
    direction = torch.arange(8.0, dtype=torch.float64).reshape(2, 4)
    information = columns.row_sums(Response(labels), theta, "information").square
    times = columns.curvature(Response(labels), theta)
    for _ in range(2):  # the second time with the probabilities of the first
        expected = (information @ direction.reshape(-1)).reshape(2, 4)
        torch.testing.assert_close(times(direction), expected)
