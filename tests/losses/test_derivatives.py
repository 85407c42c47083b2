"""Every derivative of the losses, in eager and in compiled code, judged in float64 by the
definition's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import pytest
import torch
from cases import BACKENDS, BASE_CASES, Case, definition, definition_log_softmax, definition_nll
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import nll

with warnings.catch_warnings():
    # Loaded at the first use of forward mode; it calls torch.jit.script, which is deprecated.
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
    import torch._decomp.decompositions_for_jvp

CASES = {case.name: case for case in BASE_CASES}

# Every argument and every number of dimensions at least once, no infinite values.
NAMES = [
    "C with everything",
    "C with weights and smoothing",
    "N C",
    "N C d1 with probabilities",
    "N C d1 d2 with smoothing",
    "zero rows with weights and smoothing",
    "strided with smoothing",
    "ignored with weights and smoothing",
    "ignored class 4 with weights",
    "masses with smoothing",
    "softcap and temperature",
    "z-loss with weights",
    "z-loss with probabilities",
    "row weights with weights",
    "row weights with probabilities",
    "allowed classes by row with smoothing",
    "allowed classes with probabilities",
    "everything by row",
    "everything with probabilities",
]


LINEAR = [
    "C with everything",
    "N C",
    "ignored with weights and smoothing",
    "z-loss with weights",
    "row weights with weights",
    "masses with smoothing",
    "softcap and temperature",
    "z-loss with probabilities",
    "everything by row",
]


class Function(NamedTuple):
    """A scalar function of some tensors, by our loss and by its definition, and a point to
    differentiate at.
    """

    ours: Callable[..., Tensor]
    truth: Callable[..., Tensor]
    # the input; then, where they are given, class probabilities and row weights
    at: tuple[Tensor, ...]


def scalar(
    loss: Callable[..., Tensor],
    define: Callable[..., Tensor],
    case: Case,
    reduction: str,
    device: torch.device,
) -> Function:
    """Fix labels and options; sum the rows of reduction "none" with weights, that none may hide
    another.
    """
    build = case.build_nll if loss is nll.nll_loss else case.build
    input, target, kwargs = build(torch.float64, device)
    kwargs = {**kwargs, "reduction": reduction}
    soft, weighted = target.is_floating_point(), "row_weights" in kwargs
    # probabilities stay 0 for a class that is not allowed, else the loss is infinite
    support = target != 0

    def call(function):
        def of(input, *rest):
            rest = list(rest)
            y = rest.pop(0) * support if soft else target
            extra = {"row_weights": rest.pop(0)} if weighted else {}
            value = function(input, y, **{**kwargs, **extra})
            weights = torch.linspace(0.5, 1.5, value.numel(), device=device)
            return (value * weights.view(value.shape)).sum()

        return of

    at = (input, *([target] if soft else []), *([kwargs["row_weights"]] if weighted else []))
    return Function(call(loss), call(lambda *args, **kwargs: define(*args, **kwargs).loss), at)


def linear_function(case: Case, reduction: str, device: torch.device) -> Function:
    """Scores that are a product, in blocks of two rows or less."""
    budget = 2 * 8 * 8 * (case.shape[-1] + 5)
    made = scalar(
        lambda layer, y, **kwargs: nll.linear_cross_entropy(
            layer[0], layer[1], y, linear_bias=layer[2], max_memory=budget, **kwargs
        ),
        lambda layer, y, **kwargs: definition(layer[0] @ layer[1].T + layer[2], y, **kwargs),
        case,
        reduction,
        device,
    )
    x, *rest = made.at
    classes = x.shape[-1]
    numbers = torch.linspace(-1.0, 1.0, 5 * classes, dtype=torch.float64, device=device)
    head = numbers.view(classes, 5).mul(40.0).sin()
    bias = torch.linspace(0.5, -0.5, classes, dtype=torch.float64, device=device)
    return Function(
        lambda x, head, bias, *rest: made.ours((x, head, bias), *rest),
        lambda x, head, bias, *rest: made.truth((x, head, bias), *rest),
        ((x @ head).tanh(), head, bias, *rest),
    )


def log_softmax_function(device: torch.device) -> Function:
    """The dimension of the classes of (N, C, d1), in a sum with weights."""
    at = torch.linspace(-2.0, 2.0, 24, dtype=torch.float64, device=device).view(2, 4, 3).sin() * 3.0
    weights = torch.linspace(0.5, 1.5, 24, dtype=torch.float64, device=device).view(2, 4, 3).cos()
    return Function(
        lambda x: (nll.log_softmax(x, 1) * weights).sum(),
        lambda x: (definition_log_softmax(x, 1) * weights).sum(),
        (at,),
    )


def functions() -> dict[str, Callable[[torch.device], Function]]:
    table = {"log_softmax": log_softmax_function}
    for name in ("N C", "ignored with weights"):
        case = CASES[name]
        table[f"nll_loss, {name}"] = partial(scalar, nll.nll_loss, definition_nll, case, "mean")
    for i, name in enumerate(NAMES):
        case, reduced = CASES[name], ("mean", "none", "sum")[i % 3]
        table[f"{name}, {reduced}"] = partial(scalar, nll.cross_entropy, definition, case, reduced)
    for i, name in enumerate(LINEAR):
        case, reduced = CASES[name], ("mean", "none", "sum")[i % 3]
        table[f"linear, {name}, {reduced}"] = partial(linear_function, case, reduced)
    return table


FUNCTIONS = functions()


@pytest.fixture(params=BACKENDS)
def backend(request):
    with nll.use_backend(request.param):
        yield request.param


@pytest.fixture(params=FUNCTIONS)
def function(request, backend, device) -> Function:
    return FUNCTIONS[request.param](device)


def leaves(function: Function) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().requires_grad_() for tensor in function.at)


def direction(like: Tensor, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=draw, dtype=like.dtype).to(like.device)


def hessian_product(function: Function, v: Tensor) -> Tensor:
    """H v of the definition, for its first argument, by differentiating twice in reverse."""
    x, *rest = function.at
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(function.truth(x, *rest), x, create_graph=True)
    if not gradient.requires_grad:  # linear
        return torch.zeros_like(x)
    return torch.autograd.grad((gradient * v).sum(), x)[0]


def assert_equal_to(actual: Tensor, expected: Tensor) -> None:
    """Equal to rounding in float64, of values of order 1."""
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-13, equal_nan=True)


def test_gradcheck(function, device):
    assert gradcheck(function.ours, leaves(function), fast_mode=device.type != "cpu")


def test_gradgradcheck(function, device):
    # In one direction drawn at random on a device, for which so many small steps would take long.
    assert gradgradcheck(function.ours, leaves(function), fast_mode=device.type != "cpu")


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


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_value_and_backward(name, backend, device):
    assert_backward_compiles(name, device)


@pytest.mark.parametrize("name", COMPILED)
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


def test_compiled_in_half_types_is_float32(backend, device):
    x, y = (tensor[:1] for tensor in two_rows(device))
    x = x.bfloat16()
    value = compiled(nll.cross_entropy)(x, y)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, nll.cross_entropy(x, y))


@pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated:UserWarning")
def test_compiled_with_a_deprecated_flag(backend, device):
    x, y = two_rows(device)
    value = compiled(lambda x, y: nll.cross_entropy(x, y, size_average=False))(x, y)
    torch.testing.assert_close(value, nll.cross_entropy(x, y, reduction="sum"))


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
