"""Fits of families against SciPy's, in turn within one run: medians, ratios, and whose likelihood
is the higher.

    python benchmarks/fits.py [--rows 1000000] [--rounds 3] [--quick]

Ours come with standard errors. The bootstrap's contender is a loop over scipy.stats.gamma.fit, of
which a few are timed and the rest counted as the same.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy
import scipy.stats as st
import torch
from torch.distributions import Gamma, Normal, StudentT, Weibull

import nll


class Case(NamedTuple):
    """A family, how its data are drawn, and SciPy's fit and density at its result."""

    family: type
    draw: Callable[[np.random.Generator, int], np.ndarray]
    theirs: Callable[[np.ndarray], Any]
    known: Callable[[tuple], Any]


CASES = {
    "Normal": Case(Normal, lambda rng, n: rng.normal(2, 3, n), st.norm.fit, lambda p: st.norm(*p)),
    "Gamma": Case(
        Gamma,
        lambda rng, n: rng.gamma(2.5, 2, n),
        lambda x: st.gamma.fit(x, floc=0),
        lambda p: st.gamma(*p),
    ),
    "Weibull": Case(
        Weibull,
        lambda rng, n: 3 * rng.weibull(1.5, n),
        lambda x: st.weibull_min.fit(x, floc=0),
        lambda p: st.weibull_min(*p),
    ),
    "StudentT": Case(
        StudentT, lambda rng, n: 2 + 3 * rng.standard_t(4, n), st.t.fit, lambda p: st.t(*p)
    ),
    "GeneralizedExtremeValue": Case(
        nll.GeneralizedExtremeValue,
        lambda rng, n: st.genextreme.rvs(-0.2, 1, 2, size=n, random_state=rng),
        st.genextreme.fit,
        lambda p: st.genextreme(*p),
    ),
}


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = function()
    return time.perf_counter() - begin, result


def fits(rows: int, rounds: int) -> None:
    print(
        f"| family, n = {rows:,} | nll | SciPy | ratio | log-likelihood, nll less SciPy "
        f"|\n|---|---|---|---|---|"
    )
    rng = np.random.default_rng(0)
    for name, case in CASES.items():
        x = case.draw(rng, rows)
        # nothing of the first call is measured
        found, theirs = nll.fit(case.family, x[:1000]), None
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            took, found = seconds(lambda case=case, x=x: nll.fit(case.family, x))
            times[0].append(took)
            took, theirs = seconds(lambda case=case, x=x: case.theirs(x))
            times[1].append(took)
        ours, other = map(statistics.median, times)
        gain = found.log_likelihood - case.known(theirs).logpdf(x).sum()
        print(
            f"| {name} | {1e3 * ours:.1f} ms | {1e3 * other:.1f} ms | {other / ours:.1f} | "
            f"{gain:+.2g} |",
            flush=True,
        )


def bootstraps(rows: int, replicates: int, looped: int) -> None:
    """Of a Gamma with and without a free location."""
    print(
        f"\n| {replicates} bootstrap replicates, n = {rows} | nll | loop over SciPy | ratio "
        f"|\n|---|---|---|---|"
    )
    rng = np.random.default_rng(0)
    x = 5 + rng.gamma(2, 1, rows)
    for name, family, theirs in (
        ("Gamma", Gamma, lambda v: st.gamma.fit(v, floc=0)),
        ("shifted(Gamma)", nll.shifted(Gamma), st.gamma.fit),
    ):
        found = nll.fit(family, x)
        found.bootstrap(10)
        drawn = [rng.choice(x, rows) for _ in range(looped)]
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(3):
            times[0].append(seconds(lambda found=found: found.bootstrap(replicates))[0])
            times[1].append(
                seconds(lambda theirs=theirs, drawn=drawn: [theirs(v) for v in drawn])[0]
            )
        ours, other = statistics.median(times[0]), statistics.median(times[1]) * replicates / looped
        print(f"| {name} | {ours:.2f} s | {other:.1f} s | {other / ours:.1f} |", flush=True)


def mapped(rows: int, rounds: int) -> None:
    """A normal distribution of a memory-mapped file in the page cache, next to NumPy's sum."""
    print("\n| normal, memory-mapped | nll | numpy.sum | nll / numpy |\n|---|---|---|---|")
    rng, block = np.random.default_rng(0), 10**6
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/x.npy"
        x = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=(rows,))
        for begin in range(0, rows, block):
            x[begin : begin + block] = rng.normal(3, 2, min(block, rows - begin))
        x.flush()
        x = np.load(path, mmap_mode="r")
        pairs = [
            (seconds(lambda: nll.fit(Normal, x))[0], seconds(x.sum)[0]) for _ in range(rounds + 1)
        ]
        ours, other = (statistics.median(times[1:]) for times in zip(*pairs, strict=True))
    print(f"| {rows:,} values | {ours:.3f} s | {other:.3f} s | {ours / other:.1f} |", flush=True)


def groups(count: int, rows: int) -> None:
    print(f"\n| {count} groups of {rows} | nll | loop over nll.fit | ratio |\n|---|---|---|---|")
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(count), rows)
    for name in ("Gamma", "Weibull"):
        case = CASES[name]
        x = case.draw(rng, count * rows)
        nll.fit(case.family, x[: 10 * rows], groups=labels[: 10 * rows])
        ours = seconds(lambda case=case, x=x: nll.fit(case.family, x, groups=labels))[0]
        some = [x[i * rows : (i + 1) * rows] for i in range(100)]
        other = (
            seconds(lambda case=case, some=some: [nll.fit(case.family, v) for v in some])[0]
            * count
            / 100
        )
        print(f"| {name} | {ours:.2f} s | {other:.1f} s | {other / ours:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--quick", action="store_true", help="few rows and replicates, to see that it runs"
    )
    given = parser.parse_args()
    print(
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, SciPy {scipy.__version__}\n"
    )
    fits(20_000 if given.quick else given.rows, 1 if given.quick else given.rounds)
    bootstraps(254, 50 if given.quick else 2000, 2 if given.quick else 20)
    mapped(10**6 if given.quick else 10**8, given.rounds)
    groups(200 if given.quick else 3000, 20)


if __name__ == "__main__":
    main()
