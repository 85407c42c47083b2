"""Newton's method in a trust region, on functions whose maximum is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from nll.solvers.outcome import Sums
from nll.solvers.trust_region import decrement_of, maximise, maximise_each, step_within


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def sums_of(function):
    """Value, score and information of a function of a vector, by automatic differentiation."""

    def sums(theta: Tensor) -> Sums:
        hessian = torch.autograd.functional.hessian(function, theta)
        score = torch.autograd.functional.jacobian(function, theta)
        return Sums(function(theta), score, -hessian)

    return sums


CURVATURE = torch.tensor([[4.0, 1.0], [1.0, 0.5]], dtype=torch.float64)
PEAK = tensor(3.0, -2.0)


def quadratic(theta: Tensor) -> Tensor:
    return -0.5 * (theta - PEAK) @ CURVATURE @ (theta - PEAK)


def test_a_quadratic_takes_one_step():
    seen = []
    found = maximise(
        sums_of(quadratic), tensor(10.0, 10.0), progress=lambda *what: seen.append(what)
    )
    assert found.theta.tolist() == pytest.approx(PEAK.tolist(), rel=1e-14)
    assert (found.reached, found.status) == (True, "converged")
    # The expected gain of the first step is all of it; the second step sees that nothing is left.
    start = float(quadratic(tensor(10.0, 10.0)))
    assert seen[0] == pytest.approx((0, start, -start), rel=1e-14)
    assert len(seen) == found.steps == 2
    assert found.decrement <= 1e-25


def rosenbrock(theta: Tensor) -> Tensor:
    return -((1 - theta[0]) ** 2) - 100 * (theta[1] - theta[0] ** 2) ** 2


def bell(theta: Tensor) -> Tensor:
    return torch.exp(-0.5 * (theta - 1).square().sum())


def cauchy(theta: Tensor) -> Tensor:
    """Three observations and their location: not concave between and beyond them."""
    return -torch.log1p((theta - tensor(0.0, 0.1, 5.0)).square()).sum()


@pytest.mark.parametrize(
    ("function", "start", "peak"),
    [
        # Curved the wrong way at the start, where Newton's own step would lead downhill or to a
        # saddle.
        pytest.param(rosenbrock, (-1.2, 1.0), (1.0, 1.0), id="a bent ridge"),
        pytest.param(bell, (3.0, -2.0), (1.0, 1.0), id="the flank of a bell"),
        pytest.param(cauchy, (-8.0,), None, id="far from heavy tails"),
        pytest.param(
            lambda t: -(t**4).sum() + (t**2).sum(), (1e-3,), (0.5**0.5,), id="beside a minimum"
        ),
    ],
)
def test_from_where_it_is_not_concave(function, start, peak):
    found = maximise(sums_of(function), tensor(*start))
    assert found.reached
    assert float(found.sums.log_likelihood) > float(function(tensor(*start)))
    assert float(found.sums.score.abs().max()) <= 1e-7
    assert bool((torch.linalg.eigvalsh(found.sums.information) > 0).all())
    if peak is not None:
        assert found.theta.tolist() == pytest.approx(peak, rel=1e-7)


@pytest.mark.parametrize("unit", [1e-150, 1e-12, 1e-3, 1e5, 1e12, 1e150])
def test_the_units_of_a_parameter_do_not_matter(unit):
    """Scaling by powers of ten, the same points are visited and the same decrements found, to
    rounding.
    """

    def path(scale: Tensor) -> tuple[list, list, int]:
        trail, gains = [], []

        def sums(theta):
            trail.append((theta / scale).tolist())
            plain = sums_of(rosenbrock)(theta / scale)
            return Sums(
                plain.log_likelihood,
                plain.score / scale,
                plain.information / scale / scale[:, None],
            )

        found = maximise(
            sums, tensor(-1.2, 1.0) * scale, lambda step, value, gain: gains.append(gain)
        )
        assert found.reached
        return trail, gains, found.steps

    trail, gains, steps = path(tensor(1.0, unit))
    expected, expected_gains, expected_steps = path(tensor(1.0, 1.0))
    assert steps == expected_steps
    assert trail[-1] == pytest.approx(expected[-1], rel=1e-9)
    # the last ones are rounding errors
    assert gains[:-2] == pytest.approx(expected_gains[:-2], rel=1e-6)


def test_steps_into_nowhere_are_halved():
    """log t - 2 t is NaN for t < 0, where the first steps from t = 5 would lead."""
    visited = []

    def sums(theta: Tensor) -> Sums:
        visited.append(float(theta))
        return Sums(
            theta.log().sum() - 2 * theta.sum(), 1 / theta - 2, torch.diag(1 / theta.square())
        )

    found = maximise(sums, tensor(5.0))
    assert min(visited) < 0
    assert float(found.theta) == pytest.approx(0.5, rel=1e-12)
    assert found.reached


def test_every_step_raises_the_value():
    values = []
    maximise(sums_of(rosenbrock), tensor(-1.2, 1.0), lambda step, value, gain: values.append(value))
    assert values == sorted(values)
    assert len(values) > 10


def test_a_start_where_the_likelihood_is_not_finite():
    found = maximise(sums_of(lambda theta: theta.log().sum()), tensor(-1.0))
    assert (found.reached, found.steps) == (False, 0)
    assert math.isnan(found.decrement)
    assert found.status == "not finite: the likelihood at the starting values"


def test_a_value_that_rises_for_ever_is_not_reached():
    line = maximise(sums_of(lambda theta: theta.sum() + 0 * theta.square().sum()), tensor(0.0))
    assert not line.reached
    assert line.status == "out of steps: 200 Newton steps"


def test_a_wrong_score_is_found_out():
    """The score points uphill where there is only downhill: no step is taken, and nothing is
    claimed.
    """

    def sums(theta: Tensor) -> Sums:
        return Sums(-1e6 * theta.abs().sum(), 1 + 2 * theta, 2 * torch.eye(1, dtype=torch.float64))

    found = maximise(sums, tensor(0.0))
    assert (found.reached, found.theta.tolist(), found.steps) == (False, [0.0], 0)
    assert found.status == (
        "stopped: no step along the ascent direction raises the likelihood (expected gain 0.25)"
    )


def test_reached_means_that_nothing_is_left_to_gain():
    """The information is singular but for rounding, so that the last full step overshoots."""
    tilt = 1e-9
    information = torch.tensor([[1.0, 1.0], [1.0, 1.0 + tilt**2]], dtype=torch.float64)

    def sums(theta: Tensor) -> Sums:
        noise = 1e-7 * torch.sin(1e9 * theta)  # the rounding errors of a sum
        return Sums(-0.5 * theta @ information @ theta, -information @ theta + noise, information)

    found = maximise(sums, tensor(1.0, 2.0))
    assert not found.reached or found.decrement <= 1e-8


def test_the_decrement_is_what_a_quadratic_still_gains():
    at = tensor(1.0, 1.0)
    assert decrement_of(sums_of(quadratic)(at)) == pytest.approx(-float(quadratic(at)), rel=1e-14)


@pytest.mark.parametrize("size", [3, 80])
def test_many_searches_at_once_are_as_each_alone(size):
    """Quadratics and a function with a flank that curves the wrong way, of few and of many
    parameters.
    """
    draw = torch.Generator().manual_seed(3)
    peaks = torch.randn(6, size, generator=draw, dtype=torch.float64)
    root = torch.randn(6, size, size, generator=draw, dtype=torch.float64)
    curved = root @ root.mT / size + torch.eye(size, dtype=torch.float64)

    def one(index):
        def function(theta):
            away = theta - peaks[index]
            return (
                -0.5 * away @ curved[index] @ away
                if index % 2
                else torch.exp(-away.square().sum() / size)
            )

        return function

    def sums(theta, which):
        found = [sums_of(one(int(index)))(t) for t, index in zip(theta, which, strict=True)]
        return Sums(*(torch.stack(parts) for parts in zip(*found, strict=True)))

    start = torch.zeros(6, size, dtype=torch.float64)
    together = maximise_each(sums, start, torch.ones(6, dtype=torch.float64))
    assert bool(together.reached.all())
    torch.testing.assert_close(together.theta, peaks, rtol=0, atol=1e-6)
    for index in range(6):
        alone = maximise(sums_of(one(index)), start[index])
        assert together.one(index).steps == alone.steps
        torch.testing.assert_close(together.theta[index], alone.theta, rtol=0, atol=1e-6)


def test_on_a_boundary_the_step_has_the_radius_as_its_length():
    values = torch.tensor([[-1.0, 2.0], [0.5, 2.0], [-1.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    # the third: no slope
    score = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    radius = torch.tensor([2.0, 0.1, 3.0, 5.0], dtype=torch.float64)
    step, inside = step_within(score, values, radius)
    torch.testing.assert_close(step.square().sum(1).sqrt(), radius, rtol=1e-5, atol=0)
    assert not inside.any()
    angle = torch.linspace(0, 2 * math.pi, 100_001, dtype=torch.float64)
    for d, g, h, r in zip(step, score, values, radius, strict=True):
        round_ = r * torch.stack([angle.cos(), angle.sin()], 1)
        best = (round_ @ g - round_.square() @ h / 2).max()
        assert float(d @ g - d.square() @ h / 2) == pytest.approx(float(best), rel=1e-5)
