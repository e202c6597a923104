"""The genomes that a surrogate learns from before it can say anything."""

from __future__ import annotations

import numpy as np

from nas_engine.drivers.initial import anchors, distinct, unseen
from search_spaces import Genome, SearchSpace

_DIAGONAL = 0.7  # share of the design on the diagonal
_ALONE = 0.5  # most of a warm start that dimensions alone may take
_SPREAD = 0.9  # how far a gene's level strays from its genome's, as a fraction of the way that there is


def uniform_levels(space: SearchSpace, levels: int) -> Genome:
    """Sub-networks whose genes all have about the same relative level, from smallest to largest, shape (levels, genes).

    A level between two values of a gene is met on average: the genes that round up are spread evenly over the genome.
    """
    shares = np.linspace(0, 1, levels)[:, None] * space.largest  # (levels, genes)
    # Gene i of n rounds up where its part beyond the whole exceeds a threshold; the golden ratio spreads thresholds.
    thresholds = (0.5 + 0.6180339887498949 * np.arange(len(space))) % 1.0
    thresholds = np.clip(thresholds, 1e-9, 1 - 1e-9)
    genomes: Genome = np.floor(shares + 1 - thresholds).astype(np.int64)
    return np.clip(genomes, 0, space.largest)


def each_alone(space: SearchSpace, genomes: Genome) -> Genome:
    """`genomes` in one dimension, such as bits, and all others at their largest, for each dimension in turn.

    Shape (dimensions · genomes, genes); none in a space of a single dimension. Where a cost pays for one dimension
    above all, such as bytes for bits, the front's upper part is here.
    """
    dimensions = np.array([gene.dimension for gene in space.genes])
    names = list(dict.fromkeys(dimensions))
    if len(names) == 1:
        return np.empty((0, len(space)), dtype=np.int64)
    alone = [np.where(dimensions == name, genomes, space.largest) for name in names]
    return distinct(np.vstack(alone).astype(np.int64))


def warm_start(space: SearchSpace, count: int, rng: np.random.Generator) -> Genome:
    """`count` different genomes: largest, smallest, median, the diagonal, a design about it, and dimensions alone.

    Of several dimensions each is alone at its smallest, then halfway. The design is a Latin hypercube in each gene's
    order (McKay et al., 1979), tilted so that its genomes' mean levels go evenly from small to large; draws that are
    independent in each of a hundred genes would all have the same cost.
    """
    first = anchors(space)
    alone = np.vstack([each_alone(space, level[None]) for level in (space.smallest, space.largest // 2)])
    alone = alone[: int(_ALONE * count)]
    rest = count - len(alone)
    diagonal = uniform_levels(space, max(round(_DIAGONAL * rest) - len(first), 0) + 2)[1:-1]
    genomes = distinct(np.vstack([first, diagonal]))
    genomes = distinct(np.vstack([genomes, tilted(space, max(rest - len(genomes), 0), rng)]))[: max(rest, len(first))]
    genomes = distinct(np.vstack([genomes, alone]))[: max(count, len(first))]
    seen = {genome.tobytes() for genome in genomes}
    return np.vstack([genomes, unseen(space, seen, max(count - len(genomes), 0), rng)])


def tilted(space: SearchSpace, count: int, rng: np.random.Generator) -> Genome:
    """A Latin hypercube of `count` genomes about evenly spaced mean levels, shape (count, genes)."""
    if not count:
        return np.empty((0, len(space)), dtype=np.int64)
    from scipy.stats import qmc  # takes a second to import

    cube = qmc.LatinHypercube(len(space), rng=rng).random(count)  # (count, genes)
    centre = ((np.arange(count) + 0.5) / count)[:, None]
    reach = _SPREAD * np.minimum(centre, 1 - centre)
    levels = centre + reach * (2 * cube - 1)
    genomes: Genome = np.minimum(np.floor(levels * space.cardinalities), space.largest).astype(np.int64)
    return genomes
