"""What the caller of `fit` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nll.solvers.outcome import Progress

COVARIANCES = ("observed", "expected", "opg", "sandwich")


@dataclass(frozen=True)
class FitOptions:
    """Options on the parameters, their covariance and the search."""

    start: Mapping[str, Any]
    fixed: Mapping[str, Any]
    bounds: Mapping[str, Any]
    covariance: str = "observed"
    clusters: Any = None
    seed: int = 0
    progress: Progress | None = None

    def __post_init__(self) -> None:
        for name in ("start", "fixed", "bounds"):
            value = getattr(self, name)
            if not isinstance(value, Mapping):
                raise TypeError(
                    f"expected {name} as a dict of name -> value, got {type(value).__name__}"
                )
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"expected seed to be an integer, got {self.seed!r}")
        if self.covariance not in COVARIANCES:
            raise ValueError(
                f"expected covariance to be one of {', '.join(COVARIANCES)}, got "
                f"{self.covariance!r}"
            )

    @property
    def free(self) -> bool:
        """Whether the parameters are free, and the search starts where it likes."""
        return not (self.start or self.fixed or self.bounds)

    @property
    def plain(self) -> bool:
        """Whether a closed form provides everything asked for."""
        return self.free and self.covariance == "observed" and self.clusters is None

    def require_parameters(self, names: Any) -> None:
        """Raise ValueError for a start of a parameter that the model lacks."""
        for name in self.start:
            if name not in names:
                raise ValueError(f"expected one of {', '.join(names)} in start, got {name!r}")
