"""The memory that a layer's blocks take is the predicted."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from nll.losses.layer import block_sizes

PEAK = """
import sys, torch, nll
from nll.kernels import memory
from pathlib import Path

def status(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

def first(x, head, y, budget):
    return torch.autograd.grad(nll.linear_cross_entropy(x, head, y, max_memory=budget), (x, head))

def second(x, head, y, budget):
    loss = nll.linear_cross_entropy(x, head, y, max_memory=budget)
    gradients = torch.autograd.grad(loss, (x, head), create_graph=True)
    return *gradients, *torch.autograd.grad(gradients, (x, head), (x.detach(), head.detach()))

def statistics(x, head, y, budget):
    found = nll.token_statistics(x, y, linear_weight=head, entropy=True, topk=5, max_memory=budget)
    return torch.autograd.grad((found.log_prob + found.entropy).sum(), (x, head))

def divergence(x, head, y, budget):
    loss = nll.linear_kl_divergence(x, head, x.detach(), head.detach(), max_memory=budget)
    return torch.autograd.grad(loss, (x, head))

def growth(rows, classes, budget, dtype, what, features):
    x = torch.ones(rows, features, dtype=dtype, requires_grad=True)
    head = torch.ones(classes, features, dtype=dtype, requires_grad=True)
    y = torch.zeros(rows, dtype=torch.int64)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    found = what(x, head, y, budget)
    return status("VmHWM") - before - sum(g.numel() * g.element_size() for g in found)

dtype, what, features = getattr(torch, sys.argv[1]), globals()[sys.argv[3]], int(sys.argv[4])
warm = 1500 if what is first else 100
growth(warm, 20000, int(sys.argv[2]), dtype, what, features)  # the libraries' own memory
memory.release()
print(growth(4000, 20000, int(sys.argv[2]), dtype, what, features))
"""


def peak(dtype: str, budget: int, what: str, features: int) -> int:
    command = [sys.executable, "-c", PEAK, dtype, str(budget), what, str(features)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed goes back
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system does not tell")
@pytest.mark.parametrize(
    ("budget", "dtype"),
    [
        (8_000_000, "float32"),
        (40_000_000, "bfloat16"),
        pytest.param(8_000_000, "bfloat16", marks=pytest.mark.slow),
        pytest.param(40_000_000, "float32", marks=pytest.mark.slow),
    ],
)
def test_peak_memory_is_the_predicted(budget, dtype):
    used = peak(dtype, budget, "first", 256)
    used -= 20000 * 256 * 4 if dtype == "bfloat16" else 0  # the float32 sum of the head's gradient
    x = torch.empty(4000, 256, dtype=getattr(torch, dtype))
    head = torch.empty(20000, 256, dtype=x.dtype)
    predicted = block_sizes.plan(x, head, budget).bytes
    assert predicted <= budget
    scores = 4000 * 20000 * x.element_size()
    assert used < predicted + 8_000_000 < scores / 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the system does not tell")
@pytest.mark.parametrize(
    ("what", "features", "times"),
    [("statistics", 256, 1), ("divergence", 256, 1), ("second", 16, 3)],
)
def test_peak_memory_of_other_losses_and_of_second_derivatives(what, features, times):
    # Second derivatives hold more than is planned for, and several gradients by the head. As a
    # whole the scores are 320 MB, of which autograd would hold a dozen.
    assert peak("float32", 16_000_000, what, features) < times * 16_000_000 + 20_000_000
