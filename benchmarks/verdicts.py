"""Random fits, judged by restarts, by another optimiser and by likelihoods that are computed
independently.

    python benchmarks/verdicts.py [--fits 2000] [--seed 0] [--first 0] [--only Gamma] [--index 137]
    [--verbose]

A fit that says "converged" must lie at the highest maximum that any restart or SciPy reaches, and
above its values far out; a verdict may depend neither on the start nor on the units. A line for
each failure names seed and index, which draw the problem again. Exit status 1 if a check fails.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import warnings
from collections import Counter
from typing import Any

import numpy as np
import scipy.optimize
import torch
from random_fits.draw import draw, far_start, rough, scalable, scaled, units
from random_fits.problem import REGRESSIONS, Params, Problem, natural, numbers, plain

TOLERANCE, SLOW = 1e-6, 20.0  # of 1 + |log L|; seconds
# how far a logarithm, a logit, or a location in units of its spread is moved towards a boundary
FAR = 12.0
CHECKS = {
    "best": "a higher maximum",
    "start": "a higher maximum than from a given start",
    "value": "another log-likelihood by SciPy",
    "limit": "as high far out, but converged",
    "inside": "a maximum inside, but no maximum",
    "units": "another verdict or maximum in other units",
    "error": "an exception that does not say what was expected, or NaN",
    "slow": f"more than {SLOW:g} s",
}
# Their likelihood has no largest value: a maximum counts if nll, started there, converges to it.
UNBOUNDED = (
    "StudentT",
    "GeneralizedExtremeValue",
    "GeneralizedPareto",
    "Shifted",
    "NormalMixture",
    "Cauchy",
)
# what is far out is not moved one number at a time
NOT_REGULAR = ("Uniform", "Pareto", "MultivariateNormal")


def verdict(fit: Any) -> str:
    """converged, boundary, no maximum, or how the search ended."""
    for beginning, said in (
        ("at the b", "boundary"),
        ("no maximum", "no maximum"),
        ("not regular", "converged"),
    ):
        if fit.status.startswith(beginning):
            return said
    return "converged" if fit.converged else fit.status.split(":")[0]


class Judge:
    """A problem, its fit and what the checks say."""

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self.problem, self.rng, self.failures = problem, rng, []
        began = time.process_time()
        self.fit = self.attempt(problem, problem.start)
        self.costly = time.process_time() - began > 1.0  # then it is not repeated
        if self.fit is not None:
            self.value, self.verdict = self.fit.log_likelihood, verdict(self.fit)
            self.parameters, self.unit = problem.parameters, units(problem)
            self.params = {name: value.numpy() for name, value in self.fit.params.items()}
            finite = all(np.isfinite(value).all() for value in self.params.values())
            self.rough = numbers(self.parameters, rough(problem))
            self.theta = numbers(self.parameters, self.params) if finite else self.rough
            self.margin = TOLERANCE * (1 + abs(self.value)) if math.isfinite(self.value) else 0.0
            self.check(finite)

    def fail(self, kind: str, said: str) -> None:
        self.failures.append((kind, said))

    def attempt(self, problem: Problem, start: Params) -> Any:
        began = time.process_time()
        try:
            fit = problem.fit(start)
        except Exception as error:
            text = str(error)
            worded = text.startswith(("expected", "data outside")) or "does not support" in text
            if not (isinstance(error, (ValueError, TypeError)) and worded):
                self.fail("error", f"{type(error).__name__}: {str(error)[:150]}")
            return None
        if fit.converged and math.isnan(fit.log_likelihood):
            self.fail("error", "log L is NaN")
        if (took := time.process_time() - began) > SLOW:
            self.fail("slow", f"{took:.1f} s")
        return fit

    def at(self, theta: np.ndarray) -> float:
        """The log-likelihood, -inf where it is not finite."""
        value = self.objective(natural(self.parameters, theta))
        return value if math.isfinite(value) else -math.inf

    def by_nll(self, params: Params) -> float:
        vector = torch.cat(
            [torch.as_tensor(value, dtype=torch.float64).reshape(-1) for value in params.values()]
        )
        return float(self.fit.log_likelihood_at(vector))

    def climb(
        self, theta: np.ndarray, free: np.ndarray, effort: int, polish: bool = False
    ) -> tuple[float, np.ndarray]:
        """By Nelder and Mead's simplex, and BFGS; only some of the numbers are free."""
        size = int(free.sum())
        if not size:
            return self.at(theta), theta

        def moved(z: np.ndarray) -> np.ndarray:
            there = theta.copy()
            there[free] += self.unit[free] * z
            return there

        def lost(z: np.ndarray) -> float:
            return min(-self.at(moved(z)), 1e250)

        simplex = np.vstack([np.zeros(size), np.diag(self.rng.choice([-0.5, 0.5], size))])
        options = {
            "maxfev": effort * size,
            "xatol": 1e-7,
            "fatol": 1e-10,
            "initial_simplex": simplex,
        }
        end = scipy.optimize.minimize(lost, np.zeros(size), method="Nelder-Mead", options=options)
        if polish and end.fun < 1e249:
            more = scipy.optimize.minimize(lost, end.x, method="BFGS", options={"maxiter": 20})
            end = more if more.fun < end.fun else end
        return -float(end.fun), moved(end.x)

    def highest(self) -> tuple[float, np.ndarray]:
        every = np.ones(len(self.theta), bool)
        near = self.theta if self.rng.random() < 0.5 else self.rough
        starts = [self.theta, self.rough, near + 1.5 * self.unit * self.rng.normal(size=len(near))]
        ends = [self.climb(start, every, 60) for start in starts]
        return self.climb(max(ends, key=lambda end: end[0])[1], every, 60, polish=True)

    def outermost(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """The highest value with one number moved far out and the others free."""
        ends = [(-math.inf, theta)]
        for p in range(len(theta)):
            for far in (-FAR, FAR):
                there, free = theta.copy(), np.arange(len(theta)) != p
                there[p] += far * self.unit[p]
                ends.append(self.climb(there, free, 30))
        return max(ends, key=lambda end: end[0])

    def same(self, theta: np.ndarray, value: float) -> bool:
        """Whether nll's likelihood is the same there: far out SciPy's may be rounding."""
        if self.fit.log_likelihood_at is None:  # of a limit, as Poisson of NegativeBinomial
            return value > self.value + 1e-4 * (1 + abs(value))
        return abs(self.by_nll(natural(self.parameters, theta)) - value) <= TOLERANCE * (
            1 + abs(value)
        )

    def confirmed(self, theta: np.ndarray, value: float) -> bool:
        """Whether a value that SciPy reaches is a maximum."""
        if not self.problem.name.startswith(UNBOUNDED):
            return self.same(theta, value)
        there = self.attempt(self.problem, natural(self.parameters, theta))
        return (
            there is not None
            and verdict(there) == "converged"
            and there.log_likelihood > self.value + self.margin
        )

    def check(self, finite: bool) -> None:
        fit, self.objective = self.fit, self.problem.log_likelihood
        if finite and fit.converged:
            value = self.objective(self.params)
            if not math.isfinite(value) and fit.log_likelihood_at is not None:
                self.objective = self.by_nll
            elif abs(value - self.value) > self.margin:
                self.fail("value", f"log L {self.value:.9g}, by SciPy {value:.9g}")
        best, where = self.highest()
        if fit.converged and best > self.value + self.margin and self.confirmed(where, best):
            self.lower(best, f"SciPy at {self.shown(where)}")
        usual = self.restart()
        if usual is not None and scalable(self.problem.name):
            self.other_units(usual)
        if self.problem.name in NOT_REGULAR:
            return
        if self.verdict == "converged" and finite and not self.failures:
            self.far_out()
        elif self.verdict == "no maximum" and math.isfinite(best):
            self.interior(best, where)

    def lower(self, value: float, whose: str) -> None:
        self.fail(
            "start" if self.problem.start else "best",
            f"log L {self.value:.9g}, {value:.9g} by {whose}",
        )

    def restart(self) -> Any:
        """From the default and from another start: not higher, and not lower where it says
        converged.
        """
        if self.costly:
            return None
        usual = self.attempt(self.problem, {}) if self.problem.start else self.fit
        start = far_start(self.rng, self.problem)
        for other, whose in (
            (usual, "the default start"),
            (self.attempt(self.problem, start), plain(start)),
        ):
            if self.fit.converged and other is not None and other.converged:
                if other.log_likelihood > self.value + self.margin:
                    self.lower(other.log_likelihood, whose)
                elif other.log_likelihood < self.value - self.margin and other is not usual:
                    self.fail(
                        "start",
                        f"log L {other.log_likelihood:.9g} from {whose}, else {self.value:.9g}",
                    )
        return usual

    def other_units(self, usual: Any) -> None:
        factor = 2.0 ** float(self.rng.choice([-20, -10, 10, 20]))
        other = self.attempt(scaled(self.problem, factor), {})
        if other is None:
            return
        if {verdict(usual), verdict(other)} & {"converged", "boundary", "no maximum"} and verdict(
            usual
        ) != verdict(other):
            self.fail("units", f"{usual.status!r}; data times {factor:g}: {other.status!r}")
        elif usual.converged:
            there = other.log_likelihood + self.problem.densities * math.log(factor)
            if abs(there - usual.log_likelihood) > TOLERANCE * (1 + abs(there)):
                self.fail(
                    "units", f"log L {usual.log_likelihood:.9g}, data times {factor:g}: {there:.9g}"
                )

    def far_out(self) -> None:
        value, where = self.outermost(self.theta)
        if self.fit.log_likelihood_at is not None:  # to the last digits
            lower = self.value - self.by_nll(natural(self.parameters, where))
            if lower > 1e-11 * (1 + abs(self.value)):
                return
        above = self.problem.name.startswith(UNBOUNDED) and value > self.value
        if (
            value > self.value - 1e-8 * (1 + abs(self.value))
            and not above
            and self.same(where, value)
        ):
            self.fail("limit", f"log L {self.value:.9g}, {value:.9g} at {self.shown(where)}")

    def interior(self, best: float, where: np.ndarray) -> None:
        """No maximum: is there one?"""
        away = where if self.problem.name in REGRESSIONS else (where - self.rough) / self.unit
        value, _ = self.outermost(where)
        if (
            value < best - 1e-5 * (1 + abs(best))
            and abs(away).max() < 10
            and self.confirmed(where, best)
        ):
            self.fail(
                "inside",
                f"SciPy: log L {best:.9g} at {self.shown(where)}, far out at most {value:.9g}",
            )

    def shown(self, theta: np.ndarray) -> str:
        return plain(natural(self.parameters, theta))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("fits", 2000), ("seed", 0), ("first", 0), ("index", None)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--only", help="a family")
    parser.add_argument("--verbose", action="store_true", help="every fit, not only failures")
    asked = parser.parse_args()
    indices = range(asked.first, asked.first + asked.fits) if asked.index is None else [asked.index]
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    torch.set_num_threads(1)
    verdicts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for index in indices:
        problem = draw(asked.seed, index, asked.only)
        judge = Judge(problem, np.random.default_rng([asked.seed, index, 1]))
        line = (
            f"--seed {asked.seed} --index "
            f"{index}{f' --only {asked.only}' if asked.only else ''} {problem}"
        )
        got = "refused" if judge.fit is None else judge.fit.status
        if asked.verbose or asked.index is not None:
            print(
                line,
                got,
                "" if judge.fit is None else plain(judge.fit.params),
                sep=" | ",
                flush=True,
            )
        if asked.index is not None:
            print(problem.literal)
        for kind, said in judge.failures:
            print(f"{kind:6s} {line}: {got.split(':')[0]}; {said}", flush=True)
        verdicts[got if judge.fit is None else judge.verdict] += 1
        kinds.update({kind for kind, _ in judge.failures})
    rows = [
        "",
        "| verdict | fits |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in verdicts.most_common()),
    ]
    rows += [
        "",
        "| check | failures |",
        "|---|---|",
        *(f"| {CHECKS[kind]} | {kinds[kind]} |" for kind in CHECKS),
    ]
    print(*rows, sep="\n")
    return int(kinds.total() > 0)


if __name__ == "__main__":
    sys.exit(main())
