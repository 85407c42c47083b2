"""Choose between hypotheses: which one makes the data most likely."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from nll._torch import on_processor
from nll.data.observations import observe
from nll.families.registry import FAMILIES

# Sums of n rounded logarithms: two hypotheses whose log-likelihoods differ by less are a tie.
_TIE = 1e-12


@dataclass(frozen=True)
class Choice:
    """The log-likelihood of each hypothesis, and which one makes the data most likely."""

    log_likelihoods: dict[str, float]  # -inf: the data are impossible under it
    winner: str | None  # None: a tie, or data that are impossible under every hypothesis
    # the hypotheses that share the largest likelihood, when there are several
    tied: tuple[str, ...]
    impossible: tuple[str, ...]  # the hypotheses under which the data cannot happen
    n: int

    @property
    def likelihood_ratios(self) -> dict[str, float]:
        """How many times likelier the data are under the best hypothesis: 1 for the best itself."""
        best = max(self.log_likelihoods.values())
        # NaN if the data are impossible under all: -inf - -inf.
        return {name: _exp(best - value) for name, value in self.log_likelihoods.items()}

    @property
    def status(self) -> str:
        if self.winner is not None:
            return f"{self.winner} makes the data most likely"
        if self.tied:
            return "a tie: the data are equally likely under " + " and ".join(self.tied)
        return "the data are impossible under every hypothesis"

    def summary(self) -> str:
        """Return a table of the hypotheses, from the most to the least likely."""
        width = max(map(len, self.log_likelihoods))
        ratios = self.likelihood_ratios
        lines = [f"{'':{width}}  log-likelihood  times less likely than the best"]
        for name, value in sorted(self.log_likelihoods.items(), key=lambda item: -item[1]):
            lines.append(f"{name:{width}}  {value:14.8g}  {ratios[name]:.6g}")
        return "\n".join([*lines, f"{self.status} (n = {self.n})."])

    __str__ = summary


@on_processor
def most_likely(
    hypotheses: Mapping[str, Distribution | Callable[[Tensor], Any]], data: Any
) -> Choice:
    """Choose the hypothesis that makes the data most likely.

    Args:
        hypotheses: name -> a distribution (of torch.distributions), or a function from the data, a
            float64 tensor (n) or (n, k), to the log-probability of each row, or of all.
        data: a number, or (n) or (n, k) of them.

    Returns: a `Choice`. A row outside a distribution's support has probability 0 under it.

    Raises: ValueError for no hypotheses, missing values, or a log-probability that is NaN, +inf or
    of a wrong shape; TypeError for a hypothesis that is neither a distribution nor a function.

    Example:
        >>> from torch.distributions import Bernoulli
        >>> nll.most_likely({"A": Bernoulli(0.99), "B": Bernoulli(0.01)}, [1]).winner
        'A'
    """
    if not isinstance(hypotheses, Mapping):
        raise TypeError(
            f"expected hypotheses as a dict of name -> distribution, got "
            f"{type(hypotheses).__name__}"
        )
    if not hypotheses:
        raise ValueError("expected at least one hypothesis, got none")
    single = isinstance(data, (int, float)) or (isinstance(data, Tensor) and data.dim() == 0)
    values = _observed([float(data)] if single else data)
    logs = {
        str(name): _log_likelihood(str(name), hypothesis, values)
        for name, hypothesis in hypotheses.items()
    }
    best = max(logs.values())
    impossible = tuple(name for name, value in logs.items() if value == -math.inf)
    if best == -math.inf:
        return Choice(logs, None, (), impossible, len(values))
    least = best - _TIE * max(1.0, abs(best))
    top = tuple(name for name, value in logs.items() if value >= least)
    if len(top) == 1:
        return Choice(logs, top[0], (), impossible, len(values))
    return Choice(logs, None, top, impossible, len(values))


def _observed(data: Any) -> Tensor:
    try:
        return observe(data).values
    except ValueError as error:
        raise ValueError(str(error).removesuffix("; missing='drop' leaves them out")) from None


def _log_likelihood(
    name: str, hypothesis: Distribution | Callable[[Tensor], Any], values: Tensor
) -> float:
    if isinstance(hypothesis, Distribution):
        rows = _log_probs(name, hypothesis, values)
    elif isinstance(hypothesis, type):
        raise TypeError(
            f"expected a distribution or a function for hypothesis {name!r}, got the class "
            f"{hypothesis.__name__}; give its parameters"
        )
    elif callable(hypothesis):
        rows = hypothesis(values)
        if not isinstance(rows, (Tensor, int, float, list, tuple, np.ndarray, np.number)):
            raise TypeError(
                f"expected log-probabilities under hypothesis {name!r}, got {type(rows).__name__}"
            )
        rows = torch.as_tensor(rows, dtype=torch.float64).detach()
    else:
        raise TypeError(
            f"expected a distribution or a function for hypothesis {name!r}, got "
            f"{type(hypothesis).__name__}"
        )
    if rows.shape not in ((), (len(values),)):
        raise ValueError(
            f"expected {len(values)} log-probabilities under hypothesis {name!r}, got shape "
            f"{tuple(rows.shape)}"
        )
    wrong = rows.isnan() | (rows == torch.inf)
    if bool(wrong.any()):
        where = f" at row {int(wrong.nonzero()[0])}" if rows.dim() else ""
        raise ValueError(
            f"expected log-probabilities below +inf under hypothesis {name!r}, "
            f"got {float(rows[wrong].reshape(-1)[0])}{where}"
        )
    return float(rows.sum())


def _log_probs(name: str, hypothesis: Distribution, values: Tensor) -> Tensor:
    """Log-probability of each row in float64, -inf outside the support."""
    if hypothesis.batch_shape:
        raise ValueError(
            f"expected one distribution for hypothesis {name!r}, got a batch of "
            f"{tuple(hypothesis.batch_shape)}"
        )
    if values.shape[1:] != hypothesis.event_shape:
        raise ValueError(
            f"expected rows of shape {tuple(hypothesis.event_shape)} for hypothesis {name!r}, "
            f"got {tuple(values.shape[1:])}"
        )
    hypothesis = _in_float64(hypothesis)
    support = hypothesis.support
    assert support is not None
    possible = support.check(values)
    rows = torch.full((len(values),), -torch.inf, dtype=torch.float64)
    rows[possible] = _exact_log_prob(hypothesis, values[possible]).double()
    return rows


def _exact_log_prob(distribution: Distribution, values: Tensor) -> Tensor:
    """log P, -inf where P = 0: PyTorch clamps the probabilities of some families away from 0 and
    1.
    """
    family = FAMILIES.get(type(distribution))
    params = _parameters(distribution)
    if family is None or family.log_prob is None or params is None or "logits" in params:
        return distribution.log_prob(values)
    names = (*family.parameters, *family.given)
    return family.log_prob(values, **{name: params[name] for name in names if name in params})


def _in_float64(distribution: Distribution) -> Distribution:
    """The same distribution with float64 parameters, if its parameters are known.

    Bernoulli(0.99) stores 0.99 in float32. Its shortest decimal, 0.99, is what was written; with it
    ties are ties.
    """
    params = _parameters(distribution)
    if params is None:
        return distribution
    return type(distribution)(**{name: _shortest(value) for name, value in params.items()})


def _parameters(distribution: Distribution) -> dict[str, Any] | None:
    """The arguments that make this distribution; None if they are not known.

    Of probs and logits, the one that it was made from: the other may be cached from an earlier
    call.
    """
    wanted = set(inspect.signature(type(distribution)).parameters) - {"validate_args"}
    if not wanted <= {*distribution.arg_constraints, "total_count"} or "scale_tril" in wanted:
        return None
    params = {name: getattr(distribution, name) for name in wanted - {"probs", "logits"}}
    if {"probs", "logits"} <= wanted:
        stored = vars(getattr(distribution, "_categorical", distribution))
        param = stored.get("_param", stored.get("probs", stored.get("logits")))
        name = "logits" if param is stored.get("logits") else "probs"
        params[name] = getattr(distribution, name)
    return params


def _shortest(parameter: Any) -> Any:
    if not isinstance(parameter, Tensor) or parameter.dtype != torch.float32:
        return parameter
    digits = [float(str(number)) for number in parameter.detach().cpu().reshape(-1).numpy()]
    return torch.tensor(digits, dtype=torch.float64).reshape(parameter.shape)


def _exp(x: float) -> float:
    return math.inf if x >= 709.0 else math.exp(x)
