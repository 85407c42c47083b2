"""What can be fitted: a log-probability per observation, with parameters that have names, shapes
and constraints.
"""

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
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from nll.solvers.parameters import Parameter, Params, moved


class LogLikelihood(ABC):
    """The log-likelihood of the data of a fit, as a function of its flattened parameters."""

    @abstractmethod
    def __call__(self, vector: Tensor) -> float:
        """Return the log-likelihood at a vector of parameters."""

    def along(self, vector: Tensor, index: int, steps: Tensor) -> Tensor:
        """Return the log-likelihood as parameter `index` moves by each of `steps` and the others
        stay.
        """
        known = self.parameters
        return torch.tensor(
            [self(moved(known, vector, index, s)) for s in steps.tolist()], dtype=torch.float64
        )

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """The parameters that the vector holds; none where each number stands for itself."""
        return {}


@dataclass(frozen=True)
class Likelihood:
    """Any likelihood: the log-probability of each observation as a function of data and named
    parameters.

    Args:
        log_prob: called with the parts of the data, tensors with a row per observation, and the
            parameters by name; returns the log-probabilities (n), or a distribution of the last
            part. In float64, of operators that PyTorch differentiates twice.
        parameters: name -> a constraint of torch.distributions.constraints, or (constraint, shape).
        name: what the table calls it.

    `a + b` is the likelihood of two data sets, given as a pair; parameters of one name are the same
    in both.

    Raises: TypeError for something that is no function, or a parameter without a constraint.
    """

    log_prob: Callable[..., Any]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    name: str = "Likelihood"

    def __post_init__(self) -> None:
        """Check the arguments."""
        if not callable(self.log_prob) or isinstance(self.log_prob, type):
            raise TypeError(f"expected log_prob as a function, got {_what(self.log_prob)}")
        if not isinstance(self.parameters, Mapping) or not self.parameters:
            raise TypeError(
                f"expected parameters as a dict of name -> constraint, got {self.parameters!r}"
            )
        object.__setattr__(
            self, "parameters", {n: _parameter(n, p) for n, p in self.parameters.items()}
        )

    def __add__(self, other: Any) -> JointLikelihood:
        """The likelihood of both data sets."""
        return JointLikelihood(_terms(self) + _terms(other))

    def rows(self, *parts: Tensor, **params: Tensor) -> Tensor:
        """The log-probability of each row, checked."""
        found = self.log_prob(*parts, **params)
        if isinstance(found, Distribution):
            found = found.log_prob(parts[-1])
        if not isinstance(found, Tensor):
            raise TypeError(
                f"expected log-probabilities or a distribution from {self.name}, got {_what(found)}"
            )
        if found.shape != (len(parts[0]),):
            shape = tuple(found.shape)
            raise ValueError(
                f"expected {len(parts[0])} log-probabilities from {self.name}, got shape {shape}"
            )
        return found


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
    """The rows of a likelihood that may be one of several, and then knows some of the parameters
    only.
    """

    term: Likelihood

    def __call__(self, *parts: Tensor, **params: Tensor) -> Tensor:
        """Return the log-probabilities (n).

        A distribution does not check its arguments: where a step of a search leads outside of their
        range, it is to give NaN or -inf, from which the search steps back, and not to raise.
        """
        with unvalidated():
            return self.term.rows(*parts, **{name: params[name] for name in self.term.parameters})

    def distribution(self, parts: tuple[Tensor, ...], params: Params) -> Distribution | None:
        """The distribution of the last part, if the likelihood is given by one."""
        found = self.term.log_prob(*parts, **{name: params[name] for name in self.term.parameters})
        return found if isinstance(found, Distribution) else None


@dataclass(frozen=True)
class JointLikelihood:
    """The sum of likelihoods of several data sets; parameters of one name are the same in all."""

    terms: tuple[Likelihood, ...]

    def __post_init__(self) -> None:
        """Check that the terms agree on the parameters that they share."""
        seen: dict[str, Parameter] = {}
        for term in self.terms:
            for name, parameter in term.parameters.items():
                if name in seen and (str(seen[name].constraint), seen[name].shape) != (
                    str(parameter.constraint),
                    parameter.shape,
                ):
                    raise ValueError(
                        f"expected the same constraint and shape of {name} in every likelihood"
                    )
                seen[name] = parameter

    def __add__(self, other: Any) -> JointLikelihood:
        """One more data set."""
        return JointLikelihood(self.terms + _terms(other))

    @property
    def name(self) -> str:
        """The terms' names."""
        return " + ".join(term.name for term in self.terms)

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters of all terms."""
        return {
            name: parameter for term in self.terms for name, parameter in term.parameters.items()
        }


def of_module(module: torch.nn.Module) -> tuple[Likelihood, Params]:
    """The likelihood of a module that maps the data to a distribution of their last part, and its
    present values.
    """
    if not list(module.parameters()):
        raise ValueError(f"expected a module with parameters, got {type(module).__name__} without")
    parameters = {
        _dotless(n): Parameter(shape=tuple(p.shape)) for n, p in module.named_parameters()
    }
    names = {_dotless(n): n for n, _ in module.named_parameters()}
    module = copy.deepcopy(module).double()

    def log_prob(*parts: Tensor, **params: Tensor) -> Any:
        given = {names[name]: value for name, value in params.items()}
        return torch.func.functional_call(module, given, parts[:-1] if len(parts) > 1 else parts)

    start = {_dotless(n): p.detach().double().clone() for n, p in module.named_parameters()}
    return Likelihood(log_prob, parameters, type(module).__name__), start


def _dotless(name: str) -> str:
    return name.replace(".", "_")


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
    if isinstance(likelihood, JointLikelihood):
        return likelihood.terms
    if isinstance(likelihood, Likelihood):
        return (likelihood,)
    raise TypeError(f"expected a Likelihood, got {_what(likelihood)}")


def _what(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
