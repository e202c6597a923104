"""Accuracy on questions with options: likelihoods, shared work, verdicts before all is asked."""
