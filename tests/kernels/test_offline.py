"""The Triton kernels compile for accelerators that need not be there, also as a launch has them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from nll.losses import dispatch

MISSING = dispatch.TRITON_MISSING
pytestmark = [pytest.mark.slow, pytest.mark.skipif(MISSING is not None, reason=f"{MISSING}")]
ROOT = Path(__file__).parent.parent.parent
SOURCES = ROOT / "src" / "nll" / "kernels" / "triton"


def offline(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "benchmarks" / "offline.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_every_kernel_compiles_for_absent_accelerators_and_spills_nothing():
    run = offline()
    rows = [line for line in run.stdout.splitlines() if "_kernel |" in line]
    spilling = [row for row in rows if row.count(", 0 |") != 3]
    assert run.returncode == 0, run.stderr[-2000:] or spilling
    assert len(rows) > 60
    sources = "".join(path.read_text() for path in SOURCES.glob("*.py"))
    written = re.findall(r"^def (\w+_kernel)\(", sources, re.MULTILINE)
    assert {row.split()[1] for row in rows} == set(written)


def test_long_rows_take_few_instructions_and_whole_lines():
    run = offline("--instructions")
    assert run.returncode == 0, run.stderr[-2000:]
    rows = [line.strip("| ").split(" | ") for line in run.stdout.splitlines()[2:]]
    assert len(rows) == 4
    for dtype, classes, each, lines in rows:
        assert lines == {"bf16": "4, 2", "fp32": "8, 4"}[dtype], classes  # all of a tile
        assert float(each) <= {"bf16": 11.0, "fp32": 13.5}[dtype], classes


def test_every_kernel_compiles_for_the_numbers_that_a_launch_specialises():
    run = offline("--specialisations")
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    (right, number) = re.search(r"(\d+) of (\d+) specialisations", run.stdout).groups()
    assert right == number
    assert int(number) > 400
