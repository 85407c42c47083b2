"""What is known of a regression whose classes are separated: there is no maximum, and yet some of
it has a limit.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from nll.estimation.inference import wald


class Contrast(NamedTuple):
    """How one class differs from another in the limit; NaN where that has no limit."""

    of: str
    against: str
    estimate: Tensor  # (p)
    standard_errors: Tensor  # (p)

    @property
    def z(self) -> Tensor:
        """The estimates in units of their errors."""
        return self.estimate / self.standard_errors

    @property
    def p_values(self) -> Tensor:
        """Of the Wald tests that a coefficient is 0."""
        return wald.p_value(self.z)

    def interval(self, level: float = 0.95) -> Tensor:
        """(p, 2): Wald's."""
        return wald.wald(self.estimate, self.standard_errors, level)


class Separation(NamedTuple):
    """The likelihood rises for ever along a direction of the coefficients, towards its supremum."""

    classes: tuple[str, ...]  # (K)
    columns: tuple[str, ...]  # (p)
    direction: Tensor  # (K, p): what the coefficients move by; 0 for the baseline
    # pairs of classes of which no row is between both in the limit
    separated: tuple[tuple[str, str], ...]
    partly: tuple[tuple[str, str], ...]  # pairs of which some rows are
    supremum: float  # of the log-likelihood
    contrasts: tuple[Contrast, ...]  # those that have limits

    def sentence(self) -> str:
        """What is separated, along which columns, and what is still finite."""
        text = [f"{_pairs(self.separated)} separated"] if self.separated else []
        text += [f"{_pairs(self.partly)} separated in some of the rows"] if self.partly else []
        moved = self.direction.abs().amax(0).tolist()
        along = [
            name
            for name, size in zip(self.columns, moved, strict=True)
            if size > 0 and name != "Intercept"
        ]
        finite = ", ".join(
            f"{contrast.of} against {contrast.against}" for contrast in self.contrasts
        )
        return (
            f"no finite estimate: {' and '.join(text)}, along {', '.join(along)}; the "
            f"log-likelihood rises towards "
            f"{self.supremum:.12g}; finite: {finite or 'no contrast of two classes'}"
        )


def _pairs(pairs: tuple[tuple[str, str], ...]) -> str:
    """Class a and each of b, c and d are; or single pairs where no class is in all of them."""
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        if all(name in pair for pair in pairs):
            *others, last = [b if a == name else a for a, b in pairs]
            whom = f"{', '.join(others)} and {last}" if others else last
            return f"class {name} and {'each of ' if others else 'class '}{whom} are"
    return "classes " + ", ".join(f"{a} and {b}" for a, b in pairs) + " are"
