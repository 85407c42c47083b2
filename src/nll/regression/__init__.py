"""Regressions: a likelihood whose parameters are linear in the columns of a table."""
