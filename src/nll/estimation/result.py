"""The result of a fit: estimates, their covariance, and how far to trust both."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.distributions.constraints import Constraint

from nll._torch import on_processor
from nll.data.observations import Censoring
from nll.estimation.inference import profile, tests, wald
from nll.estimation.inference.bootstrap import Bootstrap, bootstrap
from nll.estimation.inference.delta import Derived, derived
from nll.estimation.inference.tests import Test
from nll.estimation.likelihood import LogLikelihood
from nll.estimation.search.solution import Solution
from nll.families.base import Sample
from nll.solvers.outcome import Status
from nll.solvers.parameters import flatten, unflatten

Labels = tuple[tuple[str, ...], ...]  # the names along each dimension of a parameter


@on_processor
@dataclass(frozen=True, eq=False)
class Fit:
    """A maximum likelihood estimate.

    `params` and `standard_errors` have the names of the family's parameters; `covariance` is that
    of the parameters flattened in this order. A standard error that does not exist is NaN;
    `verdict` says why as a value, `status` as a sentence.
    """

    model: str
    params: dict[str, Tensor]
    covariance: Tensor  # (P, P)
    log_likelihood: float
    n: float  # the sum of the frequencies
    df: int  # how many parameters are free
    status: str  # the verdict as a sentence
    converged: bool  # whether the maximum was found
    verdict: Status | None = None
    # the gain in log-likelihood expected of one more Newton step; None: no search was made
    decrement: float | None = None
    steps: int = 0
    labels: dict[str, Labels] = field(default_factory=dict)
    information: str = "observed"  # the information, or the estimate, behind the covariance
    solver: str | None = None  # the solver, and why, where there was a choice
    response: str | None = None
    discrete: bool | None = None  # whether it is of probabilities, not densities; None: unknown
    dropped: int = 0  # rows with missing values that were left out
    exact_interval: Callable[[float], dict[str, Tensor]] | None = field(default=None, repr=False)
    log_likelihood_at: LogLikelihood | None = field(default=None, repr=False)  # flattened
    # for profiles, tests and the bootstrap
    search: Callable[[], Solution] | None = field(default=None, repr=False)
    sample: Sample | None = field(default=None, repr=False)  # the data of a family
    interval_method: str | None = None  # the default of `interval`
    supports: Mapping[str, Constraint] = field(default_factory=dict, repr=False)  # bounds
    starts: tuple[float, ...] = ()  # log-likelihoods reached from several starts, best first

    @property
    def nll(self) -> float:
        """The negative log-likelihood at the estimate."""
        return -self.log_likelihood

    @property
    def aic(self) -> float:
        """Akaike's information criterion, 2 df - 2 log L."""
        return 2 * self.df - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """Schwarz's criterion, df log n - 2 log L."""
        return self.df * math.log(self.n) - 2 * self.log_likelihood

    @property
    def censoring(self) -> Censoring | None:
        """The numbers of exact and of censored rows, for a family fitted to censored data."""
        return None if self.sample is None else self.sample.observed.censoring

    @property
    def standard_errors(self) -> dict[str, Tensor]:
        """The square roots of the covariance's diagonal, shaped like the parameters."""
        return unflatten(self._flat_standard_errors, self.params)

    @property
    def _flat_standard_errors(self) -> Tensor:
        return self.covariance.diagonal().clamp(min=0).sqrt()

    @property
    def p_values(self) -> dict[str, Tensor]:
        """P(|Z| > |estimate / standard error|) for each number: the Wald test of the value 0."""
        return unflatten(wald.p_value(self.vector / self._flat_standard_errors), self.params)

    @property
    def names(self) -> list[str]:
        """One name for each flattened parameter: 'loc', 'probs[0]', 'coef[virginica, width]'."""
        names: list[str] = []
        for name, value in self.params.items():
            labels = self.labels.get(name) or [map(str, range(size)) for size in value.shape]
            names += [name + (f"[{', '.join(at)}]" if at else "") for at in product(*labels)]
        return names

    @property
    def vector(self) -> Tensor:
        """All parameters in one vector, in the order of `names` and `covariance`."""
        return flatten(self.params)

    def interval(
        self,
        level: float = 0.95,
        method: str | None = None,
        *,
        replicates: int = 2000,
        seed: int = 0,
    ) -> dict[str, Tensor]:
        """Return confidence intervals: name -> (*shape, 2), (low, high) last.

        Args:
            level: the probability that an interval covers the truth, in (0, 1).
            method: "wald": estimate -+ z * standard error, on the log or logit scale for a
                parameter with bounds, so that the interval stays within them. "profile": where the
                log-likelihood, maximised over the other parameters, stays within z^2 / 2 of its
                maximum. "bootstrap": that of `bootstrap(replicates, seed=seed)`. "exact": for
                families that have one (Uniform). None: `interval_method`, otherwise the exact one
                if it exists, otherwise Wald's.
            replicates: of the bootstrap.
            seed: of the bootstrap.

        Raises: ValueError for a level out of range, or a method that this model lacks.

        Example:
            >>> import nll
            >>> from torch.distributions import Exponential
            >>> waits = nll.fit(Exponential, [2.0, 4.0, 6.0])
            >>> [round(end, 4) for end in waits.interval(0.9, method="profile")["rate"].tolist()]
            [0.081, 0.5678]
        """
        wald.require_level(level)
        methods = ["wald"] if self.exact_interval is None else ["exact"]
        methods += ["profile"] if self._can_be_searched else []
        methods += ["bootstrap"] if self._can_be_resampled else []
        if method is None:
            method = self.interval_method if self.interval_method in methods else methods[0]
        self._require_method(method, methods)
        if method == "bootstrap":
            return self.bootstrap(replicates, seed=seed).interval(level)
        if self.exact_interval is not None:
            return self.exact_interval(level)
        if method == "profile" and self.search is not None:
            return profile.intervals(self.search(), wald.quantile(level))
        standard_errors = self.standard_errors
        return {
            name: wald.wald_within(value, standard_errors[name], level, self.supports.get(name))
            for name, value in self.params.items()
        }

    def test(self, hypothesis: dict[str, Any], method: str = "wald") -> Test:
        """Test that parameters have given values.

        Args:
            hypothesis: parameter -> value; "coef[1]" for one number of a parameter.
            method: "wald", from the covariance; "lr", twice the loss in log-likelihood, or "score",
                from the score and the observed information at the restricted maximum; the last two
                not for penalised fits.

        Returns: a statistic with its degrees of freedom and P(chi-squared > statistic); NaN where
            there is none.

        Raises: ValueError for an unknown parameter or method, or an invalid value.

        Example:
            >>> import nll
            >>> from torch.distributions import Exponential
            >>> print(nll.fit(Exponential, [2.0, 4.0, 6.0]).test({"rate": 0.5}, method="lr"))
            lr: chi-squared(1) = 1.84112, p = 0.1748
        """
        self._require_method(method, ["wald"] + ["lr", "score"] * self._can_be_searched)
        shapes = {name: tuple(value.shape) for name, value in self.params.items()}
        values = tests.numbers(self.names, shapes, hypothesis)
        if method == "wald" or self.search is None:
            return tests.wald(self.vector, self.covariance, values)
        return tests.restricted(self.search(), values, method)

    def derived(self, what: Any, *, scale: str = "identity") -> Derived:
        """Return a function of the parameters, with its standard error by the delta method.

        Args:
            what: a function from `params` to a tensor, of operators that PyTorch differentiates; or
                a contrast: the weights of single numbers, {"coef[b, age]": 1, "coef[c, age]": -1}.
            scale: of the intervals: "identity", "log" for positive values, "logit" for those
                between 0 and 1.

        Raises: ValueError for an unknown parameter; TypeError if `what` is neither.

        Example:
            >>> import nll
            >>> from torch.distributions import Exponential
            >>> waits = nll.fit(Exponential, [2.0, 4.0, 6.0])
            >>> print(waits.derived(lambda params: 1 / params["rate"], scale="log"))
            4 (2.3094)
        """
        return derived(what, self.names, self.params, self.covariance, scale)

    def bootstrap(
        self, replicates: int = 2000, *, parametric: bool = False, seed: int = 0
    ) -> Bootstrap:
        """Fit to data drawn from the rows with replacement, or from the fitted model.

        Args:
            replicates: how many data sets are drawn, at least 2.
            parametric: draw from the model instead of the rows: for families, and likelihoods given
                as distributions.
            seed: of the draws.

        Raises: ValueError for a fit that is no maximum, or a model that keeps no data, such as a
            penalised regression.

        Example:
            >>> import nll
            >>> from torch.distributions import Exponential
            >>> print(nll.fit(Exponential, [2.0, 4.0, 6.0]).bootstrap(500))
            Exponential: 500 bootstrap replicates, 0 without a maximum
        """
        if isinstance(replicates, bool) or not isinstance(replicates, int) or replicates < 2:
            raise ValueError(f"expected replicates as an integer of at least 2, got {replicates!r}")
        if not self._can_be_resampled:
            raise ValueError(
                f"expected a converged fit without a penalty to draw from, got {self.model}: "
                f"{self.status}"
            )
        return bootstrap(
            self.model, self.params, self.sample, self.search, replicates, parametric, seed
        )

    @property
    def _can_be_searched(self) -> bool:
        return self.search is not None and self.converged

    @property
    def _can_be_resampled(self) -> bool:
        by_formula = self.sample is not None and self.sample.by_formula
        return self._can_be_searched or (by_formula and self.converged)

    def _require_method(self, method: str, methods: list[str]) -> None:
        if method not in methods:
            known = " or ".join(map(repr, methods))
            raise ValueError(f"expected method {known} for {self.model}, got {method!r}")

    def __getstate__(self) -> dict[str, Any]:
        """Return everything but a likelihood that cannot be pickled, such as one with a lambda."""
        state = dict(self.__dict__)
        for name in ("log_likelihood_at", "search", "sample"):
            try:
                pickle.dumps(state[name])
            except (pickle.PicklingError, AttributeError, TypeError):
                state[name] = None
        return state

    def plot(self, what: str | None = None, level: float = 0.95) -> Any:
        """Draw the fit; return a matplotlib Figure, which a notebook shows and `savefig` writes.

        Args:
            what: "distribution", the data and the fitted distribution (the Kaplan-Meier curve for
                right-censored data); "qq", a normal plot of the data under the fit, a hanging
                rootogram for counts; "likelihood", the log-likelihood along each parameter with its
                intervals; "profile", the log-likelihood maximised over the other parameters. None:
                all of them, the profile within the panels of the likelihood.
            level: of the intervals.

        Raises: ValueError for a figure that this fit lacks; ModuleNotFoundError without matplotlib.

        Example:
            >>> import nll
            >>> from torch.distributions import Exponential
            >>> figure = nll.fit(Exponential, [2.0, 4.0, 6.0]).plot("likelihood")
            >>> len(figure.axes)
            1
        """
        from nll import report

        return report.figure(self, what, level)

    def to_pandas(self, level: float = 0.95) -> Any:
        """Return a DataFrame with a row per number: estimate, std err, z, p value, low, high."""
        import pandas as pd

        bounds = torch.cat([value.reshape(-1, 2) for value in self.interval(level).values()])
        errors = self._flat_standard_errors
        z = self.vector / errors
        columns = {"estimate": self.vector, "std err": errors, "z": z, "p value": wald.p_value(z)}
        columns |= {"low": bounds[:, 0], "high": bounds[:, 1]}
        arrays = {name: value.numpy() for name, value in columns.items()}
        return pd.DataFrame(arrays, index=pd.Index(self.names))

    def _repr_html_(self) -> str:
        from nll import report

        return report.fragment(self)

    def summary(self) -> str:
        """Return the table of the estimates as plain text."""
        from nll import report

        return report.summary(self)

    def to_dict(self, level: float = 0.95) -> dict[str, Any]:
        """Return every number and text as plain Python values, NaN and infinities included."""
        return {
            "model": self.model,
            "response": self.response,
            "n": self.n,
            "events": None if self.censoring is None else self.censoring.events,
            "censored": None if self.censoring is None else self.censoring.censored,
            "dropped": self.dropped,
            "df": self.df,
            "log_likelihood": self.log_likelihood,
            "aic": self.aic,
            "bic": self.bic,
            "converged": self.converged,
            "status": self.status,
            "decrement": self.decrement,
            "steps": self.steps,
            "information": self.information,
            "solver": self.solver,
            "starts": list(self.starts),
            "labels": {
                name: [list(along) for along in labels] for name, labels in self.labels.items()
            },
            "params": _lists(self.params),
            "standard_errors": _lists(self.standard_errors),
            "level": level,
            "interval": _lists(self.interval(level)),
            "names": self.names,
            "covariance": self.covariance.tolist(),
        }

    def __str__(self) -> str:
        return self.summary()


def _lists(params: dict[str, Tensor]) -> dict[str, Any]:
    return {name: value.tolist() for name, value in params.items()}
