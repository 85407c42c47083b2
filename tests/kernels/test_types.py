"""Every backend has the names and parameters of `kernels/types.py`."""

from inspect import isfunction, signature

import pytest

from nll.kernels import cpu, reference
from nll.kernels.types import Backend, BlockKernels, Kernels, LogKernels
from nll.losses import autograd, dispatch


def functions(protocol) -> dict:
    return {
        name: list(signature(member).parameters)[1:]
        for name in dir(protocol)
        if not name.startswith("_") and isfunction(member := getattr(protocol, name))
    }


@pytest.mark.parametrize(
    ("implementation", "protocol"),
    [
        (reference, Backend),
        (reference, BlockKernels),
        (autograd.CPU, Backend),
        (cpu, LogKernels),
        pytest.param(
            "triton",
            Kernels,
            marks=pytest.mark.skipif(
                dispatch.TRITON_MISSING is not None, reason=f"{dispatch.TRITON_MISSING}"
            ),
        ),
    ],
)
def test_a_backend_has_the_parameters_of_its_protocol(implementation, protocol):
    if implementation == "triton":
        implementation = autograd.TRITON.kernels
    for name, expected in functions(protocol).items():
        parameters = list(signature(getattr(implementation, name)).parameters)
        assert parameters[: len(expected)] == expected, name
