"""From data and a model to a fit."""
