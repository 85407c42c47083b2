"""`fit`: maximum likelihood for a family of distributions, or for any likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from nll._torch import on_processor
from nll.data.weights import Weights
from nll.estimation import conclude
from nll.estimation.grouped import GroupedFit, fit_groups
from nll.estimation.likelihood import JointLikelihood, Likelihood, of_module
from nll.estimation.models import likelihood_data, search_family, search_likelihood
from nll.estimation.options import FitOptions
from nll.estimation.result import Fit
from nll.estimation.samples import sample_of
from nll.families.base import Family, Sample
from nll.families.registry import family_of
from nll.solvers.outcome import Progress


@on_processor
def fit(
    model: Any,
    data: Any,
    *,
    weights: Any = None,
    start: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
    bounds: Mapping[str, Any] | None = None,
    covariance: str = "observed",
    clusters: Any = None,
    groups: Any = None,
    missing: str = "raise",
    seed: int = 0,
    progress: Progress | None = None,
) -> Any:
    """Fit a likelihood to observations.

    Args:
        model: a class of torch.distributions, or one of the library's; a `Likelihood`, or a sum of
            several; a module that maps the data to a distribution of their last part.
        data: (n) numbers, for families of vectors (n, K): a list, array, tensor or column.
            Categorical also takes text labels, and integers from 0. For a `Likelihood` a tuple of
            its parts, each with a row per observation; for a sum a tuple of such tuples.
        weights: (n) frequencies, how often each row was seen, n being their sum; or `sampling(w)`,
            `importance(w)`.
        start: name -> starting value; the other parameters start by a rule. If the likelihood may
            have several maxima, or the search ends at none, other starts are tried too.
        fixed: name -> the value of a known parameter, the name of another that it equals, or a
            function of the other parameters (a dict). Parameters that the data do not determine
            must be here: total_count of Binomial, loc of GeneralizedPareto.
        bounds: name -> (low, high), None for no bound.
        covariance: "observed" (information), "expected" (information), "opg" (outer product of the
            scores) or "sandwich". Weights other than frequencies take the sandwich.
        clusters: (n) labels of groups of rows that are not independent; the covariance is
            clustered.
        groups: (n) labels of data sets that are fitted separately, all in one search; for families
            of numbers.
        missing: "raise", or "drop" to leave out rows with a missing value.
        seed: of random starts, in mixtures.
        progress: called with (step, log-likelihood, expected gain) before each step of a search;
            None: a line on the terminal, if there is one, once the search takes two seconds.

    Returns: a `Fit` in float64, with the parameter names of the model; with `groups` a
        `GroupedFit`.

    Raises: ValueError naming the first row that is missing, outside the support, or has an invalid
        weight; TypeError for a model that cannot be fitted, or data that are not numbers.

    Example:
        >>> import nll
        >>> from torch.distributions import Exponential
        >>> waits = nll.fit(Exponential, [2.0, 4.0, 6.0])
        >>> waits.params["rate"].item(), waits.status
        (0.25, 'converged: closed form')
    """
    options = FitOptions(
        start or {}, fixed or {}, bounds or {}, covariance, clusters, seed, progress
    )
    if isinstance(model, torch.nn.Module):
        model, values = of_module(model)
        options = replace(options, start={**values, **options.start})
    if isinstance(model, (Likelihood, JointLikelihood)) and groups is None:
        return _fit_likelihood(model, data, weights, options, missing)
    family = _family(model)
    if groups is not None:
        return _fit_groups(family, data, weights, options, missing, groups)
    sample = sample_of(family, data, weights, options.fixed, missing)
    fixed = {name: value for name, value in options.fixed.items() if name not in family.given}
    return _fit_sample(sample, replace(options, fixed=fixed))


def _fit_sample(sample: Sample, options: FitOptions) -> Fit:
    family, observed = sample.family, sample.observed
    if _is_degenerate(sample, options):
        return conclude.without_maximum(sample)
    if family.by_formula_only:
        options = _formula_options(sample, options)
    plain = options.plain and observed.kind == "frequency" and not observed.incomplete
    if family.estimate is not None and plain:
        # the search that the formula saves, for profiles and tests
        search = partial(search_family, sample, replace(options, progress=None))
        return conclude.by_formula(sample, None if family.by_formula_only else search)
    if family.estimate is not None and family.verdict is not None and not options.fixed:
        invalid = family.verdict(family.estimate(observed.values, observed.weights))
        if invalid is not None:
            return conclude.without_maximum(sample, invalid)
    solution = search_family(sample, options)
    return conclude.by_search(family.name, solution, observed, options, sample)


def _fit_likelihood(
    model: Likelihood | JointLikelihood, data: Any, weights: Any, options: FitOptions, missing: str
) -> Fit:
    if isinstance(model, JointLikelihood) and options.clusters is not None:
        raise ValueError("expected no clusters with a sum of likelihoods")
    segments, observed = likelihood_data(model, data, weights, missing)
    solution = search_likelihood(model, segments, options)
    return conclude.by_search(model.name, solution, observed, options)


def _fit_groups(
    family: Family, data: Any, weights: Any, options: FitOptions, missing: str, groups: Any
) -> GroupedFit:
    shaped = family.columns or family.given or family.simplex or family.ordered is not None
    if shaped or not options.plain or isinstance(weights, Weights):
        raise ValueError(
            f"cannot fit {family.name} by groups: groups support families of single numbers and "
            f"frequencies only, without other options"
        )
    sample = sample_of(family, data, weights, {}, missing)
    return fit_groups(sample, groups, partial(_fit_sample, options=options))


def _family(model: Any) -> Family:
    if isinstance(model, Family):
        return model
    if isinstance(model, type) and issubclass(model, Distribution):
        return family_of(model)
    got = model.__name__ if isinstance(model, type) else type(model).__name__
    instance = "an instance of " if isinstance(model, Distribution) else ""
    raise TypeError(
        f"expected a class of torch.distributions such as Normal, or a Likelihood, got "
        f"{instance}{got}"
    )


def _is_degenerate(sample: Sample, options: FitOptions) -> bool:
    """Whether all data are equal, so that a density of several free parameters grows without bound
    on their value.
    """
    family, observed = sample.family, sample.observed
    free = [name for name in family.parameters if name not in options.fixed]
    plain = options.plain and observed.kind == "frequency" and not observed.incomplete
    # otherwise an error names the unknown parameter
    known = set(options.fixed) | set(options.start) <= set(family.parameters)
    exact = observed.ends is None or bool((observed.ends[0] == observed.ends[1]).any())
    dense = exact and not family.discrete and len(free) > 1 and not options.bounds
    return known and not (plain and family.start is None) and dense and observed.equal


def _formula_options(sample: Sample, options: FitOptions) -> FitOptions:
    """The options for a family that only a formula fits; a start makes no difference to it.

    If the parameter at which the likelihood has its corners is fixed, a search fits the others.

    Raises: ValueError naming the options that are not supported.
    """
    family, observed = sample.family, sample.observed
    options.require_parameters(family.parameters)
    corner = None if family.corner is None else options.fixed.get(family.corner)
    if isinstance(corner, (int, float, Tensor, np.number)):
        return options
    requested = {
        "fixed": options.fixed,
        "bounds": options.bounds,
        f"covariance={options.covariance!r}": options.covariance != "observed",
        "clusters": options.clusters is not None,
        "censored rows": observed.ends is not None,
        "a window": observed.window is not None,
        f"{observed.kind} weights": observed.kind != "frequency",
    }
    got = [name for name, requested_too in requested.items() if requested_too]
    if got:
        hint = "" if family.corner is None else f"; with a fixed {family.corner} it supports them"
        raise ValueError(
            f"{family.name} has a closed form only, for exact rows and frequencies: it does not "
            f"support {' and '.join(got)}{hint}"
        )
    return replace(options, start={})
