"""Maximum likelihood in symbols, step by step."""

from nll.derivation.derive import Derivation, derive

__all__ = ["Derivation", "derive"]
