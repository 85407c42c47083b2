"""The search for the maximum of a softmax regression: where it starts, and by which steps.

Newton's method ends it: up to `MANY_PARAMETERS` with the information itself, above by conjugate
gradients. Most of the way is gone by values and gradients alone, which cost a small part of the
information, in coordinates in which that is near 1. Few parameters and many rows: those of the
information of some rows at their own maximum, where the way starts. Many parameters: those of the
null model, whose information is n S (x) G, with S = diag(s) - s s' of the shares s of the classes
and the columns' Gram matrix G.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from nll.estimation.inference import covariance as cov
from nll.estimation.objective import MANY_PARAMETERS, MOST_INFORMATION
from nll.kernels import memory
from nll.solvers.lbfgs import climb
from nll.solvers.newton_cg import Product, Value, maximise_by_products
from nll.solvers.outcome import Optimum, Progress, Sums, stopped
from nll.solvers.trust_region import TOLERANCE, maximise

if TYPE_CHECKING:
    from nll.regression.softmax.objective import SoftmaxLikelihood

_ROWS_EACH, _FEWEST = 40, 1 << 13  # rows that are searched first, for each parameter and in all
_CLOSE = 1e-2  # the decrement from which products are worth their price
_ROUGH = 1e-6  # the decrement, for each of its parameters, at which a first search ends
_NO_GAIN = 1e-18  # a gain that is rounding
# operations of an information that is formed at every step, and once more at the very maximum
_CHEAP = 1 << 28


class Searched(NamedTuple):
    """The optimum; without the information a bound on its inverse, from the curvatures met."""

    optimum: Optimum
    # of the information: NaN throughout where it has none, None where it was not formed
    inverse: Tensor | None
    longest: float | None = None  # no eigenvalue of a class's block of the inverse is larger
    solver: str | None = None  # a sentence


def search(
    objective: SoftmaxLikelihood, progress: Progress | None = None, informed: bool = True
) -> Searched:
    """Search for the maximum. Without `informed` the information is not formed where the steps do
    not need it.
    """
    if objective.size > MANY_PARAMETERS and objective.exact_information:
        return _by_products(objective, progress, informed and objective.size <= MOST_INFORMATION)
    if objective.length * objective.size**2 < _CHEAP or not objective.exact_information:
        why = "Newton steps, each with the information (few coefficients and rows)"
        optimum = maximise(objective.sums, objective.start(), progress, objective.unit)
        if not objective.exact_information:
            why = "Newton steps, then gradients (the steps learn the penalty's curvature)"
            optimum = _polished(objective, optimum)
        return Searched(optimum, cov.inverse(optimum.sums.information), solver=why)
    start = _near(objective, progress)
    optimum = maximise(objective.sums, start, progress, objective.unit, TOLERANCE)
    why = "gradients from a start on some of the rows, then one information (many rows)"
    why = why if optimum.steps == 0 else "Newton steps, each with the information"
    return _ended(optimum)._replace(solver=why)


def _polished(objective: SoftmaxLikelihood, optimum: Optimum) -> Optimum:
    """Climb to the last digits, in coordinates of an information that is near the curvature."""
    if not optimum.reached:
        return optimum
    to = Coordinates.whitening(optimum.sums.information)
    theta = to.theta(climb(to.value(objective), to.phi(optimum.theta), _NO_GAIN, objective.unit))
    return optimum._replace(theta=theta, sums=objective.sums(theta))


def _near(objective: SoftmaxLikelihood, progress: Progress | None) -> Tensor:
    """Return a point near the maximum, found with few of the rows and with gradients; or where a
    search from nothing starts.
    """
    start = objective.start()
    thin = objective.thinned(max(_FEWEST, _ROWS_EACH * objective.size))
    if thin is None or not bool((thin.counts > 0).all()):
        return start
    optimum = maximise(thin.sums, _near(thin, None), None, thin.unit, _ROUGH * objective.size)
    inverse = cov.inverse(optimum.sums.information)
    if not (optimum.reached and thin.certified(optimum, inverse, None)):
        return start
    to = Coordinates.whitening(optimum.sums.information * (objective.length / thin.length))
    value, unit = to.value(objective), objective.unit
    return to.theta(climb(value, to.phi(optimum.theta), TOLERANCE, unit, progress))


def _by_products(
    objective: SoftmaxLikelihood, progress: Progress | None, informed: bool
) -> Searched:
    to, unit = Coordinates.of_null_model(objective), objective.unit
    value = to.value(objective)
    phi = climb(value, to.phi(objective.start()), _CLOSE, unit, progress)

    def curvature(phi: Tensor) -> Product:
        times = objective.curvature(to.theta(phi))
        return lambda vector: to.gradient(times(to.theta(vector)))

    ones = torch.ones(objective.size, dtype=torch.float64)
    end = maximise_by_products(value, curvature, phi, unit, progress, ones, TOLERANCE)
    memory.release()  # the products' probabilities
    theta = to.theta(end.theta)
    status = "converged" if end.reached else stopped(end.decrement, end.shrunk)
    last = "formed once at the end" if informed else "never formed"
    why = f"Newton steps by products with the information, {last} (many coefficients)"
    sums = (
        objective.sums(theta) if informed else Sums(*objective.value(theta), _unknown(len(theta)))
    )
    optimum = Optimum(theta, sums, end.decrement, end.steps, end.reached, status)
    if informed:
        return _ended(optimum)._replace(solver=why)
    return Searched(optimum, None, _longest(objective, end.weakest), why)


def _longest(objective: SoftmaxLikelihood, weakest: float) -> float:
    """Bound the inverse information's eigenvalues: those of the null model are at most (1 / s_k + 1
    / s_0) G^-1 / n.
    """
    shares = _shares(objective)
    widest = float(1 / shares[0] + (1 / shares[1:]).amax())
    flattest = float(torch.linalg.eigvalsh(_gram(objective))[0])
    n = float(objective.counts.sum())
    return widest / (n * flattest * weakest) if weakest > 0 else float("inf")


def _shares(objective: SoftmaxLikelihood) -> Tensor:
    return (objective.counts + 1) / (objective.counts + 1).sum()


def _gram(objective: SoftmaxLikelihood) -> Tensor:
    return objective.columns.gram + 1e-10 * torch.eye(objective.columns.count, dtype=torch.float64)


def _ended(optimum: Optimum) -> Searched:
    """Invert the information in its memory; from within the tolerance take one more step, to
    rounding error.
    """
    inverse = cov.inverse(optimum.sums.information, overwrite=True)
    sums = optimum.sums._replace(information=_unknown(len(optimum.theta)))
    step = inverse @ sums.score
    if optimum.reached and bool(step.isfinite().all()):
        optimum = optimum._replace(theta=optimum.theta + step)
    return Searched(optimum._replace(sums=sums), inverse)


def _unknown(size: int) -> Tensor:
    return torch.full((1, 1), torch.nan, dtype=torch.float64).expand(size, size)


class Coordinates(NamedTuple):
    """Coordinates phi = B' theta A of parameters theta (m, p), for an information (B B') (x) (A A')
    that is 1 in them.
    """

    between: Tensor  # (m, m), B lower triangular
    along: Tensor  # (p, p), A lower triangular

    @classmethod
    def whitening(cls, information: Tensor) -> Coordinates:
        one = torch.ones(1, 1, dtype=torch.float64)
        return cls(torch.linalg.cholesky(information), one)

    @classmethod
    def of_null_model(cls, objective: SoftmaxLikelihood) -> Coordinates:
        s = _shares(objective)[1:]
        between = torch.linalg.cholesky(torch.diag(s) - torch.outer(s, s))
        root = float(objective.counts.sum()) ** 0.5
        return cls(root * between, torch.linalg.cholesky(_gram(objective)))

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.between), len(self.along)

    def theta(self, phi: Tensor) -> Tensor:
        half = torch.linalg.solve_triangular(self.between.T, phi.reshape(self.shape), upper=True)
        return torch.linalg.solve_triangular(self.along, half, upper=False, left=False).reshape(-1)

    def phi(self, theta: Tensor) -> Tensor:
        return (self.between.T @ theta.reshape(self.shape) @ self.along).reshape(-1)

    def gradient(self, score: Tensor) -> Tensor:
        """Return the derivative with respect to phi, from that with respect to theta."""
        half = torch.linalg.solve_triangular(self.between, score.reshape(self.shape), upper=False)
        return torch.linalg.solve_triangular(self.along.T, half, upper=True, left=False).reshape(-1)

    def value(self, objective: SoftmaxLikelihood) -> Value:

        def value(phi: Tensor) -> tuple[Tensor, Tensor]:
            log_likelihood, score = objective.value(self.theta(phi))
            return log_likelihood, self.gradient(score)

        return value
