"""Networks: tensors to tensors. They know nothing of diffusion."""
