"""The row loops of the losses: one module per backend, the same names and signatures in each."""
