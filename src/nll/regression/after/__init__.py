"""What follows from a fitted regression."""
