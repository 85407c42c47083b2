"""How often Wald's 95 % intervals cover the truth: simulated data sets of several sizes, fitted
side by side.

    python benchmarks/coverage.py [--replicates 2000] [--sizes 20,50,200,2000]

Of the replicates that have a maximum; the share of the others is given where it is not 0.
"""

from __future__ import annotations

import argparse
import math

import torch
from torch import Tensor
from torch import distributions as td

import nll
from nll.estimation.inference.wald import wald_within
from nll.estimation.models import fit_each
from nll.families.registry import family_of

TRUTHS: dict[type, dict[str, float]] = {
    td.Normal: {"loc": 1.0, "scale": 2.0},
    td.Exponential: {"rate": 2.0},
    td.Poisson: {"rate": 3.0},
    td.Geometric: {"probs": 0.3},
    td.Gamma: {"concentration": 2.0, "rate": 1.0},
    td.InverseGamma: {"concentration": 3.0, "rate": 2.0},
    td.Weibull: {"scale": 2.0, "concentration": 1.5},
    td.Beta: {"concentration1": 2.0, "concentration0": 5.0},
    td.Kumaraswamy: {"concentration1": 2.0, "concentration0": 3.0},
    td.Chi2: {"df": 3.3},
    td.StudentT: {"df": 4.0, "loc": 2.0, "scale": 3.0},
    td.Cauchy: {"loc": 1.0, "scale": 2.0},
    td.Gumbel: {"loc": 1.0, "scale": 2.0},
    nll.GeneralizedExtremeValue: {"loc": 1.0, "scale": 2.0, "concentration": 0.2},
    nll.SkewNormal: {"loc": 1.0, "scale": 2.0, "skewness": 3.0},
    nll.InverseGaussian: {"loc": 2.0, "concentration": 3.0},
    td.VonMises: {"loc": 1.0, "concentration": 2.0},
    td.HalfCauchy: {"scale": 2.0},
    td.FisherSnedecor: {"df1": 5.0, "df2": 9.0},
    td.NegativeBinomial: {"total_count": 3.0, "probs": 0.4},
    nll.zero_inflated(td.Poisson): {"gate": 0.3, "rate": 2.5},
}


def draw(family: type, truth: dict[str, float], replicates: int, n: int) -> Tensor:
    params = {name: torch.tensor(value, dtype=torch.float64) for name, value in truth.items()}
    return family(**params).sample((replicates, n)).double()


def coverage(
    family: type, truth: dict[str, float], replicates: int, n: int
) -> tuple[list[float], float]:
    """The share that each parameter's intervals cover, and the share of replicates without a
    maximum.
    """
    inside, found = [0] * len(truth), 0
    for x in draw(family, truth, replicates, n).split(max(1, 500_000 // n)):
        each = fit_each(family_of(family), x, torch.ones_like(x))
        found += int(each.reached.sum())
        errors = each.covariance.diagonal(dim1=1, dim2=2).sqrt()
        supports = family_of(family).constraints(1)
        for i, (name, value) in enumerate(truth.items()):
            ends = wald_within(each.params[name], errors[:, i], 0.95, supports[name].constraint)[
                each.reached
            ]
            inside[i] += int(((ends[:, 0] <= value) & (value <= ends[:, 1])).sum())
    return [count / max(found, 1) for count in inside], 1 - found / replicates


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--sizes", default="20,50,200,2000")
    given = parser.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    error = math.sqrt(0.95 * 0.05 / given.replicates)
    print(f"{given.replicates} replicates, Monte Carlo error {error:.4f}\n")
    print(
        "| family | parameter | "
        + " | ".join(f"n = {n}" for n in sizes)
        + " |\n"
        + "|---" * (len(sizes) + 2)
        + "|"
    )
    for family, truth in TRUTHS.items():
        torch.manual_seed(0)
        columns = [coverage(family, truth, given.replicates, n) for n in sizes]
        for i, (name, value) in enumerate(truth.items()):
            cells = [
                f"{shares[i]:.3f}" + (f" ({lost:.1%} none)" if lost else "")
                for shares, lost in columns
            ]
            title = family.__name__ if i == 0 else ""
            print(f"| {title} | {name} = {value:g} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
