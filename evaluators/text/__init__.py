"""Texts as tokens, what a model writes and how well it reads: exact match, perplexity, the harness."""
