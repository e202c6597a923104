"""Genomes that need no knowledge: those that every driver begins with, and new ones at random."""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from search_spaces import Genome, SearchSpace

_DRAWS_PER_GENOME = 100  # tries at a genome not yet drawn, before the space counts as exhausted
_LISTED = 4096  # spaces up to this size are listed instead of drawn from


def anchors(space: SearchSpace) -> Genome:
    """Largest, smallest and median, each once, shape (2 or 3, genes)."""
    return distinct(np.vstack([space.largest, space.smallest, space.median]))


def first_generation(space: SearchSpace, count: int, rng: np.random.Generator) -> Genome:
    """`count` different genomes, shape (count, genes): largest, smallest, median, then random ones.

    Fewer where the space holds fewer.
    """
    first = anchors(space)
    seen = {genome.tobytes() for genome in first}
    return np.vstack([first, unseen(space, seen, max(count - len(first), 0), rng)])


def unseen(space: SearchSpace, seen: Container[bytes], count: int, rng: np.random.Generator) -> Genome:
    """Up to `count` different random genomes whose bytes are not among `seen`, shape (found, genes).

    Of a small space all that are left are found; of a large one as many as repeated draws give.
    """
    found: dict[bytes, Genome] = {}
    if space.size() <= _LISTED:
        everything = np.stack(np.unravel_index(np.arange(space.size()), tuple(space.cardinalities)), axis=1)
        drawn = rng.permutation(everything.astype(np.int64))
    else:
        drawn = np.empty((0, len(space)), dtype=np.int64)
    for i in range(max(len(drawn), count * _DRAWS_PER_GENOME)):
        if len(found) == count or (len(drawn) and i == len(drawn)):
            break
        genome = drawn[i] if len(drawn) else space.sample(rng)[0]
        if genome.tobytes() not in seen:
            found.setdefault(genome.tobytes(), genome)
    return np.array(list(found.values()), dtype=np.int64).reshape(-1, len(space))


def distinct(genomes: Genome) -> Genome:
    """`genomes` without repeats, in their order."""
    return np.array(list({g.tobytes(): g for g in genomes}.values()), dtype=np.int64).reshape(-1, genomes.shape[1])
