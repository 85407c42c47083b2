"""Choose between models."""
