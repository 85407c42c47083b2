"""Losses of an output layer, whose logits are never in memory all at once."""
