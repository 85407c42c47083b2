"""The search for a maximum, the proof that one was reached, and the verdict."""
