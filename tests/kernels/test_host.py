"""What a loss on an accelerator asks of the host, counted without one."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="triton is not installed"
)
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def table() -> dict[str, list[int]]:
    """Launches, operators and products, forward and backward, by call."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, ROOT / "benchmarks" / "host.py", "--rounds", "1"]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-2000:]
    rows = [line.strip("| ").split(" | ") for line in run.stdout.splitlines()[1:]]
    return {name: [int(cell) for cell in cells[:6]] for name, *cells in rows}


@pytest.mark.parametrize("name", ["cross_entropy (64, 700)", "cross_entropy (64, 701)"])
def test_cross_entropy(table, name):
    launches, operators, _, again, operators_again, _ = table[name]
    assert (launches, again) == (3, 1)
    assert operators <= 6
    assert operators_again <= 2


def test_an_output_layer_in_blocks(table):
    one, eight = table["linear_cross_entropy, 1 block"], table["linear_cross_entropy, 8 blocks"]
    launches, operators, products = ((b - a) / 7 for a, b in zip(one[:3], eight[:3], strict=True))
    assert (launches, products) == (1, 3)
    assert operators <= 4
    assert one[1] - operators + one[4] <= 10
