"""The search for the maximum of a softmax regression: where it starts, and by which steps.

Newton's method ends it: up to `MANY_PARAMETERS` with the information itself, above by conjugate
gradients. Most of the way is gone by values and slopes alone, which cost a small part of the
information, in coordinates in which that is
near 1. Few parameters and many rows: those of the information of some rows at their own maximum,
    where the way starts.
Many parameters: those of the null model, whose information is n S (x) G, with S = diag(s) - s s' of
the shares s of the classes and the columns' Gram matrix G.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nll.estimation.inference import covariance as cov
from nll.estimation.objective import MANY_PARAMETERS, MOST_INFORMATION
from nll.regression import existence
from nll.solvers.lbfgs import climb
from nll.solvers.newton_cg import maximise_by_products
from nll.solvers.outcome import Optimum, Progress, Sums, stopped
from nll.solvers.trust_region import TOLERANCE, maximise

if TYPE_CHECKING:
    from nll.regression.softmax.objective import SoftmaxLikelihood

_ROWS_EACH, _FEWEST = 40, 1 << 13  # rows that are searched first, for each parameter and in all
_CLOSE = 1e-2  # the decrement from which products are worth their price
_ROUGH = 1e-6  # the decrement, for each of its parameters, at which a first search ends


# operations of an information that is formed at every step, and once more at the very maximum
_CHEAP = 1 << 28


class Searched(NamedTuple):
    """Where the search ended; without the information a bound on its inverse, from the curvatures
    that were met.
    """

    optimum: Optimum
    # of the information: NaN throughout where it has none, None where it was not formed
    inverse: Tensor | None
    longest: float | None = None  # no eigenvalue of a class's part of the inverse is larger
    solver: str | None = None  # a sentence


def search(
    problem: SoftmaxLikelihood, progress: Progress | None = None, informed: bool = True
) -> Searched:
    """Search for the maximum. Without `informed` the information is not formed where the steps do
    not need it.
    """
    if problem.size > MANY_PARAMETERS:
        informed = informed and problem.size <= MOST_INFORMATION
        last = "formed once at the end" if informed else "never formed"
        why = f"Newton steps by products with the information, {last} (many coefficients)"
        return _by_products(problem, progress, informed)._replace(solver=why)
    if problem.length * problem.size**2 < _CHEAP:
        why = "Newton steps, each with the information (few coefficients and rows)"
        found = maximise(problem.sums, problem.start(), progress, problem.unit)
        return Searched(found, cov.inverse(found.sums.information), solver=why)
    found = maximise(problem.sums, _near(problem, progress), progress, problem.unit, TOLERANCE)
    why = "slopes from a start on some of the rows, then one information (many rows)"
    why = why if found.steps == 0 else "Newton steps, each with the information"
    return _ended(found)._replace(solver=why)


def _near(problem: SoftmaxLikelihood, progress: Progress | None) -> Tensor:
    """A place near the maximum, found with few of the rows and with slopes; or where a search from
    nothing starts.
    """
    start = problem.start()
    thin = problem.thinned(max(_FEWEST, _ROWS_EACH * problem.size))
    if thin is None or not bool((thin.counts > 0).all()):
        return start
    found = maximise(thin.sums, _near(thin, None), None, thin.unit, _ROUGH * problem.size)
    inverse = cov.inverse(found.sums.information)
    if not (
        found.reached
        and existence.certified(found.decrement, inverse, thin.columns, problem.classes - 1)
    ):
        return start
    own = Informed(found.sums.information * (problem.length / thin.length))
    return own.theta(
        climb(own.value(problem), own.phi(found.theta), TOLERANCE, problem.unit, progress)
    )


def _by_products(problem: SoftmaxLikelihood, progress: Progress | None, informed: bool) -> Searched:
    own = Null(problem)
    phi = climb(own.value(problem), own.phi(problem.start()), _CLOSE, problem.unit, progress)

    def curvature(phi: Tensor) -> Callable[[Tensor], Tensor]:
        times = problem.curvature(own.theta(phi))
        return lambda vector: own.slope(times(own.theta(vector)))

    ones = torch.ones(problem.size, dtype=torch.float64)
    found = maximise_by_products(
        own.value(problem), curvature, phi, problem.unit, progress, ones, TOLERANCE
    )
    problem.forget()
    theta = own.theta(found.theta)
    status = "converged" if found.reached else stopped(found.decrement, found.shrunk)
    if informed:
        there = Optimum(
            theta, problem.sums(theta), found.decrement, found.steps, found.reached, status
        )
        return _ended(there)
    sums = Sums(*problem.value(theta), _unknown(problem.size))
    there = Optimum(theta, sums, found.decrement, found.steps, found.reached, status)
    return Searched(there, None, own.longest(found.weakest))


def _ended(found: Optimum) -> Searched:
    """With the inverse, in the information's memory; from within the tolerance one more step, to
    rounding error.
    """
    inverse = cov.inverse(found.sums.information, overwrite=True)
    sums = found.sums._replace(information=_unknown(len(found.theta)))
    step = inverse @ sums.score
    theta = found.theta + step if found.reached and bool(step.isfinite().all()) else found.theta
    return Searched(found._replace(theta=theta, sums=sums), inverse)


def _unknown(size: int) -> Tensor:
    return torch.full((1, 1), torch.nan, dtype=torch.float64).expand(size, size)


class Coordinates:
    """Coordinates phi of the parameters theta."""

    def theta(self, phi: Tensor) -> Tensor:
        """The parameters."""
        raise NotImplementedError

    def phi(self, theta: Tensor) -> Tensor:
        """The coordinates."""
        raise NotImplementedError

    def slope(self, score: Tensor) -> Tensor:
        """The derivative by the coordinates, from that by the parameters."""
        raise NotImplementedError

    def value(self, problem: SoftmaxLikelihood) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """The log-likelihood and its slope, by the coordinates."""

        def found(phi: Tensor) -> tuple[Tensor, Tensor]:
            value, score = problem.value(self.theta(phi))
            return value, self.slope(score)

        return found


class Informed(Coordinates):
    """theta = L'^-1 phi, with a positive definite information L L'."""

    def __init__(self, information: Tensor) -> None:
        self.factor = torch.linalg.cholesky(information)

    def theta(self, phi: Tensor) -> Tensor:
        """The parameters."""
        return torch.linalg.solve_triangular(self.factor.T, phi[:, None], upper=True)[:, 0]

    def phi(self, theta: Tensor) -> Tensor:
        """The coordinates."""
        return self.factor.T @ theta

    def slope(self, score: Tensor) -> Tensor:
        """The derivative by the coordinates."""
        return torch.linalg.solve_triangular(self.factor, score[:, None], upper=False)[:, 0]


class Null(Coordinates):
    """theta = M^-1 phi R^-T / sqrt(n), with S = M'M and G = R'R: the null model's information by
    phi is 1.
    """

    def __init__(self, problem: SoftmaxLikelihood) -> None:
        shares = (problem.counts + 1) / (problem.counts + 1).sum()
        between = torch.linalg.cholesky(
            torch.diag(shares[1:]) - torch.outer(shares[1:], shares[1:])
        )
        gram = problem.columns.gram + 1e-10 * torch.eye(problem.columns.count, dtype=torch.float64)
        self.between, self.along = between, torch.linalg.cholesky(gram)  # M', R'
        self.widest = float(1 / shares[0] + (1 / shares[1:]).amax())
        self.shape, self.root = (
            (problem.classes - 1, problem.columns.count),
            float(problem.counts.sum()) ** 0.5,
        )

    def theta(self, phi: Tensor) -> Tensor:
        """Coefficients."""
        left = torch.linalg.solve_triangular(
            self.between.T, phi.reshape(self.shape) / self.root, upper=True
        )
        return torch.linalg.solve_triangular(self.along, left, upper=False, left=False).reshape(-1)

    def phi(self, theta: Tensor) -> Tensor:
        """The coordinates of coefficients."""
        return (self.root * self.between.T @ theta.reshape(self.shape) @ self.along).reshape(-1)

    def longest(self, weakest: float) -> float:
        """A bound on the inverse information's eigenvalues: that of the null model's, (1 / s_k + 1
        / s_0) G^-1 / n.
        """
        flattest = float(torch.linalg.eigvalsh(self.along @ self.along.T)[0])
        return self.widest / (self.root**2 * flattest * weakest) if weakest > 0 else float("inf")

    def slope(self, score: Tensor) -> Tensor:
        """The derivative by the coordinates."""
        left = torch.linalg.solve_triangular(
            self.between, score.reshape(self.shape) / self.root, upper=False
        )
        return torch.linalg.solve_triangular(self.along.T, left, upper=True, left=False).reshape(-1)
