"""The table of families, and what a class that is not in it says about itself."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

from nll.families import counts, extremes, multivariate, positive, real_line, unit_interval
from nll.families.base import Family
from nll.families.distributions import GeneralizedExtremeValue, InverseGaussian, SkewNormal

FAMILIES: dict[type[td.Distribution], Family] = {
    base: family(base)
    for base, family in (
        (td.Bernoulli, counts.Bernoulli),
        (td.Binomial, counts.Binomial),
        (td.Geometric, counts.Geometric),
        (td.Poisson, counts.Poisson),
        (td.Categorical, counts.Categorical),
        (td.Multinomial, counts.Multinomial),
        (td.Normal, real_line.Normal),
        (td.MultivariateNormal, multivariate.MultivariateNormal),
        (td.LogNormal, positive.LogNormal),
        (td.Exponential, positive.Exponential),
        (td.Laplace, real_line.Laplace),
        (td.Uniform, real_line.Uniform),
        (td.Gamma, positive.Gamma),
        (td.InverseGamma, positive.InverseGamma),
        (td.Chi2, positive.Chi2),
        (td.Beta, unit_interval.Beta),
        (td.Kumaraswamy, unit_interval.Kumaraswamy),
        (td.Dirichlet, multivariate.Dirichlet),
        (td.StudentT, real_line.StudentT),
        (td.Cauchy, real_line.Cauchy),
        (td.Gumbel, extremes.Gumbel),
        (GeneralizedExtremeValue, extremes.GeneralizedExtremeValue),
        (SkewNormal, real_line.SkewNormal),
        (td.VonMises, real_line.VonMises),
        (td.Weibull, extremes.Weibull),
        (td.HalfCauchy, positive.HalfCauchy),
        (td.HalfNormal, positive.HalfNormal),
        (td.GeneralizedPareto, extremes.GeneralizedPareto),
        (td.Pareto, extremes.Pareto),
        (InverseGaussian, positive.InverseGaussian),
        (td.FisherSnedecor, positive.FisherSnedecor),
        (td.ContinuousBernoulli, unit_interval.ContinuousBernoulli),
        (td.NegativeBinomial, counts.NegativeBinomial),
    )
}


class Unlisted(Family):
    """A family that is not in the table: its class says what its parameters and support are."""

    def __init__(self, base: type[td.Distribution]) -> None:
        super().__init__(base)
        self.support = str(self.support_at_start()).removesuffix("()")

    def support_at_start(self) -> Any:
        """The support at the parameters where a search starts."""
        start = {
            name: parameter.transform(torch.zeros((), dtype=torch.float64))
            for name, parameter in self.constraints(1).items()
        }
        return self(**start, validate_args=False).support

    def inside(self, values: Tensor) -> Tensor:
        return self.support_at_start().check(values)


def family_of(distribution: Any) -> Family:
    """Return the family of a class of distributions; a family is its own.

    Raises: ValueError for a class that does not say what its parameters and its support are.
    """
    if isinstance(distribution, Family):
        return distribution
    if distribution in FAMILIES:
        return FAMILIES[distribution]
    arguments: Any = distribution.arg_constraints
    name = distribution.__name__
    if not isinstance(arguments, dict) or not arguments:
        raise ValueError(
            f"expected a family whose class declares its parameters (arg_constraints), got {name}"
        )
    wanted = [
        n for n in inspect.signature(distribution).parameters if n in arguments and n != "logits"
    ]
    if any(arguments[n].event_dim for n in wanted) or not wanted:
        raise ValueError(
            f"expected a family with plain numbers as parameters, got {name}; write a Likelihood"
        )
    try:
        family = Unlisted(distribution)
    except TypeError:
        raise ValueError(
            f"expected a family that its parameters alone make, got {name}; write a Likelihood"
        ) from None
    support = family.support_at_start()
    if support is None or support.event_dim:
        raise ValueError(
            f"expected a family of single numbers with a support, got {name}; write a Likelihood"
        )
    return family
