"""The cases of `nll bench` for pytest-benchmark: `pytest benchmarks
--benchmark-group-by=param:case`.

`nll bench` takes turns between the contenders, which a busy machine needs; this is for following
one of them in time (`--benchmark-autosave`, `--benchmark-compare`).
"""

from __future__ import annotations

import pytest

from nll.cli.benchmark import CASES, Case, contenders


@pytest.mark.parametrize("contender", ["nll", "eager", "compile"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_forward_and_gradient(case: Case, contender: str, benchmark):
    problem = case.build()
    step = contenders(case, problem, compiled=contender == "compile")[contender]
    benchmark.extra_info["bytes"] = 2 * problem.logits.numel() * problem.logits.element_size()
    rounds = 5 if problem.logits.numel() > 1 << 20 else 200
    benchmark.pedantic(
        step,
        setup=lambda: ((problem.fresh(case.in_place and contender == "nll"),), {}),
        rounds=rounds,
        warmup_rounds=2,
    )
