"""Formulas: from a table to a design matrix."""
