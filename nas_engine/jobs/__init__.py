"""Whole jobs: from a model and a task to a compressed model."""
