"""`nll bench`: every case runs on a small scale, and the figures are what they are called."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from nll.cli import benchmark as bench


def small(case: bench.Case) -> bench.Case:
    return replace(
        case,
        shape=tuple(min(n, limit) for n, limit in zip(case.shape, (40, 500, 6, 5), strict=False)),
    )


@pytest.mark.parametrize("case", bench.CASES, ids=lambda case: case.name)
def test_every_case(case):
    case = small(case)
    result = bench.measure(case, rounds=2, compiled=False)
    assert set(result["seconds"]) == {"copy", "nll", "eager"}
    assert all(seconds > 0 for seconds in result["seconds"].values())
    units = torch.finfo(case.dtype).eps
    assert 0 < result["errors"]["nll"] <= 4 * units
    text = bench.row(result, compiled=False)
    assert str(case.shape) in text["Forward and gradient"]


def test_errors_are_against_float64():
    case = small(bench.CASES[0])
    problem = case.build()
    x = problem.logits.double().requires_grad_()
    F.cross_entropy(x, problem.labels).backward()
    off = {"wrong by a tenth": lambda _: (x.grad * 1.1).float()}
    assert bench.errors(case, problem, off)["wrong by a tenth"] == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize(
    "name", ["90 % of the rows ignored", "rows C + 8 apart", "logits times 30"]
)
def test_a_case_is_what_it_is_called(name):
    case = next(case for case in bench.CASES if case.name == name)
    problem = replace(case, shape=(400, 500)).build()
    ignored = (problem.labels == -100).double().mean()
    assert ignored == (0 if not case.ignored else pytest.approx(0.9, abs=0.05))
    assert problem.logits.stride(0) == 500 + case.gap
    assert problem.logits.double().std() == pytest.approx(case.scale, rel=0.02)


def test_extra_memory_counts_a_tensor():
    case = replace(bench.CASES[0], shape=(16000, 1000))  # more than malloc ever keeps
    problem = case.build()
    used = bench.extra_memory(lambda x: x * 2.0, case, problem)
    if used is None:
        pytest.skip("the system does not tell")
    assert used == pytest.approx(problem.logits.numel() * 4, rel=0.3)
