"""The inverse of an information matrix, whatever the units of its parameters, and the delta
method.
"""

from __future__ import annotations

import pytest
import torch

from nll.estimation.inference.covariance import inverse, transformed, transformed_by_block

INFORMATION = torch.tensor(
    [[4.0, 1.0, 0.5], [1.0, 3.0, -0.2], [0.5, -0.2, 2.0]], dtype=torch.float64
)


@pytest.mark.parametrize("exponents", [(0, 0, 0), (-80, 3, 70), (-150, 0, 150)])
def test_inverse_in_any_units(exponents):
    """By powers of ten of the parameters: units of 1e-150 and 1e150 in one matrix leave the digits
    as they are.
    """
    unit = torch.tensor([10.0**e for e in exponents], dtype=torch.float64)
    found = inverse(INFORMATION * unit[:, None] * unit) * unit[:, None] * unit
    torch.testing.assert_close(found, torch.linalg.inv(INFORMATION), rtol=1e-14, atol=0)
    torch.testing.assert_close(found, found.T, rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    "information",
    [
        pytest.param([[1.0, 1.0], [1.0, 1.0]], id="singular"),
        pytest.param([[1.0, 2.0], [2.0, 1.0]], id="a saddle"),
        pytest.param([[1.0, 0.0], [0.0, -1.0]], id="a minimum along one axis"),
        pytest.param([[1.0, 0.0], [0.0, 0.0]], id="flat"),
        pytest.param([[1.0, 0.0], [0.0, float("nan")]], id="NaN"),
        pytest.param([[1.0, float("nan")], [float("nan"), 1.0]], id="NaN beside the diagonal"),
        pytest.param([[float("inf"), 0.0], [0.0, 1.0]], id="infinite"),
        pytest.param([[1.0, 1.0 - 1e-16], [1.0 - 1e-16, 1.0]], id="singular to rounding"),
    ],
)
def test_what_has_no_inverse_is_nan(information):
    assert bool(inverse(torch.tensor(information, dtype=torch.float64)).isnan().all())


@pytest.mark.parametrize("size", [3, 700])
@pytest.mark.parametrize("laid_out", ["by rows", "by columns", "within a larger one"])
def test_an_inverse_in_place(size, laid_out):
    """The information of another is left alone; its own memory holds the inverse."""
    root = torch.randn(
        size, 2 * size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    information = root @ root.T
    given = {
        "by rows": information.clone(),
        "by columns": information.T.contiguous().T,
        "within a larger one": torch.zeros(size + 5, size + 7, dtype=torch.float64)[
            2 : size + 2, 1 : size + 1
        ],
    }[laid_out].copy_(information)
    expected = torch.linalg.inv(information)
    found = inverse(given)
    torch.testing.assert_close(given, information, rtol=0, atol=0)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)
    again = inverse(given, overwrite=True)
    assert again.data_ptr() == given.data_ptr()
    torch.testing.assert_close(again, found, rtol=1e-12, atol=1e-14)


def test_a_function_of_each_part_alike():
    covariance, jacobian = (
        torch.linalg.inv(torch.block_diag(INFORMATION, INFORMATION) + 0.1),
        INFORMATION.tril(),
    )
    whole = torch.block_diag(jacobian, jacobian)
    expected = whole @ covariance @ whole.T
    torch.testing.assert_close(
        transformed_by_block(covariance, jacobian), expected, rtol=1e-13, atol=1e-15
    )
    torch.testing.assert_close(covariance, expected, rtol=1e-13, atol=1e-15)  # in place


def test_the_delta_method():
    """Var(a'x) = a' V a for each row a of the Jacobian."""
    covariance = torch.linalg.inv(INFORMATION)
    jacobian = torch.tensor([[1.0, -1.0, 0.0], [0.0, 2.0, 0.0]], dtype=torch.float64)
    found = transformed(covariance, jacobian)
    assert float(found[0, 0]) == pytest.approx(
        float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]), rel=1e-14
    )
    assert float(found[1, 1]) == pytest.approx(float(4 * covariance[1, 1]), rel=1e-14)
    assert float(found[0, 1]) == pytest.approx(
        float(2 * covariance[0, 1] - 2 * covariance[1, 1]), rel=1e-14
    )
