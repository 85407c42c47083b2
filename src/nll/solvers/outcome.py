"""How a maximisation ended, as a value that code reads."""

from __future__ import annotations

from enum import Enum


class Status(Enum):
    """How a fit ended."""

    CONVERGED = "converged"
    CLOSED_FORM = "closed form"
    BOUNDARY = "at the boundary"  # the maximum lies at the end of the parameter space
    NOT_REGULAR = "not regular"  # a maximum, but the usual standard errors do not apply
    NOT_IDENTIFIED = "not identified"  # a flat direction: the data do not identify some combination
    SEPARATED = "separated"  # no finite estimate: classes are separated along a direction
    UNBOUNDED = "no maximum"
    MAX_STEPS = "out of steps"
    NOT_FINITE = "not finite"

    @property
    def ok(self) -> bool:
        """Whether there is a maximum, and it was reached."""
        return self in _MAXIMA


_MAXIMA = frozenset({Status.CONVERGED, Status.CLOSED_FORM, Status.BOUNDARY, Status.NOT_REGULAR})
