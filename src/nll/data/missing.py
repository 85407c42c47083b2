"""The error for missing values that nobody asked to drop."""

from __future__ import annotations


class MissingValuesError(ValueError):
    """Values are missing: `count` says how many and where."""

    def __init__(self, count: str) -> None:
        super().__init__(count)
        self.count = count

    def __str__(self) -> str:
        return self.with_remedy("missing='drop'")

    def with_remedy(self, option: str) -> str:
        """Return the message with the option that drops the rows, as the caller spells it."""
        return f"expected no missing values, got {self.count}; {option} leaves them out"
