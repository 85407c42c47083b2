"""Every derivative of the losses, judged in float64 by the definition's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from cases import BACKENDS, DEVICES, IN_FLOAT64
from scalar_functions import (
    CASES,
    FUNCTIONS,
    Function,
    assert_equal_to,
    direction,
    leaves,
)
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import nll
from nll.losses import dispatch


@pytest.fixture(params=IN_FLOAT64)
def backend(request):
    with nll.use_backend(request.param):
        yield request.param


@pytest.fixture(params=FUNCTIONS)
def function(request, backend, device) -> Function:
    return FUNCTIONS[request.param](device)


def hessian_product(function: Function, v: Tensor) -> Tensor:
    """H v of the definition, for its first argument, by differentiating twice in reverse."""
    x, *rest = function.at
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(function.truth(x, *rest), x, create_graph=True)
    if not gradient.requires_grad:  # linear
        return torch.zeros_like(x)
    return torch.autograd.grad((gradient * v).sum(), x)[0]


@pytest.mark.skipif("triton" not in BACKENDS, reason=f"{dispatch.TRITON_MISSING}")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_under_the_kernels_of_accelerators_float64_is_the_reference_s(name):
    found = []
    for backend in ("triton", "reference"):
        function = FUNCTIONS[name](DEVICES["triton"])
        with nll.use_backend(backend):
            at = leaves(function)
            value = function.ours(*at)
            gradients = torch.autograd.grad(value, at, create_graph=True)
            squares = [g.square().sum() for g in gradients if g.requires_grad]
            second = torch.autograd.grad(sum(squares), at, allow_unused=True) if squares else ()
            tangents = tuple(direction(tensor) for tensor in function.at)
            _, forward = torch.func.jvp(function.ours, function.at, tangents)
        found.append([value, *gradients, *second, forward])
    torch.testing.assert_close(*found, rtol=0.0, atol=0.0, equal_nan=True)


def test_gradcheck(function, device):
    assert gradcheck(function.ours, leaves(function), fast_mode=device.type != "cpu")


@pytest.mark.parametrize("fast_mode", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_gradgradcheck(fast_mode, function, device):
    if device.type != "cpu" and not fast_mode:
        pytest.skip("so many small steps would take long")
    assert gradgradcheck(function.ours, leaves(function), fast_mode=fast_mode)


def test_backward_is_the_definition_s(function):
    gradients = torch.autograd.grad(function.ours(*(at := leaves(function))), at)
    expected = torch.autograd.grad(function.truth(*(at := leaves(function))), at)
    for actual, truth in zip(gradients, expected, strict=True):
        assert_equal_to(actual, truth)


def test_retained_backward_gives_the_same_again(function):
    at = leaves(function)
    value = function.ours(*at)
    first = torch.autograd.grad(value, at, retain_graph=True)
    second = torch.autograd.grad(value, at)
    torch.testing.assert_close(first, second, rtol=0.0, atol=0.0, equal_nan=True)


def test_double_backward(function):
    x, *rest = leaves(function)
    v = direction(x)
    (gradient,) = torch.autograd.grad(function.ours(x, *rest), x, create_graph=True)
    product = (
        torch.autograd.grad((gradient * v).sum(), x)[0]
        if gradient.requires_grad
        else torch.zeros_like(x)
    )
    assert_equal_to(product, hessian_product(function, v))


def test_forward_mode(function):
    tangents = tuple(direction(tensor, seed) for seed, tensor in enumerate(function.at))
    _, derivative = torch.func.jvp(function.ours, function.at, tangents)
    gradients = torch.autograd.grad(function.truth(*(at := leaves(function))), at)
    assert_equal_to(
        derivative, sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))
    )


def of_input(function: Function) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """The loss as a function of its first argument; the point; a direction."""
    x, *rest = function.at
    return lambda x: function.ours(x, *rest), x, direction(x)


def test_reverse_over_forward(function):
    loss, x, v = of_input(function)
    product = torch.func.grad(lambda x: torch.func.jvp(loss, (x,), (v,))[1])(x)
    assert_equal_to(product, hessian_product(function, v))


def test_forward_over_reverse(function):
    loss, x, v = of_input(function)
    _, product = torch.func.jvp(torch.func.grad(loss), (x,), (v,))
    assert_equal_to(product, hessian_product(function, v))


def test_forward_over_forward(function):
    loss, x, v = of_input(function)
    _, second = torch.func.jvp(lambda x: torch.func.jvp(loss, (x,), (v,))[1], (x,), (v,))
    assert_equal_to(second, (v * hessian_product(function, v)).sum())


def test_hessian(function):
    loss, x, v = of_input(function)
    if not x.numel():
        pytest.skip("torch.func.hessian takes no empty tensor")
    H = torch.func.hessian(loss)(x).reshape(x.numel(), x.numel())
    assert_equal_to((H @ v.flatten()).reshape(x.shape), hessian_product(function, v))


def batch(name: str, device: torch.device) -> tuple[list[Tensor], list[Tensor], list[dict], dict]:
    """Three problems drawn from different seeds: inputs, targets, what else differs, and what they
    share.
    """
    problems = [replace(CASES[name], seed=seed).build(torch.float64, device) for seed in range(3)]
    own = {"row_weights", "allowed_classes"}
    shared = {key: value for key, value in problems[0].kwargs.items() if key not in own}
    differing = [{key: value for key, value in p.kwargs.items() if key in own} for p in problems]
    return [p.input for p in problems], [p.target for p in problems], differing, shared


VMAPPED = [
    "N C",
    "N C d1 d2 with smoothing",
    "C with weights and smoothing",
    "C with everything",
    "ignored with weights and smoothing",
    "probabilities with smoothing",
    "uint8",
    "softcap and temperature",
    "z-loss with weights",
    "row weights with weights",
    "allowed classes with smoothing",
    "everything",
    "everything with probabilities",
]


@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("name", VMAPPED)
def test_vmap_is_a_loop(name, reduction, backend, device):
    inputs, targets, differing, shared = batch(name, device)

    def loss(x, y, own):
        return nll.cross_entropy(x, y, reduction=reduction, **own, **shared)

    looped = torch.stack(
        [loss(*problem) for problem in zip(inputs, targets, differing, strict=True)]
    )
    stacked = {key: torch.stack([own[key] for own in differing]) for key in differing[0]}
    assert_equal_to(torch.vmap(loss)(torch.stack(inputs), torch.stack(targets), stacked), looped)


def test_vmap_of_nll_loss_and_log_softmax(backend, device):
    inputs, targets, _, _ = batch("N C", device)

    def loss(x, y):
        return nll.nll_loss(nll.log_softmax(x, 1), y)

    looped = torch.stack([loss(x, y) for x, y in zip(inputs, targets, strict=True)])
    assert_equal_to(torch.vmap(loss)(torch.stack(inputs), torch.stack(targets)), looped)


def test_gradients_per_sample(backend, device):
    inputs, targets, _, _ = batch("N C", device)
    gradient = torch.func.grad(nll.cross_entropy)
    looped = torch.stack([gradient(x, y) for x, y in zip(inputs, targets, strict=True)])
    assert_equal_to(torch.vmap(gradient)(torch.stack(inputs), torch.stack(targets)), looped)
