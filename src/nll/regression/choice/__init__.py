"""Conditional logit."""
