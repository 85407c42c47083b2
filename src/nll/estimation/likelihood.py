"""A user's likelihood: a log-probability per observation, with named, constrained parameters."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from nll.solvers.parameters import Layout, Parameter, Params


class LogLikelihood(ABC):
    """The log-likelihood of a fit as a function of its flattened parameters."""

    @abstractmethod
    def __call__(self, vector: Tensor) -> float:
        """Return the log-likelihood at a vector of parameters."""

    def along(self, vector: Tensor, index: int, steps: Tensor) -> Tensor:
        """Return the log-likelihood as parameter `index` moves by each of `steps` and the others
        stay.
        """
        values = [self(moved(self.parameters, vector, index, step)) for step in steps.tolist()]
        return torch.tensor(values, dtype=torch.float64)

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """The parameters in the vector; none if each number stands for itself."""
        return {}


def moved(parameters: Mapping[str, Parameter], vector: Tensor, index: int, step: float) -> Tensor:
    """Move one number of the flattened parameters, and with it those that its constraint ties to
    it: the other shares of a simplex keep their ratios, and a symmetric matrix stays symmetric.
    """
    result = vector.clone()
    result[index] += step
    for entry in Layout(dict(parameters)).entries():
        place, constraint = index - entry.flat.start, entry.parameter.constraint
        if not entry.flat.start <= index < entry.flat.stop:
            continue
        if isinstance(constraint, type(constraints.simplex)):
            result[entry.flat] *= (1 - vector[index] - step) / (1 - vector[index])
            result[index] = vector[index] + step
        elif constraint is constraints.positive_definite:
            size = entry.parameter.shape[-1]
            row, column = divmod(place, size)
            if row != column:
                result[entry.flat.start + column * size + row] += step
    return result


@dataclass(frozen=True)
class Likelihood:
    """Any likelihood: the log-probability of each observation as a function of data and named
    parameters.

    Args:
        log_prob: called with the parts of the data, tensors with a row per observation, and the
            parameters by name; returns the log-probabilities (n), or a distribution of the last
            part. In float64, of operators that PyTorch differentiates twice.
        parameters: name -> a constraint of torch.distributions.constraints, or (constraint, shape).
        name: the model's name in tables.

    `a + b` is the likelihood of two data sets, given as a pair; parameters with the same name are
    shared.

    Raises: TypeError if `log_prob` is not a function, or a parameter has no constraint.

    Example:
        >>> import nll
        >>> from torch.distributions import Normal, constraints
        >>> def log_prob(y, mean, scale):
        ...     return Normal(mean, scale).log_prob(y)
        >>> parameters = {"mean": constraints.real, "scale": constraints.positive}
        >>> fitted = nll.fit(nll.Likelihood(log_prob, parameters), [1.0, 2.0, 3.0])
        >>> round(fitted.params["mean"].item(), 6)
        2.0
    """

    log_prob: Callable[..., Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    name: str = "Likelihood"

    def __post_init__(self) -> None:
        if not callable(self.log_prob) or isinstance(self.log_prob, type):
            raise TypeError(f"expected log_prob as a function, got {_what(self.log_prob)}")
        if not isinstance(self.parameters, Mapping) or not self.parameters:
            raise TypeError(
                f"expected parameters as a dict of name -> constraint, got {self.parameters!r}"
            )
        parameters = {name: _parameter(name, p) for name, p in self.parameters.items()}
        object.__setattr__(self, "parameters", parameters)

    def __add__(self, other: Any) -> JointLikelihood:
        return JointLikelihood(self.terms + _terms(other))

    @property
    def terms(self) -> tuple[Likelihood, ...]:
        """The likelihoods of the data sets: this one."""
        return (self,)

    def rows(self, *parts: Tensor, **params: Tensor) -> Tensor:
        rows = self.log_prob(*parts, **params)
        if isinstance(rows, Distribution):
            rows = rows.log_prob(parts[-1])
        if not isinstance(rows, Tensor):
            raise TypeError(
                f"expected log-probabilities or a distribution from {self.name}, got {_what(rows)}"
            )
        if rows.shape != (len(parts[0]),):
            raise ValueError(
                f"expected {len(parts[0])} log-probabilities from {self.name}, got shape "
                f"{tuple(rows.shape)}"
            )
        return rows


@contextmanager
def unvalidated() -> Iterator[None]:
    """Let distributions take any argument."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


@dataclass(frozen=True)
class LikelihoodRows:
    """The rows of a likelihood, which takes its own parameters from those of a sum."""

    term: Likelihood

    def __call__(self, *parts: Tensor, **params: Tensor) -> Tensor:
        """Return the log-probabilities (n).

        Distributions do not check their arguments: outside their range they give NaN or -inf, from
        which a search steps back, rather than raise.
        """
        with unvalidated():
            return self.term.rows(*parts, **self._own(params))

    def distribution(self, parts: tuple[Tensor, ...], params: Params) -> Distribution | None:
        """Return the distribution of the last part, if the likelihood is given by one."""
        rows = self.term.log_prob(*parts, **self._own(params))
        return rows if isinstance(rows, Distribution) else None

    def _own(self, params: Params) -> Params:
        return {name: params[name] for name in self.term.parameters}


@dataclass(frozen=True)
class JointLikelihood:
    """The sum of likelihoods of several data sets; parameters with the same name are shared."""

    terms: tuple[Likelihood, ...]

    def __post_init__(self) -> None:
        """Check that the terms agree on the parameters that they share."""
        for term in self.terms:
            for name, parameter in term.parameters.items():
                shared = self.parameters[name]
                if str(shared) != str(parameter):
                    raise ValueError(
                        f"expected the same constraint and shape of {name} in every likelihood"
                    )

    def __add__(self, other: Any) -> JointLikelihood:
        return JointLikelihood(self.terms + _terms(other))

    @property
    def name(self) -> str:
        return " + ".join(term.name for term in self.terms)

    @property
    def parameters(self) -> dict[str, Parameter]:
        return {
            name: parameter for term in self.terms for name, parameter in term.parameters.items()
        }


def of_module(module: torch.nn.Module) -> tuple[Likelihood, Params]:
    """Return the likelihood of a module that maps the data to a distribution of their last part,
    and its present parameters.
    """
    names = {name.replace(".", "_"): name for name, _ in module.named_parameters()}
    if not names:
        raise ValueError(f"expected a module with parameters, got {type(module).__name__} without")
    values = dict(module.named_parameters())
    start = {name: values[path].detach().double().clone() for name, path in names.items()}
    parameters = {name: Parameter(shape=tuple(value.shape)) for name, value in start.items()}
    module = copy.deepcopy(module).double()

    def log_prob(*parts: Tensor, **params: Tensor) -> Any:
        state = {names[name]: value for name, value in params.items()}
        return torch.func.functional_call(module, state, parts[:-1] if len(parts) > 1 else parts)

    return Likelihood(log_prob, parameters, type(module).__name__), start


def _parameter(name: str, given: Any) -> Parameter:
    if isinstance(given, Parameter):
        return given
    constraint, shape = given if isinstance(given, tuple) and len(given) == 2 else (given, ())
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if inspect.isclass(constraint) or not isinstance(constraint, Constraint):
        raise TypeError(
            f"expected a constraint for {name}, such as constraints.positive, got "
            f"{_what(constraint)}"
        )
    try:
        _ = Parameter(constraint, tuple(shape)).free_shape
    except (NotImplementedError, TypeError, ValueError, IndexError):
        raise TypeError(
            f"expected a constraint for {name} that real numbers map onto, got {constraint}"
        ) from None
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(f"expected a shape of positive integers for {name}, got {shape}")
    return Parameter(constraint, shape)


def _terms(likelihood: Any) -> tuple[Likelihood, ...]:
    if not isinstance(likelihood, (Likelihood, JointLikelihood)):
        raise TypeError(f"expected a Likelihood, got {_what(likelihood)}")
    return likelihood.terms


def _what(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
