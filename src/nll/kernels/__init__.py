"""Row kernels of the losses; `types` has the signature that every backend implements."""
