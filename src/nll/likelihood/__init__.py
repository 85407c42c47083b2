"""Maximum likelihood estimates: hypotheses, families with a closed form, Newton's method, the result."""
