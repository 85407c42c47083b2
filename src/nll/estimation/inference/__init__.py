"""What follows from a fit: covariances, intervals, tests."""
