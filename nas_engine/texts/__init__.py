"""Texts as a model reads them: what it learns from, and what it is calibrated with."""
