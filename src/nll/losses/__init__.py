"""Losses for training: from tensors to a differentiable number."""
