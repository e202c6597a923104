"""A forward pass as matrix products, for cost models."""
