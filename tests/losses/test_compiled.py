"""Derivatives of the losses in compiled code, judged in float64 by the definition's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import BACKENDS, IN_FLOAT64
from pairwise import by_turns
from scalar_functions import (
    FUNCTIONS,
    assert_equal_to,
    direction,
    leaves,
)
from torch import Tensor

import nll

EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS, indirect=True)


@pytest.fixture(params=IN_FLOAT64)
def backend(request):
    with nll.use_backend(request.param):
        yield request.param


COMPILED = [
    "log_softmax",
    "nll_loss, ignored with weights",
    *(
        name
        for name in FUNCTIONS
        if name.startswith(("C with", "N C d1 with", "everything by", "everything with"))
    ),
    *(
        name
        for name in FUNCTIONS
        if name.startswith(("linear, N C", "linear, ignored", "linear, everything"))
    ),
]


# Compilation takes long: every name, and each backend by turns.
BY_TURNS = pytest.mark.parametrize(
    ("name", "backend"), by_turns(COMPILED, IN_FLOAT64), indirect=["backend"]
)


def compiled(function: Callable, **options) -> Callable:
    """Compile without a break; by default through the whole compiler but the generation of machine
    code.
    """
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, **{"backend": "aot_eager", **options})


def assert_backward_compiles(name: str, device: torch.device, **options) -> None:
    function = FUNCTIONS[name](device)
    at, truth_at = leaves(function), leaves(function)
    value, truth = compiled(function.ours, **options)(*at), function.truth(*truth_at)
    assert_equal_to(value, truth)
    gradients, expected = torch.autograd.grad(value, at), torch.autograd.grad(truth, truth_at)
    for actual, gradient in zip(gradients, expected, strict=True):
        assert_equal_to(actual, gradient)


def assert_forward_mode_compiles(name: str, device: torch.device, **options) -> None:
    function = FUNCTIONS[name](device)
    tangents = tuple(direction(tensor, seed) for seed, tensor in enumerate(function.at))
    call = compiled(lambda at, v: torch.func.jvp(function.ours, at, v), **options)
    value, derivative = call(function.at, tangents)
    truth = function.truth(*(at := leaves(function)))
    gradients = torch.autograd.grad(truth, at)
    assert_equal_to(value, truth.detach())
    assert_equal_to(
        derivative, sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))
    )


@BY_TURNS
def test_compiled_value_and_backward(name, backend, device):
    assert_backward_compiles(name, device)


@BY_TURNS
def test_compiled_forward_mode(name, backend, device):
    assert_forward_mode_compiles(name, device)


# PyTorch's generator of machine code uses what PyTorch deprecates; of a device it asks for less
# precision.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores:UserWarning")
@pytest.mark.parametrize("check", [assert_backward_compiles, assert_forward_mode_compiles])
def test_compiled_to_machine_code(check, backend, device):
    name = next(name for name in COMPILED if name.startswith("everything by row"))
    check(name, device, backend="inductor")


def two_rows(device: torch.device) -> tuple[Tensor, Tensor]:
    x = torch.tensor([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]], device=device)
    return x, torch.tensor([0, 1], device=device)


@EVERY_BACKEND
def test_compiled_once_for_every_number_of_rows(backend, device):
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    weight = torch.tensor([0.5, 1.0, 1.5], device=device)
    loss = compiled(
        lambda x, y: nll.cross_entropy(x, y, weight, label_smoothing=0.1),
        backend=count,
        dynamic=True,
    )
    for rows in (2, 3, 7):
        x = torch.arange(3.0 * rows, device=device).view(rows, 3).sin()
        y = torch.arange(rows, device=device) % 3
        torch.testing.assert_close(loss(x, y), nll.cross_entropy(x, y, weight, label_smoothing=0.1))
    assert len(graphs) == 1


@EVERY_BACKEND
def test_compiled_in_half_types_is_float32(backend, device):
    x, y = (tensor[:1] for tensor in two_rows(device))
    x = x.bfloat16()
    value = compiled(nll.cross_entropy)(x, y)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, nll.cross_entropy(x, y))


@EVERY_BACKEND
@pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated:UserWarning")
def test_compiled_with_a_deprecated_flag(backend, device):
    x, y = two_rows(device)
    value = compiled(lambda x, y: nll.cross_entropy(x, y, size_average=False))(x, y)
    torch.testing.assert_close(value, nll.cross_entropy(x, y, reduction="sum"))


@EVERY_BACKEND
@pytest.mark.parametrize(
    "module",
    [
        nll.NLLLoss(),
        nll.CrossEntropyLoss(torch.tensor([0.5, 1.0, 1.5]), label_smoothing=0.1, softcap=2.0),
    ],
    ids=["NLLLoss", "CrossEntropyLoss"],
)
def test_compiled_modules(module, backend, device):
    module, (x, y) = module.to(device), two_rows(device)
    torch.testing.assert_close(compiled(module)(x, y), module(x, y))
