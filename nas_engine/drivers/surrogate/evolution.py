"""The inner search: an evolutionary search on predictions, thousands of which cost less than one evaluation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nas_engine.drivers.driver import Objectives, Violations
from nas_engine.drivers.initial import distinct
from nas_engine.drivers.operators import layer_masks, ordered_mutation
from nas_engine.drivers.ranking import best
from search_spaces import Genome

Predict = Callable[[Genome], tuple[Objectives, Violations]]


def evolve(
    predict: Predict,
    start: Genome,
    top: Genome,
    layers: Genome,
    size: int,
    generations: int,
    rng: np.random.Generator,
) -> Genome:
    """The genomes that a search on `predict` ends with, the best first, shape (size or fewer, genes).

    NSGA-II's survival (Deb et al., 2002), feasible genomes first, with mutation in the genes' order and, half the time
    each, uniform crossover and a cut between layers.

    Args:
        predict: from genomes to objectives, to be minimized, and violations.
        start: the first genomes, all different, shape (count, genes).
        top: the largest index of each gene.
        layers: of each gene.
        size: genomes that survive a generation.
        generations: how many.
        rng: of all draws.
    """
    genomes, (objectives, violations) = start, predict(start)
    seen = {genome.tobytes() for genome in start}
    for _ in range(generations):
        kept = best(objectives, violations, size)
        genomes, objectives, violations = genomes[kept], objectives[kept], violations[kept]
        children = ordered_mutation(_crossed(genomes, size, layers, rng), top, rng)
        children = distinct(children)
        children = children[[child.tobytes() not in seen for child in children]]
        if not len(children):
            continue
        seen |= {child.tobytes() for child in children}
        values, missed = predict(children)
        genomes = np.vstack([genomes, children])
        objectives, violations = np.vstack([objectives, values]), np.vstack([violations, missed])
    return genomes[best(objectives, violations, size)]


def _crossed(genomes: Genome, count: int, layers: Genome, rng: np.random.Generator) -> Genome:
    """`count` children of random parents, the better of two each, since genomes come sorted by rank."""
    parents = rng.integers(0, len(genomes), (2, 2, count)).min(axis=0)  # (2, count)
    first, second = genomes[parents[0]], genomes[parents[1]]
    uniform = rng.random(first.shape) < 0.5
    cut = layer_masks(layers, count, rng)
    from_first = np.where(rng.random((count, 1)) < 0.5, uniform, cut)
    children: Genome = np.where(from_first, first, second)
    return children
