"""What a user passes, as tensors."""
