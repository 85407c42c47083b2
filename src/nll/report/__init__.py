"""Render a result as text, HTML or a figure: pure functions of a `Fit`."""

from nll.report.figures import figure
from nll.report.notebook import fragment
from nll.report.text import summary

__all__ = ["figure", "fragment", "summary"]
