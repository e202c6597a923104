"""A user's own function as an evaluator."""
