"""Two versions of nll against each other, in turn within one run: the time of the new one as a
share of the old one's, or the instructions of both.

    python benchmarks/commits.py OLD_PYTHON [--rounds 9] [--only text]
    python benchmarks/commits.py OLD_PYTHON --instructions [--only text]

OLD_PYTHON is the interpreter of an environment with the other version. Each version works in a
process of its own. Instructions are counted by valgrind (which has no AVX-512) as the difference
between a process that makes a call often and one that makes it once.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributions import Gamma, Normal, StudentT, Weibull

import nll

Call = Callable[[], Any]
VALGRIND = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
LONG = 0.1  # seconds of the calls whose instructions are counted


def loss(*shape: int, dtype: torch.dtype = torch.float32, **options: Any) -> Call:
    """Return a cross entropy, forward and backward."""
    x = torch.randn(shape, dtype=torch.float32).to(dtype).requires_grad_()
    y = torch.randint(shape[1], (shape[0], *shape[2:]))

    def call() -> None:
        torch.autograd.grad(nll.cross_entropy(x, y, **options), x)

    return call


def layer(rows: int, features: int, classes: int, dtype: torch.dtype = torch.float32) -> Call:
    """Return an output layer with its cross entropy, forward and backward."""
    x = torch.randn(rows, features).to(dtype).requires_grad_()
    weight = (torch.randn(classes, features) / features**0.5).to(dtype).requires_grad_()
    y = torch.randint(classes, (rows,))
    return lambda: torch.autograd.grad(nll.linear_cross_entropy(x, weight, y), (x, weight))


def token_statistics(rows: int, classes: int) -> Call:
    x, y = torch.randn(rows, classes, requires_grad=True), torch.randint(classes, (rows,))

    def call() -> None:
        done = nll.token_statistics(x, y, entropy=True)
        torch.autograd.grad(done.log_prob.sum() + done.entropy.sum(), x)

    return call


def family(model: Any, draw: Callable[[np.random.Generator], Any], **options: Any) -> Call:
    """Return a fit of a family with standard errors."""
    data = draw(np.random.default_rng(0))
    return lambda: nll.fit(model, data, **options)


def bootstrap(replicates: int) -> Call:
    fitted = nll.fit(nll.shifted(Gamma), 1 + np.random.default_rng(0).gamma(2.5, 2, 500))
    return lambda: fitted.bootstrap(replicates, seed=0)


def regression(rows: int, columns: int, classes: int) -> Call:
    """Return a softmax regression with standard errors."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, columns))
    logits = x @ (rng.standard_normal((columns, classes)) / columns**0.5)
    y = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    return lambda: nll.SoftmaxRegression().fit(x, y)


def choice(rows: int, alternatives: int, attributes: int) -> Call:
    """Return a conditional logit of cases that have all alternatives."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, alternatives, attributes))
    y = (x.sum(2) / 2 + rng.gumbel(size=(rows, alternatives))).argmax(1)
    return lambda: nll.ConditionalLogit().fit(x, y)


def recalibration(rows: int, classes: int) -> Call:
    """Return an evaluation of a model on other rows, with its recalibration."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 3))
    logits = x @ rng.standard_normal((3, classes))
    y = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    fitted = nll.SoftmaxRegression().fit(x[:1000], y[:1000])
    return lambda: fitted.evaluate(x, y)


def command(*arguments: str) -> Call:
    """Return a run of the command on a table, a process of its own."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5000, 3))
    y = (x @ [1, -1, 0.5] + rng.logistic(size=5000) > 0).astype(int)
    path = Path(tempfile.mkdtemp(), "table.csv")
    np.savetxt(path, np.column_stack([y, x]), delimiter=",", header="y,a,b,c", comments="")
    line = [sys.executable, "-m", "nll", *(str(path) if a == "TABLE" else a for a in arguments)]
    return partial(subprocess.run, line, check=True, stdout=subprocess.DEVNULL)


CALLS: dict[str, Callable[[], Call]] = {
    "cross entropy (3, 5)": lambda: loss(3, 5),
    "cross entropy (32, 1000)": lambda: loss(32, 1000),
    "cross entropy (65536, 10)": lambda: loss(65536, 10),
    "cross entropy (8192, 1000)": lambda: loss(8192, 1000),
    "cross entropy (1024, 32000)": lambda: loss(1024, 32000),
    "cross entropy (1024, 32000), smoothed": lambda: loss(1024, 32000, label_smoothing=0.1),
    "cross entropy (1024, 32000), each": lambda: loss(1024, 32000, z_loss=1e-4),
    "cross entropy (1024, 32000) bfloat16": lambda: loss(1024, 32000, dtype=torch.bfloat16),
    "cross entropy (2, 21, 512, 512)": lambda: loss(2, 21, 512, 512),
    "output layer (512, 256, 20000)": lambda: layer(512, 256, 20000),
    "output layer (512, 256, 20000) bfloat16": lambda: layer(512, 256, 20000, torch.bfloat16),
    "token statistics (512, 32000)": lambda: token_statistics(512, 32000),
    "fit Normal": lambda: family(Normal, lambda rng: rng.normal(2, 3, 100_000)),
    "fit Normal of 100": lambda: family(Normal, lambda rng: rng.normal(2, 3, 100)),
    "fit Gamma": lambda: family(Gamma, lambda rng: rng.gamma(2.5, 2, 100_000)),
    "fit Gamma of 100": lambda: family(Gamma, lambda rng: rng.gamma(2.5, 2, 100)),
    "fit Weibull": lambda: family(Weibull, lambda rng: 3 * rng.weibull(1.5, 100_000)),
    "fit StudentT": lambda: family(StudentT, lambda rng: rng.standard_t(4, 20_000)),
    "fit GeneralizedExtremeValue": lambda: family(
        nll.GeneralizedExtremeValue, lambda rng: rng.gumbel(size=20_000)
    ),
    "fit censored Weibull": lambda: family(
        Weibull,
        lambda rng: nll.censored(
            time := 3 * rng.weibull(1.5, 20_000), np.where(time > 4, np.inf, time)
        ),
    ),
    "fit mixture": lambda: family(
        nll.mixture(Normal, 2), lambda rng: rng.normal(3 * rng.integers(0, 2, 2000), 1)
    ),
    "bootstrap shifted Gamma": lambda: bootstrap(100),
    "softmax regression (300, 3, 3)": lambda: regression(300, 3, 3),
    "softmax regression (20000, 20, 4)": lambda: regression(20_000, 20, 4),
    "softmax regression (100000, 20, 10)": lambda: regression(100_000, 20, 10),
    "conditional logit (20000, 4, 5)": lambda: choice(20_000, 4, 5),
    "recalibration (20000, 5)": lambda: recalibration(20_000, 5),
    "command --help": lambda: command("--help"),
    "command fit": lambda: command("fit", "TABLE", "y ~ a + b + c"),
}


def serve() -> None:
    """Make the calls that are asked for on the standard input; answer with their seconds."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    calls: dict[str, Call] = {}
    for line in sys.stdin:
        name, repeats = line.strip().rsplit("|", 1)
        call = calls.get(name) or calls.setdefault(name, CALLS[name]())
        start = time.perf_counter()
        for _ in range(int(repeats)):
            call()
        print("seconds", (time.perf_counter() - start) / int(repeats), flush=True)


class Version:
    """A process with one version of nll."""

    def __init__(self, python: str) -> None:
        self.process = subprocess.Popen(
            [python, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, name: str, repeats: int = 1) -> float:
        assert self.process.stdin
        assert self.process.stdout
        print(f"{name}|{repeats}", file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("seconds"):
                return float(line.split()[1])
        raise RuntimeError(f"{name} ended its process")


def times(old: str, names: list[str], rounds: int) -> None:
    """Print medians of calls in turn, and the median of their ratios."""
    versions = Version(old), Version(sys.executable)
    for name in names:
        first = [max(version.seconds(name) for _ in range(2)) for version in versions]
        repeats = max(1, int(0.05 / min(first)))
        turns = []
        for i in range(rounds):
            order = versions if i % 2 else versions[::-1]
            spent = {version: version.seconds(name, repeats) for version in order}
            turns.append([spent[version] for version in versions])
        before, after = (statistics.median(column) for column in zip(*turns, strict=True))
        ratio = statistics.median(new / old for old, new in turns)
        print(f"{name:42}{1e3 * before:11.3f} ms{1e3 * after:11.3f} ms{ratio:7.2f}", flush=True)


def instructions(python: str, name: str, often: int) -> float:
    """Return the instructions of one call, of several."""

    def count(repeats: int) -> int:
        done = subprocess.run(
            [*VALGRIND, python, __file__, "--serve"],
            input=f"{name}|{repeats}\n",
            env=os.environ | {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
            text=True,
        )
        return int(re.findall(r"I\s+refs:\s+([\d,]+)", done.stderr)[0].replace(",", ""))

    return (count(often + 1) - count(1)) / often


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", nargs="?", help="the interpreter with the other version")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="calls whose name has this text")
    parser.add_argument("--instructions", action="store_true", help="count by valgrind: slow")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve()
    names = [name for name in CALLS if options.only in name]
    print(f"{'call':42}{'old':>14}{'new':>14}{'ratio':>7}")
    if not options.instructions:
        return times(options.old, names, options.rounds)
    here = Version(sys.executable)
    for name in names:
        often = max(3, int(LONG / min(here.seconds(name) for _ in range(3))))
        pythons = options.old, sys.executable
        before, after = (instructions(python, name, often) for python in pythons)
        print(f"{name:42}{before:14.4g}{after:14.4g}{after / before:7.2f}", flush=True)
    return None


if __name__ == "__main__":
    main()
