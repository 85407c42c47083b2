"""The examples run, and show what they say."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def gpt():
    spec = importlib.util.spec_from_file_location("gpt", EXAMPLES / "gpt.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("steps", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_gpt_learns_as_with_pytorch_s_loss(gpt, steps):
    tokens, vocabulary = gpt.tokens_of(gpt.TEXT.read_text(encoding="utf-8"))

    def curve(name, dtype):
        return torch.tensor(
            gpt.train(gpt.LOSSES[name], steps, dtype, tokens, len(vocabulary))[1],
            dtype=torch.float64,
        )

    exact = curve("pytorch", torch.float64)
    assert exact[-1] < exact[0] - 0.3
    assert (curve("nll", torch.float64) - exact).abs().max() < 1e-10
    plain, blocks, ours = (
        curve(name, torch.float32) for name in ("pytorch", "pytorch in blocks", "nll")
    )
    # A step's loss has a rounding of its own, which the spread of two runs may happen not to show.
    spread = (blocks - plain).abs().max() + 2 * torch.finfo(torch.float32).eps * plain.max()
    assert (ours - plain).abs().max() <= spread


def test_gpt_tells_losses_and_memory():
    command = [sys.executable, EXAMPLES / "gpt.py", "--steps", "3", "--json"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert len(found["losses"]) == 3
    assert found["peak"] > 50_000_000
