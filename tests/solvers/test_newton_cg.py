"""Steps by conjugate gradients end where Newton's own do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from nll import Likelihood, SkewNormal, fit
from nll.estimation import rows
from nll.solvers.newton_cg import maximise_by_products


def number(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def search(function, start: Tensor):
    def value(theta: Tensor) -> tuple[Tensor, Tensor]:
        theta = theta.detach().requires_grad_()
        found = function(theta)
        return found.detach(), torch.autograd.grad(found, theta)[0]

    def curvature(theta: Tensor):
        hessian = torch.autograd.functional.hessian(function, theta)
        return lambda vector: -hessian @ vector

    return maximise_by_products(value, curvature, start, 1.0)


CASES = [
    (
        lambda t: -0.5 * ((t - 3) ** 2 * torch.logspace(-4, 4, 40, dtype=torch.float64)).sum(),
        torch.zeros(40),
        3.0,
    ),
    (lambda t: -((1 - t[0]) ** 2) - 100 * (t[1] - t[0] ** 2) ** 2, torch.tensor([-1.2, 1.0]), 1.0),
    # convex at the start
    (lambda t: torch.exp(-0.5 * (t - 1).square().sum()), torch.full((4,), 2.5), 1.0),
    (lambda t: -torch.cosh(t - 2).log().sum(), torch.full((3,), 30.0), 2.0),
]


@pytest.mark.parametrize(("function", "start", "top"), CASES)
def test_the_maximum_is_found(function, start, top):
    found = search(function, start.double())
    assert found.reached
    assert found.decrement <= 1e-10
    torch.testing.assert_close(found.theta, torch.full_like(found.theta, top), rtol=0, atol=2e-4)


def test_no_maximum_is_not_reached():
    assert not search(lambda t: t.sum(), torch.zeros(3, dtype=torch.float64)).reached
    nan = search(lambda t: (t - 1).sqrt().sum(), torch.zeros(3, dtype=torch.float64))
    assert not nan.reached
    assert nan.decrement != nan.decrement


def logistic(n: int, p: int):
    torch.manual_seed(0)
    scale = torch.logspace(-3, 3, p, dtype=torch.float64)
    x = torch.randn(n, p, dtype=torch.float64) * scale
    y = td.Bernoulli(logits=x @ (torch.randn(p, dtype=torch.float64) / scale / p**0.5)).sample()
    return Likelihood(lambda x, y, b: td.Bernoulli(logits=x @ b), {"b": (constraints.real, p)}), (
        x,
        y,
    )


def test_many_parameters_are_fitted_as_few_are(monkeypatch):
    model, data = logistic(3000, 300)
    found = fit(model, data)
    assert found.status == (
        "converged: the Newton steps reached a maximum, by conjugate gradients for 300 parameters"
    )
    monkeypatch.setattr(rows, "MANY_PARAMETERS", 1000)
    exact = fit(model, data)
    assert found.log_likelihood == pytest.approx(exact.log_likelihood, abs=1e-9)
    errors = exact.standard_errors["b"]
    torch.testing.assert_close(
        found.params["b"] / errors, exact.params["b"] / errors, rtol=0, atol=1e-4
    )
    torch.testing.assert_close(found.standard_errors["b"], errors, rtol=1e-5, atol=0)


def test_several_blocks_of_rows_that_are_not_kept(monkeypatch):
    model, data = logistic(2000, 20)
    exact = fit(model, data)
    for name, value in (("MANY_PARAMETERS", 10), ("_ROWS", 300), ("_KEPT", 1000)):
        monkeypatch.setattr(rows, name, value)
    found = fit(model, data)
    assert "conjugate gradients" in found.status
    assert found.log_likelihood == pytest.approx(exact.log_likelihood, abs=1e-9)


def test_more_parameters_than_a_matrix_has_room_for():
    torch.manual_seed(0)
    x, y = torch.randn(50, 3, dtype=torch.float64), torch.randn(50, 2000, dtype=torch.float64)

    class Lines(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 2000)

        def forward(self, x):
            return td.Independent(td.Normal(self.layer(x), 1.0), 1)

    found = fit(Lines(), (x, y))
    assert found.status == (
        "converged: the Newton steps reached a maximum; no standard errors for 8000 parameters"
    )
    design = torch.cat([x, torch.ones(50, 1, dtype=torch.float64)], 1)
    ours = torch.cat([found.params["layer_weight"].T, found.params["layer_bias"][None]])
    torch.testing.assert_close(ours, torch.linalg.lstsq(design, y).solution, rtol=0, atol=1e-6)
    assert bool(found.standard_errors["layer_bias"].isnan().all())


def test_a_large_number_with_a_large_error_is_no_boundary():
    """The column is in small units, so that its coefficient is in large ones."""
    torch.manual_seed(0)
    x = 1e-3 * torch.randn(200, dtype=torch.float64)
    y = 1000 * x + torch.randn(200, dtype=torch.float64)
    line = Likelihood(lambda x, y, b: td.Normal(b * x, 1.0), {"b": constraints.real})
    found = fit(line, (x, y))
    assert found.status.startswith("converged")
    assert float(found.standard_errors["b"]) == pytest.approx(
        float(x.square().sum().rsqrt()), rel=1e-9
    )
    wide = fit(
        td.StudentT, 1e3 + 1e3 * td.StudentT(3.0).sample((200,)), groups=torch.arange(200) % 2
    )
    assert bool(wide.converged.all())
    assert "skewness = inf" in fit(SkewNormal, [0.02, 0.03, 0.05, 0.4, 0.7, 0.9, 1.3, 2.0]).status
