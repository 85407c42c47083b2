"""The table of cases under settings that a program may have made: a default device, a default type,
anomaly mode ...

The arguments are made beforehand; each call and its backward pass run inside.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from cases import BACKENDS, BASE_CASES, Case
from derivatives import LOSSES, points
from pairwise import by_turns
from torch import Tensor

import nll


@contextmanager
def default_dtype(dtype: torch.dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def threads(count: int):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


SETTINGS = {
    "default device meta": lambda: torch.device("meta"),
    "default dtype float64": lambda: default_dtype(torch.float64),
    "default dtype bfloat16": lambda: default_dtype(torch.bfloat16),
    "deterministic algorithms": deterministic,
    "anomaly mode": torch.autograd.detect_anomaly,
    "one thread": lambda: threads(1),
    "many threads": lambda: threads(7),
}
PLAIN = [case for case in BASE_CASES if case.logits == "normal"]  # anomaly mode raises for NaN


@pytest.fixture(params=BACKENDS)
def backend(request):
    with nll.use_backend(request.param):
        yield request.param


def losses_of(case: Case, dtype: torch.dtype):
    """The calls that a case has arguments for, and what they are differentiated by."""
    input, target, kwargs = case.build(dtype)
    classes = input.shape[0 if input.dim() == 1 else 1]
    calls = [(lambda x: nll.cross_entropy(x, target, **kwargs), input)]
    calls.append(
        (lambda x: nll.cross_entropy(1.0 * x, target, inplace_backward=True, **kwargs), input)
    )
    if case.in_nll_loss:
        log_p, label, more = case.build_nll(dtype)
        calls.append((lambda x: nll.nll_loss(x, label, **more), log_p))
    calls.append((lambda x: nll.log_softmax(x, 0 if x.dim() == 1 else 1), input))
    if input.dim() <= 2 and input.numel():
        head = torch.eye(classes, dtype=dtype)
        calls.append(
            (lambda x: nll.linear_cross_entropy(x, head, target, max_memory=2000, **kwargs), input)
        )
        if target.shape == input.shape[:-1]:
            index = kwargs.get("ignore_index", -100)
            calls.append(
                (
                    lambda x: (
                        nll.token_statistics(x, target, ignore_index=index, entropy=True).entropy
                    ),
                    input,
                )
            )
    return calls


def value_and_gradient(call, at: Tensor, slope: Tensor | None = None) -> tuple[Tensor, Tensor]:
    x = at.detach().requires_grad_()
    value = call(x)
    return value.detach(), torch.autograd.grad(value, x, torch.ones_like(value))[0]


# Every case for the compiled loops; one in six for the others, whose memory is PyTorch's own.
TABLE = [
    row
    for backend in BACKENDS
    for row in by_turns([backend], PLAIN if backend == "cpu" else PLAIN[::6], SETTINGS)
]


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize(
    ("backend", "case", "setting"),
    TABLE,
    ids=lambda value: getattr(value, "name", value),
    indirect=["backend"],
)
def test_the_table_of_cases(case, setting, backend):
    if setting == "anomaly mode" and case.ignored == "all":
        pytest.skip("anomaly mode raises for the NaN of a mean over nothing")
    for dtype in (torch.float32,) if backend == "triton" else (torch.float32, torch.bfloat16):
        for call, at in losses_of(case, dtype):
            expected = value_and_gradient(call, at)
            with SETTINGS[setting]():
                found = value_and_gradient(call, at)
            for ours, truth in zip(found, expected, strict=True):
                assert ours.dtype is truth.dtype
                torch.testing.assert_close(ours, truth, rtol=1e-6, atol=1e-7, equal_nan=True)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize(
    ("name", "backend", "setting"),
    by_turns([n for n in LOSSES if "linear" in n or "statistics" in n], BACKENDS, SETTINGS),
    indirect=["backend"],
)
def test_the_losses_of_layers_and_second_derivatives(name, setting, backend):
    loss, made = LOSSES[name], points(torch.float32)
    at = [made[key].clone().requires_grad_() for key in loss.arguments]

    def results():
        value = loss.ours(*at)
        (g,) = torch.autograd.grad(value, at[:1], torch.ones_like(value), create_graph=True)
        return (
            value.detach(),
            g.detach(),
            *torch.autograd.grad(g.square().sum(), at, allow_unused=True),
        )

    expected = results()
    with SETTINGS[setting]():
        found = results()
    for ours, truth in zip(found, expected, strict=True):
        assert ours.dtype is truth.dtype
        torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-6)
