"""Maximum likelihood worked with symbols, step by step."""

from nll.derivation.steps import Derivation, derive

__all__ = ["Derivation", "derive"]
