"""The first genomes of every driver: the space's corners and middle, then random ones."""

from __future__ import annotations

import numpy as np

from search_spaces import Genome, SearchSpace

_DRAWS_PER_GENOME = 100  # tries at a genome not yet drawn, before a small space counts as exhausted


def first_generation(space: SearchSpace, count: int, rng: np.random.Generator) -> Genome:
    """`count` different genomes, shape (count, genes): largest, smallest, median, then random ones.

    Fewer where the space holds fewer.
    """
    anchors = np.vstack([space.largest, space.smallest, space.median])
    chosen = {genome.tobytes(): genome for genome in anchors}
    wanted = min(max(count, len(chosen)), space.size())
    for _ in range(wanted * _DRAWS_PER_GENOME):
        if len(chosen) >= wanted:
            break
        genome = space.sample(rng)[0]
        chosen.setdefault(genome.tobytes(), genome)
    return np.vstack(list(chosen.values()))
