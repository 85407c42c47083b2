"""Maximise a function."""
