"""The result of a fit: estimates, their errors, and an honest word on both."""

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
from nll.estimation.maximise import Solution
from nll.families.base import Sample
from nll.solvers.outcome import Status

Labels = tuple[tuple[str, ...], ...]  # the names along each dimension of a parameter


@on_processor
@dataclass(frozen=True, eq=False)
class Fit:
    """A maximum likelihood estimate.

    `params` and `standard_errors` have the names of the family's parameters; `covariance` is that
    of the parameters flattened in this order. An error that does not exist is NaN, and `status`
    says why.
    """

    model: str
    params: dict[str, Tensor]
    covariance: Tensor  # (P, P)
    log_likelihood: float
    n: float  # the sum of the frequencies
    df: int  # how many parameters are free
    status: str  # a sentence
    converged: bool  # whether the maximum was found
    verdict: Status | None = None  # how the search ended, for code to read
    # what one more Newton step would add to the log-likelihood; None: closed form
    decrement: float | None = None
    steps: int = 0
    labels: dict[str, Labels] = field(default_factory=dict)
    information: str = "observed"  # which information the covariance is the inverse of
    solver: str | None = None  # how the maximum was searched, and why, where there was a choice
    response: str | None = None
    # whether the likelihood is of probabilities, not of densities; None: not known
    discrete: bool | None = None
    dropped: int = 0  # rows with missing values that were left out
    exact_interval: Callable[[float], dict[str, Tensor]] | None = field(default=None, repr=False)
    # of flattened parameters
    log_likelihood_at: LogLikelihood | None = field(default=None, repr=False)
    # the likelihood, to be searched again
    search: Callable[[], Solution] | None = field(default=None, repr=False)
    sample: Sample | None = field(default=None, repr=False)  # the data of a family's fit
    interval_method: str | None = None  # which intervals are given where none is asked for
    # of parameters that have bounds
    supports: Mapping[str, Constraint] = field(default_factory=dict, repr=False)
    # the log-likelihood that the search reached from each start, best first; () of one
    starts: tuple[float, ...] = ()

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
        """The numbers of events and of censored rows, of a family's fit to censored data."""
        return None if self.sample is None else self.sample.observed.censoring

    @property
    def standard_errors(self) -> dict[str, Tensor]:
        """The square roots of the covariance's diagonal, shaped as the parameters."""
        return self._shaped(self.covariance.diagonal().clamp(min=0).sqrt())

    @property
    def p_values(self) -> dict[str, Tensor]:
        """For each number, P(|Z| > |estimate / standard error|): the Wald test of the value 0."""
        errors = self.standard_errors
        return {name: wald.p_value(value / errors[name]) for name, value in self.params.items()}

    @property
    def names(self) -> list[str]:
        """One name for each number in the flattened parameters: 'loc', 'probs[0]', 'coef[virginica,
        width]'.
        """
        names: list[str] = []
        for name, value in self.params.items():
            labels = self.labels.get(name) or tuple(
                tuple(map(str, range(size))) for size in value.shape
            )
            names += [name + (f"[{', '.join(at)}]" if at else "") for at in product(*labels)]
        return names

    @property
    def vector(self) -> Tensor:
        """All parameters in one vector, in the order of `names` and `covariance`."""
        return torch.cat([value.reshape(-1) for value in self.params.values()])

    def interval(
        self,
        level: float = 0.95,
        method: str | None = None,
        *,
        replicates: int = 2000,
        seed: int = 0,
    ) -> dict[str, Tensor]:
        """Confidence intervals: name -> tensor of the parameter's shape with (low, high) last.

        Args:
            level: the probability that an interval covers the truth, in (0, 1).
            method: "wald" (estimate -+ z * standard error; of a parameter with bounds on the log or
                logit scale, and mapped back, so that it stays within them); "profile" (where the
                largest log-likelihood over the other parameters stays within z^2 / 2 of the
                maximum) or "bootstrap" (that of `bootstrap(replicates, seed=seed)`), where the
                likelihood can be searched again; or "exact", for families that have one (Uniform).
                None: `interval_method`, else the exact one where it exists, else Wald's.
            replicates: of the bootstrap.
            seed: of the bootstrap.

        Raises: ValueError for a level out of range, or a method that this model has not.
        """
        wald.require_level(level)
        known = ["wald"] if self.exact_interval is None else ["exact"]
        known += ["profile"] if self.search is not None and self.converged else []
        known += ["bootstrap"] if self._can_be_drawn else []
        if method is None:
            method = self.interval_method if self.interval_method in known else known[0]
        if method not in known:
            raise ValueError(
                f"expected method {' or '.join(map(repr, known))} for {self.model}, got {method!r}"
            )
        if method == "bootstrap":
            return self.bootstrap(replicates, seed=seed).interval(level)
        if self.exact_interval is not None:
            return self.exact_interval(level)
        if method == "profile" and self.search is not None:
            return profile.intervals(self.search(), wald.quantile(level))
        errors = self.standard_errors
        supports = self.supports
        return {
            name: wald.wald_within(value, errors[name], level, supports.get(name))
            for name, value in self.params.items()
        }

    def test(self, hypothesis: dict[str, Any], method: str = "wald") -> Test:
        """Test that parameters have given values.

        Args:
            hypothesis: parameter -> value; "coef[1]" for one number of a parameter.
            method: "wald", from the covariance; "lr", twice what the log-likelihood loses, or
                "score", from the slope and the observed information at the restricted maximum; not
                of penalised fits.

        Returns: a statistic with its degrees of freedom and P(chi-squared > statistic); NaN where
            there is none.

        Raises: ValueError for a parameter or a method that is not there, or a value that is not
            possible.
        """
        known = ["wald"] + (["lr", "score"] if self.search is not None and self.converged else [])
        if method not in known:
            raise ValueError(
                f"expected method {' or '.join(map(repr, known))} for {self.model}, got {method!r}"
            )
        shapes = {name: tuple(value.shape) for name, value in self.params.items()}
        values = tests.numbers(self.names, shapes, hypothesis)
        if method == "wald" or self.search is None:
            return tests.wald(self.vector, self.covariance, values)
        return tests.restricted(self.search(), values, method)

    def derived(self, what: Any, *, scale: str = "identity") -> Derived:
        """A function of the parameters, with its error by the delta method.

        Args:
            what: a function from `params` to a tensor, of operators that PyTorch differentiates; or
                a contrast, the
                weights of single numbers: {"coef[b, age]": 1, "coef[c, age]": -1}.
            scale: of the intervals: "identity", "log" for positive values, "logit" for those
                between 0 and 1.

        Raises: ValueError for a number that is not there; TypeError for what is neither.
        """
        return derived(what, self.names, self.params, self.covariance, scale)

    def bootstrap(
        self, replicates: int = 2000, *, parametric: bool = False, seed: int = 0
    ) -> Bootstrap:
        """Fit again to data drawn from the rows with replacement, or from the fitted model, all at
        once.

        Args:
            replicates: how many data sets are drawn, at least 2.
            parametric: from the model instead of the rows: families, and likelihoods given as
                distributions.
            seed: of the draws.

        Raises: ValueError for a model that keeps no data, such as a penalised regression, or is no
            maximum.
        """
        if isinstance(replicates, bool) or not isinstance(replicates, int) or replicates < 2:
            raise ValueError(f"expected replicates as an integer of at least 2, got {replicates!r}")
        if not self._can_be_drawn:
            raise ValueError(
                f"expected a converged fit without a penalty to draw from, got {self.model}: "
                f"{self.status}"
            )
        return bootstrap(
            self.model, self.params, self.sample, self.search, replicates, parametric, seed
        )

    @property
    def _can_be_drawn(self) -> bool:
        known = self.search is not None or (self.sample is not None and self.sample.by_formula)
        return known and self.converged

    def __getstate__(self) -> dict[str, Any]:
        """All but a likelihood that cannot be pickled, such as one with a lambda in it."""
        state = dict(self.__dict__)
        for name in ("log_likelihood_at", "search", "sample"):
            try:
                pickle.dumps(state[name])
            except (pickle.PicklingError, AttributeError, TypeError):
                state[name] = None
        return state

    def plot(self, what: str | None = None, level: float = 0.95) -> Any:
        """Draw the fit; a matplotlib Figure, that a notebook shows and `savefig` writes.

        Args:
            what: "distribution", the data and the fitted distribution (of right-censored data
                Kaplan and Meier's curve); "qq", normal scores of the data in the fit, of counts a
                hanging rootogram; "likelihood", the log-likelihood along each parameter with its
                intervals; "profile", its largest value with each
                parameter held. None: all there are, but the profile in the panels of the
                    likelihood.
            level: of the intervals.

        Raises: ValueError for a picture that there is none of; ModuleNotFoundError without
            matplotlib.
        """
        from nll import report

        return report.figure(self, what, level)

    def to_pandas(self, level: float = 0.95) -> Any:
        """A DataFrame with a row for each number: estimate, std err, z, p value (of the value 0),
        low, high.
        """
        import pandas as pd

        bounds = torch.cat([value.reshape(-1, 2) for value in self.interval(level).values()])
        errors = self.covariance.diagonal().clamp(min=0).sqrt()
        z = self.vector / errors
        columns = {"estimate": self.vector, "std err": errors, "z": z, "p value": wald.p_value(z)}
        columns |= {"low": bounds[:, 0], "high": bounds[:, 1]}
        return pd.DataFrame(
            {name: value.numpy() for name, value in columns.items()}, index=pd.Index(self.names)
        )

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from nll import report

        return report.fragment(self)

    def summary(self) -> str:
        """The table that people know, as plain text."""
        from nll import report

        return report.summary(self)

    def to_dict(self, level: float = 0.95) -> dict[str, Any]:
        """Everything that is a number or a text, as plain Python values (NaN and infinities
        included).
        """
        interval = self.interval(level)
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
            "params": {name: value.tolist() for name, value in self.params.items()},
            "standard_errors": {
                name: value.tolist() for name, value in self.standard_errors.items()
            },
            "level": level,
            "interval": {name: value.tolist() for name, value in interval.items()},
            "names": self.names,
            "covariance": self.covariance.tolist(),
        }

    def __str__(self) -> str:
        """Return the summary."""
        return self.summary()

    def _shaped(self, vector: Tensor) -> dict[str, Tensor]:
        shapes = [value.shape for value in self.params.values()]
        parts = vector.split([shape.numel() for shape in shapes])
        return {
            name: part.reshape(shape)
            for name, part, shape in zip(self.params, parts, shapes, strict=True)
        }
