"""Scalar functions of tensors, by the losses and by their definition, and where to take them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from cases import BASE_CASES, Case
from definitions import definition, definition_log_softmax, definition_nll
from torch import Tensor

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


def leaves(function: Function) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().requires_grad_() for tensor in function.at)


def direction(like: Tensor, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(like.shape, generator=draw, dtype=like.dtype).to(like.device)


def assert_equal_to(actual: Tensor, expected: Tensor) -> None:
    """Equal to rounding in float64, of values of order 1."""
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-13, equal_nan=True)
