"""Latency predicted from a table of blocks."""
