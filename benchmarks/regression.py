"""Softmax regression against scikit-learn's solvers and statsmodels, in turn within one run:
medians and ratios.

    python benchmarks/regression.py [--rounds 3] [--only 1000000] [--statsmodels] [--sparse]

A contender's tolerance is the loosest of 1e-3, 1e-4, ... at which its log-likelihood is within 1e-8
relative of the best known. scikit-learn gives no errors; ours are timed with them, and without
("estimate"). Memory is the peak of a process of its own above what it had before the fit.
"""

from __future__ import annotations

import argparse
import ctypes
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import sklearn
import torch
from fits import seconds
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

import nll

SHAPES = [(100_000, 20, 10), (1_000_000, 20, 5), (100_000, 50, 30)]
SOLVERS = ["lbfgs", "newton-cg", "newton-cholesky"]
CLOSE = 1e-8

Data = tuple[np.ndarray, np.ndarray]


def draw(n: int, p: int, classes: int) -> Data:
    """Normal columns, normal slopes, labels of the model."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, p))
    scores = x @ (rng.standard_normal((p, classes)) * 0.5 / np.sqrt(p / 10))
    return x, (scores + rng.gumbel(size=(n, classes))).argmax(1)


def ours(data: Data, standard_errors: bool = True) -> float:
    """Fit; the log-likelihood."""
    return nll.SoftmaxRegression(standard_errors=standard_errors).fit(*data).result_.log_likelihood


def theirs(data: Data, solver: str, tolerance: float) -> float:
    """Fit with scikit-learn; the log-likelihood."""
    x, y = data
    model = LogisticRegression(C=np.inf, solver=solver, tol=tolerance, max_iter=1000).fit(x, y)
    z = torch.from_numpy(x @ model.coef_.T + model.intercept_)
    return -float(torch.nn.functional.cross_entropy(z, torch.from_numpy(y), reduction="sum"))


def statsmodels(data: Data) -> float:
    """Fit with MNLogit; the log-likelihood."""
    import statsmodels.api as sm

    return sm.MNLogit(data[1], sm.add_constant(data[0])).fit(method="newton", disp=0).llf


def close_enough(data: Data, solver: str, best: float) -> float | None:
    """The loosest tolerance that ends near the best value; None where it takes more than two
    minutes.
    """
    for power in range(3, 9):
        spent, value = seconds(lambda: theirs(data, solver, 10.0**-power))  # noqa: B023
        if best - value <= CLOSE * abs(best):
            return 10.0**-power
        if spent > 120:
            return None
    return None


def compare(shape: tuple[int, int, int], rounds: int, with_statsmodels: bool) -> None:
    """Print a table of one shape."""
    data = draw(*shape)
    best = ours(data)
    contenders: dict[str, Callable[[], float]] = {
        "nll": lambda: ours(data),
        "nll, estimate": lambda: ours(data, standard_errors=False),
    }
    tolerances = {}
    for solver in SOLVERS:
        if solver == "newton-cholesky" and shape[2] > 20:  # minutes
            continue
        tolerances[solver] = close_enough(data, solver, best)
        if tolerances[solver] is not None:
            contenders[f"sklearn {solver}"] = lambda solver=solver: theirs(
                data, solver, tolerances[solver]
            )
    if with_statsmodels:
        contenders["statsmodels newton"] = lambda: statsmodels(data)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    values = {}
    for _ in range(rounds):
        for name, function in contenders.items():
            time.sleep(0.5)  # threads of the one before spin for a while
            spent, values[name] = seconds(function)
            times[name].append(spent)
    medians = {name: statistics.median(own) for name, own in times.items()}
    print(f"n = {shape[0]}, p = {shape[1]}, K = {shape[2]}: log-likelihood {best:.6f}")
    for name, median in medians.items():
        solver = name.removeprefix("sklearn ")
        memory = peak(shape, solver if name != "nll" else "nll", tolerances.get(solver))
        print(
            f"  {name:22} {median:8.3f} s   {median / medians['nll']:6.2f} x   {memory:6.0f} MB   "
            f"log-likelihood lower by {best - values[name]:.2e}"
            + (f"   tol = {tolerances[solver]:g}" if solver in tolerances else ""),
            flush=True,
        )


def compare_sparse(rounds: int, n: int = 200_000, levels: int = 100, factors: int = 4) -> None:
    """Categories written as zeros and ones, with the penalty that is scikit-learn's default."""
    rng = np.random.default_rng(0)
    place = rng.integers(0, levels, (n, factors)) + levels * np.arange(factors)
    indptr = np.arange(n + 1) * factors
    x = csr_matrix((np.ones(n * factors), place.reshape(-1), indptr), shape=(n, levels * factors))
    scores = x @ rng.normal(size=(levels * factors, 5)) * 0.5
    y = (scores + rng.gumbel(size=scores.shape)).argmax(1)

    def value(model: nll.SoftmaxRegression | LogisticRegression) -> float:
        centred = model.coef_ - model.coef_.mean(0)
        log_p = torch.from_numpy(x @ model.coef_.T + model.intercept_).log_softmax(1)
        return float(log_p[np.arange(n), y].sum()) - float((centred**2).sum()) / 2

    models = {
        "nll": nll.SoftmaxRegression(alpha=1.0),
        "nll, estimate": nll.SoftmaxRegression(alpha=1.0, standard_errors=False),
        "sklearn lbfgs": LogisticRegression(tol=1e-6, max_iter=10_000),
        "sklearn newton-cg": LogisticRegression(tol=1e-6, max_iter=10_000, solver="newton-cg"),
    }
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            time.sleep(0.5)
            times[name].append(seconds(lambda: model.fit(x, y))[0])  # noqa: B023
    best = max(map(value, models.values()))
    print(
        f"sparse, n = {n}, p = {levels * factors}, K = 5, alpha = 1: penalised log-likelihood "
        f"{best:.6f}"
    )
    for name, own in times.items():
        median = statistics.median(own)
        ratio = median / statistics.median(times["nll"])
        print(
            f"  {name:22} {median:8.3f} s   {ratio:6.2f} x   lower by "
            f"{best - value(models[name]):.2e}"
        )


def peak(shape: tuple[int, int, int], who: str, tolerance: float | None) -> float:
    """The extra memory of one fit, in MB, in a process of its own."""
    command = [sys.executable, __file__, "--peak", who, *map(str, shape), str(tolerance or 0.0)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_here(who: str, shape: tuple[int, int, int], tolerance: float) -> float:
    """The same, measured here."""
    data = draw(*shape)
    small = data[0][:2000], data[1][:2000]
    fit = {
        "nll": lambda data: ours(data),
        "nll, estimate": lambda data: ours(data, standard_errors=False),
        "statsmodels newton": statsmodels,
    }.get(who, lambda data: theirs(data, who, tolerance))
    seconds(lambda: fit(small))  # what is loaded once
    ctypes.CDLL(None).malloc_trim(0)  # what is free counts for none of them
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak starts anew
    with open("/proc/self/statm") as file:
        before = int(file.read().split()[1]) * resource.getpagesize() / 1e6
    seconds(lambda: fit(data))
    with open("/proc/self/status") as file:
        high = next(line for line in file if line.startswith("VmHWM"))
    return int(high.split()[1]) * 1024 / 1e6 - before


def main() -> None:
    """Compare the shapes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", type=int, help="shapes with so many rows")
    parser.add_argument("--statsmodels", action="store_true", help="MNLogit too: minutes")
    parser.add_argument("--sparse", action="store_true", help="sparse columns alone")
    parser.add_argument(
        "--peak", nargs=5, metavar=("WHO", "N", "P", "K", "TOL"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    torch.set_num_threads(2)
    if options.peak:
        who, n, p, classes, tolerance = options.peak
        print(peak_here(who, (int(n), int(p), int(classes)), float(tolerance)))
        return
    print(
        f"nll {nll.__version__}, torch {torch.__version__}, scikit-learn {sklearn.__version__}, "
        f"2 threads"
    )
    if options.sparse:
        compare_sparse(options.rounds)
        return
    for shape in SHAPES:
        if options.only in (None, shape[0]):
            compare(shape, options.rounds, options.statsmodels)


if __name__ == "__main__":
    main()
