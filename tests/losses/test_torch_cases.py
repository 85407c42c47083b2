"""PyTorch's own cases for its own losses, run through ours: the same values, gradients and types of
error.

They come with PyTorch as `op_db` and `module_db`; how many ran is printed below pytest's results.
"""

from __future__ import annotations

import sys
import unittest
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from cases import BACKENDS, DTYPES
from definitions import HALF
from pairwise import by_turns
from torch import Tensor, nn

import nll

# Ours, PyTorch's, and what of PyTorch's to compare with for half types: its answer in the half
# type; its answer in float32 rounded, as our nll_loss adds in float32; or its answer in float32,
# the type of ours.
FUNCTIONS = {
    "log_softmax": (nll.log_softmax, torch.log_softmax, "half"),
    "nn.functional.nll_loss": (nll.nll_loss, F.nll_loss, "rounded"),
    "nn.functional.cross_entropy": (nll.cross_entropy, F.cross_entropy, "float32"),
}
MODULES = {
    "nn.LogSoftmax": (nll.LogSoftmax, nn.LogSoftmax, "half"),
    "nn.NLLLoss": (nll.NLLLoss, nn.NLLLoss, "rounded"),
    "nn.CrossEntropyLoss": (nll.CrossEntropyLoss, nn.CrossEntropyLoss, "float32"),
}
# PyTorch's own tolerances between its backends; in float64, where those are wide, rounding alone.
# Half types: log_softmax rounds its result, and the gradient is made of that; the last digits are a
# matter of taste, which test_functional.py judges against float64.
CLOSE = {
    torch.float64: {"rtol": 1e-13, "atol": 1e-13},
    torch.bfloat16: {"rtol": 0.016, "atol": 0.03},
    torch.float16: {"rtol": 0.002, "atol": 0.004},
}


@pytest.fixture(scope="module")
def databases():
    """The lists of PyTorch's cases; imported late, as that takes seconds."""
    try:
        import expecttest  # noqa: F401
    except ImportError:  # PyTorch derives its class of tests from this package's; no case needs it
        sys.modules["expecttest"] = SimpleNamespace(TestCase=unittest.TestCase)
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

    return op_db, module_db


@pytest.fixture(params=BACKENDS)
def backend(request):
    with nll.use_backend(request.param):
        yield request.param


class Result(NamedTuple):
    value: Tensor
    gradients: tuple[Tensor, ...]


def run(function: Callable[..., Tensor], args, kwargs, *, in_float32: bool = False) -> Result:
    """Call a function; differentiate by every argument that asks for it, in the argument's own
    dtype.
    """
    leaves = []

    def prepare(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        leaf = value.detach().requires_grad_(value.requires_grad)
        if leaf.requires_grad:
            leaves.append(leaf)
        return leaf.float() if in_float32 and leaf.is_floating_point() else leaf

    value = function(*map(prepare, args), **{name: prepare(arg) for name, arg in kwargs.items()})
    # Something other than ones, whose product with the derivative of log_softmax would be 0.
    direction = ((torch.arange(value.numel()) % 7 - 2) / 4).reshape(value.shape).to(value)
    gradients = torch.autograd.grad(value, leaves, direction) if leaves else ()
    return Result(value.detach(), gradients)


def assert_same(ours: Callable, theirs: Callable, args, kwargs, half: str) -> None:
    """Compare the value and every gradient with PyTorch's, for half types as the tables above
    say.
    """
    in_float32 = args[0].dtype in HALF and half != "half"
    actual, expected = run(ours, args, kwargs), run(theirs, args, kwargs, in_float32=in_float32)
    if in_float32 and half == "rounded":
        expected = expected._replace(value=expected.value.to(args[0].dtype))
    assert len(actual.gradients) == len(expected.gradients)
    for a, b in zip(
        (actual.value, *actual.gradients), (expected.value, *expected.gradients), strict=True
    ):
        torch.testing.assert_close(a, b, equal_nan=True, **CLOSE.get(a.dtype, {}))


def infos(database, name: str) -> list:
    found = [info for info in database if info.name == name]
    assert found, f"PyTorch holds no cases for {name}"
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_inputs(name, dtype, databases, backend, device, record_property):
    torch.manual_seed(0)
    ours, theirs, half = FUNCTIONS[name]
    samples = [
        sample
        for info in infos(databases[0], name)
        for sample in info.sample_inputs(device.type, dtype, requires_grad=True)
    ]
    for sample in samples:
        args = (sample.input, *sample.args)
        assert_same(ours, theirs, args, sample.kwargs, half)
    assert samples
    record_property("cases of PyTorch", {f"inputs of {name}": len(samples)})


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_errors(name, databases, backend, device, record_property):
    ours, _, _ = FUNCTIONS[name]
    errors = [
        error
        for info in infos(databases[0], name)
        if info.error_inputs_func is not None
        for error in info.error_inputs(device.type)
    ]
    if not errors:
        pytest.skip(f"PyTorch holds no errors of {name}")
    for error in errors:
        sample = error.sample_input
        with pytest.raises(error.error_type):
            ours(sample.input, *sample.args, **sample.kwargs)
    record_property("cases of PyTorch", {f"errors of {name}": len(errors)})


# Modules call the functions, of which every type meets every backend.
@pytest.mark.parametrize(
    ("name", "dtype", "backend"),
    by_turns(MODULES, DTYPES, BACKENDS),
    ids=str,
    indirect=["backend"],
)
def test_module_inputs(name, dtype, databases, backend, device, record_property):
    torch.manual_seed(0)
    ours, theirs, half = MODULES[name]
    inputs = [
        case
        for info in infos(databases[1], name)
        for case in info.module_inputs_func(info, device.type, dtype, True, training=True)
    ]
    for case in inputs:
        made, call = case.constructor_input, case.forward_input
        modules = [call_in_dtype(module(*made.args, **made.kwargs)) for module in (ours, theirs)]
        assert_same(*modules, call.args, call.kwargs, half)
    assert inputs
    record_property("cases of PyTorch", {f"inputs of {name}": len(inputs)})


def call_in_dtype(module: nn.Module) -> Callable[..., Tensor]:
    """Let the module's weights follow the dtype of the scores."""
    return lambda input, *args, **kwargs: module.to(input.dtype)(input, *args, **kwargs)


@pytest.mark.parametrize("name", MODULES)
def test_module_errors(name, databases, backend, device, record_property):
    torch.manual_seed(0)
    ours, _, _ = MODULES[name]
    count = 0
    for info in infos(databases[1], name):
        for dtype in info.dtypes if info.module_error_inputs_func else ():
            make = info.module_error_inputs_func
            for error in make(info, device.type, dtype, True, training=True):
                made, call = (
                    error.module_error_input.constructor_input,
                    error.module_error_input.forward_input,
                )
                with pytest.raises(error.error_type):
                    ours(*made.args, **made.kwargs)(*call.args, **call.kwargs)
                count += 1
    if not count:
        pytest.skip(f"PyTorch holds no errors of {name}")
    record_property("cases of PyTorch", {f"errors of {name}": count})
