"""Sub-networks that cost no search: the papers' heuristics (SQFT, arXiv 2410.03750, appendix)."""

from __future__ import annotations

import numpy as np

from nas_engine.training.visits import Visits
from search_spaces import Configuration, SearchSpace


def median(space: SearchSpace) -> Configuration:
    """Every gene at its middle value, the larger of two."""
    return space.configuration(space.median)


def most_active(visits: Visits) -> Configuration:
    """Every gene at the value that was active most often in training; the larger one of a tie."""
    space = visits.space
    counts = [np.bincount(visits.genomes[:, i], minlength=len(gene)) for i, gene in enumerate(space.genes)]
    return space.configuration([len(count) - 1 - int(count[::-1].argmax()) for count in counts])


def lowest_loss(visits: Visits, count: int = 5) -> list[Configuration]:
    """The `count` visited configurations of the lowest mean loss in training, the lowest first.

    Raises:
        ValueError: `count` below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}; it must be at least 1.")
    genomes, where = np.unique(visits.genomes, axis=0, return_inverse=True)
    means = np.bincount(where.ravel(), weights=visits.losses) / np.bincount(where.ravel())
    return [visits.space.configuration(genomes[i]) for i in np.argsort(means, kind="stable")[:count]]
