"""Latency by a clock: in this process and where models are deployed."""
