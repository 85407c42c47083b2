"""Triton kernels for accelerators, one file per loss; `backend.py` calls them on tensors."""
